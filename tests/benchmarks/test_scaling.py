"""Ranks send each other what the formulas say, and the benchmark that compares the two runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scaling import COLLECTIVES, PHASES, WINDOW, Exchange, leaving, measured, why_none_now
from jobs.reco import ReCo
from jobs.run_folder import Record
from jobs.spec import load_spec
from jobs.training.plan import method_config
from tests.pictures import tiny_spec, write_shards

SMALL = Exchange(batch=32, views=2, image_size=4, features=8, parameters=100)
TOLERANCE = 0.1  # headers, acknowledgements, and which pictures the few measured permutations moved: 5 % were measured


# Of the spec that the benchmark makes itself, since pictures in pytest's folder, below /tmp, are not seen on hosts.
SMALLER = (
    *("--set", "encoder.name=resnet10", "--set", "encoder.width=16", "--set", "data.image_size=16"),
    *("--set", "train.global_batch_size=32"),
)
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scaling")
    file = folder / "run.yaml"
    file.write_text(tiny_spec(write_shards(folder / "shards", samples=200), train__epochs=100))
    return file


@pytest.fixture
def _hosts_can_be_made() -> Iterator[None]:
    """And none is left, nor anything else of the benchmark."""
    if (why := why_none_now()) is not None:
        pytest.skip(why)
    before = set(Path("/var/tmp").glob("reco-scaling-*"))
    yield
    assert "reco-" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert set(Path("/var/tmp").glob("reco-scaling-*")) == before


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.scaling", *words, "--rounds", "1"]


def scaled(file: Path, *words: str) -> tuple[dict[str, Any], str]:
    """The figures and the tables of a short run of the benchmark."""
    asked = command(*words, "--json", str(file))
    ran = subprocess.run(asked, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(file.read_text()), ran.stdout


def test_two_ranks_send_half_of_their_pictures_and_each_gradient_once() -> None:
    # 16 pictures a rank, 8 of which leave, of 2 views · 3 · 4² numbers; 16 · 2 features of 8 numbers.
    assert SMALL.sent(2) == {"key shuffle": 8 * 96 * 4, "key features": 16 * 16 * 4, "gradients": 100 * 4}
    assert SMALL.sent_by_all_gather(2) == 16 * 96 * 4


def test_four_ranks_send_less_of_their_pictures_each_and_more_in_all() -> None:
    assert SMALL.sent(4) == {"key shuffle": 8 * 3 / 4 * 96 * 4, "key features": 3 * 8 * 16 * 4, "gradients": 150 * 4}
    assert SMALL.sent_by_all_gather(4) == 4 * SMALL.sent(4)["key shuffle"]


def test_a_rank_alone_sends_nothing() -> None:
    assert SMALL.sent(1) == dict.fromkeys(COLLECTIVES, 0)
    assert SMALL.sent_by_all_gather(1) == 0
    assert leaving(seed=0, batch=32, ranks=1, steps=range(10)) == 0


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_permutations_move_as_many_pictures_as_expected(ranks: int) -> None:
    moved = leaving(seed=5, batch=SMALL.batch, ranks=ranks, steps=range(500))
    assert moved * SMALL.picture_bytes == pytest.approx(SMALL.sent(ranks)["key shuffle"], rel=0.02)


def test_it_is_the_permutation_of_a_step_that_counts() -> None:
    each = {leaving(seed=5, batch=32, ranks=2, steps=range(step, step + 1)) for step in range(20)}
    assert len(each) > 1
    assert all(moved == int(moved) <= 16 for moved in each)


def test_the_exchange_of_a_spec_counts_what_is_trained(spec: Path) -> None:
    read = load_spec(spec)
    model = ReCo(method_config(read))
    exchange = Exchange.of(read)
    assert exchange.parameters == sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert (exchange.batch, exchange.views, exchange.image_size, exchange.features) == (32, 2, 16, 16)
    assert Exchange.of(load_spec(spec, ["method.global_relation.weight=0"])).views == 1


def test_bytes_belong_to_the_collective_they_were_sent_in() -> None:
    until = 2 * WINDOW
    # A step sends 100, 10 and 1000 bytes in half a second; what the steps of the warm-up sent is no part of it.
    marks = [[0.0, 0, 5000, 5000]] * WINDOW
    marks += [[n / 2, 9000 + 1110 * n, 9100 + 1110 * n, 9110 + 1110 * n] for n in range(until - WINDOW + 1)]
    records = [_record(WINDOW, 0.9), _record(until, 0.2), _record(until + WINDOW, 0.9)]
    found = measured([marks, marks], records, batch=32, until=until)
    assert found.sent == pytest.approx({"key shuffle": 100, "key features": 10, "gradients": 1000})
    assert found.pictures_per_s == pytest.approx(64)
    assert found.split == pytest.approx(dict.fromkeys(PHASES, 0.2))


def test_a_run_that_is_over_too_soon_is_not_measured() -> None:
    with pytest.raises(SystemExit, match=r"raise train\.epochs"):
        measured([[[0.0, 0, 0, 0]] * WINDOW], [], batch=32, until=2 * WINDOW)


@pytest.mark.slow
def test_ranks_of_one_host_are_measured(spec: Path, tmp_path: Path) -> None:
    asked = (str(spec), "--kinds", "ranks", "--counts", "1", "2", "--windows", "1")
    figures, printed = scaled(tmp_path / "found.json", *asked)
    assert {"1 rank", "2 ranks"} <= first_cells(printed)
    assert f"{os.cpu_count()} cores" in printed
    for number in ("1", "2"):
        (found,) = figures["rounds"]["ranks"][number]
        assert found["pictures_per_s"] > 0
        assert 0.5 < sum(found["split"].values()) < 1.1
        assert found["sent"] == {}  # the loopback is not theirs alone
    assert figures["formula_bytes"]["2"] == Exchange.of(load_spec(spec)).sent(2)


@pytest.mark.slow
@pytest.mark.usefixtures("_hosts_can_be_made")
def test_hosts_send_what_the_formulas_say(tmp_path: Path) -> None:
    figures, printed = scaled(tmp_path / "found.json", *SMALLER, "--kinds", "hosts", "--counts", "1", "2")
    assert {"1 host", "2 hosts"} <= first_cells(printed)
    (alone,), (found,) = (figures["rounds"]["hosts"][number] for number in ("1", "2"))
    expected = figures["formula_bytes"]["2"]
    for name in COLLECTIVES:
        assert found["sent"][name] == pytest.approx(expected[name], rel=TOLERANCE)
    assert sum(alone["sent"].values()) < 0.01 * sum(expected.values())


@pytest.mark.slow
@pytest.mark.usefixtures("_hosts_can_be_made")
def test_ctrl_c_leaves_no_host() -> None:
    running = subprocess.Popen(
        command(*SMALLER, "--kinds", "hosts", "--counts", "2"), cwd=CHECKOUT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(_processes_on("reco-host-1")) < 2:  # the rank and its loader
        assert time.monotonic() < deadline
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, printed = running.communicate(timeout=60)
    assert running.returncode == 130, printed


@pytest.mark.slow
@pytest.mark.usefixtures("_hosts_can_be_made")
def test_a_rank_that_fails_says_why_and_leaves_no_host(tmp_path: Path) -> None:
    asked = command("--kinds", "hosts", "--counts", "2", "--set", f"data.train={tmp_path}/nothing")
    ran = subprocess.run(asked, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert f"{tmp_path}/nothing" in ran.stderr


def first_cells(printed: str) -> set[str]:
    return {line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")}


def _processes_on(namespace: str) -> list[str]:
    ran = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return ran.stdout.split()


def _record(step: int, part: float) -> Record:
    return {"step": step, "pictures": 32 * step, "metrics": dict.fromkeys(PHASES.values(), part)}
