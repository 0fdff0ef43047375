"""What a spec means on given data: steps, shares, queue; and every reason why it cannot run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jobs.errors import UserError
from jobs.loading.detail import Detail
from jobs.loading.memory import Reading, most_bytes
from jobs.loading.messages import Opened
from jobs.loading.process import LoaderProcess
from jobs.reco import ReCoConfig
from jobs.shards.order import Order
from jobs.spec import RunSpec
from jobs.training.feed import slots
from jobs.training.probes import BATCH, crop_fraction


class PlanError(UserError):
    """The spec and the data do not fit together."""


@dataclass(frozen=True)
class Data:
    """The data sets of a run, and the process that reads them; probes are None where the spec names none."""

    loader: LoaderProcess
    train: Opened
    probe_train: Opened | None
    probe_valid: Opened | None
    probe_test: Opened | None

    @property
    def probes(self) -> tuple[Opened, ...]:
        """What the probes read."""
        return tuple(each for each in (self.probe_train, self.probe_valid, self.probe_test) if each is not None)


@dataclass(frozen=True)
class Plan:
    """A run's numbers.

    Attributes:
        order: The order of samples.
        steps_per_epoch: Global batches in an epoch.
        total_steps: Steps of the whole run.
        warmup_steps: Steps of the learning rate's warm-up.
        pictures_per_rank: Pictures of a step on one worker.
        loader_bytes: Most memory that the loader of one worker takes, the batches it shares with it included.
    """

    order: Order
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    pictures_per_rank: int
    loader_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.total_steps:,} steps, {self.steps_per_epoch:,} an epoch · {self.pictures_per_rank} pictures per "
            f"worker and step · loader memory per worker up to {self.loader_bytes / 1e9:.1f} GB"
        )


def open_data(spec: RunSpec, loader: LoaderProcess) -> Data:
    """Open every data set a spec names, building the index of those that have none.

    Args:
        spec: The run.
        loader: Opens and reads them.

    Raises:
        PlanError: If a probe set has no labels, fewer than two classes, or none of those it is judged by.
        RecoError: If a source cannot be opened; each says why.
    """
    train = loader.open(spec.data.train, index=spec.data.index)
    if spec.data.probe is None:
        return Data(loader, train, None, None, None)
    probe = spec.data.probe
    sources = {"train": probe.train, "valid": probe.valid, "test": probe.test}
    opened = {
        name: labelled(loader.open(source, index=spec.data.index, labels=True), f"data.probe.{name}")
        for name, source in sources.items()
        if source is not None
    }
    for name in opened.keys() - {"train"}:
        known, asked = opened["train"].labels, opened[name].labels
        assert known is not None and asked is not None  # noqa: PT018
        if not np.isin(asked, known).any():
            raise PlanError(
                f"data.probe.{name} has no class in common with data.probe.train: no probe could tell anything.",
                hint="Divide the labelled pictures at random, as `reco data pack --split` does.",
            )
    return Data(loader, train, opened["train"], opened["valid"], opened.get("test"))


def make_plan(spec: RunSpec, dataset: Opened, *, probes: Sequence[Opened] = ()) -> Plan:
    """Work out a run's numbers and refuse what cannot work.

    Args:
        spec: The run.
        dataset: What it trains on.
        probes: What its probes read.

    Raises:
        PlanError: If too many pictures are bad, the data set is smaller than a batch, or the queue is longer than half
            of it.
    """
    lost, whole = dataset.left_out, dataset.left_out + len(dataset)
    if lost > math.ceil(spec.data.bad_pictures * whole):
        raise PlanError(
            f"{lost} of the {whole} pictures in data.train cannot be used, more than data.bad_pictures "
            f"{spec.data.bad_pictures:g} allows.",
            hint="`reco data verify` lists them; mend the shards, or allow more.",
        )
    samples, batch, queue = len(dataset), spec.train.global_batch_size, spec.method.queue_size
    if samples < batch:
        raise PlanError(
            f"data.train holds {samples} pictures, fewer than one global batch of {batch}.",
            # A queue holds at least a batch, and no more than half of the pictures.
            hint=f"Set train.global_batch_size to {_largest_multiple(samples // 2, spec.lanes)} or less, "
            "or add pictures.",
        )
    if queue > samples // 2:
        raise PlanError(
            f"method.queue_size {queue} is longer than half of the {samples} pictures: "
            "a sample's own old keys would be among its negatives.",
            hint=f"Set method.queue_size to {samples // 2} or less.",
        )
    order = Order(
        dataset.counts,
        seed=spec.train.seed,
        lanes=spec.lanes,
        global_batch_size=batch,
        shuffle_shards=spec.data.shuffle_shards,
    )
    return Plan(
        order=order,
        steps_per_epoch=order.steps_per_epoch,
        total_steps=order.steps_per_epoch * spec.train.epochs,
        warmup_steps=order.steps_per_epoch * spec.train.warmup_epochs,
        pictures_per_rank=batch // spec.scale.workers,
        loader_bytes=_loader_bytes(spec, order, dataset, probes),
    )


def decoding_threads(spec: RunSpec) -> int:
    """Threads that decode beside each worker: half of its cores."""
    return max(1, spec.scale.cpus_per_worker // 2)


def train_detail(spec: RunSpec) -> Detail:
    """How much detail of a picture the training views need."""
    return Detail.of_random_crops(spec.data.image_size, spec.views.crop_scale[0])


def method_config(spec: RunSpec) -> ReCoConfig:
    """The method as `jobs.reco` takes it."""
    method = spec.method
    return ReCoConfig(
        encoder=spec.encoder.name,
        stem=spec.encoder.stem,
        width=spec.encoder.width,
        projection_dim=method.projection_dim,
        queue_size=method.queue_size,
        momentum=method.momentum,
        temperature=method.temperature,
        groups=method.groups,
        global_weight=method.global_relation.weight,
        student_temperature=method.global_relation.student_temperature,
        teacher_temperature=method.global_relation.teacher_temperature,
        local_weight=method.local_relation.weight,
        mix=method.local_relation.mix,
        alpha=method.local_relation.alpha,
        seed=spec.train.seed,
    )


def _loader_bytes(spec: RunSpec, order: Order, dataset: Opened, probes: Sequence[Opened]) -> int:
    in_memory = slots(torch.device("cuda" if spec.scale.gpus_per_worker else "cpu"))
    training = Reading(
        dataset,
        train_detail(spec),
        lanes=order.lanes // spec.scale.workers,
        batch=spec.train.global_batch_size // spec.scale.workers,
        steps=order.steps_per_epoch,
        block_shards=spec.data.shuffle_shards,
        slots=in_memory,
    )
    detail = Detail.of_centre(spec.data.image_size, crop_fraction(spec.data.image_size))
    threads, cached = decoding_threads(spec), spec.scale.cache_folder is not None
    # Without labels the encoder is judged on pictures of the training set itself.
    meanwhile = [Reading.in_order(each, detail, batch=BATCH, slots=in_memory) for each in probes or (dataset,)]
    return most_bytes(training, meanwhile, threads=threads, cached=cached)


def labelled(dataset: Opened, where: str) -> Opened:
    """A data set as it is, if probes can use it.

    Raises:
        PlanError: A sample has no label, or all have the same.
    """
    if dataset.labels is None or (dataset.labels < 0).any():
        count = len(dataset) if dataset.labels is None else int((dataset.labels < 0).sum())
        raise PlanError(
            f"{where}: {count} of {len(dataset)} samples have no label, and a probe needs one for each.",
            hint="Give shards with a .cls member per picture; training goes without a probe as well.",
        )
    if len(np.unique(dataset.labels)) < 2:
        raise PlanError(f"{where} has pictures of one class only.", hint="A probe needs at least two classes.")
    return dataset


def _largest_multiple(samples: int, lanes: int) -> int:
    return max(samples // lanes, 1) * lanes
