"""One searchable dimension: a finite, ordered grid of values, optionally alive only under a condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import SettingError

Scalar = str | int | float | bool


def canonical(value: Scalar) -> Scalar:
    """Return the one form of a scalar that is stored: a float has 9 significant digits, and no negative zero.

    Raises
    ------
    SettingError
        If it isn't a string, a boolean or a finite number.
    """
    if not isinstance(value, str | int | float):
        raise SettingError("value", value, "must be a number, a string or a boolean")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SettingError("value", value, "must be finite")
        return float(f"{value:.9g}") + 0.0  # + 0.0 turns -0.0 into 0.0
    return value


@dataclass(frozen=True)
class Knob:
    """A named choice among a few values.

    Every domain is a finite grid, so that a space can be counted, a recipe can be hashed and a sampler can
    code a knob as an integer. List the values from the gentlest to the strongest compression: the uniform
    recipes that start a search walk along that order.

    Parameters
    ----------
    name
        The parameter's name in a recipe step.
    values
        The grid, without repetitions. Floats are kept to 9 significant digits, the form that recipes store.
    ordered
        False if neighbouring values have nothing in common (a sampler then treats them as categories).
    when
        ``(other_knob, value)``: alive only if that knob of the same technique has that value.
    bounds
        Smallest and largest value a user may list for a numeric knob; None allows the default grid only.

    Raises
    ------
    SettingError
        If the grid is empty, repeats a value or holds something that isn't a finite scalar.
    """

    name: str
    values: tuple[Scalar, ...]
    ordered: bool = True
    when: tuple[str, Scalar] | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.values:
            raise SettingError(self.name, [], "a knob needs at least one value", "List the values to try.")
        try:
            grid = tuple(canonical(value) for value in self.values)
        except SettingError as error:
            raise SettingError(self.name, error.value, f"a knob's value {error.rule}") from None
        if len(set(grid)) != len(grid):
            raise SettingError(self.name, list(grid), "a knob's values must differ", "Remove the repeated ones.")
        object.__setattr__(self, "values", grid)

    @classmethod
    def integers(cls, name: str, low: int, high: int, step: int = 1, **options: Any) -> Knob:
        """Return the grid low, low + step, ... up to high (inclusive)."""
        if step < 1 or low > high:
            raise SettingError(name, [low, high, step], "low <= high and step >= 1 must hold")
        return cls(name, tuple(range(low, high + 1, step)), **options)

    @classmethod
    def floats(cls, name: str, low: float, high: float, step: float, **options: Any) -> Knob:
        """Return the grid low, low + step, ... up to high (inclusive), rounded to 6 digits."""
        if not (step > 0 and low <= high and math.isfinite(high - low)):
            raise SettingError(name, [low, high, step], "low <= high and step > 0 must hold")
        count = int((high - low) / step + 1e-9) + 1
        return cls(name, tuple(round(low + i * step, 6) for i in range(count)), **options)

    def index(self, value: object) -> int:
        """Return the position of ``value`` in the grid, or raise SettingError."""
        for position, known in enumerate(self.values):
            same_kind = isinstance(known, bool) == isinstance(value, bool)
            if same_kind and known == value:
                return position
        raise SettingError(self.name, value, f"must be one of {list(self.values)}")

    def alive(self, params: dict[str, Scalar]) -> bool:
        """Whether the knob counts, given the parameters chosen so far."""
        return self.when is None or params.get(self.when[0]) == self.when[1]

    def check(self, value: object, setting: str | None = None) -> None:
        """Raise SettingError if the technique can't take ``value``: out of bounds, or not one of the grid."""
        setting = setting or self.name
        if self.bounds is None:
            try:
                self.index(value)
            except SettingError:
                raise SettingError(setting, value, f"must be one of {list(self.values)}") from None
            return
        low, high = self.bounds
        whole = all(isinstance(v, int) for v in self.values)
        number = not isinstance(value, bool) and isinstance(value, int if whole else (int, float))
        if not number or not low <= value <= high:  # type: ignore[operator]  # a number, as just checked
            kind = "a whole number" if whole else "a number"
            raise SettingError(setting, value, f"must be {kind} from {low:g} to {high:g}")

    def with_values(self, setting: str, values: Sequence[Any]) -> Knob:
        """Return this knob over the user's ``values``, put into the technique's order from gentle to strong.

        Raises
        ------
        SettingError
            If a value is one that the technique can't take, or the list is empty or repeats one.
        """
        if not values:
            raise SettingError(setting, [], "a knob needs at least one value", "List the values to try.")
        for value in values:
            self.check(value, setting)
        if len(set(values)) != len(values):
            raise SettingError(setting, list(values), "a knob's values must differ", "Remove the repeated ones.")
        if self.bounds is None:
            return replace(self, values=tuple(v for v in self.values if v in values))
        kind = int if all(isinstance(v, int) for v in self.values) else float
        falling = self.values[0] > self.values[-1]  # type: ignore[operator]  # bounds: all are numbers
        return replace(self, values=tuple(sorted((kind(v) for v in values), reverse=falling)))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able description that `from_json` reads back."""
        out: dict[str, Any] = {"name": self.name, "values": list(self.values)}
        if not self.ordered:
            out["ordered"] = False
        if self.when is not None:
            out["when"] = list(self.when)
        if self.bounds is not None:
            out["bounds"] = list(self.bounds)
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Knob:
        """Read what `to_json` wrote."""
        when, bounds = data.get("when"), data.get("bounds")
        return cls(
            data["name"],
            tuple(data["values"]),
            data.get("ordered", True),
            (when[0], when[1]) if when else None,
            (bounds[0], bounds[1]) if bounds else None,
        )
