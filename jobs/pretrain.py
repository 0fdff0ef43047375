"""Pretraining on Ray Train: `python -m jobs.pretrain [SPEC]`; the same run id continues where it stood."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.checkpoints.fence import FencedError
from jobs.checkpoints.fork import begin_from
from jobs.cluster import connected
from jobs.errors import RecoError, UserError
from jobs.job_folder import Outcome, failed
from jobs.loading.process import LoaderProcess
from jobs.publish import publish
from jobs.run_folder import RunFolder
from jobs.signals import stop_on_signal
from jobs.spec import RunSpec, load_spec
from jobs.storage import NotFoundError
from jobs.tracked_run import open_tracked, train_tracked
from jobs.tracking.server import tracking_uri
from jobs.training.plan import make_plan, open_data

_log = logging.getLogger("reco.pretrain")


def main() -> int:
    """Carry out one attempt of a run; returns the exit code and leaves the outcome in the run's folder."""
    arguments = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    ours: RunFolder | None = None  # once it is: another experiment of that id keeps its outcome
    try:
        folder = RunFolder(arguments.storage, arguments.run_id)
        spec = load_spec(arguments.spec, arguments.overrides) if arguments.spec else _stored(folder)
        folder.claim(spec)
        folder.begin_attempt()
        ours = folder
        outcome = pretrain(spec, folder, home=arguments.home, weights_from=arguments.weights_from)
    except FencedError as error:
        _log.error("%s", error)
        return error.exit_code  # the folder is the newer attempt's, which says how it ended
    except RecoError as error:
        _log.error("%s", error)
        outcome = failed(error)
    if ours is not None:
        ours.write_outcome(outcome)
    return outcome["exit_code"]


def pretrain(
    spec: RunSpec,
    folder: RunFolder,
    *,
    home: Path,
    lineage: Mapping[str, str] | None = None,
    weights_from: str | None = None,
) -> Outcome:
    """Train on the cluster, track in MLflow, register the encoder.

    Args:
        spec: The run.
        folder: Its folder, claimed.
        home: Where a local MLflow server keeps its files.
        lineage: What chose the run's options, such as a sweep; noted with the run and the encoder.
        weights_from: Folder of another run, whose newest encoders this one begins with; has no effect later on.

    Raises:
        FencedError: A newer attempt has taken the run over.
        RecoError: For everything that can be explained: data, cluster, tracking, storage, divergence.
    """
    origin = folder.origin() if weights_from is None else begin_from(folder, weights_from, spec)
    lineage = {**(lineage or {}), **(origin.lineage if origin else {})}
    folder.write_progress({"phase": "starting", "step": 0})
    with LoaderProcess() as loader:
        data = open_data(spec, loader)
    plan = make_plan(spec, data.train, probes=data.probes)
    _log.info("%s", plan)
    folder.write_progress({"phase": "starting", "step": 0, "plan": str(plan)})
    uri = tracking_uri(home)  # before Ray, which takes far longer to start than MLflow to say that it is not there
    with connected(spec):
        tags = {f"reco.{name}": value for name, value in lineage.items()}
        tracked = open_tracked(spec, folder, uri, name=spec.name, dataset_hash=data.train.hash, tags=tags)
        try:
            with stop_on_signal(folder.request_stop, what=f"run {folder.run_id}"):
                results = train_tracked(spec, folder, tracked)
            if results is None:
                tracked.finish("KILLED")
                return {"status": "stopped", "exit_code": 130, "tracking_url": tracked.url}
            model = publish(spec, folder, data, tracked, results, lineage)
        except FencedError:
            raise  # to MLflow it is under way, by the newer attempt
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


def _stored(folder: RunFolder) -> RunSpec:
    """The spec that a run's folder holds.

    Raises:
        UserError: There is none.
    """
    try:
        return folder.spec()
    except NotFoundError as error:
        raise UserError(
            f"there is no run {folder.run_id} in {folder.parent}.", hint="Give the SPEC of a new run."
        ) from error


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.pretrain", description=__doc__)
    parser.add_argument("spec", type=Path, nargs="?", help="the run's spec; what its folder holds by default")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--run-id", required=True, help="a new run, or the one to continue")
    parser.add_argument("--storage", required=True, help="folder or S3 prefix that holds the runs")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    parser.add_argument(
        "--weights-from", metavar="URL", help="folder of a run: begin with its newest encoders, everything else new"
    )
    arguments = parser.parse_args()
    if arguments.overrides and arguments.spec is None:
        parser.error("--set changes a SPEC, and none is given")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
