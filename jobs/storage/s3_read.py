"""One exact ranged read from S3, which may take several requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from jobs.storage.activity import ACTIVITY, Read
from jobs.storage.aws_errors import is_transient
from jobs.storage.base import short
from jobs.storage.errors import ObjectChangedError, StorageError
from jobs.storage.retry import Backoff

_CHUNK = 1 << 20  # larger reads only cost memory, smaller ones four times the CPU per byte
_CAREFUL_CHUNK = 64 << 10  # after a fault: what a broken connection takes along is at most this


class RangedRead:
    """Fills a buffer from a byte range of one version of an object, resuming at the first missing byte.

    boto3 never retries a body: a connection that breaks in the middle of one raises, or, where the answer has no
    length, ends silently. So every answer's range and tag are checked, the bytes counted, and the rest asked for again.

    Args:
        client: Gives this process's boto3 client; called for each request.
        named: `Bucket` and `Key` of the object.
        where: Its URL, for messages.
        start: Offset of the first byte.
        buffer: Writable bytes to fill.
        etag: The version to read; None takes the version of the first answer.
    """

    def __init__(
        self,
        client: Callable[[], Any],
        *,
        named: dict[str, str],
        where: str,
        start: int,
        buffer: memoryview,
        etag: str | None,
    ) -> None:
        self._client = client
        self._named = named
        self._where = where
        self._start = start
        self._buffer = buffer
        self._etag = etag
        self._done = 0
        self._chunk = _CHUNK

    def run(self, patience: Backoff) -> None:
        """Read until the buffer is full.

        Raises:
            StorageError: The answer was wrong in a way no retry mends.
            BotoCoreError, ClientError, OSError: The last transient fault, once `patience` is at its end, or one that
                is not transient; the caller knows how to say it.
        """
        host = str(self._client().meta.endpoint_url)
        with ACTIVITY.reading(self._where, self._start, self._start + len(self._buffer), host) as read:
            self._run(patience, read)

    def _run(self, patience: Backoff, read: Read) -> None:
        failures = 0
        while self._done < len(self._buffer):
            before = self._done
            try:
                self._request_rest(read)
                # A body without a length that stops early raises nothing: only the count shows it.
                if self._done < len(self._buffer):
                    raise ConnectionResetError("the body stopped early")
            except (BotoCoreError, ClientError, OSError) as error:
                failures = 1 if self._done > before else failures + 1
                read.failures += 1
                read.fault = f"{type(error).__name__}: {error}"[:200]
                if not is_transient(error) or failures >= patience.attempts:
                    raise
                self._chunk = _CAREFUL_CHUNK
                patience.wait(failures)

    def _request_rest(self, read: Read) -> None:
        first, stop = self._start + self._done, self._start + len(self._buffer)
        request = {**self._named, "Range": f"bytes={first}-{stop - 1}"}
        if self._etag:
            request["IfMatch"] = f'"{self._etag}"'
        answer = self._client().get_object(**request)
        body = answer["Body"]
        try:
            self._check_version(answer)
            self._check_range(answer, first, stop)
            while got := body.readinto(self._buffer[self._done : self._done + self._chunk]):
                self._done += got
                read.done = self._done
        finally:
            body.close()

    def _check_version(self, answer: dict[str, Any]) -> None:
        # Not every server honours If-Match, so the answer's own tag is compared as well.
        etag = bare_etag(answer.get("ETag", ""))
        if self._etag and etag and etag != self._etag:
            raise ObjectChangedError(f"{self._where} was changed since it was listed.", hint="Use its new version.")
        self._etag = self._etag or etag or None

    def _check_range(self, answer: dict[str, Any], first: int, stop: int) -> None:
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        given = answer.get("ContentRange", "")
        begin, _, end = given.removeprefix("bytes ").partition("/")[0].partition("-")
        exact = begin == str(first) and end == str(stop - 1)
        # `rclone serve s3` sends the right range under status 200. A server that ignores Range states no range at all,
        # so with the range and the length both right there is nothing left to doubt.
        if exact and (status == 206 or answer.get("ContentLength") == stop - first):
            return
        if begin == str(first) and end.isdigit() and int(end) < stop - 1:
            raise short(self._where, first, stop)
        raise StorageError(
            f"Bytes {first}..{stop} of {self._where} were answered with {status} {given or 'and no range'}.",
            hint="The server behind AWS_ENDPOINT_URL must honour Range requests.",
        )


def bare_etag(etag: str) -> str:
    """An ETag without its quotes and weakness mark."""
    return etag.removeprefix("W/").strip('"')
