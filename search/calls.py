"""One forward pass taken apart: what every module is given and gives, so that each can be run again by itself.

A module that calls others is run with these answering from the record: what is left is its own work (activations,
additions, attention scores, the interpreter). What the forward pass does without calling a module is the work of the
module around it.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from ..evaluators.structure import structure


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes
    ----------
    path
        Of the module, the first of its names.
    args, kwargs
        What it was given, copied before it ran.
    inside
        Path and output of each module that it called itself, in order.
    key
        Equal for calls that do the same work: the module's structure and the shapes of all that goes in and, from the
        modules it calls, comes out. None where that can't be compared.
    """

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inside: list[tuple[str, Any]] = field(default_factory=list)
    key: Hashable | None = None


class Pass:
    """A forward pass of a model.

    Parameters
    ----------
    model
        In eval mode. It is watched from now on: it must not be used for anything else.
    args, kwargs
        Its inputs.

    Attributes
    ----------
    calls
        Path -> the calls of that module, in order; without `nn.Sequential`, which has no work of its own. Empty if the
        model doesn't run while it is watched.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        self.calls: dict[str, list[Call]] = {}
        self._stack: list[Call] = []
        self._answers: dict[str, Callable[[], Any]] = {}
        self._done = False
        self._modules = modules = dict(model.named_modules())
        self._forwards = {path: module.forward for path, module in modules.items()}
        own = {path for path, module in modules.items() if "forward" in vars(module)}
        for path, module in modules.items():
            self._watch(path, module)
        try:
            with torch.no_grad():
                model(*copied(args), **copied(dict(kwargs or {})))
        except Exception:  # whatever a forward pass does that it can't do when it is watched
            self.calls = {}
        self.calls = {path: calls for path, calls in self.calls.items() if type(modules[path]) is not nn.Sequential}
        for path, module in modules.items():  # keys are those of modules that nobody watches
            if path in own:
                module.forward = self._forwards[path]
            else:
                del module.forward
        for path, calls in self.calls.items():
            for call in calls:
                call.key = _key(modules[path], call)
        for path, module in modules.items():
            self._watch(path, module)
        self._done = True

    def _watch(self, path: str, module: nn.Module) -> None:
        """Note what goes in and out of a module; once that is known, answer or run as `runner` wants it."""
        forward = self._forwards[path]

        def watched(*args: Any, **kwargs: Any) -> Any:
            if path in self._answers:
                return self._answers[path]()
            if self._done:
                return forward(*args, **kwargs)
            call = Call(path, copied(args), copied(kwargs))
            self.calls.setdefault(path, []).append(call)
            self._stack.append(call)
            try:
                output = forward(*args, **kwargs)
            finally:
                self._stack.pop()
            if self._stack:
                self._stack[-1].inside.append((path, copied(output)))
            return output

        module.forward = watched

    def runner(self, call: Call) -> Callable[[], Callable[[], Any]]:
        """Return a function that gets a call ready on fresh copies of its inputs and returns the work to be timed.

        Calls that the module makes itself are answered from the record. Only one call is to be ready at a time.
        """
        module = self._modules[call.path]
        outputs: dict[str, list[Any]] = {}
        for path, output in call.inside:
            outputs.setdefault(path, []).append(output)

        def ready() -> Callable[[], Any]:
            args, kwargs = copied((call.args, call.kwargs))
            self._answers = {path: cycle(copied(found)).__next__ for path, found in outputs.items()}
            return lambda: module(*args, **kwargs)

        return ready


def _key(module: nn.Module, call: Call) -> Hashable | None:
    inside = tuple((path.removeprefix(f"{call.path}."), output) for path, output in call.inside)
    if inside:  # its own work doesn't depend on what the modules inside are, but on what they give
        bare = object.__new__(type(module))
        bare.__dict__.update({**vars(module), "_modules": {}})
        module = bare
    return structure(module, (call.args, call.kwargs, inside))  # type: ignore[arg-type] # nested is as good


def copied(value: Any) -> Any:
    """Return tensors copied, in whatever tuples, lists and dictionaries they come; other things as they are."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        parts = [copied(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if type(value) is list:
        return [copied(part) for part in value]
    if type(value) is dict:
        return {key: copied(part) for key, part in value.items()}
    return value


def name_of(key: Hashable) -> str:
    """Return a digest of a structure's key that is the same in every process."""
    return hashlib.sha256(_text(key).encode()).hexdigest()[:16]


def _text(key: Any) -> str:
    if isinstance(key, tuple):
        return f"({','.join(map(_text, key))})"
    if isinstance(key, frozenset):
        return f"{{{','.join(sorted(map(_text, key)))}}}"
    if isinstance(key, type | types.FunctionType | types.BuiltinFunctionType):
        return f"{key.__module__}.{key.__qualname__}"
    return repr(key)
