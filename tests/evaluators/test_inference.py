"""Running a model without changing it."""

import pytest
import torch
from torch import nn

from paretopress.evaluators.inference import at_batch, device_of, inference

CPU = torch.device("cpu")


def test_modes_and_gradients_come_back() -> None:
    """A model with a frozen part in eval mode must leave with the modes it came with."""
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()

    def fail() -> None:
        with inference(model):
            assert not any(m.training for m in model.modules())
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_examples_are_cut_or_repeated_to_the_batch(batch: int) -> None:
    """Latency at batch 7 needs seven examples from a batch of three; inputs without a batch stay whole."""
    x, weights = torch.arange(6.0).view(3, 2), torch.randn(5)
    first, second = at_batch((x, weights), batch, CPU)
    assert torch.equal(first, x[torch.arange(batch) % 3])
    assert torch.equal(second, weights)


def test_examples_are_copies() -> None:
    """A model that writes into its input must not reach the task's example."""
    x, mask = torch.zeros(3, 2), torch.zeros(4)
    for part in at_batch((x, mask), 3, CPU):
        part.add_(1)
    assert not x.any()
    assert not mask.any()


def test_a_model_without_tensors_is_on_the_cpu() -> None:
    """Models such as a fixed filter have no tensor to ask."""
    assert device_of(nn.ReLU()) == CPU
    assert device_of(nn.BatchNorm1d(2, affine=False)) == CPU
