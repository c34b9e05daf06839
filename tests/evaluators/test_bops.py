"""Bit operations: MACs weighted by the bits of both factors."""

import pytest
import torch
from torch import nn

from paretopress.evaluators.base import Subject
from paretopress.evaluators.bops import BitOperations, bits_at
from paretopress.evaluators.macs import Macs
from paretopress.spaces.task import Task


def network() -> nn.Module:
    """Return three dense layers, two of them in a block."""
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 3)))


def subject(
    model: nn.Module, weight_bits: dict[str, int] | None = None, activation_bits: dict[str, int] | None = None
) -> Subject:
    """Return the model with named bits."""
    task = Task(model, [(torch.randn(5, 4), torch.zeros(5, dtype=torch.long))])
    return Subject(task.model, task, task.validation, 0, weight_bits or {}, activation_bits or {})


def bops(model: nn.Module, weight_bits: dict[str, int], activation_bits: dict[str, int] | None = None) -> float:
    """Return the model's bit operations."""
    return BitOperations().measure(subject(model, weight_bits, activation_bits)).value


def test_full_precision_is_1024_times_the_macs() -> None:
    """A module that isn't named has 32 bits on both sides."""
    tested = subject(network())
    assert BitOperations().measure(tested).value == 1024 * Macs().measure(tested).value == 1024 * (24 + 12 + 6)


def test_each_module_is_weighted_by_its_own_bits() -> None:
    """The closed form with different widths for weights and activations."""
    value = bops(network(), weight_bits={"0": 4, "2.1": 2}, activation_bits={"0": 8})
    assert value == 24 * 4 * 8 + 12 * 32 * 32 + 6 * 2 * 32


def test_a_factorised_layer_may_be_named_as_a_whole_and_in_part() -> None:
    """The longest prefix wins, so that a parent's bits hold for the factors that aren't named themselves."""
    assert bops(network(), weight_bits={"2": 8}) == 1024 * 24 + 8 * 32 * (12 + 6)
    assert bops(network(), weight_bits={"2": 8, "2.1": 2}) == 1024 * 24 + 32 * (8 * 12 + 2 * 6)
    assert bops(network(), weight_bits={"": 16}) == 16 * 32 * 42


@pytest.mark.parametrize(("path", "bits"), [("a.b.c", 2), ("a.b", 2), ("a.bc", 4), ("ab", 32), ("a", 4)])
def test_prefixes_are_whole_names(path: str, bits: int) -> None:
    """`layer1` must not give its bits to `layer10`."""
    assert bits_at(path, {"a": 4, "a.b": 2}) == bits


def test_a_shared_module_may_go_by_any_of_its_names() -> None:
    """A tied layer's bits must be found under whichever name a recipe uses."""
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, shared)
    assert bops(model, weight_bits={"1": 8}) == 2 * 16 * 8 * 32


def test_operators_without_a_count_are_listed() -> None:
    """Fewer bit operations must never come from an operator that wasn't seen."""

    class Distance(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cdist(x, x[:, :4])[:, :1].expand(-1, 3)

    model = nn.Sequential(nn.Linear(4, 4), Distance())
    assert BitOperations().measure(subject(model)).detail == {"uncounted": {"aten::cdist": 1}}
