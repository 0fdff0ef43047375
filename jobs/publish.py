"""What a finished run hands to MLflow: its results, its curves, and the encoder with all that people ask about it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from jobs.checkpoints.load import load_newest
from jobs.embedding.sheets import neighbour_sheet
from jobs.errors import RecoError
from jobs.judging import named
from jobs.loading.pipeline import read_in_order
from jobs.reco import ReCo
from jobs.run_folder import RunFolder
from jobs.shards.dataset import open_dataset
from jobs.spec import RunSpec, to_yaml
from jobs.tracking.encoders import register_encoder
from jobs.tracking.evaluations import Evaluation, evaluation
from jobs.tracking.figures import training_curves
from jobs.tracking.runs import TrackedRun
from jobs.training.feed import packed
from jobs.training.plan import Data, method_config
from jobs.training.probes import crop_fraction, preprocessing
from jobs.views import centre_view

_log = logging.getLogger("reco.publish")

_SHEET_PIXELS = 256 * 224**2  # embedded by the driver, which may have no GPU
_BATCH = 32


def publish(
    spec: RunSpec,
    folder: RunFolder,
    data: Data,
    tracked: TrackedRun,
    results: dict[str, float],
    lineage: Mapping[str, str],
) -> str:
    """Hand results, curves and the encoder to MLflow.

    Args:
        spec: The run.
        folder: Its folder.
        data: What it trained on and was judged on.
        tracked: The run in MLflow.
        results: What the encoder is worth.
        lineage: What chose the run's options, or what it went on from.

    Returns:
        `name/version`, or "" where the spec registers none.

    Raises:
        RecoError: There is no checkpoint, or MLflow did not answer.
    """
    found = load_newest(folder.storage, spec_hash=spec.hash, dataset_hash=data.train.hash)
    if found is None:
        raise RecoError(f"run {folder.run_id} has results but no checkpoint in {folder.url}/checkpoints.")
    manifest, state = found
    tracked.log_results(results, step=manifest.step)
    with tempfile.TemporaryDirectory() as temporary:
        curves = Path(temporary) / "curves.png"
        records = [{"step": r["step"], "pictures": r["pictures"], **r["metrics"]} for r in folder.records()]
        training_curves(records, curves, title=f"{spec.name} ({folder.run_id})")
        tracked.log_figure(curves)
        if spec.register is None:
            return ""
        model = ReCo(method_config(spec))
        model.load_state_dict(state["model"])
        encoder = model.query_encoder.backbone
        sheet = _neighbours(spec, encoder, Path(temporary) / "neighbours.png")
        registered = register_encoder(
            tracked,
            name=spec.register.model,
            encoder=encoder,
            encoder_config={"name": spec.encoder.name, "stem": spec.encoder.stem, "width": spec.encoder.width},
            preprocessing=preprocessing(spec.data.image_size),
            spec_yaml=to_yaml(spec),
            dataset_hash=data.train.hash,
            metrics=results,
            card=_prose(spec, pictures=len(data.train)),
            lineage={**lineage, "attempts": str(max(len(folder.attempts()), 1))},
            evaluations=[_evaluation(spec, data, results)],
            pictures=[curves, *sheet],
        )
    return f"{registered.name}/{registered.version}"


def _evaluation(spec: RunSpec, data: Data, results: Mapping[str, float]) -> Evaluation:
    """The final record as an evaluation that others can be compared with."""
    judged = data.probe_test or data.probe_valid
    if data.probe_train is None or judged is None or spec.data.probe is None:
        metrics = {"rank_me": results["train/rank_me"]}
        return evaluation(
            fitted_hash="", judged_hash=data.train.hash, data=named(spec.data.train), metrics=metrics, main="rank_me"
        )
    part, source = ("test", spec.data.probe.test) if data.probe_test else ("valid", spec.data.probe.valid)
    main = f"knn@{results['k']:.0f}"
    metrics = {
        main: results[f"{part}/knn"],
        "linear_lbfgs": results[f"{part}/linear"],
        "rank_me": results[f"{part}/rank_me"],
    }
    return evaluation(
        fitted_hash=data.probe_train.hash,
        judged_hash=judged.hash,
        data=named(source or ""),
        metrics=metrics,
        main=main,
    )


@torch.inference_mode()
def _neighbours(spec: RunSpec, encoder: torch.nn.Module, path: Path) -> list[Path]:
    """A contact sheet of nearest neighbours among the first pictures that the encoder was not trained on, if any.

    Returns:
        The file; nothing where the pictures cannot be read, which is no reason to lose an encoder.
    """
    probe = spec.data.probe
    source = (probe.test or probe.valid) if probe is not None else spec.data.train
    side = spec.data.image_size
    features, pictures = [], []
    encoder = encoder.float().eval()
    try:
        dataset = open_dataset(source, index=spec.data.index)
        count = min(len(dataset), _SHEET_PIXELS // side**2, 2048)
        for batch in read_in_order(dataset, 0, count, _BATCH):
            here = packed(batch)
            features.append(encoder(centre_view(here, image_size=side, crop_fraction=crop_fraction(side))))
            pictures += [here.picture(number).numpy() for number in range(len(batch))]
    except RecoError as error:
        _log.warning("the card goes without nearest neighbours: %s", error)
        return []
    labels = None if dataset.labels is None else np.asarray(dataset.labels[:count], dtype=np.int64)
    neighbour_sheet(torch.cat(features).numpy(), pictures, labels, path)
    return [path]


def _prose(spec: RunSpec, *, pictures: int) -> str:
    relations = [
        name
        for name, relation in (("global", spec.method.global_relation), ("local", spec.method.local_relation))
        if relation.weight > 0
    ]
    method = f"ReCo ({' and '.join(relations)} relation)" if relations else "MoCo v2"
    return (
        f"A {spec.encoder.name} of width {spec.encoder.width}, pretrained without labels by {method} on {pictures:,} "
        f"pictures for {spec.train.epochs} epochs at {spec.data.image_size} pixels."
    )
