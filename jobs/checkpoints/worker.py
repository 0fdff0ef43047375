"""The saver process: `python -m jobs.checkpoints.worker DESCRIPTOR`, started by `Saver` and ended with it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from queue import SimpleQueue

from jobs.checkpoints.manifest import Manifest
from jobs.checkpoints.publish import Draft, publish
from jobs.child import portable


class Worker:
    """Publishes drafts in turn, as they come over a connection, and answers each with its manifest or its error."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._drafts: SimpleQueue[tuple[Draft, int]] = SimpleQueue()

    def serve(self) -> None:
        """Do as told until the other end is gone."""
        # In a thread of its own, so that this one hears at once when the trainer is gone.
        threading.Thread(target=self._publish_all, daemon=True).start()
        while True:
            try:
                draft = self._connection.recv()
                self._drafts.put((draft, recv_handle(self._connection)))
            except (EOFError, OSError):
                return

    def _publish_all(self) -> None:
        while True:
            draft, descriptor = self._drafts.get()
            answer: Manifest | BaseException
            try:
                answer = publish(draft, descriptor)
            except BaseException as error:  # noqa: BLE001 - it is raised where the checkpoint was wanted
                answer = portable(error, who="saver")
            finally:
                os.close(descriptor)
            try:
                self._connection.send(answer)
            except OSError:
                os._exit(0)  # the trainer is gone, and nobody is left to tell


def main() -> None:
    """Serve the connection whose descriptor is the only argument."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells where each client found its keys
    Worker(Connection(int(sys.argv[1]))).serve()
    os._exit(0)  # what is half written has no manifest, and an attempt that follows must not find it still at work


if __name__ == "__main__":
    main()
