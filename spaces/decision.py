"""The choice taken at one site in one stage: what is offered there, and what can stack on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .errors import SettingError, nearest
from .knob import Knob, Scalar
from .stage import Stage

#: The value of a decision that applies no technique.
NONE = "none"


@dataclass(frozen=True)
class Option:
    """A technique that a decision may take, with its parameters.

    Raises
    ------
    SettingError
        If two parameters have one name, or a condition looks at one that doesn't come before.
    """

    technique: str
    knobs: tuple[Knob, ...] = ()
    forbids: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        earlier: list[str] = []
        for knob in self.knobs:
            setting = f"{self.technique}.{knob.name}"
            if knob.name in earlier:
                raise SettingError(setting, knob.name, "is the name of two parameters", "Rename one of them.")
            if knob.when is not None and knob.when[0] not in earlier:
                advice = nearest(knob.when[0], earlier)
                raise SettingError(setting, knob.when, "must look at an earlier parameter", advice)
            earlier.append(knob.name)

    @cached_property
    def size(self) -> int:
        """Number of distinct parameter settings."""
        return len(self.settings())

    def live(self, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return the parameters that are alive, from ``values`` by name; a missing one is the gentlest.

        Raises
        ------
        SettingError
            If a live parameter's value isn't in its grid.
        """
        params: dict[str, Scalar] = {}
        for knob in self.knobs:
            if knob.alive(params):
                params[knob.name] = knob.values[knob.index(values.get(knob.name, knob.values[0]))]
        return params

    def settings(self) -> list[dict[str, Scalar]]:
        """Return every distinct setting of the live parameters."""
        found: list[dict[str, Scalar]] = [{}]
        for knob in self.knobs:
            grown: list[dict[str, Scalar]] = []
            for params in found:
                grown += [{**params, knob.name: v} for v in knob.values] if knob.alive(params) else [params]
            found = grown
        return found


@dataclass(frozen=True)
class Decision:
    """The choice taken at one site in one stage: one of ``options``, or nothing."""

    site: str
    stage: Stage
    options: tuple[Option, ...]

    @property
    def name(self) -> str:
        """``site/stage``, the name of its dimension."""
        return f"{self.site}/{self.stage.name.lower()}"

    def option(self, technique: str) -> Option:
        """Return the option of that technique, or raise SettingError."""
        for option in self.options:
            if option.technique == technique:
                return option
        offered = [NONE, *(o.technique for o in self.options)]
        raise SettingError(self.name, technique, "is no choice here", nearest(technique, offered))

    def dimension(self, option: Option, knob: str) -> str:
        """Return ``site/technique.knob``, the name of a parameter's dimension."""
        return f"{self.site}/{option.technique}.{knob}"


def compatible(stage: Stage, option: Option, taken: Iterable[tuple[Stage, Option]]) -> bool:
    """Return whether an option can join those already taken at the same site, in whichever order."""
    for other_stage, other in taken:
        if {option.technique, stage.name.lower()} & other.forbids:
            return False
        if {other.technique, other_stage.name.lower()} & option.forbids:
            return False
    return True


def combinations(decisions: Sequence[Decision]) -> int:
    """Return the number of distinct legal choices at one site, the empty one included."""
    states: list[tuple[tuple[tuple[Stage, Option], ...], int]] = [((), 1)]
    for decision in decisions:
        states += [
            ((*chosen, (decision.stage, option)), count * option.size)
            for chosen, count in states
            for option in decision.options
            if compatible(decision.stage, option, chosen)
        ]
    return sum(count for _, count in states)
