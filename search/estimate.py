"""The metric on all validation examples, as far as those that were seen tell: always beside the baseline's.

A compressed model errs mostly where the original does. What the baseline has on all examples is known exactly, so only
the difference on the same examples is estimated, and it spreads much less than the metric itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..evaluators.accuracy import SEED, Look, Quality, Z
from ..evaluators.base import Measurement
from .evidence import Array, below, interval
from .result import Objective

#: Bootstrap resamples for a metric that is a function of many examples, and how many standard errors are proof.
_RESAMPLES, _ERRORS = 100, 3.0
#: Such a metric is judged on twice as many examples at least.
_FEWEST = 100


class Paired:
    """A model's examples beside the baseline's: the metric on all of them, as far as those seen tell.

    Parameters
    ----------
    look
        At the model.
    baseline
        At the original model, the whole split.
    quality
        The metric.
    """

    def __init__(self, look: Look, baseline: Look, quality: Quality) -> None:
        self.look, self.total, self._quality = look, baseline.examples, quality
        self._base = baseline.measurement.value
        self._goal = Objective(quality.name, quality.direction, True)
        self._differences: Array | None = None
        self._scale = 1.0
        if look.right is not None and baseline.right is not None and baseline.counted is not None:
            # Correct labels of an example beyond the baseline's, as a share of the most that one example has. With
            # several labels each, their mean is still the difference of the accuracies, up to the scale.
            most = int(baseline.counted.max())
            self._scale = most * self.total / int(baseline.counted.sum())
            gained = (look.right - baseline.right[: look.examples]).double() / most
            self._differences = gained.cpu().numpy()
            self.value = self._base + self._scale * float(self._differences.mean())
        elif look.outputs is not None and look.targets is not None and baseline.outputs is not None:
            self._rows = (look.outputs, look.targets, baseline.outputs[: look.examples])
            self.value = self._base + self._difference(None)
        else:
            self.value = look.measurement.value

    @property
    def loss(self) -> float:
        """The value with its sign turned so that smaller is better."""
        return self._goal.loss(self.value)

    def worse_than(self, bar: float, risk: float) -> bool:
        """Return whether the loss on all examples is proven to be above ``bar``.

        For top-1 accuracy ``risk`` bounds the share of wrong answers, over all looks. For a function of many examples
        three standard errors of the bootstrap are taken for proof, if the first half of the examples proves it by
        itself: a few rare examples that decide such a metric may all be among those not seen yet. And the examples seen
        must be above the bar by themselves: what a maximum has beyond the baseline's is no guide to the rest.
        """
        if self._differences is not None:
            return below(self._differences, (-bar - self._base) / self._scale, self.total, risk)
        half = self.look.examples // 2
        return half >= _FEWEST and self._clearly_worse(bar, half) and self._clearly_worse(bar, self.look.examples)

    def _clearly_worse(self, bar: float, count: int) -> bool:
        """Return whether the first examples (count,) say by three standard errors that the loss is above ``bar``."""
        seen = torch.arange(count)
        gap = self._goal.loss(self._base + self._difference(seen)) - bar
        own = self._goal.loss(self._own(seen))
        return own > bar and gap > 0 and gap > _ERRORS * self._error(count)  # not so of NaN

    def measurement(self, detail: Mapping[str, Any]) -> Measurement:
        """Return the estimate with its 95 % interval; ``repeats`` is how many examples it rests on."""
        if self._differences is not None:
            ends = interval(self._differences, self.total, 0.05)
            # The rest of the split may make up for what a slice says: a share beyond 0 or 1 is none.
            value, low, high = (
                min(1.0, max(0.0, x)) for x in (self.value, *(self._base + self._scale * e for e in ends))
            )
            return Measurement(value, self._quality.unit, (low, high), self.look.examples, detail)
        half = Z * self._error(self.look.examples)
        around = (self.value - half, self.value + half) if math.isfinite(half) else None
        return Measurement(self.value, self._quality.unit, around, self.look.examples, detail)

    def _own(self, rows: torch.Tensor) -> float:
        """Return the model's metric on some of the examples; NaN if it has none."""
        output, target, _ = (x[rows] for x in self._rows)
        try:
            return self._quality.metric(output, target)
        except Exception:
            return math.nan

    def _difference(self, rows: torch.Tensor | None) -> float:
        """Return the metric of the model minus that of the baseline on the same examples; NaN if it has none."""
        metric = self._quality.metric
        output, target, before = (x if rows is None else x[rows] for x in self._rows)
        try:
            return metric(output, target) - metric(before, target)
        except Exception:
            return math.nan  # e.g. an area under a curve where one class is missing

    def _error(self, count: int) -> float:
        """Return the bootstrap's standard error (Efron, 1979) of the estimate from the first ``count`` examples,
        corrected for the finite split.
        """
        generator = torch.Generator().manual_seed(SEED)
        drawn = [self._difference(torch.randint(count, (count,), generator=generator)) for _ in range(_RESAMPLES)]
        known = np.array([x for x in drawn if math.isfinite(x)])
        if len(known) < _RESAMPLES / 2 or not known.std() > 0:
            return math.inf
        return float(known.std() * math.sqrt(1 - count / self.total))
