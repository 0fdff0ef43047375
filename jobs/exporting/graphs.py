"""The encoder as a graph for batches of any size, `pt2` for torch and ONNX for all else, checked by running it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from jobs.exporting.encoder import Exportable
from jobs.exporting.errors import ExportError
from jobs.exporting.files import quoted
from jobs.tracking.export import EXAMPLE_BATCH, TOLERANCE

BATCHES = (1, 5)
"""Sizes a graph is tried with: neither is the one it was traced with, and a batch of 1 is the one that breaks first."""

INPUT, OUTPUT = "pictures", "features"
"""Names in the ONNX graph."""

_BATCH = "n"

DESCRIPTION = "reco.json"
"""Name of the description inside a pt2 file."""

Floats = NDArray[np.float32]


def write_pt2(encoder: Exportable, path: Path) -> float:
    """Write a program of torch.export, with the encoder's description as an extra file in it.

    Returns:
        Largest difference between its features and the encoder's.

    Raises:
        ExportError: The program, read back, computes something else than the encoder.
    """
    buffer = BytesIO()  # Written in one go: torch's own writer reports a full disk as a RuntimeError.
    torch.export.save(_trace(encoder), buffer, extra_files={DESCRIPTION: json.dumps(encoder.description())})
    path.write_bytes(buffer.getvalue())
    program = torch.export.load(path).module()

    def run(pictures: Floats) -> Floats:
        features: Floats = program(torch.from_numpy(pictures)).numpy()
        return features

    return _check(encoder, run, "pt2")


def load_pt2(encoder: Exportable, path: Path) -> str:
    """Python that runs the exported program."""
    return "\n".join(
        [
            "import torch",
            f"encoder = torch.export.load({quoted(path)}).module()",
            f"pictures = torch.zeros(4, {_picture(encoder)})  # yours; see {path.name}.json",
            f"features = encoder(pictures)  # float32 [4, {encoder.feature_dim}]",
        ]
    )


def write_onnx(encoder: Exportable, path: Path) -> float:
    """Write an ONNX model, with what the encoder is and how pictures are prepared in its metadata.

    Returns:
        Largest difference between its features, computed by ONNX Runtime, and the encoder's.

    Raises:
        ExportError: It cannot be translated, or computes something else than the encoder.
    """
    # Late: these packages are needed for this format alone, and take a second to import.
    import onnxruntime  # type: ignore[import-untyped]
    from torch.onnx import OnnxExporterError

    try:
        translated = torch.onnx.export(
            _trace(encoder),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: _BATCH},),
        )
    except OnnxExporterError as error:
        raise ExportError(
            f"{encoder.reference} cannot be translated to ONNX: {str(error).splitlines()[0]}",
            hint="Export it as pt2; are onnx and onnxscript of the versions in requirements.txt?",
        ) from error
    if translated is None:
        raise ExportError(f"torch gave no ONNX model of {encoder.reference}.", hint="Export it as pt2.")
    model = translated.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # How each came about: half the graph, and of use to the exporter's authors alone.
    for key, value in _metadata(encoder).items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(pictures: Floats) -> Floats:
        features: Floats = session.run([OUTPUT], {INPUT: pictures})[0]
        return features

    return _check(encoder, run, "ONNX")


def load_onnx(encoder: Exportable, path: Path) -> str:
    """Python that runs the exported model."""
    return "\n".join(
        [
            "import numpy, onnxruntime",
            f"session = onnxruntime.InferenceSession({quoted(path)})",
            f"pictures = numpy.zeros((4, {_picture(encoder)}), numpy.float32)  # yours; see {path.name}.json",
            f'(features,) = session.run(None, {{"{INPUT}": pictures}})  # float32 [4, {encoder.feature_dim}]',
        ]
    )


def _trace(encoder: Exportable) -> ExportedProgram:
    size = encoder.preprocessing.image_size
    example = torch.zeros(EXAMPLE_BATCH, 3, size, size)
    program = torch.export.export(encoder.module, (example,), dynamic_shapes=({0: Dim(_BATCH)},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # It holds folders of this machine, which are nobody else's business.
    return program


def _metadata(encoder: Exportable) -> Mapping[str, str]:
    own = encoder.description()
    return {
        "reco.name": encoder.model,
        "reco.version": "" if encoder.version is None else str(encoder.version),
        "reco.feature_dim": str(encoder.feature_dim),
        "reco.sha256": encoder.sha256,
        "reco.encoder": json.dumps(own["encoder"]),
        "reco.preprocessing": json.dumps(own["preprocessing"]),
    }


def _check(encoder: Exportable, run: Callable[[Floats], Floats], kind: str) -> float:
    generator = torch.Generator().manual_seed(0)
    size, largest = encoder.preprocessing.image_size, 0.0
    for batch in BATCHES:
        pictures = torch.randn(batch, 3, size, size, generator=generator)
        with torch.inference_mode():
            expected = encoder.module(pictures).numpy()
        features = run(pictures.numpy())
        # Never a smaller shape that would be broadcast, and NaN is no small difference.
        difference = float(np.abs(features - expected).max()) if features.shape == expected.shape else float("inf")
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the {kind} graph of {encoder.reference} differs from the encoder by {difference:.2g} "
                f"for a batch of {batch} (allowed: {TOLERANCE:g}).",
                hint="Nothing was written; are its weights finite, and its packages those of requirements.txt?",
            )
        largest = max(largest, difference)
    return largest


def _picture(encoder: Exportable) -> str:
    size = encoder.preprocessing.image_size
    return f"3, {size}, {size}"
