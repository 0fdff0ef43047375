"""ReCo's two loss functions (arXiv 2211.01796, sections 3.2 to 3.4) on features that are already L2-normalised.

Legend for the letters in shapes and einsums: n batch, k queue, c feature.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Contrast(NamedTuple):
    """A contrastive loss with the similarities it was made of, for diagnostics.

    Attributes:
        loss: Mean loss, scalar.
        similarity_positive: Cosine of query i and its own positive, shape (n,).
        similarity_negative: Cosine of query i and queue row j, shape (n, k).
    """

    loss: Tensor
    similarity_positive: Tensor
    similarity_negative: Tensor


class Alignment(NamedTuple):
    """A distribution-alignment loss with the entropy that is its floor.

    Attributes:
        loss: Mean cross entropy of student and teacher, scalar.
        teacher_entropy: Mean entropy of the teacher, scalar; `loss - teacher_entropy` is a KL divergence, at least 0.
    """

    loss: Tensor
    teacher_entropy: Tensor


def info_nce(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE with one positive per query and shared negatives (equation 1; van den Oord et al., 2018).

    Args:
        query: Shape (n, c), unit rows.
        positive: Shape (n, c), unit rows; row i is the positive of query i.
        negatives: Shape (k, c), unit rows, shared by all queries.
        temperature: Divides every similarity; above 0.

    Returns:
        The mean loss over the batch, a float32 scalar.

    Raises:
        ValueError: If shapes do not fit or the temperature is not positive.
    """
    return contrast(query, positive, negatives, temperature).loss


def contrast(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Contrast:
    """`info_nce`, keeping the similarities. Arguments and errors as there."""
    _check(query, positive, negatives, temperature)
    with torch.autocast(query.device.type, enabled=False):
        query, positive, negatives = query.float(), positive.float(), negatives.float()
        similarity_positive = torch.einsum("nc,nc->n", query, positive)
        similarity_negative = torch.einsum("nc,kc->nk", query, negatives)
        # logaddexp joins the positive to the partition sum: concatenating it would copy the whole n x k matrix.
        log_negatives = torch.logsumexp(similarity_negative / temperature, dim=1)
        logit_positive = similarity_positive / temperature
        loss = (torch.logaddexp(logit_positive, log_negatives) - logit_positive).mean()
    return Contrast(loss, similarity_positive, similarity_negative)


def distribution_alignment(
    student: Tensor, teacher: Tensor, negatives: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Cross entropy between the teacher's and the student's similarity distributions over the queue (equation 3).

    One direction, over negatives only; the teacher carries no gradient.

    Args:
        student: Query features, shape (n, c), unit rows.
        teacher: Key features of the weak view, shape (n, c), unit rows.
        negatives: The weak queue, shape (k, c), unit rows, the same on both sides.
        student_temperature: Temperature of the student's distribution; above 0.
        teacher_temperature: Temperature of the teacher's distribution; above 0.

    Returns:
        The mean cross entropy over the batch, a float32 scalar.

    Raises:
        ValueError: If shapes do not fit or a temperature is not positive.
    """
    return alignment(student, teacher, negatives, student_temperature, teacher_temperature).loss


def alignment(
    student: Tensor, teacher: Tensor, negatives: Tensor, student_temperature: float, teacher_temperature: float
) -> Alignment:
    """`distribution_alignment`, keeping the teacher's entropy. Arguments and errors as there."""
    _check(student, teacher, negatives, student_temperature)
    _check(student, teacher, negatives, teacher_temperature)
    with torch.autocast(student.device.type, enabled=False):
        student, negatives = student.float(), negatives.float()
        with torch.no_grad():
            log_teacher = torch.log_softmax(
                torch.einsum("nc,kc->nk", teacher.float(), negatives) / teacher_temperature, dim=1
            )
            probability_teacher = log_teacher.exp()
            teacher_entropy = -torch.einsum("nk,nk->n", probability_teacher, log_teacher).mean()
        logits_student = torch.einsum("nc,kc->nk", student, negatives) / student_temperature
        # -sum p log softmax(s) = logsumexp(s) - sum p s, because p sums to 1: saves one n x k matrix.
        expected = torch.einsum("nk,nk->n", probability_teacher, logits_student)
        loss = (torch.logsumexp(logits_student, dim=1) - expected).mean()
    return Alignment(loss, teacher_entropy)


def _check(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> None:
    if query.ndim != 2 or query.shape != key.shape:
        raise ValueError(f"features must be two equal (n, c) matrices, got {tuple(query.shape)} and {tuple(key.shape)}")
    if negatives.ndim != 2 or negatives.shape[1] != query.shape[1]:
        raise ValueError(f"negatives must be (k, {query.shape[1]}), got {tuple(negatives.shape)}")
    if temperature <= 0:
        raise ValueError(f"a temperature must be above 0, got {temperature}")
