"""One step of ReCo written plainly, as published code for MoCo and its kin is: what `benchmarks.step` compares with.

The mathematics is that of `jobs.reco` on one device with one group; the network is the same. Every pass is one of its
own, keys are shuffled by indexing the whole batch, logits are concatenated with the positive first and given to
`cross_entropy` with label 0, each loss clones its queue, and the moving average walks over the tensors. Everything is
float32 in the usual channels-first memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.reco import ReCoConfig, StepViews
from jobs.reco.draws import group_mix, key_permutation
from jobs.reco.interpolation import cutmix_box
from jobs.reco.model import Branch
from jobs.reco.normalisation import set_groups


class PlainReCo(nn.Module):
    """Both encoders and both queues, with `forward` as in MoCo: the moving average first, the queues last.

    Args:
        config: The method; its groups are taken as 1.
    """

    strong_queue: Tensor
    weak_queue: Tensor

    def __init__(self, config: ReCoConfig) -> None:
        super().__init__()
        self.config = config
        self.query_encoder = Branch(config)
        self.key_encoder = Branch(config)
        set_groups(self, 1)
        for query, key in zip(self.query_encoder.parameters(), self.key_encoder.parameters(), strict=True):
            key.data.copy_(query.data)
            key.requires_grad = False
        self.pointer = 0
        for name in ("strong_queue", "weak_queue"):  # one column a key, as MoCo keeps them
            self.register_buffer(name, F.normalize(torch.randn(config.projection_dim, config.queue_size), dim=0))

    def forward(self, views: StepViews, *, step: int) -> Tensor:
        """The loss of one step, a scalar; the queues are filled before it returns.

        Args:
            views: All pictures of the step, each (n, 3, h, w); n divides the length of the queue.
            step: Global step from 0; the permutations, λ and the box are those that `jobs.reco` draws for it.
        """
        config = self.config
        query = self.query_encoder(views.query)
        with torch.no_grad():
            self._momentum_update()
            key = self._shuffled_keys(views.key, step)
        loss = self._contrast(query, key)

        weak_key = None
        if config.global_weight > 0:
            assert views.weak is not None
            with torch.no_grad():
                weak_key = self._shuffled_keys(views.weak, step)
            queue = self.weak_queue.clone().detach()
            student = torch.einsum("nc,ck->nk", query, queue) / config.student_temperature
            with torch.no_grad():
                teacher = torch.einsum("nc,ck->nk", weak_key, queue) / config.teacher_temperature
                target = F.softmax(teacher, dim=1)
            loss = loss - config.global_weight * (target * F.log_softmax(student, dim=1)).sum(dim=1).mean()

        if config.local_weight > 0:
            mixed, permutation, ratio = self._mix(views, step)
            local = self.query_encoder(mixed)
            with torch.no_grad():
                mixed_key = F.normalize(ratio * query.detach() + (1.0 - ratio) * key[permutation], dim=1)
            loss = loss + config.local_weight * self._contrast(local, mixed_key)

        self._dequeue_and_enqueue(key, weak_key)
        return loss

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        positive = torch.einsum("nc,nc->n", query, key).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", query, self.strong_queue.clone().detach())
        logits = torch.cat([positive, negative], dim=1)
        logits /= self.config.temperature
        labels = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def _momentum_update(self) -> None:
        momentum = self.config.momentum
        for query, key in zip(self.query_encoder.parameters(), self.key_encoder.parameters(), strict=True):
            key.data = key.data * momentum + query.data * (1.0 - momentum)

    @torch.no_grad()
    def _shuffled_keys(self, pictures: Tensor, step: int) -> Tensor:
        shuffle = key_permutation(seed=self.config.seed, step=step, size=len(pictures)).to(pictures.device)
        unshuffle = torch.argsort(shuffle)
        keys: Tensor = self.key_encoder(pictures[shuffle])
        return keys[unshuffle]

    @torch.no_grad()
    def _mix(self, views: StepViews, step: int) -> tuple[Tensor, Tensor, float]:
        config = self.config
        height, width = views.query.shape[2:]
        draw = group_mix(seed=config.seed, step=step, group=0, size=len(views.query), alpha=config.alpha)
        permutation = draw.permutation.to(views.query.device)
        if config.mix == "mixup":
            return draw.mix * views.query + (1.0 - draw.mix) * views.key[permutation], permutation, draw.mix
        top, left, bottom, right = cutmix_box(draw.mix, draw.centre, height, width)
        mixed = views.query.clone()
        mixed[:, :, top:bottom, left:right] = views.key[permutation][:, :, top:bottom, left:right]
        return mixed, permutation, 1.0 - (bottom - top) * (right - left) / (height * width)

    @torch.no_grad()
    def _dequeue_and_enqueue(self, key: Tensor, weak_key: Tensor | None) -> None:
        assert self.config.queue_size % len(key) == 0
        columns = slice(self.pointer, self.pointer + len(key))
        self.strong_queue[:, columns] = key.T
        if weak_key is not None:
            self.weak_queue[:, columns] = weak_key.T
        self.pointer = (self.pointer + len(key)) % self.config.queue_size
