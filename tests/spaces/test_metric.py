"""Metrics: accuracy that can't silently broadcast, functions, and torchmetrics objects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn

from paretopress.spaces.errors import DataError, SettingError
from paretopress.spaces.metric import ACCURACY, Metric
from paretopress.spaces.task import Task


def test_accuracy_is_the_share_of_correct_predictions() -> None:
    """Top-1 accuracy of four predictions, three of them right."""
    outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, -1.0], [0.0, 3.0]])
    assert ACCURACY(outputs, torch.tensor([0, 1, 1, 1])) == 0.75


def test_accuracy_of_dense_predictions_has_classes_on_dimension_one() -> None:
    """Segmentation outputs (batch, classes, height, width) are compared pixel by pixel, as in cross-entropy."""
    outputs = torch.zeros(2, 3, 4, 5)
    outputs[:, 2] = 1
    targets = torch.full((2, 4, 5), 2)
    targets[0, 0, 0] = 1
    assert ACCURACY(outputs, targets) == pytest.approx(39 / 40)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((4,), (4,)), ((4, 1), (4,)), ((4, 4), (4, 4)), ((4, 3, 2), (4, 3)), ((4, 3), (3,)), ((), ())],
)
def test_accuracy_refuses_shapes_that_would_broadcast(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    """Regression outputs, one-column outputs and one-hot targets are errors, not numbers without a meaning."""
    with pytest.raises(ValueError, match=r"accuracy needs outputs \(batch, classes"):
        ACCURACY(torch.zeros(outputs), torch.zeros(targets))


@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5), torch.tensor([0.5]), 1])
def test_function_may_return_any_scalar(value: Any) -> None:
    """Numbers and one-element tensors all become a float."""
    result = Metric("m", lambda outputs, targets: value)(torch.zeros(1), torch.zeros(1))
    assert isinstance(result, float)
    assert result == float(value)


def test_torchmetrics_object_forgets_what_it_saw_before() -> None:
    """A metric object is reset before each split, so that one model's batches don't count for the next."""
    metric = Metric("accuracy5", torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro"))
    assert metric.streams
    right, wrong = torch.eye(3), torch.eye(3).flip(0)
    target = torch.tensor([0, 1, 2])
    assert metric(wrong, target) == pytest.approx(1 / 3)
    assert metric(right, target) == 1.0


def test_plain_function_does_not_stream() -> None:
    """A function over a whole split isn't taken for an object with update, compute and reset."""
    assert not ACCURACY.streams


def test_unknown_direction_is_refused() -> None:
    """A misspelt direction would turn the search around: it is refused."""
    with pytest.raises(SettingError, match="direction = 'max'.*'maximize' or 'minimize'"):
        Metric("m", lambda o, t: 0.0, "max")  # type: ignore[arg-type]  # the wrong value is what is tested


def test_object_that_is_no_metric_is_refused() -> None:
    """Something that can't be called or streamed is refused when the metric is made."""
    with pytest.raises(SettingError, match=r"metric 'm' = 3.*function.*update, compute and reset"):
        Metric("m", 3)  # type: ignore[arg-type]  # the wrong type is what is tested


def test_a_metric_that_fails_on_batches_of_any_length_is_one_message() -> None:
    """Batches that don't fit together are no reason for a traceback."""
    batches = [(torch.zeros(4, n, 3), torch.zeros(4, n, 2)) for n in (5, 9)]
    metric = Metric("mine", lambda output, target: float(output @ target))
    with pytest.raises(DataError, match=r"metric 'mine' fails on output \(4, 5, 2\)"):
        Task(nn.Linear(3, 2), batches, loss=nn.functional.mse_loss, metric=metric)
