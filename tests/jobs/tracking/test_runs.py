"""A run in MLflow: found again by its id, its options fixed, its results logged once."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from jobs.errors import UserError
from jobs.tracking.errors import TrackingError
from jobs.tracking.runs import TrackedRun, open_run

NewRun = Callable[[], TrackedRun]


def test_the_same_run_id_opens_the_same_run_and_sets_it_running_again(uri: str) -> None:
    params = {"encoder": {"name": "resnet18", "width": 64}, "seeds": [1, 2]}
    first = open_run(uri, experiment="again", run_id="a", name="mine", params=params, tags={"attempt": 1})
    first.finish("FAILED")
    api = MlflowClient(uri)
    assert api.get_run(first.mlflow_run_id).info.status == "FAILED"
    second = open_run(uri, experiment="again", run_id="a", name="mine", params=params, tags={"attempt": 2})
    assert second.mlflow_run_id == first.mlflow_run_id
    run = api.get_run(first.mlflow_run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "mine"
    assert run.data.params == {"encoder.name": "resnet18", "encoder.width": "64", "seeds": "[1, 2]"}
    assert run.data.tags["attempt"] == "2"
    assert run.data.tags["reco.run_id"] == "a"
    other = open_run(uri, experiment="again", run_id="b", name="mine", params={}, tags={})
    assert other.mlflow_run_id != first.mlflow_run_id


def test_a_changed_option_is_refused_by_name(uri: str) -> None:
    open_run(uri, experiment="changed", run_id="a", name="n", params={"lr": 0.1, "seed": 0}, tags={})
    with pytest.raises(UserError, match=r"options: lr was 0.1, now 0.2\.") as caught:
        open_run(uri, experiment="changed", run_id="a", name="n", params={"lr": 0.2, "seed": 0}, tags={})
    assert caught.value.hint


def test_an_option_too_long_for_mlflow_is_cut_and_stays_equal_to_itself(uri: str) -> None:
    params = {"shards": ["s" * 100] * 200} | {f"option{i}": i for i in range(150)}
    run = open_run(uri, experiment="long", run_id="a", name="n", params=params, tags={})
    again = open_run(uri, experiment="long", run_id="a", name="n", params=params, tags={})
    assert again.mlflow_run_id == run.mlflow_run_id
    stored = MlflowClient(uri).get_run(run.mlflow_run_id).data.params
    assert len(stored) == 151
    assert len(stored["shards"]) == 6000
    assert stored["shards"].endswith("…")


def test_runs_opened_at_once_share_a_new_experiment(uri: str) -> None:
    def open_one(number: int) -> TrackedRun:
        return open_run(uri, experiment="race", run_id=f"r{number}", name="n", params={}, tags={})

    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(open_one, range(6)))
    assert len({run.experiment_id for run in runs}) == 1
    assert len({run.mlflow_run_id for run in runs}) == 6


def test_a_deleted_experiment_is_said_with_what_restores_it(uri: str) -> None:
    api = MlflowClient(uri)
    number = api.create_experiment("gone")
    api.delete_experiment(number)
    with pytest.raises(UserError, match="'gone' was deleted") as caught:
        open_run(uri, experiment="gone", run_id="a", name="n", params={}, tags={})
    assert f"restore -x {number}" in str(caught.value.hint)


def test_high_water_and_history_hold_beyond_one_page_of_mlflow(
    uri: str, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 25,000 points otherwise, which take seconds to log.
    monkeypatch.setattr("mlflow.tracking._tracking_service.client.GET_METRIC_HISTORY_MAX_RESULTS", 100)
    run = new_run()
    # The largest step is neither the last logged nor on the last page.
    steps = [*range(900, 200, -1), *range(100)]
    points = [Metric("train/loss", float(step), time, step) for time, step in enumerate(steps)]
    MlflowClient(uri).log_batch(run.mlflow_run_id, metrics=points)
    assert run.refresh_high_water() == 900
    rows = run.history(["train/loss"])
    assert [row["step"] for row in rows] == sorted(steps)
    assert all(row["train/loss"] == row["step"] for row in rows)


def test_results_are_logged_once_however_often_a_run_is_resumed(uri: str, new_run: NewRun) -> None:
    run = new_run()
    run.log_results({"probe/knn": 0.5}, step=10)
    run.log_results({"probe/knn": 0.5, "probe/linear": 0.6}, step=10)
    run.log_results({"probe/knn": 0.7}, step=20)
    api = MlflowClient(uri)
    points = api.get_metric_history(run.mlflow_run_id, "probe/knn")
    assert [(point.step, point.value) for point in points] == [(10, 0.5), (20, 0.7)]
    assert len(api.get_metric_history(run.mlflow_run_id, "probe/linear")) == 1


def test_a_result_that_is_no_number_is_flagged_instead_of_stored(uri: str, new_run: NewRun) -> None:
    run = new_run()
    run.log_results({"probe/knn": math.nan, "probe/linear": 0.6}, step=10)
    stored = MlflowClient(uri).get_run(run.mlflow_run_id).data
    assert stored.metrics == {"probe/linear": 0.6}
    assert stored.tags["reco.non_finite"] == '{"probe/knn": {"first_step": 10, "values": 1}}'


def test_results_cannot_disturb_the_high_water_mark(new_run: NewRun) -> None:
    with pytest.raises(ValueError, match="train/loss"):
        new_run().log_results({"train/loss": 1.0}, step=10)


def test_a_file_and_a_figure_arrive_where_they_belong(uri: str, new_run: NewRun, tmp_path: Path) -> None:
    run = new_run()
    (tmp_path / "curves.png").write_bytes(b"picture")
    (tmp_path / "spec.yaml").write_text("name: x\n")
    run.log_figure(tmp_path / "curves.png")
    run.log_artifact(tmp_path / "spec.yaml")
    api = MlflowClient(uri)
    assert [each.path for each in api.list_artifacts(run.mlflow_run_id)] == ["figures", "spec.yaml"]
    assert [each.path for each in api.list_artifacts(run.mlflow_run_id, "figures")] == ["figures/curves.png"]


def test_a_server_that_is_gone_is_one_error_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        TrackingError, match=r"could not open run a: MLflow at http://127\.0\.0\.1:9 says: Connection refused"
    ) as caught:
        open_run("http://127.0.0.1:9", experiment="e", run_id="a", name="n", params={}, tags={})
    assert caught.value.__cause__ is not None
    assert "\n" not in caught.value.message
