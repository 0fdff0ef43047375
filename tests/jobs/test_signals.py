"""A wish to stop that one job passes on to another."""

from __future__ import annotations

import threading

import pytest

from jobs.signals import stop_passed_on
from jobs.storage import StorageError


def test_a_wish_is_passed_on_once_also_after_a_storage_was_away() -> None:
    looks, heard, asked = [], threading.Event(), []

    def look() -> bool:
        looks.append(None)
        if len(looks) == 1:
            raise StorageError("away")
        return len(looks) > 2

    def ask() -> None:
        asked.append(None)
        heard.set()

    with stop_passed_on(look, ask, every_s=0.001):
        assert heard.wait(30)
    assert len(asked) == 1


def test_without_a_wish_nothing_is_asked_and_nobody_goes_on_looking() -> None:
    before = threading.active_count()
    with stop_passed_on(lambda: False, lambda: pytest.fail("nobody asked"), every_s=0.001):
        pass
    assert threading.active_count() == before
