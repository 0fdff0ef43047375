"""Pages as the server sends them, which is all that a browser without JavaScript has."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from jobs.run_folder import Progress, RunFolder
from jobs.storage import UnreachableError
from jobs.tracking.errors import TrackingError
from service.control.runs import StoredRuns
from service.runs.errors import StoreError, UnknownRunError
from service.runs.states import Signal
from service.web import comparing
from service.web.reading import Missing, Readers
from tests.service.web.conftest import Site

RUNNING = "photos-20261125-0300"
DONE = "photos-moco-20261124-0910"
FAILED = "lowtemp-20261124-1902"
SWEEP = "photos-sweep-20261124-2200"
PAGES = (
    "/runs",
    f"/runs/{RUNNING}",
    f"/runs/{RUNNING}/log",
    f"/runs/{DONE}",
    f"/runs/{RUNNING}/do/stop",
    "/sweeps",
    f"/sweeps/{SWEEP}",
    "/datasets",
)


@pytest.mark.parametrize("address", PAGES)
def test_pages_are_shown_to_who_is_logged_in_and_send_others_to_the_login(team: Site, address: str) -> None:
    with team.browser() as ann, team.browser(None) as stranger:
        shown = ann.get(address)
        sent = stranger.get(address)
    assert shown.status_code == 200
    assert shown.headers["cache-control"] == "no-store"
    assert "default-src 'self'" in shown.headers["content-security-policy"]
    assert " style=" not in shown.text
    assert "<script>" not in shown.text
    assert sent.status_code == 303
    assert sent.headers["location"] == f"/login?to={address}"


def test_home_leads_to_the_runs(team: Site) -> None:
    with team.browser() as ann:
        answer = ann.get("/", follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/runs")


def test_a_token_logs_in_and_comes_back_and_logging_out_forgets_it(site: Site) -> None:
    with site.browser(None) as client:
        answer = client.post("/login", data={"token": site.scene.token(), "to": "/sweeps?state=running"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/sweeps?state=running")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("reco_token=")
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert client.get("/sweeps").status_code == 200
        client.post("/logout")
        assert client.get("/sweeps").status_code == 303


@pytest.mark.parametrize("token", ["reco_guess", "", "töken", "' OR 1=1 --"])
def test_a_wrong_token_is_refused_on_the_page_and_not_repeated(site: Site, token: str) -> None:
    with site.browser(None) as client:
        answer = client.post("/login", data={"token": token})
    assert answer.status_code in (401, 422)
    assert "set-cookie" not in answer.headers
    assert not token or token not in answer.text


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_the_login_leads_to_no_other_site(site: Site, to: str) -> None:
    with site.browser(None) as client:
        assert "evil" not in client.get("/login", params={"to": to}).text
        answer = client.post("/login", data={"token": site.scene.token(), "to": to})
    assert answer.headers["location"] == "/runs"


def test_a_revoked_token_no_longer_opens_pages(site: Site) -> None:
    with site.browser("promoter") as client:
        [token] = [each for each in site.scene.control.tokens_store.list() if each.owner == "promoter"]
        site.scene.control.tokens_store.revoke(token.id)
        assert client.get("/runs").status_code == 303


def test_the_list_tells_state_progress_health_and_conditions_in_words(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get("/runs").text
    row = page.split(f'data-row="{RUNNING}"')[1].split("</tr>")[0]
    assert ">running</span>" in row.replace("\n", "")
    assert '<progress max="19531" value="12285"' in row
    assert "63 % · epoch 62.9/100" in row
    assert "healthy" in row
    assert "starved" in page.split('data-row="satellite')[1].split("</tr>")[0]
    assert "The loss is no number at step 1,562." in page.split(f'data-row="{FAILED}"')[1].split("</tr>")[0]
    assert SWEEP not in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name=moco", {DONE}),
        ("name=photos", {RUNNING, DONE, "photos-wide-20261125-1030", "photos-nolocal-20261125-1404"}),
        ("name=photos-wid?", {"photos-wide-20261125-1030"}),
        ("state=failed&state=cancelled", {FAILED, "wafers-20261125-0512"}),
        ("project=fab&condition=starved", {"satellite-20261125-0840"}),
        ("owner=dee", {"digits-20261125-1418"}),
        ("condition=", {*()} or None),
        ("name=%27%20OR%201%3D1%20--", set()),
        ("name=%25", set()),
    ],
)
def test_filters_narrow_the_list(team: Site, query: str, found: set[str] | None) -> None:
    with team.browser() as ann:
        page = ann.get(f"/runs?{query}")
    assert page.status_code == 200
    rows = {part.split('"')[0] for part in page.text.split('data-row="')[1:]}
    assert len(rows) == 8 if found is None else rows == found


def test_chips_count_all_states_also_where_one_is_chosen(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get("/runs?state=failed").text
    chips = page.split('aria-label="States"')[1].split("</nav>")[0]
    assert "all <b>8</b>" in chips
    assert "running <b>2</b>" in chips.replace("</svg>", "").replace("\n", "") or "running <b>2</b>" in chips


def test_chips_count_only_what_the_other_filters_leave(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get("/runs?condition=starved&state=failed").text
    assert "all <b>1</b>" in page.split('aria-label="States"')[1].split("</nav>")[0]


def test_parts_that_may_appear_or_vanish_have_a_place_to_do_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> NoReturn:
        raise UnreachableError("the storage is away.")

    site.scene.submit("new", name="new")
    site.scene.sweep("new-search", name="new-search")
    places = {
        "/runs?name=no-such-*": ("list",),
        "/sweeps?name=no-such-*": ("list",),
        "/runs/new": ("head", "log"),
        "/sweeps/new-search": ("head", "trouble", "progress", "curves", "board", "log"),
    }
    with site.browser() as ann:
        for address, keys in places.items():
            page = ann.get(address).text
            assert [page.count(f'data-live="{key}"') for key in keys] == [1] * len(keys), address
        monkeypatch.setattr(StoredRuns, "board", away)
        without = ann.get("/sweeps/new-search").text
    assert "The leaderboard cannot be read now" in without
    for key in places["/sweeps/new-search"]:
        assert without.count(f'data-live="{key}"') == 1, key


def test_an_id_in_the_search_opens_the_run(team: Site) -> None:
    with team.browser() as ann:
        assert ann.get("/runs", params={"name": FAILED}).headers["location"] == f"/runs/{FAILED}"
        assert ann.get("/runs", params={"name": SWEEP}).headers["location"] == f"/sweeps/{SWEEP}"


def test_a_long_list_comes_in_pages_without_gaps(site: Site) -> None:
    for number in range(53):
        site.scene.submit(f"run-{number:02d}", name="paged")
        site.scene.clock.at = site.scene.clock.at.replace(microsecond=number)
    with site.browser() as ann:
        first = ann.get("/runs?name=paged").text
        older = first.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
        second = ann.get(older).text
    seen = [part.split('"')[0] for page in (first, second) for part in page.split('data-row="')[1:]]
    assert len(seen) == len(set(seen)) == 53
    assert "name=paged" in older
    assert 'rel="next"' not in second


def test_a_run_shows_curves_attempts_causes_events_and_checkpoints(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get(f"/runs/{RUNNING}").text
    assert 'aria-label="Loss: total' in page
    assert 'aria-label="Accuracy: k-NN, valid' in page
    assert ">pictures seen</text>" in page
    assert '<span class="badge warn">preempted</span>' in page
    assert "step 7,600" in page
    assert "Its host was taken away (spot)." in page
    assert page.index("Attempt 2 runs.") < page.index("ann submitted it.")
    assert "12,285" in page.split('id="saved-title"')[1].split("</section>")[0]
    assert "name: photos" in page.split("<h2>Spec</h2>")[1]


def test_a_run_that_is_done_shows_its_encoder_and_what_it_is_held_against(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get(f"/runs/{DONE}").text
    assert '<a href="/models/photos-encoder/versions/1">photos-encoder/1</a>' in page
    assert "<title>raw pixels</title>" in page
    assert "67.8 %" in page


def test_a_failed_run_says_why_and_what_to_do(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get(f"/runs/{FAILED}").text
    assert "It would be so again at the same step: lower optimizer.lr." in page
    assert "Raise method.temperature." in page
    assert "temperature too low" in page


def test_the_brief_page_leaves_the_folder_alone(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get(f"/runs/{RUNNING}?brief=true").text
    assert 'data-live="progress"' in page
    assert 'data-live="curves"' not in page
    assert 'data-live="saved"' not in page


def test_a_run_whose_folder_is_damaged_or_gone_is_still_shown(site: Site) -> None:
    site.scene.submit("lost", name="lost")
    site.scene.start("lost")
    folder = site.scene.train("lost", upto=0.2)
    with site.browser() as ann:
        records = next((Path(folder.url) / "metrics").iterdir())
        records.write_text("{")
        damaged = ann.get("/runs/lost")
        shutil.rmtree(folder.url)
        gone = ann.get("/runs/lost")
    assert damaged.status_code == gone.status_code == 200
    assert "The curves cannot be read now" in damaged.text
    assert '<progress max="19531"' in gone.text


NONSENSE: tuple[object, ...] = ("", -1, 1e400, True, [], {}, "x" * 5000, [{"metrics": 1}], {"valid/knn": "high"}, None)
NONSENSE += (10**400, {"valid/knn": 10**400}, [{"metrics": {"valid/knn": 10**400}}], 1e300)  # no float is as large


def test_a_job_that_says_nonsense_takes_no_page_with_it(site: Site) -> None:
    site.scene.submit("odd", name="odd")
    site.scene.start("odd")
    folder = RunFolder(site.scene.control.store.get("odd").storage, "odd")
    names = [*Progress.__annotations__, "results", "error", "model", "tracking_url"]
    with site.browser() as ann:
        for value in NONSENSE:
            site.scene.tell("odd", dict.fromkeys(names, value))
            folder.storage.write("metrics/step-000000000001.jsonl", json.dumps({"step": 1, "metrics": value}).encode())
            answers = [ann.get("/runs?name=odd"), ann.get("/runs/odd")]
            assert [answer.status_code for answer in answers] == [200, 200], value
        site.scene.move("odd", Signal.SUCCEEDED)
        for value in NONSENSE:
            folder.storage.write("outcome.json", json.dumps(dict.fromkeys(names, value)).encode())
            assert ann.get("/runs/odd").status_code == 200, value


def test_a_form_and_a_part_of_a_page_tell_nobody_where_the_database_is(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> NoReturn:
        raise StoreError("the database at postgresql://ann@db.internal/reco does not answer.")

    site.scene.submit("kept", name="kept")
    monkeypatch.setattr(StoredRuns, "stop", away)
    with site.browser("runner") as client:
        form = client.post("/runs/kept/do/stop")
    assert "cannot use its database now" in form.text
    assert "db.internal" not in form.text
    assert Readers().read(away) == Missing("the service cannot use its database now.")


def test_a_page_does_not_wait_for_storage_that_is_away() -> None:
    back = threading.Event()
    read = Readers(wait_s=0.01).read(back.wait)
    back.set()
    assert read == Missing("the storage does not answer.")


def test_sweeps_and_runs_lead_to_each_others_pages(team: Site) -> None:
    with team.browser() as ann:
        assert ann.get(f"/runs/{SWEEP}").headers["location"] == f"/sweeps/{SWEEP}"
        assert ann.get(f"/sweeps/{RUNNING}").headers["location"] == f"/runs/{RUNNING}"


def test_a_sweep_shows_its_leaderboard_with_the_best_first(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get(f"/sweeps/{SWEEP}").text
    rows = page.split('id="board-title"')[1].split("<tbody>")[1].split("</tbody>")[0].split("<tr")[1:]
    assert len(rows) == 16
    assert 'class="best"' in rows[0]
    assert "the loss is no number at step 40" in rows[-1]
    assert page.count('class="mark finished"') >= 10
    assert 'class="trial best"' in page


def test_data_sets_are_listed_with_what_their_index_says(team: Site) -> None:
    with team.browser() as ann:
        page = ann.get("/datasets").text
    assert str(team.scene.data) in page
    assert ">80</td>" in page


def test_a_log_is_read_by_offsets_without_losing_a_line(site: Site) -> None:
    site.scene.submit("logged", name="logged")
    site.scene.start("logged")
    lines = [f"line {number} <b>&" for number in range(50)]
    site.scene.log("logged", lines[:30])
    with site.browser() as ann:
        first = ann.get("/runs/logged/log").text
        offset = first.split('data-next="')[1].split('"')[0]
        site.scene.log("logged", lines[30:], complete=True)
        second = ann.get(f"/runs/logged/log?attempt=1&offset={offset}").text
        end = second.split('data-next="')[1].split('"')[0]
        last = ann.get(f"/runs/logged/log?attempt=1&offset={end}").text
    shown = "".join(page.split("data-attempt=")[1].split(">", 1)[1].split("</pre>")[0] for page in (first, second))
    assert shown.splitlines() == [f"line {number} &lt;b&gt;&amp;" for number in range(50)]
    assert "data-complete" not in second
    assert "data-complete" in last


def test_markup_in_names_stays_text_everywhere(site: Site) -> None:
    evil = '"><script>alert(1)</script>'
    site.scene.submit("evil", name="evil", owner=f"o{evil}")
    site.scene.move("evil", Signal.BEGIN, words=f"w{evil}")
    site.scene.tell("evil", {"phase": f"p{evil}", "health": f"h{evil}", "step": 1, "total_steps": 9, "epoch": 0.1})
    with site.browser() as ann:
        pages = [
            ann.get(a).text
            for a in ("/runs", "/runs/evil", "/runs/evil/do/stop", "/runs/evil/log", f"/runs?name={evil}")
        ]
    assert all("<script>alert" not in page for page in pages)
    assert "&lt;script&gt;alert(1)" in pages[1]


@pytest.mark.parametrize(
    "address", ["/runs/no-such-run", "/sweeps/no-such-run", "/runs/a/b/c", "/datasets/x", "/static/nothing.css"]
)
def test_what_is_not_there_is_said_in_the_same_look(team: Site, address: str) -> None:
    with team.browser() as ann:
        answer = ann.get(address)
    assert answer.status_code == 404
    assert "<h1>That did not work</h1>" in answer.text
    assert 'href="/sweeps"' in answer.text


def test_the_addresses_of_the_api_stay_with_the_api(team: Site) -> None:
    with team.browser() as ann:
        assert ann.get("/v1/nothing").headers["content-type"] == "application/problem+json"
        assert ann.get("/elsewhere").headers["content-type"] == "application/problem+json"
        assert ann.get("/v1/runs").json()["runs"]


def test_a_mistaken_address_is_explained(team: Site) -> None:
    with team.browser() as ann:
        answer = ann.get("/runs?state=sleeping")
        cursor = ann.get("/runs?after=nonsense")
    assert answer.status_code == cursor.status_code == 422
    assert "state" in answer.text
    assert "is not where a page of runs begins" in cursor.text


def test_who_has_one_project_sees_no_other(team: Site) -> None:
    with team.browser("admin", project="fab") as cy:
        page = cy.get("/runs").text
        assert cy.get(f"/runs/{RUNNING}").status_code == 404
        assert cy.get(f"/compare?run={RUNNING}&run={DONE}").status_code == 404
    rows = {part.split('"')[0] for part in page.split('data-row="')[1:]}
    assert rows == {"satellite-20261125-0840", "wafers-20261125-0512"}
    with pytest.raises(UnknownRunError):
        team.scene.control.store.get("no-such-run")


def test_styles_and_scripts_are_asked_for_again_only_when_they_have_changed(team: Site) -> None:
    with team.browser(None) as client:
        first = client.get("/static/main.js")
        again = client.get("/static/main.js", headers={"If-None-Match": first.headers["etag"]})
        outside = client.get("/static/..%2fapp.py")
    assert (first.status_code, again.status_code, outside.status_code) == (200, 304, 404)
    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"


def test_who_sees_one_project_is_not_told_what_else_mlflow_knows_nor_where_it_is(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "sqlite:////srv/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    def unknown(*_: object) -> NoReturn:
        raise TrackingError(f"There is no run 'own-1' in MLflow at {address}.", hint="Did you mean 'theirs-7'?")

    monkeypatch.setattr(comparing, "find_runs", unknown)
    for run_id in ("own-1", "own-2"):
        site.scene.submit(run_id, name=run_id, project="own")
    with site.browser("viewer", "own") as mine, site.browser("viewer") as anybody:
        told, everything = (client.get("/compare?run=own-1&run=own-2").text for client in (mine, anybody))
    assert "MLflow does not know all of these runs" in told
    assert "theirs-7" not in told
    assert address not in told
    assert "theirs-7" in everything
