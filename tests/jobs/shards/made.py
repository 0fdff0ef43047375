"""Small shards for tests."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Members = Sequence[tuple[str, bytes]]


def picture(seed: int, *, height: int = 8, width: int = 8, kind: str = "JPEG") -> bytes:
    """An encoded picture of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def bomb(kind: str) -> bytes:
    """A small file (JPEG or PNG) whose header declares 60,000 × 60,000 pixels."""
    data = bytearray(picture(0, kind=kind))
    if kind == "JPEG":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    else:
        data[16:24] = struct.pack(">II", 60_000, 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def tar_bytes(members: Members) -> bytes:
    """A tar archive as bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def shard_members(first: int, count: int, *, ragged: bool = False) -> list[tuple[str, bytes]]:
    """Labelled samples; ragged ones differ in size and format."""
    members = []
    for number in range(first, first + count):
        kind = ("JPEG", "PNG", "WEBP")[number % 3] if ragged else "JPEG"
        height, width = (5 + number % 4, 6 + number % 3) if ragged else (8, 8)
        suffix = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
        members.append((f"{number:06d}.{suffix}", picture(number, height=height, width=width, kind=kind)))
        members.append((f"{number:06d}.cls", str(number % 3).encode()))
    return members


def make_shards(folder: Path, counts: Sequence[int], *, ragged: bool = False) -> list[Path]:
    """Write shards `part-NNNNNN.tar` of the given sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, first = [], 0
    for number, count in enumerate(counts):
        path = folder / f"part-{number:06d}.tar"
        path.write_bytes(tar_bytes(shard_members(first, count, ragged=ragged)))
        paths.append(path)
        first += count
    return paths
