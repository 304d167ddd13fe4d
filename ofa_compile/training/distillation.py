"""Losses of supernet training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soft_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Return the mean cross entropy against target probabilities, both of shape (n, classes)."""
    return -(probabilities * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()


def student_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    *,
    ratio: float,
    label_smoothing: float,
) -> Tensor:
    """Mix the loss against the teacher with the loss against the labels.

    Parameters
    ----------
    logits
        The student's, of shape (n, classes).
    labels
        Class indices of shape (n,).
    teacher_logits
        The teacher's, of shape (n, classes); None distils nothing.
    ratio
        Share of the teacher's loss.
    label_smoothing
        Of the loss against the labels.

    Returns
    -------
    Scalar loss.
    """
    hard = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if teacher_logits is None or ratio == 0.0:
        return hard
    soft = soft_cross_entropy(logits, torch.softmax(teacher_logits.detach(), dim=1))
    return ratio * soft + (1.0 - ratio) * hard
