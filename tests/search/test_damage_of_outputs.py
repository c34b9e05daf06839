"""Predicted damages beside what the outputs really do: many outputs an example, and parts that no gradient reaches."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.search.effects import Effect, Survey
from paretopress.search.fisher import measure_fisher
from paretopress.search.outputs import Outputs
from paretopress.spaces.choices import Setting
from paretopress.spaces.metric import Metric
from paretopress.spaces.recipe import Step
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task

ERROR = Metric("mse", lambda output, target: float((output - target).square().mean()), direction="minimize")


class Streamed:
    """A mean squared error of numbers or classes, of batches of any shape."""

    def reset(self) -> None:
        self.values: list[float] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        found = outputs if outputs.shape == targets.shape else outputs.argmax(1)
        self.values.append(float((found - targets).float().square().mean()))

    def compute(self) -> float:
        return sum(self.values) / len(self.values)


def of_effect(task: Task, site: str, technique: str, **params: Any) -> Effect:
    """Return the effect of a step."""
    sites = {s.name: s for s in find_sites(task.model, task.example)[0]}
    return Survey(task, sites, None).effect(
        site, Setting(technique, tuple(params.items())), measure_fisher(task, sites.values())
    )


def predicted_and_real(task: Task, name: str) -> tuple[float, float]:
    """Return half the information times the squared change of a weight, and what the outputs do of it."""
    fisher = measure_fisher(task, find_sites(task.model, task.example)[0])
    torch.manual_seed(1)
    moved = copy.deepcopy(task.model)
    weight = moved.get_parameter(name)
    change = 0.05 * weight.detach().std() * torch.randn_like(weight)
    with torch.no_grad():
        weight.add_(change)
    return float((fisher.weights[name] * change.square()).sum() / 2), Outputs(task).distance(moved)


def tagger(x: Tensor, y: Tensor, loss: Any) -> Task:
    """Return a task of one class for each of many positions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 3, 1)).eval()
    return Task(model, [(x, y)], calibration=[(x, y)], loss=loss)


@pytest.mark.parametrize("positions", [1, 60])
def test_classes_of_many_positions_count_as_the_loss_does(positions: int) -> None:
    """The mean over positions rises by as much as over examples: a damage isn't smaller for their number."""
    torch.manual_seed(0)
    x, y = torch.randn(128, 4, positions), torch.randint(0, 3, (128, positions))
    task = tagger(x, y, F.cross_entropy)
    for name in ("0.weight", "2.weight"):
        predicted, real = predicted_and_real(task, name)
        assert 0.5 < real / predicted < 2


@pytest.mark.parametrize(
    ("loss", "none"),
    [
        (F.cross_entropy, -100),
        (functools.partial(F.cross_entropy, ignore_index=255), 255),
        (nn.CrossEntropyLoss(ignore_index=2), 2),
    ],
)
def test_positions_that_the_loss_ignores_do_not_count(loss: Any, none: int) -> None:
    """Where the input is nothing but padding, damage is none, whichever class says so."""
    torch.manual_seed(0)
    x, y = torch.randn(128, 4, 20), torch.randint(0, 2, (128, 20))
    x[:, :, 8:] *= 30  # what is there moves the outputs most
    y[:, 6:] = none
    task, alone = tagger(x, y, loss), tagger(x[:, :, :8], y[:, :8], loss)
    for name in ("0.weight", "2.weight"):
        predicted, real = predicted_and_real(task, name)
        assert real == pytest.approx(predicted, rel=0.5)
        assert real == pytest.approx(predicted_and_real(alone, name)[1], rel=1e-4)


def test_many_outputs_of_a_regression_count_one_by_one() -> None:
    """Residuals that agree in all outputs add up in the loss's slope, not in how far the outputs move."""
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 100)).eval()
    with torch.no_grad():
        model[2].weight.abs_()
    y = model(x).detach() + torch.randn(128, 1)
    task = Task(model, [(x, y)], calibration=[(x, y)], loss=F.mse_loss, metric=ERROR)
    for name in ("0.weight", "2.weight"):
        predicted, real = predicted_and_real(task, name)
        assert real == pytest.approx(predicted, rel=0.5)


class Cut(nn.Module):
    """Two layers, the first of which no gradient reaches, or none that is finite."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = nn.Linear(6, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "inference":
            with torch.inference_mode():
                return self.second(self.first(x).relu()).clone()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.how != "no_grad"):
            inner = self.first(x)
        if self.how == "sign":
            inner = inner.sign()
        if self.how == "root":  # of a negative number: it isn't taken, and its slope is NaN all the same
            inner = torch.where(inner > 0, inner.sqrt(), 0.0)
        return self.second(inner)


@pytest.mark.parametrize("how", ["no_grad", "sign", "root", "inference"])
def test_what_no_gradient_reaches_is_measured(how: str) -> None:
    """A backbone without gradients, a rounding or a slope that is infinite doesn't make a layer look free."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(0, 4, (64,))
    task = Task(Cut(how), [(x, y)], calibration=[(x, y)])
    first, second = (of_effect(task, site, "integer", bits=2, granularity="channel") for site in ("first", "second"))
    assert first.damage > 0
    assert first.method == "outputs"
    assert (second.damage > 0, second.method) == (True, "outputs" if how == "inference" else "fisher")


def test_neurons_that_no_gradient_reaches_are_measured() -> None:
    """Those of a group whose reader is cut off, too."""
    torch.manual_seed(0)

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU())
            self.head = nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).sign())

    x, y = torch.randn(64, 6), torch.randint(0, 4, (64,))
    task = Task(Deep(), [(x, y)], calibration=[(x, y)])
    groups = [s.name for s in find_sites(task.model, task.example)[0] if s.kind == "group"]
    found = {name: of_effect(task, name, "channels", ratio=0.5, criterion="l1", round_to=1) for name in groups}
    assert {e.method for e in found.values()} == {"outputs", "channels"}, groups
    assert all(e.damage > 0 for e in found.values())


@pytest.mark.parametrize("classes", [True, False])
def test_batches_of_any_length_are_compared(classes: bool) -> None:
    """Sequences of other lengths in each batch have damages, by information and by their outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 3, 1)).eval()
    batches = [
        (torch.randn(16, 4, n), torch.randint(0, 3, (16, n)) if classes else torch.randn(16, 3, n)) for n in (5, 9, 7)
    ]
    metric = Metric("error", Streamed(), direction="minimize")
    loss = F.cross_entropy if classes else F.mse_loss
    task = Task(model, batches, calibration=batches, loss=loss, metric=metric)
    found = of_effect(task, "0", "integer", bits=2, granularity="channel")
    assert (found.error, found.damage > 0) == ("", True)
    sites = {s.name: s for s in find_sites(task.model, task.example)[0]}
    real = Survey(task, sites, None).divergence(Step.of("0", "integer", bits=2, granularity="channel"))
    assert 0.2 < real / found.damage < 2
