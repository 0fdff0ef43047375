"""S3, or anything that speaks its protocol, as a storage."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader
from urllib3.exceptions import HTTPError

from jobs.storage.aws_errors import code_of, is_transient, status_of, translate
from jobs.storage.base import Storage, StoredObject
from jobs.storage.errors import AccessDeniedError, AddressError, BucketError, NotFoundError, StorageError
from jobs.storage.retry import IN_FLIGHT, Patience, Tries
from jobs.storage.s3_read import Floor, RangedRead, bare_etag

_UPLOAD_TRIES = 5
_STRANGER_S = 3.0  # an endpoint that has never answered is more likely misspelled than away for a minute
_AMAZON = ("amazonaws.com", "amazonaws.com.cn")

_FAULTS = (BotoCoreError, ClientError, HTTPError, OSError, ValueError)

T = TypeVar("T")


class S3Storage(Storage):
    """Objects below a prefix of a bucket.

    Endpoint, region and credentials come from the standard environment only. Clients are made at first use and once
    per process: they survive neither a fork nor pickling.

    Args:
        bucket: Its name.
        prefix: Without slashes at its ends; may be empty.
        reading: Of ranged reads; enough progress within one read starts the count anew.
        asking: Of all other requests.
        floor: The slowest body that a ranged read puts up with.
        silence_s: Longest wait for the next bytes of an answer, its first ones as well.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        reading: Patience = Patience(180.0),  # noqa: B008 - frozen
        asking: Patience = Patience(180.0),  # noqa: B008 - frozen
        floor: Floor = Floor(),  # noqa: B008 - frozen
        silence_s: float = 30.0,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{_check_key(prefix)}/" if prefix else ""
        self._reading = reading
        self._asking = asking
        self._floor = floor
        self._silence_s = silence_s
        self._answered = False
        self._forget_clients()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_clients", "_lock", "_process")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget_clients()

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`, without a slash at its end."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[StoredObject]:
        """See `Storage.list`. The marks some tools leave for folders (keys that end with '/') are left out."""
        request = {"Bucket": self._bucket, "Prefix": self._prefix + _check_parts(prefix)}
        if not recursive:
            request["Delimiter"] = "/"
        found: list[StoredObject] = []
        while True:
            page = self._ask(prefix, lambda client: client.list_objects_v2(**request))
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(self._prefix)
                if key and not key.endswith("/"):
                    found.append(StoredObject(key, int(item["Size"]), bare_etag(item.get("ETag", ""))))
            if not page.get("IsTruncated"):
                break
            token = page.get("NextContinuationToken")
            if not token or token == request.get("ContinuationToken"):
                where = f"{self.url}/{prefix}".rstrip("/")
                # What is left out of a listing looks like what is not there: it is never taken for whole.
                raise StorageError(
                    f"{self._endpoint()} cut the listing of {where} and does not say how it goes on.",
                    hint="The server behind AWS_ENDPOINT_URL must answer ListObjectsV2 with NextContinuationToken.",
                )
            request["ContinuationToken"] = token
        # Amazon sorts; not every server does.
        found.sort(key=lambda item: item.key)
        return iter(found)

    def stat(self, key: str) -> StoredObject:
        """See `Storage.stat`."""
        try:
            answer = self._ask(key, lambda client: client.head_object(**self._named(key)))
        except NotFoundError:
            self._check_bucket(key)
            raise
        return StoredObject(key, int(answer["ContentLength"]), bare_etag(answer.get("ETag", "")))

    def read_into(self, key: str, start: int, buffer: memoryview, *, etag: str | None = None) -> None:
        """See `Storage.read_into`."""
        named = self._named(key)
        where = f"{self.url}/{key}"
        read = RangedRead(
            self._client, named=named, where=where, start=start, buffer=buffer, etag=etag, floor=self._floor
        )
        try:
            read.run(self._reading)
        except _FAULTS as error:
            raise self._translated(error, key) from error
        self._answered = True

    def write(self, key: str, data: bytes) -> None:
        """See `Storage.write`: one put, which S3 makes visible at once or not at all."""
        self._ask(key, lambda client: client.put_object(**self._named(key), Body=data))

    def create(self, key: str, data: bytes) -> bool:
        """See `Storage.create`: a put with `If-None-Match: *`."""
        tries, lost = Tries(self._asking), False
        while True:
            try:
                self._client().put_object(**self._named(key), Body=data, IfNoneMatch="*")
                return True
            except _FAULTS as error:
                if isinstance(error, ClientError) and status_of(error) == 412:
                    # After a lost answer the object in the way may be our own.
                    return lost and self.read(key) == data
                lost = True
                conflict = isinstance(error, ClientError) and code_of(error) == "ConditionalRequestConflict"
                if not self._may_retry(error, tries, also=conflict):
                    raise self._translated(error, key) from error

    def upload(self, key: str, path: Path) -> None:
        """See `Storage.upload`: in parts where the file is large; S3 shows it once the last part is there."""
        name = self._named(key)["Key"]
        if not path.is_file():
            raise NotFoundError(f"There is no file {path} to upload.")
        self._ask(key, lambda _: _upload(self._client(uploads=True), path, self._bucket, name))

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        try:
            self._ask(key, lambda client: client.delete_object(**self._named(key)))
        except NotFoundError:  # Amazon says nothing here; some servers do
            self._check_bucket(key)

    def _ask(self, key: str, request: Callable[[Any], T]) -> T:
        """One request with patience; botocore's errors come out typed."""
        tries = Tries(self._asking)
        while True:
            try:
                answer = request(self._client())
            except _FAULTS as error:
                if not self._may_retry(error, tries):
                    raise self._translated(error, key) from error
            else:
                self._answered = True
                tries.succeeded()
                return answer

    def _may_retry(self, error: Exception, tries: Tries, *, also: bool = False) -> bool:
        """Wait until the next try is due; False where there is none."""
        self._answered = self._answered or isinstance(error, ClientError)
        if not (is_transient(error) or also):
            return False
        return tries.wait() if self._answered else tries.wait(at_most=_STRANGER_S)

    def _check_bucket(self, key: str) -> None:
        """Raise a `BucketError` where it is the bucket that is missing: a HEAD's 404 does not tell."""
        try:
            self._ask(key, lambda client: client.head_bucket(Bucket=self._bucket))
        except NotFoundError as error:
            raise BucketError(
                f"There is no bucket {self._bucket} at {self._endpoint()}.",
                hint="Check its name and AWS_ENDPOINT_URL.",
            ) from error
        except AccessDeniedError:
            return  # one may have rights to objects without the right to ask for their bucket

    def _named(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + _check_key(key)}

    def _translated(self, error: Exception, key: str) -> StorageError:
        where = f"{self.url}/{key}" if key else self.url
        return translate(error, where=where, bucket=self._bucket, endpoint=self._endpoint())

    def _endpoint(self) -> str:
        client = self._clients.get(False) or self._clients.get(True)
        return str(client.meta.endpoint_url) if client else os.environ.get("AWS_ENDPOINT_URL") or "S3"

    def _forget_clients(self) -> None:
        self._clients: dict[bool, Any] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def _client(self, *, uploads: bool = False) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
        if self._process != os.getpid():
            self._forget_clients()
        with self._lock:
            if uploads not in self._clients:
                with _LOADER_LOCK:
                    self._clients[uploads] = _make_client(_UPLOAD_TRIES if uploads else 1, self._silence_s)
            return self._clients[uploads]


def _check_key(key: str) -> str:
    """Return `key` where it is one of an object; unlike a file's path it may have empty parts, as in `a//b`.

    Raises:
        AddressError: It is empty, ends with '/', or has a '.' or '..' part, which HTTP clients and servers resolve.
    """
    if not key or key.endswith("/"):
        raise AddressError(f"{key!r} cannot be a key.", hint="A key names an object, not a prefix.")
    return _check_parts(key)


def _check_parts(prefix: str) -> str:
    if any(part in (".", "..") for part in prefix.split("/")) or "\0" in prefix:
        raise AddressError(f"{prefix!r} cannot be a key.", hint="Keys in S3 have no '.' or '..' parts.")
    return prefix


def _upload(client: Any, path: Path, bucket: str, name: str) -> None:  # noqa: ANN401 - as above
    try:
        client.upload_file(str(path), bucket, name)
    except boto3.exceptions.Boto3Error as error:
        # It only says in words what went wrong; what it came from also tells whether that may pass.
        cause = error.__context__
        raise cause if isinstance(cause, _FAULTS) else StorageError(f"{path} was not uploaded: {error}.") from error


_LOADER = create_loader()
_LOADER_LOCK = threading.Lock()


def _make_session() -> boto3.session.Session:
    """A session that shares the parsed service descriptions, which take five times as long to read as all the rest."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _LOADER)
    return boto3.session.Session(botocore_session=core)


def _make_client(tries: int, silence_s: float) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    """A client of its own session: sessions are not safe to share between threads."""
    session = _make_session()
    config = Config(
        connect_timeout=5,
        read_timeout=silence_s,
        max_pool_connections=IN_FLIGHT,
        retries={"mode": "standard", "total_max_attempts": tries},
    )
    client = session.client("s3", config=config)
    if client.meta.endpoint_url.partition("?")[0].rstrip("/").endswith(_AMAZON):
        return client
    # Other servers seldom resolve bucket.host, and many do not know the newer trailing checksums.
    custom = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client("s3", config=config.merge(custom))
