"""The outermost layer by itself, around applications that are slow or break."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.frame import Frame
from service.api.metrics import Requests
from service.api.settings import ApiSettings


def ask(app: ASGIApp, method: str, *, timeout_s: float = 30.0) -> httpx.Response:
    """What an application answers from inside the frame."""
    frame = Frame(app, requests=Requests(CollectorRegistry()), settings=replace(ApiSettings(), timeout_s=timeout_s))

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(frame)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, "/v1/slow", content=b"{}" if method == "POST" else None)

    return asyncio.run(send())


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads its body, takes a while, and answers."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(0.2)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    """Fails before it answers."""
    raise ValueError("the secret word")


def test_reading_that_takes_too_long_is_given_up_and_its_late_answer_dropped() -> None:
    answer = ask(slow, "GET", timeout_s=0.02)
    assert (answer.status_code, answer.json()["code"]) == (503, "BusyError")
    assert "done" not in answer.text


def test_a_change_that_takes_long_goes_on_to_its_end() -> None:
    answer = ask(slow, "POST", timeout_s=0.02)
    assert (answer.status_code, answer.text) == (200, "done")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_in_time_the_application_answers(method: str) -> None:
    assert ask(slow, method).text == "done"


def test_an_application_that_breaks_is_answered_for(caplog: pytest.LogCaptureFixture) -> None:
    answer = ask(broken, "GET")
    assert (answer.status_code, answer.json()["code"]) == (500, "InternalError")
    assert "secret word" not in answer.text
    assert "secret word" in caplog.text
