"""Debian's Chromium, driven by Playwright, that talks to nobody but the pages."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from service.api.gate import COOKIE

ACCESSIBLE = (Path(__file__).parent / "accessible.js").read_text()
"""Tells what is illegible, without a name, or too wide on a page."""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def launch() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("NO CHROMIUM: the web pages are not tested in a browser; install Debian's package `chromium`")
    with (
        sync_playwright() as playwright,
        contextlib.closing(playwright.chromium.launch(executable_path=path, args=ARGUMENTS)) as browser,
    ):
        yield browser


@contextlib.contextmanager
def opened(
    browser: Browser,
    url: str,
    secret: str | None,
    *,
    dark: bool = False,
    width: int = 1280,
    script: bool = True,
    unless: str = "nothing",
) -> Iterator[Page]:
    """A page of a reader in Tokyo, who is logged in if there is a token; at its end nothing has gone wrong in it.

    Args:
        browser: The browser.
        url: Of the site.
        secret: A token.
        dark: Whether the reader's system is.
        width: Of the window.
        script: Whether the browser runs scripts.
        unless: What the browser's console may say.
    """
    context: BrowserContext = browser.new_context(
        base_url=url,
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
        timezone_id="Asia/Tokyo",
        viewport={"width": width, "height": 900},
    )
    if secret is not None:
        context.add_cookies([{"name": COOKIE, "value": secret, "url": url, "httpOnly": True, "sameSite": "Strict"}])
    page, wrong = context.new_page(), list[str]()
    page.set_default_timeout(15_000)
    page.on("console", lambda each: wrong.append(each.text) if each.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda each: None if each.url.startswith((f"{url}/", "data:")) else wrong.append(each.url))
    try:
        yield page
    finally:
        context.close()
    assert [each for each in wrong if unless not in each] == []
