"""The loop whole: it learns, resumes at the same sample, is the same on two ranks, and needs neither Ray nor MLflow."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs.checkpoints.fence import Fence
from jobs.checkpoints.manifest import list_manifests
from jobs.run_folder import Record, RunFolder
from jobs.spec import parse_spec
from jobs.training import meeting
from jobs.training.divergence import DivergedError
from jobs.training.feed import DeviceBatch, Feed
from jobs.training.learner import Learner
from jobs.training.loop import Trainer
from jobs.training.plan import PlanError
from jobs.training.ranks import Ranks
from jobs.training.run import run
from jobs.training.watchdog import Watchdog
from tests.pictures import tiny_spec, write_shards
from tests.ranks import run_on_ranks

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train") / "shards", samples=200)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("probe") / "shards", samples=80, seed=1)


def train(rank: int, world_size: int, text: str, storage: str, run_id: str) -> None:
    spec = parse_spec(text)
    folder = RunFolder(storage, run_id)
    if rank == 0:
        folder.claim(spec)
    run(spec, folder=folder, ranks=Ranks(rank, world_size, torch.device("cpu")))


def losses(records: list[Record]) -> dict[int, float]:
    return {record["step"]: record["metrics"]["train/loss"] for record in records}


def test_a_run_keeps_records_result_and_checkpoints(shards: Path, probe: Path, tmp_path: Path) -> None:
    spec = parse_spec(tiny_spec(shards, probe=probe))
    folder = RunFolder(str(tmp_path), "r")
    folder.claim(spec)
    results = run(spec, folder=folder, ranks=ALONE)

    assert results is not None
    assert results == folder.result()
    assert results["k"] == 5
    assert {"valid/knn", "valid/linear", "valid/knn_untrained", "valid/knn_raw_pixels"} <= results.keys()
    assert results["valid/linear"] > 50
    records = folder.records()
    assert [record["step"] for record in records] == list(range(2, 25, 2))  # 6 steps an epoch, 4 epochs, every 2nd
    assert [r["step"] for r in records if "valid/knn" in r["metrics"]] == [12, 24]
    assert records[-1]["pictures"] == 24 * 32
    for name in (
        "train/contrast",
        "train/global_relation_kl",
        "train/local_relation",
        "health/rank_me",
        "time/data_wait",
        "time/update",
    ):
        assert name in records[0]["metrics"], name
    for record in records:
        parts = [record["metrics"][f"time/{phase}"] for phase in ("views", "forward", "backward", "update")]
        assert min(parts) > 0
        assert sum(parts) < 1  # the rest is waiting
    progress = folder.progress()
    assert progress is not None
    assert (progress["phase"], progress["step"], progress["total_steps"]) == ("done", 24, 24)


def test_resume_after_kill_continues_at_the_same_sample(shards: Path, tmp_path: Path) -> None:
    spec_file = tmp_path / "spec.yaml"
    spec_file.write_text(tiny_spec(shards, train__epochs=8))
    command = [sys.executable, "-m", "jobs.training", str(spec_file), "--storage", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--run-id", "whole"], check=True, env=environment, capture_output=True)

    killed = subprocess.Popen([*command, "--run-id", "cut"], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cut/checkpoints/*/manifest.json")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    cut = RunFolder(str(tmp_path), "cut")
    assert cut.result() is None
    subprocess.run([*command, "--run-id", "cut"], check=True, env=environment, capture_output=True)

    progress = cut.progress()
    assert progress is not None
    assert progress["resumed_from"] > 0
    assert losses(cut.records()) == losses(RunFolder(str(tmp_path), "whole").records())  # bit-equal, no step missing
    states = [
        torch.load(sorted(tmp_path.glob(f"{name}/checkpoints/*/state.pt"))[-1], weights_only=True)["model"]
        for name in ("cut", "whole")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_two_ranks_train_what_one_trains(shards: Path, probe: Path, tmp_path: Path) -> None:
    text = tiny_spec(shards, probe=probe, train__epochs=2)
    train(0, 1, text, str(tmp_path), "one")
    run_on_ranks(train, 2, text, str(tmp_path), "two")
    one, two = RunFolder(str(tmp_path), "one"), RunFolder(str(tmp_path), "two")
    first, second = losses(one.records()), losses(two.records())
    assert first.keys() == second.keys()
    assert [second[step] for step in first] == pytest.approx(list(first.values()), rel=2e-3)


def test_a_run_continues_on_another_number_of_ranks(shards: Path, tmp_path: Path) -> None:
    text = tiny_spec(shards, train__epochs=2)
    train(0, 1, text, str(tmp_path), "one")
    folder = RunFolder(str(tmp_path), "moved")
    folder.claim(parse_spec(text))
    folder.storage.write("stop", b"")  # stops at the first logging step, having saved
    assert run(parse_spec(text), folder=folder, ranks=ALONE) is None or folder.result()
    folder.begin_attempt()
    run_on_ranks(train, 2, text, str(tmp_path), "moved")
    first = losses(RunFolder(str(tmp_path), "one").records())
    assert [losses(folder.records())[step] for step in first] == pytest.approx(list(first.values()), rel=2e-3)


@pytest.mark.parametrize("ranks_after", [1, 2])
def test_a_run_stopped_between_two_logging_steps_shows_no_seam(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks_after: int
) -> None:
    text = tiny_spec(shards, train__log_every=500, train__probe_every=500, checkpoint__every="1h")
    train(0, 1, text, str(tmp_path), "whole")
    step = Trainer.train_step

    def asked_at_step_9(trainer: Trainer, ready: DeviceBatch) -> dict[str, torch.Tensor]:
        if trainer.step == 8:
            trainer.heartbeat.request_stop()
        return step(trainer, ready)

    folder = RunFolder(str(tmp_path), "cut")
    folder.claim(parse_spec(text))
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", asked_at_step_9)
        patched.setattr(meeting, "_EVERY_S", 0.0)  # rather than wait five seconds
        assert run(parse_spec(text), folder=folder, ranks=ALONE) is None
    assert [manifest.step for manifest in list_manifests(folder.storage)] == [9]
    assert folder.records() == []
    folder.begin_attempt()
    if ranks_after == 1:
        train(0, 1, text, str(tmp_path), "cut")
    else:
        run_on_ranks(train, ranks_after, text, str(tmp_path), "cut")
    whole, cut = losses(RunFolder(str(tmp_path), "whole").records()), losses(folder.records())
    assert list(cut) == list(whole) == [24]
    assert cut == (whole if ranks_after == 1 else pytest.approx(whole, rel=2e-3))


WITHOUT = """
import sys, runpy
for name in ("ray", "mlflow"):
    sys.modules[name] = None
sys.argv = ["jobs.training", *sys.argv[1:]]
runpy.run_module("jobs.training", run_name="__main__")
"""


def test_the_loop_runs_with_ray_and_mlflow_unimportable(shards: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards, train__epochs=1))
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(spec), "--storage", str(tmp_path), "--run-id", "plain"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "train/rank_me" in json.loads(ran.stdout)


def test_torchrun_starts_it_on_two_ranks(shards: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards, train__epochs=1))
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "jobs.training", str(spec), "--storage", str(tmp_path), "--run-id", "torchrun"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert RunFolder(str(tmp_path), "torchrun").result() is not None


def test_a_loss_that_is_no_number_stops_the_run_with_the_step(shards: Path, tmp_path: Path) -> None:
    spec = parse_spec(tiny_spec(shards, optimizer__lr=1.0e30))
    folder = RunFolder(str(tmp_path), "nan")
    folder.claim(spec)
    with pytest.raises(
        DivergedError, match=r"became nan \(contrast, global_relation, local_relation\) at step 2; no checkpoint"
    ):
        run(spec, folder=folder, ranks=ALONE)


def test_weights_spoiled_by_an_update_never_become_a_checkpoint(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the step whose update spoils them is still a number, and a checkpoint is due right after it."""
    learn = Learner.learn

    def spoiling(learner: Learner, *given: object, step: int, **more: object) -> object:
        output = learn(learner, *given, step=step, **more)  # type: ignore[arg-type]
        if step == 7:
            with torch.no_grad():
                next(learner.model.query_encoder.parameters())[0] = torch.inf
        return output

    monkeypatch.setattr(Learner, "learn", spoiling)
    spec = parse_spec(tiny_spec(shards))
    folder = RunFolder(str(tmp_path), "spoiled")
    folder.claim(spec)
    with pytest.raises(DivergedError, match=r"weights .* at step 8; the last good checkpoint is that of step 4\."):
        run(spec, folder=folder, ranks=ALONE)
    assert [manifest.step for manifest in list_manifests(folder.storage)] == [4]


def test_a_queue_longer_than_half_the_data_is_refused(shards: Path, tmp_path: Path) -> None:
    spec = parse_spec(tiny_spec(shards, method__queue_size=101))
    with pytest.raises(PlanError, match="queue_size 101 is longer than half of the 200"):
        run(spec, folder=RunFolder(str(tmp_path), "q"), ranks=ALONE)


def test_a_batch_larger_than_the_data_is_refused(shards: Path, tmp_path: Path) -> None:
    spec = parse_spec(tiny_spec(shards, train__global_batch_size=256, method__queue_size=256))
    with pytest.raises(PlanError, match="200 pictures, fewer than one global batch of 256"):
        run(spec, folder=RunFolder(str(tmp_path), "b"), ranks=ALONE)


def test_a_probe_without_labels_is_refused(shards: Path, tmp_path: Path) -> None:
    unlabelled = write_shards(tmp_path / "unlabelled", samples=40, labels=False)
    spec = parse_spec(tiny_spec(shards, probe=unlabelled))
    with pytest.raises(PlanError, match=r"data\.probe\.train: 40 of 40 samples have no label"):
        run(spec, folder=RunFolder(str(tmp_path), "p"), ranks=ALONE)


def test_a_run_id_is_not_reused_for_another_experiment(shards: Path, tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "same")
    folder.claim(parse_spec(tiny_spec(shards)))
    folder.claim(parse_spec(tiny_spec(shards, optimizer__lr=0.4)))  # nothing has begun yet
    folder.claim(parse_spec(tiny_spec(shards)))
    Fence.take(folder.storage)
    folder.claim(parse_spec(tiny_spec(shards, scale__cpus_per_worker=2)))  # how it is carried out may change
    with pytest.raises(Exception, match="exists with another spec"):
        folder.claim(parse_spec(tiny_spec(shards, optimizer__lr=0.5)))


def test_probes_without_a_common_class_are_refused(shards: Path, probe: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    with tarfile.open(others / "x.tar", "w") as tar:
        for number in range(8):
            for suffix, data in (("png", PIXEL), ("cls", str(10 + number % 2).encode())):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    spec = parse_spec(tiny_spec(shards, probe=probe, data__probe__valid=others))
    with pytest.raises(PlanError, match=r"data\.probe\.valid has no class in common"):
        run(spec, folder=RunFolder(str(tmp_path), "r"), ranks=ALONE)


def test_a_rank_that_waits_for_pictures_says_so_after_a_logging_step_too(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[tuple[str, int]] = []
    asked: list[tuple[str, int]] = []
    batches = Feed.__iter__

    def noted(_watchdog: Watchdog, phase: str, step: int) -> None:
        entered.append((phase, step))

    def watched(feed: Feed) -> Iterator[DeviceBatch]:
        given = batches(feed)
        while True:
            asked.append(entered[-1])
            ready = next(given, None)
            if ready is None:
                return
            yield ready

    monkeypatch.setattr(Watchdog, "enter", noted)
    monkeypatch.setattr(Feed, "__iter__", watched)
    text = tiny_spec(shards, train__epochs=1, train__log_every=2)
    train(0, 1, text, str(tmp_path), "waits")
    assert asked[:7] == [("wait", step) for step in range(7)]  # 6 steps, every 2nd is logged; probes read after the end
