"""Where a stack keeps its things: everything is in RECO_HOME, secrets in files that only their owner may read."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError

_ROOM = 512 << 20
_LONGEST_RAY_FOLDER = 42  # the paths of Ray's sockets have 65 characters more, and end at 107


@dataclass(frozen=True)
class Layout:
    """Names of a stack's files.

    Attributes:
        home: Folder for local state (`RECO_HOME`).
    """

    home: Path

    @property
    def record(self) -> Path:
        """What runs, and how it is."""
        return self.home / "stack.json"

    @property
    def token(self) -> Path:
        """The administrator's token."""
        return self.home / "token"

    @property
    def exports(self) -> Path:
        """Variables for a shell that works with the stack."""
        return self.home / "service.env"

    @property
    def folder(self) -> Path:
        """What nobody but the stack itself needs."""
        return self.home / "stack"

    @property
    def lock(self) -> Path:
        """Held by whoever may change the stack."""
        return self.folder / "lock"

    @property
    def ray(self) -> Path:
        """What Ray writes: its logs, and sockets, whose paths must be short."""
        inside = self.folder / "ray"
        if len(str(inside)) <= _LONGEST_RAY_FOLDER:
            return inside
        name = hashlib.sha256(str(self.home).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"reco-{os.getuid()}-{name}"

    def log(self, part: str) -> Path:
        """What a part prints."""
        return self.folder / "logs" / f"{part}.log"

    def make(self, *, room: int = _ROOM) -> None:
        """Make the folders.

        Args:
            room: Bytes that must be free on their disk.

        Raises:
            UserError: They cannot be made or written to, or their disk is full.
        """
        try:
            self.log("any").parent.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            probe = self.folder / f"probe.{os.getpid()}"
            probe.write_bytes(b"\0" * 4096)
            probe.unlink()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise UserError(
                f"{self.home} cannot be written to: {error.strerror or error}.",
                hint="Mend that, or set RECO_HOME to another folder.",
            ) from error
        if free < room:
            raise UserError(
                f"the disk of {self.home} is nearly full: {free >> 20} MiB are free.",
                hint=f"Make room for {room >> 20} MiB at least, or set RECO_HOME to a folder on another disk.",
            )

    def make_ray_folder(self) -> Path:
        """An empty folder for a new head: what the one before left would pile up.

        Raises:
            UserError: Somebody else has made it.
        """
        folder = self.ray
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or folder.is_symlink():
            raise UserError(f"{folder} belongs to somebody else.", hint="Remove it, or set TMPDIR to another folder.")
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
        return folder

    @property
    def ray_token(self) -> Path:
        """The token of Ray, made where there is none yet."""
        return kept_secret(self.folder / "ray-token", lambda: secrets.token_hex(32))

    @property
    def s3_keys(self) -> tuple[str, str]:
        """Access key and secret key of the S3 server, made where there are none yet."""
        made = f"reco{secrets.token_hex(8)}\n{secrets.token_urlsafe(32)}\n"
        access, secret = kept_secret(self.folder / "s3-keys", lambda: made).read_text().split()
        return access, secret


def kept_secret(path: Path, make: Callable[[], str]) -> Path:
    """The file of a secret, which is made where there is none."""
    if not path.exists():
        write_private(path, make())
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, and that is whole or not there."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
