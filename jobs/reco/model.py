"""ReCo: query encoder, EMA key encoder, both queues, and one step of the method (arXiv 2211.01796)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.reco.diagnostics import diagnose
from jobs.reco.draws import group_mix, key_permutation
from jobs.reco.encoders import Stem, build_encoder
from jobs.reco.interpolation import cutmix, cutmix_box, interpolation_target, mixup
from jobs.reco.losses import alignment, contrast
from jobs.reco.normalisation import set_groups
from jobs.reco.shuffle import KeyShuffle


@dataclass(frozen=True, kw_only=True)
class ReCoConfig:
    """What defines the method; the fields are those of a run's `encoder` and `method` sections.

    With `global_weight` and `local_weight` both 0 it is MoCo v2, and what is switched off is not computed.
    """

    encoder: str = "resnet50"
    stem: Stem = "imagenet"
    width: int = 64
    projection_dim: int = 128
    queue_size: int = 65536
    momentum: float = 0.999
    temperature: float = 0.2
    groups: int = 8
    global_weight: float = 1.0
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    local_weight: float = 1.0
    mix: Literal["cutmix", "mixup"] = "cutmix"
    alpha: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class StepViews:
    """The views of one rank's share of a step, each (n, 3, h, w).

    Attributes:
        query: Strong view x_q.
        key: Another strong view x_k.
        weak: Weak view x_w; None where the global relation has no weight.
    """

    query: Tensor
    key: Tensor
    weak: Tensor | None


@dataclass(frozen=True)
class StepOutput:
    """What a step computed.

    Attributes:
        loss: The weighted sum, scalar, with gradient.
        terms: Each term and diagnostic as a detached scalar, averaged over this rank's pictures.
        keys: Strong keys of the whole global batch, shape (N, c), for the strong queue.
        weak_keys: Weak keys of the whole global batch, or None.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    keys: Tensor
    weak_keys: Tensor | None


class Branch(nn.Module):
    """A backbone and its projection head: a two-layer MLP without batch norm."""

    def __init__(self, config: ReCoConfig) -> None:
        super().__init__()
        self.backbone = build_encoder(config.encoder, stem=config.stem, width=config.width)
        features = self.backbone.feature_dim
        self.head = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, config.projection_dim)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, 3, h, w) to unit rows (n, projection_dim), float32."""
        projected: Tensor = self.head(self.backbone(pictures))
        return F.normalize(projected.float(), dim=1)


class ReCo(nn.Module):
    """Both encoders and both queues; `forward` is one step, up to the loss.

    A training step is: `output = model(views, step=step)`, `output.loss.backward()`, `model.enqueue(output)`, the
    optimizer's step, `model.update_key_encoder()`. The queues are filled after the backward pass, which still reads
    them: so no step copies them, and no key is among its own query's negatives.

    Args:
        config: The method.
        rank: This rank; the model takes part in collectives when `world_size` is above 1.
        world_size: Number of ranks; divides `config.groups`.

    Raises:
        ValueError: If the groups cannot be divided over the ranks.
    """

    strong_queue: Tensor
    weak_queue: Tensor
    queue_pointer: Tensor

    def __init__(self, config: ReCoConfig, *, rank: int = 0, world_size: int = 1) -> None:
        super().__init__()
        if config.groups % world_size:
            raise ValueError(f"{config.groups} groups cannot be divided over {world_size} ranks")
        self.config = config
        self.rank = rank
        self.world_size = world_size
        self.local_groups = config.groups // world_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.query_encoder = Branch(config)
            self.key_encoder = Branch(config)
            rows = (config.queue_size, config.projection_dim)
            self.register_buffer("strong_queue", F.normalize(torch.randn(rows), dim=1))
            weak_rows = rows if config.global_weight > 0 else (0, config.projection_dim)
            self.register_buffer("weak_queue", F.normalize(torch.randn(weak_rows), dim=1))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.int64))
        self.key_encoder.load_state_dict(self.query_encoder.state_dict())
        self.key_encoder.requires_grad_(False)
        set_groups(self, self.local_groups)

    def forward(self, views: StepViews, *, step: int) -> StepOutput:
        """Compute the loss of one step.

        Args:
            views: This rank's views; rank r holds the groups r·V/W to (r+1)·V/W − 1, one after the other.
            step: Global step from 0; every random choice is a function of it.

        Raises:
            ValueError: If the global relation has weight and no weak view is given.
        """
        config = self.config
        query = self.query_encoder(views.query)
        keys, weak_keys = self._keys(views, step)
        mine = slice(self.rank * len(query), (self.rank + 1) * len(query))

        contrasted = contrast(query, keys[mine], self.strong_queue, config.temperature)
        loss = contrasted.loss
        terms = {"contrast": contrasted.loss}
        if weak_keys is not None:
            aligned = alignment(
                query, weak_keys[mine], self.weak_queue, config.student_temperature, config.teacher_temperature
            )
            loss = loss + config.global_weight * aligned.loss
            terms["global_relation"] = aligned.loss
            terms["global_relation_kl"] = aligned.loss - aligned.teacher_entropy
        if config.local_weight > 0:
            mixed, permutation, ratio = self._mix(views, step)
            target = interpolation_target(query, keys[mine], permutation, ratio)
            local = contrast(self.query_encoder(mixed), target, self.strong_queue, config.temperature)
            loss = loss + config.local_weight * local.loss
            terms["local_relation"] = local.loss
        terms["loss"] = loss
        terms["similarity_positive"] = contrasted.similarity_positive.mean()
        terms["similarity_negative"] = contrasted.similarity_negative.mean()
        terms |= diagnose(views.query, query, keys[mine], self.strong_queue, config.temperature)
        return StepOutput(loss, {name: value.detach() for name, value in terms.items()}, keys, weak_keys)

    @torch.no_grad()
    def enqueue(self, output: StepOutput) -> None:
        """Write a step's keys over the oldest rows of the queues, wrapping at the end; call it after `backward`.

        Raises:
            ValueError: If a batch does not fit into the queue.
        """
        if len(output.keys) > self.config.queue_size:
            raise ValueError(f"{len(output.keys)} keys do not fit into a queue of {self.config.queue_size}")
        rows = (torch.arange(len(output.keys), device=output.keys.device) + self.queue_pointer) % self.config.queue_size
        self.strong_queue[rows] = output.keys
        if output.weak_keys is not None:
            self.weak_queue[rows] = output.weak_keys
        self.queue_pointer.add_(len(output.keys)).remainder_(self.config.queue_size)

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """Move the key encoder's parameters a little towards the query encoder's; call it after the optimizer's step.

        Parameters only: the batch statistics of the key encoder are its own. One foreach call, because a loop over
        the tensors costs ten times as much.
        """
        torch._foreach_lerp_(
            list(self.key_encoder.parameters()), list(self.query_encoder.parameters()), 1.0 - self.config.momentum
        )

    @torch.no_grad()
    def _keys(self, views: StepViews, step: int) -> tuple[Tensor, Tensor | None]:
        size = len(views.key) * self.world_size
        shuffle = KeyShuffle(
            key_permutation(seed=self.config.seed, step=step, size=size), rank=self.rank, world_size=self.world_size
        )
        if self.config.global_weight <= 0:
            return shuffle.collect(self.key_encoder(_channels_last(shuffle.deal(_as_computed(views.key))))), None
        if views.weak is None:
            raise ValueError("the global relation has weight, but there is no weak view")
        both = torch.stack((_as_computed(views.key), _as_computed(views.weak)), dim=1)
        dealt = shuffle.deal(both)  # in one exchange
        features = [self.key_encoder(_channels_last(dealt[:, view])) for view in (0, 1)]
        keys, weak_keys = shuffle.collect(torch.cat(features, dim=1)).chunk(2, dim=1)
        return keys.contiguous(), weak_keys.contiguous()

    def _mix(self, views: StepViews, step: int) -> tuple[Tensor, Tensor, Tensor]:
        # Each group has its own permutation, λ and box, drawn by the group's number over all ranks.
        size = len(views.query) // self.local_groups
        mixed, permutations, ratios = [], [], []
        for local in range(self.local_groups):
            part = slice(local * size, (local + 1) * size)
            query_view, key_view = views.query[part], views.key[part]
            draw = group_mix(
                seed=self.config.seed,
                step=step,
                group=self.rank * self.local_groups + local,
                size=size,
                alpha=self.config.alpha,
            )
            permutation = draw.permutation.to(query_view.device)
            if self.config.mix == "cutmix":
                box = cutmix_box(draw.mix, draw.centre, query_view.shape[2], query_view.shape[3])
                pictures, ratio = cutmix(query_view, key_view, permutation, box)
            else:
                pictures, ratio = mixup(query_view, key_view, permutation, draw.mix)
            mixed.append(pictures)
            permutations.append(permutation + local * size)
            ratios.append(torch.full((size, 1), ratio, device=query_view.device))
        return _channels_last(torch.cat(mixed)), torch.cat(permutations), torch.cat(ratios)


def _as_computed(pictures: Tensor) -> Tensor:
    """In the type that autocast would convert them to in the first layer: half the bytes to exchange before it."""
    device = pictures.device.type
    return pictures.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else pictures


def _channels_last(pictures: Tensor) -> Tensor:
    return pictures.contiguous(memory_format=torch.channels_last)
