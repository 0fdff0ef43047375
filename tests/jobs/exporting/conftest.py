"""Encoders to export, and the entrypoint in this process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.export import main
from tests.jobs.exporting.made import NOWHERE, Main, save


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return save(tmp_path / "small", "resnet10", stem="imagenet", width=8, size=32)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Main]:
    """The entrypoint in this process: exit code, stdout, stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(model: Path | str, kind: str, out: Path, *flags: str) -> tuple[int, str, str]:
        code = main([str(model), "--format", kind, "--out", str(out), "--home", str(NOWHERE), *flags])
        said = capsys.readouterr()
        return code, said.out, said.err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
