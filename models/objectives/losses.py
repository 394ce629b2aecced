"""Losses as pure functions; each is a mean, so that its scale does not depend on the batch size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def similarities(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    """Inner products of each query with its key, then with every negative.

    Args:
        query, key: (N, D), rows of norm 1.
        negatives: (K, D), rows of norm 1.

    Returns:
        (N, 1+K), the positive first.
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    return torch.cat((positive, query @ negatives.T), dim=1)


def info_nce(similarity: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al., 2018): cross entropy of picking the positive of `similarities`, (N, 1+K) -> ()."""
    positive = torch.zeros(similarity.shape[0], dtype=torch.int64, device=similarity.device)
    return F.cross_entropy(similarity / temperature, positive)


def distillation(student: Tensor, teacher: Tensor, student_temperature: float, teacher_temperature: float) -> Tensor:
    """Relational distillation of CMD and PCM3: KL(softmax(teacher / Tt) || softmax(student / Ts)), batch mean.

    Args:
        student, teacher: (N, K), inner products of query and of key with the same negatives; the teacher gets no
            gradient.

    Returns:
        A scalar, at least 0.
    """
    student = F.log_softmax(student / student_temperature, dim=1)
    teacher = F.log_softmax(teacher.detach() / teacher_temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def masked_mse(prediction: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Mean squared error over the masked entries alone; 0 where nothing is masked.

    Args:
        prediction, target: (N, T, D).
        visible: bool, broadcastable to them; True entries do not count.
    """
    masked = ~visible.expand_as(target)
    squared = torch.where(masked, prediction - target, 0.0).square().sum()
    return squared / masked.sum().clamp(min=1)
