"""The separate form of attention computes what `nn.MultiheadAttention` computes, wherever it stands."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from paretopress.spaces.attention import Attention, convert_attention


def _pair(**options: object) -> tuple[nn.MultiheadAttention, Attention]:
    torch.manual_seed(0)
    old = nn.MultiheadAttention(8, 2, **options)  # type: ignore[arg-type]  # options of several types
    for parameter in old.parameters():
        nn.init.normal_(parameter, std=0.5)  # the biases start at zero, and would be compared without effect
    new = convert_attention(copy.deepcopy(old.eval()))
    assert isinstance(new, Attention)
    return old, new


def _same(old: nn.Module, new: nn.Module, *args: Tensor, **kwargs: object) -> None:
    with torch.no_grad():
        torch.testing.assert_close(new(*args, **kwargs)[0], old(*args, **kwargs)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_self_attention(batch_first: bool, bias: bool) -> None:
    """Either order of dimensions, with and without bias."""
    old, new = _pair(batch_first=batch_first, bias=bias)
    x = torch.randn(3, 5, 8)
    _same(old, new, x, x, x)


@pytest.mark.parametrize("batch_first", [True, False])
def test_other_widths_of_keys_and_values(batch_first: bool) -> None:
    """Cross-attention with kdim and vdim, and another length than the query's."""
    old, new = _pair(batch_first=batch_first, kdim=6, vdim=4)
    lengths = ((3, 5), (3, 7)) if batch_first else ((5, 3), (7, 3))
    _same(old, new, torch.randn(*lengths[0], 8), torch.randn(*lengths[1], 6), torch.randn(*lengths[1], 4))


PADDING = torch.tensor([[False, False, True, True, True], [False] * 5, [False] * 4 + [True]])
CAUSAL = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)


@pytest.mark.parametrize(
    "masks",
    [
        {"key_padding_mask": PADDING},
        {"attn_mask": CAUSAL},
        {"attn_mask": torch.randn(5, 5)},
        {"attn_mask": torch.randn(6, 5, 5)},
        {"attn_mask": CAUSAL, "key_padding_mask": PADDING},
        {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
    ],
    ids=["padding", "boolean", "additive", "per-head", "both", "causal"],
)
def test_masks(masks: dict[str, object]) -> None:
    """Padding, boolean, additive and per-head masks, alone and together."""
    old, new = _pair(batch_first=True)
    x = torch.randn(3, 5, 8)
    _same(old, new, x, x, x, **masks)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_inside_an_encoder_layer(norm_first: bool, batch_first: bool) -> None:
    """In eval mode, where torch would take its fused path, the converted layer gives the same."""
    torch.manual_seed(0)
    old = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=norm_first).eval()
    new = convert_attention(copy.deepcopy(old))
    x = torch.randn(3, 5, 8)
    padding = PADDING if batch_first else torch.zeros(5, 3, dtype=torch.bool)
    for kwargs in ({}, {"src_key_padding_mask": padding}):
        with torch.no_grad():
            torch.testing.assert_close(new(x, **kwargs), old(x, **kwargs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nested", [True, False])
def test_inside_an_encoder(nested: bool) -> None:
    """A whole `nn.TransformerEncoder`, with padding and with a causal mask, in eval mode without gradients."""
    torch.manual_seed(0)
    old = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=nested)
    old.eval()
    new = convert_attention(copy.deepcopy(old))
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(new(x), old(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new(x, mask=CAUSAL), old(x, mask=CAUSAL), rtol=1e-4, atol=1e-5)
        seen = ~PADDING  # torch may leave anything, or zeros, where the padding is
        padded = (m(x, src_key_padding_mask=PADDING) for m in (new, old))
        torch.testing.assert_close(*(out[seen] for out in padded), rtol=1e-4, atol=1e-5)


def test_the_projections_are_called_in_eval_mode() -> None:
    """A changed projection changes the output of an encoder: no fused path reads the weights behind its back."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = convert_attention(nn.TransformerEncoder(layer, 1)).eval()
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        before = model(x)
        attention = next(m for m in model.modules() if isinstance(m, Attention))
        attention.o = nn.Linear(8, 8)
        assert not torch.allclose(model(x), before)


def test_a_shared_attention_stays_shared() -> None:
    """One module at two paths is converted to one module."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.MultiheadAttention(8, 2)
            self.b = self.a

    model = convert_attention(Two())
    assert isinstance(model.a, Attention)
    assert model.a is model.b


@pytest.mark.parametrize("option", ["add_bias_kv", "add_zero_attn"])
def test_rare_options_are_left_alone(option: str) -> None:
    """What the separate form can't express stays a `nn.MultiheadAttention`."""
    assert isinstance(convert_attention(nn.MultiheadAttention(8, 2, **{option: True})), nn.MultiheadAttention)
