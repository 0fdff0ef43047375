"""What learns: the method, its optimizer and its views on one rank, and one step of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jobs.checkpoints.fork import Encoders
from jobs.reco import ReCo, ReCoConfig, StepOutput, StepViews
from jobs.training.ranks import Ranks
from jobs.training.timing import Phase
from jobs.views import Pictures, Views
from jobs.views.parameters import Integers


class Learner:
    """One rank's model, ready to take steps.

    On a GPU views are made on a stream of their own: Python is ahead of the device, so those of the next step are made
    while this one is still being computed, and fill what it leaves idle.

    Args:
        config: The method.
        views: Makes the views.
        ranks: This process among those that train together.
        momentum: Of SGD.
        weight_decay: Of SGD.
        bf16: Whether encoders compute in bfloat16 under autocast, rather than in float32.
        compiled: Whether encoders are compiled.
    """

    # What changes while it learns
    model: ReCo
    optimizer: torch.optim.SGD
    # How it computes
    ranks: Ranks
    views: Views
    bf16: bool

    def __init__(
        self,
        config: ReCoConfig,
        views: Views,
        *,
        ranks: Ranks,
        momentum: float,
        weight_decay: float,
        bf16: bool,
        compiled: bool = False,
    ) -> None:
        self.views, self.ranks, self.bf16 = views, ranks, bf16
        model = ReCo(config, rank=ranks.rank, world_size=ranks.world_size)
        self.model = model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            for branch in (self.model.query_encoder, self.model.key_encoder):
                branch.backbone.compile()
        self._wrapped: nn.Module = self.model
        if ranks.world_size > 1:
            # Statistics are averaged where they are used, never broadcast: each rank's groups have their own.
            self._wrapped = DistributedDataParallel(self.model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = torch.optim.SGD(
            self.model.query_encoder.parameters(), momentum=momentum, weight_decay=weight_decay, fused=True
        )
        self._side = torch.cuda.Stream(ranks.device) if ranks.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def learn(
        self,
        pictures: Pictures,
        *,
        epoch: int,
        sample_ids: Integers,
        step: int,
        learning_rate: float,
        passed: Callable[[Phase], None],
    ) -> StepOutput:
        """Take one step of the method.

        Args:
            pictures: This rank's n pictures, on its device; a copy that brought them there has ended.
            epoch: Number of the epoch.
            sample_ids: int64 [n].
            step: Global step from 0.
            learning_rate: Of this step.
            passed: Called at the end of each phase.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        passed("wait")
        views = self._make_views(pictures, epoch, sample_ids)
        passed("views")
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.bf16):
            output: StepOutput = self._wrapped(views, step=step)
        passed("forward")
        self.optimizer.zero_grad()
        output.loss.backward()  # type: ignore[no-untyped-call]
        passed("backward")
        self.model.enqueue(output)
        self.optimizer.step()
        self.model.update_key_encoder()
        passed("update")
        return output

    def state(self) -> dict[str, Any]:
        """Everything that changes while it learns."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def begin_with(self, encoders: Encoders) -> None:
        """Take up the encoders of another run; queues and optimizer stay new."""
        self.model.query_encoder.load_state_dict(encoders["query"])
        self.model.key_encoder.load_state_dict(encoders["key"])

    @torch.no_grad()
    def _make_views(self, pictures: Pictures, epoch: int, sample_ids: Integers) -> StepViews:
        if self._side is None:
            return self._views_of(pictures, epoch, sample_ids)
        here = torch.cuda.current_stream(self.ranks.device)
        with torch.cuda.stream(self._side):
            views = self._views_of(pictures, epoch, sample_ids)
        here.wait_stream(self._side)
        # Memory goes back to the stream it was taken on, which knows nothing of its use on the other.
        pictures.pixels.record_stream(self._side)
        for view in (views.query, views.key, views.weak):
            if view is not None:
                view.record_stream(here)
        return views

    def _views_of(self, pictures: Pictures, epoch: int, sample_ids: Integers) -> StepViews:
        query, key = self.views.strong(pictures, epoch=epoch, sample_ids=sample_ids, views=(0, 1))
        weak = None
        if self.model.config.global_weight > 0:  # made only where it is used
            weak = self.views.weak(pictures, epoch=epoch, sample_ids=sample_ids, view=2)
        return StepViews(query, key, weak)
