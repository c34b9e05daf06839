"""Magnitude pruning keeps exactly the largest weights, and its zeros survive what comes after."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.compressors.base import apply_step
from paretopress.compressors.distillation.recovery import Distillation
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.pruning.magnitude import Magnitude, largest
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.task import Task


def _task(model: nn.Module, *shape: int) -> Task:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, *shape, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(2)
    ]
    return Task(model, batches, train=batches)


def _context(task: Task, *sites: Site) -> Context:
    return Context(task, {s.name: s for s in (*sites, Site(MODEL, "model", ("",)))})


class Classifier(nn.Module):
    """An LSTM classifier: its weights are four tensors of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0].mean(1))
        return out


@given(
    values=st.lists(st.integers(-4, 4), min_size=1, max_size=40),
    density=st.floats(0.01, 1.0),
)
@settings(max_examples=200, deadline=None)
def test_exactly_the_largest_are_kept(values: list[int], density: float) -> None:
    """The count is round(density * n) even among equal weights, and no dropped weight exceeds a kept one."""
    weight = torch.tensor(values, dtype=torch.float32)
    keep = largest(weight, density)
    assert int(keep.sum()) == round(density * len(values))
    assert not keep.any() or keep.all() or weight[keep].abs().min() >= weight[~keep].abs().max()


def test_ties_fall_to_the_earlier_weights() -> None:
    """Equal weights are told apart by position, so that every machine prunes the same ones."""
    weight = torch.tensor([[1.0, -1.0, 2.0], [1.0, 1.0, -1.0]])
    assert largest(weight, 0.5).tolist() == [[True, True, True], [False, False, False]]


def test_every_weight_tensor_of_a_recurrent_layer_is_masked() -> None:
    """A site with several tensors gets the density in each of them, and biases stay untouched."""
    site = Site("lstm", "recurrent", ("lstm",))
    task = _task(Classifier(), 4, 5)
    draft = Draft.of(task.model)
    apply_step(Magnitude(), draft, Step.of("lstm", "magnitude", density=0.3), _context(task, site))
    names = draft.weights(site)
    assert len(names) == 4
    for name in names:
        weight = draft.parameter(name)
        assert int(torch.count_nonzero(weight)) == round(0.3 * weight.numel())
        mask = draft.encoding(name).mask
        assert mask is not None
        assert torch.equal(weight != 0, mask)
    assert torch.equal(draft.parameter("lstm.bias_ih_l0"), task.model.get_parameter("lstm.bias_ih_l0"))


def test_masked_zeros_are_positive_zeros() -> None:
    """Dropped weights are +0.0, so that a file that doesn't hold them gives back the same bits."""
    site = Site("0", "linear", ("0",))
    task = _task(nn.Sequential(nn.Linear(6, 3)), 6)
    draft = Draft.of(task.model)
    apply_step(Magnitude(), draft, Step.of("0", "magnitude", density=0.2), _context(task, site))
    assert not torch.signbit(draft.parameter("0.weight")[draft.parameter("0.weight") == 0]).any()


def test_zeros_stay_zero_through_recovery_training() -> None:
    """Training moves the kept weights and no other one."""
    sites = (Site("lstm", "recurrent", ("lstm",)), Site("head", "linear", ("head",)))
    task = _task(Classifier(), 4, 5)
    context = _context(task, *sites)
    draft = Draft.of(task.model)
    for site in sites:
        apply_step(Magnitude(), draft, Step.of(site.name, "magnitude", density=0.4), context)
    before = {n: draft.parameter(n).detach().clone() for s in sites for n in draft.weights(s)}
    step = Step.of(MODEL, "distillation", steps=10, learning_rate=0.01, temperature=2.0, weight=0.5)
    apply_step(Distillation(), draft, step, context)
    for name, old in before.items():
        new = draft.parameter(name).detach()
        assert torch.equal(new == 0, old == 0)
        assert not torch.equal(new, old)


def test_a_second_mask_narrows_the_first() -> None:
    """Zeros that an earlier step made are never brought back."""
    site = Site("0", "linear", ("0",))
    task = _task(nn.Sequential(nn.Linear(6, 3)), 6)
    draft = Draft.of(task.model)
    context = _context(task, site)
    kept = []
    for density in (0.5, 0.9):
        apply_step(Magnitude(), draft, Step.of("0", "magnitude", density=density), context)
        kept.append(draft.parameter("0.weight") != 0)
        mask = draft.encoding("0.weight").mask
        assert mask is not None
        assert torch.equal(mask, kept[0])
    assert torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("density", [0.0, 1.5, True, "half"])
def test_a_density_out_of_range_is_refused(density: float | str) -> None:
    """A share outside (0, 1] is the user's mistake, and the message names the setting."""
    task = _task(nn.Sequential(nn.Linear(6, 3)), 6)
    context = _context(task, Site("0", "linear", ("0",)))
    with pytest.raises(SettingError, match="density"):
        apply_step(Magnitude(), Draft.of(task.model), Step.of("0", "magnitude", density=density), context)
