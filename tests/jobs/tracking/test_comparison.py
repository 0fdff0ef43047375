"""What differs between runs and which is better, by runs in a real MLflow server and by hand-made ones."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.utils import rest_utils
from PIL import Image

from jobs.errors import UserError
from jobs.tracking import compared_runs, search
from jobs.tracking.client import explained
from jobs.tracking.compared_groups import Summary, margin_of
from jobs.tracking.compared_runs import ComparedRun, UnknownRunError, direction, find_runs, with_best
from jobs.tracking.comparison import Comparison, compare
from jobs.tracking.comparison_report import (
    as_dict,
    as_rows,
    column_names,
    draw_curves,
    equal_in_words,
    leaderboard,
    sections,
    shortened,
    write_html,
)
from jobs.tracking.errors import TrackingError
from jobs.tracking.runs import TrackedRun, open_run

Log = Callable[..., TrackedRun]

PARAMS = {"method": {"temperature": 0.2, "queue_size": 64}, "train": {"epochs": 4, "seed": 0}, "encoder": "r18"}


@pytest.fixture
def log(uri: str) -> Log:
    """Logs a run as `jobs.tracked_run` does: `points` are values by step of each metric."""

    def make(
        run_id: str,
        points: Mapping[str, Mapping[int, float]],
        *,
        status: str = "FINISHED",
        temperature: float = 0.2,
        seed: int = 0,
        **tags: str,
    ) -> TrackedRun:
        params = {
            **PARAMS,
            "method": {"temperature": temperature, "queue_size": 64},
            "train": {"epochs": 4, "seed": seed},
        }
        known = {"reco.spec_hash": f"{temperature}-{seed}", "reco.dataset_hash": "d1ce", "reco.code": "abc"}
        known |= {f"reco.{name}": value for name, value in tags.items()}
        run = open_run(uri, experiment="reco", run_id=run_id, name="n", params=params, tags=known)
        logged = [Metric(name, value, step, step) for name, of in points.items() for step, value in of.items()]
        MlflowClient(uri).log_batch(run.mlflow_run_id, metrics=logged)
        if status != "RUNNING":
            run.finish(status)
        return run

    return make


def curves(knn: Sequence[float]) -> dict[str, dict[int, float]]:
    steps = range(10, 10 * len(knn) + 1, 10)
    return {
        "valid/knn": dict(zip(steps, knn, strict=True)),
        "train/loss": {step: 5 / step for step in steps},
        "pictures_seen": {step: 64.0 * step for step in steps},
    }


def made(
    label: str,
    last: Mapping[str, float],
    *,
    temperature: object = 0.2,
    seed: int = 0,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> ComparedRun:
    """A run as it is read, without a server."""
    return ComparedRun(
        label=label,
        tracked=TrackedRun("sqlite:///x", label, f"m-{label}", "1"),
        status="FINISHED",
        params={"method.temperature": str(temperature), "train.seed": str(seed), "encoder": "r18", **(params or {})},
        tags={
            "reco.run_id": label,
            "reco.spec_hash": "s",
            "reco.dataset_hash": "d1ce",
            "reco.code": "abc",
            **(tags or {}),
        },
        last=dict(last),
    )


def two_groups(low: Sequence[float], high: Sequence[float]) -> Comparison:
    runs = [made(f"base-{seed}", {"test/knn": value}, seed=seed) for seed, value in enumerate(low)]
    runs += [made(f"cold-{i}", {"test/knn": v}, seed=i, temperature=0.05) for i, v in enumerate(high)]
    return compare(runs)


def test_runs_in_mlflow_are_compared_by_what_differs(uri: str, log: Log) -> None:
    log("differ-a", curves([10, 30, 20]) | {"test/knn": {30: 21.0}}, host="h1", device="cpu x86_64", pid="1")
    log(
        "differ-b",
        curves([10, 20, 25]) | {"test/knn": {30: 26.0}},
        temperature=0.05,
        device="H100",
        pid="2",
        code="def",
    )
    found = find_runs(uri, ["differ-a", "differ-b"])
    comparison = compare(with_best(uri, found.runs))
    assert found.notes == []
    assert {(each.kind, each.name): each.by_run for each in comparison.differences} == {
        ("spec", "method.temperature"): ("0.2", "0.05"),
        ("code", "code"): ("abc", "def"),
        ("computed with", "device"): ("cpu x86_64", "H100"),
        ("computed with", "host"): ("h1", "–"),
    }
    assert comparison.equal == {"spec": 4, "data": 1, "code": 0, "computed with": 0}
    assert comparison.metrics == ("test/knn", "valid/knn")  # the loss and the pictures are alike
    assert [run.last["valid/knn"] for run in comparison.runs] == [20.0, 25.0]
    assert [run.best["valid/knn"] for run in comparison.runs] == [30.0, 25.0]
    assert comparison.verdict.ranked[0].label == "differ-b"
    assert comparison.verdict.beyond is None
    assert "differ-b is best by test/knn: 26, 5 more than differ-a (21)" in comparison.verdict.words
    assert "nothing is known of the spread" in comparison.verdict.words
    assert equal_in_words(comparison) == "4 options are equal; so are the data, 2 metrics"
    table = dict(sections(comparison))
    assert table["last value"] == [["test/knn", "21", "26"], ["valid/knn", "20", "25"]]
    assert table["best value on the way"] == [["valid/knn", "30", "25"]]


def test_runs_that_differ_in_their_seed_only_are_one_group_with_its_spread() -> None:
    comparison = two_groups([40.0, 41.0, 42.0], [50.0, 52.0, 54.0])
    assert [group.title for group in comparison.groups] == ["base (3 seeds)", "cold (3 seeds)"]
    assert comparison.groups[0].summary("test/knn") == Summary(41.0, 1.0, 3)
    assert str(comparison.groups[1].summary("test/knn")) == "52.0 ± 2.0"
    seeds = next(each for each in comparison.differences if each.name == "train.seed")
    assert seeds.by_group == ("0, 1, 2", "0, 1, 2")
    assert not seeds.between_groups
    # Welch, by hand: variances 1/3 and 4/3, ν = (5/3)² / ((1/9 + 16/9) / 2) = 2.941, t = 3.217
    assert comparison.verdict.margin == pytest.approx(3.217 * math.sqrt(5 / 3), rel=1e-3)
    assert comparison.verdict.beyond is True
    assert "11 more than base (3 seeds) (41.0 ± 1.0)" in comparison.verdict.words


def test_a_difference_within_the_spread_of_seeds_is_no_verdict() -> None:
    verdict = two_groups([40.0, 44.0], [43.0, 47.0]).verdict
    assert verdict.ranked[0].label == "cold"
    assert verdict.beyond is False
    assert "within the spread of seeds" in verdict.words
    assert "do not tell which is better" in verdict.words


def test_the_spread_of_one_group_stands_for_another_with_one_seed() -> None:
    verdict = two_groups([40.0, 41.0, 42.0], [60.0]).verdict
    assert verdict.margin == pytest.approx(4.3027 * math.sqrt(4 / 3), rel=1e-3)
    assert verdict.beyond is True


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (31, 2.0423), (1001, 1.9623)])
def test_margins_follow_students_t(n: int, quantile: float) -> None:
    assert margin_of(Summary(0.0, 1.0, n), Summary(0.0, None, 1)) == pytest.approx(
        quantile * math.sqrt(1 + 1 / n), rel=1e-3
    )
    assert margin_of(Summary(0.0, None, 1), Summary(0.0, None, 1)) is None


def test_a_seed_that_was_trained_twice_counts_once() -> None:
    runs = [made("a-0", {"test/knn": 40.0}), made("a-0b", {"test/knn": 44.0}), made("a-1", {"test/knn": 44.0}, seed=1)]
    (group,) = compare(runs).groups
    assert group.summary("test/knn") == Summary(43.0, pytest.approx(math.sqrt(2)), 2)


def test_other_data_makes_another_group_and_other_code_does_where_asked() -> None:
    one = made("a", {"test/knn": 40.0})
    other_data = made("b", {"test/knn": 41.0}, seed=1, tags={"reco.dataset_hash": "f00d"})
    other_code = made("c", {"test/knn": 42.0}, seed=2, tags={"reco.code": "def"})
    comparison = compare([one, other_data, other_code])
    assert [[run.label for run in group.runs] for group in comparison.groups] == [["a", "c"], ["b"]]
    assert any("their code differs: a +1 (2 seeds)" in note for note in comparison.notes)
    assert len(compare([one, other_data, other_code], apart=["code"]).groups) == 3
    with pytest.raises(UserError, match="no 'colour'") as caught:
        compare([one, other_data], apart=["colour"])
    assert "code, dataset_hash" in str(caught.value.hint)


def test_a_group_is_called_by_the_words_its_runs_share_and_no_other_has() -> None:
    last = {"test/knn": 1.0}
    labels = [["s-t001", "s-t001-s1"], ["s-t002", "s-t002-s1"], ["x-1", "y-2"], ["s", "s-9"]]
    runs = [
        made(label, last, temperature=group, seed=seed)
        for group, members in enumerate(labels)
        for seed, label in enumerate(members)
    ]
    assert [group.label for group in compare(runs).groups] == ["s-t001", "s-t002", "x-1 +1", "s +1"]


def test_runs_are_judged_by_knn_on_test_else_by_what_most_of_them_have() -> None:
    loss = {"train/loss": 1.0}
    tested, judged = loss | {"test/knn": 1.0, "valid/knn": 3.0}, loss | {"valid/knn": 2.0}

    def metric_of(*last: Mapping[str, float]) -> str:
        return compare([made(f"r{i}", each, temperature=i) for i, each in enumerate(last)]).verdict.metric

    assert metric_of(tested, tested, loss) == "test/knn"
    assert metric_of(tested, judged, judged) == "valid/knn"
    assert metric_of(tested, loss | {"train/rank_me": 1.0}, loss | {"train/rank_me": 1.0}) == "train/rank_me"
    assert metric_of(loss, loss) == "train/loss"


def test_less_of_a_loss_is_better_but_not_between_temperatures() -> None:
    comparison = compare([made("a", {"train/loss": 1.0}), made("b", {"train/loss": 0.5}, temperature=0.1)])
    assert comparison.verdict.ranked[0].label == "b"
    assert "0.5 less than a" in comparison.verdict.words
    assert any("the least belongs to no better encoder" in note for note in comparison.notes)


def test_a_metric_without_a_better_side_asks_for_one() -> None:
    runs = [made("a", {"health/uniformity": 1.0}), made("b", {"health/uniformity": 2.0}, temperature=0.1)]
    with pytest.raises(UserError, match="whether more of health/uniformity is better"):
        compare(runs, metric="health/uniformity")
    assert compare(runs, metric="health/uniformity", mode="min").verdict.ranked[0].label == "a"
    assert (direction("health/rank_me"), direction("test/linear"), direction("time/step_s")) == (None, "max", "min")


def test_a_metric_nobody_has_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="none of the runs has the metric 'test/kn'") as caught:
        compare([made("a", {"test/knn": 1.0}), made("b", {"test/knn": 1.0})], metric="test/kn")
    assert caught.value.hint == "Did you mean 'test/knn'?"


def test_what_makes_figures_incomparable_is_said() -> None:
    one = {"test/knn": 40.0, "test/knn_raw_pixels": 41.0}
    comparison = compare(
        [
            made("a", one, params={"data.probe.test": "x", "data.probe.k": "5"}),
            made("b", {"test/knn": 39.0}, params={"data.probe.test": "y", "data.probe.k": "5"}),
            made("c", {"train/loss": 1.0}, temperature=1, params={"data.probe.k": "5"}),
        ]
    )
    notes = "\n".join(comparison.notes)
    assert "test/knn was not measured in the same way everywhere: data.probe.test differs" in notes
    assert "not ranked, since they have no test/knn: c" in notes
    assert "no less good than the best is raw pixels: test/knn_raw_pixels 41" in notes


def test_an_unknown_run_is_named_with_the_nearest(uri: str, log: Log) -> None:
    log("photos-1", {"test/knn": {1: 1.0}})
    with pytest.raises(UnknownRunError, match="there is no run 'photo-1'") as caught:
        find_runs(uri, ["photos-1", "photo-1"])
    assert caught.value.hint == "Did you mean 'photos-1'?"
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownRunError, match='no run "it\'s"'):
        find_runs(uri, ["it's"])


def test_nothing_tracked_yet_is_said(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared_runs, "EXPERIMENT", "never-made")
    with pytest.raises(UnknownRunError, match="no run is tracked at http"):
        find_runs(uri, ["a", "b"])


def test_one_run_is_too_few_however_often_it_is_named(uri: str, log: Log) -> None:
    log("lonely", {"test/knn": {1: 1.0}})
    with pytest.raises(UserError, match="only one run to compare: lonely"):
        find_runs(uri, ["lonely", "lonely"])
    with pytest.raises(UserError, match="no run is selected"):
        find_runs(uri, pattern="nothing-*")


def test_a_run_without_metrics_is_refused_where_named_and_left_out_where_selected(uri: str, log: Log) -> None:
    log("empty-1", {"test/knn": {1: 1.0}})
    log("empty-2", {"test/knn": {1: 2.0}}, status="FAILED")
    log("empty-3", {}, status="RUNNING")
    with pytest.raises(UserError, match=r"run empty-3 has no metrics yet \(running\)"):
        find_runs(uri, ["empty-1", "empty-3"])
    found = find_runs(uri, pattern="empty-?")
    assert [run.label for run in found.runs] == ["empty-1", "empty-2"]
    assert "left out for want of metrics: empty-3 (running)" in found.notes
    assert any("not final: empty-2 (failed)" in note for note in found.notes)


def test_of_two_runs_of_one_id_the_newest_counts(uri: str, log: Log) -> None:
    old = log("twice", {"test/knn": {1: 1.0}})
    log("once", {"test/knn": {1: 3.0}})
    api = MlflowClient(uri)
    start = api.get_run(old.mlflow_run_id).info.start_time
    new = api.create_run(old.experiment_id, start_time=start + 5000, tags={"reco.run_id": "twice"}).info.run_id
    api.log_metric(new, "test/knn", 2.0)
    found = find_runs(uri, ["twice", "once"])
    assert [run.last["test/knn"] for run in found.runs] == [2.0, 3.0]
    assert any(f"2 runs called twice: the newest is compared ({new})" in note for note in found.notes)


def test_a_sweeps_runs_are_selected_without_its_own(uri: str, log: Log) -> None:
    sweep = open_run(uri, experiment="reco", run_id="find", name="s", params={"epochs": 3}, tags={"reco.code": "abc"})
    MlflowClient(uri).log_metric(sweep.mlflow_run_id, "objective", 1.0)
    for number in range(3):
        log(f"find-t{number:03d}", {"valid/knn": {1: 30.0 + number}}, temperature=0.1 * number, sweep="find")
    assert [run.label for run in find_runs(uri, sweep="find").runs] == ["find-t000", "find-t001", "find-t002"]
    assert [run.label for run in find_runs(uri, pattern="find*").runs] == ["find-t000", "find-t001", "find-t002"]
    both = find_runs(uri, ["find-t002"], pattern="*1", sweep="find")
    assert [run.label for run in both.runs] == ["find-t002", "find-t001"]


def test_values_that_were_no_numbers_are_said(uri: str, log: Log) -> None:
    run = log("nan-1", {"test/knn": {1: 1.0}})
    log("nan-2", {"test/knn": {1: 1.0}})
    broken = json.dumps({"train/loss": {"first_step": 7, "values": 2}})
    MlflowClient(uri).log_batch(run.mlflow_run_id, tags=[RunTag("reco.non_finite", broken)])
    assert any(
        "nan-1" in each and "train/loss from step 7" in each for each in find_runs(uri, ["nan-1", "nan-2"]).notes
    )


def test_many_runs_take_one_search_and_no_request_each(uri: str, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"many-{number:02d}" for number in range(14)]
    for number, run_id in enumerate(ids):
        log(run_id, {"valid/knn": {1: 1.0, 2: number}}, temperature=1 + number)
    asked: list[str] = []
    original = rest_utils.http_request

    def counted(host_creds: object, endpoint: str, method: str, **by: object) -> object:
        asked.append(endpoint.removeprefix("/api/2.0/mlflow/"))
        return original(host_creds, endpoint, method, **by)

    monkeypatch.setattr(rest_utils, "http_request", counted)
    for selection in ({"run_ids": ids}, {"pattern": "many-*"}):
        asked.clear()
        runs = with_best(uri, find_runs(uri, **selection).runs)
        comparison = compare(runs)
        assert len(runs) == 14
        assert asked == ["experiments/get-by-name", "runs/search"]
        assert comparison.verdict.ranked[0].label == "many-13"
        names, rows = leaderboard(comparison)
        assert names == ["", "valid/knn", "method.temperature"]
        assert rows[0] == ["many-13", "13", "14"]


def test_pages_of_runs_are_put_together(uri: str, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        log(f"paged-{number}", {"test/knn": {1: number}}, temperature=number)
    monkeypatch.setattr(search, "PAGE", 2)
    assert len(find_runs(uri, pattern="paged-*").runs) == 5


def test_a_search_reads_what_mlflows_own_client_reads(uri: str, log: Log, tmp_path: Path) -> None:
    log(
        "plain-1",
        {"test/knn": {1: 0.1 + 0.2, 2: 1e300}, "odd": {1: math.nan}, "none": {1: 0.0}},
        note="",
        status="FAILED",
    )
    log("plain-2", {}, status="RUNNING")
    api = MlflowClient(uri)
    number = api.get_experiment_by_name("reco").experiment_id
    query = "tags.`reco.run_id` LIKE 'plain-%'"
    by_client = [search.as_found(run) for run in api.search_runs([number], query, order_by=["start_time DESC"])]
    assert [repr(run) for run in search.search(uri, number, query)] == [repr(run) for run in by_client]
    assert math.isnan(by_client[1].metrics["odd"])
    assert list(search.search(f"sqlite:///{tmp_path}/mlflow.db", "0", "")) == []  # a store without a server


def test_a_search_that_is_refused_is_one_error(uri: str) -> None:
    with pytest.raises(TrackingError, match="could not look: MLflow at http"), explained("look", uri):
        list(search.search(uri, "1", "no such filter"))
    with pytest.raises(TrackingError, match="Connection refused"), explained("look", "http://127.0.0.1:9"):
        list(search.search("http://127.0.0.1:9", "1", ""))


def test_a_server_that_is_gone_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"could not read the runs: MLflow at .* says: Connection refused"):
        find_runs("http://127.0.0.1:9", ["a", "b"])


def test_curves_are_the_mean_over_seeds_in_a_colour_for_each_group(uri: str, log: Log, tmp_path: Path) -> None:
    for seed in range(2):
        log(f"curve-a-{seed}", curves([10, 20, 30 + seed]), seed=seed)
        log(f"curve-b-{seed}", curves([10, 15, 18 + seed]), seed=seed, temperature=0.05)
    comparison = compare(find_runs(uri, pattern="curve-*").runs)
    picture = draw_curves(comparison, tmp_path / "curves.png")
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    for colour in ((37, 99, 235), (234, 88, 12)):
        assert (np.abs(pixels - colour).max(axis=2) < 10).sum() > 200
    third = (5, 150, 105)
    assert (np.abs(pixels - third).max(axis=2) < 10).sum() == 0


def test_no_curve_at_all_is_said(uri: str, log: Log, tmp_path: Path) -> None:
    for number in range(2):
        log(f"flat-{number}", {"test/linear": {1: 1.0 + number}}, temperature=number)
    comparison = compare(find_runs(uri, ["flat-0", "flat-1"]).runs, metric="test/linear")
    with pytest.raises(UserError, match="no run has a history of valid/linear or train/loss"):
        draw_curves(comparison, tmp_path / "curves.png")


def test_the_page_needs_nothing_else_and_hides_no_markup(tmp_path: Path) -> None:
    runs = [made("<b>a", {"test/knn": 40.0}), made("b", {"test/knn": 41.0}, temperature="<i>")]
    picture = tmp_path / "curves.png"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(picture)
    page = write_html(compare(runs, notes=["mind & this"]), tmp_path / "page.html", curves=picture).read_text()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    assert base64.b64encode(picture.read_bytes()).decode() in page
    assert "&lt;b&gt;a" in page
    assert "<b>a" not in page
    assert "<i>" not in page
    assert "mind &amp; this" in page
    assert "<td class=best>41" in page


def test_a_page_of_many_has_a_row_for_each_with_the_best_first(tmp_path: Path) -> None:
    runs = [made(f"r{number}", {"test/knn": float(number)}, temperature=number) for number in range(9)]
    page = write_html(compare(runs), tmp_path / "page.html").read_text()
    assert re.search(r"<tr class=best><td>r8<td>8<td>8", page)
    assert page.index("<td>r8<td>8") < page.index("<td>r0<td>0")


def test_rows_and_json_hold_every_run_and_difference() -> None:
    runs = [replace(run, best={"test/knn": 60.0}) for run in two_groups([40.0, 41.0], [50.0, 52.0]).runs]
    comparison = compare(runs)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, column_names(comparison))
    writer.writeheader()
    writer.writerows(as_rows(comparison))
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["group"] for row in rows] == ["base", "base", "cold", "cold"]
    assert rows[3]["method.temperature"] == "0.05"
    assert (rows[3]["train.seed"], rows[3]["test/knn"], rows[3]["best test/knn"]) == ("1", "52.0", "60.0")
    content = json.loads(json.dumps(as_dict(comparison)))
    assert content["ranked"] == ["cold", "base"]
    assert content["groups"][1]["last"]["test/knn"] == {"mean": 51.0, "sd": pytest.approx(math.sqrt(2)), "n": 2}
    run = content["groups"][1]["runs"][1]
    assert (run["run"], run["seed"], run["last"]["test/knn"], run["best"]["test/knn"]) == ("cold-1", "1", 52.0, 60.0)
    assert {each["name"] for each in content["differences"]} == {"method.temperature", "train.seed"}
    assert content["differences"][0]["values"]["cold-1"] == "0.05"


def test_long_values_are_cut_where_they_are_alike() -> None:
    front = "s3://bucket/" + "x" * 60
    short = shortened([f"{front}/a.tar", f"{front}/b.tar", "–"], 30)
    assert all(len(each) <= 30 for each in short)
    assert short[0].endswith("a.tar")
    assert short[1].endswith("b.tar")
    assert short[2] == "–"
    assert shortened(["a", "b"], 30) == ["a", "b"]
