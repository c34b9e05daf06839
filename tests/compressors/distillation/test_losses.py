"""The teacher's loss has the gradient that the paper derives, on the axis where the classes are."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.distillation.losses import ignored, scores_classes, softened, teacher_loss
from paretopress.spaces.task import Loss


def _gradient(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    student = student.clone().requires_grad_()
    softened(student, teacher, temperature).backward()
    assert student.grad is not None
    return student.grad


def _scores(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_at_high_temperature_the_gradient_is_the_difference_of_the_scores() -> None:
    """With centred scores it tends to (z_s - z_t) / N (Hinton et al., 2015, eq. 4)."""
    student, teacher = _scores(1, 10, seed=1), _scores(1, 10, seed=2)
    student, teacher = student - student.mean(), teacher - teacher.mean()
    torch.testing.assert_close(_gradient(student, teacher, 1e4), (student - teacher) / 10, rtol=1e-3, atol=1e-6)


def test_the_factor_keeps_the_gradient_of_one_size() -> None:
    """Without T² a temperature of 100 would give a gradient 25 times smaller than one of 20."""
    student, teacher = _scores(4, 10, seed=1), _scores(4, 10, seed=2)
    norms = [float(_gradient(student, teacher, t).norm()) for t in (20.0, 100.0)]
    assert norms[0] / norms[1] == pytest.approx(1.0, abs=0.1)


def test_temperature_one_is_the_plain_divergence() -> None:
    """Then it is KL(teacher || student), which is 0 only where both agree."""
    student, teacher = _scores(6, 5, seed=1), _scores(6, 5, seed=2)
    p, q = teacher.softmax(-1), student.softmax(-1)
    torch.testing.assert_close(softened(student, teacher, 1.0), (p * (p / q).log()).sum(-1).mean())
    assert float(softened(teacher, teacher, 3.0)) == pytest.approx(0.0, abs=1e-12)


def test_an_offset_of_the_scores_makes_no_difference() -> None:
    """Softmax ignores a constant added to all classes, and so must the loss."""
    student, teacher = _scores(6, 5, seed=1), _scores(6, 5, seed=2)
    torch.testing.assert_close(softened(student + 7.0, teacher - 3.0, 2.0), softened(student, teacher, 2.0))


def test_classes_are_on_dimension_one_when_there_are_more_than_two() -> None:
    """Dense predictions (batch, classes, height, width) weigh as much as the same rows listed one by one."""
    student, teacher = _scores(2, 5, 3, 4, seed=1), _scores(2, 5, 3, 4, seed=2)
    rows = [t.movedim(1, -1).reshape(-1, 5) for t in (student, teacher)]
    torch.testing.assert_close(softened(student, teacher, 2.0), softened(rows[0], rows[1], 2.0))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (F.cross_entropy, True),
        (functools.partial(F.cross_entropy, label_smoothing=0.1), True),
        (nn.CrossEntropyLoss(), True),
        (F.mse_loss, False),
        (nn.BCEWithLogitsLoss(), False),
        (functools.partial(F.mse_loss, reduction="sum"), False),
    ],
)
def test_only_cross_entropy_means_class_scores(loss: Loss, expected: bool) -> None:
    """A softmax over the outputs of a regression network would be nonsense."""
    assert scores_classes(loss) is expected


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (F.cross_entropy, -100),
        (nn.CrossEntropyLoss(), -100),
        (nn.CrossEntropyLoss(ignore_index=7), 7),
        (functools.partial(F.cross_entropy, ignore_index=0), 0),
        (functools.partial(F.cross_entropy, label_smoothing=0.1), -100),
    ],
)
def test_the_class_that_is_left_out_is_the_losss_own(loss: Loss, expected: int) -> None:
    """Padding has another number in every data set."""
    assert ignored(loss) == expected


def test_without_a_softmax_the_outputs_are_matched() -> None:
    """A network with any other loss learns the teacher's outputs by mean squared error."""
    student, teacher = _scores(6, 5, seed=1), _scores(6, 5, seed=2)
    torch.testing.assert_close(teacher_loss(student, teacher, 4.0, F.mse_loss), (student - teacher).square().mean())
    assert not math.isclose(
        float(teacher_loss(student, teacher, 4.0, F.cross_entropy)),
        float((student - teacher).square().mean()),
    )
