"""Objects in S3 or in a folder behind one interface; the only place that knows boto3."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.storage.base import Storage, StoredObject
from jobs.storage.cache import CachedStorage
from jobs.storage.errors import (
    AccessDeniedError,
    AddressError,
    BucketError,
    CredentialsError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
    UnreachableError,
)
from jobs.storage.local import LocalStorage

__all__ = [
    "AccessDeniedError",
    "AddressError",
    "BucketError",
    "CredentialsError",
    "NotFoundError",
    "ObjectChangedError",
    "Storage",
    "StorageError",
    "StoredObject",
    "UnreachableError",
    "cached",
    "join_url",
    "open_storage",
    "split_url",
]


def open_storage(url: str, *, patience_s: float | None = None) -> Storage:
    """Open the root that `url` names; nothing is contacted or made yet.

    Args:
        url: `s3://bucket/prefix`, a local folder, or its `file://` URL.
        patience_s: How long an S3 server may stay away before that is an error; minutes by default, as jobs want it.

    Raises:
        AddressError: Any other scheme, or no bucket.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not url:
            raise AddressError("An empty path.", hint="Give a folder or s3://bucket/prefix.")
        return LocalStorage(Path(url))
    if scheme == "file":
        return LocalStorage(Path(unquote(urlsplit(url).path)))
    if scheme != "s3":
        raise AddressError(f"{url} has an unknown scheme.", hint="Give s3://bucket/prefix or a local folder.")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise AddressError(f"{url} names no bucket.", hint="Write s3://bucket/prefix.")
    # Imported late: boto3 takes a quarter of a second, which nobody who reads a folder should pay.
    from jobs.storage.retry import Patience
    from jobs.storage.s3 import S3Storage

    if patience_s is None:
        return S3Storage(bucket, prefix.strip("/"))
    return S3Storage(bucket, prefix.strip("/"), reading=Patience(patience_s), asking=Patience(patience_s))


def cached(storage: Storage, folder: Path, limit_bytes: int) -> Storage:
    """`storage` with a cache of whole objects in a local folder; see `CachedStorage` for what it keeps and when.

    Args:
        storage: Where objects come from.
        folder: On a local disk; made at the first download. All processes of a host may share it.
        limit_bytes: Most that is kept there, by least recent use.
    """
    return CachedStorage(storage, folder, limit_bytes)


def join_url(url: str, name: str) -> str:
    """The URL of `name` below `url`."""
    return f"{url.rstrip('/')}/{name}" if name else url


def split_url(url: str) -> tuple[str, str]:
    """The parent and the last name: `s3://b/a/x.tar` gives `s3://b/a` and `x.tar`, `x.tar` gives `.` and `x.tar`."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    parent, slash, name = rest.rpartition("/")
    if not slash:
        parent = "."
    elif not parent and not scheme:
        parent = "/"
    return f"{scheme}{separator}{parent}", name
