"""The dense weight that a changed layer is equivalent to, and sites on their own."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import paretopress.compressors  # noqa: F401 - registers the techniques
from paretopress.compressors.base import Compressor, apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.equivalent import Layer, alone, dense_weights, probe
from paretopress.spaces.catalogue import technique
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import Site
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task

LAYERS = {
    "linear": lambda: nn.Linear(20, 12),
    "no bias": lambda: nn.Linear(20, 12, bias=False),
    "signal": lambda: nn.Conv1d(5, 12, 4, stride=3, padding=2, dilation=2),
    "image": lambda: nn.Conv2d(4, 10, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 10, 3, stride=2, padding=1, bias=False),
    "pointwise": lambda: nn.Conv2d(20, 12, 1, stride=2),
    "uneven": lambda: nn.Conv2d(3, 12, (5, 2), stride=(1, 3), padding=(3, 1), dilation=(2, 1)),
    "reflecting": lambda: nn.Conv2d(4, 10, 5, padding=2, padding_mode="reflect"),
    "wide border": lambda: nn.Conv2d(12, 12, 1, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv1d(4, 10, 5, padding=2, padding_mode="circular"),
    "larger than a chunk": lambda: nn.Linear(1030, 6),
}


class Net(nn.Module):
    """A convolution, a recurrent layer and two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(3, 8, 3, stride=2, padding=1))
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.mix, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.mix.weight
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(F.relu(self.front(x)).transpose(1, 2))[0].mean(1)
        return self.head(F.relu(self.again(F.relu(self.mix(x)))))


@pytest.fixture(scope="module")
def context() -> Context:
    """The net as a task, and its sites."""
    torch.manual_seed(0)
    task = Task(Net(), [(torch.randn(8, 3, 10), torch.randint(0, 4, (8,)))])
    sites, _ = find_sites(task.model, task.example)
    return Context(task, {s.name: s for s in sites}, 0)


def applied(draft: Draft, context: Context, step: Step) -> Draft:
    """Apply a step and return the draft."""
    entry = technique(step.technique)
    assert isinstance(entry, Compressor)
    apply_step(entry, draft, step, context)
    return draft


def factors(layer: Layer) -> nn.Sequential:
    """Return the layer's two factors of low rank."""
    entry = technique("svd")
    task = Task(nn.Linear(2, 2), [(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))])
    pair = entry.transform(layer, {"fraction": 0.5}, Context(task, {}, 0))  # type: ignore[attr-defined]  # it is SVD
    assert isinstance(pair, nn.Sequential)
    return pair


@pytest.mark.parametrize("kind", LAYERS)
def test_dense_weight_of_factors_is_their_product(kind: str) -> None:
    """The weight that is read off two factors is left @ right, whatever the convolution's geometry."""
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    first, second = factors(layer)
    product = (second.weight.flatten(1) @ first.weight.flatten(1)).reshape(layer.weight.shape)
    dense = probe(nn.Sequential(first, second), layer)
    assert dense is not None
    assert torch.allclose(dense, product, atol=1e-5)


def test_layer_is_its_own_equivalent() -> None:
    """A layer that nothing was done to has its own weight, and probing leaves it as it was."""
    torch.manual_seed(0)
    for build in LAYERS.values():
        layer = build()
        before = copy.deepcopy(layer.state_dict())
        dense = probe(copy.deepcopy(layer), layer)
        assert dense is not None
        assert torch.allclose(dense, layer.weight, atol=1e-6)
        assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


class Saturating(nn.Linear):
    """Looks like the Linear it replaces, and has its weight, but isn't linear."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class Picky(nn.Linear):
    """Takes sequences only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3:
            raise ValueError("sequences only")
        return super().forward(x)


@pytest.mark.parametrize(
    "new",
    [
        nn.Sequential(nn.Linear(8, 4), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 4)),
        nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)),
        nn.Linear(8, 5),
        Saturating(8, 4),
        Picky(8, 4),
    ],
    ids=["relu", "bottleneck", "norm", "shape", "lookalike", "picky"],
)
def test_nothing_is_equivalent_to_a_replacement_that_is_not_linear(context: Context, new: nn.Module) -> None:
    """A replacement that no dense weight describes says so, even if it has a weight of the right shape."""
    head = context.task.model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    assert probe(new, head) is None
    draft = Draft.of(context.task.model)
    draft.replace_module("head", new)
    assert dense_weights(draft, context.sites["head"], context.task.model) is None


def test_convolutions_that_cannot_be_read_off() -> None:
    """Groups and padding by name are left to a comparison of the outputs."""
    for layer in (nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, padding="same")):
        assert probe(layer, layer) is None


def test_lost_channels_leave_no_equivalent(context: Context) -> None:
    """A layer that is smaller now has no dense weight of the old shape."""
    draft = Draft.of(context.task.model)
    draft.replace_module("head", nn.Linear(6, 4))
    assert dense_weights(draft, context.sites["head"], context.task.model) is None
    draft.replace_module("front", nn.Identity())
    assert dense_weights(draft, context.sites["front.0"], context.task.model) is None


@pytest.mark.parametrize("site", ["front.0", "lstm", "mix", "head"])
@pytest.mark.parametrize(
    ("name", "params"), [("integer", {"bits": 3}), ("magnitude", {"density": 0.5})], ids=["integer", "magnitude"]
)
def test_rounded_and_masked_weights_are_read_exactly(context: Context, site: str, name: str, params: dict) -> None:
    """After a number format or a mask, the equivalent is bit for bit what will be stored."""
    where = context.sites[site]
    entry = technique(name)
    defaults = {k.name: k.values[0] for k in entry.knobs(where) if k.when is None}
    step = Step.of(site, name, **{**defaults, **params})
    whole = applied(Draft.of(context.task.model), context, step)
    dense = dense_weights(applied(alone(context.task.model, where), context, step), where, context.task.model)
    assert dense is not None
    assert list(dense) == list(where.weights)
    for weight, value in dense.items():
        assert torch.equal(value, whole.parameter(weight))
        assert not torch.equal(value, context.task.model.get_parameter(weight))


def test_factors_at_a_site_are_read_by_name(context: Context) -> None:
    """A site's replacement is found under the name of the weight that it stands for."""
    where = context.sites["front.0"]
    draft = applied(alone(context.task.model, where), context, Step.of("front.0", "svd", fraction=0.5))
    dense = dense_weights(draft, where, context.task.model)
    assert dense is not None
    first, second = draft.module("front.0").children()
    product = second.get_parameter("weight").flatten(1) @ first.get_parameter("weight").flatten(1)
    assert torch.allclose(dense["front.0.weight"], product.reshape(8, 3, 3), atol=1e-6)


def test_site_alone_keeps_its_ties_and_paths(context: Context) -> None:
    """A draft of one site holds copies of its members and nothing else; layers that share a weight still do."""
    where = next(s for s in context.sites.values() if len(s.members) == 2)
    draft = alone(context.task.model, where)
    assert set(draft.model.state_dict()) == {"mix.weight", "mix.bias", "again.weight", "again.bias"}
    assert draft.parameter("mix.weight") is draft.parameter("again.weight")
    assert draft.parameter("mix.weight") is not context.task.model.get_parameter("mix.weight")
    deep = alone(context.task.model, context.sites["front.0"])
    assert set(deep.model.state_dict()) == {"front.0.weight", "front.0.bias"}


def test_model_of_one_layer_stands_alone() -> None:
    """A model that is itself a layer is a site with an empty path."""
    layer = nn.Linear(4, 3)
    draft = alone(layer, Site("layer", "linear", ("",), ("weight",), (3, 4)))
    assert torch.equal(draft.parameter("weight"), layer.weight)
    assert draft.parameter("weight") is not layer.weight
