"""What racing saves, and what it costs.

On the ResNet-20 (the digits where its folder is absent), with channels, integers, masks, entropy coding and short
recovery training: each run starts with the uniform recipes, as every search does; then a sampler proposes, told full
measurements. Every recipe is run a second time in a race against what is known by then, for two objectives (accuracy
and size) and for three (MACs too). So both see the same recipes, and it is known what a stopped one was.

Bars
----
work saved
    Examples that went through a network without racing, divided by those with it, the median over runs: at least 2. A
    validation or calibration example counts 1, a training example 4 (forward, backward and the teacher). What racing
    itself looks at is included: the baseline once a run, and a glance before and in recovery training.
final hypervolume
    With racing, as a share of that without, the median: at least 0.999.
wrongly stopped
    Of the recipes that are non-dominated in the end without racing, the share that it stopped: at most 2 %.

Trials without racing come from the arena's table once they have been run, those with racing are always run. With the
table, ``--quick`` takes under five minutes.

Also printed: the work saved if it were known beforehand which recipes a front would keep when they are tried, all
others costing one pass for batch-norm statistics and the first slice with new ones and old ones (no race of this
kind can save more); and seconds without racing, of when that was, divided by seconds with it.

Run: ``python benchmarks/racing.py [--quick] [--json FILE]``; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from itertools import islice
from pathlib import Path

import peers
from arena import Arena, Bout
from resnet20 import load
from rich.console import Console
from rich.table import Table

from paretopress.compressors.cache import LayerCache
from paretopress.search.gains import Gains
from paretopress.search.pareto import hypervolume, nondominated
from paretopress.search.racing import Race
from paretopress.search.result import Objective, Result
from paretopress.search.start import starting_recipes
from paretopress.search.trial import Job
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.task import Task

SAVED, KEPT, WRONG = 2.0, 0.999, 0.02
SAMPLERS = ("random", "nsga2 (20)")
SPACE = Bout(
    "racing",
    {
        "channels": {}, "integer": {}, "magnitude": {}, "entropy": {},
        "distillation": {"steps": [5, 10, 20], "learning_rate": [0.0003, 0.001, 0.003]},
    },
    ("size", "macs"),
    (0.25, 1.0),
)  # fmt: skip
#: Passes of a training example: forward, backward (two) and the teacher's.
TRAINING = 4


class Track(Arena):
    """The arena, with every recipe's trial without racing from its table once it was run."""

    def __init__(self, task: Task) -> None:
        super().__init__(SPACE, task)
        self.bench.cache = LayerCache.none()  # the second run of a recipe must not profit from the first
        self.validation = self.baseline.measurements[task.metric.name].repeats
        self.calibration = sum(len(target) for _, target in task.calibration)

    def result(self, recipe: Recipe) -> Result:
        """Return the recipe's trial without racing."""
        found = super().result(recipe)
        if "calibrated" not in found.work and found.status == "ok":  # by a version that didn't count it
            found = self._results[recipe.digest] = self.bench.run(self.job(recipe)).result
        return found

    @staticmethod
    def job(recipe: Recipe, race: Race | None = None) -> Job:
        """Return the job of a recipe; its seed is the recipe's."""
        return Job(0, recipe, int(recipe.digest[:8], 16), race=race)

    def goals(self, costs: int) -> tuple[Objective, ...]:
        """Return the quality and the first so many costs."""
        return self.objectives[: 1 + costs]

    def raced(self, recipes: list[Recipe], goals: tuple[Objective, ...]) -> list[Result]:
        """Return the recipes' trials with racing, each against what was known before it."""
        results, gains = [self.baseline], Gains()
        self.bench.objectives = goals
        for recipe in recipes:
            rows = losses([r for r in results if r.status == "ok"], goals)
            front = [rows[i] for i in nondominated(rows)]
            result = self.bench.run(self.job(recipe, Race(gains=gains)), front).result
            gains = gains.learnt(result, self.objectives[0])
            results.append(result)
        self.bench.objectives = self.objectives
        return results[1:]

    @staticmethod
    def work(result: Result) -> int:
        """Return how many examples went through a network, in forward passes."""
        return result.work["examples"] + result.work["calibrated"] + TRAINING * result.work["trained"]

    def least(self, full: list[Result], goals: tuple[Objective, ...]) -> int:
        """Return the work of a race that knows beforehand which recipes the front would keep at their time."""
        work, known, first = 0, [self.baseline], sum(len(y) for _, y in next(iter(self.task.validation.slices())))
        for result in full:
            known.append(result)
            best = nondominated(losses(known, goals))
            short = self.calibration + 2 * first
            work += self.work(result) if len(known) - 1 in best else min(self.work(result), short)
            known = [known[i] for i in best]
        return work

    def reached(self, results: list[Result], goals: tuple[Objective, ...]) -> float:
        """Return the hypervolume of the measured ones."""
        rows = [self.row(r)[: len(goals)] for r in (self.baseline, *results) if r.status == "ok"]
        return hypervolume(rows, [1.0, *SPACE.box][: len(goals)])


def losses(results: list[Result], goals: tuple[Objective, ...]) -> list[list[float]]:
    """Return one row a result; smaller is better."""
    return [[o.loss(r.value(o.name)) if r.status == "ok" else math.inf for o in goals] for r in results]


def compare(track: Track, sampler: str, seed: int, trials: int, counts: tuple[int, ...]) -> dict[int, dict[str, float]]:
    """Return what one run saves and what it loses, by number of costs."""
    proposed = [*starting_recipes(track.space), *islice(peers.proposals(track, sampler, seed), trials)]
    recipes = [r for r in {r.digest: r for r in proposed}.values() if not r.is_baseline]
    full = [track.result(r) for r in recipes]
    found = {}
    for costs in counts:
        goals = track.goals(costs)
        raced = track.raced(recipes, goals)
        best = [i - 1 for i in nondominated(losses([track.baseline, *full], goals)) if i > 0]
        spent = sum(map(track.work, full))
        found[costs] = {
            "trials": len(recipes),
            "stopped": sum(r.status == "stopped" for r in raced),
            "before or in training": sum(r.foretold for r in raced),
            "saved": spent / (sum(map(track.work, raced)) + track.validation),
            "could be saved": spent / track.least(full, goals),
            "seconds saved": sum(r.seconds for r in full) / sum(r.seconds for r in raced),
            "kept": track.reached(raced, goals) / track.reached(full, goals),
            "non-dominated": len(best),
            "wrong": sum(raced[i].status == "stopped" for i in best),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer trials, accuracy and size only")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    seeds, trials, costs = (1, 50, (1,)) if options.quick else (5, 100, (1, 2))
    track = Track(load())
    console = Console()
    runs: dict[str, list[dict[str, float]]] = {}
    for sampler in SAMPLERS:
        for seed in range(seeds):
            for count, found in compare(track, sampler, seed, trials, costs).items():
                runs.setdefault(f"{sampler}, {1 + count} objectives", []).append(found)
                console.print(sampler, seed, 1 + count, {k: round(v, 4) for k, v in found.items()}, highlight=False)
    shown, met = table(runs)
    console.print(shown)
    if options.json:
        options.json.write_text(json.dumps({"runs": runs, "bars": met}, indent=1))
    return 0 if all(met.values()) else 1


def table(runs: dict[str, list[dict[str, float]]]) -> tuple[Table, dict[str, bool]]:
    """Return the figures by sampler with their ranges, and whether each bar is met."""
    shown = Table("run", "figure", "median", "range", "bar", "met")
    met = {}
    for sampler, found in runs.items():
        for name, bar in (("saved", SAVED), ("could be saved", None), ("seconds saved", None), ("kept", KEPT)):
            values = [run[name] for run in found]
            middle = statistics.median(values)
            if bar is not None:
                met[f"{sampler}: {name}"] = middle >= bar
            shown.add_row(
                sampler, name, f"{middle:.4g}", f"{min(values):.4g} to {max(values):.4g}",
                f">= {bar}" if bar is not None else "", "" if bar is None else "yes" if middle >= bar else "NO",
            )  # fmt: skip
        wrong, best = (sum(run[name] for run in found) for name in ("wrong", "non-dominated"))
        met[f"{sampler}: wrong"] = wrong <= WRONG * best
        shown.add_row(
            sampler, "wrongly stopped", f"{wrong / best:.2%}", f"{wrong:.0f} of {best:.0f}", f"<= {WRONG:.0%}",
            "yes" if wrong <= WRONG * best else "NO", end_section=True,
        )  # fmt: skip
    return shown, met


if __name__ == "__main__":
    sys.exit(main())
