"""Ranged reads over a server that breaks on purpose: the exact bytes, or one typed error."""

from __future__ import annotations

import pytest

from jobs.storage import AccessDeniedError, NotFoundError, ObjectChangedError, StorageError, UnreachableError
from jobs.storage.activity import ACTIVITY
from jobs.storage.retry import Patience
from jobs.storage.s3 import S3Storage
from jobs.storage.s3_read import Floor
from tests.jobs.storage.faulty import DATA, FaultyServer

pytestmark = pytest.mark.timeout(120)

PASSING = ["truncated", "reset", "no length", "cut chunk", "hang up", "empty", "503", "500"]
SLOW = ["stall", "silence", "trickle"]  # each costs the wait that it takes to notice
LONG = Patience(60.0, base=0.001, cap=0.002)
SHORT = Patience(0.3, base=0.001, cap=0.002)


def open_with(patience: Patience) -> S3Storage:
    return S3Storage("bucket", "prefix", reading=patience, floor=Floor(6e5, seconds=0.5), silence_s=0.5)


@pytest.fixture
def storage(faulty: FaultyServer) -> S3Storage:
    return S3Storage("bucket", "prefix", reading=LONG)


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("times", [1, 5])
def test_a_passing_fault_leaves_the_bytes_exact(
    faulty: FaultyServer, storage: S3Storage, fault: str, times: int
) -> None:
    faulty.faults = [fault] * times
    assert storage.read_range("x", 1000, 2_400_000, etag="one") == DATA[1000:2_400_000]
    assert faulty.faults == []
    assert len(faulty.ranges) == times + 1


@pytest.mark.parametrize("fault", SLOW)
def test_a_body_that_hardly_moves_is_broken_off_and_asked_for_again(faulty: FaultyServer, fault: str) -> None:
    faulty.faults = [fault] * 2
    assert open_with(LONG).read_range("x", 1000, 2_400_000, etag="one") == DATA[1000:2_400_000]
    assert faulty.faults == []


def test_a_chunked_body_is_read_whole(faulty: FaultyServer, storage: S3Storage) -> None:
    faulty.always = "chunked"
    assert storage.read_range("x", 5, 2_000_000) == DATA[5:2_000_000]


def test_the_read_goes_on_at_the_first_missing_byte_on_a_new_connection(
    faulty: FaultyServer, storage: S3Storage
) -> None:
    faulty.faults = ["truncated"]
    storage.read_range("x", 0, 2_400_000)
    assert faulty.ranges == [(0, 2_400_000), (1_200_000, 2_400_000)]  # half had come
    assert faulty.connections[0] != faulty.connections[1]


def test_what_a_trickle_brought_is_kept(faulty: FaultyServer) -> None:
    faulty.faults = ["trickle"]
    open_with(LONG).read_range("x", 0, 2_400_000)
    first, second = faulty.ranges
    assert second[0] > 1_200_000
    assert second[1] == first[1]


def test_connections_are_used_again_after_a_good_read(faulty: FaultyServer, storage: S3Storage) -> None:
    for start in range(0, 100, 10):
        storage.read_range("x", start, start + 10)
    assert len(set(faulty.connections)) == 1


@pytest.mark.parametrize("fault", [*PASSING, *SLOW])
def test_a_lasting_fault_is_one_typed_error_that_says_where(faulty: FaultyServer, fault: str) -> None:
    faulty.always = fault
    with pytest.raises(UnreachableError, match="prefix/x") as caught:
        open_with(SHORT).read_range("x", 0, 100_000, etag="one")
    assert caught.value.hint
    assert len(faulty.ranges) > 1
    assert ACTIVITY.under_way() == []


def test_a_few_bytes_an_answer_do_not_renew_the_patience(faulty: FaultyServer) -> None:
    faulty.always = "a byte"
    with pytest.raises(UnreachableError):
        open_with(SHORT).read_range("x", 0, 100_000)


def test_no_patience_means_one_request(faulty: FaultyServer) -> None:
    faulty.always = "503"
    with pytest.raises(UnreachableError):
        open_with(Patience(0.0)).read_range("x", 0, 100)
    assert len(faulty.ranges) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("403", AccessDeniedError),
        ("404", NotFoundError),
        ("412", ObjectChangedError),
        ("other version", ObjectChangedError),  # a server that ignores If-Match
        ("wrong range", StorageError),
        ("ignores range", StorageError),
    ],
)
@pytest.mark.parametrize("before", [[], ["truncated"]], ids=["at once", "in the middle"])
def test_what_no_retry_mends_is_said_at_once(
    faulty: FaultyServer, storage: S3Storage, fault: str, kind: type[StorageError], before: list[str]
) -> None:
    faulty.faults, faulty.always = list(before), fault
    with pytest.raises(StorageError, match="prefix/x") as caught:
        storage.read_range("x", 100, 2_400_000, etag="one")
    assert type(caught.value) is kind
    assert len(faulty.ranges) == len(before) + 1


def test_two_versions_are_never_mixed_where_no_version_was_asked_for(faulty: FaultyServer, storage: S3Storage) -> None:
    faulty.faults = ["truncated", "other version"]
    with pytest.raises(ObjectChangedError):
        storage.read_range("x", 0, 2_400_000)
