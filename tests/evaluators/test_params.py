"""Number of parameters."""

import torch
from torch import nn

from paretopress.evaluators.base import Subject
from paretopress.evaluators.params import Parameters
from paretopress.spaces.task import Task


def measured(model: nn.Module, size: tuple[int, ...]) -> tuple[float, int]:
    """Return the parameters of a model, and how many aren't zero."""
    task = Task(model, [(torch.randn(4, *size), torch.zeros(4, dtype=torch.long))])
    found = Parameters().measure(Subject(task.model, task, task.validation))
    return found.value, found.detail["nonzero"]


def test_every_weight_and_bias_counts_and_no_statistic() -> None:
    """Batch norm has two parameters a channel; its running statistics are none."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5))
    assert measured(model, (3, 8, 8))[0] == 8 * 27 + 8 + 2 * 8 + 5 * 288 + 5


def test_a_shared_tensor_counts_once() -> None:
    """Tied layers have one weight: counting it twice would hide what sharing saves."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert measured(nn.Sequential(first, second), (4,))[0] == 16 + 4 + 4


def test_masked_weights_are_there_but_zero() -> None:
    """A mask removes no element from the tensor; the detail tells how many still matter."""
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight[:2] = 0
    assert measured(layer, (4,)) == (16.0, 8)
