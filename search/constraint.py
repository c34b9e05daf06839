"""A limit that a front point must keep, written as people say it: ``size <= 300 kB``, ``accuracy drop <= 0.01``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..evaluators.base import Evaluator, evaluators
from ..spaces.errors import SettingError
from ..spaces.metric import ACCURACY
from .result import Objective, Result

_FORM = re.compile(
    r"\s*(?P<metric>[A-Za-z_]\w*)(?:\s+(?P<word>drop|rise))?\s*(?P<sign><=|>=)"
    r"\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>x|%|k|M|G|kB|MB|GB|B)?\s*"
)
#: What a limit is made of, in order, and what each part may be.
_PARTS = (
    (r"\s*[A-Za-z_]\w*", "the name of a metric"),
    (r"(\s+(drop|rise)(?=\W)|(?=\s*[^\s\w]))", "drop, rise or a sign"),
    (r"\s*(<=|>=)", "a sign"),
    (r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", "a number"),
)
_FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "%": 0.01}
#: Of a metric by what it counts: the units of a limit, and the least that makes sense.
_RELATIVE, _COUNTED, _BYTES = ("x", "%"), ("x", "%", "k", "M", "G"), ("x", "%", "B", "kB", "MB", "GB", "k", "M", "G")
#: Of a value, what computing with it may be off.
_ROUNDING = 1e-9
#: Losses of so many times what may be lost are alike, if that is more than the original has.
_ALLOWED = 2.0
#: Fewer than any model's file has, or its tensors take at work.
_FEWEST_BYTES = 64
#: Accuracies above 1 that may have been meant in per cent.
_PER_CENT = 2.0
_WHOLE = {"B": "byte", "MACs": "MAC", "bit operations": "bit operation", "weights": "parameter"}


@dataclass(frozen=True)
class Constraint:
    """A limit on one metric.

    Attributes
    ----------
    text
        As the user wrote it.
    metric
        Its name.
    sign
        ``<=`` or ``>=``.
    limit
        The number.
    word
        "drop" or "rise" if the limit is on how much worse than the baseline the metric is, else "".
    unit
        As written. ``x`` makes the limit a multiple of the baseline's value, and so does ``%`` for a cost; for the
        task's own metric, ``%`` is a hundredth (of one of which less is better, it is refused).
    """

    text: str
    metric: str
    sign: str
    limit: float
    word: str = ""
    unit: str = ""

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read ``metric <= number``, ``metric drop <= number`` (``rise`` where smaller is better) or
        ``metric <= 0.5x`` (of the baseline). The number may carry k, M, G, B, kB, MB, GB or %.

        Raises
        ------
        SettingError
            If the text has another form.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            forms = "must read like 'size <= 300 kB', 'accuracy drop <= 0.01' or 'latency <= 0.5x'"
            raise SettingError("constraint", text, f"{forms}, but {_mistake(text)}", _allowed(text))
        unit = match["unit"] or ""
        limit = float(match["number"]) * _FACTORS.get(unit, 1.0)
        return cls(text.strip(), match["metric"], match["sign"], limit, match["word"] or "", unit)

    @property
    def relative(self) -> bool:
        """Whether the limit is a multiple of the baseline's value, if the metric is a cost."""
        return self.unit in _RELATIVE

    def meaning(self, quality: Objective, unit: str = "") -> str:
        """Return how the limit was read, in words: ``size at most 0.3 times the original's``.

        Parameters
        ----------
        quality
            The task's own metric.
        unit
            Of the limited one.
        """
        side = "at most" if self.sign == "<=" else "at least"
        number = f"{self.limit:,.10g}"
        if self.word:
            return f"{self.metric} {side} {number} {'below' if self.word == 'drop' else 'above'} the original's"
        if _is_ratio(unit) or self._of_original(quality):
            return f"{self.metric} {side} {number} times the original's"
        return f"{self.metric} {side} {number} {'bytes' if unit == 'B' else unit}".rstrip()

    def violation(self, result: Result, baseline: Result, quality: Objective) -> float:
        """Return how far a result is beyond the limit, as a share of the baseline's value; 0 or less means it is kept.

        A share of the limit would call the baseline the nearest where a small loss and a small file are asked for:
        a loss of three times the limit would be farther off than all of the file. Of an error near 0 that may rise many
        times, it is a share of what may be lost: see `reach`.
        """
        _, excess = self.missed_by(result, baseline, quality)
        if math.isnan(excess):  # never measured, because the trial was stopped before: it counts as broken
            return 1.0
        original, lost = self._original(baseline), 0.0
        if self.metric == quality.name:
            lost = self.limit if self.word else quality.loss(self._limit(baseline, quality)) - quality.loss(original)
        return excess / reach(original, lost)

    def missed_by(self, result: Result, baseline: Result, quality: Objective) -> tuple[float, float]:
        """Return what is limited (the value, or how much worse it is than the baseline's), and how far it is beyond."""
        value = result.value(self.metric)
        if self.word:
            value = quality.loss(value) - quality.loss(baseline.value(self.metric))
        limit = self._limit(baseline, quality)
        excess = value - limit if self.sign == "<=" else limit - value
        return value, 0.0 if 0 < excess <= self._slack(limit, baseline) else excess

    def allowed(self, baseline: Result, quality: Objective) -> tuple[float, float]:
        """Return the lowest and the highest value of the metric that keep the limit."""
        limit, upper = self._limit(baseline, quality), self.sign == "<="
        limit += self._slack(limit, baseline) * (1 if upper else -1)
        if self.word:  # the most that the loss may be; turning the sign of a loss gives the value back
            limit = quality.loss(limit + quality.loss(baseline.value(self.metric)))
            upper = upper == (quality.direction == "minimize")
        return (-math.inf, limit) if upper else (limit, math.inf)

    def _slack(self, limit: float, baseline: Result) -> float:
        """Return what is left to rounding: 0.97 - 0.96 is more than 0.01."""
        return _ROUNDING * max(abs(limit), abs(self._original(baseline)))

    def _limit(self, baseline: Result, quality: Objective) -> float:
        return self.limit * self._original(baseline) if self._of_original(quality) else self.limit

    def _of_original(self, quality: Objective) -> bool:
        """Whether the number is a multiple of the original's value."""
        return self.unit == "x" or (self.unit == "%" and self.metric != quality.name)

    def _original(self, baseline: Result) -> float:
        """Return the original's value: 1 of a ratio to the original's, whatever noise it was measured with."""
        known = baseline.measurements.get(self.metric)
        return 1.0 if known is not None and _is_ratio(known.unit) else baseline.value(self.metric)


def reach(original: float, allowed: float) -> float:
    """Return the loss of quality from which on all models are alike: the original's own value, or, of an error near 0
    that may rise many times, a multiple of the loss that is allowed (infinity if any is).
    """
    return max(abs(original) or 1.0, _ALLOWED * allowed if math.isfinite(allowed) else 0.0)


def _mistake(text: object) -> str:
    """Return which part of a text is no part of a limit, and what may be there."""
    if not isinstance(text, str):
        return "it is no text"
    place = 0
    for form, rule in _PARTS:
        found = re.compile(form).match(text, place)
        if found is None:
            rest = text[place:].strip()
            return f"{rest!r} is not {rule}" if rest else f"{rule} is missing"
        place = found.end()
    unit = text[place:].strip()
    meant = next((u for u in dict.fromkeys((*_BYTES, "%")) if u.lower() == unit.lower()), None)
    return f"{unit!r} is no unit" + (f" (did you mean {meant!r}?)" if meant else "")


def _allowed(text: object) -> str:
    """Return which signs and units a limit on the metric that a text begins with may have."""
    words = re.findall(r"\s*([A-Za-z_]\w*)", text) if isinstance(text, str) else []
    name = words[0] if words and words[0] in evaluators() else ""
    return (
        f"Signs: <= and >=. Units{f' of {name}' if name else ''}: {', '.join(_units(evaluators().get(name)))}, or none."
    )


def _units(known: Evaluator | None) -> tuple[str, ...]:
    """Return what may follow the number in a limit on a metric; None is one that is unknown."""
    unit = known.unit if known is not None else ""
    return _BYTES if unit == "B" else _RELATIVE if _is_ratio(unit) else _COUNTED


def _is_ratio(unit: str) -> bool:
    """Whether values of a unit are multiples of the original's."""
    return unit.startswith("x ")


def check_constraints(
    constraints: Sequence[Constraint],
    quality: Objective,
    stored: bool = False,
    known: Mapping[str, Evaluator] | None = None,
) -> None:
    """Check that limits make sense for their metrics.

    Parameters
    ----------
    quality
        The task's own metric. Only that has a good side to lose.
    stored
        Whether they are those of a run that was begun before, maybe when a rise was called a drop, too.
    known
        Metrics by name; by default those that everybody has.

    Raises
    ------
    SettingError
        For the first one that makes none.
    """
    for constraint in constraints:
        rule, advice = _nonsense(constraint, quality, stored, evaluators() if known is None else known)
        if rule:
            raise SettingError("constraint", constraint.text, rule, advice)


def _nonsense(
    constraint: Constraint, quality: Objective, stored: bool, metrics: Mapping[str, Evaluator]
) -> tuple[str, str]:
    """Return what is wrong with a limit, and what to do; "" twice if nothing is."""
    name = constraint.metric
    if constraint.word and name != quality.name:
        return f"only {quality.name} can {constraint.word}", "Limit a cost like 'size <= 0.5x'."
    if stored:
        return "", ""
    if constraint.unit == "%" and name == quality.name and quality.direction == "minimize":
        value, share = f"{constraint.limit:g}", f"{constraint.limit + bool(constraint.word):g}x"
        own = f"'{name} {'rise ' if constraint.word else ''}<= {value}'"
        advice = f"Write {own} for its own unit, or '{name} <= {share}' for a multiple of the original's."
        return f"% of {name} may be of its unit or of the original's", advice
    if constraint.word:
        return _nonsense_of_loss(constraint, quality)
    known = metrics.get(name)
    if name != quality.name and known is None:
        return "", ""
    direction = quality.direction if name == quality.name or known is None else known.direction
    better, sign = ("larger", ">=") if direction == "maximize" else ("smaller", "<=")
    if constraint.sign != sign:
        other = f", or limit its {'drop' if sign == '>=' else 'rise'}" if name == quality.name else ""
        return f"a {better} {name} is better, so it is limited by {sign}", f"Write '{name} {sign} ...'{other}."
    if name == ACCURACY.name and constraint.limit > 1:
        meant = f"Did you mean '{name} {sign} {constraint.limit:g}%'?" if constraint.limit >= _PER_CENT else ""
        return "an accuracy is at most 1", meant or f"E.g. '{name} {sign} 0.95'."
    return _nonsense_of_cost(constraint, known) if known is not None and name != quality.name else ("", "")


def _nonsense_of_loss(constraint: Constraint, quality: Objective) -> tuple[str, str]:
    name, word, limit = quality.name, constraint.word, constraint.limit
    right, better, percent = ("rise", "smaller", "") if quality.direction == "minimize" else ("drop", "larger", "1%")
    if constraint.unit not in ("", "%"):
        other = f" or '{name} {word} <= {percent}'" if percent else ""
        return f"{constraint.unit!r} is no unit of a {word}", f"Write '{name} {word} <= 0.01'{other}."
    if word != right:
        return f"a {better} {name} is better, so a limit is on its {right}", f"Write '{name} {right} <= ...'."
    if constraint.sign != "<=" or limit < 0:
        return f"a {word} is limited from above, by 0 or more", f"For a better {name}, limit {name} itself."
    if name == ACCURACY.name and limit >= 1:
        meant = f"Did you mean '{name} {word} <= {limit:g}%'?" if constraint.unit != "%" else "Leave it out."
        return "no accuracy drops by more than 1, so this limits nothing", meant
    return "", ""


def _nonsense_of_cost(constraint: Constraint, known: Evaluator) -> tuple[str, str]:
    name, limit = constraint.metric, constraint.limit
    if constraint.unit and constraint.unit not in _units(known):
        return f"{constraint.unit!r} is no unit of {name}", f"It may have {', '.join(_units(known))} or none."
    if known.unit in _WHOLE and not constraint.relative and 0 < limit < 1:
        advice = f"Did you mean '{name} {constraint.sign} {limit:g}x', of the original's?"
        return f"is less than one {_WHOLE[known.unit]}", advice
    if known.unit == "B" and not constraint.relative and 0 < limit < _FEWEST_BYTES:
        number = constraint.text.partition(constraint.sign)[2].strip()
        advice = f"Did you mean '{name} <= {number} kB' or '{name} <= {number} MB'?" if not constraint.unit else ""
        return "no model has so few bytes", advice or f"E.g. '{name} <= 0.1x' is a tenth of the original's."
    if limit <= 0 and (known.unit in _WHOLE or _is_ratio(known.unit)):
        return f"{name} is always above 0", f"E.g. '{name} <= 0.5x' is half of the original's."
    return "", ""


def allowed(constraints: Sequence[Constraint], baseline: Result, quality: Objective) -> dict[str, tuple[float, float]]:
    """Return for each limited metric the lowest and the highest value that keep all its limits."""
    found: dict[str, tuple[float, float]] = {}
    for constraint in constraints:
        low, high = constraint.allowed(baseline, quality)
        known = found.get(constraint.metric, (low, high))
        found[constraint.metric] = (max(low, known[0]), min(high, known[1]))
    return found


def violations(constraints: Sequence[Constraint], result: Result, baseline: Result, quality: Objective) -> list[float]:
    """Return one number for each constraint; of a failed trial, none."""
    if result.status == "failed":
        return []
    return [c.violation(result, baseline, quality) for c in constraints]
