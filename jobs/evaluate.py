"""What a registered encoder is worth on labelled pictures: `python -m jobs.evaluate MODEL [DATA]`."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import ray

from jobs.cluster import connected
from jobs.errors import RecoError, UserError
from jobs.evaluation_figures import write_figures
from jobs.job_folder import failed
from jobs.judging import ENCODER_FILES, ENCODER_FOLDER, JUDGEMENT, Judgement, Questions, judge, named
from jobs.run_folder import RunFolder
from jobs.spec import RunSpec, parse_spec
from jobs.supervisor import train
from jobs.tracking.client import client, explained
from jobs.tracking.errors import DamagedEncoderError
from jobs.tracking.evaluations import Evaluation, evaluation, keep_evaluation
from jobs.tracking.files import SPEC
from jobs.tracking.models import EncoderVersion, fetch_encoder, find_model
from jobs.tracking.server import tracking_uri
from jobs.training.ranks import Ranks, pick_device

_BATCH = 64
_INTERRUPTED = 130


class Told(TypedDict):
    """What the job prints at its end."""

    model: str
    evaluation: dict[str, object]
    judgement: Judgement
    figures: list[str]
    kept: bool


def main() -> int:
    """Judge an encoder, keep the figures with it, and print them as JSON; returns the exit code."""
    arguments = _parse()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: whoever started this may have been told to ignore it
        signal.signal(number, signal.default_int_handler)
    try:
        told = evaluate(arguments)
    except RecoError as error:
        print(json.dumps(failed(error)))  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    print(json.dumps(told))  # noqa: T201
    return 0


def evaluate(arguments: argparse.Namespace) -> Told:
    """Judge the encoder on every rank, draw what was found, and keep it in the encoder's record.

    Raises:
        RecoError: For everything that can be explained: no such encoder, no labels, no cluster, no tracking server.
    """
    local = Path(arguments.model).expanduser().is_dir()
    uri = "" if local else tracking_uri(arguments.home)
    version = None if local else find_model(arguments.model, uri)
    with tempfile.TemporaryDirectory(prefix="reco-evaluate-") as temporary:
        reference = version.reference if version else arguments.model
        files = fetch_encoder(reference, uri, Path(temporary) / "encoder")
        spec = spec_for(files, arguments)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        name = reference.replace("/", "-") if version else files.name
        folder = RunFolder(arguments.storage or temporary, f"eval-{name}-{stamp}")
        for each in ENCODER_FILES:
            folder.storage.upload(f"{ENCODER_FOLDER}/{each}", files / each)
        try:
            _carry_out(spec, folder, Questions(arguments.ks, arguments.few_shot, arguments.sgd), arguments.storage)
            judgement: Judgement = json.loads(folder.storage.read(JUDGEMENT))
        finally:
            for each in ENCODER_FILES:
                folder.storage.delete(f"{ENCODER_FOLDER}/{each}")
    probe = spec.data.probe
    assert probe is not None
    made = evaluation(
        fitted_hash=judgement["fitted_hash"],
        judged_hash=judgement["judged_hash"],
        data=named(probe.test or probe.valid),
        metrics=judgement["metrics"],
        main=judgement["main"],
    )
    figures = write_figures(judgement, arguments.out, title=reference)
    if version is not None:
        made = keep_evaluation(version.name, version.version, made, uri)
        _keep_figures(version, made, figures, uri)
    return {
        "model": reference,
        "evaluation": asdict(made),
        "judgement": judgement,
        "figures": [str(path) for path in figures],
        "kept": version is not None,
    }


def spec_for(files: Path, arguments: argparse.Namespace) -> RunSpec:
    """The encoder's own spec, with the pictures and the scale of this evaluation.

    Raises:
        UserError: There are no labelled pictures to judge on, or an option does not fit.
    """
    if not (files / SPEC).is_file():
        raise DamagedEncoderError(f"{files / SPEC} is missing.", hint="Fetch the encoder again.")
    text = (files / SPEC).read_text()
    own = parse_spec(text, source=f"spec of {arguments.model}")
    probe = own.data.probe
    fit_to, judge_on = arguments.train, arguments.data
    if judge_on is not None and fit_to is None and probe is None:
        raise UserError(
            "there are no labelled pictures to fit classifiers to: the encoder was trained without a probe.",
            hint="Name them with --train.",
        )
    if judge_on is None and probe is None:
        raise UserError(
            "there are no labelled pictures to judge on: the encoder was trained without a probe.",
            hint="Name them: reco eval MODEL DATA --train SHARDS.",
        )
    # As JSON, which is YAML whatever characters a name has.
    fitted = json.dumps(fit_to if fit_to is not None else probe.train)  # type: ignore[union-attr]
    judged = json.dumps(judge_on if judge_on is not None else probe.test or probe.valid)  # type: ignore[union-attr]
    workers = arguments.workers
    changes = [
        f"data.probe={{train: {fitted}, valid: {judged}, test: {judged}}}",
        # What training asks of the number of workers does not matter here.
        f"method={{groups: {workers}, queue_size: {_BATCH * workers}}}",
        f"train.global_batch_size={_BATCH * workers}",
        "data.lanes=null",
        f"scale.workers={workers}",
        f"scale.gpus_per_worker={min(own.scale.gpus_per_worker, 1)}",
        "scale.min_workers=null",
    ]
    if "RAY_ADDRESS" not in os.environ:  # this machine may be smaller than those it was trained on
        cores = max(1, min(own.scale.cpus_per_worker, (os.cpu_count() or 1) // workers))
        changes.append(f"scale.cpus_per_worker={cores}")
    return parse_spec(text, [*changes, *arguments.overrides], source=f"spec of {arguments.model}")


def _carry_out(spec: RunSpec, folder: RunFolder, questions: Questions, storage: str | None) -> None:
    """Judge in this process where one is enough, else on the workers of the cluster.

    Raises:
        RecoError: As `judge`, or the workers could not be placed.
    """
    if spec.scale.workers == 1 and "RAY_ADDRESS" not in os.environ:
        judge(spec, folder, Ranks(0, 1, pick_device(0)), questions=questions)
        return
    with connected(spec):
        if storage is None and len([node for node in ray.nodes() if node["Alive"]]) > 1:
            raise UserError(
                "the cluster has several hosts, which share no folder of this one.",
                hint="Name a folder or S3 prefix that all of them reach with --storage.",
            )
        folder.begin_attempt()
        train(spec, folder, None, work=functools.partial(judge, questions=questions))


def _keep_figures(version: EncoderVersion, made: Evaluation, figures: list[Path], uri: str) -> None:
    """Put metrics and pictures beside what the encoder's run has in MLflow."""
    folder = f"evaluations/{version.name}-{version.version}/{made.probe}"
    api = client(uri)
    with explained(f"keep the figures of {version.reference}", uri):
        for name, value in made.metrics.items():
            api.log_metric(version.mlflow_run_id, f"eval/{made.probe}/{name.replace('@', '_at_')}", value)
        for path in figures:
            api.log_artifact(version.mlflow_run_id, str(path), folder)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.evaluate", description=__doc__)
    parser.add_argument("model", help="name, name@alias, name/version, or an encoder's folder")
    parser.add_argument("data", nargs="?", help="labelled shards to judge on; the test set of its spec by default")
    parser.add_argument("--train", help="labelled shards to fit to; those of its spec's probe by default")
    parser.add_argument("--workers", type=int, default=1, help="how many share the work, on the cluster at RAY_ADDRESS")
    parser.add_argument("--k", dest="ks", type=int, nargs="*", default=(), help="numbers of neighbours")
    parser.add_argument("--few-shot", type=float, nargs="*", default=(0.01, 0.1), help="parts of each class to fit to")
    parser.add_argument("--sgd", action="store_true", help="a linear classifier by the authors' protocol too")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--storage", help="folder or S3 prefix that every worker reaches; a temporary one by default")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    arguments = parser.parse_args()
    arguments.ks, arguments.few_shot = tuple(arguments.ks), tuple(arguments.few_shot)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
