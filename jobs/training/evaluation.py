"""When an encoder is judged and on what: on `valid` while it trains, on `test` once, for the record."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from jobs.loading.messages import Opened
from jobs.reco import ReCo
from jobs.spec import RunSpec
from jobs.training import health, probes
from jobs.training.plan import Data, method_config
from jobs.training.ranks import Ranks


class Evaluation:
    """The probes of a run.

    Args:
        spec: The run.
        data: Its data sets.
        ranks: This process among those that share the work.
        progress: Called before each pass over a data set.
    """

    def __init__(self, spec: RunSpec, data: Data, *, ranks: Ranks, progress: Callable[[], None]) -> None:
        self._spec, self._data, self._ranks, self._progress = spec, data, ranks, progress

    @property
    def k(self) -> int:
        """Neighbours of the k-NN probe."""
        probe, train = self._spec.data.probe, self._data.probe_train
        if probe is not None and probe.k is not None:
            return probe.k
        assert train is not None and train.labels is not None  # noqa: PT018
        return probes.default_k(train.labels)

    def while_training(self, model: ReCo) -> dict[str, float]:
        """k-NN on the validation set and the rank of its features; all ranks take part and get the same.

        Without labelled sets, the rank of the features of the first training pictures.
        """
        train, valid = self._data.probe_train, self._data.probe_valid
        encoder = self.frozen(model)
        if train is None or valid is None:
            return self._unlabelled(encoder)
        fitted, judged = self._embed(encoder, train), self._embed(encoder, valid)
        return {"valid/knn": self._k_nearest(fitted, judged), "valid/rank_me": health.rank_me(judged.features)}

    def at_the_end(self, model: ReCo) -> dict[str, float]:
        """The final record: probes on the test set (or valid where there is none), beside the baselines."""
        encoder = self.frozen(model)
        train = self._data.probe_train
        if train is None:
            return self._unlabelled(encoder)
        name, final = ("test", self._data.probe_test) if self._data.probe_test else ("valid", self._data.probe_valid)
        assert final is not None
        fitted, judged = self._embed(encoder, train), self._embed(encoder, final)
        results = {
            f"{name}/knn": self._k_nearest(fitted, judged),
            f"{name}/linear": probes.linear_accuracy(fitted.features, fitted.labels, judged.features, judged.labels),
            f"{name}/rank_me": health.rank_me(judged.features),
        }
        untrained = probes.untrained_encoder(
            method_config(self._spec), self._data.loader, train, image_size=self._size, device=self._ranks.device
        )
        side = min(self._size, probes.RAW_PIXELS_SIDE)
        for baseline, embedding, size in (
            ("knn_untrained", untrained, self._size),
            ("knn_raw_pixels", probes.raw_pixels, side),
        ):
            fitted, judged = self._embed(embedding, train, size), self._embed(embedding, final, size)
            results[f"{name}/{baseline}"] = self._k_nearest(fitted, judged)
        return results | {"k": float(self.k)}

    def _unlabelled(self, encoder: nn.Module) -> dict[str, float]:
        self._progress()
        rows = range(min(len(self._data.train), probes.CALIBRATION_PICTURES))
        embedded = probes.embed(
            encoder, self._data.loader, self._data.train, rows, image_size=self._size, device=self._ranks.device
        )
        return {"train/rank_me": health.rank_me(embedded.features)}

    def frozen(self, model: ReCo) -> nn.Module:
        """A copy of the query encoder's backbone with the statistics of all groups, in evaluation mode."""
        encoder = copy.deepcopy(model.query_encoder.backbone)
        self._ranks.average_batch_statistics(encoder)
        module: nn.Module = encoder.eval()
        return module

    @property
    def _size(self) -> int:
        return self._spec.data.image_size

    def _embed(self, encoder: Callable[[Tensor], Tensor], dataset: Opened, size: int | None = None) -> probes.Embedded:
        self._progress()
        embedded = probes.embed_everywhere(
            encoder,
            self._data.loader,
            dataset,
            image_size=size or self._size,
            ranks=self._ranks,
            precision=self._spec.train.precision if size is None else "fp32",
        )
        probes.check_usable(embedded.replaced, dataset, allowed=self._spec.data.bad_pictures, ranks=self._ranks)
        return embedded

    def _k_nearest(self, fitted: probes.Embedded, judged: probes.Embedded) -> float:
        return probes.k_nearest_accuracy(
            fitted.features, fitted.labels, judged.features, judged.labels, k=self.k, ranks=self._ranks
        )
