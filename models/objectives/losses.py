"""Losses as pure functions; each is a mean, so that its scale does not depend on the batch size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.collectives import sum_over_ranks, world_size


def similarities(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    """Inner products of each query with its key, then with every negative.

    Args:
        query, key: (..., D), rows of norm 1.
        negatives: (K, D), rows of norm 1.

    Returns:
        (..., 1+K), the positive first.
    """
    positive = (query * key).sum(dim=-1, keepdim=True)
    return torch.cat((positive, query @ negatives.T), dim=-1)


def info_nce(similarity: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al., 2018): cross entropy of picking the positive of `similarities`.

    Args:
        similarity: (..., N, 1+K).

    Returns:
        (...), the means over the N samples.
    """
    return -F.log_softmax(similarity / temperature, dim=-1)[..., 0].mean(-1)


def distillation(
    student: Tensor, teacher: Tensor, student_temperature: float, teacher_temperature: float, top_k: int | None = None
) -> Tensor:
    """Relational distillation of CMD and PCM3: KL(softmax(teacher / Tt) || softmax(student / Ts)).

    Args:
        student, teacher: (..., N, K), inner products of query and of key with the same negatives; the teacher gets no
            gradient.
        top_k: compare over the negatives nearest to each key alone (maoyunyao/CMD: half of them); None is all.

    Returns:
        (...), at least 0: the means over the N samples.
    """
    teacher = teacher.detach()
    if top_k is not None:
        teacher, nearest = teacher.topk(top_k, dim=-1, sorted=False)
        student = student.gather(-1, nearest)
    student = F.log_softmax(student / student_temperature, dim=-1)
    teacher = F.log_softmax(teacher / teacher_temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1).mean(-1)


def masked_mse(prediction: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Mean squared error over the masked entries alone; 0 where nothing is masked.

    In a distributed run it divides by the masked entries of a rank in the mean, so that the mean of the ranks' values
    is that of the global batch although samples may hide unequal numbers of entries.

    Args:
        prediction, target: (N, T, D).
        visible: bool, broadcastable to them; True entries do not count.
    """
    masked = ~visible.expand_as(target)
    squared = torch.where(masked, prediction - target, 0.0).square().sum()
    count = sum_over_ranks(masked.sum()).to(squared.dtype) / world_size()
    return squared / count.clamp(min=1)
