"""What a reader should know of a run: its caveats, and what it takes to repeat it."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from statistics import median
from typing import Any

from ..spaces.space import Space
from ..spaces.task import Task
from .cache_place import cache_kept, cache_problem
from .front import Front
from .plan import Plan
from .racing import BREAKS
from .shortfall import shortfall
from .stopwatch import processor
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
    if not front.feasible:
        yield shortfall(front, plan.constraints)
    yield ends[why]
    if front.split == "validation":
        yield "The task has no test split: the final figures are on validation data, which the search optimised."
    if front.feasible and len(front) == 1 and front[0].recipe.is_baseline:
        yield "No compressed model was better than the original in any objective."
    if front.errors:
        yield f"{len(front.errors)} of {counted(len(front.results), 'trial')} failed{_why(front)}."
    yield from _stopped(front)
    yield _work(front)
    if repeats:
        again = (
            "proposal that repeated a known recipe was"
            if repeats == 1
            else "proposals that repeated known recipes were"
        )
        yield f"{repeats} {again} answered from the journal."
    if needs_class:
        yield f"The saved models need the original's class to load (pass model=): {needs_class}."
    yield from _cached(front)
    if unkept := cache_problem():
        yield f"{unkept[:1].upper()}{unkept[1:]}"
    uncounted = front.baseline.final["macs"].detail.get("uncounted")
    if uncounted:
        names = ", ".join(sorted(uncounted))
        yield f"MACs leave out operators that are not counted: {names}."
    yield from space.notes


def _stopped(front: Front) -> Iterator[str]:
    """Yield how many trials were stopped, why, and how long they took beside those that ran to their end."""
    stopped = [r for r in front.results if r.status == "stopped"]
    if not stopped:
        return
    broke = sum(BREAKS in r.error for r in stopped)
    behind = "the front was out of reach" + (f" of {len(stopped) - broke}" if broke else "")
    reasons = [*([f"{broke} broke a limit"] if broke else []), *([behind] if broke < len(stopped) else [])]
    yield f"{_were(len(stopped), len(front.results))} stopped early: {', '.join(reasons)}."
    whole = [r.seconds for r in front.results if r.status == "ok" and not r.recipe.is_baseline]
    if whole:
        to_end, short = (_seconds(median(x)) for x in (whole, [r.seconds for r in stopped]))
        yield f"A trial took {to_end} to its end, and {short} where it was stopped (medians)."


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"


def _why(front: Front) -> str:
    """Return the reasons of failures, the commonest first."""
    reasons = Counter(r.error for r in front.errors).most_common()
    (first, count), *others = reasons
    if not others:
        return f": {first}"
    return f", {count} of them: {first}; {counted(len(others), 'other reason')} are in the report"


def counted(number: int, what: str) -> str:
    """Return a number of things, in the singular if it is one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _were(part: int, whole: int) -> str:
    return f"{part} of {counted(whole, 'trial')} {'was' if part == 1 else 'were'}"


def _work(front: Front) -> str:
    """Return what all trials together looked at, ran and trained on."""
    examples = front.baseline.result.measurements[front.quality.name].repeats
    looks = sum(r.evaluations(examples) for r in front.results)
    trained, calibrated = (sum(r.work.get(kind, 0) for r in front.results) for kind in ("trained", "calibrated"))
    return (
        f"All trials together looked at {looks:.1f} times the {examples} validation examples (those during training "
        f"and at batch-norm statistics included), ran {calibrated} calibration examples for batch norm, and trained on "
        f"{trained} examples."
    )


def machine() -> str:
    """Return what figures that depend on the machine were measured on."""
    return ", ".join(
        part
        for part in (
            processor(),
            platform.machine(),
            platform.system(),
            f"Python {platform.python_version()}",
        )
        if part
    )


def limits_of(plan: Plan) -> str:
    """Return the constraints as text."""
    return "; ".join(c.text for c in plan.constraints)


def _cached(front: Front) -> Iterator[str]:
    hits, misses = (sum(r.cache.get(kind, 0) for r in front.results) for kind in ("hits", "misses"))
    if hits + misses:
        share = hits / (hits + misses)
        where = "on disk and in memory" if cache_kept() else "in the memory of each process; none is kept on disk"
        yield f"{hits} of {hits + misses} results for single layers ({share:.0%}) came from the cache ({where})."


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
        "objectives": ", ".join(o.name for o in plan.objectives),
        "columns": [metric.name for metric in plan.columns],
        "constraints": limits_of(plan),
        "sampler": plan.sampler,
        "racing": "on" if plan.racing else "off",
        "budget": budget,
        "trials": trials,
        "slots": slots,
        "threads": max(1, int(plan.resources.cpus)),
        "seconds": {phase: round(seconds, 3) for phase, seconds in clock.seconds.items()},
        "space": repr(space),
        "task": task.source or "a script",
        "machine": machine(),
        "sites": [replace(site, slices=()).to_json() for site in space.sites.values()],
        "versions": {name: version(name) for name in ("paretopress", "torch", "optuna", "ray")},
    }
