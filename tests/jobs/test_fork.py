"""A fork begins with another run's encoders and nothing else of it, the same however often it is started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import pretrain
from jobs.checkpoints.fork import begin_from, load_encoders
from jobs.checkpoints.load import CheckpointError
from jobs.checkpoints.manifest import list_manifests
from jobs.errors import UserError
from jobs.loading.process import LoaderProcess
from jobs.reco import ReCo, StepViews
from jobs.run_folder import RunFolder
from jobs.spec import RunSpec, parse_spec
from jobs.tracking.models import find_model
from jobs.training.feed import DeviceBatch
from jobs.training.heartbeat import Heartbeat
from jobs.training.loop import Trainer
from jobs.training.plan import method_config, open_data
from jobs.training.ranks import Ranks
from jobs.training.recorder import NoRecorder
from jobs.training.run import run
from jobs.training.timing import Window
from jobs.training.watchdog import Watchdog
from jobs.views import Views
from tests.pictures import tiny_spec, write_shards
from tests.ranks import run_on_ranks
from tests.s3 import S3Server

ALONE = Ranks(0, 1, torch.device("cpu"))
ENCODERS = ("query_encoder.", "key_encoder.")


class CutError(Exception):
    """Ends a run in the middle of a step, as a kill does."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train") / "shards", samples=200)


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of twelve steps, with checkpoints after 4, 8 and 12; not to be changed."""
    folder = RunFolder(str(tmp_path_factory.mktemp("runs")), "origin")
    spec = parse_spec(tiny_spec(shards, train__epochs=2))
    folder.claim(spec)
    run(spec, folder=folder, ranks=ALONE)
    return folder


@pytest.fixture
def origin(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it, which may be changed."""
    shutil.copytree(trained.url, tmp_path / "origin")
    return RunFolder(str(tmp_path), "origin")


@pytest.fixture
def fork(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path), "fork")


@pytest.fixture(scope="module")
def spec(shards: Path) -> RunSpec:
    """The fork's: other data order, other draws, another learning rate, a longer queue."""
    return parse_spec(
        tiny_spec(shards, train__epochs=3, train__seed=7, train__log_every=1, optimizer__lr=0.01, method__queue_size=96)
    )


@contextmanager
def trainer(spec: RunSpec, folder: RunFolder, ranks: Ranks = ALONE) -> Iterator[Trainer]:
    """What a rank trains with, about to take up where the run stands."""
    with Watchdog(folder, rank=ranks.rank, limit_s=600) as watchdog, LoaderProcess(threads=1) as loader:
        yield Trainer(
            spec,
            open_data(spec, loader),
            folder=folder,
            ranks=ranks,
            heartbeat=Heartbeat(folder),
            watchdog=watchdog,
            recorder=NoRecorder(),
            saver=None,
        )


def stored(folder: RunFolder, step: int) -> dict[str, Any]:
    """The model in a checkpoint, read by other means than the code under test."""
    path = Path(folder.url) / f"checkpoints/step-{step:012d}/state.pt"
    model: dict[str, Any] = torch.load(path, weights_only=True)["model"]
    return model


def encoders_of(model: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.items() if name.startswith(ENCODERS)}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_fork_begins_with_both_encoders_and_everything_else_is_new(
    origin: RunFolder, fork: RunFolder, spec: RunSpec
) -> None:
    begin_from(fork, origin.url, spec)
    before = encoders_of(stored(origin, 12))
    assert any("running_mean" in name for name in before)
    assert any(name.startswith("key_encoder.head.") for name in before)
    with trainer(spec, fork) as forked:
        untrained = {name: value.clone() for name, value in forked.model.state_dict().items()}
        forked.restore()
        now = forked.model.state_dict()
        assert_same(encoders_of(now), before)
        rest = now.keys() - before.keys()
        assert rest == {"strong_queue", "weak_queue", "queue_pointer"}
        assert_same({name: now[name] for name in rest}, {name: untrained[name] for name in rest})
        assert forked.step == 0
        assert not forked.learner.optimizer.state


def test_the_first_loss_is_that_of_the_old_encoders(origin: RunFolder, fork: RunFolder, spec: RunSpec) -> None:
    begin_from(fork, origin.url, spec)
    with trainer(spec, fork) as forked:
        forked.restore()
        with forked.open_feed() as feed:
            batches = forked.timed(feed)
            forked.window = Window(ALONE.device, forked.stream.counters)
            ready = next(batches)
            expected = loss_of(spec, stored(origin, 12), ready)
            assert float(forked.train_step(ready)["loss"]) == expected
            assert loss_of(spec, {}, ready) != expected


def loss_of(spec: RunSpec, weights: dict[str, Any], batch: DeviceBatch) -> float:
    """The method's loss at step 0, with the encoders among some weights and new queues."""
    model = ReCo(method_config(spec)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.load_state_dict(encoders_of(weights), strict=False)
    views = Views(spec.views, image_size=spec.data.image_size, seed=spec.train.seed)
    sample_ids = batch.batch.sample_ids
    query, key = views.strong(batch.pictures, epoch=0, sample_ids=sample_ids, views=(0, 1))
    weak = views.weak(batch.pictures, epoch=0, sample_ids=sample_ids, view=2)
    output = model.train()(StepViews(query, key, weak), step=0)
    return float(output.terms["loss"])


def test_a_fork_that_is_killed_twice_equals_one_that_was_not(
    origin: RunFolder, fork: RunFolder, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RunFolder(str(tmp_path), "undisturbed")
    for folder in (whole, fork):
        folder.claim(spec)
        begin_from(folder, origin.url, spec)
    run(spec, folder=whole, ranks=ALONE)

    step, cuts = Trainer.train_step, [2, 10]  # before its first checkpoint, and between two later ones

    def cut_short(trainer: Trainer, ready: DeviceBatch) -> dict[str, torch.Tensor]:
        if cuts and trainer.step == cuts[0]:
            del cuts[0]
            raise CutError
        return step(trainer, ready)

    monkeypatch.setattr(Trainer, "train_step", cut_short)
    with pytest.raises(CutError):
        run(spec, folder=fork, ranks=ALONE)
    assert not list_manifests(fork.storage)
    shutil.rmtree(origin.url)  # what it came from may train on, lose old checkpoints, or be deleted
    begin_from(fork, origin.url, spec)
    with pytest.raises(CutError):
        run(spec, folder=fork, ranks=ALONE)
    begin_from(fork, origin.url, spec)
    run(spec, folder=fork, ranks=ALONE)

    assert_same(stored(fork, 18), stored(whole, 18))
    losses = [[record["metrics"]["train/loss"] for record in folder.records()] for folder in (fork, whole)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 18
    assert [(attempt["forked_from"], attempt["forked_step"]) for attempt in fork.attempts()] == [("origin", "12")] * 3


def test_what_a_fork_begins_with_is_chosen_once(
    origin: RunFolder, trained: RunFolder, fork: RunFolder, spec: RunSpec
) -> None:
    first = begin_from(fork, origin.url, spec)
    assert first is not None
    assert first.lineage == {
        "forked_from": "origin",
        "forked_step": "12",
        "forked_sha256": list_manifests(origin.storage)[0].sha256,
    }
    shutil.rmtree(Path(origin.url) / "checkpoints/step-000000000012")
    assert begin_from(fork, f"{origin.url}/", spec) == first == fork.origin()
    with pytest.raises(UserError, match="was started with the weights of"):
        begin_from(fork, trained.url, spec)


def test_a_run_with_checkpoints_of_its_own_goes_on_from_these(
    trained: RunFolder, origin: RunFolder, spec: RunSpec
) -> None:
    assert begin_from(origin, trained.url, spec) is None
    assert origin.origin() is None


def test_a_damaged_checkpoint_is_passed_over(origin: RunFolder, fork: RunFolder, spec: RunSpec) -> None:
    damage(origin, 12)
    found = begin_from(fork, origin.url, spec)
    assert found is not None
    assert found.step == 8
    encoders = load_encoders(fork, found)
    copied = {
        f"{branch}_encoder.{name}": value for branch in ("query", "key") for name, value in encoders[branch].items()
    }
    assert_same(copied, encoders_of(stored(origin, 8)))


def test_without_a_whole_checkpoint_nothing_is_forked(origin: RunFolder, fork: RunFolder, spec: RunSpec) -> None:
    for step in (4, 8, 12):
        damage(origin, step)
    with pytest.raises(UserError, match="run origin cannot be forked: all 3 checkpoints"):
        begin_from(fork, origin.url, spec)
    shutil.rmtree(Path(origin.url) / "checkpoints")
    with pytest.raises(UserError, match="run origin cannot be forked: there is no whole checkpoint"):
        begin_from(fork, origin.url, spec)
    with pytest.raises(UserError, match="there is no run"):
        begin_from(fork, f"{origin.parent}/nobody", spec)
    assert not list(fork.storage.list(""))


def test_a_damaged_copy_is_told_rather_than_trained_from(origin: RunFolder, fork: RunFolder, spec: RunSpec) -> None:
    found = begin_from(fork, origin.url, spec)
    assert found is not None
    path = Path(fork.url) / found.weights
    path.write_bytes(path.read_bytes()[:-1])
    with trainer(spec, fork) as forked, pytest.raises(CheckpointError, match="not what was copied there"):
        forked.restore()


def test_another_encoder_is_refused_before_anything_starts(
    origin: RunFolder, fork: RunFolder, shards: Path, tmp_path: Path
) -> None:
    other = parse_spec(tiny_spec(shards, encoder__width=16, encoder__stem="imagenet", method__projection_dim=32))
    fork.claim(other)
    with pytest.raises(UserError) as refused:
        pretrain.pretrain(other, fork, home=tmp_path / "home", weights_from=origin.url)
    for words in (
        "encoder.stem is imagenet, there cifar",
        "encoder.width is 16, there 8",
        "method.projection_dim is 32, there 16",
    ):
        assert words in refused.value.message
    assert [stored.key for stored in fork.storage.list("")] == ["spec.yaml"]
    assert not (tmp_path / "home").exists()


def test_runs_in_s3_are_forked(
    origin: RunFolder, spec: RunSpec, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_s3.use(monkeypatch)
    runs = f"s3://{moto_s3.new_bucket()}/runs"
    there = RunFolder(runs, "origin")
    for path in sorted(Path(origin.url).rglob("*")):
        if path.is_file():
            there.storage.upload(str(path.relative_to(origin.url)), path)
    fork = RunFolder(runs, "fork")
    assert begin_from(fork, there.url, spec) is not None
    with trainer(spec, fork) as forked:
        forked.restore()
        assert_same(encoders_of(forked.model.state_dict()), encoders_of(stored(origin, 12)))


def test_all_ranks_begin_with_the_same_encoders(origin: RunFolder, fork: RunFolder, spec: RunSpec) -> None:
    begin_from(fork, origin.url, spec)
    expected = encoders_of(stored(origin, 12))
    for found in run_on_ranks(encoders_at_the_start, 2, spec.model_dump_json(), fork.parent):
        assert_same(found, expected)


def encoders_at_the_start(rank: int, world_size: int, spec: str, storage: str) -> dict[str, torch.Tensor]:
    ranks = Ranks(rank, world_size, torch.device("cpu"))
    with trainer(RunSpec.model_validate_json(spec), RunFolder(storage, "fork"), ranks) as forked:
        forked.restore()
        return encoders_of(forked.model.state_dict())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_without_a_spec_forks_and_says_so_wherever_one_looks(
    origin: RunFolder, fork: RunFolder, shards: Path, tracking_home: Path, uri: str
) -> None:
    from mlflow import MlflowClient

    spec = parse_spec(tiny_spec(shards, train__epochs=1, register="{model: forked-encoder}"))
    fork.claim(spec)
    command = [sys.executable, "-m", "jobs.pretrain", "--run-id", "fork", "--storage", fork.parent]
    command += ["--home", str(tracking_home), "--weights-from", origin.url]
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    ran = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]

    lineage = {
        "forked_from": "origin",
        "forked_step": "12",
        "forked_sha256": list_manifests(origin.storage)[0].sha256,
    }
    (attempt,) = fork.attempts()
    assert lineage.items() <= attempt.items()
    version = find_model("forked-encoder@candidate", uri)
    assert lineage.items() <= version.lineage.items()
    tags = MlflowClient(uri).get_run(version.mlflow_run_id).data.tags
    assert {f"reco.{name}": value for name, value in lineage.items()}.items() <= tags.items()


def test_a_job_without_a_spec_wants_a_run_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = ["--run-id", "nobody", "--storage", str(tmp_path), "--home", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["jobs.pretrain", *given])
    assert pretrain.main() == 2
    assert f"there is no run nobody in {tmp_path}" in caplog.text
    assert not list(tmp_path.iterdir())


def damage(folder: RunFolder, step: int) -> None:
    """Change one byte in the middle of a checkpoint."""
    path = Path(folder.url) / f"checkpoints/step-{step:012d}/state.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
