"""What one pretraining run is: a strict, frozen model for each section of the YAML, each option with its sentence."""

from __future__ import annotations

import hashlib
import json
import warnings
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.spec.rules import broken_rules

# `register` is the name users write; what it shadows is a method of ABCMeta that nothing here calls.
warnings.filterwarnings(
    "ignore", message='Field name "register" in "RunSpec" shadows an attribute', category=UserWarning
)

OUTSIDE_THE_HASH: dict[str, Any] = {
    **dict.fromkeys(("name", "scale", "checkpoint", "register"), True),
    "data": {"bad_pictures"},
}
"""Sections that say how a run is carried out and kept, not which experiment it is."""


class Words(str):
    """The allowed values of an option in words, where its type alone would not tell a person what to write."""


Text = Annotated[str, Field(min_length=1), Words("a text")]
Shards = Text | Annotated[list[Text], Field(min_length=1)]
Name = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$"),
    Words("1 to 63 lower-case letters, digits and hyphens, starting with a letter or digit"),
]
ModelName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"),
    Words("1 to 128 letters, digits, dots, underscores and hyphens, starting with a letter or digit"),
]
Interval = Annotated[
    str,
    Field(pattern=r"^([1-9][0-9]{0,8}[smh]|[1-9][0-9]{0,11} steps?)$"),
    Words("a duration (`90s`, `5m`, `1h`) or a number of steps (`200 steps`)"),
]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Area = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """What every section keeps to: no unknown key, no silent conversion, no NaN or infinity, no change later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ProbeSpec(Section):
    """Labelled shards on which the encoder is judged while it trains."""

    train: Shards = Field(description="Labelled shards whose features the probes are fitted on.")
    valid: Shards = Field(description="Labelled shards every choice is made on.")
    test: Shards | None = Field(
        default=None, description="Labelled shards that are read once at the end, for the record."
    )
    k: Count | None = Field(
        default=None,
        description="Neighbours of the k-NN probe; null takes 200, or a fifth of the mean class where that is less.",
    )


class DataSpec(Section):
    """Where the pictures are and how they are read."""

    train: Shards = Field(
        description="Shards to pretrain on: a folder or prefix, a brace pattern, or a list of shards."
    )
    probe: ProbeSpec | None = Field(
        default=None, description="Labelled shards for k-NN and linear probes; null trains without them."
    )
    index: Text | None = Field(
        default=None,
        description="Where the index of the shards is kept; null keeps it beside them, which takes the right to write.",
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(description="Side of the square views, in pixels.")
    lanes: Count | None = Field(
        default=None,
        description="Virtual lanes the sample order is cut into, fixed for a run; null takes method.groups.",
    )
    shuffle_shards: Count = Field(default=4, description="Shards per block within which a lane is shuffled.")
    bad_pictures: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.001,
        description="Largest part of the pictures that may be damaged; others stand in for them. More end the run.",
    )


class EncoderSpec(Section):
    """The network that is trained and registered."""

    name: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"] = Field(description="Architecture.")
    stem: Literal["imagenet", "cifar"] = Field(
        default="imagenet",
        description="First layers: 7×7 stride 2 with max-pool, or 3×3 stride 1 without, for small pictures.",
    )
    width: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = Field(
        default=64, description="Channels of the first stage."
    )


class GlobalRelationSpec(Section):
    """The global distribution relation: the query follows the weak view's similarities to the queue."""

    weight: NotNegative = Field(default=1.0, description="Weight of the term in the loss; 0 leaves it out, at no cost.")
    student_temperature: Positive = Field(
        default=0.1, description="Temperature of the query's distribution over the weak queue."
    )
    teacher_temperature: Positive = Field(
        default=0.04, description="Temperature of the weak key's distribution over the weak queue."
    )


class LocalRelationSpec(Section):
    """The local interpolation relation: a mixed picture lies between the features of its parts."""

    weight: NotNegative = Field(default=1.0, description="Weight of the term in the loss; 0 leaves it out, at no cost.")
    mix: Literal["cutmix", "mixup"] = Field(default="cutmix", description="How two pictures are mixed.")
    alpha: Positive = Field(
        default=1.0, description="Both parameters of the Beta distribution the mixing ratio is drawn from."
    )


class MethodSpec(Section):
    """ReCo; with both relation weights at 0 it is MoCo v2."""

    projection_dim: Count = Field(default=128, description="Length of the features that are compared.")
    queue_size: Count = Field(default=65536, description="Past keys kept as negatives; at most half the data set.")
    momentum: Decay = Field(default=0.999, description="Momentum of the key encoder's moving average.")
    temperature: Positive = Field(default=0.2, description="Temperature of the contrastive terms.")
    groups: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=8,
        description="Virtual devices, each with its own batch statistics, permutation and mixing ratio.",
    )
    global_relation: GlobalRelationSpec = Field(
        default_factory=GlobalRelationSpec, description="The global distribution relation."
    )
    local_relation: LocalRelationSpec = Field(
        default_factory=LocalRelationSpec, description="The local interpolation relation."
    )


class ViewsSpec(Section):
    """How a picture is augmented; the weak view uses the crop and the flip only."""

    crop_scale: Annotated[tuple[Area, Area], Field(strict=False)] = Field(
        default=(0.2, 1.0), description="Smallest and largest share of the picture's area that a crop covers."
    )
    flip: Probability = Field(default=0.5, description="Probability of a horizontal flip.")
    jitter: Probability = Field(default=0.8, description="Probability of colour jitter.")
    brightness: NotNegative = Field(default=0.4, description="Strength of the brightness jitter.")
    contrast: NotNegative = Field(default=0.4, description="Strength of the contrast jitter.")
    saturation: NotNegative = Field(default=0.4, description="Strength of the saturation jitter.")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.1, description="Strength of the hue jitter, in turns of the colour wheel."
    )
    greyscale: Probability = Field(default=0.2, description="Probability of greyscale.")
    blur: Probability | None = Field(
        default=None,
        description="Probability of Gaussian blur; null takes 0.5, or 0 where data.image_size is 32 or less.",
    )

    def blur_probability(self, image_size: int) -> float:
        """Return the probability of blur for views of `image_size` pixels, with null resolved."""
        if self.blur is not None:
            return self.blur
        return 0.0 if image_size <= 32 else 0.5


class OptimizerSpec(Section):
    """How the weights are updated."""

    name: Literal["sgd"] = Field(default="sgd", description="Optimizer.")
    lr: Positive = Field(
        default=0.03, description="Learning rate after warm-up, for the whole global batch; it falls by a cosine to 0."
    )
    momentum: Decay = Field(default=0.9, description="Momentum of SGD.")
    weight_decay: NotNegative = Field(default=1e-4, description="Weight decay.")


class TrainSpec(Section):
    """How long and in what portions."""

    epochs: Count = Field(default=200, description="Passes over the training shards.")
    warmup_epochs: Natural = Field(default=5, description="Epochs over which the learning rate rises from 0.")
    global_batch_size: Annotated[int, Field(ge=2)] = Field(
        default=256, description="Pictures per step over all workers together."
    )
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16", description="Number format of the forward and backward passes."
    )
    compile: bool = Field(default=False, description="Compile the encoder with torch.compile.")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        default=0, description="Seed of the order, the views and the weights."
    )
    log_every: Count = Field(default=10, description="Steps between two logged points.")
    probe_every: Count = Field(default=10, description="Epochs between two probes; one is always made at the end.")


class ScaleSpec(Section):
    """What the run is carried out on; changes neither the mathematics nor the hash."""

    workers: Count = Field(default=1, description="Worker processes; must divide method.groups.")
    min_workers: Count | None = Field(
        default=None,
        description="Fewest workers the run goes on with when hosts are lost; null waits until all fit again.",
    )
    gpus_per_worker: Natural = Field(default=1, description="GPUs per worker; 0 trains on the CPU.")
    cpus_per_worker: Count = Field(default=4, description="CPU cores per worker, for training and decoding together.")
    max_restarts: Natural = Field(
        default=3, description="Failures in a row, without a new checkpoint between, before the run gives up."
    )
    stall_minutes: Positive = Field(
        default=30.0,
        description="Minutes without progress after which a worker says where it stands and is started again.",
    )
    cache_folder: Text | None = Field(
        default=None,
        description="Folder on each host's local disk that keeps shards for the epochs to come; null keeps none.",
    )
    cache_gb: Positive = Field(default=100.0, description="Most that is kept there per host, in 10⁹ bytes.")

    @property
    def cache(self) -> tuple[str, int] | None:
        """Folder and most bytes of the cache of shards, or None."""
        return None if self.cache_folder is None else (self.cache_folder, int(self.cache_gb * 1e9))


class CheckpointSpec(Section):
    """When the state of the run is saved."""

    every: Interval = Field(
        default="5m",
        description="How often a checkpoint is written; a time is stretched where saving takes over 1 % of it.",
    )
    keep: Count = Field(default=3, description="Newest checkpoints that are kept.")

    @property
    def seconds(self) -> int | None:
        """Seconds between two checkpoints, or None where the interval is given in steps."""
        if self.every[-1] not in "mh" and self.every.partition(" ")[2]:
            return None
        return int(self.every[:-1]) * {"s": 1, "m": 60, "h": 3600}[self.every[-1]]

    @property
    def steps(self) -> int | None:
        """Steps between two checkpoints, or None where the interval is given as a duration."""
        number, _, unit = self.every.partition(" ")
        return int(number) if unit else None


class RegisterSpec(Section):
    """Under which name the encoder is registered."""

    model: ModelName = Field(description="Registered model that gets a new version when the run has ended well.")


class RunSpec(Section):
    """One pretraining run."""

    name: Name = Field(description="Name of the run, for people; runs of one name can be compared.")
    data: DataSpec = Field(description="Where the pictures are and how they are read.")
    encoder: EncoderSpec = Field(description="The network that is trained and registered.")
    method: MethodSpec = Field(
        default_factory=MethodSpec, description="ReCo; with both relation weights at 0 it is MoCo v2."
    )
    views: ViewsSpec = Field(default_factory=ViewsSpec, description="How a picture is augmented.")
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, description="How the weights are updated.")
    train: TrainSpec = Field(default_factory=TrainSpec, description="How long and in what portions.")
    scale: ScaleSpec = Field(default_factory=ScaleSpec, description="What the run is carried out on.")
    checkpoint: CheckpointSpec = Field(
        default_factory=CheckpointSpec, description="When the state of the run is saved."
    )
    register: RegisterSpec | None = Field(
        default=None, description="Under which name the encoder is registered; null registers nothing."
    )

    @model_validator(mode="after")
    def _keep_the_rules(self) -> RunSpec:
        broken = broken_rules(lambda path: attrgetter(path)(self))
        if broken:
            raise ValueError("; ".join(f"{rule.path}: {message}" for rule, message in broken))
        return self

    @property
    def fewest_workers(self) -> int:
        """Workers below which the run waits rather than go on."""
        return self.scale.workers if self.scale.min_workers is None else self.scale.min_workers

    @property
    def encoder_options(self) -> dict[str, object]:
        """All options that decide which weights there are, by path."""
        return {
            "encoder.name": self.encoder.name,
            "encoder.stem": self.encoder.stem,
            "encoder.width": self.encoder.width,
            "method.projection_dim": self.method.projection_dim,
        }

    def workers_that_fit(self, room: int) -> int:
        """The most workers the run may have where `room` can be placed; 0 where it must wait."""
        counts = range(self.fewest_workers, min(self.scale.workers, room) + 1)
        return max((count for count in counts if self.method.groups % count == 0), default=0)

    @property
    def lanes(self) -> int:
        """Virtual lanes of the sample order, with null resolved to the number of groups."""
        return self.method.groups if self.data.lanes is None else self.data.lanes

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of what makes the experiment: two specs of one hash train the same thing.

        Name, scale, checkpoint and register are left out; null options enter as the value they stand for.
        """
        content = self.model_dump(mode="json", exclude=OUTSIDE_THE_HASH)
        content["data"]["lanes"] = self.lanes
        content["views"]["blur"] = self.views.blur_probability(self.data.image_size)
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
