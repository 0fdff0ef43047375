"""`reco data` as a user runs it: results, one clear line for a mistake, exit codes, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import jobs.data
from tests.jobs.shards.made import make_shards, picture, shard_members, tar_bytes
from tests.s3 import S3Server


def reco(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli.main", "data", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **(environment or {})},
    )


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is noted away from the home of whoever runs the tests."""
    monkeypatch.setenv("RECO_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(10):
        place = folder / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(picture(number))
    return folder


def test_packing_and_indexing_say_what_was_made(photos: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = reco("pack", str(photos), out, "--split", "train=0.8,test=0.2", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert {name: part["samples"] for name, part in made["parts"].items()} == {"train": 8, "test": 2}
    assert made["classes"] == ["cat", "dog"]
    done = reco("index", f"{out}/train")
    assert done.returncode == 0, done.stderr
    assert "8 samples in 1 shards" in done.stdout
    assert made["parts"]["train"]["hash"][:16] in done.stdout
    assert "Traceback" not in done.stderr


def test_an_unreadable_picture_is_one_line_and_exit_code_2(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "bad.jpg").write_bytes(b"nothing")
    out = tmp_path / "out"
    done = reco("pack", str(photos), str(out))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0].startswith("error: 1 of 11 pictures cannot be read (cat/bad.jpg:")
    assert "--skip-unreadable" in done.stderr.splitlines()[1]
    assert len(done.stderr.splitlines()) == 2
    assert not out.exists()
    done = reco("pack", str(photos), str(out), "--skip-unreadable")
    assert done.returncode == 0
    assert "1 unreadable pictures were left out: cat/bad.jpg" in done.stdout


def test_mistakes_with_s3_are_one_line_each(rclone_s3: S3Server, tmp_path: Path) -> None:
    environment = rclone_s3.environment
    bucket = rclone_s3.new_bucket()
    keyless = {**environment, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    for source, variables, said in (
        (f"s3://{bucket}/nothing", environment, "no shards"),
        ("s3://no-such-bucket/x", environment, "no bucket no-such-bucket"),
        (f"s3://{bucket}/x", keyless, "No usable credentials"),
    ):
        done = reco("index", source, environment=variables)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 2


def test_a_changed_shard_says_to_rebuild_and_rebuilding_helps(tmp_path: Path) -> None:
    shard = make_shards(tmp_path, [3])[0]
    assert reco("index", str(tmp_path)).returncode == 0
    os.utime(shard, ns=(1, 1))
    done = reco("index", str(tmp_path))
    assert done.returncode == 2
    assert "was changed since it was indexed" in done.stderr
    assert "reco data index --rebuild" in done.stderr
    assert reco("index", str(tmp_path), "--rebuild").returncode == 0
    assert reco("index", str(tmp_path)).returncode == 0


def test_indexing_says_what_was_left_out(tmp_path: Path) -> None:
    members = [*shard_members(0, 2), *[(f"bad{number}.jpg", b"") for number in range(7)]]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    done = reco("index", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 samples in 1 shards" in done.stdout
    assert "! 7 samples cannot be used and were left out:\n    x.tar/bad0: .jpg: no bytes at all\n" in done.stdout
    assert "x.tar/bad4" in done.stdout
    assert "… and 2 more; --json lists them all" in done.stdout
    listed = json.loads(reco("index", str(tmp_path), "--json").stdout)["left_out"]
    assert [row["name"] for row in listed] == [f"x.tar/bad{number}" for number in range(7)]


def test_verifying_ends_with_0_where_all_is_well_and_1_where_not(tmp_path: Path) -> None:
    shard = make_shards(tmp_path, [3, 2])[1]
    done = reco("verify", str(tmp_path))
    assert done.returncode == 2
    assert "no index" in done.stderr
    assert "reco data index" in done.stderr
    assert reco("index", str(tmp_path)).returncode == 0
    done = reco("verify", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "✓ 5 samples in 2 shards: every byte is as indexed\n")
    shard.write_bytes(shard.read_bytes()[:700])
    done = reco("verify", str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert f"✗ {shard}: it has 700 bytes, and had " in done.stdout
    assert f"✗ {shard}/000003: the shard ends before it does" in done.stdout
    assert done.stdout.endswith("faults; 5 samples in 2 shards were checked\n")
    done = reco("verify", str(tmp_path), "--json")
    assert done.returncode == 1
    faults = json.loads(done.stdout)["faults"]
    assert {(Path(fault["shard"]).name, fault["key"]) for fault in faults} == {
        (shard.name, key) for key in ("", "000003", "000004")
    }


def test_verifying_that_was_stopped_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECO_HOME", str(tmp_path / "home"))
    folder = tmp_path / "data"
    folder.mkdir()
    data = picture(0, height=600, width=600, kind="PNG")
    for number in range(60):
        (folder / f"{number:02d}.tar").write_bytes(tar_bytes([(f"{n}.png", data) for n in range(4)]))
    assert reco("index", str(folder)).returncode == 0
    command = [sys.executable, "-m", "service.cli.main", "data", "verify", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("home/verify/*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "stopped; nothing was changed, and the same command goes on from here\n"
    kept = list(tmp_path.glob("home/verify/*.json"))
    record = kept[0].read_bytes()
    done = reco("verify", str(folder), "--fresh", "--json")
    assert json.loads(done.stdout) == {"shards": 60, "samples": 240, "read_before": 0, "faults": []}
    assert not kept[0].exists()
    kept[0].write_bytes(record)
    done = reco("verify", str(folder))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"  it went on: \d+ shards were read before, since \d{4}-\d\d-\d\d; --fresh reads all", first)
    assert second == "✓ 240 samples in 60 shards: every byte is as indexed"
    assert not kept[0].exists()


def test_what_nobody_foresaw_is_one_line_and_a_traceback_only_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError(6)

    monkeypatch.setattr(jobs.data, "open_dataset", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process's Ctrl-C is pytest's
    assert jobs.data.main(["index", str(tmp_path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: unexpected: KeyError: 6"
    assert "--debug" in second
    assert jobs.data.main(["index", str(tmp_path), "--debug"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("error: unexpected: KeyError: 6\n")


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli.main", "--debug", "data", "index", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert "error: There are no shards" in done.stderr


def test_a_label_beyond_all_classes_is_refused(tmp_path: Path) -> None:
    members = [*shard_members(0, 2), ("a.jpg", picture(5)), ("a.cls", b"2000000000")]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    done = reco("index", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}/x.tar: a.cls holds '2000000000', not a class number.",
        "  → Classes are whole numbers from 0 to 999,999.",
    ]
    assert not (tmp_path / "index" / "root.json").exists()


def test_statistics_are_told_and_drawn(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", [4, 5], ragged=True)
    (tmp_path / "data" / "classes.json").write_text('["cat", "dog", "eel"]')
    sheet = tmp_path / "sheet.png"
    done = reco("stats", str(tmp_path / "data"), "--sheet", str(sheet))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("9 samples in 2 shards (content ")
    assert "formats  jpeg 3, png 3, webp 3" in done.stdout
    assert f"dog                             3  {'█' * 40}" in done.stdout
    assert Image.open(sheet).format == "PNG"
    counted = json.loads(reco("stats", str(tmp_path / "data"), "--json").stdout)
    assert counted["labels"] == {"0": 3, "1": 3, "2": 3}
    assert counted["height"] == {"min": 5, "median": 6.0, "max": 8}
    done = reco("stats", str(tmp_path / "data"), "--sheet", "gs://bucket/sheet.png")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2


def test_pictures_are_optimised_and_made_smaller_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, side in enumerate((40, 40, 100)):
        pixels = Image.open(io.BytesIO(picture(number, height=side, width=side)))
        pixels.save(tmp_path / "photos" / f"{number}.jpg", progressive=number > 0)
    (tmp_path / "list.csv").write_text(
        "".join(f"{line}\n" for line in ("path", *(f"photos/{n}.jpg" for n in range(3))))
    )
    plain = json.loads(reco("pack", str(tmp_path / "photos"), str(tmp_path / "plain"), "--json").stdout)
    assert (plain["optimised"], plain["resized"]) == (0, 0)
    options = ["--lossless-optimise", "--max-side", "64"]
    done = reco("pack", str(tmp_path / "list.csv"), str(tmp_path / "changed"), *options)
    assert done.returncode == 0, done.stderr
    assert "1 progressive JPEGs were made baseline, to the same pixels" in done.stdout
    assert "1 pictures were made smaller" in done.stdout
    stats = json.loads(reco("stats", str(tmp_path / "changed"), "--json").stdout)
    assert stats["height"] == {"min": 40, "median": 40.0, "max": 64}
    done = reco("pack", str(tmp_path / "list.csv"), str(tmp_path / "other"), "--max-side", "0")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2


def test_ctrl_c_stops_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    data = picture(0, height=600, width=600, kind="PNG")
    for number in range(40):
        (folder / f"{number}.png").write_bytes(data)
    arguments = ["pack", str(folder), str(out), "--shard-samples", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli.main", "data", *arguments], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.packing/shards/*.tar")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; nothing half-written was left, and the same command goes on from here" in errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.packing", "photos"]
    done = reco(*arguments)
    assert done.returncode == 0, done.stderr
    assert "40 pictures in 10 shards" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


def test_help_has_examples() -> None:
    for command in ("pack", "index", "verify", "stats"):
        done = reco(command, "--help")
        assert done.returncode == 0
        assert f"reco data {command} " in done.stdout


def test_bench_says_what_each_stage_feeds_and_how_many_accelerators_that_serves(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", [80, 80])
    done = reco("bench", str(tmp_path / "shards"), "--image-size", "16", "--pictures", "128", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages) == ["read", "decode", "loader", "views"]
    assert all(stage["pictures_per_s"] > 0 and stage["cpu_ms"] > 0 for stage in found["stages"])
    assert found["accelerators_served"] == int(stages["loader"]["pictures_per_s"] // 2500)
    done = reco("bench", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
