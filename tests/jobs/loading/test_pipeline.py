"""The pipeline: exact pixels in the order, the same from any start and any division, and no thread left over."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.loading.batch import Batch
from jobs.loading.pipeline import Pipeline, read_in_order
from jobs.shards.dataset import Dataset, open_dataset
from jobs.shards.errors import DamagedSampleError
from jobs.shards.order import Order
from jobs.storage import StorageError, UnreachableError, open_storage
from jobs.storage.local import LocalStorage
from tests.jobs.shards.made import make_shards, picture, tar_bytes
from tests.s3 import S3Server

COUNTS = [9, 7, 12, 8, 11, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ragged")
    make_shards(path, COUNTS, ragged=True)
    return path


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset(str(folder))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("shards-")]
    assert left == []


def make_order(dataset: Dataset, **changes: int) -> Order:
    numbers = {"seed": 3, "lanes": 4, "global_batch_size": 12, "shuffle_shards": 2, **changes}
    return Order(dataset.counts, **numbers)


def load(dataset: Dataset, order: Order, start: int, stop: int, *, lanes: range | None = None) -> list[Batch]:
    lanes = lanes or range(order.lanes)
    with Pipeline(dataset, order, lanes=lanes, start=start, stop=stop, threads=2) as pipeline:
        return [batch for _, batch in pipeline]


def same(one: Batch, other: Batch) -> None:
    assert (one.step, one.epoch) == (other.step, other.epoch)
    assert one.sample_ids.tolist() == other.sample_ids.tolist()
    assert one.sizes.tolist() == other.sizes.tolist()
    for number in range(len(one)):
        assert (one.picture(number) == other.picture(number)).all()


def check_pixels(dataset: Dataset, batch: Batch) -> None:
    assert batch.pixels.dtype == np.uint8
    for number, data in enumerate(dataset.read(batch.sample_ids.tolist())):
        assert (batch.picture(number) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_batches_are_the_orders_samples_with_exact_pixels_over_several_epochs(dataset: Dataset) -> None:
    order = make_order(dataset)
    assert order.steps_per_epoch == 4
    batches = load(dataset, order, 0, 10)
    assert [batch.step for batch in batches] == list(range(10))
    for batch in batches:
        epoch, position = divmod(batch.step, 4)
        assert batch.epoch == epoch
        assert batch.sample_ids.tolist() == order.batch(epoch, position, range(4)).tolist()
        assert batch.labels is not None
        assert dataset.labels is not None
        assert batch.labels.tolist() == dataset.labels[batch.sample_ids].tolist()
        assert (batch.sizes == dataset.sizes[batch.sample_ids]).all()
        check_pixels(dataset, batch)


@pytest.mark.parametrize("start", range(9))
def test_a_later_start_gives_the_same_batches(dataset: Dataset, start: int) -> None:
    order = make_order(dataset, shuffle_shards=1)
    whole = load(dataset, order, 0, 9)
    for one, other in zip(load(dataset, make_order(dataset, shuffle_shards=1), start, 9), whole[start:], strict=True):
        same(one, other)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_together_load_the_whole_batch(dataset: Dataset, workers: int) -> None:
    order = make_order(dataset)
    share = 4 // workers
    ranks = [load(dataset, order, 0, 6, lanes=range(r * share, (r + 1) * share)) for r in range(workers)]
    for whole, *parts in zip(load(dataset, order, 0, 6), *ranks, strict=True):
        assert np.concatenate([part.sample_ids for part in parts]).tolist() == whole.sample_ids.tolist()
        rows = [part.picture(number) for part in parts for number in range(len(part))]
        for number, row in enumerate(rows):
            assert (row == whole.picture(number)).all()


def test_one_lane_whose_batch_spans_several_blocks(dataset: Dataset) -> None:
    order = make_order(dataset, lanes=1, global_batch_size=25, shuffle_shards=1)
    for batch in load(dataset, order, 0, 4):
        assert batch.sample_ids.tolist() == order.batch(batch.epoch, batch.step % 2, range(1)).tolist()
        check_pixels(dataset, batch)


def test_a_pickled_data_set_loads_the_same(dataset: Dataset) -> None:
    order = make_order(dataset)
    copy = pickle.loads(pickle.dumps(dataset))
    for one, other in zip(load(copy, pickle.loads(pickle.dumps(order)), 0, 5), load(dataset, order, 0, 5), strict=True):
        same(one, other)


def test_s3_gives_the_same_batches_as_the_folder(
    dataset: Dataset, folder: Path, rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_s3.use(monkeypatch)
    url = f"s3://{rclone_s3.new_bucket()}/set"
    for path in folder.glob("*.tar"):
        open_storage(url).upload(path.name, path)
    remote = open_dataset(url)
    for one, other in zip(
        load(remote, make_order(remote), 2, 7), load(dataset, make_order(dataset), 2, 7), strict=True
    ):
        same(one, other)


@pytest.mark.parametrize(("start", "stop", "size"), [(0, 53, 10), (5, 40, 7), (20, 21, 4), (50, 99, 2), (0, 53, 100)])
def test_reading_in_order_gives_each_sample_once_as_stored(dataset: Dataset, start: int, stop: int, size: int) -> None:
    batches = list(read_in_order(dataset, start, stop, size))
    stop = min(stop, 53)
    assert np.concatenate([batch.sample_ids for batch in batches]).tolist() == list(range(start, stop))
    assert [len(batch.sample_ids) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert [batch.step for batch in batches] == list(range(len(batches)))
    assert {batch.epoch for batch in batches} == {0}
    for batch in batches:
        check_pixels(dataset, batch)


def test_reading_nothing_gives_nothing(dataset: Dataset) -> None:
    assert list(read_in_order(dataset, 7, 7, 3)) == []
    assert list(read_in_order(dataset, 53, 60, 3)) == []


def test_a_reader_that_is_dropped_half_way_leaves_no_thread(dataset: Dataset) -> None:
    batches = read_in_order(dataset, 0, 53, 4)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


def test_wrong_bytes_in_a_block_are_fetched_once_more(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    order = make_order(dataset)
    expected = load(dataset, order, 0, 4)
    real, reads = LocalStorage.read_into, []
    lock = threading.Lock()

    def flip_in_blocks(
        storage: LocalStorage, key: str, start: int, buffer: memoryview, *, etag: str | None = None
    ) -> None:
        real(storage, key, start, buffer, etag=etag)
        with lock:
            reads.append(len(buffer))
            if len(buffer) > 2000:  # a block's stretch; single pictures are smaller
                buffer[len(buffer) // 2] ^= 1

    monkeypatch.setattr(LocalStorage, "read_into", flip_in_blocks)
    for one, other in zip(load(dataset, order, 0, 4), expected, strict=True):
        same(one, other)
    assert any(size <= 2000 for size in reads)


def test_an_undecodable_sample_is_named_in_its_turn(tmp_path: Path) -> None:
    members = [(f"{n:03d}.jpg", picture(n, height=32, width=32)) for n in range(20)]
    members[13] = ("013.jpg", members[13][1][:800])  # its header and no more than the beginning
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    batches = read_in_order(open_dataset(str(tmp_path)), 0, 20, 4)
    assert [next(batches).step for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DamagedSampleError, match=r"x\.tar/013: .*cannot be decoded"):
        next(batches)


def test_a_storage_that_fails_reaches_the_consumer(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LocalStorage.read_into

    def fail(storage: LocalStorage, key: str, *rest: object, **more: object) -> None:
        if key == "part-000003.tar":
            raise UnreachableError("the network is gone")
        real(storage, key, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStorage, "read_into", fail)
    with pytest.raises(UnreachableError, match="the network is gone"):
        load(dataset, make_order(dataset), 0, 8)


def test_a_failing_order_reaches_the_consumer(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    order = make_order(dataset)
    pipeline = Pipeline(dataset, order, lanes=range(4), start=0, stop=12, threads=1)

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(order, "plan", fail)
    with pipeline, pytest.raises(RuntimeError, match="a bug"):
        list(pipeline)


def test_closing_early_ends_every_thread_even_while_one_reads(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, waiting, go_on = LocalStorage.read_into, threading.Event(), threading.Event()

    def slow(storage: LocalStorage, *rest: object, **more: object) -> None:
        waiting.set()
        go_on.wait(30)
        real(storage, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStorage, "read_into", slow)
    pipeline = Pipeline(dataset, make_order(dataset), lanes=range(4), start=0, stop=40, threads=2)
    assert waiting.wait(30)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(pipeline.close)
        go_on.set()
        closing.result(timeout=30)
    assert list(pipeline) == []
    pipeline.close()


def test_no_more_than_two_blocks_of_a_lane_and_two_batches_are_ahead(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = make_order(dataset, lanes=1, global_batch_size=2, shuffle_shards=1)
    fetched: list[str] = []
    real = LocalStorage.read_into

    def count(storage: LocalStorage, key: str, *rest: object, **more: object) -> None:
        if key.endswith(".tar"):
            fetched.append(key)
        real(storage, key, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStorage, "read_into", count)
    with Pipeline(dataset, order, lanes=range(1), start=0, stop=1000, threads=1) as pipeline:
        iterator = iter(pipeline)
        taken = 0
        plan = order.plan(0, 0)
        for _ in range(12):
            next(iterator)
            taken += 2
            # What was taken, two batches ready and one in the making, and one block fetched beyond.
            furthest, _ = plan.find(min(taken + 6, plan.length) - 1)
            assert len(fetched) <= furthest + 2


def test_a_data_set_without_labels_gives_none(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes([("a.jpg", picture(1)), ("b.png", picture(2, kind="PNG"))]))
    (batch,) = read_in_order(open_dataset(str(tmp_path)), 0, 2, 5)
    assert batch.labels is None


def test_nonsense_is_refused(dataset: Dataset) -> None:
    order = make_order(dataset)
    for wrong in ({"lanes": range(0)}, {"start": -1}, {"threads": 0}):
        with pytest.raises(ValueError, match="lanes"):
            Pipeline(dataset, order, **{"lanes": range(4), "start": 0, "stop": 1, "threads": 1, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty batch"):
        list(read_in_order(dataset, 0, 5, 0))


def test_an_object_replaced_between_two_blocks_is_an_error(tmp_path: Path) -> None:
    paths = make_shards(tmp_path, [20, 20, 20])
    dataset = open_dataset(str(tmp_path))
    paths[2].write_bytes(paths[2].read_bytes() + bytes(1024))
    with pytest.raises(StorageError, match="was changed"):
        list(read_in_order(dataset, 0, 60, 10))


@pytest.mark.shared
def test_reference_pictures_are_read_exactly(reference_data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(f"{reference_data}/cifar10/cifar10-test-{{000000..000001}}.tar", index=str(tmp_path))
    assert dataset.num_classes == 10
    batch = next(iter(read_in_order(dataset, 2400, 2600, 200)))
    check_pixels(dataset, batch)
