"""A model's forward pass as a graph of its layers (torch.fx), and which classes may be such layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import fx, nn

from .attention import Attention
from .catalogue import techniques

#: What the names of a technique's own classes begin with.
OWN = "paretopress:"
#: nn classes whose constructors take modules, or that are abstract: never a leaf with plain arguments.
_NOT_PLAIN = {
    "Module", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Transformer", "TransformerEncoder",
    "TransformerDecoder", "TransformerEncoderLayer", "TransformerDecoderLayer", "MultiheadAttention", "RNNBase",
    "RNNCellBase", "Container", "DataParallel", "AdaptiveLogSoftmaxWithLoss",
}  # fmt: skip
_MAX_INPUTS = 4
#: What `trace` puts before the path of every module.
ROOT = "m."


class UntraceableError(Exception):
    """The forward pass can't be written as a graph; carries the reason."""


@lru_cache(maxsize=1)
def torch_classes() -> dict[str, type[nn.Module]]:
    """Return the layers of `torch.nn` by name."""
    return {
        name: cls
        for name, cls in vars(nn).items()
        if isinstance(cls, type) and issubclass(cls, nn.Module) and name not in _NOT_PLAIN
    }


def own_classes() -> dict[str, type[nn.Module]]:
    """Return the layers that techniques declare, by name."""
    found: dict[str, type[nn.Module]] = {"Attention": Attention}
    for technique in techniques().values():
        for cls in getattr(technique, "modules", ()):
            found[cls.__name__] = cls
    return found


def class_name(module: nn.Module) -> str | None:
    """Return the name under which a module's exact class is allowed in a file, or None."""
    cls = type(module)
    if torch_classes().get(cls.__name__) is cls:
        return cls.__name__
    if own_classes().get(cls.__name__) is cls:
        return OWN + cls.__name__
    return None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - fx's signature
        return class_name(m) is not None and not any(m.children())


class _Root(nn.Module):
    """Gives the model one argument per example input, so that optional arguments keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.m = model


def _rooted(model: nn.Module, inputs: int) -> nn.Module:
    forwards: dict[int, Callable[..., Any]] = {
        1: lambda self, x0: self.m(x0),
        2: lambda self, x0, x1: self.m(x0, x1),
        3: lambda self, x0, x1, x2: self.m(x0, x1, x2),
        4: lambda self, x0, x1, x2, x3: self.m(x0, x1, x2, x3),
    }
    cls = type("_RootWithInputs", (_Root,), {"forward": forwards[inputs]})
    rooted = cls(model)
    assert isinstance(rooted, nn.Module)
    return rooted


def trace(model: nn.Module, inputs: int) -> tuple[fx.Graph, nn.Module]:
    """Return the graph of a model's forward pass, and the module that it belongs to.

    Modules and attributes in it are named by their paths in that module: those of the model begin with `ROOT`, and
    tensors that the forward pass makes are attributes of the module itself.

    Parameters
    ----------
    model
        In the mode in which it will run.
    inputs
        Number of positional inputs.

    Raises
    ------
    UntraceableError
        If tracing fails.
    """
    if not 1 <= inputs <= _MAX_INPUTS:
        raise UntraceableError(f"{inputs} inputs (at most {_MAX_INPUTS})")
    if class_name(model) is not None and not any(model.children()):
        raise UntraceableError("the model is a single layer")
    rooted = _rooted(model, inputs)
    try:
        return _Tracer().trace(rooted), rooted
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise UntraceableError(reason[0] if reason else type(error).__name__) from error


def untraceable(model: nn.Module, inputs: int) -> str:
    """Return why a model's forward pass can't be traced, or ""."""
    try:
        trace(model, inputs)
    except UntraceableError as reason:
        return str(reason)
    return ""
