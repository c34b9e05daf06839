"""What a proposer was told of trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .surrogate import LOOKED_AT

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    """One trial: its genome, its loss of quality (NaN where it was stopped before that was known), its costs (NaN where
    not measured), its objectives as shares of the largest that count, by how much it is above the limits, and whether
    it can be on the front.
    """

    genome: npt.NDArray[np.int64]
    lost: float
    costs: Values
    point: Values
    violated: float
    usable: bool


def looked_at(trials: Sequence[Told]) -> Sequence[Told]:
    """Return the trials that are learnt from: of many those nearest to the front, and the latest."""
    if len(trials) <= LOOKED_AT:
        return trials
    score = np.array([t.point.sum() for t in trials])
    recent = np.arange(len(trials)) >= len(trials) - LOOKED_AT // 4
    return [trials[i] for i in np.lexsort((score, ~recent))[:LOOKED_AT]]


def qualities(
    trials: Sequence[Told], passed: Sequence[tuple[npt.NDArray[np.int64], float]]
) -> list[tuple[npt.NDArray[np.int64], float]]:
    """Return genomes and their losses of quality: of trials where that is known, and of the latest of what trials had
    on their way, as many as there is room for.
    """
    room = LOOKED_AT - len(trials)
    return [*((t.genome, t.lost) for t in trials if not math.isnan(t.lost)), *passed[max(0, len(passed) - room) :]]
