"""Registers a trained encoder: exported, checked against itself, with plain files beside it, its alias moved last."""

from __future__ import annotations

import copy
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from jobs.errors import UserError
from jobs.spec import parse_spec
from jobs.tracking.card import write_card
from jobs.tracking.client import client, explained, shown
from jobs.tracking.code import code_version
from jobs.tracking.errors import DamagedEncoderError, TrackingError
from jobs.tracking.evaluations import Evaluation, as_tags
from jobs.tracking.export import EXAMPLE_BATCH, export_encoder
from jobs.tracking.files import CARD, CONFIG, PREPROCESSING, SPEC, WEIGHTS, check_files, read_json, sha256
from jobs.tracking.models import (
    CANDIDATE,
    CODE_TAG,
    DATASET_TAG,
    KIND_TAG,
    LINEAGE_TAG,
    METRICS_TAG,
    RUN_ID_TAG,
    SPEC_TAG,
    EncoderVersion,
    version_of_run,
)
from jobs.tracking.reference import write_reference
from jobs.tracking.runs import TrackedRun

if TYPE_CHECKING:
    from mlflow.models import Model


@dataclass(frozen=True)
class RegisteredEncoder:
    """What was registered.

    Attributes:
        name: Registered model.
        version: Its version.
        uri: `models:/name/version`, as MLflow takes it.
    """

    name: str
    version: int
    uri: str


def register_encoder(
    run: TrackedRun,
    *,
    name: str,
    encoder: torch.nn.Module,
    encoder_config: Mapping[str, object],
    preprocessing: Mapping[str, object],
    spec_yaml: str,
    dataset_hash: str,
    metrics: Mapping[str, float],
    card: str,
    lineage: Mapping[str, str] | None = None,
    evaluations: Sequence[Evaluation] = (),
    pictures: Sequence[Path] = (),
    alias: str = CANDIDATE,
) -> RegisteredEncoder:
    """Register the encoder of a run as a new version of a model; a run that has registered one already gets that back.

    The order makes a crash harmless at any point: files are written and the exported graph is checked before anything
    is created in MLflow, the version comes whole with its tags, and the alias moves last.

    Args:
        run: The run that trained it.
        name: Registered model; created where it does not exist.
        encoder: Backbone that maps float32 [n, 3, S, S] to float32 [n, D]. It is copied, not changed.
        encoder_config: What rebuilds it: `name`, `stem`, `width`; `feature_dim` and the weights' SHA-256 are added.
        preprocessing: What a picture goes through before the encoder; `image_size` is S.
        spec_yaml: The spec of the run.
        dataset_hash: Hash of the index of its training shards.
        metrics: Results; `knn` is the one `reco models list` shows.
        card: What this encoder is and how it was trained, in prose; tables and instructions are added around it.
        lineage: What it comes from besides its data, such as the sweep and the trial that chose its options.
        evaluations: What it was found to be worth, on which pictures.
        pictures: PNG files that the card shows.
        alias: Alias that shall point to the new version.

    Raises:
        TrackingError: The exported graph differs from the encoder, or MLflow did not answer or refused.
        UserError: The encoder's output is not a batch of feature vectors, or the name is one MLflow does not take.
    """
    existing = version_of_run(name, run.mlflow_run_id, run.uri)
    if existing is not None:
        _point_alias(run.uri, existing, alias)
        return RegisteredEncoder(name, existing.version, f"models:/{name}/{existing.version}")

    module = copy.deepcopy(encoder).cpu().float().eval().requires_grad_(False)
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data = tensor.data.contiguous()  # Channels-last weights would be exported with their strides.
    size = preprocessing["image_size"]
    if not isinstance(size, int):
        raise ValueError(f"preprocessing['image_size'] is {size!r}, not a whole number")
    feature_dim = _feature_dim(module, size)
    spec_hash = parse_spec(spec_yaml, source=f"spec of run {run.run_id}").hash
    results = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
    tags = {
        KIND_TAG: "encoder",
        RUN_ID_TAG: run.run_id,
        DATASET_TAG: dataset_hash,
        SPEC_TAG: spec_hash,
        METRICS_TAG: json.dumps(results),
        CODE_TAG: code_version(),
        LINEAGE_TAG: json.dumps(dict(lineage or {})),
        **as_tags(list(evaluations)),
    }
    with tempfile.TemporaryDirectory(prefix="reco-encoder-") as temporary:
        files = Path(temporary) / "files"
        files.mkdir()
        save_file(_state_dict(module), files / WEIGHTS, metadata={"format": "pt"})
        config = {**encoder_config, "feature_dim": feature_dim, "sha256": sha256(files / WEIGHTS)}
        card_text = write_card(
            name=name,
            alias=alias,
            uri=shown(run.uri),
            prose=card,
            encoder_config=config,
            preprocessing=preprocessing,
            metrics=results,
            training={
                "run": run.run_id,
                "MLflow run": run.url,
                "data index": dataset_hash,
                "spec": spec_hash,
                "code": tags[CODE_TAG],
            }
            | dict(lineage or {}),
            pictures=[path.name for path in pictures],
        )
        write_reference(module, files, size=size)
        for path in pictures:
            shutil.copyfile(path, files / path.name)
        _write_json(files / CONFIG, config)
        _write_json(files / PREPROCESSING, preprocessing)
        (files / SPEC).write_text(spec_yaml, encoding="utf-8")
        (files / CARD).write_text(card_text, encoding="utf-8")
        folder = Path(temporary) / "model"
        model = export_encoder(module, folder, size=size, feature_dim=feature_dim, files=files)
        version = _register(run, name, model, folder, tags, card.strip()[:1000])
    _point_alias(run.uri, version, alias)
    return RegisteredEncoder(name, version.version, f"models:/{name}/{version.version}")


def load_encoder_files(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, object], dict[str, object]]:
    """Return state dict, config and preprocessing of an encoder's folder; nothing is unpickled.

    Raises:
        DamagedEncoderError: A file is missing, cut off or changed.
    """
    config = check_files(folder)
    try:
        state_dict = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as cause:
        raise DamagedEncoderError(
            f"{folder / WEIGHTS} cannot be read: {cause}.", hint="Fetch the encoder again."
        ) from cause
    return state_dict, config, read_json(folder / PREPROCESSING)


def _feature_dim(module: torch.nn.Module, size: int) -> int:
    with torch.inference_mode():
        features = module(torch.zeros(EXAMPLE_BATCH, 3, size, size))
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != EXAMPLE_BATCH:
        shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise UserError(
            f"the encoder turns a batch of {EXAMPLE_BATCH} pictures into {shape}, not into feature vectors.",
            hint="Register the backbone alone.",
        )
    return int(features.shape[1])


def _state_dict(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    # A copy each: safetensors refuses tensors that share memory, and channels-last ones.
    return {
        key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in module.state_dict().items()
    }


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _register(
    run: TrackedRun, name: str, model: Model, folder: Path, tags: Mapping[str, str], description: str
) -> EncoderVersion:
    """Upload a model folder and make it a version of `name`.

    MLflow's own log_model does the same through its process-wide tracking URI and active run, which belong to others.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    api = client(run.uri)
    with explained(f"register {name}", run.uri):
        logged = api.create_logged_model(run.experiment_id, name=name, source_run_id=run.mlflow_run_id, tags=dict(tags))
        try:
            model.run_id, model.artifact_path = run.mlflow_run_id, logged.artifact_location
            model.model_id = model.model_uuid = logged.model_id
            model.save(str(folder / "MLmodel"))
            api.log_model_artifacts(logged.model_id, str(folder))
        except BaseException:
            api.finalize_logged_model(logged.model_id, "FAILED")
            raise
        api.finalize_logged_model(logged.model_id, "READY")
        api.log_outputs(run.mlflow_run_id, [LoggedModelOutput(logged.model_id, step=max(run.high_water, 0))])
        try:
            api.create_registered_model(name, tags={KIND_TAG: "encoder"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        api.create_model_version(
            name,
            source=f"models:/{logged.model_id}",
            run_id=run.mlflow_run_id,
            tags=dict(tags),
            description=description,
            model_id=logged.model_id,
        )
    version = version_of_run(name, run.mlflow_run_id, run.uri)
    if version is None:
        raise TrackingError(f"MLflow at {shown(run.uri)} lost the version of {name} it had just registered.")
    return version


def _point_alias(uri: str, version: EncoderVersion, alias: str) -> None:
    """Point the alias to the version, unless it points to a newer one already."""
    from mlflow.exceptions import MlflowException

    api = client(uri)
    with explained(f"set the alias {alias} of {version.name}", uri):
        try:
            current = int(api.get_model_version_by_alias(version.name, alias).version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            current = 0
        if current < version.version:
            api.set_registered_model_alias(version.name, alias, str(version.version))
