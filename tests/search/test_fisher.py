"""Fisher information, checked against gradients that are taken one by one."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.search.effects import Survey
from paretopress.search.examples.digits import DigitsNet
from paretopress.search.fisher import DOUBT, Fisher, measure_fisher, temperature
from paretopress.spaces.choices import Setting
from paretopress.spaces.metric import Metric
from paretopress.spaces.site import Site
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task

ERROR = Metric("mse", lambda output, target: float((output - target).square().mean()), direction="minimize")


def sites_of(task: Task) -> tuple[Site, ...]:
    """Return the sites of a task's model."""
    return find_sites(task.model, task.example)[0]


def singles(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return batches of one example, so that every gradient is squared on its own."""
    return list(zip(x.split(1), y.split(1)))


#: How often examples come where signs or classes are drawn, so that the mean over the draws is compared.
OFTEN = 80


def often(batches: list[Any]) -> list[Any]:
    """Return batches so often that draws average out."""
    return batches * OFTEN


def by_hand(task: Task, names: list[str], loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the sum of each output's own squared gradient, weighted by the loss's by it, per sum of these weights, and
    per variance of the outputs.
    """
    model = copy.deepcopy(task.model)
    total = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
    size, outputs = 0.0, []
    for args, target in task.validation:
        for i in range(len(target)):
            outputs.append(model(*(a[i : i + 1] for a in args)))
            [pull] = torch.autograd.grad(loss(outputs[-1], target[i : i + 1]), outputs[-1], retain_graph=True)
            size += float(pull.square().sum())
            for weight, output in zip(pull.flatten(), outputs[-1].flatten()):
                for name in names:
                    [grad] = torch.autograd.grad(output, model.get_parameter(name), retain_graph=True)
                    total[name] += (weight * grad).square()
    spread = torch.cat(outputs).detach().var(correction=0)
    return {name: value / size / spread for name, value in total.items()}


def close(found: Tensor, expected: Tensor) -> None:
    """Compare what was drawn with what is expected."""
    assert found.shape == expected.shape
    assert float(found.sum()) == pytest.approx(float(expected.sum()), rel=0.15)
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.95


def robust(output: Tensor, target: Tensor) -> Tensor:
    """Return a loss that nobody has heard of."""
    return (output - target).abs().add(1).log().mean()


def network() -> nn.Module:
    """Return a small network with three outputs."""
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


@pytest.mark.parametrize("loss", [F.mse_loss, robust], ids=["mse", "custom"])
def test_weights_have_the_mean_squared_gradient(loss: Any) -> None:
    """The information is that of each output's own gradient, in units of the outputs."""
    torch.manual_seed(0)
    batches = singles(torch.randn(12, 5), torch.randn(12, 3))
    task = Task(network(), batches, calibration=often(batches), loss=loss, metric=ERROR)
    fisher = measure_fisher(task, sites_of(task), 12 * OFTEN)
    assert (fisher.by_loss, fisher.examples) == (True, 12 * OFTEN)
    for name, expected in by_hand(task, ["0.weight", "2.weight"], loss).items():
        close(fisher.weights[name], expected)


@pytest.mark.parametrize("batch", [1, 20])
def test_classifiers_have_the_expected_squared_gradient_over_their_own_doubts(batch: int) -> None:
    """For cross-entropy the information is that of the model's own probabilities, at its temperature: the sum over
    the classes of each one's probability times its squared gradient. Batches cost accuracy only, not bias.
    """
    torch.manual_seed(0)
    x, y = torch.randn(20, 5).repeat(60, 1), torch.randint(0, 3, (1200,))
    model = network()
    with torch.no_grad():
        model[2].weight *= 20  # sure of itself
    task = Task(model, [(x, y)], calibration=list(zip(x.split(batch), y.split(batch))))
    softness = temperature(task)
    assert softness > 1
    expected = {name: torch.zeros_like(task.model.get_parameter(name)) for name in ("0.weight", "2.weight")}
    for i in range(20):
        logs = (task.model(x[i : i + 1]) / softness).log_softmax(1)[0]
        for share, log in zip(logs.detach().exp(), logs):
            for name in expected:
                [grad] = torch.autograd.grad(log, task.model.get_parameter(name), retain_graph=True)
                expected[name] += share * grad.square() / 20
    fisher = measure_fisher(task, sites_of(task), examples=1200)
    for name, value in expected.items():
        close(fisher.weights[name], value)


def test_temperature_gives_doubt_where_there_is_none() -> None:
    """A sure model is softened until it doubts, a doubtful one and a regression are left as they are."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 5), torch.randint(0, 3, (40,))
    model = nn.Linear(5, 3)
    assert temperature(Task(model, [(x, y)])) == 1
    assert temperature(Task(model, [(x, torch.randn(40, 3))], loss=F.mse_loss, metric=ERROR)) == 1
    with torch.no_grad():
        model.weight *= 50
    task = Task(model, [(x, y)])
    shares = (task.model(x).detach() / temperature(task)).softmax(1)
    assert float((1 - shares.square().sum(1)).mean()) == pytest.approx(DOUBT, rel=0.1)


def test_linear_regression_has_the_known_information() -> None:
    """For y = wx with squared loss it is the mean of x^2, weighted with the squared residuals, per variance of y."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 4), torch.randn(20, 1)
    task = Task(nn.Linear(4, 1), singles(x, y), loss=F.mse_loss, metric=ERROR)
    outputs = task.model(x).detach()
    residual = outputs - y
    fisher = measure_fisher(task, [Site("all", "linear", ("",), ("weight",), (1, 4))])
    expected = (residual * x).square().sum(0, keepdim=True) / residual.square().sum() / outputs.var(correction=0)
    assert torch.allclose(fisher.weights["weight"], expected, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 20])
def test_size_of_the_loss_does_not_count(batch: int) -> None:
    """A thousand times the loss, its sum in place of its mean, or targets of another unit: the same information."""
    torch.manual_seed(0)
    x, y, model = torch.randn(40, 5), torch.randn(40, 3), network()

    def information(loss: Any) -> Tensor:
        batches = list(zip(x.split(batch), y.split(batch)))
        task = Task(model, batches, calibration=batches, loss=loss, metric=ERROR)
        return measure_fisher(task, sites_of(task)).weights["0.weight"]

    plain = information(F.mse_loss)
    assert torch.allclose(information(lambda output, target: 1000 * F.mse_loss(output, target)), plain, rtol=1e-4)
    assert torch.allclose(information(functools.partial(F.mse_loss, reduction="sum")), plain, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_regression_has_the_change_of_its_outputs(reduction: str) -> None:
    """Half the information times a small squared change is how far the outputs move, as it is measured elsewhere."""
    torch.manual_seed(0)
    x, y = torch.randn(256, 5), torch.randn(256, 3)
    loss = functools.partial(F.mse_loss, reduction=reduction)
    task = Task(network(), [(x, y)], calibration=[(x, y)], loss=loss, metric=ERROR)
    fisher = measure_fisher(task, sites_of(task))
    survey = Survey(task, {s.name: s for s in sites_of(task)}, None)
    for name in ("0.weight", "2.weight"):
        moved = copy.deepcopy(task.model)
        change = 0.05 * torch.randn_like(moved.get_parameter(name))
        with torch.no_grad():
            moved.get_parameter(name).add_(change)
            distance = (moved(x) - task.model(x)).square().mean() / task.model(x).var(correction=0) / 2
        assert float((fisher.weights[name] * change.square()).sum() / 2) == pytest.approx(float(distance), rel=0.5)
        assert survey.outputs.distance(moved) == pytest.approx(float(distance), rel=0.3)


def test_a_loss_without_slope_gives_way_to_the_outputs() -> None:
    """Where the targets are the model's own outputs, the loss says nothing, which isn't to say that nothing matters."""
    torch.manual_seed(0)
    model, x = network(), torch.randn(40, 5)
    y = model(x).detach()
    task = Task(model, [(x, y)], calibration=[(x, y)], loss=F.mse_loss, metric=ERROR)
    fisher = measure_fisher(task, sites_of(task))
    assert fisher.weights["0.weight"].sum() > 0
    exact = Task(model, [(x, y)], loss=lambda output, _: (output - output.detach()).square().mean(), metric=ERROR)
    assert not measure_fisher(exact, sites_of(exact)).by_loss


def test_examples_are_bounded() -> None:
    """No more examples are looked at than asked for, but for the rest of the last few."""
    task = Task(network(), [(torch.randn(50, 5), torch.randint(0, 3, (50,))) for _ in range(3)])
    assert 20 <= measure_fisher(task, sites_of(task), examples=20).examples < 28
    assert measure_fisher(task, sites_of(task), examples=1000).examples == 150


def test_model_and_data_are_untouched() -> None:
    """Measuring changes no weight, buffer, gradient, flag or example, not even if the model works in place."""

    class InPlace(DigitsNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5))

    torch.manual_seed(0)
    batches = [(torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,)))]
    task = Task(InPlace(), batches, calibration=batches)
    state = {k: v.clone() for k, v in task.model.state_dict().items()}
    inputs = [args[0].clone() for args, _ in task.calibration]
    measure_fisher(task, sites_of(task))
    assert all(torch.equal(v, state[k]) for k, v in task.model.state_dict().items())
    assert all(torch.equal(args[0], before) for (args, _), before in zip(task.calibration, inputs))
    assert all(p.grad is None for p in task.model.parameters())
    assert not task.model.training


def test_frozen_model_has_the_same_information() -> None:
    """Weights that the user froze are compressed like others, so their information counts; integers have none."""
    torch.manual_seed(0)
    batches = singles(torch.randn(6, 5), torch.randint(0, 3, (6,)))
    model = network()
    expected = measure_fisher(Task(model, batches), sites_of(Task(model, batches)))
    model.requires_grad_(False)
    model.register_parameter("version", nn.Parameter(torch.tensor([1]), requires_grad=False))
    frozen = Task(model, batches)
    found = measure_fisher(frozen, sites_of(frozen))
    assert all(torch.equal(found.weights[name], value) for name, value in expected.weights.items())
    assert not any(p.requires_grad for p in frozen.model.parameters())


@pytest.mark.parametrize("loss", ["raises", "infinite", "no gradient", "many values"])
def test_loss_that_cannot_be_evaluated_gives_way_to_the_outputs(loss: str) -> None:
    """Without a usable loss, damages still rank: the squared change of the outputs in units of their variance."""

    def broken(output: Tensor, target: Tensor) -> Tensor:
        if loss == "raises":
            raise ValueError("no labels here")
        if loss == "infinite":
            return output.sum() * math.inf
        return output.sum().detach() if loss == "no gradient" else output - target[:, None]

    torch.manual_seed(0)
    x, y = torch.randn(256, 5), torch.randint(0, 3, (256,))
    task = Task(nn.Linear(5, 3), singles(x, y), loss=broken, calibration=singles(x, y))
    fisher = measure_fisher(task, [Site("all", "linear", ("",), ("weight",), (3, 5))])
    assert not fisher.by_loss
    with torch.no_grad():
        outputs = task.model(x)
        change = 0.05 * torch.randn(3, 5)
        moved = (x @ change.T).square().mean() / outputs.var() / 2
    assert float((fisher.weights["weight"] * change.square()).sum() / 2) == pytest.approx(float(moved), rel=0.3)


def test_examples_without_a_finite_loss_are_passed_over() -> None:
    """A batch whose targets are all ignored has no mean loss; the others still count."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
    y[8:] = -100
    task = Task(network(), [(x[:8], y[:8])], calibration=[(x[:8], y[:8]), (x[8:], y[8:])])
    half = Task(network(), [(x[:8], y[:8])], calibration=[(x[:8], y[:8])])
    half.model.load_state_dict(task.model.state_dict())
    found, expected = measure_fisher(task, sites_of(task)), measure_fisher(half, sites_of(half))
    assert found.examples == 8
    assert torch.equal(found.weights["0.weight"], expected.weights["0.weight"])


class Encoder(nn.Module):
    """One transformer layer over tokens, with a mask that has no batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        return self.head((self.layer(self.embed(tokens)) * scale).mean(1))


def gated(task: Task, site: Site) -> Tensor:
    """Return the squared derivative of the loss by a factor on each channel, put in where it is read, in the unit that
    `by_hand` has.
    """
    model = copy.deepcopy(task.model)
    gate = torch.ones(site.shape[0], requires_grad=True)

    def multiply(positions: tuple[tuple[int, ...], ...], dim: int) -> Callable[..., tuple[Tensor]]:
        owner = torch.zeros(sum(map(len, positions)), dtype=torch.int64)
        for channel, own in enumerate(positions):
            owner[list(own)] = channel

        def hook(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            shape = [1] * args[0].ndim
            shape[dim] = -1
            return (args[0] * gate[owner].reshape(shape),)

        return hook

    for part in site.slices:
        if part.side == "in":
            module = model.get_submodule(part.module)
            dim = -1 if isinstance(module, nn.Linear) else 1
            module.register_forward_pre_hook(multiply(part.positions, dim))
    total, size, outputs = torch.zeros(site.shape[0]), 0.0, []
    for args, target in task.validation:
        outputs.append(model(*args))
        [pull] = torch.autograd.grad(task.loss(outputs[-1], target), outputs[-1], retain_graph=True)
        for weight, output in zip(pull.flatten(), outputs[-1].flatten()):
            [grad] = torch.autograd.grad(output, gate, retain_graph=True)
            total += (weight * grad).square()
        size += float(pull.square().sum())
    return total / size / torch.cat(outputs).detach().var(correction=0)


def image_task() -> Task:
    """Return the digits' residual network, untrained, one example at a time."""
    torch.manual_seed(0)
    batches = singles(torch.randn(6, 1, 8, 8), torch.randn(6, 10))
    return Task(DigitsNet(8), batches, calibration=often(batches), loss=F.mse_loss, metric=ERROR)


def token_task() -> Task:
    """Return the encoder; every example comes with the same second input."""
    torch.manual_seed(0)
    scale = torch.rand(16) + 0.5
    batches = [((torch.randint(0, 20, (1, 5)), scale), torch.randn(1, 4)) for _ in range(6)]
    return Task(Encoder(), batches, calibration=often(batches), loss=F.mse_loss, metric=ERROR)


@pytest.mark.parametrize("build", [image_task, token_task], ids=["residual", "transformer"])
def test_channels_have_the_information_of_a_gate(build: Callable[[], Task]) -> None:
    """A channel of a coupled group, or a head, has the squared derivative by a factor on its value."""
    task = build()
    fisher = measure_fisher(task, sites_of(task), 6 * OFTEN)
    groups = [s for s in sites_of(task) if any(part.side == "in" for part in s.slices)]
    assert {s.kind for s in groups} == ({"group"} if build is image_task else {"group", "heads"})
    for site in groups:
        expected = gated(task, site)
        assert expected.sum() > 0
        close(fisher.channels[site.name].square().sum(0), expected)


def test_integer_inputs_and_inputs_without_a_batch_dimension() -> None:
    """Tokens, and an input that is the same for all examples, are handed on whole and as they are."""
    torch.manual_seed(0)
    scale = torch.rand(16) + 0.5
    batch = [((torch.randint(0, 20, (20, 5)), scale), torch.randint(0, 4, (20,)))]
    task = Task(Encoder(), batch, calibration=batch)
    fisher = measure_fisher(task, sites_of(task))
    assert fisher.examples == 20
    assert all(info.sum() > 0 for info in fisher.weights.values())
    seen = torch.unique(batch[0][0][0])
    unseen = [token for token in range(20) if token not in seen]
    assert fisher.weights["embed.weight"][unseen].sum() == 0


def test_shared_weights_get_the_information_of_both_places() -> None:
    """A weight that two layers share is changed at both at once."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    batches = singles(torch.randn(6, 4), torch.randn(6, 4))
    task = Task(Tied(), batches, calibration=often(batches), loss=F.mse_loss, metric=ERROR)
    [site] = [s for s in sites_of(task) if len(s.members) == 2]
    fisher = measure_fisher(task, [site], 6 * OFTEN)
    close(fisher.weights[site.weights[0]], by_hand(task, [site.weights[0]], F.mse_loss)[site.weights[0]])


def test_blank_information_takes_the_place_of_the_measured() -> None:
    """A dry run finds every weight and group that a real one does."""
    task = image_task()
    sites = sites_of(task)
    found, blank = measure_fisher(task, sites), Fisher.blank(task, sites)
    assert {k: v.shape for k, v in blank.weights.items()} == {k: v.shape for k, v in found.weights.items()}
    assert {k: v.shape[1] for k, v in blank.channels.items()} == {k: v.shape[1] for k, v in found.channels.items()}
    survey = Survey(task, {s.name: s for s in sites}, None)
    effect = survey.effect("stem", Setting("magnitude", (("density", 0.5),)), blank)
    assert (effect.damage, effect.error) == (0.0, "")
