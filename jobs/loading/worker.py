"""The loader process: `python -m jobs.loading.worker DESCRIPTOR`, started by `LoaderProcess` and ended with it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path

import numpy as np

from jobs.child import portable
from jobs.loading.messages import Ask, Counters, Ended, Failed, Filled, Open, Opened, Release, Start, Stop, Waiting
from jobs.loading.pipeline import Pipeline
from jobs.loading.slots import Ring
from jobs.shards.dataset import Dataset, open_dataset
from jobs.storage.activity import ACTIVITY

_log = logging.getLogger("reco.loader")


class Worker:
    """Opens data sets and fills rings, as it is told over a connection; ends when the other end does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._datasets: dict[int, Dataset] = {}
        self._feeds: dict[int, _Feed] = {}
        self._closing: list[threading.Thread] = []

    def serve(self) -> None:
        """Do as told until the other end is gone."""
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                return
            match message:
                case Open():
                    # In a thread of its own, so that this one hears at once when the trainer is gone.
                    threading.Thread(target=self._open, args=(message,), daemon=True).start()
                case Start():
                    self._start(message)
                case Release():
                    self._release(message)
                case Stop():
                    self._stop(message)
                case Ask():
                    # Totals first: a read that ends in between counts once or not at all, never twice.
                    total, reads = ACTIVITY.counters().bytes_read, ACTIVITY.under_way()
                    self._send(Waiting([str(read) for read in reads], total + sum(read.done for read in reads)))

    # Apart from `serve`, whose variables would keep the last stream's memory until the next message.

    def _start(self, request: Start) -> None:
        ring = Ring(recv_handle(self._connection), slots=request.slots, size=request.slot_size, free=request.free)
        feed = self._feeds[request.stream] = _Feed(request, ring)
        closing = [thread for thread in self._closing if thread.is_alive()]
        feed.thread = threading.Thread(target=self._feed, args=(feed, closing), daemon=True)
        feed.thread.start()

    def _release(self, message: Release) -> None:
        if (feed := self._feeds.get(message.stream)) is not None:
            feed.ring.give_back(message.slot)

    def _stop(self, message: Stop) -> None:
        if (feed := self._feeds.pop(message.stream, None)) is not None:
            feed.stop()
            self._closing = [thread for thread in (*self._closing, feed.thread) if thread and thread.is_alive()]

    def _open(self, request: Open) -> None:
        source = request.source if isinstance(request.source, str) else list(request.source)
        try:
            dataset = open_dataset(source, index=request.index)
            if request.cache is not None:
                folder, limit = request.cache
                dataset.keep_shards(Path(folder), limit)
            labels = dataset.labels if request.labels else None
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            self._send(Failed(request.number, portable(error, who="loader"), of_stream=False))
            return
        self._datasets[request.number] = dataset
        self._send(
            Opened(
                number=request.number,
                hash=dataset.hash,
                counts=dataset.counts,
                left_out=dataset.left_out,
                num_classes=dataset.num_classes,
                longest=max(dataset.max_size),
                most_pixels=dataset.max_pixels,
                shard_sizes=np.array(dataset.shard_sizes, np.int64),
                labels=labels,
            )
        )

    def _feed(self, feed: _Feed, closing: list[threading.Thread]) -> None:
        for thread in closing:
            thread.join()  # the memory of streams that were ended is not there twice
        request = feed.request
        pictures = replaced = 0
        before = ACTIVITY.counters()
        try:
            with Pipeline(
                self._datasets[request.dataset],
                request.order,
                lanes=request.lanes,
                start=request.start,
                stop=request.stop,
                threads=request.threads,
                slots=feed.ring,
                detail=request.detail,
                replace=request.replace,
            ) as pipeline:
                feed.pipeline = pipeline
                for slot, batch in pipeline:
                    pictures += len(batch)
                    replaced += len(batch.replaced)
                    now = ACTIVITY.counters()
                    self._send(
                        Filled(
                            stream=request.stream,
                            slot=slot,
                            size=len(batch.pixels),
                            step=batch.step,
                            epoch=batch.epoch,
                            offsets=batch.offsets,
                            sizes=batch.sizes,
                            sample_ids=batch.sample_ids,
                            labels=batch.labels,
                            replaced=batch.replaced,
                            counters=Counters(
                                bytes_read=now.bytes_read - before.bytes_read,
                                retries=now.retries - before.retries,
                                pictures=pictures,
                                decode_s=pipeline.decode_s,
                                replaced=replaced,
                            ),
                        )
                    )
            self._send(Ended(request.stream))
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch was asked for
            # Where the trainer asked for the end, whatever that broke off is no error, and nobody waits for more.
            if not feed.stopped:
                self._send(Failed(request.stream, portable(error, who="loader"), of_stream=True))
        finally:
            self._feeds.pop(request.stream, None)
            feed.pipeline = None
            feed.ring.close()

    def _send(self, message: object) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            os._exit(0)  # the trainer is gone, and nobody is left to tell


@dataclass
class _Feed:
    """A stream that is being filled."""

    request: Start
    ring: Ring
    pipeline: Pipeline | None = None
    thread: threading.Thread | None = None
    stopped: bool = False

    def stop(self) -> None:
        """End its threads; a read under way may take a while, so somebody else waits for it."""
        self.stopped = True
        closing = self.ring if self.pipeline is None else self.pipeline
        threading.Thread(target=closing.close, daemon=True).start()


def main() -> None:
    """Serve the connection whose descriptor is the only argument."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells where each client found its keys
    Worker(Connection(int(sys.argv[1]))).serve()
    os._exit(0)  # threads may be in the middle of a read that nobody waits for any more


if __name__ == "__main__":
    main()
