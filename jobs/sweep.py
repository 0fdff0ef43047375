"""A sweep on Ray Tune: `python -m jobs.sweep run|preview`; the same id continues where it stood."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

from jobs.checkpoints.fence import Fence, FencedError
from jobs.cluster import connected
from jobs.errors import RecoError
from jobs.job_folder import Outcome, failed
from jobs.loading.process import LoaderProcess
from jobs.pretrain import pretrain
from jobs.signals import stop_on_signal, stop_passed_on
from jobs.spec import Sweep, load_sweep
from jobs.sweeps.children import close_runs
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import Ledger, Trial, best_of, trials_of
from jobs.sweeps.preview import concurrent_trials, preview
from jobs.sweeps.rehearsal import rehearse_base
from jobs.sweeps.report import write_report
from jobs.sweeps.study import Study
from jobs.sweeps.trial import TrialContext
from jobs.sweeps.tuning import carry_out_trials
from jobs.tracking.code import code_version
from jobs.tracking.runs import TrackedRun, open_run
from jobs.tracking.server import tracking_uri
from jobs.training.plan import make_plan, open_data

_log = logging.getLogger("reco.sweep")


def main() -> int:
    """Carry out one attempt of a sweep, or preview it; returns the exit code."""
    arguments = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    ours: SweepFolder | None = None  # once it is: another search of that id keeps its outcome
    try:
        folder = SweepFolder(arguments.storage, arguments.id)
        sweep = load_sweep(arguments.spec, arguments.overrides) if arguments.spec else folder.sweep()
        if arguments.act == "preview":
            with connected(sweep.trial({})):
                print(json.dumps(preview(sweep, folder)))  # noqa: T201
            return 0
        folder.claim(sweep)
        folder.begin_attempt()
        ours = folder
        outcome = carry_out(sweep, folder, home=arguments.home)
        if arguments.then_full and outcome["status"] == "succeeded":
            outcome |= train_best(sweep, folder, home=arguments.home)
    except FencedError as error:
        _log.error("%s", error)
        return error.exit_code  # the folder is the newer attempt's, which says how it ended
    except RecoError as error:
        _log.error("%s", error)
        outcome = failed(error)
        if arguments.act == "preview":
            print(json.dumps(outcome))  # noqa: T201
    if ours is not None:
        ours.write_outcome(outcome)
    return outcome["exit_code"]


def carry_out(sweep: Sweep, folder: SweepFolder, *, home: Path) -> Outcome:
    """Try configurations until there are as many as asked for, and report which is best.

    Raises:
        RecoError: For everything that can be explained: data, cluster, tracking, storage; or every trial failed.
    """
    base = sweep.trial({})
    with LoaderProcess() as loader:
        data = open_data(base, loader)
    make_plan(base, data.train, probes=data.probes)  # what stands against it is told before Ray is started
    uri = tracking_uri(home)
    with connected(base):
        tracked = _open(sweep, folder, uri, dataset_hash=data.train.hash)
        try:
            context = TrialContext(
                url=folder.parent,
                sweep_id=folder.sweep_id,
                sweep=sweep,
                tracking=uri,
                parent=tracked.mlflow_run_id,
                dataset_hash=data.train.hash,
            )
            with stop_on_signal(folder.request_stop, what=f"sweep {folder.sweep_id}"):
                trials, cut = _try_configurations(sweep, folder, context)
            close_runs(uri, folder.sweep_id, trials)
            _publish(sweep, folder, tracked, trials)
            if cut is None and best_of(trials, mode=sweep.spec.objective.mode) is None:
                why = next((trial.reason for trial in trials if trial.reason), "all were stopped early")
                raise RecoError(
                    f"no trial of sweep {folder.sweep_id} came to its end: {why}",
                    hint="Its log has more; `reco sweep show` lists what became of each.",
                )
        except FencedError:
            raise  # to MLflow it is under way, by the newer attempt
        except BaseException:
            tracked.finish("FAILED")
            raise
        tracked.finish("FINISHED" if cut is None else "KILLED")
    if cut is not None:
        return {"status": "stopped", "exit_code": 130, "reason": cut, "tracking_url": tracked.url}
    return {"status": "succeeded", "exit_code": 0, "tracking_url": tracked.url}


def train_best(sweep: Sweep, folder: SweepFolder, *, home: Path) -> Outcome:
    """Train the best configuration as the base is trained, and register it with where it comes from.

    Raises:
        RecoError: As `jobs.pretrain.pretrain`.
    """
    best = best_of(trials_of(folder.ledger().events()), mode=sweep.spec.objective.mode)
    assert best is not None  # it would not have succeeded
    spec, run = sweep.full(best.values), folder.full_run()
    run.claim(spec)
    run.begin_attempt()
    _log.info("trial %d is the best; training it in full as run %s", best.number, run.run_id)
    try:
        with stop_passed_on(folder.stop_requested, run.request_stop):
            ended = pretrain(spec, run, home=home, lineage={"sweep": folder.sweep_id, "trial": str(best.number)})
    except FencedError:
        raise
    except RecoError as error:
        run.write_outcome(failed(error))
        raise
    run.write_outcome(ended)
    if ended["status"] == "stopped":
        return {"status": "stopped", "exit_code": 130, "reason": f"run {run.run_id} was asked to"}
    return {"model": ended["model"]}


def _try_configurations(sweep: Sweep, folder: SweepFolder, context: TrialContext) -> tuple[list[Trial], str | None]:
    """What became of each configuration, and why the sweep stopped before its end, if it did."""
    ledger = Ledger(folder.storage, Fence.take(folder.storage, {"what": "sweep"}))
    if not ledger.events():
        rehearsal = rehearse_base(sweep, folder)
        _log.info("the objective comes: %s is %.4g before training", sweep.metric, rehearsal.objective)
    study = Study(sweep, ledger, name=folder.sweep_id)
    cut = carry_out_trials(study, folder, context, concurrency=concurrent_trials(sweep))
    return study.trials, cut


def _open(sweep: Sweep, folder: SweepFolder, uri: str, *, dataset_hash: str) -> TrackedRun:
    """The sweep's own run in MLflow, above those of its trials; params say what can never change."""
    return open_run(
        uri,
        experiment="reco",
        run_id=folder.sweep_id,
        name=sweep.spec.name,
        params={
            **sweep.spec.model_dump(mode="json", include={"objective", "search", "scheduler", "seeds"}),
            "space": {path: str(dimension.model_dump(mode="json")) for path, dimension in sweep.space.items()},
            "epochs": sweep.epochs,
            "base": sweep.base.hash,
        },
        tags={"reco.dataset_hash": dataset_hash, "reco.code": code_version()},
    )


def _publish(sweep: Sweep, folder: SweepFolder, tracked: TrackedRun, trials: list[Trial]) -> None:
    """Tell MLflow what is best, and show it; how the sweep ended matters more."""
    try:
        best = best_of(trials, mode=sweep.spec.objective.mode)
        if best is not None and best.objective is not None:
            tracked.set_tags({"reco.best_trial": best.number, "reco.best_run": folder.run_id(best.number)})
            tracked.log_results({"objective": best.objective}, step=len(trials))
        with tempfile.TemporaryDirectory() as temporary:
            write_report(sweep, trials, Path(temporary), sweep_id=folder.sweep_id)
            for path in sorted(Path(temporary).iterdir()):
                tracked.log_artifact(path, "report")
    except RecoError as error:
        _log.warning("MLflow could not be told of the results: %s", error)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.sweep", description=__doc__)
    parser.add_argument("act", choices=["run", "preview"])
    parser.add_argument("spec", type=Path, nargs="?", help="the sweep's spec; what it was started with by default")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--id", required=True, help="a new sweep, or the one to continue")
    parser.add_argument("--storage", required=True, help="folder or S3 prefix that holds sweeps and runs")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    parser.add_argument("--then-full", action="store_true", help="train the best configuration at full length")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
