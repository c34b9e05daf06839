"""How a run stands: its results and its front, kept up to date with every result and not gone through anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..evaluators.base import Measurement
from ..spaces.metric import ACCURACY
from ..spaces.recipe import BASELINE
from .constraint import Constraint
from .racing import AT_LEAST
from .result import Objective, Result

#: Where no result keeps all limits, those that break them up to so many times as far as the nearest one are near.
_NEAR = 2.0


class _Entry(NamedTuple):
    """A result of the front: its positive violations and its objectives, smaller is better, and the violations' sum."""

    result: Result
    row: tuple[float, ...]
    excess: float


class Standing:
    """The results of a run.

    Parameters
    ----------
    objectives
        What the front is of.
    quality
        The task's own metric.
    violated
        Gives a result's violations of the constraints, 0 or less where kept.
    constraints
        These, for what is hoped of a metric that wasn't measured.

    Attributes
    ----------
    results
        Digest of a recipe -> its result, in the order in which they came.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        quality: Objective,
        violated: Callable[[Result], Sequence[float]],
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._objectives, self._quality, self._violated = tuple(objectives), quality, violated
        self._constraints = tuple(constraints)
        self.results: dict[str, Result] = {}
        self._front: list[_Entry] = []
        self._excess = math.inf
        self._work: list[Result] = []  # not counted yet
        self._counted = 0.0

    def add(self, result: Result) -> bool:
        """Take in a result, the first of its recipe or one that replaces a failed one; return whether the front
        changed.
        """
        self.results[result.recipe.digest] = result
        self._work.append(result)
        if result.status != "ok":
            return False
        broken = [max(0.0, v) for v in self._violated(result)]
        excess = sum(broken)
        if excess > self._most:
            return False
        row = (*broken, *(o.loss(result.value(o.name)) for o in self._objectives))
        if not (broken and result.recipe.is_baseline):  # nobody limits what the original may lose to get the original
            self._excess = min(self._excess, excess)
        near = [e for e in self._front if e.excess <= self._most]
        if not any(all(a <= b for a, b in zip(other.row, row)) for other in near):
            near = [*(e for e in near if not all(a <= b for a, b in zip(row, e.row))), _Entry(result, row, excess)]
        changed = near != self._front
        self._front = near
        return changed

    @property
    def _most(self) -> float:
        """The sum of violations that a result of the front may have."""
        return _NEAR * self._excess

    @property
    def front(self) -> list[Result]:
        """The non-dominated results among those that keep every constraint, of equal ones the first; where none does,
        among those that break them at most twice as far as the nearest (by the sum of positive violations), each limit
        a goal of its own, so that there is always an answer, and a choice.
        """
        return [entry.result for entry in self._front]

    @property
    def losses(self) -> list[list[float]]:
        """The front's objectives, smaller is better."""
        return [list(entry.row[-len(self._objectives) :]) for entry in self._front]

    def may_return(self, result: Result) -> bool:
        """Return whether a trial that was stopped might be on the front after all, by the costs and the estimate that
        it was stopped with: under other limits, or with the front that these leave.
        """
        if result.status != "stopped" or not self.feasible:
            return False
        foretold = {name: Measurement(value) for name, value in result.rungs.get(AT_LEAST, {}).items()}
        known = {**result.measurements, **foretold}
        unknown = {o for o in (*self._objectives, self._quality) if o.name not in known}
        limited = [c for c in self._constraints if c.metric not in known]
        hoped = {c.metric: Measurement(-math.inf if c.sign == "<=" else math.inf) for c in limited}
        hoped |= {o.name: Measurement(1.0 if o.name == ACCURACY.name else o.loss(-math.inf)) for o in unknown}
        result = replace(result, measurements={**known, **hoped})
        row = [o.loss(result.value(o.name)) for o in self._objectives]
        behind = any(all(a <= b for a, b in zip(other, row)) for other in self.losses)
        return not behind and all(v <= 0 for v in self._violated(result))

    @property
    def feasible(self) -> bool:
        """Whether the front keeps every constraint, as it does before there is a result. The original alone isn't what
        was asked for.
        """
        return self._excess <= 0 or not self._front

    @property
    def evaluations(self) -> float:
        """The work of all trials, in evaluations of the whole validation split; 0 before the original is measured."""
        baseline = self.results.get(BASELINE)
        if baseline is None:
            return 0.0
        examples = baseline.measurements[self._quality.name].repeats
        self._counted += sum(result.evaluations(examples) for result in self._work)
        self._work.clear()
        return self._counted
