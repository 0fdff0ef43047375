"""Everything that can go wrong between this project and its storage, as typed errors."""

from __future__ import annotations

from jobs.errors import RecoError, UserError


class StorageError(RecoError):
    """Storage did not do what it was asked; nothing short or half-written was handed out."""


class NotFoundError(StorageError, UserError):
    """There is no object or file under this key."""


class AccessDeniedError(StorageError, UserError):
    """The storage answered, and refused: rights are missing."""


class CredentialsError(StorageError, UserError):
    """There are no credentials, or the storage does not know them."""


class BucketError(StorageError, UserError):
    """The bucket does not exist, has an impossible name, or lives in another region."""


class AddressError(StorageError, UserError):
    """A URL or key that no storage can have: unknown scheme, empty bucket, or a path that climbs out of its root."""


class UnreachableError(StorageError):
    """No answer: the endpoint is down, its address is wrong, or the network is."""


class ObjectChangedError(StorageError):
    """The object is not the one that was promised: it was replaced, or grew or shrank, since it was listed."""
