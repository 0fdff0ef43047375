"""One rank's part of judging an encoder: features once, then every classifier on them."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from jobs.embedding.encoder import Preprocessing, load_encoder, normalised_anew
from jobs.errors import UserError
from jobs.loading.messages import Opened
from jobs.loading.process import LoaderProcess
from jobs.probes import (
    SGD_PROTOCOL,
    Candidate,
    LinearProtocol,
    accuracy,
    confusion,
    few_shot_rows,
    fit_linear,
    grid,
    knn_predictions,
    logistic_predictions,
    standardised,
)
from jobs.run_folder import RunFolder
from jobs.spec import RunSpec
from jobs.tracking.files import CONFIG, PREPROCESSING, WEIGHTS
from jobs.training import health, probes
from jobs.training.numerics import set_numerics
from jobs.training.plan import decoding_threads, labelled
from jobs.training.probes import Embedded
from jobs.training.ranks import Ranks
from jobs.training.recorder import Recorder

_log = logging.getLogger(__name__)

ENCODER_FILES = (CONFIG, PREPROCESSING, WEIGHTS)
ENCODER_FOLDER = "encoder"
"""Where the encoder's files lie in the folder of an evaluation, for every rank to read."""
JUDGEMENT = "judgement.json"
USUAL_KS = (1, 5, 10, 20, 50, 100, 200)
_DRAWS = 3
_HELD_OUT = 10  # one row in so many chooses among the classifiers of a grid


@dataclass(frozen=True)
class Questions:
    """What to find out of an encoder.

    Attributes:
        ks: Numbers of neighbours; those of `USUAL_KS` that there are enough pictures for where there are none.
        few_shot: Parts of each class to fit to, above 0 and below 1.
        sgd: Whether to train a linear classifier by the authors' protocol too.
    """

    ks: tuple[int, ...] = ()
    few_shot: tuple[float, ...] = (0.01, 0.1)
    sgd: bool = False


class Judgement(TypedDict):
    """What was found.

    Attributes:
        fitted_hash: Hash of the pictures that classifiers were fitted to.
        judged_hash: Of those that were classified.
        fitted: How many there are.
        judged: How many there are.
        unusable: Pictures of both that others stood in for.
        metrics: Figures by name; `knn@K`, `linear`, `few_shot@P`, `linear_sgd` in percent, and `rank_me`.
        main: The one by which encoders are compared: k-NN with the usual k, or the first one asked for.
        confusion: Pictures of class i that the linear classifier took for class j.
        chosen: Learning rate and weight decay of that classifier.
    """

    fitted_hash: str
    judged_hash: str
    fitted: int
    judged: int
    unusable: int
    metrics: dict[str, float]
    main: str
    confusion: list[list[int]]
    chosen: dict[str, float]


def judge(
    spec: RunSpec, folder: RunFolder, ranks: Ranks, _recorder: Recorder | None = None, *, questions: Questions
) -> None:
    """Judge the encoder whose files lie in the folder; every rank calls it.

    Args:
        spec: Of the encoder; its probe names the pictures to fit to (`train`) and to judge on (`test`, else `valid`).
        folder: Of this evaluation.
        ranks: This process among those that share the work.
        questions: What to find out.

    Raises:
        UserError: The pictures cannot answer that: no labels, one class, too few.
        RecoError: For data and storage; each says what to do.
    """
    set_numerics(ranks.device, precision=spec.train.precision)
    assert spec.data.probe is not None
    sources = {"fitted": spec.data.probe.train, "judged": spec.data.probe.test or spec.data.probe.valid}
    encoder, preprocessing = _encoder(folder, ranks.device)
    with LoaderProcess(threads=decoding_threads(spec), cache=spec.scale.cache) as loader:
        opened = {
            name: labelled(loader.open(source, index=spec.data.index, labels=True), named(source))
            for name, source in sources.items()
        }
        _check(opened["fitted"], opened["judged"], questions)
        with _bar(ranks, sum(len(ranks.share(len(each))) for each in opened.values())) as advance:
            embedded = {
                name: probes.embed_everywhere(
                    encoder,
                    loader,
                    each,
                    image_size=preprocessing.image_size,
                    ranks=ranks,
                    precision=spec.train.precision,
                    crop=preprocessing.crop_fraction,
                    embedded=advance,
                )
                for name, each in opened.items()
            }
    unusable = {
        name: probes.check_usable(each.replaced, opened[name], allowed=spec.data.bad_pictures, ranks=ranks)
        for name, each in embedded.items()
    }
    judgement: Judgement = {
        "fitted_hash": opened["fitted"].hash,
        "judged_hash": opened["judged"].hash,
        "fitted": len(opened["fitted"]),
        "judged": len(opened["judged"]),
        "unusable": sum(unusable.values()),
        **_classified(embedded["fitted"], embedded["judged"], ranks, questions),  # type: ignore[typeddict-item]
    }
    if ranks.is_first:
        folder.storage.write(JUDGEMENT, json.dumps(judgement).encode())
        folder.write_result(judgement["metrics"])


def ks_for(labels: np.ndarray, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of neighbours to use: those wanted, else the usual ones, up to half of the mean class.

    Args:
        labels: Of the pictures that vote.
        wanted: None asks for the usual ones.
    """
    most = max(1, len(labels) // len(np.unique(labels)) // 2)
    usual = {each for each in USUAL_KS if each <= most} | {probes.default_k(labels)}
    return wanted or tuple(sorted(usual))


@contextmanager
def _bar(ranks: Ranks, count: int) -> Iterator[Callable[[int], None]]:
    """A progress bar of the first rank's share, which is told how many pictures are done."""
    columns = (TextColumn("features"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not ranks.is_first) as bar:
        task = bar.add_task("features", total=count)
        yield lambda done: bar.advance(task, done)


def _classified(fitted: Embedded, judged: Embedded, ranks: Ranks, questions: Questions) -> dict[str, object]:
    """All classifiers, each rank its share."""
    classes = int(max(fitted.labels.max(), judged.labels.max())) + 1
    usual = probes.default_k(fitted.labels.cpu().numpy())
    ks = ks_for(fitted.labels.cpu().numpy(), questions.ks)
    rows = ranks.share(len(judged.features))
    mine = judged.features[rows.start : rows.stop]
    voted = knn_predictions(fitted.features, fitted.labels, mine, ks=ks, classes=classes)
    voted = ranks.gather_rows(voted.T.contiguous(), len(judged.features)).T
    metrics = {f"knn@{k}": accuracy(each, judged.labels) for k, each in zip(ks, voted, strict=True)}

    train, test = standardised(fitted.features, judged.features)
    predicted, chosen = _best_of_grid(train, fitted.labels, test, LinearProtocol(), ranks, classes)
    metrics["linear"] = accuracy(predicted, judged.labels)
    if questions.sgd:
        # As they come: a learning rate of 30 is meant for features that are not standardised.
        raw = (fitted.features.float(), judged.features.float())
        by_protocol, _ = _best_of_grid(raw[0], fitted.labels, raw[1], SGD_PROTOCOL, ranks, classes)
        metrics["linear_sgd"] = accuracy(by_protocol, judged.labels)
    for part in questions.few_shot:
        metrics[f"few_shot@{part:g}"] = _few_shot(train, fitted.labels, test, judged.labels, part, ranks, classes)
    metrics["rank_me"] = health.rank_me(judged.features)
    matrix = confusion(predicted, judged.labels, classes=classes).tolist()
    return {
        "metrics": metrics,
        "main": f"knn@{usual if usual in ks else ks[0]}",
        "confusion": matrix,
        "chosen": {"lr": chosen.lr, "weight_decay": chosen.weight_decay},
    }


def _best_of_grid(
    train: Tensor, labels: Tensor, test: Tensor, protocol: LinearProtocol, ranks: Ranks, classes: int
) -> tuple[Tensor, Candidate]:
    """Predictions for `test` of the classifier that is best on rows held out from `train`, fitted to all of it.

    Each rank tries its share of the grid.
    """
    candidates = grid(protocol)
    rows = ranks.share(len(candidates))
    held_out = torch.zeros(len(train), dtype=torch.bool, device=train.device)
    if len(candidates) > 1:  # drawn: the rows of a shard may come class by class, or in turn
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).to(train.device)
        held_out[order[: len(train) // _HELD_OUT]] = True
    score = torch.zeros(len(rows), 1, device=train.device)
    if rows and held_out.any():
        mine = candidates[rows.start : rows.stop]
        weights, biases = fit_linear(train[~held_out], labels[~held_out], mine, protocol, classes=classes)
        for number in range(len(mine)):
            guessed = (train[held_out] @ weights[number] + biases[number]).argmax(dim=1)
            score[number] = accuracy(guessed, labels[held_out])
    best = candidates[int(ranks.gather_rows(score, len(candidates)).flatten().argmax())]
    weights, biases = fit_linear(train, labels, [best], protocol, classes=classes)  # with the rows that chose it
    return (test @ weights[0] + biases[0]).argmax(dim=1), best


def _few_shot(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, part: float, ranks: Ranks, classes: int
) -> float:
    """Mean accuracy over a few draws of so large a part of each class, each rank its share of the draws."""
    total = torch.zeros((), device=train.device)
    for seed in ranks.share(_DRAWS):
        rows = few_shot_rows(labels, part, seed=seed)
        predicted = logistic_predictions(train[rows], labels[rows], test, classes=classes, weight_decay=1e-2)
        total += accuracy(predicted, test_labels)
    return float(ranks.total(total)) / _DRAWS


def _check(fitted: Opened, judged: Opened, questions: Questions) -> None:
    if any(k < 1 for k in questions.ks) or not all(0 < part < 1 for part in questions.few_shot):
        raise UserError(
            "neighbours are counted from 1, and a part of the labels lies between 0 and 1.",
            hint="For example --k 20 --few-shot 0.1.",
        )
    if fitted.hash == judged.hash:
        raise UserError(
            "the pictures to fit to and to judge on are the same: every figure would be of what is known already.",
            hint="Name others to fit to with --train.",
        )
    if questions.ks and max(questions.ks) > len(fitted):
        raise UserError(
            f"{max(questions.ks)} neighbours cannot vote: there are {len(fitted)} pictures to fit to.",
            hint=f"Ask for {len(fitted)} or fewer.",
        )
    assert fitted.labels is not None and judged.labels is not None  # noqa: PT018 - both are labelled
    unknown = sorted(set(judged.labels.tolist()) - set(fitted.labels.tolist()))
    if unknown:
        raise UserError(
            f"{len(unknown)} classes of the pictures to judge on are not among those to fit to: "
            f"{', '.join(map(str, unknown[:5]))}.",
            hint="Both need the same classes; are these the right two data sets?",
        )


def _encoder(folder: RunFolder, device: torch.device) -> tuple[Callable[[Tensor], Tensor], Preprocessing]:
    with tempfile.TemporaryDirectory() as temporary:
        for name in ENCODER_FILES:
            folder.storage.download(f"{ENCODER_FOLDER}/{name}", Path(temporary) / name)
        module, preprocessing = load_encoder(Path(temporary))
    module.to(device)
    return (lambda views: module(normalised_anew(views, preprocessing))), preprocessing


def named(source: str | Sequence[str]) -> str:
    """A data set's source for people."""
    return source if isinstance(source, str) else ", ".join(source)
