"""The techniques that exist, by name. `compressors` registers its own here; so may any other package."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from importlib.metadata import entry_points
from typing import Protocol, TypeVar, runtime_checkable

from .errors import SettingError, nearest
from .knob import Knob
from .site import Site
from .stage import Stage

GROUP = "paretopress.techniques"


class DataNeed(Enum):
    """What a technique needs besides the weights."""

    NONE = "no data"
    CALIBRATION = "calibration batches"
    TRAINING = "training"


@runtime_checkable
class Technique(Protocol):
    """What a space needs to know of a technique."""

    @property
    def name(self) -> str:
        """Its name in recipes, files and settings."""
        ...

    @property
    def stage(self) -> Stage:
        """When it acts."""
        ...

    @property
    def data_need(self) -> DataNeed:
        """What it needs besides the weights."""
        ...

    @property
    def forbids(self) -> frozenset[str]:
        """Names of techniques, or of stages in lower case, that can't share a site with this one."""
        ...

    def supports(self, site: Site) -> bool:
        """Whether it can be applied at the site."""
        ...

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        """Return its parameters at the site, each from the gentlest value to the strongest."""
        ...


T = TypeVar("T", bound=Technique)
_techniques: dict[str, Technique] = {}
_loaded = False


def _load() -> None:
    global _loaded  # noqa: PLW0603 - entry points are read once per process
    if _loaded:
        return
    _loaded = True  # before loading: a technique's module may look others up
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            _loaded = False
            advice = f"Mend or uninstall the package {entry.dist.name if entry.dist else 'that declares it'}."
            raise SettingError(f"entry point {GROUP}", entry.value, f"can't be loaded: {error}", advice) from error


def register(technique: T) -> T:
    """Make a technique known by its name, and return it. Registering the same class again replaces it.

    Raises
    ------
    SettingError
        If another technique has that name.
    """
    known = _techniques.get(technique.name)
    if known is not None and _origin(known) != _origin(technique):
        raise SettingError("technique", technique.name, "is already taken", "Give yours another name.")
    _techniques[technique.name] = technique
    return technique


def _origin(technique: Technique) -> tuple[str, str]:
    return type(technique).__module__, type(technique).__qualname__


def technique(name: str) -> Technique:
    """Return the technique of that name, or raise SettingError with the nearest known one."""
    _load()
    if name not in _techniques:
        raise SettingError("technique", name, "is unknown", nearest(name, _techniques))
    return _techniques[name]


def techniques() -> Mapping[str, Technique]:
    """Return all techniques by name, in stage order."""
    _load()
    return dict(sorted(_techniques.items(), key=lambda item: (item[1].stage, item[0])))


def own() -> list[Technique]:
    """Return the techniques that no installed package brings: those a worker process must be handed."""
    _load()
    brought = {entry.module.partition(".")[0] for entry in entry_points(group=GROUP)}
    return [t for t in _techniques.values() if type(t).__module__.partition(".")[0] not in brought]
