"""One point of a space: which technique with which parameters at which site. No steps: the baseline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Any

from .errors import SettingError
from .knob import Scalar, canonical


def _comparable(value: Scalar) -> Scalar:
    """Return one spelling for values that Python calls equal: 1, 1.0 and True."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole else value


@dataclass(frozen=True, order=True)
class Step:
    """One decision: apply ``technique`` with ``params`` at ``site``."""

    site: str
    technique: str
    params: tuple[tuple[str, Scalar], ...] = ()

    def __hash__(self) -> int:
        known = vars(self)
        if "_hash" not in known:  # once: recipes are looked up step by step, thousands at a time
            known["_hash"] = hash((self.site, self.technique, self.params))
        found: int = known["_hash"]
        return found

    def __reduce__(self) -> tuple[type[Step], tuple[Any, ...]]:
        """Leave the hash behind: another process has others for the same text."""
        return Step, (self.site, self.technique, self.params)

    @classmethod
    def of(cls, site: str, technique: str, /, **params: Scalar) -> Step:
        """Build a step from keyword parameters, in canonical order and form.

        Raises
        ------
        SettingError
            If a parameter isn't a string, a boolean or a finite number.
        """
        return cls(site, technique, tuple(sorted((k, canonical(v)) for k, v in params.items())))

    @property
    def options(self) -> dict[str, Scalar]:
        """The parameters as a dictionary."""
        return dict(self.params)

    def __str__(self) -> str:
        inside = ", ".join(f"{k}={v}" for k, v in self.params)
        return f"{self.site}: {self.technique}({inside})"


_PLACE = attrgetter("site", "technique")


@lru_cache(maxsize=100_000)
def _canonical(step: Step, types: tuple[type, ...]) -> Step:  # noqa: ARG001 - 1, 1.0 and True are equal, not the same
    """Return a step in canonical form; the same steps are one object, however many recipes have them."""
    return Step.of(step.site, step.technique, **step.options)


@lru_cache(maxsize=100_000)
def _text(step: Step) -> str:
    """Return a step as canonical JSON, the same for equal steps."""
    plain = [step.site, step.technique, {k: _comparable(v) for k, v in step.params}]
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=100_000)
def _read(site: str, technique: str, params: tuple[tuple[str, Scalar], ...], types: tuple[type, ...]) -> Step:  # noqa: ARG001 - as for `_canonical`
    return Step.of(site, technique, **dict(params))


@dataclass(frozen=True)
class Recipe:
    """A set of steps in canonical order. Two recipes with the same steps are equal, and have the same digest
    in every process and on every machine.

    Raises
    ------
    SettingError
        If something is no step, or a site gets the same technique twice.
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        try:
            steps = [_canonical(s, tuple([type(value) for _, value in s.params])) for s in self.steps]
        except (TypeError, ValueError, AttributeError):  # told below: no steps, no pairs, no scalars
            given: tuple[object, ...] = self.steps
            for step in given:
                if not isinstance(step, Step):
                    advice = "Write Recipe.of([Step.of(site, technique, bits=4), ...])."
                    raise SettingError("recipe", step, "is no step", advice) from None
            steps = [Step.of(s.site, s.technique, **s.options) for s in self.steps]
        steps.sort(key=_PLACE)
        for first, second in pairwise(steps):
            if (first.site, first.technique) == (second.site, second.technique):
                here = f"{first.site}: {first.technique}"
                raise SettingError("recipe", here, "a site takes a technique once only", "Keep one of the two steps.")
        object.__setattr__(self, "steps", tuple(steps))

    @classmethod
    def of(cls, steps: Iterable[Step]) -> Recipe:
        """Build a recipe from steps in any order."""
        return cls(tuple(steps))

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of SHA-256 over the canonical JSON."""
        text = f"[{','.join(map(_text, self.steps))}]"
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
        """Read what `to_json` wrote.

        Raises
        ------
        SettingError
            If it isn't a list of steps, or a step's parameters aren't scalars.
        """
        try:
            steps = []
            for d in data:
                params = dict(**d.get("params", {}))
                types = tuple(map(type, params.values()))
                steps.append(_read(str(d["site"]), str(d["technique"]), tuple(params.items()), types))
        except (KeyError, TypeError, AttributeError) as error:
            rule = f"must be a list of {{site, technique, params}} ({type(error).__name__}: {error})"
            raise SettingError("recipe", data, rule) from None
        return cls(tuple(steps))

    def __str__(self) -> str:
        return "; ".join(map(str, self.steps)) or "baseline"


#: Of the recipe that compresses nothing.
BASELINE = Recipe().digest
