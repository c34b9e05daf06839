"""Integers: the grid is what the papers say, zero is on it, and integer arithmetic gives the float result."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paretopress.compressors.base import Params
from paretopress.compressors.encoding import Encoding
from paretopress.compressors.packing import pack_tensor, unpack_tensor
from paretopress.compressors.quantization.grid import IntegerCodec
from paretopress.compressors.quantization.integer import Integer
from paretopress.spaces.catalogue import technique
from paretopress.spaces.site import LAYER_KINDS, Site
from paretopress.spaces.stage import Stage

BITS = (8, 6, 5, 4, 3, 2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return weights as a layer might have them."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def fit(weight: Tensor, bits: int, group: int = 0, axis: int = 0) -> IntegerCodec:
    """Fit to channels, or to groups of weights."""
    params: Params = {"bits": bits, "granularity": "group" if group else "channel"}
    if group:
        params["group"] = group
    return Integer().fit(weight, None, axis, params, 0)


@pytest.mark.parametrize("group", [0, 32])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_the_error_is_half_a_step_inside_the_range(bits: int, group: int, shift: float) -> None:
    """Rounding to nearest: no weight inside the clipping range is off by more than half a scale."""
    weight = normal(16, 12, 3, 3) + shift
    codec = fit(weight, bits, group)
    scale, low, high = codec.grid(weight)
    inside = (weight >= low * scale) & (weight <= high * scale)
    error = (codec.project(weight) - weight).abs()
    assert inside.float().mean() > 0.5
    assert (error <= scale * 0.50001)[inside].all()
    ends = torch.where(weight > 0, high * scale, low * scale)
    assert torch.equal(codec.project(weight)[~inside], ends.expand_as(weight)[~inside])


@pytest.mark.parametrize("group", [0, 32])
def test_more_bits_mean_less_error(group: int) -> None:
    """The order of the knob must be the order of the damage: the error falls by more than half with every bit."""
    weight = normal(16, 100)
    errors = [
        float((fit(weight, bits, group).project(weight) - weight).square().sum()) for bits in (2, 3, 4, 5, 6, 7, 8)
    ]
    assert all(later < earlier / 2 for earlier, later in pairwise(errors))


def test_two_bits_are_four_levels() -> None:
    """A channel of 2-bit weights has four values, one of them zero."""
    weight = normal(3, 4000)
    projected = fit(weight, 2).project(weight)
    for row in projected:
        levels = torch.unique(row)
        assert len(levels) == 4
        assert (levels == 0).any()


@pytest.mark.parametrize("bits", BITS)
def test_zeros_stay_exact_zeros(bits: int) -> None:
    """Pruned weights must survive quantisation as +0.0 and symbol 0, in every channel, or the bitmap is lost."""
    weight = normal(8, 64) + 0.03
    mask = torch.rand(8, 64, generator=torch.Generator().manual_seed(1)) < 0.4
    codec = Integer().fit(weight.masked_fill(~mask, 0.0), mask, 0, {"bits": bits, "granularity": "channel"}, 0)
    projected = codec.project(weight.masked_fill(~mask, 0.0))
    assert torch.equal(projected[~mask].view(torch.int32), torch.zeros(int((~mask).sum()), dtype=torch.int32))
    symbols, alphabet = codec.symbols(projected)
    assert alphabet == 2**bits
    assert (symbols[~mask.numpy().reshape(-1)] == codec.zero).all()
    assert np.array_equal(symbols == codec.zero, projected.numpy().reshape(-1) == 0)


def test_integer_accumulation_gives_the_float_result() -> None:
    """A kernel that multiplies int8 by int8 and adds in int32 must compute what the dense weight computes."""
    generator = torch.Generator().manual_seed(0)
    weight = normal(10, 300) + 0.01
    codec = fit(weight, 8)
    levels = codec.levels(weight)
    inputs = torch.randint(-128, 128, (7, 300), generator=generator)
    step = 2.0**-6
    accumulated = inputs.to(torch.int32) @ levels.to(torch.int32).T
    assert int(accumulated.abs().max()) > 1 << 15  # 16 bits wouldn't do
    exact = accumulated.double() * codec.scale.double().T * step
    dense = (inputs.double() * step) @ codec.project(weight).double().T
    assert torch.equal(exact, dense)


def test_scales_are_fp16_where_they_fit_and_are_used_as_stored() -> None:
    """The scale in the file is the scale that was measured with; tiny weights keep fp32 scales."""
    weight = normal(6, 50)
    assert fit(weight, 4).side()[1][0].dtype == np.float16
    assert fit(weight * 1e-6, 4).side()[1][0].dtype == np.float32
    assert fit(weight * 1e8, 4).side()[1][0].dtype == np.float32


def test_one_sided_weights_get_zero_points() -> None:
    """All codes on one side of zero would waste a bit; zero points are worth their byte there, and not elsewhere."""
    weight = normal(8, 512).abs()
    codec = fit(weight, 4)
    assert codec.zero_point is not None
    assert int(codec.zero_point.max()) == 0
    middle = IntegerCodec(4, weight.amax(1, keepdim=True) / 7)
    assert (codec.project(weight) - weight).square().sum() < (middle.project(weight) - weight).square().sum() / 3
    assert fit(normal(64, 32), 4, group=8).zero_point is None  # a byte for 8 weights is a bit for each


def test_clipping_lowers_the_error() -> None:
    """One outlier must not cost all other weights their resolution."""
    weight = normal(1, 4096)
    weight[0, 0] = 1.0
    codec = fit(weight, 4)
    covering = IntegerCodec(4, torch.tensor([[1.0 / 7]]))
    assert (codec.project(weight) - weight).square().sum() < 0.5 * (covering.project(weight) - weight).square().sum()


def test_groups_are_consecutive_weights_of_a_channel() -> None:
    """A large group must not coarsen the scale of its neighbour, and the last group may be shorter."""
    weight = normal(2, 5, 4)  # 20 weights a channel: groups of 8, 8 and 4
    weight.reshape(2, 20)[:, 8:16] *= 1000
    codec = fit(weight, 8, group=8)
    assert codec.scale.shape == (2, 3)
    error = (codec.project(weight) - weight).abs().reshape(2, 20)
    assert error[:, :8].max() < 1e-3
    assert error[:, 16:].max() < 1e-3
    assert error[:, 8:16].max() > 1e-2


def test_channels_can_lie_along_any_axis() -> None:
    """Every channel has its own scale, whichever dimension the channels are."""
    weight = normal(4, 6, 3)
    for group in (0, 8):
        turned = fit(weight.movedim(1, 0).contiguous(), 5, group).project(weight.movedim(1, 0).contiguous())
        codec = fit(weight, 5, group, axis=1)
        assert torch.equal(codec.project(weight), turned.movedim(0, 1))
        spec, parts = pack_tensor(codec.project(weight), Encoding(codec))
        assert torch.equal(unpack_tensor(spec, parts), codec.project(weight))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(3, 5),
        torch.full((3, 5), 0.7),
        torch.full((3, 5), -0.7),
        torch.tensor([[0.3]]),
        normal(3, 5) * 1e-30,
        normal(3, 5) * 1e30,
        torch.cat([torch.zeros(1, 5), normal(2, 5)]),
        torch.tensor([[1e-45, -1e-45], [1.0, -1.0]]),
    ],
    ids=["zero", "constant", "negative", "one element", "tiny", "huge", "a dead channel", "denormal"],
)
def test_odd_tensors_round_trip(weight: Tensor, bits: int) -> None:
    """Dead channels, constants and extreme scales occur in real models; none may give NaN or come back changed."""
    codec = fit(weight, bits)
    projected = codec.project(weight)
    assert torch.isfinite(projected).all()
    assert (projected - weight).abs().max() <= weight.abs().max() * 0.5
    assert torch.equal(codec.project(projected), projected)
    assert torch.equal(unpack_tensor(*pack_tensor(projected, Encoding(codec))), projected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from([0, 8, 11, 64]), st.floats(-2, 2))
def test_the_grid_holds_its_own_points(seed: int, bits: int, group: int, shift: float) -> None:
    """Projecting twice is projecting once, bit for bit, or saving would change the model."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 33, generator=generator) + shift
    codec = fit(weight, bits, group)
    once = codec.project(weight)
    assert torch.equal(codec.project(once).view(torch.int32), once.view(torch.int32))
    symbols, _ = codec.symbols(once)
    facts, parts = codec.side()
    read = IntegerCodec.restore(facts, parts, symbols, (5, 33))
    assert torch.equal(read.view(torch.int32), once.view(torch.int32))


def test_training_stops_at_the_ends_of_the_range() -> None:
    """Straight-through: the forward weight is on the grid, the gradient passes inside the range and not outside."""
    codec = IntegerCodec(3, torch.tensor([[0.5]]))  # -2 ... 1.5
    weight = torch.tensor([[-3.0, -2.2, -0.6, 0.1, 1.6, 2.5]])
    training = codec.trainable(weight)
    out = training()
    assert out.tolist() == [[-2.0, -2.0, -0.5, 0.0, 1.5, 1.5]]
    out.backward(torch.full((1, 6), 2.0))
    (latent,) = training.parameters()
    assert latent.grad is not None
    assert latent.grad.tolist() == [[0.0, 2.0, 2.0, 2.0, 2.0, 0.0]]


def test_training_lowers_a_loss_and_ends_on_the_grid() -> None:
    """Recovery training must be able to improve a 3-bit layer, and its result must be storable as it is."""
    generator = torch.Generator().manual_seed(0)
    weight = normal(8, 32)
    inputs = torch.randn(64, 1, generator=generator) + 0.1 * torch.randn(64, 32, generator=generator)
    target = inputs @ weight.T
    codec = fit(weight, 3)
    training = codec.trainable(weight)
    optimizer = torch.optim.Adam(training.parameters(), lr=3e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 150)
    before = float((inputs @ codec.project(weight).T - target).square().mean())
    for _ in range(150):
        optimizer.zero_grad()
        (inputs @ training().T - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    dense, after = training.finish()
    assert float((inputs @ dense.T - target).square().mean()) < 0.3 * before
    assert torch.equal(unpack_tensor(*pack_tensor(dense, Encoding(after))), dense)


def test_the_technique_is_offered_for_every_layer() -> None:
    """It is found by name, supports all kinds of weighted layer, and its group size lives with its granularity."""
    found = technique("integer")
    assert found.stage is Stage.NUMERIC
    for kind in LAYER_KINDS:
        assert found.supports(Site("a", kind, ("a",)))
    assert not found.supports(Site("<model>", "model", ()))
    knobs = {knob.name: knob for knob in found.knobs(Site("a", "linear", ("a",)))}
    assert knobs["bits"].values == BITS
    assert knobs["group"].alive({"granularity": "group"})
    assert not knobs["group"].alive({"granularity": "channel"})
