"""What each attempt computed with is stated in the run's folder."""

from __future__ import annotations

from pathlib import Path

import torch

from jobs.run_folder import RunFolder
from jobs.spec import parse_spec
from jobs.training.numerics import set_numerics
from jobs.training.ranks import Ranks
from jobs.training.run import run
from tests.pictures import tiny_spec, write_shards


def test_settings_are_read_back_from_pytorch() -> None:
    before = torch.get_float32_matmul_precision()
    numerics = set_numerics(torch.device("cpu"), precision="fp32")
    assert str(numerics["device"]).startswith("cpu ")
    assert numerics["torch"] == torch.__version__
    assert numerics["threads"] == torch.get_num_threads()
    assert numerics["precision"] == "fp32"
    assert numerics["matmul_precision"] == torch.get_float32_matmul_precision() == before  # the CPU is left as it was


def test_a_run_states_what_it_computed_with(tmp_path: Path) -> None:
    spec = parse_spec(tiny_spec(write_shards(tmp_path / "shards", samples=200), train__epochs=1))
    folder = RunFolder(str(tmp_path), "r")
    folder.claim(spec)
    assert folder.attempts() == []
    ranks = Ranks(0, 1, torch.device("cpu"))
    run(spec, folder=folder, ranks=ranks)
    run(spec, folder=folder, ranks=ranks)
    stated = set_numerics(torch.device("cpu"), precision="fp32")
    attempts = folder.attempts()
    assert len(attempts) == 2
    for attempt in attempts:
        assert attempt["workers"] == 1
        assert {name: attempt[name] for name in stated} == stated
