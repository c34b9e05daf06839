"""Where search methods are compared: one space, one budget of real trials, every recipe measured once.

A recipe's result depends on nothing but the recipe, so all methods share one table of results on disk, and a
benchmark that was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
        quality = Objective(task.metric.name, task.metric.direction, True)
        self.objectives = (quality, *(Objective(name, "minimize") for name in bout.objectives))
        metrics = metrics_for(task, [o.name for o in self.objectives])
        self.bench = Bench(task, self.space.sites, metrics, self.objectives)
        TABLES.mkdir(exist_ok=True)
        self.file = TABLES / f"{task.digest}.jsonl"
        self._results: dict[str, Result] = {}
        self._read = 0
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
                result = Result.from_json(json.loads(line))
                self._results[result.recipe.digest] = result

    def result(self, recipe: Recipe) -> Result:
        """Return the trial of a recipe, run now if nobody has."""
        if recipe.digest not in self._results:
            self._refresh()
        known = self._results.get(recipe.digest)
        wanted = [o.name for o in self.objectives]
        if known is not None and (known.status == "failed" or all(n in known.measurements for n in wanted)):
            return known
        found = self.bench.run(Job(0, recipe, int(recipe.digest[:8], 16))).result
        self._results[recipe.digest] = found
        with self.file.open("ab") as file:  # one write a line: lines of several processes don't mix
            file.write(json.dumps(found.to_json()).encode() + b"\n")
        return found

    def row(self, result: Result) -> list[float]:
        """Return error and costs as shares of the baseline's; a failed trial has the worst."""
        if result.status == "failed":
            return [1.0] * len(self.objectives)
        quality, *costs = self.objectives
        return [
            1.0 - result.value(quality.name),
            *(result.value(o.name) / self.baseline.value(o.name) for o in costs),
        ]

    def hypervolume(self, rows: Sequence[Sequence[float]]) -> float:
        """Return the share of the box that rows dominate."""
        reference = [1.0, *self.bout.box]
        return hypervolume(rows, reference) / float(np.prod(reference))
