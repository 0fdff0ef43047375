"""Charts: what is drawn is what was measured, and nothing in a name is markup."""

from __future__ import annotations

import math
import re

import pytest

from service.contract.messages import SweepBoard, TrialView
from service.web.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, line_chart, scale
from service.web.sweep_charts import objective_chart, parallel_coordinates, short_names


def points_of(chart: str, kind: str = "line") -> list[list[tuple[float, float]]]:
    drawn = re.findall(rf'<polyline class="{kind}[^"]*"[^>]*points="([^"]*)"', chart)
    return [[(float(x), float(y)) for x, _, y in (pair.partition(",") for pair in each.split())] for each in drawn]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 10], (0, 2.5, 5, 7.5, 10)),
        ([3.2, 17.9], (0, 5, 10, 15, 20)),
        ([0.012, 0.058], (0, 0.02, 0.04, 0.06)),
        ([-2.1, -0.9], (-2.5, -2, -1.5, -1, -0.5)),
    ],
)
def test_axes_have_round_ticks_that_enclose_the_values(values: list[float], ticks: tuple[float, ...]) -> None:
    axis = scale(values, 0, 100)
    assert axis.ticks == ticks
    assert axis.low <= min(values) < max(values) <= axis.high
    assert (axis(axis.low), axis(axis.high)) == (0, 100)


def test_an_axis_of_one_value_still_has_a_length() -> None:
    axis = scale([5.0, 5.0], 0, 100)
    assert axis.low < 5 < axis.high
    assert 0 < axis(5) < 100


def test_a_line_goes_from_corner_to_corner_of_its_box() -> None:
    [line] = points_of(line_chart([Series("loss", [(0, 0), (10, 10)])], title="Loss"))
    assert line == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]


def test_values_that_are_no_numbers_are_left_out_and_the_legend_has_the_last_one() -> None:
    chart = line_chart([Series("loss", [(0, 4.0), (1, math.nan), (2, 3.25), (3, math.inf)])], title="Loss")
    [line] = points_of(chart)
    assert len(line) == 2
    assert "nan" not in chart
    assert "inf" not in chart
    assert "<b>3.25</b>" in chart
    assert 'aria-label="Loss: loss 3.25"' in chart


def test_nothing_measured_draws_nothing() -> None:
    assert line_chart([], title="Loss") == ""
    assert line_chart([Series("loss", [(0, math.nan)])], title="Loss") == ""


def test_a_long_series_is_smoothed_beside_its_raw_extremes() -> None:
    points = [(float(x), 5.0 + (x % 2)) for x in range(5000)]
    points[2500] = (2500.0, 100.0)
    chart = line_chart([Series("loss", points)], title="Loss")
    [raw], [line] = points_of(chart, "raw"), points_of(chart)
    assert len(raw) < 400
    assert len(line) < 400
    assert min(y for _, y in raw) == TOP  # the one value of 100 is still there
    assert min(y for _, y in line) > HEIGHT / 2


def test_names_are_text_and_not_markup() -> None:
    chart = line_chart([Series('<img src=x onerror="alert(1)">', [(0, 1), (1, 2)])], title="<b>")
    assert "<img" not in chart
    assert "<b>&lt;b&gt;" not in chart
    assert "&lt;img src=x" in chart


def board(*trials: TrialView, mode: str = "max") -> SweepBoard:
    return SweepBoard(sweep_id="s", metric="valid/knn", mode=mode, wanted=5, trials=list(trials))


def trial(number: int, objective: float | None, state: str = "finished", **values: float) -> TrialView:
    return TrialView(number=number, state=state, values={**(values or {"lr": 0.1})}, objective=objective, epochs=1)


def test_best_so_far_passes_over_trials_that_were_stopped_early() -> None:
    chart = objective_chart(board(trial(0, 40), trial(1, 90, "stopped early"), trial(2, 50)))
    [path] = re.findall(r'class="best-line" d="([^"]*)"', chart)
    heights = [float(y) for y in re.findall(r"(?:M[\d.]+ |V)([\d.]+)", path)]
    assert len(heights) == 2
    assert heights[1] < heights[0]
    highest = min(float(y) for y in re.findall(r'<circle class="mark stopped-early"[^>]*cy="([\d.]+)"', chart))
    assert highest < heights[1]


@pytest.mark.parametrize(("mode", "better"), [("max", 60.0), ("min", 40.0)])
def test_the_better_end_of_the_objective_is_up_and_the_best_is_drawn_last(mode: str, better: float) -> None:
    trials = sorted((trial(0, 40.0, lr=0.1), trial(1, 60.0, lr=0.2)), key=lambda each: each.objective != better)
    lines = points_of(parallel_coordinates(board(*trials, mode=mode)), "trial")
    assert lines[-1][-1][1] < lines[0][-1][1]


def test_values_over_a_wide_range_lie_on_a_logarithmic_axis() -> None:
    lines = points_of(parallel_coordinates(board(*(trial(n, n, lr=0.001 * 10**n) for n in range(3)))), "trial")
    heights = sorted(line[0][1] for line in lines)
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])


def test_options_are_called_by_as_much_of_their_path_as_tells_them_apart() -> None:
    names = short_names(["method.global_relation.weight", "method.local_relation.weight", "optimizer.lr"])
    assert list(names.values()) == ["global relation weight", "local relation weight", "lr"]
