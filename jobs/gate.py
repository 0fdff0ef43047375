"""The gates of a promotion, in a process that knows nothing of the training: `python -m jobs.gate NAME/VERSION`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jobs.embedding.encoder import load_encoder
from jobs.errors import RecoError
from jobs.tracking.client import explained
from jobs.tracking.errors import DamagedEncoderError
from jobs.tracking.evaluations import Evaluation
from jobs.tracking.export import TOLERANCE
from jobs.tracking.files import FILES, PREPROCESSING, check_files, read_json
from jobs.tracking.models import EncoderVersion, fetch_encoder, find_model
from jobs.tracking.reference import deviation

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo
    from mlflow.types import Schema


_LONGEST_SOURCE = 100


class Check(NamedTuple):
    """What one gate says.

    Attributes:
        name: Of the gate.
        passed: Whether the encoder may pass.
        words: Why, with the figures.
    """

    name: str
    passed: bool
    words: str


def main() -> int:
    """Print what every gate says as JSON; returns 0 where all let it pass."""
    arguments = _parse()
    logging.basicConfig(level=logging.WARNING)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    uri = os.environ["MLFLOW_TRACKING_URI"]
    candidate = find_model(arguments.candidate, uri)
    checks = [*intact(candidate, uri)]
    if arguments.against:
        champion = find_model(arguments.against, uri)
        checks += no_worse(candidate, champion, margin=arguments.margin)
    print(json.dumps([check._asdict() for check in checks]))  # noqa: T201
    return 0 if all(check.passed for check in checks) else 1


def intact(candidate: EncoderVersion, uri: str) -> list[Check]:
    """Whether an encoder is whole, can be loaded here without pickle, and computes what it did when registered."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            folder = fetch_encoder(candidate.reference, uri, Path(temporary) / "encoder")
        except DamagedEncoderError as error:
            return [Check("whole", False, str(error))]
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            return [Check("whole", False, f"files are missing: {', '.join(missing)}; register it again")]
        whole = Check("whole", True, "all files are there, the weights have the SHA-256 they were registered with")
        return [
            whole,
            _signature(candidate, folder, uri),
            _same("weights", lambda: load_encoder(folder)[0], folder),
            _same("exported graph", lambda: _graph(candidate, uri), folder),
        ]


def no_worse(candidate: EncoderVersion, champion: EncoderVersion, *, margin: float) -> list[Check]:
    """Whether an encoder is as good as the champion, on every probe that both were judged on.

    Args:
        candidate: The encoder.
        champion: What it is compared with.
        margin: How much worse it may be, in points (RankMe: in per cent of the champion's).
    """
    pairs = [(mine, theirs) for mine in candidate.evaluations for theirs in champion.evaluations]
    same = [(mine, theirs, _common(mine, theirs)) for mine, theirs in pairs if mine.probe == theirs.probe]
    comparable = [(mine, theirs, metric) for mine, theirs, metric in same if metric is not None]
    if not comparable:
        hint = f"reco eval {candidate.reference} DATA and reco eval {champion.reference} DATA on labelled pictures"
        return [Check("same probe", False, f"both were never judged by one metric on the same pictures: run {hint}")]
    found = [Check("same probe", True, f"judged on the same pictures, of {len(comparable)} probes")]
    for mine, theirs, metric in comparable:
        ours, best = mine.metrics[metric], theirs.metrics[metric]
        allowed = best * (1 - margin / 100) if metric == "rank_me" else best - margin
        words = (
            f"{metric} on {_shortened(mine.data)}: {ours:.2f}, version {champion.version} (champion) has {best:.2f}, "
            f"at least {allowed:.2f} is needed"
        )
        found.append(Check("no worse", ours >= allowed, words))
    return found


def _common(mine: Evaluation, theirs: Evaluation) -> str | None:
    """The metric to compare by: the champion's own, else the candidate's, else the best that both have."""
    both = mine.metrics.keys() & theirs.metrics.keys()
    knn = sorted((name for name in both if name.startswith("knn@")), key=lambda name: -int(name.removeprefix("knn@")))
    wanted = (theirs.main, mine.main, *knn, "linear", "linear_lbfgs", "linear_sgd", "rank_me")
    return next((name for name in wanted if name in both), None)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SOURCE else f"{text[: _LONGEST_SOURCE - 1]}…"


def _same(what: str, load: Callable[[], object], folder: Path) -> Check:
    try:
        module = load()
        difference = deviation(module, folder)  # type: ignore[arg-type]
    except RecoError as error:
        return Check(what, False, str(error))
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being loaded is the answer
        first = next(iter(str(error).splitlines()), "")
        return Check(what, False, f"it cannot be loaded: {type(error).__name__}: {first}")
    words = f"features differ by {difference:.1e} from those at registration (at most {TOLERANCE:g})"
    return Check(what, difference <= TOLERANCE, words)


def _signature(candidate: EncoderVersion, folder: Path, uri: str) -> Check:
    """Whether the exported model takes the pictures that the preprocessing makes, and gives the features it names."""
    with explained(f"read the signature of {candidate.reference}", uri):
        signature = _model(candidate, uri).signature
    size, width = read_json(folder / PREPROCESSING)["image_size"], check_files(folder)["feature_dim"]
    wanted = f"float32 [n, 3, {size}, {size}] to float32 [n, {width}]"
    found = " to ".join(_shape(schema) for schema in (signature.inputs, signature.outputs)) if signature else "nothing"
    if found != wanted:
        return Check("signature", False, f"the exported model takes {found}, preprocessing and config say {wanted}")
    return Check("signature", True, f"the exported model takes {wanted}")


def _model(candidate: EncoderVersion, uri: str) -> ModelInfo:
    import mlflow

    mlflow.set_tracking_uri(uri)
    return mlflow.models.get_model_info(f"models:/{candidate.reference}")


def _shape(schema: Schema | None) -> str:
    from mlflow.types import TensorSpec

    tensors = [] if schema is None else schema.inputs
    if len(tensors) != 1 or not isinstance(tensors[0], TensorSpec):
        return "something else than one tensor"
    tensor = tensors[0]
    return f"{tensor.type} [{', '.join('n' if side == -1 else str(side) for side in tensor.shape)}]"


def _graph(candidate: EncoderVersion, uri: str) -> object:
    import mlflow

    mlflow.set_tracking_uri(uri)
    return mlflow.pytorch.load_model(f"models:/{candidate.reference}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.gate", description=__doc__)
    parser.add_argument("candidate", help="name/version")
    parser.add_argument("--against", help="name/version of the champion; without it, nothing is compared")
    parser.add_argument("--margin", type=float, default=0.5, help="how many points worse it may be")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecoError as error:
        sys.exit(f"error: {error}")
