"""How often is asked again, and after how long."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.client.patience import Patience, retry_after


def test_waits_double_up_to_a_bound_and_then_nothing_is_repeated() -> None:
    patience = Patience(repeats=5, first_s=1.0, longest_s=6.0, chance=lambda: 1.0)
    assert [patience.wait(number) for number in range(1, 7)] == [1.0, 2.0, 4.0, 6.0, 6.0, None]


def test_jitter_is_full_from_nothing_to_the_whole() -> None:
    assert Patience(first_s=4.0, chance=lambda: 0.0).wait(1) == 0.0
    assert Patience(first_s=4.0, chance=lambda: 0.25).wait(1) == 1.0


def test_what_the_server_asks_for_is_a_least_and_too_long_is_given_up() -> None:
    patience = Patience(first_s=1.0, longest_s=20.0, chance=lambda: 0.5)
    assert patience.wait(1, 20.0) == 20.5
    assert patience.wait(1, 20.1) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("Sun, 01 Mar 2026 12:00:09 GMT", 9.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_holds_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 3, 1, 12, tzinfo=UTC)) == seconds
