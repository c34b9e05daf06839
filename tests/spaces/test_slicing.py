"""Cutting channels: each kind of layer becomes the smaller layer, and nothing else of it changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.spaces.attention import Attention
from paretopress.spaces.errors import ModelError
from paretopress.spaces.slicing import keep, remaining, settle, width


@given(st.lists(st.integers(0, 30), min_size=1, unique=True), st.lists(st.integers(0, 30)))
@settings(max_examples=100, deadline=None)
def test_remaining_are_the_places_of_what_is_not_lost(positions: list[int], lost: list[int]) -> None:
    """Indexing with the result gives the original positions without the lost ones, in order."""
    here = torch.tensor(sorted(positions))
    assert here[remaining(here, lost)].tolist() == [p for p in sorted(positions) if p not in lost]


def _outputs(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer.eval()(x)
    return out


KEPT = torch.tensor([0, 2, 5])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 6), (2, 4)),
        (nn.Linear(4, 6, bias=False), (2, 4)),
        (nn.Conv1d(4, 6, 3), (2, 4, 8)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8)),
    ],
)
def test_out_channels_of_a_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The smaller layer gives the kept output channels, exactly."""
    x = torch.randn(shape)
    full = _outputs(layer, x)
    keep(layer, "out", KEPT)
    assert width(layer, "out") == 3
    torch.testing.assert_close(_outputs(layer, x), full[:, KEPT])


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(6, 4), (2, 6)), (nn.Conv1d(6, 4, 3), (2, 6, 8)), (nn.Conv2d(6, 4, 3), (2, 6, 8, 8))]
)
def test_in_channels_of_a_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The smaller layer gives what the full one gives on zeros in the lost input channels."""
    x = torch.randn(shape)
    zeroed = torch.zeros(shape)
    zeroed[:, KEPT] = x[:, KEPT]
    full = _outputs(layer, zeroed)
    keep(layer, "in", KEPT)
    assert width(layer, "in") == 3
    torch.testing.assert_close(_outputs(layer, x[:, KEPT]), full)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(6, 6, 3, groups=6), (2, 6, 8)),
        (nn.Conv2d(6, 6, 3, groups=6), (2, 6, 8, 8)),
        (nn.BatchNorm1d(6), (2, 6)),
        (nn.BatchNorm2d(6), (2, 6, 4, 4)),
        (nn.BatchNorm2d(6, affine=False), (2, 6, 4, 4)),
        (nn.PReLU(6), (2, 6, 4)),
    ],
)
def test_a_layer_of_single_channels(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Depthwise convolutions, batch norms and slopes lose input and output channel together."""
    for tensor in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
        nn.init.uniform_(tensor, 0.5, 2.0)
    x = torch.randn(shape)
    full = _outputs(layer, x)
    keep(layer, "out", KEPT)
    torch.testing.assert_close(_outputs(layer, x[:, KEPT]), full[:, KEPT])


def test_embedding_columns() -> None:
    """An embedding loses dimensions, never words."""
    layer = nn.Embedding(10, 6)
    words = torch.arange(10)
    full = layer(words)
    keep(layer, "out", KEPT)
    assert torch.equal(layer(words), full[:, KEPT])


def test_flags_survive_and_old_tensors_do_not_change() -> None:
    """A frozen parameter stays frozen, and whoever holds the old tensor keeps it."""
    layer = nn.Linear(3, 6)
    layer.weight.requires_grad_(False)
    old = layer.weight
    copied = old.clone()
    keep(layer, "out", KEPT)
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad
    assert torch.equal(old, copied)
    assert layer.weight.is_leaf


@pytest.mark.parametrize(
    ("layer", "side"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), "out"),
        (nn.Conv2d(4, 8, 3, groups=4), "out"),
        (nn.LayerNorm(8), "out"),
        (nn.BatchNorm2d(8), "in"),
        (nn.PReLU(), "out"),
        (nn.LSTM(8, 8), "in"),
    ],
)
def test_what_cannot_be_cut_says_so(layer: nn.Module, side: str) -> None:
    """A side without channels of its own raises before anything is changed."""
    with pytest.raises(ModelError, match="can't be removed"):
        keep(layer, side, torch.tensor([0]))


def test_one_channel_must_remain() -> None:
    """A layer without channels is refused."""
    with pytest.raises(ModelError, match="at least one"):
        keep(nn.Linear(3, 4), "out", torch.tensor([], dtype=torch.int64))


def test_an_attention_states_its_new_sizes() -> None:
    """After its projections lost a head and an input width, an attention's attributes rebuild the same module."""
    model = nn.ModuleDict({"a": Attention(8, 4, 2, 8, 8, batch_first=True)})
    attention = model["a"]
    assert isinstance(attention, Attention)
    for name in ("q", "k", "v"):
        keep(attention.get_submodule(name), "out", torch.arange(6))
        keep(attention.get_submodule(name), "in", torch.arange(5))
    keep(attention.o, "in", torch.arange(6))
    keep(attention.o, "out", torch.arange(5))
    settle(model, "a.q")
    again = Attention(attention.dim, attention.heads, attention.head_dim, attention.kdim, attention.vdim)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in attention.state_dict().items()
    }
    assert attention.heads == 3
