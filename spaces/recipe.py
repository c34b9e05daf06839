"""One point of a space: which technique with which parameters at which site. The empty recipe is the baseline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import SettingError
from .knob import Scalar


def canonical(value: Scalar) -> Scalar:
    """Return the one form of a scalar that is hashed: floats to 9 significant digits, whole floats stay floats."""
    if isinstance(value, float):
        return float(f"{value:.9g}") + 0.0  # + 0.0 turns -0.0 into 0.0
    return value


@dataclass(frozen=True, order=True)
class Step:
    """One decision: apply ``technique`` with ``params`` at ``site``."""

    site: str
    technique: str
    params: tuple[tuple[str, Scalar], ...] = ()

    @classmethod
    def of(cls, site: str, technique: str, **params: Scalar) -> Step:
        """Build a step from keyword parameters, in canonical order and form."""
        return cls(site, technique, tuple(sorted((k, canonical(v)) for k, v in params.items())))

    @property
    def options(self) -> dict[str, Scalar]:
        """The parameters as a dictionary."""
        return dict(self.params)

    def __str__(self) -> str:
        inside = ", ".join(f"{k}={v}" for k, v in self.params)
        return f"{self.site}: {self.technique}({inside})"


@dataclass(frozen=True)
class Recipe:
    """A set of steps in canonical order. Two recipes with the same steps are equal, and have the same digest
    in every process and on every machine.

    Raises
    ------
    SettingError
        If a site gets the same technique twice.
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(Step.of(s.site, s.technique, **s.options) for s in self.steps))
        object.__setattr__(self, "steps", ordered)
        keys = [(s.site, s.technique) for s in ordered]
        for first, second in zip(keys, keys[1:]):
            if first == second:
                raise SettingError("recipe", f"{first[0]}: {first[1]}", "a site takes a technique once only")

    @classmethod
    def of(cls, steps: Iterable[Step]) -> Recipe:
        """Build a recipe from steps in any order."""
        return cls(tuple(steps))

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of SHA-256 over the canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is compressed."""
        return not self.steps

    def at(self, site: str) -> tuple[Step, ...]:
        """Return the steps at one site."""
        return tuple(s for s in self.steps if s.site == site)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the steps as JSON-able dictionaries."""
        return [{"site": s.site, "technique": s.technique, "params": dict(s.params)} for s in self.steps]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Recipe:
        """Read what `to_json` wrote."""
        try:
            return cls.of(Step.of(str(d["site"]), str(d["technique"]), **dict(d.get("params", {}))) for d in data)
        except (KeyError, TypeError, AttributeError) as error:
            raise SettingError("recipe", data, f"is not a list of {{site, technique, params}} ({error})") from None

    def __str__(self) -> str:
        return "; ".join(map(str, self.steps)) or "baseline"
