"""The trainer's side of the saver process: a step's state is copied, and training goes on while it is stored."""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import Any, Self

import torch

from jobs.checkpoints.fence import Fence
from jobs.checkpoints.manifest import Manifest
from jobs.checkpoints.publish import Draft
from jobs.child import Child, DiedError
from jobs.errors import RecoError
from jobs.run_folder import Record, RunFolder
from jobs.storage import UnreachableError

_log = logging.getLogger(__name__)

_DEATHS = 3


class Saver:
    """Makes checkpoints of a run, one at a time, in a process of its own.

    The state is copied into memory without a name, which that process reads: the trainer hashes and uploads nothing,
    and waits for no storage. A saver that dies is started again with the same state. Storage that stays away costs a
    checkpoint, not the run: `owing` then says that one is missing, and the next one brings its records along.

    Args:
        folder: The run's.
        keep: Newest checkpoints that stay.
        spec_hash: Hash of the run's spec.
        dataset_hash: Hash of the index of its data.
        fence: This attempt's right to write.

    Attributes:
        last_saved: Step of the newest checkpoint that this made and that is whole; 0 for none.
    """

    def __init__(
        self, folder: RunFolder, *, keep: int, spec_hash: str, dataset_hash: str, fence: Fence | None = None
    ) -> None:
        self._folder, self._keep, self._fence = folder, keep, fence
        self._spec_hash, self._dataset_hash = spec_hash, dataset_hash
        self._child: Child | None = None
        self._pending: tuple[Draft, int] | None = None
        self._missed: UnreachableError | None = None
        self._owed: tuple[Record, ...] = ()
        self._deaths = 0
        self.last_saved = 0

    def __enter__(self) -> Self:
        self._child = Child("jobs.checkpoints.worker")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.end()
        if self._pending is not None:
            os.close(self._pending[1])

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is under way, as far as `look` knows."""
        return self._pending is not None

    @property
    def owing(self) -> bool:
        """Whether the latest checkpoint did not come to exist, and none is under way."""
        return self._missed is not None and not self.busy

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._child is None else self._child.pid

    def save(self, state: dict[str, Any], *, step: int, records: list[Record]) -> None:
        """Copy a state, to be stored from now on; waits for the checkpoint before, where it is still under way.

        Args:
            state: Tensors and numbers; may change as soon as this returns.
            step: Steps completed.
            records: Of the steps since the checkpoint before.

        Raises:
            RecoError: As `look`, for the one before.
        """
        self.settle()
        draft = Draft(
            self._folder,
            step,
            self._spec_hash,
            self._dataset_hash,
            records=(*self._owed, *records),
            keep=self._keep,
            fence=self._fence,
        )
        descriptor = os.memfd_create("reco-state")
        self._pending = draft, descriptor
        with os.fdopen(os.dup(descriptor), "wb") as file:
            torch.save(state, file)
        self._hand_over()

    def look(self, timeout: float = 0.0) -> None:
        """Take in what the process has to say, waiting no longer than so many seconds.

        Raises:
            FencedError: A newer attempt has taken the run over.
            RecoError: The checkpoint cannot be stored, for a reason that waiting does not mend.
        """
        if self._child is None or self._pending is None:
            return
        try:
            answer = self._child.receive(timeout)
        except DiedError as error:
            self._mourn(error)
            return
        if answer is None:
            return
        (draft, descriptor), self._pending = self._pending, None
        os.close(descriptor)
        self._deaths = 0
        match answer:
            case Manifest():
                self.last_saved = answer.step
                self._missed, self._owed = None, ()
            case UnreachableError():
                self._missed, self._owed = answer, draft.records
                _log.warning("no checkpoint of step %d, training goes on: %s", draft.step, answer)
            case BaseException():
                raise answer

    def finish(self) -> None:
        """Wait until the latest checkpoint is whole.

        Raises:
            UnreachableError: It did not come to exist, since the storage stayed away.
            RecoError: As `look`.
        """
        self.settle()
        if self._missed is not None:
            raise self._missed

    def settle(self) -> None:
        """Wait until nothing is under way any more.

        Raises:
            RecoError: As `look`.
        """
        while self.busy:
            self.look(1.0)

    def _hand_over(self) -> None:
        assert self._child is not None
        assert self._pending is not None
        try:
            self._child.send(*self._pending)
        except DiedError as error:
            self._mourn(error)

    def _mourn(self, error: DiedError) -> None:
        assert self._child is not None
        pid, code = self._child.pid, self._child.end(kill=True)
        self._deaths += 1
        if self._deaths > _DEATHS:
            raise RecoError(
                f"The saver process ended {self._deaths} times without a checkpoint, last with exit code {code}.",
                hint="Its log above says why; -9 is usually the system, short of memory.",
            ) from error
        _log.warning("saver process %d ended (exit code %d); it is started again", pid, code)
        self._child = Child("jobs.checkpoints.worker")
        self._hand_over()
