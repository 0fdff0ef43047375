"""Pretraining on Ray Train: `python -m jobs.pretrain SPEC`; the same run id continues where it stood."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jobs.checkpoints.load import load_newest
from jobs.cluster import connected
from jobs.errors import RecoError
from jobs.job_folder import Outcome, failed
from jobs.loading.process import LoaderProcess
from jobs.reco import ReCo
from jobs.run_folder import RunFolder
from jobs.signals import stop_on_signal
from jobs.spec import RunSpec, load_spec, to_yaml
from jobs.tracked_run import open_tracked, train_tracked
from jobs.tracking.encoders import register_encoder
from jobs.tracking.figures import training_curves
from jobs.tracking.runs import TrackedRun
from jobs.tracking.server import tracking_uri
from jobs.training.plan import Data, make_plan, method_config, open_data
from jobs.training.probes import preprocessing

_log = logging.getLogger("reco.pretrain")


def main() -> int:
    """Carry out one attempt of a run; returns the exit code and leaves the outcome in the run's folder."""
    arguments = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    ours: RunFolder | None = None  # once it is: another experiment of that id keeps its outcome
    try:
        spec = load_spec(arguments.spec, arguments.overrides)
        folder = RunFolder(arguments.storage, arguments.run_id)
        folder.claim(spec)
        folder.begin_attempt()
        ours = folder
        outcome = pretrain(spec, folder, home=arguments.home)
    except RecoError as error:
        _log.error("%s", error)
        outcome = failed(error)
    if ours is not None:
        ours.write_outcome(outcome)
    return outcome["exit_code"]


def pretrain(spec: RunSpec, folder: RunFolder, *, home: Path, lineage: Mapping[str, str] | None = None) -> Outcome:
    """Train on the cluster, track in MLflow, register the encoder.

    Args:
        spec: The run.
        folder: Its folder, claimed.
        home: Where a local MLflow server keeps its files.
        lineage: What chose the run's options, such as a sweep; noted with the run and the encoder.

    Raises:
        RecoError: For everything that can be explained: data, cluster, tracking, storage, divergence.
    """
    folder.write_progress({"phase": "starting", "step": 0})
    with LoaderProcess() as loader:
        data = open_data(spec, loader)
    plan = make_plan(spec, data.train, probes=data.probes)
    _log.info("%s", plan)
    folder.write_progress({"phase": "starting", "step": 0, "plan": str(plan)})
    uri = tracking_uri(home)  # before Ray, which takes far longer to start than MLflow to say that it is not there
    with connected(spec):
        tags = {f"reco.{name}": value for name, value in (lineage or {}).items()}
        tracked = open_tracked(spec, folder, uri, name=spec.name, dataset_hash=data.train.hash, tags=tags)
        try:
            with stop_on_signal(folder.request_stop, what=f"run {folder.run_id}"):
                results = train_tracked(spec, folder, tracked)
            if results is None:
                tracked.finish("KILLED")
                return {"status": "stopped", "exit_code": 130, "tracking_url": tracked.url}
            model = _publish(spec, folder, data, tracked, results, lineage or {})
        except BaseException:
            tracked.finish("FAILED")
            raise
    tracked.finish("FINISHED")
    return {
        "status": "succeeded",
        "exit_code": 0,
        "results": results,
        "model": model,
        "tracking_url": tracked.url,
    }


def _publish(
    spec: RunSpec,
    folder: RunFolder,
    data: Data,
    tracked: TrackedRun,
    results: dict[str, float],
    lineage: Mapping[str, str],
) -> str:
    """Hand results, curves and the encoder to MLflow; returns `name/version`, or "" where none is registered."""
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
    registered = register_encoder(
        tracked,
        name=spec.register.model,
        encoder=model.query_encoder.backbone,
        encoder_config={"name": spec.encoder.name, "stem": spec.encoder.stem, "width": spec.encoder.width},
        preprocessing=preprocessing(spec.data.image_size),
        spec_yaml=to_yaml(spec),
        dataset_hash=data.train.hash,
        metrics=results,
        card=_prose(spec, pictures=len(data.train)),
        lineage=lineage,
    )
    return f"{registered.name}/{registered.version}"


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


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.pretrain", description=__doc__)
    parser.add_argument("spec", type=Path, help="the run's spec, a YAML file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--run-id", required=True, help="a new run, or the one to continue")
    parser.add_argument("--storage", required=True, help="folder or S3 prefix that holds the runs")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
