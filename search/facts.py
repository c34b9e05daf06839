"""What a reader should know of a run: its caveats, and what it takes to repeat it."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from ..spaces.space import Space
from ..spaces.task import Task
from .front import Front
from .plan import Plan
from .trial import Clock


def notes(front: Front, space: Space, plan: Plan, why: str, repeats: int, needs_class: str) -> Iterator[str]:
    """Yield sentences on how the run ended and on what its figures leave out."""
    ends = {
        "trials": "The run ended because its budget of trials was spent.",
        "minutes": "The run ended because its time was up.",
        "evaluations": "The run ended because its budget of evaluations was spent.",
        "exhausted": "The run ended because every recipe of the space was tried.",
        "interrupted": "The run was interrupted; the front is what was found until then. It can be resumed.",
    }
    if plan.constraints and not front.feasible:
        wanted = "; ".join(c.text for c in plan.constraints)
        yield f"No trial keeps all constraints ({wanted}): the points shown are the nearest ones."
    yield ends[why]
    if front.split == "validation":
        yield "The task has no test split: the final figures are on validation data, which the search optimised."
    if len(front) == 1 and front[0].recipe.is_baseline:
        yield "No compressed model was better than the original in any objective."
    if front.errors:
        yield f"{len(front.errors)} of {len(front.results)} trials failed; their reasons are in the journal."
    stopped = sum(r.status == "stopped" for r in front.results)
    if stopped:
        examples = front.baseline.result.measurements[plan.quality.name].repeats
        work = sum(r.evaluations(examples) for r in front.results)
        yield (
            f"{stopped} of {len(front.results)} trials were stopped early because they could not reach the front; "
            f"all trials together took the work of {work:.1f} full evaluations, training not counted."
        )
    if repeats:
        yield f"{repeats} proposals repeated a known recipe and were answered from the journal."
    if needs_class:
        yield f"The saved models need the original's class to load (pass model=): {needs_class}."
    yield from _cached(front)
    uncounted = front.baseline.final["macs"].detail.get("uncounted")
    if uncounted:
        names = ", ".join(sorted(uncounted))
        yield f"MACs leave out operators that are not counted: {names}."
    yield from space.notes


def _cached(front: Front) -> Iterator[str]:
    hits, misses = (sum(r.cache.get(kind, 0) for r in front.results) for kind in ("hits", "misses"))
    if hits + misses:
        share = hits / (hits + misses)
        yield f"{hits} of {hits + misses} results for single layers ({share:.0%}) came from the cache."


def facts_of(task: Task, space: Space, plan: Plan, trials: int, slots: int, clock: Clock) -> dict[str, Any]:
    """Return what ``front.json`` keeps of the run beside its points."""
    budget = " or ".join(
        part
        for part in (
            f"{plan.budget.trials} trials" if plan.budget.trials is not None else "",
            f"{plan.budget.minutes:g} minutes" if plan.budget.minutes is not None else "",
            f"{plan.budget.evaluations:g} evaluations" if plan.budget.evaluations is not None else "",
        )
        if part
    )
    return {
        "name": task.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "seed": plan.seed,
        "sampler": plan.sampler,
        "racing": "on" if plan.racing else "off",
        "budget": budget,
        "trials": trials,
        "slots": slots,
        "seconds": {phase: round(seconds, 3) for phase, seconds in clock.seconds.items()},
        "space": repr(space),
        "task": task.source or "a script",
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "sites": [replace(site, slices=()).to_json() for site in space.sites.values()],
        "versions": {name: version(name) for name in ("paretopress", "torch", "optuna", "ray")},
    }
