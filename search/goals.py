"""What a proposer goes for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Goals:
    """What counts.

    Attributes
    ----------
    base
        The original model's costs: objectives and limited metrics, each to be lowered.
    worst
        Objective -> the largest cost that counts for the hypervolume.
    span
        The largest loss of quality that counts.
    reach
        The loss of quality from which on all models are alike.
    noise
        Standard error of a measured loss of quality.
    quality
        Whether the loss of quality is an objective.
    limits
        Metric -> the highest cost that is allowed.
    lost
        The highest loss of quality that is allowed.
    chance
        So much better than the original's a quality may be by chance, and counts like the original's.
    """

    base: Mapping[str, float]
    worst: Mapping[str, float]
    span: float
    reach: float
    noise: float
    quality: bool = True
    limits: Mapping[str, float] = field(default_factory=dict)
    lost: float = math.inf
    chance: float = 0.0
