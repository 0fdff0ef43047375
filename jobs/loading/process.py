"""The trainer's side of its loader process: batches without boto3, tar or decoding in the trainer."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from types import TracebackType

from jobs.errors import RecoError
from jobs.loading.batch import Batch
from jobs.loading.detail import Detail
from jobs.loading.messages import Ask, Counters, Ended, Failed, Filled, Open, Opened, Release, Start, Stop, Waiting
from jobs.loading.slots import Ring
from jobs.shards.order import NaturalOrder, SampleOrder

_log = logging.getLogger(__name__)

_DEATHS = 3
_ANSWER_S = 5.0
_END_S = 5.0


class LoaderDiedError(RecoError):
    """The loader process ended again and again without a batch in between."""


class StalledError(RecoError):
    """No data came for too long."""


@dataclass(frozen=True)
class Patience:
    """How long a trainer waits for a batch, in seconds.

    Attributes:
        warn: Say what is being waited for, again and again.
        fail: Give up.
    """

    warn: float = 30.0
    fail: float = 900.0


class LoaderProcess:
    """A process that opens data sets and streams their batches into shared memory.

    It is started when first needed. When it dies it is started again, and every stream goes on with the batch that
    comes next: an order is a function of its position, so nothing is lost or repeated. It ends when the trainer does,
    however that ends. Not for use from several threads.

    Args:
        threads: Decoding threads of each stream.
        cache: Folder on a local disk and most bytes of a cache of shards; None for none.
        patience: With a storage that does not answer.
    """

    def __init__(
        self, *, threads: int = 1, cache: tuple[str, int] | None = None, patience: Patience = Patience()
    ) -> None:
        self._threads = threads
        self._cache = cache
        self.patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._requests: dict[int, Open] = {}
        self._opened: dict[int, Opened] = {}
        self._streams: dict[int, Stream] = {}
        self._numbers = 0
        self._answers: deque[Waiting] = deque()
        self._deaths = 0
        self.generation = 0
        self.restarts = 0

    def __enter__(self) -> LoaderProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the process that runs now."""
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open(self, source: str | Sequence[str], *, index: str | None = None, labels: bool = False) -> Opened:
        """Open a data set, building its index where there is none.

        Args:
            source: As for `open_dataset`.
            index: As for `open_dataset`.
            labels: Whether the classes of all samples are wanted.

        Raises:
            RecoError: As `open_dataset` raises them.
            LoaderDiedError: The process keeps ending.
        """
        self._numbers += 1
        number = self._numbers
        self._requests[number] = Open(
            number, source if isinstance(source, str) else tuple(source), index, labels, self._cache
        )
        while True:
            try:
                self._ensure()
                if number not in self._opened:
                    self._open(number)
                return self._opened[number]
            except _DiedError as error:
                self.mourn(error)
            except BaseException:
                self._requests.pop(number, None)
                raise

    def stream(
        self,
        dataset: Opened,
        order: SampleOrder,
        *,
        lanes: range,
        start: int,
        stop: int,
        detail: Detail | None = None,
        replace: bool = False,
        slots: int = 3,
    ) -> Stream:
        """The batches of the global steps start..stop-1.

        Args:
            dataset: From `open`.
            order: Who comes when.
            lanes: The lanes of this worker.
            start: First global step.
            stop: The step after the last.
            detail: How far large pictures may be scaled down; not at all by default.
            replace: Whether pictures that cannot be used are replaced, rather than an error.
            slots: Batches in memory at a time: one is yours, the others are being filled or wait for you.
        """
        self._numbers += 1
        most = dataset.most_pixels if detail is None else detail.most_pixels(dataset.longest, dataset.most_pixels)
        size = 3 * (len(lanes) * order.lane_batch_size * most + dataset.longest)
        ring = Ring.create(slots=slots, size=size)
        request = Start(
            stream=self._numbers,
            dataset=dataset.number,
            order=order,
            lanes=lanes,
            start=start,
            stop=stop,
            threads=self._threads,
            slots=slots,
            slot_size=ring.size,
            free=tuple(range(slots)),
            detail=detail,
            replace=replace,
        )
        stream = self._streams[self._numbers] = Stream(self, request, ring)
        return stream

    def read(
        self,
        dataset: Opened,
        rows: range,
        *,
        batch_size: int,
        detail: Detail | None = None,
        replace: bool = False,
        slots: int = 3,
    ) -> Stream:
        """The samples of `rows` as they are stored, each once.

        Args:
            dataset: From `open`.
            rows: Consecutive sample ids, at least one.
            batch_size: Samples per batch; the last may be smaller.
            detail: As for `stream`.
            replace: As for `stream`.
            slots: As for `stream`.
        """
        order = NaturalOrder(dataset.counts, start=rows.start, stop=rows.stop, batch_size=min(batch_size, len(rows)))
        stop = order.steps_per_epoch
        return self.stream(
            dataset, order, lanes=range(1), start=0, stop=stop, detail=detail, replace=replace, slots=slots
        )

    def close(self) -> None:
        """End the process and every stream."""
        for stream in list(self._streams.values()):
            stream.close()
        self._end()

    # What streams use

    def begin(self, stream: Stream) -> None:
        """Let the process that runs now fill a stream from its next batch on."""
        self._ensure()
        dataset = stream.request.dataset
        if dataset not in self._opened:
            self._open(dataset)
        self.send(stream.resumed())
        assert self._connection is not None
        assert self._process is not None
        with _death_noticed():
            send_handle(self._connection, stream.ring.descriptor, self._process.pid)

    def send(self, message: object) -> None:
        """Tell the process something."""
        assert self._connection is not None
        with _death_noticed():
            self._connection.send(message)

    def receive(self, timeout: float) -> bool:
        """Take one message to where it belongs; False where none came in time."""
        assert self._connection is not None
        with _death_noticed():
            if not self._connection.poll(timeout):
                return False
            message = self._connection.recv()
        match message:
            case Opened():
                self._opened[message.number] = message
            case Filled() | Ended():
                if message.stream in self._streams:
                    self._streams[message.stream].inbox.append(message)
            case Failed() if message.of_stream:
                if message.number in self._streams:
                    self._streams[message.number].inbox.append(message)
            case Failed():
                raise message.error
            case Waiting():
                self._answers.append(message)
        return True

    def stalled(self, waited: float) -> None:
        """Say what is waited for; a process that does not answer, or a wait that is too long, is ended."""
        answer = self._ask()
        if answer is None:
            _log.warning("no data for %.0f s, and the loader process %s does not answer: it is ended", waited, self.pid)
            self._end(kill=True)
            raise _DiedError("it did not answer")
        reads = "; ".join(answer.reads[:3]) or "no read is under way: decoding is slow, or memory is short"
        _log.warning("no data for %.0f s, waiting for %s", waited, reads)
        if waited >= self.patience.fail:
            raise StalledError(
                f"No data came for {waited:.0f} s; the loader waits for {reads}.",
                hint="Look at that server and the way to it; the run continues from its last checkpoint.",
            )

    def _ask(self) -> Waiting | None:
        """What the process waits for; None where it does not answer."""
        self._answers.clear()
        self.send(Ask())
        deadline = time.monotonic() + _ANSWER_S
        while (left := deadline - time.monotonic()) > 0:
            self.receive(left)
            if self._answers:
                return self._answers[0]
        return None

    def delivered(self) -> None:
        """A batch came: deaths so far were no vain attempts."""
        self._deaths = 0

    def forget(self, stream: Stream) -> None:
        """Drop what comes for a stream from now on."""
        self._streams.pop(stream.request.stream, None)

    def _ensure(self) -> None:
        if self._connection is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobs.loading.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is the trainer's business: it saves, then ends this
            )
        self._connection = Connection(ours.detach())
        self.generation += 1
        before, self._opened = self._opened, {}
        for number, opened in before.items():
            self._open(number)
            if self._opened[number].hash != opened.hash:
                raise RecoError("The shards were changed and indexed anew while this run reads them.")

    def _open(self, number: int) -> None:
        self.send(self._requests[number])
        while number not in self._opened:
            self.receive(self.patience.warn)

    def mourn(self, error: _DiedError) -> None:
        """Note that the process died; too often in a row is an error."""
        pid, code = self.pid, self._end(kill=True)
        self._deaths += 1
        self.restarts += 1
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if self._deaths > _DEATHS:
            raise LoaderDiedError(
                f"The loader process ended {self._deaths} times without giving a batch, last with {how}.",
                hint="Its log above says why; signal 9 is usually the system, short of memory.",
            ) from error
        _log.warning("loader process %s ended (%s); it is started again", pid, how)

    def _end(self, *, kill: bool = False) -> int | None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()  # it ends by itself when it sees this
        if process is None:
            return None
        if kill:
            process.kill()
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


class Stream:
    """Batches, in order. Iterate over it, or `take` and `release` them.

    Args:
        loader: Its process.
        request: What to begin with.
        ring: Where batches lie.
    """

    def __init__(self, loader: LoaderProcess, request: Start, ring: Ring) -> None:
        self._loader = loader
        self.request = request
        self.ring = ring
        self.inbox: deque[Filled | Ended | Failed] = deque()
        self.counters = Counters()
        self._generation = 0
        self._before = Counters()
        self._next = request.start
        self._held: dict[int, int] = {}
        self._closed = False

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining batches, each valid until the next is asked for."""
        while (batch := self.take()) is not None:
            try:
                yield batch
            finally:
                self.release(batch)

    def take(self) -> Batch | None:
        """The next batch; None after the last. Its memory is yours until it is released.

        Raises:
            DamagedSampleError: A picture cannot be used, and none may stand in for it.
            StorageError: Bytes cannot be had.
            LoaderDiedError: The process keeps ending.
            StalledError: Nothing came for too long.
        """
        while not self._closed and self._next < self.request.stop:
            try:
                self._start_or_resume()
                return self._next_batch()
            except _DiedError as error:
                self._loader.mourn(error)
        return None

    def ready(self) -> bool:
        """Whether `take` would not wait, as far as can be known."""
        if self._closed or self._next >= self.request.stop:
            return True
        try:
            self._start_or_resume()
            while not self.inbox and self._loader.receive(0.0):
                pass
        except _DiedError as error:
            self._loader.mourn(error)
        return bool(self.inbox)

    def release(self, batch: Batch) -> None:
        """Let the batch's memory be written again."""
        slot = self._held.pop(batch.step, None)
        if slot is None or self._closed or self._generation != self._loader.generation:
            return
        with contextlib.suppress(_DiedError):  # noticed when the next batch is taken
            self._loader.send(Release(self.request.stream, slot))

    def close(self) -> None:
        """End the stream; batches not yet taken are dropped. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._loader.forget(self)
        if self._generation == self._loader.generation:
            with contextlib.suppress(_DiedError):
                self._loader.send(Stop(self.request.stream))
        self.ring.close()

    def resumed(self) -> Start:
        """What to begin with now: the next batch, in the slots that are not in use."""
        held = set(self._held.values())
        free = tuple(slot for slot in range(self.request.slots) if slot not in held)
        fields = {**vars(self.request), "start": self._next, "free": free}
        return Start(**fields)

    def _start_or_resume(self) -> None:
        if self._generation == self._loader.generation and self._loader.pid is not None:
            return
        self.inbox.clear()
        died = Counters(restarts=1 if self._generation else 0)
        self._before = self.counters = self.counters + died
        self._loader.begin(self)
        self._generation = self._loader.generation

    def _next_batch(self) -> Batch | None:
        loader, began, warned = self._loader, time.monotonic(), 0.0
        while not self.inbox:
            now = time.monotonic() - began
            if not loader.receive(max(0.0, loader.patience.warn - (now - warned))):
                warned = time.monotonic() - began
                loader.stalled(warned)
        message = self.inbox.popleft()
        if isinstance(message, Failed):
            self.close()
            raise message.error
        if isinstance(message, Ended):
            self._next = self.request.stop
            return None
        loader.delivered()
        self._next = message.step + 1
        self._held[message.step] = message.slot
        self.counters = self._before + message.counters
        return Batch(
            step=message.step,
            epoch=message.epoch,
            pixels=self.ring.again(message.slot, message.size),
            offsets=message.offsets,
            sizes=message.sizes,
            sample_ids=message.sample_ids,
            labels=message.labels,
            replaced=message.replaced,
        )


class _DiedError(Exception):
    """The process is gone."""


@contextlib.contextmanager
def _death_noticed() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise _DiedError(str(error)) from error
