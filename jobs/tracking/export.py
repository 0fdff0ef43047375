"""Turns an encoder into an MLflow model: a graph that runs without its Python code, checked against the module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from jobs.tracking.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.models import Model

TOLERANCE = 1e-4
"""Largest difference allowed between a feature of the exported graph and of the module."""

EXAMPLE_BATCH = 2
"""Pictures in the example the graph is traced with; a batch of 1 would be exported as the constant 1."""


def export_encoder(module: torch.nn.Module, folder: Path, *, size: int, feature_dim: int, files: Path) -> Model:
    """Write an MLflow model in the `pt2` format, for batches of any size, and check what it computes.

    Args:
        module: Encoder on the CPU, in evaluation mode: float32 [n, 3, size, size] to float32 [n, feature_dim].
        folder: Where the model is written; must not exist.
        size: Side of the pictures.
        feature_dim: Length of the features.
        files: Folder whose files are copied beside the graph.

    Returns:
        The model's description, as in the folder's `MLmodel`.

    Raises:
        TrackingError: The graph, read back from disk, computes something else than the module.
    """
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    # Without names: pyfunc takes a plain array for a single input only where that has none.
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 3, size, size))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, feature_dim))]),
    )
    model = Model()
    mlflow.pytorch.save_model(
        module,
        str(folder),
        mlflow_model=model,
        signature=signature,
        # The exporter takes the dimensions that are -1 in the signature as dynamic.
        input_example=np.zeros((EXAMPLE_BATCH, 3, size, size), np.float32),
        extra_files=[str(each) for each in sorted(files.iterdir())],
        serialization_format="pt2",
        # Named, as MLflow would otherwise load the model in a process of its own to find out.
        pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
    )
    _drop_example(model, folder)
    _check(module, size, folder)
    return model


def _drop_example(model: Model, folder: Path) -> None:
    """Remove the example, megabytes of zeros in JSON: the signature says as much."""
    for name in ("input_example.json", "serving_input_example.json"):
        (folder / name).unlink(missing_ok=True)
    model.saved_input_example_info = None
    model.save(str(folder / "MLmodel"))


def _check(module: torch.nn.Module, size: int, folder: Path) -> None:
    # Another batch size than the example's: a graph with a fixed batch must not pass.
    pictures = torch.randn(EXAMPLE_BATCH + 3, 3, size, size, generator=torch.Generator().manual_seed(0))
    graph = torch.export.load(folder / "data" / "model.pt2").module()
    with torch.inference_mode():
        difference = float((graph(pictures) - module(pictures)).abs().max())
    if not difference <= TOLERANCE:  # This way round, NaN fails.
        raise TrackingError(
            f"the exported encoder differs from the trained one by {difference:.2g} (allowed: {TOLERANCE:g}).",
            hint="Nothing was registered; are its weights finite?",
        )
