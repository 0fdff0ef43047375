"""The trainer's side of its loader process: batches without boto3, tar or decoding in the trainer."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from jobs.child import Child, DiedError
from jobs.errors import RecoError
from jobs.loading.detail import Detail
from jobs.loading.messages import Ask, Ended, Failed, Filled, Open, Opened, Start, Waiting
from jobs.loading.patience import PATIENCE, Patience, Wait
from jobs.loading.slots import Ring
from jobs.loading.stream import Stream
from jobs.shards.order import NaturalOrder, SampleOrder

_log = logging.getLogger(__name__)

_DEATHS = 3
_ANSWER_S = 5.0


class LoaderDiedError(RecoError):
    """The loader process ended again and again without a batch in between."""


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
        self, *, threads: int = 1, cache: tuple[str, int] | None = None, patience: Patience = PATIENCE
    ) -> None:
        self._threads = threads
        self._cache = cache
        self.patience = patience
        self._child: Child | None = None
        self._requests: dict[int, Open] = {}
        self._opened: dict[int, Opened] = {}
        self._hashes: dict[int, str] = {}
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
        return None if self._child is None else self._child.pid

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the process that runs now."""
        return 0.0 if self._child is None else self._child.cpu_s

    def open(self, source: str | Sequence[str], *, index: str | None = None, labels: bool = False) -> Opened:
        """Open a data set, building its index where there is none.

        Args:
            source: As for `open_dataset`.
            index: As for `open_dataset`.
            labels: Whether the classes of all samples are wanted.

        Raises:
            RecoError: As `open_dataset` raises them.
            LoaderDiedError: The process keeps ending, or does not answer however often it is started again.
            StalledError: It answers, but has read nothing for too long.
        """
        self._numbers += 1
        number = self._numbers
        self._requests[number] = Open(
            number, source if isinstance(source, str) else tuple(source), index, labels, self._cache
        )
        while True:
            try:
                self._ensure()
                return self._ensure_open(number)
            except DiedError as error:
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
        self._ensure_open(stream.request.dataset)
        self.send(stream.resumed(), stream.ring.descriptor)

    def send(self, message: object, descriptor: int | None = None) -> None:
        """Tell the process something.

        Raises:
            DiedError: There is none.
        """
        if self._child is None:
            raise DiedError("it was ended")
        self._child.send(message, descriptor)

    def receive(self, timeout: float) -> bool:
        """Take one message to where it belongs; False where none came in time.

        Raises:
            DiedError: The process is gone.
            RecoError: A data set could not be opened.
        """
        if self._child is None:
            raise DiedError("it was ended")
        message = self._child.receive(timeout)
        match message:
            case None:
                return False
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

    def receive_until(self, there: Callable[[], bool], wait: Wait) -> None:
        """Take messages to where they belong until what is waited for is there.

        Raises:
            DiedError: The process is gone, or does not answer.
            StalledError: The wait was too long.
            RecoError: A data set could not be opened.
        """
        while not there():
            if not self.receive(wait.left()):
                wait.explain()

    def ask(self) -> Waiting | None:
        """What the process is at; None where it does not answer."""
        self._answers.clear()
        self.send(Ask())
        deadline = time.monotonic() + _ANSWER_S
        while (left := deadline - time.monotonic()) > 0:
            self.receive(left)
            if self._answers:
                return self._answers[0]
        return None

    def mourn(self, error: DiedError) -> None:
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

    def delivered(self) -> None:
        """A batch came: deaths so far were no vain attempts."""
        self._deaths = 0

    def forget(self, stream: Stream) -> None:
        """Drop what comes for a stream from now on."""
        self._streams.pop(stream.request.stream, None)

    # Inside

    def _ensure(self) -> None:
        """Let there be a process."""
        if self._child is None:
            self._child = Child("jobs.loading.worker")
            self._opened.clear()
            self.generation += 1

    def _ensure_open(self, number: int) -> Opened:
        """Let the process have opened a data set; what it finds must be what was found before."""
        if number not in self._opened:
            self.send(self._requests[number])
            wait = Wait(self.patience, self.ask, "data set", no_reads="shards are listed or indexed", moving=True)
            self.receive_until(lambda: number in self._opened, wait)
        opened = self._opened[number]
        if self._hashes.setdefault(number, opened.hash) != opened.hash:
            raise RecoError(
                "The shards were changed and indexed anew while this run reads them.",
                hint="A run keeps to the data it began with: put the old shards back, or start a new run.",
            )
        return opened

    def _end(self, *, kill: bool = False) -> int | None:
        child, self._child = self._child, None
        return None if child is None else child.end(kill=kill)
