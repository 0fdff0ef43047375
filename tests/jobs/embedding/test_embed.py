"""`jobs.embed` as a process: what it writes, that it goes on after any end, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from jobs.embedding.parts import matrix
from tests.jobs.embedding.conftest import Embed
from tests.jobs.embedding.made import add_slow_files, make_encoder, slow_vectors, write_files
from tests.pictures import damage, write_shards

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def reference(embed: Embed, encoder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one command without any interruption writes."""
    out = tmp_path_factory.mktemp("reference") / "photos.parquet"
    embed(encoder, photos, out)
    return out


@pytest.fixture(scope="module")
def long_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose first parts are finished seconds before the last one."""
    return add_slow_files(write_files(tmp_path_factory.mktemp("long"), 600))


@pytest.fixture(scope="module")
def long_reference(embed: Embed, encoder: Path, long_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long-reference") / "photos.parquet"
    embed(encoder, long_photos, out)
    return out


def vectors(path: Path) -> np.ndarray:
    return matrix(pq.read_table(path)["embedding"])


def keys(path: Path) -> list[str]:
    return pq.read_table(path)["key"].to_pylist()


def wait_for_part(folder: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while not (folder / f"part-{number:06d}.parquet").exists():
        assert time.monotonic() < deadline, "no part was ever finished"
        time.sleep(0.001)


def ray_workers(driver: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("MapWorker" in word for word in process.cmdline()):
                found.append(process)
    return found


def test_rows_stand_in_the_order_of_the_listing_with_labels_and_the_vectors_of_the_encoder(
    reference: Path, encoder: Path, photos: Path
) -> None:
    table = pq.read_table(reference)
    assert table.column_names == ["key", "label", "embedding"]
    listed = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    assert table["key"].to_pylist() == listed
    assert table["label"].to_pylist() == [0] * 300 + [1] * 300
    some = [0, 127, 128, 299, 300, 599]
    expected = slow_vectors(encoder, [(photos / listed[row]).read_bytes() for row in some])
    np.testing.assert_allclose(vectors(reference)[some], expected, atol=1e-4)
    assert not reference.with_name("photos.parquet.parts").exists()
    assert not reference.with_name("photos.parquet.skipped.jsonl").exists()


@pytest.mark.slow
def test_two_workers_on_ray_write_the_same_file_as_one_without(
    embed: Embed, encoder: Path, photos: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "two.parquet"
    said, _ = embed(encoder, photos, out, "--workers", "2")
    assert out.read_bytes() == reference.read_bytes()
    assert said == f"✓ 600 embeddings of 64 numbers in {out}\n"


@pytest.mark.slow
def test_a_worker_of_ray_that_is_killed_is_started_again_and_costs_no_picture(
    embed: Embed, encoder: Path, photos: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photos.parquet"
    process = embed.start(encoder, photos, out, "--workers", "2")
    deadline = time.monotonic() + 240
    while not (workers := ray_workers(process.pid)):
        assert time.monotonic() < deadline, "no worker was ever started"
        time.sleep(0.01)
    workers[0].kill()
    _, noted = process.communicate(timeout=240)
    assert process.returncode == 0, noted
    assert out.read_bytes() == reference.read_bytes()


def test_the_number_of_threads_changes_no_bit(
    embed: Embed, encoder: Path, photos: Path, reference: Path, tmp_path: Path
) -> None:
    embed(encoder, photos, tmp_path / "three.parquet", "--cpus", "3")
    assert (tmp_path / "three.parquet").read_bytes() == reference.read_bytes()


def test_after_kill_9_the_same_command_goes_on_and_writes_the_same_file(
    embed: Embed, encoder: Path, long_photos: Path, long_reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photos.parquet"
    parts = tmp_path / "photos.parquet.parts"
    process = embed.start(encoder, long_photos, out)
    wait_for_part(parts, 0)
    process.kill()
    process.communicate()
    assert not out.exists()
    embed(encoder, long_photos, out)
    assert out.read_bytes() == long_reference.read_bytes()
    assert not parts.exists()


def test_finished_parts_are_used_again(embed: Embed, encoder: Path, long_photos: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "photos.parquet", tmp_path / "photos.parquet.parts"
    process = embed.start(encoder, long_photos, out)
    wait_for_part(parts, 0)
    process.kill()
    process.communicate()
    # A part that says something else than the encoder would shows whether it was embedded again.
    table = pq.read_table(parts / "part-000000.parquet")
    pq.write_table(table.set_column(0, "key", [[f"kept-{row}" for row in range(128)]]), parts / "part-000000.parquet")
    embed(encoder, long_photos, out)
    assert keys(out)[:128] == [f"kept-{row}" for row in range(128)]
    assert keys(out)[128].startswith("columns/")


def test_ctrl_c_says_that_the_same_command_goes_on(
    embed: Embed, encoder: Path, long_photos: Path, long_reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photos.parquet"
    process = embed.start(encoder, long_photos, out)
    wait_for_part(tmp_path / "photos.parquet.parts", 0)
    process.send_signal(signal.SIGINT)
    _, noted = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"finished parts are kept in {out}.parts, and the same command goes on" in noted
    embed(encoder, long_photos, out)
    assert out.read_bytes() == long_reference.read_bytes()


def test_parts_of_other_pictures_or_another_model_are_refused_until_restart(
    embed: Embed, encoder: Path, tmp_path: Path
) -> None:
    photos, out = add_slow_files(write_files(tmp_path / "photos", 300)), tmp_path / "photos.parquet"
    process = embed.start(encoder, photos, out)
    wait_for_part(tmp_path / "photos.parquet.parts", 0)
    process.kill()
    process.communicate()
    other = make_encoder(tmp_path / "other", seed=1)
    _, noted = embed(other, photos, out, code=2)
    assert "finished parts of other work: the encoder differs" in noted
    assert "--restart" in noted
    (photos / "rows" / "00001.png").unlink()
    _, noted = embed(encoder, photos, out, code=2)
    assert "the pictures, the number of pictures differ." in noted
    embed(other, photos, out, "--restart")
    assert pq.read_table(out).num_rows == 307


def test_bad_pictures_are_skipped_and_listed_and_the_others_keep_their_order(
    embed: Embed, encoder: Path, photos: Path, reference: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(photos, tmp_path / "photos")
    (copy / "columns" / "00004.png").write_bytes(b"no picture")
    (copy / "rows" / "00201.png").write_bytes((photos / "rows" / "00201.png").read_bytes()[:100])
    out = tmp_path / "photos.parquet"
    _, noted = embed(encoder, copy, out, code=2)
    assert "1 may be skipped" in noted
    assert len((tmp_path / "photos.parquet.skipped.jsonl").read_text().splitlines()) == 2
    said, _ = embed(encoder, copy, out, "--max-bad", "0.01")
    assert "! 2 pictures were skipped" in said
    skipped = [json.loads(line) for line in (tmp_path / "photos.parquet.skipped.jsonl").read_text().splitlines()]
    assert [row["key"] for row in skipped] == ["columns/00004.png", "rows/00201.png"]
    assert skipped[0]["reason"] == "neither JPEG, PNG nor WebP"
    assert keys(out) == [key for key in keys(reference) if key not in {row["key"] for row in skipped}]
    whole = dict(zip(keys(reference), vectors(reference), strict=True))
    np.testing.assert_allclose(vectors(out), [whole[key] for key in keys(out)], atol=1e-5)


def test_samples_of_damaged_shards_are_skipped(embed: Embed, encoder: Path, tmp_path: Path) -> None:
    shards, out = write_shards(tmp_path / "shards", samples=200), tmp_path / "shards.parquet"
    embed(encoder, shards, out)
    whole = dict(zip(keys(out), vectors(out), strict=True))
    damage(shards, 1, range(5, 7))
    embed(encoder, shards, out, "--max-bad", "0.02")
    assert [key for key in whole if key not in keys(out)] == ["part-000001.tar/000045", "part-000001.tar/000046"]
    np.testing.assert_allclose(vectors(out), [whole[key] for key in keys(out)], atol=1e-5)
    assert pq.read_table(out)["label"].to_pylist()[:4] == [0, 1, 2, 3]


def test_npy_holds_the_same_vectors_and_its_keys_beside_it(
    embed: Embed, encoder: Path, photos: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photos.npy"
    embed(encoder, photos, out)
    np.testing.assert_array_equal(np.load(out), vectors(reference))
    assert (tmp_path / "photos.npy.keys.txt").read_text().splitlines() == keys(reference)


def test_the_encoders_own_mean_is_used(embed: Embed, tmp_path: Path) -> None:
    mean = (0.3, 0.6, 0.1)
    encoder, photos = make_encoder(tmp_path / "encoder", mean=mean), write_files(tmp_path / "photos", 4)
    embed(encoder, photos, tmp_path / "out.parquet")
    files = [(photos / key).read_bytes() for key in keys(tmp_path / "out.parquet")]
    np.testing.assert_allclose(vectors(tmp_path / "out.parquet"), slow_vectors(encoder, files, mean), atol=1e-4)


@pytest.mark.slow
def test_ten_thousand_pictures_by_two_workers_and_after_kill_9_are_those_of_one(
    embed: Embed, encoder: Path, tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards", samples=10_000, shard_samples=1500)
    one, two, cut = (tmp_path / f"{name}.parquet" for name in ("one", "two", "cut"))
    embed(encoder, shards, one, "--part-size", "1024")
    embed(encoder, shards, two, "--part-size", "1024", "--workers", "2")
    assert two.read_bytes() == one.read_bytes()
    assert keys(one) == [f"part-{n // 1500:06d}.tar/{n:06d}" for n in range(10_000)]
    process = embed.start(encoder, shards, cut, "--part-size", "1024", "--workers", "2")
    wait_for_part(tmp_path / "cut.parquet.parts", 3)
    process.kill()
    process.communicate()
    assert not cut.exists()
    _, noted = embed(encoder, shards, cut, "--part-size", "1024", "--workers", "2")
    assert "of 10 parts are done" in noted
    assert cut.read_bytes() == one.read_bytes()
