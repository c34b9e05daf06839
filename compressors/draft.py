"""A model under compression: what a recipe's steps hand on to each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..spaces.site import Site
from ..spaces.task import Task
from .cache import LayerCache
from .encoding import Codec, Encoding


@dataclass
class Draft:
    """One trial's own copy of the model, and how its tensors will be stored. Steps change it in place.

    Attributes
    ----------
    model
        Modules with dense weights.
    encodings
        Parameter name -> encoding; a tensor without one is stored as it is.
    kept
        (module, side) -> which of the original channels remain, in order, for modules that lost some.
    latents
        Parameter name -> its values before the first `store` rounded or zeroed any; training starts there.
    integer
        Paths of the layers that shall run on 8-bit integers, see `activations.round_activations`.
    """

    model: nn.Module
    encodings: dict[str, Encoding] = field(default_factory=dict)
    kept: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)
    integer: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: nn.Module) -> Draft:
        """Start from a deep copy, so that the original is never touched."""
        return cls(copy.deepcopy(model).eval())

    def module(self, path: str) -> nn.Module:
        """Return the module at a path ("" is the model)."""
        return self.model.get_submodule(path)

    def has(self, path: str) -> bool:
        """Whether the module still exists (its block may have been removed)."""
        try:
            self.model.get_submodule(path)
        except AttributeError:
            return False
        return True

    def replace_module(self, path: str, new: nn.Module) -> None:
        """Put ``new`` at ``path``, and wherever else the same module object stands."""
        old = self.module(path)
        new.train(old.training)
        for parent in list(self.model.modules()):
            for name, child in list(parent._modules.items()):
                if child is old:
                    parent._modules[name] = new
        if old is self.model:
            self.model = new

    def weights(self, site: Site) -> list[str]:
        """Return the names of the site's weight tensors as they are now: after a factorisation, its factors.

        A weight is a parameter of two or more dimensions. A tensor shared by several modules is named once.
        """
        names: list[str] = []
        seen: set[int] = set()
        for member in site.members:
            if not self.has(member):
                continue
            for name, parameter in self.module(member).named_parameters():
                if parameter.ndim >= 2 and id(parameter) not in seen:
                    seen.add(id(parameter))
                    names.append(f"{member}.{name}" if member else name)
        return names

    def parameter(self, name: str) -> nn.Parameter:
        """Return a parameter by its full name."""
        return self.model.get_parameter(name)

    def encoding(self, name: str) -> Encoding:
        """Return how a parameter will be stored."""
        return self.encodings.get(name, Encoding())

    def store(self, name: str, encoding: Encoding) -> None:
        """Set how a parameter is stored, and move its values onto that grid."""
        parameter = self.parameter(name)
        self.latents.setdefault(name, parameter.detach().clone())
        with torch.no_grad():
            parameter.copy_(encoding.project(parameter.detach()))
        self.encodings[name] = encoding

    def restore_codec(self, name: str, weight: Tensor, codec: Codec) -> None:
        """Take over a trained weight together with the codec that holds it exactly."""
        with torch.no_grad():
            self.parameter(name).copy_(weight)
        self.encodings[name] = replace(self.encoding(name), codec=codec)


@dataclass(frozen=True)
class Checkpoint:
    """Where recovery training is, after one of its steps.

    Attributes
    ----------
    done, steps
        Steps taken, and steps in all.
    examples
        How many examples this step trained on.
    forward
        ``forward(inputs) -> outputs`` of the model as it would be stored now, in eval mode; calling it changes nothing.
    """

    done: int
    steps: int
    examples: int
    forward: Callable[[tuple[Tensor, ...]], Tensor]


class Saves(Protocol):
    """Where the state of training is kept, so that training whose worker was lost goes on with another."""

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and JSON-able facts that a technique saved in an earlier attempt; None if it didn't."""
        ...

    def due(self) -> bool:
        """Whether it is time to save."""
        ...

    def save(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep a technique's state, in place of an earlier one."""
        ...


class NoSaves:
    """Keeps nothing."""

    def load(self, name: str) -> None:  # noqa: ARG002 - there is nothing
        """Return None."""
        return

    def due(self) -> bool:
        """Return False."""
        return False

    def save(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep nothing."""


def _go_on(checkpoint: Checkpoint) -> None:
    """Let the training go on."""


@dataclass(frozen=True)
class Context:
    """What a technique may look at while it is applied.

    Attributes
    ----------
    task
        Calibration and training data, loss, and the original model (the teacher). Never validation or test.
    sites
        All sites of the original model by name.
    seed
        For everything random in the trial.
    cache
        Where results of single layers are kept; by default nowhere.
    checkpoint
        Recovery training calls it after every step. What it raises must pass: it ends the trial.
    saves
        Where recovery training keeps its state now and then; by default nowhere.
    """

    task: Task
    sites: dict[str, Site]
    seed: int = 0
    cache: LayerCache = field(default_factory=LayerCache.none)
    checkpoint: Callable[[Checkpoint], None] = _go_on
    saves: Saves = field(default_factory=NoSaves)
