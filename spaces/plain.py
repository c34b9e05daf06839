"""A user's model as plain layers: parametrised weights become ordinary ones, attention becomes four projections.

Both compute the same function in eval mode; what can't be made plain without changing it stays as it is.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .attention import convert_attention

#: Outputs of the converted model may differ by this share of their size: sums in another order.
_TOLERANCE = 1e-4


def plain(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Return the model (in eval mode; it may be changed in place) made of layers that can be compressed one by one.

    Weight norm, spectral norm and other parametrisations of `torch.nn.utils.parametrize` are computed once.
    `nn.MultiheadAttention` is converted, unless the outputs for ``inputs`` would change (a padding mask's outputs
    do in an `nn.TransformerEncoder`), the input has no batch dimension, or the model reads attention weights; then
    it stays, and is not compressed.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _bake(module)
    if not any(isinstance(m, nn.MultiheadAttention) for m in model.modules()):
        return model
    converted = convert_attention(copy.deepcopy(model)).eval()
    return converted if _equal(model, converted, inputs) else model


def _bake(module: nn.Module) -> None:
    """Replace parametrised tensors by their values. torch's own removal would edit the class that a deep copy
    shares with the user's model, and break that.
    """
    names = [name for name, _ in module.get_submodule("parametrizations").named_children()]
    values = {name: getattr(module, name).detach().clone() for name in names}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        setattr(module, name, nn.Parameter(value))


def _equal(model: nn.Module, converted: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    with torch.no_grad():
        before = model(*(x.clone() for x in inputs))
        try:
            after = converted(*(x.clone() for x in inputs))
        except Exception:
            return False
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.shape != after.shape:
        return False
    return bool((before - after).abs().max() <= _TOLERANCE * before.abs().max().clamp(min=1e-6))
