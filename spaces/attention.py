"""`nn.MultiheadAttention` as four Linear layers and one attention product, so that each can be compressed.

`nn.MultiheadAttention` never calls its ``out_proj.forward`` and keeps q, k and v in one tensor: a replaced or
quantised projection inside it would be ignored without a word.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention with separate projections (Vaswani et al., 2017); a drop-in for `nn.MultiheadAttention`.

    Parameters
    ----------
    dim
        Width of the residual stream, in and out.
    heads
        Number of heads.
    head_dim
        Width of one head; q, k and v project to ``heads * head_dim``.
    kdim, vdim
        Widths of key and value inputs.
    bias
        Whether the projections have a bias.
    dropout
        On the attention weights while training.
    batch_first
        (batch, sequence, width) if true, else (sequence, batch, width).
    """

    # nn.TransformerEncoderLayer looks at these to decide on a fused path that would skip our projections.
    in_proj_bias = None
    in_proj_weight = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        kdim: int,
        vdim: int,
        bias: bool = True,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.head_dim = dim, heads, head_dim
        self.kdim, self.vdim, self.bias, self.dropout, self.batch_first = kdim, vdim, bias, dropout, batch_first
        self.q = nn.Linear(dim, heads * head_dim, bias)
        self.k = nn.Linear(kdim, heads * head_dim, bias)
        self.v = nn.Linear(vdim, heads * head_dim, bias)
        self.o = nn.Linear(heads * head_dim, dim, bias)

    @property
    def num_heads(self) -> int:
        """The name that `nn.MultiheadAttention` gives to ``heads``."""
        return self.heads

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,  # noqa: ARG002 - the argument is part of the interface it stands in for
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: ARG002 - as above
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Return the attended values, shaped like ``query``, and None for the weights, which are never formed."""
        if not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        batch, length = query.shape[0], query.shape[1]
        q = self.q(query).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(key).view(batch, key.shape[1], self.heads, self.head_dim).transpose(1, 2)
        v = self.v(value).view(batch, value.shape[1], self.heads, self.head_dim).transpose(1, 2)
        mask = _merged(attn_mask, key_padding_mask, batch, self.heads, q.dtype)
        drop = self.dropout if self.training else 0.0
        # nn.MultiheadAttention takes is_causal as a hint beside attn_mask; the product takes one or the other.
        out = F.scaled_dot_product_attention(q, k, v, mask, drop, is_causal and mask is None)
        out = self.o(out.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim))
        return (out if self.batch_first else out.transpose(0, 1)), None


def _merged(
    attn_mask: Tensor | None, padding: Tensor | None, batch: int, heads: int, dtype: torch.dtype
) -> Tensor | None:
    def additive(mask: Tensor) -> Tensor:
        if mask.dtype == torch.bool:
            return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
        return mask.to(dtype)

    total: Tensor | None = None
    if attn_mask is not None:
        total = additive(attn_mask)
        if total.ndim == 3:
            total = total.view(batch, heads, *total.shape[1:])
    if padding is not None:
        pad = additive(padding)[:, None, None, :]
        total = pad if total is None else total + pad
    return total


def _converted(old: nn.MultiheadAttention) -> Attention | None:
    if old.bias_k is not None or old.bias_v is not None or old.add_zero_attn:
        return None  # stays as it is: rare options that the separate form doesn't have
    kdim, vdim = old.kdim or old.embed_dim, old.vdim or old.embed_dim
    has_bias = old.in_proj_bias is not None
    new = Attention(
        old.embed_dim, old.num_heads, old.head_dim, kdim, vdim, has_bias, float(old.dropout), bool(old.batch_first)
    )
    if old._qkv_same_embed_dim:
        weights = old.in_proj_weight.chunk(3)
    else:
        weights = (old.q_proj_weight, old.k_proj_weight, old.v_proj_weight)
    with torch.no_grad():
        for layer, weight in zip((new.q, new.k, new.v), weights):
            layer.weight.copy_(weight)
        new.o.weight.copy_(old.out_proj.weight)
        if old.in_proj_bias is not None:
            for layer, bias in zip((new.q, new.k, new.v), old.in_proj_bias.chunk(3)):
                layer.bias.copy_(bias)
            new.o.bias.copy_(old.out_proj.bias)
    return new.to(old.out_proj.weight.device, old.out_proj.weight.dtype).train(old.training)


def convert_attention(model: nn.Module) -> nn.Module:
    """Replace every `nn.MultiheadAttention` in ``model`` (in place, and at the root) and return the model.

    The model computes the same function, except that attention weights are no longer returned, and that a
    `nn.TransformerEncoder` with a padding mask doesn't set the padded positions of its output to zero.
    """
    seen: dict[int, nn.Module] = {}

    def replace(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.MultiheadAttention):
            if id(module) not in seen:
                seen[id(module)] = _converted(module) or module
            return seen[id(module)]
        # Not named_children(), which leaves out the second path of a module that stands at two.
        for name, child in list(module._modules.items()):
            new = replace(child) if child is not None else None
            if new is not child:
                setattr(module, name, new)
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # its fused path reads the weights of a `nn.MultiheadAttention`
        return module

    return replace(model)
