"""Where search methods are compared: one space, one budget of real trials, every recipe measured once.

A recipe's result depends on nothing but the recipe, so all methods share one table of results on disk, and a
benchmark that was stopped goes on where it was. Of what the table knows, every fiftieth recipe is measured again, and
must give the same: a table of other code is refused.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretopress.search.pareto import hypervolume
from paretopress.search.result import Objective, Result
from paretopress.search.trial import Bench, Job, metrics_for
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

#: Where tables of results are kept between runs.
TABLES = Path(__file__).resolve().parent / ".tables"
#: One in so many known recipes is measured again.
_AGAIN = 50
#: How close the two must be: another processor rounds otherwise, and may see an image or two otherwise.
CLOSE = 0.02


@dataclass(frozen=True)
class Bout:
    """What is compared.

    Attributes
    ----------
    name
        Of the space.
    techniques
        As for `Space.from_task`.
    objectives
        Costs beside the task's metric.
    box
        Reference point: error 1, and these shares of the baseline's costs.
    must
        Whether every decision must take a technique: the choice of none is left out for peers that would waste
        trials on it.
    """

    name: str
    techniques: dict[str, dict[str, Any]]
    objectives: tuple[str, ...]
    box: tuple[float, ...]
    must: bool = False


BITS = Bout("bits", {"integer": {"bits": [8, 7, 6, 5, 4, 3, 2], "granularity": "channel"}}, ("size",), (0.25,), True)
PRUNE = Bout(
    "prune x bits",
    {
        "channels": {"criterion": "l2"},
        "integer": {"bits": [8, 7, 6, 5, 4, 3, 2], "granularity": "channel"},
    },
    ("size",),
    (0.25,),
)
FULL = Bout(
    "full",
    {
        "channels": {}, "depth": {}, "svd": {}, "magnitude": {}, "integer": {}, "codebook": {}, "entropy": {},
        "distillation": {"steps": [5, 10, 20], "learning_rate": [0.0003, 0.001, 0.003]},
    },
    ("size",),
    (0.25,),
)  # fmt: skip
BOUTS = {b.name: b for b in (BITS, PRUNE, FULL)}


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: the values of the objectives, none if it failed, and the seconds of processor it took."""

    values: Mapping[str, float]
    seconds: float


class Arena:
    """One bout on one task.

    Parameters
    ----------
    bout
        What is compared.
    task
        The model and its data.
    """

    def __init__(self, bout: Bout, task: Task) -> None:
        torch.set_num_threads(1)
        self.bout, self.task = bout, task
        self.space = Space.from_task(task, bout.techniques)
        self.quality = Objective(task.metric.name, task.metric.direction, True)
        self.objectives = (self.quality, *(Objective(name, "minimize") for name in bout.objectives))
        metrics = metrics_for(task, [o.name for o in self.objectives])
        self.bench = Bench(task, self.space.sites, metrics, self.objectives)
        TABLES.mkdir(exist_ok=True)
        self.file = TABLES / f"{task.name}-{task.digest[:12]}.jsonl"
        self._known: dict[str, Outcome] = {}
        self._checked: set[str] = set()
        self._read = 0
        self._results: dict[str, Result] = {}
        self.baseline = self.result(Recipe())

    def _refresh(self) -> None:
        """Read what other processes have added."""
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                digest, seconds, values = json.loads(line)
                self._known[digest] = Outcome(values, seconds)

    def result(self, recipe: Recipe) -> Result:
        """Return the trial of a recipe, run now unless this process did before."""
        if recipe.digest not in self._results:
            job = Job(0, recipe, int(recipe.digest[:8], 16))
            self._results[recipe.digest] = self.bench.run(job).result
        return self._results[recipe.digest]

    def outcome(self, recipe: Recipe) -> Outcome:
        """Return the trial of a recipe, run now if nobody has.

        Raises
        ------
        RuntimeError
            If the table says otherwise than a trial that was run again.
        """
        if recipe.digest not in self._known:
            self._refresh()
        known = self._known.get(recipe.digest)
        if known is not None and (int(recipe.digest[:8], 16) % _AGAIN or recipe.digest in self._checked):
            return known
        start = time.process_time()
        result = self.result(recipe)
        failed = result.status == "failed"
        values = {} if failed else {o.name: result.value(o.name) for o in self.objectives}
        found = Outcome(values, time.process_time() - start)
        del self._results[recipe.digest]  # there are many thousand
        self._checked.add(recipe.digest)
        if known is not None:
            pairs = [(known.values.get(n, math.nan), v) for n, v in values.items()]
            if len(known.values) != len(pairs) or not all(math.isclose(*p, rel_tol=CLOSE) for p in pairs):
                raise RuntimeError(f"{self.file} was measured by other code ({known.values}, now {values}): delete it")
            return known
        self._known[recipe.digest] = found
        with self.file.open("ab") as file:  # one write a line: lines of several processes don't mix
            file.write(json.dumps([recipe.digest, round(found.seconds, 3), values]).encode() + b"\n")
        return found

    def row(self, outcome: Outcome) -> list[float]:
        """Return error and costs as shares of the baseline's; a failed trial has the worst."""
        if not outcome.values:
            return [1.0] * len(self.objectives)
        costs = self.objectives[1:]
        return [
            1.0 - outcome.values[self.quality.name],
            *(outcome.values[o.name] / self.baseline.value(o.name) for o in costs),
        ]

    def hypervolume(self, rows: Sequence[Sequence[float]]) -> float:
        """Return the share of the box that rows dominate."""
        reference = [1.0, *self.bout.box]
        return hypervolume(rows, reference) / float(np.prod(reference))
