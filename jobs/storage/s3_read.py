"""One exact ranged read from S3, which may take several requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from jobs.storage import retry
from jobs.storage.activity import ACTIVITY, Read
from jobs.storage.aws_errors import is_transient
from jobs.storage.base import short
from jobs.storage.errors import ObjectChangedError, StorageError
from jobs.storage.retry import Patience, Tries

_CHUNK = 1 << 20
# Between two receives a moment is left for more to arrive. Whoever receives as bytes come wakes for every few packets:
# half as much CPU again as with this moment, and no more bytes per second (measured on loopback at 700 MB/s).
_GATHER_S = 0.0005


@dataclass(frozen=True)
class Floor:
    """The slowest body that is put up with.

    The socket's own timeout only sees silence: a body that dribbles a byte now and then would hold a read forever.

    Args:
        bytes_per_s: Mean rate that a body has to keep up,
        seconds: over every stretch as long as this.
    """

    bytes_per_s: float = 32 << 10
    seconds: float = 20.0

    @property
    def size(self) -> float:
        """Bytes that every such stretch has to bring."""
        return self.bytes_per_s * self.seconds


class RangedRead:
    """Fills a buffer from a byte range of one version of an object, resuming at the first missing byte.

    boto3 never retries a body: a connection that breaks in the middle of one raises, or, where the answer has no
    length, ends silently. So every answer's range and tag are checked, the bytes counted, and the rest asked for again
    on a new connection.

    Args:
        client: Gives this process's boto3 client; called for each request.
        named: `Bucket` and `Key` of the object.
        where: Its URL, for messages.
        start: Offset of the first byte.
        buffer: Writable bytes to fill.
        etag: The version to read; None takes the version of the first answer.
        floor: A slower body is broken off and asked for again.
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
        floor: Floor,
    ) -> None:
        self._client = client
        self._named = named
        self._where = where
        self._start = start
        self._buffer = buffer
        self._etag = etag
        self._floor = floor
        self._done = 0

    def run(self, patience: Patience) -> None:
        """Read until the buffer is full.

        Raises:
            StorageError: The answer was wrong in a way no retry mends.
            BotoCoreError, ClientError, HTTPError, OSError: The last transient fault, once `patience` is at its end, or
                one that is not transient; the caller knows how to say it.
        """
        host = str(self._client().meta.endpoint_url)
        with ACTIVITY.reading(self._where, self._start, self._start + len(self._buffer), host) as read:
            self._run(Tries(patience), read)

    def _run(self, tries: Tries, read: Read) -> None:
        counted = 0
        while self._done < len(self._buffer):
            try:
                with retry.in_flight:
                    self._request_rest(read)
                # A body without a length that stops early raises nothing: only the count shows it.
                if self._done < len(self._buffer):
                    raise ConnectionResetError("the body stopped early")
            except (BotoCoreError, ClientError, HTTPError, OSError) as error:
                read.failures += 1
                read.fault = f"{type(error).__name__}: {error}"[:200]
                # Less than this does not buy new patience, or a few bytes per request would hold a read forever.
                if self._done - counted >= self._floor.size:
                    counted = self._done
                    tries.succeeded()
                if not is_transient(error) or not tries.wait():
                    raise
        tries.succeeded()

    def _request_rest(self, read: Read) -> None:
        first, stop = self._start + self._done, self._start + len(self._buffer)
        request = {**self._named, "Range": f"bytes={first}-{stop - 1}"}
        if self._etag:
            request["IfMatch"] = f'"{self._etag}"'
        answer = self._client().get_object(**request)
        # Leaving closes what is not at its end, connection and all; a body read to its end gives its connection back.
        with answer["Body"] as body:
            self._check_version(answer)
            self._check_range(answer, first, stop)
            self._fill(body, read)

    def _fill(self, body: Any, read: Read) -> None:  # noqa: ANN401 - urllib3's, behind boto3's untyped answer
        stretch, before = time.monotonic(), self._done
        while self._done < len(self._buffer):
            # `read` and `readinto` return only once all they were asked for is there: a trickle would go unnoticed,
            # and a fault take along what had come. `read1` returns with what one receive brings.
            data = body.read1(min(_CHUNK, len(self._buffer) - self._done), decode_content=False)
            if not data:
                return
            self._buffer[self._done : self._done + len(data)] = data
            self._done += len(data)
            read.done = self._done
            now = time.monotonic()
            if self._done - before >= self._floor.size:
                stretch, before = now, self._done
            elif now - stretch > self._floor.seconds and self._done < len(self._buffer):
                raise TimeoutError(f"{self._done - before} bytes in {now - stretch:.0f} s")
            if len(data) < _CHUNK and self._done < len(self._buffer):
                time.sleep(_GATHER_S)

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
