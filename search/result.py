"""What a trial returns: one line of the journal."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..evaluators.base import Direction, Measurement
from ..spaces.recipe import Recipe

#: Of a full evaluation: what any trial counts at least.
LEAST = 0.01

Status = Literal["ok", "failed", "stopped"]


def checksum(data: bytes) -> str:
    """Return what a result knows its model's file by."""
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(frozen=True)
class Objective:
    """A measured quantity that the search improves."""

    name: str
    direction: Direction
    is_quality: bool = False
    """Whether it is the task's own metric, and not a cost."""

    def loss(self, value: float) -> float:
        """Return the value with its sign turned so that smaller is better."""
        return -value if self.direction == "maximize" else value


@dataclass(frozen=True)
class Result:
    """One finished trial.

    Attributes
    ----------
    number
        Position in the run, from 0.
    recipe
        What was tried.
    measurements
        Metric name -> measurement on validation data; empty if the trial failed. A trial that was stopped has its
        costs, and an estimate of its quality with how many examples that rests on; none if it was stopped before.
    status
        "ok", "failed", or "stopped": it could not reach the front any more (see `racing`).
    error
        Why it failed or was stopped, one line.
    seconds
        Of the trial itself, queueing not included.
    seed
        With which it can be repeated.
    origin
        "baseline", "uniform" or the sampler's name.
    timings
        Phase -> seconds within the trial.
    checksum
        Sixteen hexadecimal digits of SHA-256 over the model's file.
    work
        "examples": validation examples evaluated; "trained": training examples trained on; "calibrated": calibration
        examples run for batch-norm statistics.
    rungs
        What a trial with recovery training had before it ("before") and after a short part of it ("short"): metric ->
        value, the quality estimated on a few examples. And of a cost that was foretold to be too high, so that nobody
        measured it, what it is all but sure to be above ("at least").
    cache
        How many results for single layers were found ("hits") and how many were computed ("misses").
    """

    number: int
    recipe: Recipe
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    status: Status = "ok"
    error: str = ""
    seconds: float = 0.0
    seed: int = 0
    origin: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    checksum: str = ""
    work: Mapping[str, int] = field(default_factory=dict)
    rungs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cache: Mapping[str, int] = field(default_factory=dict)

    @property
    def foretold(self) -> bool:
        """Whether the trial was stopped before the end of its training, and its quality is what was expected of it."""
        return any("foretold" in m.detail for m in self.measurements.values())

    def value(self, name: str) -> float:
        """Return a measured value, NaN if there is none."""
        found = self.measurements.get(name)
        return found.value if found is not None else math.nan

    def evaluations(self, examples: int) -> float:
        """Return the validation work in full evaluations of so many examples; 1 where an old journal doesn't say.

        Training isn't counted. A trial that looked at no example counts as `LEAST`, so that a budget of evaluations
        ends any run.
        """
        return max(LEAST, self.work.get("examples", examples) / examples)

    def is_of(self, data: bytes) -> bool:
        """Whether a model's file is the one that was measured; of a run from before checksums any may be."""
        return self.checksum in ("", checksum(data))

    def to_json(self) -> dict[str, Any]:
        """Return the journal line."""
        return {
            "number": self.number,
            "digest": self.recipe.digest,
            "recipe": self.recipe.to_json(),
            "status": self.status,
            "error": self.error,
            "measurements": {k: m.to_json() for k, m in self.measurements.items()},
            "seconds": round(self.seconds, 4),
            "seed": self.seed,
            "origin": self.origin,
            "timings": {k: round(v, 4) for k, v in self.timings.items()},
            "checksum": self.checksum,
            "work": dict(self.work),
            "rungs": {rung: dict(values) for rung, values in self.rungs.items()},
            "cache": dict(self.cache),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Read what `to_json` wrote."""
        return cls(
            int(data["number"]),
            Recipe.from_json(data["recipe"]),
            {k: Measurement.from_json(m) for k, m in data.get("measurements", {}).items()},
            data["status"] if data["status"] in ("failed", "stopped") else "ok",
            str(data.get("error", "")),
            float(data.get("seconds", 0.0)),
            int(data.get("seed", 0)),
            str(data.get("origin", "")),
            {k: float(v) for k, v in data.get("timings", {}).items()},
            str(data.get("checksum", "")),
            {k: int(v) for k, v in data.get("work", {}).items()},
            {rung: {k: float(v) for k, v in values.items()} for rung, values in data.get("rungs", {}).items()},
            {k: int(v) for k, v in data.get("cache", {}).items()},
        )
