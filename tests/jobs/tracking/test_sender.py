"""Metrics on their way: every step once and in order, whatever dies in between."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.store.tracking.rest_store import RestStore

from jobs.tracking.errors import TrackingError
from jobs.tracking.runs import MetricSender, TrackedRun, open_run
from jobs.tracking.server import server_status, tracking_uri
from jobs.tracking.spool import Record, Spool

NewRun = Callable[[], TrackedRun]
NOWHERE = "http://127.0.0.1:9"


def loss(step: int) -> float:
    return 8.0 / (1 + step)


def log(sender: MetricSender, steps: range) -> None:
    for step in steps:
        sender.log(step, pictures=step * 64, metrics={"train/loss": loss(step), "lr": 0.1})


def assert_stored_once_and_in_order(run: TrackedRun, steps: range) -> None:
    api = MlflowClient(run.uri)
    for name in ("train/loss", "lr", "pictures_seen", "train/loss_by_pictures"):
        points = api.get_metric_history(run.mlflow_run_id, name)
        scale = 64 if name == "train/loss_by_pictures" else 1
        assert sorted(point.step for point in points) == [step * scale for step in steps], name
        # By the time they were measured they never go back.
        by_time = [point.step for point in sorted(points, key=lambda point: (point.timestamp, point.step))]
        assert by_time == sorted(by_time), name
    points = api.get_metric_history(run.mlflow_run_id, "train/loss")
    assert {point.step: point.value for point in points} == {step: loss(step) for step in steps}
    seen = api.get_metric_history(run.mlflow_run_id, "pictures_seen")
    assert all(point.value == point.step * 64 for point in seen)


def test_every_step_arrives_against_steps_and_against_pictures(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run()
    sender = MetricSender(run, spool=tmp_path / "spool.jsonl")
    log(sender, range(500))
    assert sender.close(60) == 0
    assert_stored_once_and_in_order(run, range(500))
    assert run.refresh_high_water() == 499


def test_steps_repeated_after_a_checkpoint_are_not_logged_twice(uri: str, new_run: NewRun, tmp_path: Path) -> None:
    run = new_run()
    sender = MetricSender(run, spool=tmp_path / "first.jsonl")
    log(sender, range(40))
    assert sender.close(60) == 0
    # On another machine: without the first spool.
    again = open_run(uri, experiment="tests", run_id=run.run_id, name="n", params={}, tags={})
    assert again.high_water == 39
    sender = MetricSender(again, spool=tmp_path / "second.jsonl")
    log(sender, range(20, 60))
    assert sender.close(60) == 0
    assert_stored_once_and_in_order(run, range(60))


def test_an_outage_of_the_server_loses_and_repeats_nothing(
    uri: str, tracking_home: Path, new_run: NewRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run()
    sender = MetricSender(run, spool=tmp_path / "spool.jsonl", retry_seconds=(0.2, 1.0))
    log(sender, range(50))
    pid = server_status(tracking_home).pid
    assert pid is not None
    # In the middle of sending: what is under way may or may not be stored.
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # the leader ends with its worker
            process.kill()
    with caplog.at_level(logging.WARNING, logger="jobs.tracking"):
        log(sender, range(50, 300))
        assert sender.flush(3) > 0
        assert tracking_uri(tracking_home) == uri
        log(sender, range(300, 320))
        assert sender.close(60) == 0
    assert_stored_once_and_in_order(run, range(320))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "takes no metrics (" in messages[0]  # for one of several reasons, as the kill came when it came
    assert "takes metrics again" in messages[1]


def test_what_a_killed_process_had_not_sent_is_sent_by_the_next(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run()
    spool = tmp_path / "spool.jsonl"
    sender = MetricSender(run, spool=spool)
    log(sender, range(30))
    assert sender.close(60) == 0
    run.refresh_high_water()
    # The second attempt starts at its checkpoint, finds the server away, and is killed.
    script = f"""
import os, signal
from pathlib import Path
from jobs.tracking.runs import MetricSender, TrackedRun
run = TrackedRun({NOWHERE!r}, {run.run_id!r}, {run.mlflow_run_id!r}, "1", high_water={run.high_water})
sender = MetricSender(run, spool=Path({str(spool)!r}))
for step in range(20, 80):
    sender.log(step, step * 64, {{"train/loss": 8.0 / (1 + step), "lr": 0.1}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    with spool.open("a") as file:
        file.write('{"run":"' + run.run_id + '","step":80,"pictu')  # a line the crash cut off
    sender = MetricSender(run, spool=spool)
    assert sender.unsent > 0
    log(sender, range(60, 100))
    assert sender.close(60) == 0
    assert_stored_once_and_in_order(run, range(100))


def test_a_spool_is_cut_down_to_what_was_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(path, "a")
    assert spool.recover(after=-1) == []
    records = [Record("a", step, step, step, {"train/loss": float(step)}) for step in range(10)]
    for record in records:
        spool.append(record)
    spool.close()
    assert Spool(path, "a").recover(after=6) == records[7:]
    assert len(path.read_text().splitlines()) == 3


def test_a_request_that_arrived_though_its_answer_was_lost_is_not_stored_twice(
    new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    real, calls = TrackedRun.send, []

    def send_and_lose_the_answer(self: TrackedRun, records: list[object]) -> None:
        real(self, records)  # type: ignore[arg-type]
        calls.append(len(records))
        if len(calls) == 1:
            raise TrackingError("the connection broke after the request")

    monkeypatch.setattr(TrackedRun, "send", send_and_lose_the_answer)
    sender = MetricSender(run, spool=tmp_path / "spool.jsonl", retry_seconds=(0.05, 0.1))
    log(sender, range(50))
    assert sender.close(60) == 0
    assert sum(calls) == 50
    assert_stored_once_and_in_order(run, range(50))


@pytest.mark.parametrize(("metrics_per_step", "expected_requests"), [(641, 6), (499, 6), (332, 2)])
def test_a_step_is_never_split_over_two_requests(
    metrics_per_step: int, expected_requests: int, new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[set[int]] = []
    real = RestStore.log_batch

    def observed(self: RestStore, *, run_id: str, metrics: list[Metric], **others: object) -> None:
        # The loss against pictures has pictures for steps.
        requests.append({point.step for point in metrics if point.key != "train/loss_by_pictures"})
        real(self, run_id=run_id, metrics=metrics, **others)

    run = new_run()
    # Gathered while the server is away, so that they could go together.
    sender = MetricSender(replace(run, uri=NOWHERE), spool=tmp_path / "spool.jsonl")
    for step in range(6):
        many = {f"m{index}": float(step) for index in range(metrics_per_step - 2)}
        sender.log(step, step, {"train/loss": 1.0, "nan": math.nan, **many})
    assert sender.close(0) == 6
    monkeypatch.setattr(RestStore, "log_batch", observed)
    assert MetricSender(run, spool=tmp_path / "spool.jsonl").close(20) == 0
    assert sum(len(steps) for steps in requests) == 6
    assert len(requests) == expected_requests
    assert [row["m9"] for row in run.history(["m9"])] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_values_that_are_no_numbers_are_counted_instead_of_stored(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run()
    sender = MetricSender(run, spool=tmp_path / "spool.jsonl")
    sender.log(1, 64, {"train/loss": 2.0, "lr": 0.1})
    sender.log(2, 128, {"train/loss": math.nan, "lr": 0.1})
    sender.log(3, 192, {"train/loss": math.inf, "lr": -math.inf})
    assert sender.close(60) == 0
    assert [point.value for point in MlflowClient(run.uri).get_metric_history(run.mlflow_run_id, "train/loss")] == [2.0]
    tags = MlflowClient(run.uri).get_run(run.mlflow_run_id).data.tags
    assert json.loads(tags["reco.non_finite"]) == {
        "train/loss": {"first_step": 2, "values": 2},
        "lr": {"first_step": 3, "values": 1},
    }
    assert run.refresh_high_water() == 3  # a step without a loss counts as logged


def test_closing_during_an_outage_says_what_is_left_and_keeps_it(
    new_run: NewRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run()
    away = replace(run, uri=NOWHERE)
    sender = MetricSender(away, spool=tmp_path / "spool.jsonl")
    log(sender, range(25))
    assert sender.close(0.5) == 25
    assert "25 logged steps have not reached MLflow" in caplog.text
    sender = MetricSender(run, spool=tmp_path / "spool.jsonl")
    assert sender.close(60) == 0
    assert_stored_once_and_in_order(run, range(25))


def test_damaged_and_foreign_lines_are_left_out_and_said(
    new_run: NewRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run()
    spool = tmp_path / "spool.jsonl"
    sender = MetricSender(replace(run, uri=NOWHERE), spool=spool)
    log(sender, range(3))
    sender.close(0)
    lines = spool.read_text().splitlines()
    foreign = lines[0].replace(run.run_id, "other").replace('"step":0', '"step":9')
    spool.write_text("\n".join([lines[0], "{broken", foreign, *lines[1:]]) + "\n")
    caplog.clear()
    sender = MetricSender(run, spool=spool)
    assert sender.close(60) == 0
    assert "line 2 is damaged" in caplog.text
    assert "line 3 belongs to run other" in caplog.text
    assert_stored_once_and_in_order(run, range(3))


def test_misuse_is_refused_at_the_call(new_run: NewRun, tmp_path: Path) -> None:
    sender = MetricSender(new_run(), spool=tmp_path / "spool.jsonl")
    sender.log(5, 5, {"train/loss": 1.0})
    with pytest.raises(ValueError, match="step 5 after step 5"):
        sender.log(5, 5, {"probe/knn": 1.0})
    with pytest.raises(ValueError, match="metric name"):
        sender.log(6, 6, {"train#loss": 1.0})
    assert sender.close(60) == 0


def test_a_spool_that_cannot_be_written_is_said_before_training(new_run: NewRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="cannot keep metrics in"):
        MetricSender(new_run(), spool=tmp_path / "file" / "spool.jsonl")
