"""What share of the original's latency each of its modules takes, and what each setting leaves of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .effects import Effect

#: What a conversion costs, and who reads its result.
Border = tuple[float, tuple[str, ...]]


@dataclass(frozen=True)
class LatencyTable:
    """Measured latencies of one machine.

    Attributes
    ----------
    metric
        The name of the evaluator that it predicts.
    conditions
        Under which that one measures, e.g. "ONNX Runtime, batch 1, 1 thread".
    milliseconds
        That the original takes for one.
    units
        Path -> the share of that which a module takes by itself, without those that it calls. What is missing to 1
        is in no module, and no setting changes it.
    left
        What `key` gives -> path -> share left. Paths that aren't named are untouched.
    guessed
        Those keys of ``left`` of which something couldn't be timed: its share of MACs stands for it.
    borders
        Path -> the share that converting a layer's output costs, and the layers that read it: it is paid if one of the
        two sides runs on integers, and the other, or one of them, doesn't.
    alongside
        As ``left``, of settings beside integers: path -> share left of the time that a layer takes on integers, which
        is another one than in fp32.
    checked
        For some recipes, the predicted ratio to the original's latency, and the measured one.
    """

    metric: str
    conditions: str
    milliseconds: float
    units: Mapping[str, float]
    left: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    guessed: frozenset[str] = frozenset()
    borders: Mapping[str, Border] = field(default_factory=dict)
    alongside: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    checked: tuple[tuple[float, float], ...] = ()

    @staticmethod
    def key(site: str, effect: Effect) -> str:
        """Return what the times of a setting are kept under: the same for all that compute the same at a site."""
        return f"{site}/{effect.work}"

    def shares(self, site: str, effect: Effect) -> Mapping[str, float]:
        """Return path -> what a setting leaves of the module's time, by its effect; nothing where all is untouched."""
        if not effect.work:
            return {}
        found = self.left.get(self.key(site, effect))
        if found is None:  # it couldn't be applied again, or ran on another machine
            return {path: macs for path, (_, macs, _) in effect.shares.items() if macs != 1.0}
        return found

    def saved(self, site: str, effect: Effect) -> float:
        """Return the share of the original's latency that a setting saves alone; negative where it costs more."""
        return sum(self.units[p] * (1 - s) for p, s in self.shares(site, effect).items() if p in self.units)

    def is_guess(self, site: str, effect: Effect) -> bool:
        """Whether the share of MACs stands for some of the times."""
        key = self.key(site, effect)
        return bool(effect.work) and (key in self.guessed or key not in self.left)

    @property
    def fixed(self) -> float:
        """The share of the original's time that is in no module."""
        return max(0.0, 1 - sum(self.units.values()))

    @property
    def error(self) -> float | None:
        """Median of the predictions' absolute errors, as shares of what was measured; None if none was checked."""
        if not self.checked:
            return None
        return float(np.median([abs(p / m - 1) for p, m in self.checked]))

    @property
    def summary(self) -> str:
        """One sentence."""
        text = f"{self.metric}: measured per layer ({self.conditions})"
        if self.error is None:
            return f"{text}; its prediction was not checked"
        return f"{text}; its prediction was off by {100 * self.error:.2g} % (median of {len(self.checked)} recipes)"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form without what the settings leave."""
        return {
            "metric": self.metric,
            "conditions": self.conditions,
            "milliseconds": self.milliseconds,
            "units": dict(self.units),
            "fixed": self.fixed,
            "median_error": self.error,
            "recipes": [{"predicted": p, "measured": m} for p, m in self.checked],
        }
