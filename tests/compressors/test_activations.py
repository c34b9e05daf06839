"""Activations are rounded exactly where integer kernels need it, by the range that calibration data has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.compressors.activations import HIGH, RoundedActivation, RoundedLinear, calibrate, round_activations
from paretopress.compressors.draft import Draft

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions, the second with a batch norm and a shortcut around it, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.norm(self.conv(x)) + x)
        out: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


class Branching(nn.Module):
    """A forward pass that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = self.second(x if x.sum() > 0 else -x)
        return out


def rounded_draft(model: nn.Module, *layers: str) -> Draft:
    """Return a draft of a model some of whose layers run on integers."""
    torch.manual_seed(0)
    draft = Draft.of(model)
    draft.integer.update(layers)
    round_activations(draft, 1)
    return draft


def places(draft: Draft) -> set[str]:
    """Return what is rounded: the names of the nodes whose values go through a rounding."""
    graph = draft.model.graph
    modules = dict(draft.model.named_modules())
    return {
        str(node.args[0])
        for node in graph.nodes  # type: ignore[union-attr] # a GraphModule
        if node.op == "call_module" and isinstance(modules[node.target], RoundedActivation)
    }


def test_residual_network_stays_in_integers() -> None:
    """Inputs of all layers, outputs of convolutions after norm and ReLU, and the sum: no gap in between."""
    found = places(rounded_draft(Net(), "stem", "conv", "head"))
    assert found == {"x0", "relu", "m_norm", "relu_1", "adaptive_avg_pool2d"}


def test_only_the_named_layers_are_rounded() -> None:
    """A layer that stays in fp32 reads what it read; a sum with one rounded term isn't rounded."""
    assert places(rounded_draft(Net(), "stem")) == {"x0", "relu"}
    assert places(rounded_draft(Net(), "head")) == {"adaptive_avg_pool2d"}


def test_output_of_the_model_is_not_rounded() -> None:
    """The head's scores are what users get: they keep all their digits."""
    draft = rounded_draft(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2)), "0", "2")
    assert calibrate(draft.model, [((X,), torch.zeros(16))])
    out = draft.model(X)
    assert len(out.unique()) == out.numel()


def test_nothing_to_round_changes_nothing() -> None:
    """A model without integer layers stays the user's own object, and needs no calibration."""
    draft = Draft.of(Net())
    before = draft.model
    round_activations(draft, 1)
    assert draft.model is before
    assert not calibrate(draft.model, [((X,), torch.zeros(16))])


def test_rounding_is_put_in_once() -> None:
    """Recovery training settles a draft twice; the second time nothing is added, and ranges are taken anew."""
    draft = rounded_draft(Net(), "stem", "conv", "head")
    calibrate(draft.model, [((X,), torch.zeros(16))])
    steps = [m.scale.clone() for m in draft.model.modules() if isinstance(m, RoundedActivation)]
    round_activations(draft, 1)
    assert calibrate(draft.model, [((2 * X,), torch.zeros(16))])
    after = [m.scale for m in draft.model.modules() if isinstance(m, RoundedActivation)]
    assert len(after) == len(steps)
    assert after[0] == 2 * steps[0]


def test_weights_keep_their_names_and_ties() -> None:
    """Encodings are by name, so a traced model must have the names of the user's, and shared modules stay shared."""
    model = Net()
    draft = rounded_draft(model, "conv")
    assert {n for n, _ in draft.model.named_parameters()} == {n for n, _ in model.named_parameters()}


def test_untraceable_model_rounds_inputs_of_linear_layers() -> None:
    """A transformer layer whose forward pass can't be traced still gets integer matrix products."""
    draft = rounded_draft(Branching(), "first", "second")
    assert type(draft.module("first")) is RoundedLinear
    x = torch.randn(32, 3)
    assert calibrate(draft.model, [((x,), torch.zeros(32))])
    assert (draft.model(x) - Branching().eval()(x)).abs().max() < 10
    first = draft.module("first")
    assert isinstance(first, RoundedLinear)
    levels = first.rounding(x) / first.rounding.scale
    assert torch.allclose(levels, levels.round(), atol=1e-3)


@given(
    low=st.floats(-100, 0), high=st.floats(0, 100), seed=st.integers(0, 1000),
)  # fmt: skip
def test_error_is_half_a_step_inside_the_range(low: float, high: float, seed: int) -> None:
    """What calibration has seen is at most half a step off unless it was clipped, and zero is exact."""
    x = torch.rand(500, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    module = RoundedActivation()
    module.observe()
    assert torch.equal(module(x), x)
    module.settle()
    out, scale = module(x), float(module.scale)
    inside = (x >= -float(module.zero_point) * scale) & (x <= (HIGH - float(module.zero_point)) * scale)
    assert (out - x)[inside].abs().max() <= scale * 0.501 + 1e-6 if inside.any() else True
    assert float(module(torch.zeros(1))) == 0


def test_long_tails_are_clipped() -> None:
    """A few values far out don't take the levels from all others: the squared error falls."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) ** 5
    module = RoundedActivation()
    module.observe()
    module(x)
    module.settle()
    whole = float(x.max() - x.min()) / HIGH
    point = torch.tensor(round(-float(x.min()) / whole), dtype=torch.int32)
    plain = torch.fake_quantize_per_tensor_affine(x, torch.tensor(whole), point, 0, HIGH)
    assert float(module.scale) < 0.95 * whole
    assert (module(x) - x).square().mean() < (plain - x).square().mean()


def test_gradient_passes_straight_through() -> None:
    """Recovery training learns through the rounding, and not where a value is clipped."""
    module = RoundedActivation()
    module.observe()
    module(torch.linspace(0, 1, 1000))
    module.settle()
    x = torch.tensor([0.3, 0.9, 7.0, -2.0], requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 0, 0]


def test_activations_that_are_not_finite_are_refused() -> None:
    """A range can't be taken of NaN: the trial says so."""
    module = RoundedActivation()
    module.observe()
    module(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="not finite"):
        module.settle()
