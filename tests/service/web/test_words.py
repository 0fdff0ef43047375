"""Numbers and times as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from service.web.words import duration, figure, moment, percent, short, size, ticks


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (71.3456, "71.35"),
        (0, "0"),
        (12285.4, "12,285"),
        (0.00001234, "1.23e-5"),
        (float("nan"), "–"),
        (None, "–"),
        (True, "–"),
        pytest.param(10**400, "–", id="larger than any float"),
    ],
)
def test_figures(value: object, told: str) -> None:
    assert figure(value) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-3, "0 s"),
        (59.4, "59 s"),
        (90, "1 min 30 s"),
        (1800, "30 min"),
        (3 * 3600 + 60, "3 h 01 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_have_two_units(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_ticks_of_axes_are_short() -> None:
    assert [short(value) for value in (0, 0.25, 1500, 2_500_000, 0.00002)] == ["0", "0.25", "1.5k", "2.5M", "2e-5"]


def test_sizes_and_percent() -> None:
    assert size(999) == "999 B"
    assert size(1_234_567) == "1.23 MB"
    assert percent(71.26) == "71.3 %"
    assert percent(None) == percent(10**400) == percent(float("nan")) == "–"


def test_moments_are_told_in_utc_whatever_zone_they_came_in() -> None:
    here = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    expected = '<time datetime="2026-02-28T23:30:00.000+00:00">2026-02-28 23:30 UTC</time>'
    assert moment(here) == moment(here.isoformat()) == moment(here.astimezone(UTC)) == expected
    assert moment("<script>") == "&lt;script&gt;"


def test_commands_in_a_sentence_are_set_as_such_and_the_rest_is_text() -> None:
    assert ticks("Run `reco <x>` & wait") == "Run <code>reco &lt;x&gt;</code> &amp; wait"
