"""Pages in a real browser: live, by keyboard, in the dark, on a telephone, without scripts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from service.runs.retry import Cause
from service.runs.states import Signal, State
from tests.service.web.chromium import ACCESSIBLE, launch, opened
from tests.service.web.conftest import Site

RUNNING = "photos-20261125-0300"
LOOKED_AT = (
    "/runs",
    f"/runs/{RUNNING}",
    "/runs/lowtemp-20261124-1902",
    f"/runs/{RUNNING}/log",
    f"/runs/{RUNNING}/do/fork",
    "/sweeps",
    "/sweeps/photos-sweep-20261124-2200",
    "/datasets",
)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, team: Site) -> Iterator[Page]:
    """Of somebody who is logged in, and looks only."""
    with opened(browser, team.url, team.scene.token()) as page:
        yield page


@pytest.fixture
def run(site: Site) -> str:
    """A run that trains, and may be changed."""
    run_id = f"live-{next(_numbers)}"
    site.scene.submit(run_id, name=run_id)
    site.scene.start(run_id)
    site.scene.train(run_id, upto=0.2)
    return run_id


@pytest.fixture
def mine(browser: Browser, site: Site) -> Iterator[Page]:
    """Of somebody who is logged in where things change."""
    with opened(browser, site.url, site.scene.token()) as page:
        yield page


def look_again(page: Page) -> None:
    """What a page does when it comes to the front: it need not be waited for."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_log_in_filter_open_and_log_out(browser: Browser, team: Site) -> None:
    with opened(browser, team.url, None) as page:
        page.goto("/runs?project=default")
        page.get_by_label("Token").fill(team.scene.token())
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(re.compile(r"/runs\?project=default$"))
        page.get_by_role("searchbox", name="Name").fill("photos")
        page.keyboard.press("Enter")
        expect(page.locator("[data-row]")).to_have_count(4)
        page.get_by_role("navigation", name="States").get_by_role("link", name="running").click()
        expect(page.locator("[data-row]")).to_have_count(1)
        page.get_by_role("link", name="photos", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("photos")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        page.goto(f"/runs/{RUNNING}")
        expect(page).to_have_url(re.compile("/login"))


def test_a_run_that_changes_is_shown_at_once(mine: Page, site: Site, run: str) -> None:
    mine.goto(f"/runs/{run}")
    head, events = mine.locator("[data-live=head]"), mine.locator(".events li")
    expect(head.locator(".state")).to_have_text("running")
    expect(events).to_have_count(4)
    site.scene.move(run, Signal.LOST, words="Its host is gone.", cause=Cause.NODE_LOST)
    expect(head.locator(".state")).to_have_text("recovering")
    expect(head).to_contain_text("Its host is gone.")
    expect(events.first).to_contain_text("Its host is gone.")
    expect(mine).to_have_title(re.compile("recovering"))
    site.scene.tell(run, {"phase": "training", "step": 10_000, "total_steps": 19_531, "epoch": 51.2, "epochs": 100})
    expect(mine.locator("[data-live=progress]")).to_contain_text("10,000 of 19,531")
    site.scene.move(run, Signal.BEGIN, Signal.RUNNING, Signal.SUCCEEDED)
    expect(head.locator(".state")).to_have_text("succeeded")
    expect(mine.locator("[data-live=encoder]")).to_contain_text("None was registered.")


def test_the_list_follows_and_what_was_ticked_stays_ticked(mine: Page, site: Site, run: str) -> None:
    other = f"{run}-other"
    site.scene.submit(other, name=other)
    mine.goto(f"/runs?name={run}")
    compare = mine.get_by_role("button", name=re.compile("Compare"))
    expect(compare).to_be_disabled()
    mine.get_by_label(f"Compare {run}", exact=True).check()
    mine.get_by_label(f"Compare {other}", exact=True).check()
    expect(compare).to_have_text("Compare 2")
    mine.locator(f"[data-row='{run}'] a").focus()
    site.scene.start(other)
    look_again(mine)
    expect(mine.locator(f"[data-row='{other}'] .state")).to_have_text("running")
    expect(mine.get_by_label(f"Compare {run}", exact=True)).to_be_checked()
    expect(compare).to_have_text("Compare 2")
    assert mine.evaluate("document.activeElement.getAttribute('href')") == f"/runs/{run}"


def test_stop_by_a_button_that_asks_first(mine: Page, site: Site, run: str) -> None:
    mine.goto(f"/runs/{run}")
    mine.get_by_role("link", name="Stop").click()
    dialog = mine.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Stop {run}?")
    dialog.get_by_role("link", name="Leave it").click()
    expect(dialog).to_be_hidden()
    assert site.scene.control.store.get(run).state is State.RUNNING
    mine.get_by_role("link", name="Stop").click()
    dialog.get_by_role("button", name="Stop").click()
    expect(mine.get_by_role("status")).to_contain_text("It was asked to stop")
    assert site.scene.control.store.get(run).state is State.STOPPING


def test_without_scripts_a_run_can_be_found_and_stopped(browser: Browser, site: Site, run: str) -> None:
    with opened(browser, site.url, site.scene.token(), script=False) as page:
        page.goto("/runs")
        page.get_by_role("searchbox", name="Name").fill(run)
        page.get_by_role("button", name="Filter").click()
        page.get_by_role("link", name=run, exact=True).click()
        expect(page.locator(".chart").first).to_be_visible()
        expect(page.locator(".needs-script").first).to_be_hidden()
        page.get_by_role("link", name="Stop").click()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("h1")).to_contain_text("stopping")


def test_the_keyboard_finds_opens_ticks_and_goes_everywhere(page: Page) -> None:
    page.goto("/runs")
    rows = page.locator("[data-row]")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(rows.nth(1).locator("a")).to_be_focused()
    page.keyboard.press("x")
    expect(rows.nth(1).locator("input")).to_be_checked()
    page.keyboard.press("k")
    expect(rows.nth(0).locator("a")).to_be_focused()
    name = rows.nth(0).locator("a").inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    page.wait_for_load_state()  # its script runs
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page).to_have_url(re.compile("/sweeps$"))
    page.wait_for_load_state()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Name")).to_be_focused()
    page.keyboard.type("jg?")
    expect(page.get_by_role("searchbox", name="Name")).to_have_value("jg?")


def test_dark_follows_the_system_until_somebody_chooses(browser: Browser, team: Site) -> None:
    def background(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with opened(browser, team.url, team.scene.token(), dark=True) as page:
        page.goto("/runs")
        dark = background(page)
        page.keyboard.press("t")
        light = background(page)
        page.goto("/sweeps")
        assert background(page) == light != dark
        page.get_by_role("button", name="Light or dark").click()
        assert background(page) == dark


@pytest.mark.parametrize(
    ("dark", "width"),
    [
        pytest.param(False, 1280, id="light, wide"),
        pytest.param(True, 360, id="dark, narrow"),
        pytest.param(True, 1280, id="dark, wide", marks=pytest.mark.slow),
        pytest.param(False, 360, id="light, narrow", marks=pytest.mark.slow),
    ],
)
def test_every_page_is_legible_and_labelled(browser: Browser, team: Site, dark: bool, width: int) -> None:
    with opened(browser, team.url, team.scene.token(), dark=dark, width=width) as page:
        found = {}
        for address in LOOKED_AT:
            page.goto(address)
            for details in page.locator("details.more").all():
                details.evaluate("element => (element.open = true)")
            found[address] = page.evaluate(ACCESSIBLE)
        page.context.clear_cookies()
        page.goto("/login")
        found["/login"] = page.evaluate(ACCESSIBLE)
    assert {address: each for address, each in found.items() if each} == {}


def test_times_are_relative_and_exact_in_the_readers_zone(page: Page) -> None:
    page.goto(f"/runs/{RUNNING}")
    submitted = page.locator(".facts time").first
    expect(submitted).to_have_text("11 hr. ago")
    assert "GMT+9" in (submitted.get_attribute("title") or "")


def test_a_chart_tells_its_values_under_the_pointer(page: Page) -> None:
    page.goto(f"/runs/{RUNNING}")
    chart = page.locator(".chart").first
    chart.locator("> svg").hover(position={"x": 200, "y": 60})
    expect(chart.locator(".readout")).to_contain_text("at 1.")
    expect(chart.locator(".readout")).to_contain_text("contrast 5.")
    page.locator("h1").hover()
    expect(chart.locator(".readout")).to_have_count(0)


def test_a_log_is_followed_without_losing_or_doubling_a_line(mine: Page, site: Site, run: str) -> None:
    site.scene.log(run, [f"line {number}" for number in range(100)])
    mine.goto(f"/runs/{run}")
    mine.locator("details.log summary").click()
    text = mine.locator("details.log pre")
    expect(text).to_contain_text("line 99")
    site.scene.log(run, ["line 100 <i>", "line 101"], complete=True)
    expect(text).to_contain_text("line 101")
    lines = text.inner_text().splitlines()
    assert lines == [f"line {number}" + (" <i>" if number == 100 else "") for number in range(102)]


def test_markup_in_what_a_run_says_does_nothing(mine: Page, site: Site, run: str) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    site.scene.log(run, [evil])
    site.scene.tell(run, {"phase": evil, "health": evil, "step": 1, "total_steps": 9, "epoch": 0.1, "epochs": 1})
    mine.goto(f"/runs/{run}")
    mine.locator("details.log summary").click()
    expect(mine.locator("details.log pre")).to_contain_text("onerror")
    site.scene.move(run, Signal.LOST, words=evil, cause=Cause.UNKNOWN)
    expect(mine.locator("[data-live=head]")).to_contain_text("<script>alert(2)</script>")
    mine.goto(f"/runs?name={run}")
    expect(mine.locator("[data-row]")).to_contain_text("<img src=x")
    assert mine.locator("main img, main script").count() == 0


def test_a_page_says_that_it_is_not_up_to_date_while_the_service_is_away(
    browser: Browser, site: Site, run: str
) -> None:
    with opened(browser, site.url, site.scene.token(), unless="ERR_INTERNET_DISCONNECTED") as page:
        page.goto(f"/runs?name={run}")
        page.context.set_offline(True)
        look_again(page)
        expect(page.locator("body")).to_have_class("stale")
        page.context.set_offline(False)
        look_again(page)
        expect(page.locator("body")).not_to_have_class("stale")


def test_what_was_not_there_when_a_page_was_opened_comes_and_goes(mine: Page, site: Site) -> None:
    run = f"late-{next(_numbers)}"
    mine.goto(f"/runs?name={run}-*")
    expect(mine.locator("main")).to_contain_text("No run fits.")
    for name in (run, f"{run}-2"):
        site.scene.submit(name, name=name)
    look_again(mine)
    expect(mine.locator(f"[data-row='{run}-2']")).to_be_visible()
    expect(mine.locator("main")).not_to_contain_text("No run fits.")
    mine.goto(f"/runs/{run}")
    expect(mine.locator("details.log")).to_have_count(0)
    site.scene.start(run)
    site.scene.log(run, ["of the first"])
    mine.locator("details.log summary").click()
    expect(mine.locator("details.log pre")).to_contain_text("of the first")
    site.scene.move(run, Signal.LOST, words="Its host is gone.", cause=Cause.NODE_LOST)
    site.scene.start(run)
    site.scene.log(run, ["of the second"], attempt=2)
    expect(mine.locator("details.log h2")).to_contain_text("of attempt 2")
    expect(mine.locator("details.log pre")).to_have_text("of the second\n")  # still open, followed once


def test_a_page_that_nobody_sees_has_no_stream_and_begins_one_when_it_is_seen_again(
    mine: Page, site: Site, run: str
) -> None:
    mine.add_init_script(
        "const Real = EventSource; window.streams = [];"
        "window.EventSource = class extends Real { constructor(url) { super(url); window.streams.push(this); } };"
        "let hidden = false; Object.defineProperty(document, 'hidden', { get: () => hidden });"
        "window.hide = (now) => { hidden = now; document.dispatchEvent(new Event('visibilitychange')); };"
    )
    mine.goto(f"/runs/{run}")
    states = "window.streams.map((stream) => stream.readyState === 2)"
    mine.wait_for_function("window.streams.length === 1")
    mine.evaluate("hide(true)")
    assert mine.evaluate(states) == [True]
    site.scene.move(run, Signal.LOST, words="Its host is gone.", cause=Cause.NODE_LOST)
    mine.evaluate("hide(false)")
    expect(mine.locator("[data-live=head] .state")).to_have_text("recovering")
    assert mine.evaluate(states) == [True, False]


def test_a_log_leads_to_the_login_when_its_token_ends(browser: Browser, site: Site, run: str) -> None:
    site.scene.log(run, ["line"])
    secret = site.scene.token()
    with opened(browser, site.url, secret) as page:
        page.goto(f"/runs/{run}/log")
        expect(page.locator("pre")).to_contain_text("line")
        page.context.clear_cookies()
        expect(page).to_have_url(re.compile("/login"))
