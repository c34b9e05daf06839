"""Dominance and hypervolume. Smaller is better in every row of numbers here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import moocore
import numpy as np
import numpy.typing as npt

from .result import Objective, Result

#: Quality may fall by this share of the baseline's before a point adds nothing to the hypervolume: what loses more is
#: hardly ever wanted, but counted, it would be most of what there is to gain.
QUALITY_SPAN = 0.1
#: Costs count up to this multiple of the baseline's.
COST_SPAN = 1.1


def nondominated(losses: Sequence[Sequence[float]] | npt.NDArray[np.float64]) -> list[int]:
    """Return the positions of the non-dominated rows (smaller is better); of equal rows, the first."""
    if not len(losses):
        return []
    keep = moocore.is_nondominated(np.asarray(losses, dtype=float), maximise=False, keep_weakly=False)
    return [int(i) for i in np.flatnonzero(keep)]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better (smaller is better)."""
    return all(x <= y for x, y in zip(a, b)) and any(x < y for x, y in zip(a, b))


def hypervolume(losses: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Return the volume that the rows dominate up to ``reference`` (smaller is better)."""
    rows = [row for row in losses if all(x < r for x, r in zip(row, reference))]
    if not rows:
        return 0.0
    return float(moocore.hypervolume(np.asarray(rows, dtype=float), ref=np.asarray(reference, dtype=float)))


def scaled(result: Result, objectives: Sequence[Objective], baseline: Result) -> list[float]:
    """Return the objectives as fractions of the baseline's: the loss of quality, and the ratio of costs.

    Quality above the baseline's counts as no loss: beyond the original, more is mostly chance.
    """
    row = []
    for objective in objectives:
        base, value = baseline.value(objective.name), result.value(objective.name)
        unit = abs(base) or 1.0
        loses = objective.loss(value) - objective.loss(base)
        row.append(max(0.0, loses / unit) if _is_quality(objective) else value / unit)
    return row


def _is_quality(objective: Objective) -> bool:
    return objective.is_quality or objective.direction == "maximize"


def scaled_hypervolume(results: Iterable[Result], objectives: Sequence[Objective], baseline: Result) -> float:
    """Return the hypervolume of `scaled` rows as a share, 0 to 1, of the box between no loss at no cost and the
    reference point: a loss of a tenth of the baseline's quality, and 1.1 times the baseline's costs.
    """
    reference = [QUALITY_SPAN if _is_quality(o) else COST_SPAN for o in objectives]
    rows = [scaled(r, objectives, baseline) for r in results]
    return hypervolume(rows, reference) / math.prod(reference)


def compressed(front: Sequence[Result]) -> list[Result]:
    """Return a front without the original model, which is no answer, unless it is the only one."""
    return [r for r in front if not r.recipe.is_baseline] or list(front)
