"""The loader process: the pipeline's batches across a process, whatever dies, and nothing left behind."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.loading.batch import Batch
from jobs.loading.detail import Detail
from jobs.loading.messages import Opened
from jobs.loading.pipeline import Pipeline
from jobs.loading.process import LoaderProcess
from jobs.shards.dataset import open_dataset
from jobs.shards.errors import DamagedSampleError, SourceError
from jobs.shards.order import Order
from jobs.storage import open_storage
from tests.jobs.shards.made import make_shards, picture, tar_bytes
from tests.s3 import S3Server

COUNTS = [9, 7, 12, 8, 11, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ragged")
    make_shards(path, COUNTS, ragged=True)
    return path


@pytest.fixture
def loader() -> Iterator[LoaderProcess]:
    with LoaderProcess(threads=2) as process:
        yield process


def make_order(counts: np.ndarray, **changes: int) -> Order:
    return Order(counts, **{"seed": 3, "lanes": 4, "global_batch_size": 12, "shuffle_shards": 2, **changes})


def digest(batch: Batch) -> tuple[object, ...]:
    """All of a batch that outlives its slot."""
    pixels = tuple(batch.picture(number).tobytes() for number in range(len(batch)))
    labels = None if batch.labels is None else batch.labels.tolist()
    return batch.step, batch.epoch, batch.sample_ids.tolist(), batch.sizes.tolist(), labels, pixels, batch.replaced


def expected(folder: Path, start: int, stop: int, lanes: range = range(4)) -> list[tuple[object, ...]]:
    dataset = open_dataset(str(folder))
    order = make_order(dataset.counts)
    with Pipeline(dataset, order, lanes=lanes, start=start, stop=stop, threads=1, replace=True) as pipeline:
        return [digest(batch) for _, batch in pipeline]


def stream_all(loader: LoaderProcess, dataset: Opened, start: int, stop: int, lanes: range = range(4)) -> list[object]:
    order = make_order(dataset.counts)
    stream = loader.stream(dataset, order, lanes=lanes, start=start, stop=stop, replace=True)
    return [digest(batch) for batch in stream]


def ended(pid: int, within: float = 20.0) -> bool:
    """Whether a process that is not our child ends."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_data_set_is_described_and_streamed_as_the_pipeline_does(folder: Path, loader: LoaderProcess) -> None:
    opened = loader.open(str(folder), labels=True)
    dataset = open_dataset(str(folder))
    assert len(opened) == sum(COUNTS)
    assert opened.hash == dataset.hash
    assert opened.counts.tolist() == COUNTS
    assert opened.labels is not None
    assert opened.labels.tolist() == [n % 3 for n in range(53)]
    assert stream_all(loader, opened, 0, 10) == expected(folder, 0, 10)


def test_two_streams_at_once_and_one_given_up_half_way(folder: Path, loader: LoaderProcess) -> None:
    opened = loader.open(str(folder))
    first = loader.stream(opened, make_order(opened.counts), lanes=range(4), start=0, stop=8)
    taken = [digest(batch) for _, batch in zip(range(2), first, strict=False)]
    with_rows = loader.read(opened, range(5, 40), batch_size=7)
    rows = [sample for batch in with_rows for sample in batch.sample_ids.tolist()]
    assert rows == list(range(5, 40))
    abandoned = loader.read(opened, range(53), batch_size=4)
    next(iter(abandoned))
    abandoned.close()
    taken += [digest(batch) for batch in first]
    assert taken == expected(folder, 0, 8)


def test_a_loader_killed_at_random_steps_delivers_the_same_and_counts_its_restarts(folder: Path) -> None:
    wanted = expected(folder, 0, 24)
    kills = set(random.Random(7).sample(range(24), 5))
    with LoaderProcess(threads=1) as loader:
        opened = loader.open(str(folder))
        stream = loader.stream(opened, make_order(opened.counts), lanes=range(4), start=0, stop=24, replace=True)
        got = []
        for batch in stream:
            if batch.step in kills:
                assert loader.pid is not None
                os.kill(loader.pid, signal.SIGKILL)
                time.sleep(0.01 * (batch.step % 3))
            got.append(digest(batch))  # read after the kill: the memory is ours as well
        assert got == wanted
        assert stream.counters.restarts == loader.restarts
        assert 1 <= loader.restarts <= len(kills)  # a second kill may hit a process that is dead already
        assert stream.counters.pictures >= 24 * 12


def test_errors_arrive_as_they_were_raised(folder: Path, loader: LoaderProcess, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There are no shards") as caught:
        loader.open(str(tmp_path))
    assert caught.value.exit_code == 2
    members = [(f"{n:03d}.jpg", picture(n, height=32, width=32)) for n in range(20)]
    members[13] = ("013.jpg", members[13][1][:800])
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    batches = iter(loader.read(loader.open(str(tmp_path)), range(20), batch_size=4))
    assert [next(batches).step for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DamagedSampleError, match=r"x\.tar/013: .*cannot be decoded"):
        next(batches)
    assert stream_all(loader, loader.open(str(folder)), 0, 2) == expected(folder, 0, 2)


def test_the_loader_ends_with_its_trainer_and_leaves_nothing(folder: Path) -> None:
    before = set(Path("/dev/shm").iterdir())
    program = """
        import os, signal, sys
        from jobs.loading.process import LoaderProcess
        from jobs.shards.order import Order
        loader = LoaderProcess()
        opened = loader.open(sys.argv[1])
        order = Order(opened.counts, seed=3, lanes=4, global_batch_size=12, shuffle_shards=2)
        batches = iter(loader.stream(opened, order, lanes=range(4), start=0, stop=1000))
        next(batches)
        print(loader.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(folder)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == -signal.SIGKILL
    assert ended(int(ran.stdout))
    assert set(Path("/dev/shm").iterdir()) <= before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount another /dev/shm")
def test_a_full_dev_shm_is_no_obstacle(folder: Path) -> None:
    program = """
        import pathlib, sys
        from jobs.loading.process import LoaderProcess
        shm = pathlib.Path("/dev/shm")
        try:
            (shm / "filler").write_bytes(bytes(1 << 20))
            sys.exit("/dev/shm is not full")
        except OSError:
            pass
        with LoaderProcess() as loader:
            opened = loader.open(sys.argv[1])
            print(sum(len(batch) for batch in loader.read(opened, range(len(opened)), batch_size=10)))
    """
    mounted = 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"'
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-c", textwrap.dedent(program), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.strip() == str(sum(COUNTS)), ran.stderr


def test_closing_ends_the_process_at_once(folder: Path) -> None:
    loader = LoaderProcess()
    opened = loader.open(str(folder))
    stream = loader.stream(opened, make_order(opened.counts), lanes=range(4), start=0, stop=1000)
    next(iter(stream))
    pid = loader.pid
    assert pid is not None
    loader.close()
    assert ended(pid, within=0.5)
    assert stream.take() is None


def test_memory_is_mapped_without_a_name_and_bounded_by_the_slots(folder: Path, loader: LoaderProcess) -> None:
    opened = loader.open(str(folder))
    stream = loader.stream(opened, make_order(opened.counts), lanes=range(4), start=0, stop=40, slots=2)
    one, two = stream.take(), stream.take()
    assert one is not None
    assert two is not None
    time.sleep(0.3)
    assert not stream.ready()  # both slots are ours
    kept = digest(one)
    stream.release(two)
    assert digest(stream.take() or one)[0] == 2
    assert digest(one) == kept
    assert stream.ring.memory.nbytes >= 2 * 12 * 3 * opened.most_pixels


def test_a_bad_picture_is_replaced_by_the_same_other_on_any_rank_and_after_any_start(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    make_shards(folder, [30, 30])
    data = bytearray((folder / "part-000000.tar").read_bytes())
    dataset = open_dataset(str(folder))
    records = dataset.records(0)
    for bad in (4, 11):
        place = int(records.offsets[bad]) + 200
        data[place : place + 64] = bytes(64)
    stamp = (folder / "part-000000.tar").stat()
    (folder / "part-000000.tar").write_bytes(data)
    os.utime(folder / "part-000000.tar", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # damaged, not replaced
    whole = expected(folder, 0, 10)
    replaced = {each.sample_id: each for batch in whole for each in batch[6]}  # type: ignore[attr-defined]
    assert set(replaced) == {4, 11}
    assert replaced[4].key == "part-000000.tar/000004"
    assert "not those that were indexed" in replaced[4].reason
    for batch in whole:
        ids = batch[2]
        assert isinstance(ids, list)
        assert not {4, 11} & set(ids)
    for start in (1, 4, 7):
        assert expected(folder, start, 10) == whole[start:]
    with LoaderProcess() as loader:
        opened = loader.open(str(folder))
        ranks = [stream_all(loader, opened, 0, 10, lanes) for lanes in (range(2), range(2, 4))]
        for batch, *parts in zip(whole, *ranks, strict=True):
            for field in (2, 6):  # sample ids, what was replaced
                assert [each for part in parts for each in part[field]] == list(batch[field])  # type: ignore[index,call-overload]


def test_large_pictures_are_scaled_down_while_decoding_and_no_further_than_the_crops_allow(tmp_path: Path) -> None:
    sizes = [(700, 900), (200, 150), (1500, 600), (64, 64)]
    rows, columns = np.mgrid[:1500, :900]
    smooth = np.stack([rows / 6, columns / 4, (rows + columns) / 10], axis=2).astype(np.uint8)
    members = []
    for number, (height, width) in enumerate(sizes):
        kind = "PNG" if number == 2 else "JPEG"
        file = io.BytesIO()
        Image.fromarray(smooth[:height, :width]).save(file, kind, **({} if kind == "PNG" else {"quality": 95}))
        members.append((f"{number}.{kind.lower().replace('jpeg', 'jpg')}", file.getvalue()))
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    detail = Detail.of_random_crops(64, 0.2)
    with LoaderProcess() as loader:
        opened = loader.open(str(tmp_path))
        (batch,) = [
            (each.sizes.tolist(), [each.picture(n).copy() for n in range(4)])
            for each in loader.read(opened, range(4), batch_size=4, detail=detail)
        ]
    shapes, pictures = batch
    assert shapes == [[175, 225], [200, 150], [375, 150], [64, 64]]
    for (height, width), (rows_, columns_) in zip(sizes, shapes, strict=True):
        smallest = min(min(rows_, columns_), (0.2 * 0.75 * rows_ * columns_) ** 0.5)
        assert smallest >= 64 or (height, width) == (rows_, columns_)
    whole = Image.fromarray(smooth[:700, :900]).resize((225, 175), Image.Resampling.BOX)
    assert np.abs(pictures[0].astype(int) - np.asarray(whole).astype(int)).max() <= 4
    assert all(h * w <= detail.most_pixels(1500, 1500 * 600) for h, w in shapes)


def test_shards_are_kept_on_local_disk_and_a_damaged_copy_is_fetched_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rclone_s3: S3Server
) -> None:
    rclone_s3.use(monkeypatch)
    url, cache = f"s3://{rclone_s3.new_bucket()}/set", tmp_path / "cache"
    for path in folder.glob("*.tar"):
        open_storage(url).upload(path.name, path)
    wanted = expected(folder, 0, 8)
    for _ in range(2):
        with LoaderProcess(cache=(str(cache), 10**9)) as loader:
            opened = loader.open(url)
            assert stream_all(loader, opened, 0, 8) == wanted
        kept = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
        assert len(kept) == len(COUNTS)
        for path in kept:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 255
            path.write_bytes(data)
