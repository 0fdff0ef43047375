"""What an encoder is worth: weighted k-NN and a linear classifier on cached features, against honest baselines."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from jobs.loading.batch import Replaced
from jobs.loading.detail import Detail
from jobs.loading.messages import Opened
from jobs.loading.process import LoaderProcess
from jobs.probes import accuracy, knn_predictions, logistic_predictions, standardised
from jobs.reco import ReCo, ReCoConfig
from jobs.reco.normalisation import GroupedBatchNorm2d
from jobs.training.feed import Feed, slots
from jobs.training.quarantine import BadPicturesError
from jobs.training.ranks import Ranks
from jobs.views import MEAN, STD, centre_view

BATCH = 256
RAW_PIXELS_SIDE = 32
CALIBRATION_PICTURES = 4096
_EXAMPLES = 3

_log = logging.getLogger(__name__)


def crop_fraction(image_size: int) -> float:
    """How much of the short side evaluation looks at: all of small pictures, 7/8 of larger ones (256 to 224)."""
    return 1.0 if image_size <= 64 else 0.875


def preprocessing(image_size: int) -> dict[str, Any]:
    """How pictures are prepared for an encoder: the evaluation view in numbers, kept with every registered encoder."""
    return {"image_size": image_size, "crop_fraction": crop_fraction(image_size), "mean": list(MEAN), "std": list(STD)}


def default_k(train_labels: np.ndarray) -> int:
    """K of the k-NN probe: 200 where classes are large (Wu et al., 2018), else a fifth of the mean class."""
    classes = len(np.unique(train_labels))
    return int(np.clip(len(train_labels) // classes // 5, 1, 200))


class Embedded(NamedTuple):
    """Features of pictures, with what is known of each.

    Attributes:
        features: Shape (n, c), float32.
        labels: Shape (n,), int64, -1 for none. Of the picture that was embedded, where another one stands in.
        replaced: Pictures that could not be used.
    """

    features: Tensor
    labels: Tensor
    replaced: tuple[Replaced, ...]


@torch.no_grad()
def embed(
    encoder: Callable[[Tensor], Tensor],
    loader: LoaderProcess,
    dataset: Opened,
    rows: range,
    *,
    image_size: int,
    device: torch.device,
    precision: str = "fp32",
    crop: float | None = None,
    embedded: Callable[[int], None] = lambda _: None,
) -> Embedded:
    """Features of a consecutive part of a data set, in its order, from centre views.

    Another picture stands in for one that cannot be used.

    Args:
        encoder: From (n, 3, s, s) normalised pictures to (n, c); in evaluation mode.
        loader: Reads them.
        dataset: The pictures.
        rows: Sample ids start to stop − 1.
        image_size: Side of the views in pixels.
        device: Where to compute.
        precision: `bf16` computes under autocast.
        crop: Part of the short side that a view shows; what suits the size by default.
        embedded: Told after each batch how many pictures it had.
    """
    if not rows:
        return Embedded(torch.empty(0, 0), torch.empty(0, dtype=torch.int64), ())
    features, labels = [], []
    replaced: list[Replaced] = []
    fraction = crop_fraction(image_size) if crop is None else crop
    detail = Detail.of_centre(image_size, fraction)
    stream = loader.read(dataset, rows, batch_size=BATCH, detail=detail, replace=True, slots=slots(device))
    with Feed(stream, device) as feed:
        for ready in feed:
            views = centre_view(ready.pictures, image_size=image_size, crop_fraction=fraction)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                features.append(encoder(views).float())
            known = ready.batch.labels
            labels.append(np.full(len(ready.batch), -1, dtype=np.int64) if known is None else known)
            replaced += ready.batch.replaced
            embedded(len(ready.batch))
    return Embedded(torch.cat(features), torch.from_numpy(np.concatenate(labels)), tuple(replaced))


def embed_everywhere(
    encoder: Callable[[Tensor], Tensor],
    loader: LoaderProcess,
    dataset: Opened,
    *,
    image_size: int,
    ranks: Ranks,
    precision: str = "fp32",
    crop: float | None = None,
    embedded: Callable[[int], None] = lambda _: None,
) -> Embedded:
    """`embed` for a whole data set, each rank its share, gathered on all; `replaced` stays each rank's."""
    rows = ranks.share(len(dataset))
    mine = embed(
        encoder,
        loader,
        dataset,
        rows,
        image_size=image_size,
        device=ranks.device,
        precision=precision,
        crop=crop,
        embedded=embedded,
    )
    count = len(dataset)
    labels = ranks.gather_rows(mine.labels.to(ranks.device), count)
    return Embedded(ranks.gather_rows(mine.features, count), labels, mine.replaced)


def check_usable(replaced: Sequence[Replaced], dataset: Opened, *, allowed: float, ranks: Ranks) -> int:
    """Name what could not be used; too much of it would make the figures mean little.

    Args:
        replaced: This rank's.
        dataset: What was read.
        allowed: Part of it that may be unusable.
        ranks: Those that shared the work; all of them call this.

    Returns:
        How many pictures of all ranks could not be used.

    Raises:
        BadPicturesError: It is more than allowed.
    """
    bad = round(float(ranks.total(torch.tensor(float(len(replaced)), device=ranks.device))))
    for each in replaced[:_EXAMPLES]:
        _log.warning("the probe does without %s: %s", each.key, each.reason)
    most = math.ceil(allowed * len(dataset))
    if bad > most:
        first = f" {replaced[0].key}: {replaced[0].reason}." if replaced else ""
        raise BadPicturesError(
            f"{bad} of the {len(dataset)} pictures of a probe set cannot be used, more than data.bad_pictures "
            f"{allowed:g} allows ({most}).{first}",
            hint="`reco data verify` lists them; mend the shards, or allow more, and continue.",
        )
    return bad


def k_nearest_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    k: int,
    ranks: Ranks,
    temperature: float = 0.1,
) -> float:
    """Top-1 accuracy in percent of a k-NN classifier: cosine, each neighbour weighs exp(similarity / temperature).

    Wu et al., 2018, section 3.4. Each rank classifies its share of the test rows.

    Args:
        train: Shape (n, c).
        train_labels: Shape (n,), int64.
        test: Shape (m, c).
        test_labels: Shape (m,), int64.
        k: Neighbours that vote; at most n are used.
        ranks: This process among those that share the work.
        temperature: See above.
    """
    rows = ranks.share(len(test))
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    mine, theirs = test[rows.start : rows.stop], test_labels[rows.start : rows.stop]
    predicted = knn_predictions(train, train_labels, mine, ks=[k], classes=classes, temperature=temperature)[0]
    return 100.0 * float(ranks.total((predicted == theirs).float().sum())) / len(test)


def linear_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, weight_decay: float = 1e-4
) -> float:
    """Top-1 accuracy in percent of a linear classifier on standardised features, fitted by L-BFGS to convergence.

    Args and shapes as in `k_nearest_accuracy`; `weight_decay` is the coefficient of half the squared weights.
    """
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    fitted, judged = standardised(train, test)
    predicted = logistic_predictions(fitted, train_labels, judged, classes=classes, weight_decay=weight_decay)
    return accuracy(predicted, test_labels)


@torch.no_grad()
def untrained_encoder(
    config: ReCoConfig, loader: LoaderProcess, dataset: Opened, *, image_size: int, device: torch.device
) -> nn.Module:
    """The run's encoder as it was before the first step, its batch statistics calibrated on pictures of `dataset`.

    Without the calibration the comparison would be with a straw man: fresh running statistics fit no picture.
    """
    encoder = ReCo(config).query_encoder.backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in encoder.modules():
        if isinstance(layer, GroupedBatchNorm2d):
            layer.groups = 1
            layer.momentum = None  # type: ignore[assignment]  # a cumulative average instead of an exponential one
    encoder.train()
    rows = range(min(len(dataset), CALIBRATION_PICTURES))
    embed(encoder, loader, dataset, rows, image_size=image_size, device=device)
    module: nn.Module = encoder.eval()
    return module


def raw_pixels(views: Tensor) -> Tensor:
    """The pixels themselves as features: shape (n, 3 · side²)."""
    return views.flatten(1)
