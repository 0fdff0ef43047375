"""What can go wrong while an encoder is exported."""

from __future__ import annotations

from jobs.errors import RecoError, UserError


class ExportError(RecoError):
    """The file could not be made or written, or computes something else than the encoder; nothing was left behind."""


class UnsupportedEncoderError(UserError):
    """The program that a format is for has no network of this encoder's shape."""


class MissingPackageError(UserError):
    """A package that makes or checks this format is not installed."""
