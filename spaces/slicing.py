"""Cutting channels out of a layer: which dimension of which tensor a side is, and the smaller layer that results."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention
from .errors import ModelError

_CONV = (nn.Conv1d, nn.Conv2d)
_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)


def is_depthwise(module: nn.Module) -> bool:
    """Whether every channel is convolved on its own, one output channel for each input channel."""
    return isinstance(module, _CONV) and 1 < module.groups == module.in_channels == module.out_channels


def axes(module: nn.Module, side: str) -> dict[str, int]:
    """Return which dimension of each tensor holds the channels of a side.

    Parameters
    ----------
    module
        Linear, Conv1d/2d (dense or depthwise), BatchNorm1d/2d, Embedding or PReLU.
    side
        "out" or "in". A layer that works on each channel alone (batch norm, depthwise, PReLU) and an embedding
        have only "out".

    Returns
    -------
    dict
        Tensor name -> dimension; tensors that the module doesn't have are left out.

    Raises
    ------
    ModelError
        If that side of such a module can't be cut.
    """
    found: dict[str, int] = {}
    if isinstance(module, nn.Linear) or (isinstance(module, _CONV) and module.groups == 1):
        found = {"weight": 0, "bias": 0} if side == "out" else {"weight": 1}
    elif side == "out" and is_depthwise(module):
        found = {"weight": 0, "bias": 0}
    elif side == "out" and isinstance(module, _NORM):
        found = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}
    elif side == "out" and isinstance(module, nn.Embedding):
        found = {"weight": 1}
    elif side == "out" and isinstance(module, nn.PReLU) and module.num_parameters > 1:
        found = {"weight": 0}
    if not found:
        raise ModelError(f"The {side} channels of a {type(module).__name__} can't be removed.")
    return {name: dim for name, dim in found.items() if getattr(module, name, None) is not None}


def _sizes(module: nn.Module, side: str) -> tuple[str, ...]:
    if isinstance(module, nn.Linear):
        return ("out_features",) if side == "out" else ("in_features",)
    if is_depthwise(module):
        return ("out_channels", "in_channels", "groups")
    if isinstance(module, _CONV):
        return ("out_channels",) if side == "out" else ("in_channels",)
    if isinstance(module, nn.Embedding):
        return ("embedding_dim",)
    return ("num_parameters",) if isinstance(module, nn.PReLU) else ("num_features",)


def width(module: nn.Module, side: str) -> int:
    """Return how many channels a side has, or raise ModelError like `axes`."""
    axes(module, side)
    return int(getattr(module, _sizes(module, side)[0]))


def keep(module: nn.Module, side: str, index: Tensor) -> None:
    """Keep only some channels of a side, in place: the module becomes a smaller dense layer.

    The tensors are replaced, not resized: whoever holds the old ones keeps them unchanged.

    Parameters
    ----------
    module, side
        As for `axes`.
    index
        (kept,) positions that stay, int64, ascending.

    Raises
    ------
    ModelError
        If that side can't be cut, or nothing would be left of it.
    """
    if not len(index):
        raise ModelError(f"A {type(module).__name__} must keep at least one {side} channel.")
    for name, dim in axes(module, side).items():
        old = getattr(module, name)
        new = old.detach().index_select(dim, index.to(old.device))
        setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    for attribute in _sizes(module, side):
        setattr(module, attribute, len(index))


def settle_attention(attention: Attention) -> None:
    """Bring the sizes that an attention states in line with its projections after some lost channels."""
    attention.heads = attention.q.out_features // attention.head_dim
    attention.dim, attention.kdim, attention.vdim = (
        attention.q.in_features,
        attention.k.in_features,
        attention.v.in_features,
    )


def settle(model: nn.Module, path: str) -> None:
    """Do `settle_attention` if the module at ``path``, which lost channels, is a projection of an attention."""
    parent = model.get_submodule(path.rpartition(".")[0])
    if isinstance(parent, Attention):
        settle_attention(parent)


def remaining(positions: Tensor, lost: list[int]) -> Tensor:
    """Return the indices into ``positions`` (original positions that are still there) of those not ``lost``."""
    gone = torch.isin(positions, torch.tensor(lost, dtype=torch.int64))
    return torch.nonzero(~gone).flatten()
