"""What the trainer sees when the way to S3 is bad: the same batches, or one typed error; never short, wrong or hung."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.loading.process import LoaderProcess
from jobs.shards.dataset import open_dataset
from jobs.storage import AccessDeniedError, NotFoundError, ObjectChangedError, StorageError, open_storage
from tests.jobs.loading.faulty_proxy import FaultyProxy
from tests.jobs.loading.test_process import expected, stream_all
from tests.jobs.shards.made import make_shards
from tests.s3 import S3Server

STEPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "set"
    make_shards(path, [9, 7, 12, 8, 11, 6], ragged=True)
    return path


@pytest.fixture
def proxy(folder: Path, rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultyProxy, str]]:
    rclone_s3.use(monkeypatch)
    url = f"s3://{rclone_s3.new_bucket()}/set"
    for path in folder.glob("*.tar"):
        open_storage(url).upload(path.name, path)
    open_dataset(url)
    with FaultyProxy(rclone_s3.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        yield between, url


@pytest.mark.parametrize("fault", ["cut", "reset", "503", "500", "flipped bit", "zeroed block"])
def test_a_passing_fault_changes_no_batch(folder: Path, proxy: tuple[FaultyProxy, str], fault: str) -> None:
    between, url = proxy
    damages = fault in ("flipped bit", "zeroed block")
    broken: list[int] = []

    def some(number: int, start: int, stop: int) -> str:
        # Wrong bytes pass unseen until the checksum: the fetch of the single picture must then be a good one.
        if number % 3 or (damages and stop - start < 2000):
            return ""
        broken.append(number)
        return fault

    between.fault = some
    with LoaderProcess(threads=2) as loader:
        batches = stream_all(loader, loader.open(url), 0, STEPS)
    assert broken
    assert batches == expected(folder, 0, STEPS)


@pytest.mark.parametrize(
    ("fault", "error"),
    [("403", AccessDeniedError), ("404", NotFoundError), ("412", ObjectChangedError), ("other version", StorageError)],
)
def test_what_no_retry_mends_ends_the_stream_with_its_name(
    proxy: tuple[FaultyProxy, str], fault: str, error: type[StorageError]
) -> None:
    between, url = proxy
    with LoaderProcess() as loader:
        opened = loader.open(url)
        between.fault = lambda number, start, stop: fault if number >= 4 else ""
        with pytest.raises(error, match=url):
            stream_all(loader, opened, 0, 40)
        between.fault = lambda number, start, stop: ""
        assert len(stream_all(loader, opened, 0, 2)) == 2


def test_a_shard_that_rots_on_the_server_costs_one_picture(folder: Path, proxy: tuple[FaultyProxy, str]) -> None:
    between, url = proxy
    records = open_dataset(url).records(2)
    between.rotten = ("part-000002.tar", int(records.offsets[3]) + int(records.lengths[3]) // 2)
    with LoaderProcess() as loader:
        batches = stream_all(loader, loader.open(url), 0, STEPS)
    replaced = [each for batch in batches for each in batch[6]]  # type: ignore[index]
    assert {each.key for each in replaced} == {f"part-000002.tar/{records.key(3)}"}
    lost, by = replaced[0].sample_id, {(each.step, each.by) for each in replaced}
    for batch, wanted in zip(batches, expected(folder, 0, STEPS), strict=True):
        step, ids, should = batch[0], batch[2], wanted[2]  # type: ignore[index]
        stand_ins = {other for at, other in by if at == step}
        assert all(one == other or (other == lost and one in stand_ins) for one, other in zip(ids, should, strict=True))
