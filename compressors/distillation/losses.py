"""What a student learns from its teacher: softened class probabilities, or the outputs as they are."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...spaces.metric import IGNORED
from ...spaces.task import Loss


def scores_classes(loss: Loss) -> bool:
    """Whether a task's loss is cross-entropy over class scores, so that a softmax of them is meant.

    True for `torch.nn.functional.cross_entropy` or a `functools.partial` of it, and
    for `torch.nn.CrossEntropyLoss`.
    """
    function: Any = getattr(loss, "func", loss)
    return function is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)


def ignored(loss: Loss) -> int:
    """Return the class that a cross-entropy leaves out where it is the target."""
    given: Any = getattr(loss, "keywords", {})
    return int(given.get("ignore_index", getattr(loss, "ignore_index", IGNORED)))


def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² times the Kullback-Leibler divergence of softened class scores (Hinton et al., 2015, §2).

    Parameters
    ----------
    student, teacher
        Class scores before the softmax, shape (batch, classes) or (batch, classes, d1, ...) as
        `torch.nn.functional.cross_entropy` takes them.
    temperature
        Divides the scores. Gradients of the softened term shrink as 1/T²; the factor T² undoes that, so its
        weight against the task's loss keeps its meaning when T changes.

    Returns
    -------
    Tensor
        Scalar, in nats, averaged over batch and positions.
    """
    axis = 1 if student.ndim > 2 else -1
    log_student = F.log_softmax(student / temperature, axis)
    log_teacher = F.log_softmax(teacher / temperature, axis)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(axis)
    return divergence.mean() * temperature**2


def teacher_loss(student: Tensor, teacher: Tensor, temperature: float, loss: Loss) -> Tensor:
    """Return how far the student's outputs are from the teacher's, as a scalar.

    Softened class probabilities where the task's loss is cross-entropy; otherwise the mean squared difference
    of the outputs, which needs no softmax and so distils a network of any kind.
    """
    if scores_classes(loss):
        return softened(student, teacher, temperature)
    return F.mse_loss(student, teacher)
