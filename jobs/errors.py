"""The two roots of every error this project explains itself."""

from __future__ import annotations


class RecoError(Exception):
    """Something failed that this project can explain in one line.

    The command line prints the message and the hint and leaves with `exit_code`; `--debug` shows the traceback.

    Args:
        message: What happened, naming the file, key or address it happened to.
        hint: What to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UserError(RecoError):
    """The caller can mend it: a wrong spec, a missing folder, rights that were not given."""

    exit_code = 2
