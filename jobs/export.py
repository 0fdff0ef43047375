"""Exports a registered encoder to a file for other programs: `python -m jobs.export MODEL --format F --out FILE`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jobs.errors import RecoError
from jobs.exporting.detectron2 import check_backbone, load_backbone, write_backbone
from jobs.exporting.encoder import Exportable, open_encoder
from jobs.exporting.errors import MissingPackageError
from jobs.exporting.files import check_destination, description_of, whole
from jobs.exporting.formats import CHOICES, Format, parse_format
from jobs.exporting.graphs import load_onnx, load_pt2, write_onnx, write_pt2
from jobs.exporting.weights import load_weights, weights_caveats, write_weights

_MEGABYTE = 1_000_000
_INTERRUPTED = 130


@dataclass(frozen=True)
class Exporter:
    """How a format is made.

    Attributes:
        write: Writes the file; returns the largest difference from the encoder's features where it was run.
        load: Lines that load it: Python, or a config of detectron2.
        check: Raises where the encoder is none for this format.
        caveats: What its user has to know.
        packages: What has to be installed.
    """

    write: Callable[[Exportable, Path], float | None]
    load: Callable[[Exportable, Path], str]
    check: Callable[[Exportable], None] = lambda _: None
    caveats: Callable[[Exportable], list[str]] = lambda _: []
    packages: tuple[str, ...] = ()


EXPORTERS = {
    Format.SAFETENSORS: Exporter(write_weights, load_weights, caveats=weights_caveats),
    Format.PT2: Exporter(write_pt2, load_pt2),
    Format.ONNX: Exporter(write_onnx, load_onnx, packages=("onnx", "onnxscript", "onnxruntime")),
    Format.DETECTRON2: Exporter(write_backbone, load_backbone, check=check_backbone),
}


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: The file; `description_of(path)` lies beside it.
        format: Its format.
        size: In bytes.
        content: What it holds, as the description says.
        difference: Largest difference from the encoder's features; None where there is nothing to run.
        caveats: What its user has to know.
        load: Lines that load it.
    """

    path: Path
    format: Format
    size: int
    content: dict[str, object]
    difference: float | None
    caveats: tuple[str, ...]
    load: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Export and say what was written; returns the exit code."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.WARNING)
    # Torch's words to itself: it misses torchvision, which nothing here needs, and calls what it has deprecated.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        done = export(given.model, parse_format(given.format), given.out, home=given.home, force=given.force)
    except RecoError as error:
        print(f"error: {error.message}" + (f"\n  → {error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)  # noqa: T201
        return _INTERRUPTED
    print(json.dumps(_as_dict(done), indent=2, ensure_ascii=False) if given.json else _as_text(done))  # noqa: T201
    return 0


def export(reference: str, kind: Format, path: Path, *, home: Path, force: bool = False) -> Exported:
    """Write an encoder in a format; the file is there whole and checked, or not at all.

    Args:
        reference: `name`, `name@alias`, `name/version`, or a folder with an encoder.
        kind: The format.
        path: The file. `FILE.json` beside it says what it is and how pictures are prepared.
        home: Where a local MLflow server keeps its files; not looked at for a folder.
        force: Replace files that are there.

    Raises:
        UserError: The destination cannot be written, a package is missing, or the encoder is none for this format.
        TrackingError: There is no such encoder, it is damaged, or MLflow did not answer.
        ExportError: The file could not be written, or computes something else than the encoder.
    """
    exporter = EXPORTERS[kind]
    check_destination(path, kind.suffix, force=force)
    missing = [name for name in exporter.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"{kind} needs {' and '.join(missing)}, which this Python does not have.",
            hint=f"Run: {sys.executable} -m pip install {' '.join(missing)} (requirements.txt has the versions).",
        )
    with open_encoder(reference, home) as encoder:
        exporter.check(encoder)
        content = {"format": kind.value, **encoder.description()}
        with whole(path, content) as partial:
            difference = exporter.write(encoder, partial)
        return Exported(
            path=path,
            format=kind,
            size=path.stat().st_size,
            content=content,
            difference=difference,
            caveats=tuple(exporter.caveats(encoder)),
            load=exporter.load(encoder, path),
        )


def _interrupt(number: int, frame: FrameType | None) -> None:
    # The first signal ends the work; further ones must not end the clearing up.
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _as_text(done: Exported) -> str:
    name, version, encoder = done.content["name"], done.content["version"], done.content["encoder"]
    assert isinstance(encoder, dict)
    size = f"{done.size / _MEGABYTE:.1f} MB"
    lines = [
        f"✓ {name}{'' if version is None else f'/{version}'} as {done.format} in {done.path} ({size})",
        f"  {encoder['name']}, {encoder['feature_dim']} features; how to prepare pictures: {description_of(done.path)}",
    ]
    if done.difference is not None:
        lines.append(f"  read back and run: features differ from the encoder's by {done.difference:.1e} at most")
    lines += [f"! {caveat}" for caveat in done.caveats]
    return "\n".join([*lines, "", *(f"    {line}" for line in done.load.splitlines())])


def _as_dict(done: Exported) -> dict[str, object]:
    return {
        "file": str(done.path),
        "bytes": done.size,
        **done.content,
        "difference": done.difference,
        "caveats": list(done.caveats),
        "load": done.load,
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.export", description=__doc__)
    parser.add_argument("model", help="name, name@alias, name/version, or an encoder's folder")
    parser.add_argument("--format", required=True, help=f"one of {CHOICES}")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
