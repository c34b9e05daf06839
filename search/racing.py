"""Racing: a trial ends as soon as it is clear that it can't reach the front any more.

What is clear: the exact costs, once there is a file; the quality, as far as the examples seen so far prove it (see
`evidence`); and what recovery training will give back, as far as trials that have finished tell (see `gains`). A model
with batch norm has one of three sets of statistics in the end: where it is hopeless with all, it isn't asked which.
Nothing here changes a model: a trial that isn't stopped has the same result as without racing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..compressors.batchnorm import Judge
from ..compressors.draft import Checkpoint, Saves
from ..evaluators.accuracy import Look, Quality
from ..evaluators.base import Measurement
from ..spaces.data import Batch
from ..spaces.metric import ACCURACY
from ..spaces.pulse import beat
from ..spaces.recipe import Recipe
from ..spaces.seeding import seeded
from .amounts import amount
from .estimate import Paired
from .gains import Gains, settings_of
from .result import Objective

#: The share of trials that would just reach the front and are stopped by the chance of which examples come first.
RISK = 0.01
#: Before it is finished, a trial is looked at on so many examples at a time, or this share of a small split.
GLANCE, GLANCE_SHARE = 150, 0.25
#: The part of its steps after which recovery training is looked at, unless it has fewer steps than this.
SHORT, FEWEST_STEPS = 0.25, 8
#: What the reason of a trial that can't keep a limit says.
BREAKS = "breaks the limit of"
#: The rung of costs that nobody measured, because they are all but sure to be too high.
AT_LEAST = "at least"
#: Rounding of a limit that is relative to the baseline's quality must stop nobody.
_ROUNDING = 1e-9


class Stop(Exception):  # noqa: N818 - no error: the trial is over
    """A trial can't reach the front any more.

    Parameters
    ----------
    reason
        For the journal.
    estimate
        Of the quality, None if no example was looked at.
    """

    def __init__(self, reason: str, estimate: Measurement | None = None) -> None:
        super().__init__(reason)
        self.reason, self.estimate = reason, estimate


@dataclass(frozen=True)
class Race:
    """What the driver tells a trial beside the front.

    Attributes
    ----------
    limits
        Metric -> lowest and highest value that the constraints allow; empty while no trial keeps them all.
    gains
        What recovery training gave back so far.
    floors
        Metric -> what the trial is all but sure to be above.
    """

    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    gains: Gains = field(default_factory=Gains)
    floors: Mapping[str, float] = field(default_factory=dict)


class Heat:
    """One trial's part in the race. It counts the trial's work too, racing or not.

    Parameters
    ----------
    recipe
        Of the trial.
    objectives
        The search's, in the order of the front's rows.
    front
        Losses of the points to beat.
    race
        None if nothing is to be stopped.
    quality
        The task's metric.
    looks
        Gives the looks at a model.
    baseline
        Gives the look at the original model, the whole split; called only if something must be compared.
    partial
        Whether the metric and the split can be looked at in part.

    Attributes
    ----------
    examples, trained, calibrated
        Validation examples evaluated, training examples trained on, and calibration examples run for batch-norm
        statistics, so far.
    measured
        Metric name -> measurement, what is known of the trial so far.
    rungs
        What it had before its training ("before") and after a short part of it ("short"), and of a cost that was too
        high to be measured what it is all but sure to be above ("at least").
    look
        The last one at the finished model.
    """

    def __init__(
        self,
        recipe: Recipe,
        objectives: Sequence[Objective],
        front: Sequence[Sequence[float]],
        race: Race | None,
        quality: Quality,
        looks: Callable[[nn.Module], Iterator[Look]],
        baseline: Callable[[], Look],
        partial: bool,
    ) -> None:
        self._recipe, self._objectives, self._front, self._race = recipe, objectives, front, race
        self._quality, self._looks, self._baseline, self._partial = quality, looks, baseline, partial
        self._goal = Objective(quality.name, quality.direction, True)
        self._bar = math.inf
        self._safe = False  # whether the front is in reach at the end of training even where it gives the least
        self.examples = self.trained = self.calibrated = 0
        self._hopeless: Measurement | None = None
        self.measured: dict[str, Measurement] = {}
        self.rungs: dict[str, dict[str, float]] = {}
        self.look: Look | None = None

    @property
    def races(self) -> bool:
        """Whether the trial may be stopped."""
        return self._race is not None

    @property
    def compared(self) -> set[str]:
        """The metrics that decide whether the trial can reach the front."""
        return {o.name for o in self._objectives} | (set(self._race.limits) if self._race is not None else set())

    def before_training(self, costs: Mapping[str, Measurement]) -> Judge | None:
        """Take note of the costs of a model that is about to be trained; return what judges it, None if nothing can.

        Raises
        ------
        Stop
            If no quality will do. The judge raises it if training will not bring the model to the front.
        """
        assert self._race is not None
        self.measured = dict(costs)
        self.rungs["before"] = {name: m.value for name, m in costs.items()}
        lowest = {name: self._race.gains.lowest(name, m.value) for name, m in costs.items()}
        self._bar = self._needed({n: v for n, v in lowest.items() if self._falls(n)}, {})
        return self._untrained if self._partial else None

    def _untrained(self, model: nn.Module, more: bool) -> bool:  # noqa: ARG002 - the first one will do
        self._judge("before", model)
        return False

    def before_statistics(self, costs: Mapping[str, Measurement]) -> Judge | None:
        """Take note of the exact costs of a model that lacks only its batch-norm statistics; return what judges it,
        None if nothing can.

        Raises
        ------
        Stop
            If no quality will do. The judge raises it if the model can't reach the front with any statistics.
        """
        self._costing(costs)
        return self._screen if self._partial and self._bar < math.inf else None

    def _screen(self, model: nn.Module, more: bool) -> bool:
        """Return whether a model can't reach the front; raise `Stop` if that was the last one."""
        with seeded(0):
            baseline = self._baseline()
            enough = min(GLANCE, GLANCE_SHARE * baseline.examples)
            try:
                for look in self._counted(model):
                    known = Paired(look, baseline, self._quality)
                    if known.worse_than(self._bar, RISK):
                        break
                    if look.whole or look.examples >= enough or known.loss <= self._bar:
                        return False
            except ValueError:  # NaN among the outputs: if it has them in the end, it is told then
                return False
        if self._hopeless is None or known.loss < self._goal.loss(self._hopeless.value):
            self._hopeless = known.measurement({})
        if more:
            return True
        raise self._beaten(self._hopeless)

    def checkpoint(self, point: Checkpoint) -> None:
        """Count a training step, and judge the model after a short part of them; raises as `before_training`."""
        beat()
        self.trained += point.examples
        short = point.steps >= FEWEST_STEPS and point.done == round(SHORT * point.steps)
        if short and self._partial and "before" in self.rungs and not self._safe:
            self._judge("short", _Outputs(point.forward))

    def measure(self, costs: Mapping[str, Measurement], model: nn.Module) -> Measurement:
        """Return the quality of a finished model whose costs are exact.

        Raises
        ------
        Stop
            As soon as it is clear that the model can't reach the front.
        """
        self._costing(costs)
        for look in self._counted(model):
            self.look = look
            if not look.whole and self._bar < math.inf:
                known = Paired(look, self._baseline(), self._quality)
                if known.worse_than(self._bar, RISK):
                    raise self._beaten(known.measurement({}))
        return look.measurement

    def before(self, name: str, measured: Mapping[str, Measurement]) -> None:
        """Take note of what is known before a metric that takes long to measure is.

        Raises
        ------
        Stop
            If the trial can't reach the front unless the metric is all but impossibly low.
        """
        floor = self._race.floors.get(name) if self._race is not None else None
        if self._race is None or floor is None or not self._falls(name):
            return
        self.measured = dict(measured)
        if reason := self._too_high(name, floor):
            self.rungs[AT_LEAST] = {name: floor}
            raise Stop(f"{name} of {floor:.3g} at least {reason}")

    def _too_high(self, name: str, floor: float) -> str:
        """Return why a trial is over if a cost is at least this, "" if it isn't."""
        assert self._race is not None
        if floor > (most := self._race.limits.get(name, (-math.inf, math.inf))[1]):
            return f"{BREAKS} {most:.4g}"
        known = {**{n: m.value for n, m in self.measured.items()}, name: floor}
        if all(o.name in known for o in self._objectives):
            row = [o.loss(known[o.name]) for o in self._objectives]
            if any(all(a <= b for a, b in zip(other, row)) for other in self._front):
                return "can't reach the front"
        return ""

    def _costing(self, costs: Mapping[str, Measurement]) -> None:
        """Take note of exact costs, and of the quality that they ask for."""
        self.measured = dict(costs)
        if self._race is not None:
            exact = {name: m.value for name, m in costs.items()}
            self._bar = self._needed(exact, exact)

    def _beaten(self, known: Measurement) -> Stop:
        low, high = known.interval or (math.nan, math.nan)
        told = self._told(self._goal.loss(known.value))
        about = f"(estimated from {known.repeats} examples: {low:.3g} to {high:.3g})"
        return Stop(f"{told} {about} can't become {self._told(self._bar)}", known)

    def _falls(self, name: str) -> bool:
        """Whether a cost can be foretold before training: smaller must be better."""
        return all(o.direction == "minimize" for o in self._objectives if o.name == name)

    def _needed(self, costs: Mapping[str, float], exact: Mapping[str, float]) -> float:
        """Return the loss of quality that a trial of these costs must not exceed; infinite if any will do.

        A point of the front bars the way if it costs no more anywhere. Then quality must be better than its own:
        equal is not enough, because equal quality at equal costs adds nothing to a front, and at higher costs is
        dominated.

        Raises
        ------
        Stop
            If no quality will do.
        """
        assert self._race is not None
        for name, (low, high) in self._race.limits.items():
            if name != self._goal.name and (costs.get(name, -math.inf) > high or exact.get(name, math.inf) < low):
                value, unit = costs[name], self.measured[name].unit
                limit = amount(high if value > high else low, unit)
                raise Stop(f"{name} of {amount(value, unit)} {BREAKS} {limit}")
        bar = math.inf
        if any(o.name == self._goal.name for o in self._objectives):
            for row in self._front:
                beaten = [(o, loss) for o, loss in zip(self._objectives, row) if o.name != self._goal.name]
                if all(o.name in costs and loss <= o.loss(costs[o.name]) for o, loss in beaten):
                    bar = min(bar, *(x for o, x in zip(self._objectives, row) if o.name == self._goal.name))
        if bar <= -1.0 and self._quality.metric.function is ACCURACY.function:
            raise Stop("no accuracy is high enough for its costs")
        low, high = self._race.limits.get(self._goal.name, (-math.inf, math.inf))
        return min(bar, (high if self._goal.direction == "minimize" else -low) + _ROUNDING)

    def _judge(self, rung: str, model: nn.Module) -> None:
        assert self._race is not None
        with seeded(0):
            baseline = self._baseline()
            enough = min(GLANCE, GLANCE_SHARE * baseline.examples)
            try:
                look = next(look for look in self._counted(model) if look.whole or look.examples >= enough)
            except ValueError:  # NaN among the outputs: what training makes of it is seen when it is measured
                return
        known = Paired(look, baseline, self._quality)
        if not math.isfinite(known.value):
            return
        self.rungs.setdefault(rung, {})[self._goal.name] = known.value
        forecast = self._race.gains.forecast(rung, known.loss, settings_of(self._recipe))
        self._safe = forecast is not None and forecast.most <= self._bar
        if forecast is None or not forecast.least > self._bar:
            return
        ends = [self._goal.loss(x) for x in (forecast.expected, forecast.most, forecast.least)]  # its own inverse
        if look.right is not None:
            ends = [min(1.0, max(0.0, x)) for x in ends]
        raise Stop(
            f"{self._told(known.loss)} {_WHEN[rung]} won't become {self._told(self._bar)}",
            Measurement(ends[0], self._quality.unit, (min(ends), max(ends)), look.examples, {"foretold": rung}),
        )

    def notes(self) -> dict[str, Any]:
        """Return what was learnt of a trial in training, as JSON-able facts."""
        work = {"examples": self.examples, "trained": self.trained, "calibrated": self.calibrated}
        return {"work": work, "rungs": self.rungs, "safe": self._safe}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Take up the notes of an earlier attempt, whose training goes on."""
        work = notes["work"]
        self.examples, self.trained, self.calibrated = work["examples"], work["trained"], work["calibrated"]
        self.rungs, self._safe = {rung: dict(values) for rung, values in notes["rungs"].items()}, notes["safe"]

    def calibrating(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Return the batches, their examples being counted whenever they are iterated."""
        return _Counted(batches, self)

    def _counted(self, model: nn.Module) -> Iterator[Look]:
        before = self.examples
        for look in self._looks(model):
            self.examples = before + look.examples
            yield look

    def _told(self, loss: float) -> str:
        return f"{self._goal.name} {self._goal.loss(loss):.4g}"


_WHEN = {"before": "before training", "short": "after a short training"}


class _Counted:
    """Batches that a heat counts."""

    def __init__(self, batches: Iterable[Batch], heat: Heat) -> None:
        self._batches, self._heat = batches, heat

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self._heat.calibrated += len(batch[1])
            yield batch


class _Outputs(nn.Module):
    """A function that computes outputs, as a model."""

    def __init__(self, function: Callable[[tuple[Tensor, ...]], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Tensor) -> Tensor:
        return self._function(args)


class HeatSaves:
    """Keeps a heat's part in a trial with the state of its training; see `Saves`."""

    def __init__(self, saves: Saves, heat: Heat) -> None:
        self._saves, self._heat = saves, heat

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return a technique's state, if there is one, and take up the heat's."""
        saved = self._saves.load(name)
        if saved is not None:
            self._heat.recall(saved[1]["heat"])
        return saved

    def due(self) -> bool:
        """Whether it is time to save."""
        return self._saves.due()

    def save(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep a technique's state, and the heat's."""
        self._saves.save(name, tensors, {**facts, "heat": self._heat.notes()})
