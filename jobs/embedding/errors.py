"""What can be wrong with an embedding job and with the files it leaves."""

from __future__ import annotations

from jobs.errors import UserError


class OtherWorkError(UserError):
    """The parts beside the output are of another model, other pictures, or were cut otherwise."""


class BadPicturesError(UserError):
    """More pictures cannot be used than the caller puts up with."""


class EmbeddingFileError(UserError):
    """This is no file of embeddings, or not one that fits what is asked of it."""
