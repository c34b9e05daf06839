"""Modules as data: a class from an allow-list and its constructor's arguments, both ways, without pickle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ..spaces.errors import ArtifactError
from ..spaces.tracing import OWN, class_name, own_classes, torch_classes

#: Constructor arguments that are no facts about the structure.
_IGNORED = {"self", "args", "kwargs", "device", "dtype", "_weight", "_freeze"}


@lru_cache(maxsize=1024)
def _parameters(cls: type[nn.Module]) -> dict[str, inspect.Parameter]:
    target = nn.RNNBase if issubclass(cls, nn.RNNBase) else cls
    found = {n: p for n, p in inspect.signature(target.__init__).parameters.items() if n not in _IGNORED}
    if issubclass(cls, nn.RNNBase):
        found.pop("mode", None)
        if cls is nn.RNN:
            found["nonlinearity"] = inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh")
    return found


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def describe(module: nn.Module) -> list[Any] | None:
    """Return ``[class name, {argument: value}]`` (defaults left out), or None if the module can't be described.

    A description is checked by building from it: same settings, same parameter names and shapes.
    """
    name = class_name(module)
    if name is None:
        return None
    if isinstance(module, nn.Sequential):
        return [name, {}]
    arguments: dict[str, Any] = {}
    cls: Any = type(module)
    for key, parameter in _parameters(cls).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return None
        if not hasattr(module, key):
            continue
        value = getattr(module, key)
        if key == "bias" and not isinstance(value, bool):
            value = value is not None
        if not _plain(value):
            return None
        if value != parameter.default or isinstance(value, bool) != isinstance(parameter.default, bool):
            arguments[key] = value
    values = tuple((key, _tupled(value)) for key, value in arguments.items())
    same = _gives(cls, name, values, repr(values), _shapes(module), module.extra_repr())
    return [name, arguments] if same else None


@lru_cache(maxsize=4096)
def _gives(
    cls: type[nn.Module],  # noqa: ARG001 - one of the same name may take its place
    name: str,
    arguments: tuple[tuple[str, Any], ...],
    text: str,  # noqa: ARG001 - tells True from 1
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    settings: str,
) -> bool:
    """Return whether building from a description gives these tensors and settings; most layers are described often."""
    try:
        again = build([name, dict(arguments)])
    except ArtifactError:
        return False
    return shapes == _shapes(again) and settings == again.extra_repr()


def _shapes(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes of a module's own tensors by name."""
    own = (*module._parameters.items(), *module._buffers.items())
    kept = {k: tuple(v.shape) for k, v in own if v is not None and k not in module._non_persistent_buffers_set}
    return tuple(sorted(kept.items()))


def build(description: Any) -> nn.Module:
    """Return a module without values (on the meta device) from what `describe` wrote.

    Raises
    ------
    ArtifactError
        If the class isn't on the allow-list or doesn't take the arguments.
    """
    try:
        name, arguments = description
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise TypeError("not [name, arguments]")
    except (TypeError, ValueError):
        raise ArtifactError(f"module description {description!r:.80} is not [class, arguments].") from None
    cls: Any
    if name.startswith(OWN):
        cls = own_classes().get(name.removeprefix(OWN))
        advice = "Import the package that provides this technique before loading."
    else:
        cls, advice = torch_classes().get(name), "Only torch.nn layers with plain arguments are allowed."
    if cls is None:
        raise ArtifactError(f"module class {name!r} may not be loaded. {advice}")
    if not set(arguments) <= set(_parameters(cls)) or not all(_plain(_tupled(v)) for v in arguments.values()):
        raise ArtifactError(f"module {name}: arguments {sorted(arguments)} are not plain arguments of its constructor.")
    try:
        with torch.device("meta"):
            built: nn.Module = cls(**{k: _tupled(v) for k, v in arguments.items()}).eval()
            return built
    except Exception as error:
        raise ArtifactError(f"module {name}({dict(arguments)}) can't be built: {error}") from error
