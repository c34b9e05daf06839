"""The techniques that exist, by name. `compressors` registers its own here; so may any other package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Protocol, TypeVar, runtime_checkable

from .errors import SettingError
from .knob import Knob
from .recipe import Step
from .registry import Registry
from .site import Site
from .stage import Stage


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

    @property
    def traced_kinds(self) -> frozenset[str]:
        """Kinds of site at which it needs a model whose forward pass can be traced."""
        ...

    def supports(self, site: Site) -> bool:
        """Whether it can be applied at the site."""
        ...

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        """Return its parameters at the site, each from the gentlest value to the strongest."""
        ...


T = TypeVar("T", bound=Technique)

REGISTRY: Registry[Technique] = Registry("paretopress.techniques", "technique")


def register(technique: T) -> T:
    """Make a technique known by its name, and return it; see `Registry.add` for the error."""
    REGISTRY.add(technique)
    return technique


def technique(name: str) -> Technique:
    """Return the technique of that name, or raise SettingError with the nearest known one."""
    return REGISTRY.get(name)


def in_stage_order(steps: Iterable[Step]) -> list[Step]:
    """Return steps as they are applied; those of techniques that aren't installed here come last."""
    known = techniques()
    return sorted(steps, key=lambda s: (known[s.technique].stage if s.technique in known else len(Stage) + 1, s.site))


def check_stages(steps: Iterable[Step]) -> None:
    """Check that no site takes two techniques of one stage: the second would undo the first, or find nothing to do.

    Raises
    ------
    SettingError
        If one does.
    """
    taken: dict[tuple[str, Stage], str] = {}
    for step in steps:
        place = step.site, technique(step.technique).stage
        first = taken.setdefault(place, step.technique)
        if first != step.technique:
            rule = f"{first} and {step.technique} are both of the stage {place[1].name.lower()}"
            raise SettingError("recipe", step.site, rule, "Keep one of the two steps.")


def techniques() -> Mapping[str, Technique]:
    """Return all techniques by name, in stage order."""
    return dict(sorted(REGISTRY.all().items(), key=lambda item: (item[1].stage, item[0])))
