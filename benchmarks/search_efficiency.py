"""How many trials a front takes: the profile sampler against Optuna's, in three spaces of a real network.

Hypervolume of validation error x size (error up to 1, size up to a quarter of the original's) against the number of
full evaluations. The profile counts as the evaluations that it takes as long as. All methods are told the same results:
a recipe is measured once, by a real trial (compressed, saved, loaded, measured), and kept in a table on disk.

Peers (see `peers`): NSGA-II with populations of 20 and 50, NSGA-III, TPE, TPE multivariate, GP, random search, and
uniform settings. Ordered parameters are integers for them, and a space that must take a technique leaves out none.

Bars
----
early
    Ours after 30 evaluations is at least NSGA-II and TPE after 600, in each space and for each seed.
best
    Ours after 100 evaluations is within 2 % of the front of all runs together, in each space and for each seed.
profile
    Takes less time than 30 trials, in each space.

Run: ``python benchmarks/search_efficiency.py [--quick] [--spaces bits,...] [--data DIR] [--json FILE]``; exits 1 when a
bar is missed. ``--quick`` takes fewer seeds, images and trials of the peers, and says so. The full run takes hours and
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from arena import BOUTS, Arena
from peers import SAMPLERS, proposals, uniform
from resnet20 import DATA, load
from rich.console import Console
from rich.table import Table

from paretopress.search.profile_sampler import ProfileSampler
from paretopress.search.profile_store import ProfileStore
from paretopress.search.proposer import Goals, Proposer
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.recipe import Recipe

EARLY, LATE, BEST, SHARE, PROFILE = 30, 600, 100, 0.98, 30
MARKS = (10, 30, 50, 100, 200, 300, 600)
JUDGED = ("nsga2 (20)", "nsga2 (50)", "tpe", "tpe multivariate")
#: A GP takes seconds a proposal, so it gets fewer trials.
GP_TRIALS = 100


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    validation: int
    seeds: int
    ours: int
    peers: int
    methods: tuple[str, ...]
    spaces: tuple[str, ...]


FULL = Scale(1000, 5, 150, LATE, (*SAMPLERS, "uniform"), tuple(BOUTS))
QUICK = Scale(250, 2, BEST, 100, ("nsga2 (20)", "tpe multivariate", "uniform"), ("bits",))


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
        result = arena.result(recipe)
        good = result.status == "ok"
        lost = whole - result.value(quality.name) if good else whole
        proposer.tell(genome, lost, {m: result.value(m) for m in base} if good else {}, good)


def play(space: str, method: str, seed: int, scale: Scale, data: Path) -> dict[str, Any]:
    """Return one run: the rows in the order of its trials, and what its proposals and profile took."""
    arena = Arena(BOUTS[space], load(data, scale.validation))
    found: dict[str, Any] = {"space": space, "method": method, "seed": seed, "offset": 0.0}
    start = time.process_time()
    if method == "ours":
        profile = profile_of(arena)
        found["profile_seconds"] = time.process_time() - start
        tried, count = ours(arena, profile, seed), scale.ours
    elif method == "uniform":
        tried, count = uniform(arena), scale.peers
    else:
        tried, count = proposals(arena, method, seed), min(scale.peers, GP_TRIALS) if method == "gp" else scale.peers
    rows, seconds = [], []
    for recipe in islice(tried, count):
        result = arena.result(recipe)
        rows.append(arena.row(result))
        seconds.append(result.seconds)
    if method == "ours":
        found["offset"] = found["profile_seconds"] / statistics.mean(seconds)
    found["rows"] = rows
    affordable = {n: int(n - found["offset"]) for n in MARKS}
    found["curve"] = {n: arena.hypervolume(rows[:k]) for n, k in affordable.items() if 0 < k <= len(rows)}
    found["end"] = arena.hypervolume(rows)
    found["seconds"] = statistics.mean(seconds)
    return found


def judge(space: str, runs: list[dict[str, Any]], scale: Scale, arena: Arena) -> list[dict[str, Any]]:
    """Return the bars of one space."""
    mine = [r for r in runs if r["method"] == "ours"]
    peers = [r for r in runs if r["method"] in JUDGED]
    best = arena.hypervolume([row for r in runs for row in r["rows"]])
    late = max(r["end"] for r in peers)
    early = min(r["curve"][EARLY] for r in mine)
    after = min(r["curve"][BEST] if BEST in r["curve"] else arena.hypervolume(r["rows"]) for r in mine)
    cost = max(r["offset"] for r in mine)
    peer_trials = min(scale.peers, LATE)
    return [
        {
            "bar": f"{space}: ours after {EARLY} / best NSGA-II or TPE after {peer_trials}",
            "value": early / late,
            "least": 1.0,
        },
        {"bar": f"{space}: ours after {BEST} / all runs together", "value": after / best, "least": SHARE},
        {"bar": f"{space}: profile, in trials", "value": cost, "most": PROFILE},
    ]


def table_of(space: str, runs: list[dict[str, Any]]) -> Table:
    """Return medians and ranges over seeds."""
    table = Table(title=f"{space}: hypervolume after so many evaluations, median and range over seeds")
    table.add_column("method")
    for mark in (*MARKS, "its last"):
        table.add_column(str(mark), justify="right")
    for method in dict.fromkeys(r["method"] for r in runs):
        own = [r for r in runs if r["method"] == method]
        columns = [[r["curve"][mark] for r in own if mark in r["curve"]] for mark in MARKS]
        columns.append([r["end"] for r in own])
        table.add_row(method, *(f"{statistics.median(c):.3f}\n{min(c):.3f}-{max(c):.3f}" if c else "" for c in columns))
    return table


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--spaces", help="comma-separated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    spaces = arguments.spaces.split(",") if arguments.spaces else scale.spaces
    console, bars, everything = Console(), [], []
    for space in spaces:
        jobs = [("ours", s) for s in range(scale.seeds)]
        jobs += [(m, s) for m in scale.methods for s in range(1 if m == "uniform" else scale.seeds)]
        with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(play, space, m, s, scale, arguments.data) for m, s in jobs]
            runs = [w.result() for w in waiting]
        arena = Arena(BOUTS[space], load(arguments.data, scale.validation))
        console.print(table_of(space, runs))
        bars += judge(space, runs, scale, arena)
        everything += [{k: v for k, v in r.items() if k != "rows"} for r in runs]
    verdict = Table("bar", "value", "needed", "")
    missed = 0
    for bar in bars:
        met = bar["value"] >= bar["least"] if "least" in bar else bar["value"] <= bar["most"]
        missed += not met
        needed = f">= {bar['least']:g}" if "least" in bar else f"<= {bar['most']:g}"
        verdict.add_row(bar["bar"], f"{bar['value']:.3f}", needed, "met" if met else "MISSED")
    console.print(verdict)
    console.print(f"network: {arena.task.name}; {scale.validation} validation images; {scale.seeds} seeds")
    if arguments.json:
        arguments.json.write_text(json.dumps({"bars": bars, "runs": everything, "quick": arguments.quick}, indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
