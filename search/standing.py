"""How a run stands: its results and its front, kept up to date with every result and not gone through anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..spaces.recipe import BASELINE
from .result import Objective, Result


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

    Attributes
    ----------
    results
        Digest of a recipe -> its result, in the order in which they came.
    """

    def __init__(
        self, objectives: Sequence[Objective], quality: Objective, violated: Callable[[Result], Sequence[float]]
    ) -> None:
        self._objectives, self._quality, self._violated = tuple(objectives), quality, violated
        self.results: dict[str, Result] = {}
        self._front: list[tuple[Result, tuple[float, ...]]] = []
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
        excess = sum(max(0.0, v) for v in self._violated(result))
        if excess > self._excess:
            return False
        row = tuple(o.loss(result.value(o.name)) for o in self._objectives)
        if excess < self._excess:
            self._excess, self._front = excess, []
        elif any(all(a <= b for a, b in zip(other, row)) for _, other in self._front):
            return False
        beaten = [all(a <= b for a, b in zip(row, other)) for _, other in self._front]
        self._front = [entry for entry, lost in zip(self._front, beaten) if not lost]
        self._front.append((result, row))
        return True

    @property
    def front(self) -> list[Result]:
        """The non-dominated results among those that keep every constraint, of equal ones the first; where none does,
        among those that break them least (by the sum of positive violations), so that there is always an answer.
        """
        return [result for result, _ in self._front]

    @property
    def losses(self) -> list[list[float]]:
        """The front's objectives, smaller is better."""
        return [list(row) for _, row in self._front]

    @property
    def feasible(self) -> bool:
        """Whether the front keeps every constraint, as it does before there is a result."""
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
