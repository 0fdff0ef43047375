"""The comparison goes on where a piece of it ended, runs nothing twice, and is fair where it says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import (
    GRIDS,
    MOCO_GRID,
    PIECES_LEFT,
    RECO_GRID,
    SPEC,
    around,
    main,
    mean_curve,
    parse,
    runs_to_compare,
    shards_of,
    trials,
    units,
)
from jobs.run_folder import RunFolder
from jobs.spec import load_spec
from tests.pictures import write_shards

TINY = {
    "data.image_size": 16,
    "data.probe.k": 5,
    "encoder.name": "resnet10",
    "encoder.width": 8,
    "method.projection_dim": 16,
    "method.queue_size": 64,
    "method.groups": 4,
    "train.global_batch_size": 16,
    "train.precision": "fp32",
    "train.log_every": 5,
    "train.probe_every": 1,
    "scale.cpus_per_worker": 1,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar10")
    for part, samples, seed in (("train", 800, 0), ("test", 80, 1)):
        for shard in write_shards(folder / part, samples=samples, shard_samples=200, seed=seed).glob("*.tar"):
            shard.rename(folder / shard.name.replace("part", f"cifar10-{part}"))
        (folder / part).rmdir()
    return folder


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the benchmark as its command line does: exit code, and what was printed on stdout and stderr."""

    def run(*options: object) -> tuple[int, str, str]:
        code = main([str(each) for each in options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def figures(home: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in (home / "results").glob("*-seed-*.json")}


def attempts(home: Path) -> dict[str, int]:
    runs = home / "work" / "runs"
    return {run.name: len(RunFolder(str(runs), run.name).attempts()) for run in runs.iterdir()}


@pytest.mark.slow
def test_pieces_add_up_to_the_table(
    shards: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.accuracy.SAVING_S", 200.0)  # however slow this machine is
    before = sorted(shards.iterdir())
    options = [shards, "--seeds", "0", "--epochs", "2", "--work", tmp_path / "work", "--results", tmp_path / "results"]
    options += [word for path, value in TINY.items() for word in ("--set", f"{path}={value}")]

    code, told, _ = command(*options, "--minutes", "0")
    assert code == PIECES_LEFT
    assert "0 of 3 runs are complete" in told
    assert figures(tmp_path) == {}
    (stopped,) = attempts(tmp_path)
    progress = RunFolder(str(tmp_path / "work" / "runs"), stopped).progress()
    assert progress is not None
    assert progress["phase"] == "stopped"

    code, told, _ = command(*options)
    assert code == 0
    found = figures(tmp_path)
    assert {name: (of["epochs"], of["steps"], of["units_per_picture"]) for name, of in found.items()} == {
        "reco-equal-epochs-seed-0": (2, 100, 16),
        "reco-equal-compute-seed-0": (2, 100, 16),
        "moco-v2-equal-epochs-seed-0": (2, 100, 8),
        "moco-v2-equal-compute-seed-0": (4, 200, 16),
    }
    assert all(of["results"]["test/knn"] > 50 for of in found.values())
    continued = RunFolder(str(tmp_path / "work" / "runs"), stopped).progress()
    assert continued is not None
    assert continued["resumed_from"] == progress["step"] > 0
    assert sorted(attempts(tmp_path).values()) == [1, 1, 2]  # both arms share ReCo's run
    for row in ("| equal compute | ReCo | 2 | 16 |", "| equal compute | MoCo v2 | 4 | 16 |", "| raw pixels |"):
        assert row in told
    assert (tmp_path / "results" / "accuracy.png").stat().st_size > 10_000
    assert sorted(shards.iterdir()) == before  # the index went elsewhere

    code, told, _ = command(*options)
    assert code == 0
    assert told == (tmp_path / "results" / "accuracy.md").read_text()
    assert sorted(attempts(tmp_path).values()) == [1, 1, 2]  # nothing was run again

    code, _, complaint = command(*options, "--set", "optimizer.lr=0.01")
    assert code == 2
    assert "holds the figures of another spec" in complaint


def test_both_modes_are_tuned_over_as_many_points() -> None:
    assert len(RECO_GRID) == len(MOCO_GRID)
    for grid in GRIDS.values():
        assert len({load_spec(SPEC, point).hash for point in grid}) == len(grid)


def test_runs_take_the_point_that_was_best_on_the_held_out_pictures(
    shards: Path, tmp_path: Path, command: Command
) -> None:
    options = [str(shards), "--tune", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    arguments, data = parse(options), shards_of(shards, tmp_path / "work")
    for run, accuracy in zip(trials(arguments, data), [70, 71, 72, 79, 73, 74, 60, 69, 61, 62, 63, 64], strict=True):
        assert run.spec.data.probe is not None
        assert run.spec.data.probe.test is None
        (file,) = run.files.values()
        figures = {"experiment": run.experiment, "changes": run.changes, "results": {"valid/knn": accuracy}}
        file.write_text(json.dumps(figures))
    code, told, _ = command(*options)
    assert code == 0  # nothing is left to run
    assert "| MoCo v2 | optimizer.lr=0.03, method.temperature=0.2 | 69.00 | yes |" in told

    runs = runs_to_compare(arguments, data)
    assert {run.mode: run.changes for run in runs} == {"reco": list(RECO_GRID[3]), "moco-v2": list(MOCO_GRID[1])}
    assert {run.spec.optimizer.lr for run in runs if run.mode == "moco-v2"} == {0.03}
    assert {run.seed for run in runs} == {0, 1, 2}
    assert all(run.spec.data.probe is not None and run.spec.data.probe.test for run in runs)


def test_a_step_of_reco_counts_twice() -> None:
    without = ["method.global_relation.weight=0", "method.local_relation.weight=0"]
    assert units(load_spec(SPEC)) == 8
    assert units(load_spec(SPEC, without)) == 4
    assert units(load_spec(SPEC, without[:1])) == 7


def test_figures_of_several_seeds_are_a_mean_and_a_range() -> None:
    assert around([88.0, 89.0, 87.5]) == "88.17 (87.50 to 89.00)"
    assert around([0.5], signed=True) == "+0.50"
    curves = [[{"step": 5, "loss": 1.0}, {"step": 10, "loss": 3.0}], [{"step": 5, "loss": 2.0}]]
    assert mean_curve(curves) == [{"step": 5, "loss": 1.5}]
