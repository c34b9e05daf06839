"""How many trials a front takes: the profile sampler against Optuna's, in three spaces of a real network.

Hypervolume of validation error x size (error up to 1, size up to a quarter of the original's) against the number of
full evaluations. The profile counts as the evaluations that it takes as long as. All methods are told the same results:
a recipe is measured once, by a real trial (compressed, saved, loaded, measured on 1,000 images), and kept in a table on
disk. (On 250 images, a front of many runs is made by luck: decision 29.)

Peers (see `peers`): NSGA-II with populations of 20 and 50, TPE, TPE multivariate, GP, random search, and uniform
settings. Ordered parameters are integers for them, and a space that must take a technique leaves out none.

Bars
----
early
    Ours after 30 evaluations is at least NSGA-II and TPE after 600, in each space and for each seed.
best
    Ours after 100 evaluations is within 2 % of the front of all runs together, in each space and for each seed.
profile
    Takes less time than 30 trials, in each space.

The front of all runs together is also one of what happened to be right on the images it was chosen by. So where "best"
is missed, the models are measured on the validation images that no run saw, too, and what comes out is said.

Run: ``python benchmarks/search_efficiency.py [--quick] [--spaces bits,...] [--data DIR] [--json FILE]``; exits 1 when a
bar is missed. ``--quick`` takes fewer images, seeds and trials of the peers, and says so. The full run of the peers
takes 13 hours of processor; their runs are kept in ``records/``, and one that is there isn't run again, but for its
first ten trials, which must come to the same. What is missing is run and added. Ours is always run.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from arena import BOUTS, CLOSE, Arena
from peers import proposals, uniform
from record import Record
from resnet20 import DATA, VALIDATION, load, resnet20
from rich.table import Table
from verdict import Bar, arguments, conclude, span, terminal

from paretopress.search.goals import Goals
from paretopress.search.pareto import nondominated
from paretopress.search.profile_sampler import ProfileSampler
from paretopress.search.profile_store import ProfileStore
from paretopress.search.proposer import Proposer
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.task import Task

EARLY, LATE, BEST, SHARE, PROFILE = 30, 600, 100, 0.98, 30
MARKS = (10, 30, 50, 100, 200, 300, 600)
JUDGED = ("nsga2 (20)", "nsga2 (50)", "tpe", "tpe multivariate")
#: Trials of those that get fewer: a GP takes seconds a proposal, and uniform settings are few.
FEWER = {"gp": 100, "uniform": 21}
#: Trials of a recorded run that are run again.
AGAIN = 10
RECORD = Record("search_efficiency")


@dataclass(frozen=True)
class Scale:
    """How much is run: images, seeds, trials of ours and of the peers, which peers, which spaces."""

    validation: int
    calibration: int
    seeds: int
    ours: int
    peers: int
    methods: tuple[str, ...]
    spaces: tuple[str, ...]

    def task(self, data: Path) -> Task:
        """Return the task."""
        return load(data, self.validation, calibration=self.calibration)

    @property
    def others(self) -> int:
        """How many validation images are left, at most twice as many as are seen."""
        return min(2 * self.validation, VALIDATION - self.validation)

    def unseen(self, data: Path) -> Task:
        """Return the ResNet-20 with other images for validation."""
        return resnet20(data, self.others, calibration=self.calibration, skip=self.validation)

    def trials(self, method: str) -> int:
        """Return how many a method gets."""
        return self.ours if method == "ours" else min(self.peers, FEWER.get(method, self.peers))


FULL = Scale(1_000, 64, 5, 150, LATE, ("uniform", *JUDGED, "gp", "random"), tuple(BOUTS))
QUICK = Scale(250, 64, 2, BEST, 100, ("nsga2 (20)", "tpe multivariate", "uniform"), ("bits",))


def profile_of(arena: Arena) -> Profile:
    """Return the arena's profile, measured now: nothing is taken from an earlier run."""
    profiler = Profiler(arena.task, arena.space, ProfileStore(arena.task, None))
    return profiler.measure(int(arena.baseline.value("size")))


def ours(arena: Arena, profile: Profile, seed: int) -> Iterator[Recipe]:
    """Yield what the profile sampler's core tries; its box is the benchmark's."""
    quality, *costs = arena.objectives
    base = {o.name: arena.baseline.value(o.name) for o in costs}
    worst = {o.name: share * base[o.name] for o, share in zip(costs, arena.bout.box)}
    whole = arena.baseline.value(quality.name)
    proposer = Proposer(profile, Goals(base, worst, whole, whole, ProfileSampler.noise(arena.baseline, quality)), seed)
    while True:
        genome = proposer.ask()
        recipe = profile.choices.recipe(genome)
        yield recipe
        values = dict(arena.outcome(recipe).values)
        lost = whole - values.pop(quality.name, 0.0)
        proposer.tell(genome, lost, values, bool(values))


def tried(arena: Arena, method: str, seed: int) -> Iterator[Recipe]:
    """Yield what a peer tries."""
    return uniform(arena) if method == "uniform" else proposals(arena, method, seed)


def facts(arena: Arena, method: str, seed: int, trials: int) -> dict[str, Any]:
    """Return what a peer's run is of: all that its outcome depends on."""
    of = {"space": arena.bout.name, "method": method, "seed": seed, "trials": trials, "task": arena.task.digest}
    of |= {"decisions": arena.space.digest, "box": arena.bout.box, "must": arena.bout.must}
    return of


def summary(arena: Arena, rows: list[list[float]], offset: float = 0.0) -> dict[str, Any]:
    """Return the hypervolume after so many evaluations, ``offset`` of them for the profile, and the front."""
    affordable = {n: int(n - offset) for n in MARKS}
    curve = {str(n): arena.hypervolume(rows[:k]) for n, k in affordable.items() if 0 < k <= len(rows)}
    return {"curve": curve, "end": arena.hypervolume(rows), "front": [rows[i] for i in nondominated(rows)]}


def play(space: str, method: str, seed: int, scale: Scale, data: Path) -> dict[str, Any]:
    """Return one run, and the seconds of processor of its trials and profile.

    Raises
    ------
    RuntimeError
        If the first trials of a recorded run come to something else today.
    """
    arena = Arena(BOUTS[space], scale.task(data))
    found: dict[str, Any] = {"space": space, "method": method, "seed": seed, "offset": 0.0}
    trials = scale.trials(method)
    if method == "ours":
        start = time.process_time()
        profile = profile_of(arena)
        found["profile_seconds"] = time.process_time() - start
        found["recipes"] = list(islice(ours(arena, profile, seed), trials))
        outcomes = [arena.outcome(recipe) for recipe in found["recipes"]]
        found["rows"] = [arena.row(outcome) for outcome in outcomes]
        found["seconds"] = statistics.mean(outcome.seconds for outcome in outcomes)
        found["offset"] = found["profile_seconds"] / found["seconds"]
        return found | summary(arena, found["rows"], found["offset"])
    of = facts(arena, method, seed, trials)
    known = RECORD.find(of)
    outcomes = [arena.outcome(recipe) for recipe in islice(tried(arena, method, seed), AGAIN if known else trials)]
    rows = [arena.row(outcome) for outcome in outcomes]
    if known is not None:
        then, now = known["curve"].get(str(AGAIN), known["end"]), arena.hypervolume(rows)  # or all, where it has fewer
        if not math.isclose(then, now, rel_tol=CLOSE, abs_tol=CLOSE / 10):
            raise RuntimeError(
                f"{RECORD.file}: {of} had {then:.4f} after {AGAIN} trials, now {now:.4f}: delete the line"
            )
        return found | known
    run = {"seconds": statistics.mean(outcome.seconds for outcome in outcomes)} | summary(arena, rows)
    RECORD.add(of, run)
    return found | run


def remeasured(space: str, recipes: list[Recipe], scale: Scale, data: Path) -> list[list[float]]:
    """Return the rows of recipes on images that no run saw."""
    arena = Arena(BOUTS[space], scale.unseen(data))
    return [arena.row(arena.outcome(recipe)) for recipe in recipes]


def elsewhere(space: str, mine: list[dict[str, Any]], scale: Scale, data: Path, pool: Executor) -> list[float]:
    """Return for each of our runs the hypervolume of its front after `BEST` evaluations, as a share of that of all our
    runs' front, both on images that no run saw.
    """
    tried = [(recipe, row) for run in mine for recipe, row in zip(run["recipes"], run["rows"])]
    early = [list(zip(r["recipes"], r["rows"]))[: int(BEST - r["offset"])] for r in mine]
    fronts = [[rows[i][0] for i in nondominated([row for _, row in rows])] for rows in (tried, *early)]
    recipes = list({recipe.digest: recipe for front in fronts for recipe in front}.values())
    parts = [recipes[i :: 2 * scale.seeds] for i in range(2 * scale.seeds)]
    rows = pool.map(remeasured, repeat(space), parts, repeat(scale), repeat(data))
    known = {r.digest: row for part, found in zip(parts, rows) for r, row in zip(part, found)}
    arena = Arena(BOUTS[space], scale.unseen(data))
    together, *each = [arena.hypervolume([known[recipe.digest] for recipe in front]) for front in fronts]
    return [own / together for own in each]


def judge(space: str, runs: list[dict[str, Any]], scale: Scale, data: Path, pool: Executor) -> list[Bar]:
    """Return the bars of one space."""
    arena = Arena(BOUTS[space], scale.task(data))
    mine = [r for r in runs if r["method"] == "ours"]
    late = max(r["end"] for r in runs if r["method"] in JUDGED)
    best = arena.hypervolume([row for r in runs for row in r["front"]])
    early = [r["curve"][str(EARLY)] / late for r in mine]
    after = [r["curve"].get(str(BEST), r["end"]) / best for r in mine]
    offsets = [r["offset"] for r in mine]
    why = ""
    if min(after) < SHARE and (data / "resnet20.safetensors").is_file():
        others = elsewhere(space, mine, scale, data, pool)
        why = (
            f"the front of all runs was chosen by the luck of {scale.validation:,} images, too: on {scale.others:,} "
            f"that no run saw, ours after {BEST} are {span(others)} of all of ours together"
        )
    first = f"{space}: ours after {EARLY} / best NSGA-II or TPE after {scale.peers}"
    return [
        Bar(first, min(early), least=1.0, over=early),
        Bar(f"{space}: ours after {BEST} / all runs together", min(after), least=SHARE, over=after, why=why),
        Bar(f"{space}: profile, in trials", max(offsets), most=PROFILE, over=offsets),
    ]


def table_of(space: str, runs: list[dict[str, Any]]) -> Table:
    """Return medians and ranges over seeds."""
    table = Table(title=f"{space}: hypervolume after so many evaluations, median and range over seeds")
    table.add_column("method")
    for mark in (*MARKS, "its last"):
        table.add_column(str(mark), justify="right")
    for method in dict.fromkeys(r["method"] for r in runs):
        own = [r for r in runs if r["method"] == method]
        columns = [[r["curve"][str(mark)] for r in own if str(mark) in r["curve"]] for mark in MARKS]
        columns.append([r["end"] for r in own])
        table.add_row(method, *(f"{statistics.median(c):.3f}\n{min(c):.3f}-{max(c):.3f}" if c else "" for c in columns))
    return table


def main() -> int:
    """Run, print, judge."""
    parser = arguments(__doc__, quick="two seeds, one space, 100 trials of three peers")
    parser.add_argument("--spaces", help="comma-separated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    spaces = options.spaces.split(",") if options.spaces else scale.spaces
    console, bars, everything = terminal(), [], []
    for space in spaces:
        methods = ("ours", *scale.methods)
        jobs = [(m, s) for s in range(scale.seeds) for m in methods if s == 0 or m != "uniform"]
        with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(play, space, m, s, scale, options.data) for m, s in jobs]
            runs = [w.result() for w in waiting]
            console.print(table_of(space, runs))
            bars += judge(space, runs, scale, options.data, pool)
        everything += [{k: v for k, v in r.items() if k not in ("front", "recipes", "rows")} for r in runs]
    console.print(f"network: {scale.task(options.data).name}")
    return conclude(bars, options, {"scale": asdict(scale), "runs": everything})


if __name__ == "__main__":
    sys.exit(main())
