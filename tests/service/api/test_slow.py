"""What takes long: a few at once, while everybody else is still served."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.api.errors import BusyError
from service.api.slow import Few
from service.contract.messages import DatasetView
from service.control import datasets
from tests.service.api.serving import SPEC, Api


def test_only_a_few_are_let_in_and_a_place_that_is_left_is_free_again() -> None:
    few = Few(1, "the tea", wait_s=0.01)
    with few.place(), pytest.raises(BusyError, match="1 callers wait for the tea"), few.place():
        pass
    with pytest.raises(ValueError, match="spilt"), few.place():
        raise ValueError("spilt")
    with few.place():
        pass


def test_callers_who_wait_for_storage_leave_threads_for_all_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, back = threading.Semaphore(0), threading.Event()

    def away(*_: object) -> list[DatasetView]:
        waiting.release()
        back.wait(20)
        return []

    monkeypatch.setattr(datasets, "used", away)
    secret = api.secret("runner")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(api.ask, "GET", "/v1/datasets", secret) for _ in range(4)]
        try:
            assert all(waiting.acquire(timeout=20) for _ in asked)
            refused = [
                api.ask("GET", "/v1/datasets", secret),
                api.ask("POST", "/v1/plans", secret, json={"spec": SPEC}),
            ]
            page = api.ask("GET", "/datasets", headers={"Cookie": f"reco_token={secret}"})
            assert api.ask("GET", "/v1/runs", secret).status_code == 200
        finally:
            back.set()
        assert [each.result().status_code for each in asked] == [200] * 4
    assert [(each.status_code, each.json()["code"]) for each in refused] == [(503, "BusyError")] * 2
    assert all("retry-after" in each.headers for each in refused)
    assert page.status_code == 503
    assert api.ask("GET", "/v1/datasets", secret).status_code == 200
