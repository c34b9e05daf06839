"""What a model is apart from the values of its weights: the key under which costs are remembered."""

from __future__ import annotations

import enum
import functools
import types
import weakref
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, fx, nn

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, enum.Enum, type),
    *(types.FunctionType, types.BuiltinFunctionType, torch.dtype, torch.device),
)


class _OpaqueError(Exception):
    """A value whose meaning can't be compared."""


def structure(model: nn.Module, inputs: tuple[Tensor, ...]) -> Hashable | None:
    """Return a key that is equal for models that run the same operators on the same shapes.

    It holds the modules' types and attributes (strides, groups, ...), the shapes and types of all tensors,
    but no weights. Deep copies have equal keys.

    Returns
    -------
    key
        None where an attribute can't be compared, so that nothing may be remembered for the model.
    """
    index: dict[int, int] = {}
    modules = []
    try:
        for path, module in model.named_modules(remove_duplicate=False):
            first = index.setdefault(id(module), len(index))
            if isinstance(module, fx.GraphModule):  # each has a class of its own
                modules.append((path, first, fx.GraphModule, _graph(module)))
            else:
                modules.append((path, first, type(module), _attributes(module, ())))
        return tuple(modules), _plain(inputs, ())
    except _OpaqueError:
        return None


def _graph(module: fx.GraphModule) -> Hashable:
    """Return what a traced forward pass does; functions as they are, nodes by name."""
    nodes = tuple((n.op, n.name, n.target, repr(n.args), repr(n.kwargs)) for n in module.graph.nodes)
    return nodes, _plain(module._parameters, ()), _plain(module._buffers, ())


def _attributes(owner: object, above: tuple[int, ...]) -> Hashable:
    if id(owner) in above:
        raise _OpaqueError  # an object that contains itself
    inside = (*above, id(owner))
    skipped = ("_modules", "training") if isinstance(owner, nn.Module) else ()
    return tuple((name, _plain(value, inside)) for name, value in sorted(vars(owner).items()) if name not in skipped)


def _plain(value: Any, above: tuple[int, ...]) -> Hashable:
    if isinstance(value, _ATOMS):
        return type(value), value
    if isinstance(value, Tensor):
        return Tensor, tuple(value.shape), value.dtype
    if isinstance(value, weakref.ref):  # nn.LSTM keeps some to its own weights
        return weakref.ref
    if isinstance(value, tuple | list):
        return type(value), tuple(_plain(v, above) for v in value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(_plain(v, above) for v in value)
    if isinstance(value, dict):
        return type(value), tuple((_plain(k, above), _plain(v, above)) for k, v in value.items())
    if isinstance(value, functools.partial):
        return _plain((value.func, value.args, value.keywords), above)
    if isinstance(value, nn.Module | types.MethodType) or not hasattr(value, "__dict__"):
        raise _OpaqueError
    return type(value), _attributes(value, above)
