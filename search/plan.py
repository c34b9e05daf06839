"""A run's settings, checked together before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ..evaluators.base import Evaluator, evaluators, known_metrics
from ..spaces.errors import SettingError
from ..spaces.seeding import check_seed
from ..spaces.task import Task
from .constraint import Constraint, check_constraints
from .folder import Existing, Retry, check
from .resources import Resources
from .result import Objective
from .sampler import check_sampler
from .storage_address import check_address
from .trial import metrics_for

#: Measured in every trial whatever the objectives: they cost next to nothing.
ALWAYS = ("size", "macs", "bops", "parameters")
#: Where nothing else limits a run.
TRIALS = 50


@dataclass(frozen=True)
class Budget:
    """When to stop asking: after ``trials`` different recipes in all, after looks at ``evaluations`` times the examples
    of the validation split in all, or after ``minutes`` of trials in this session.
    """

    trials: int | None = None
    minutes: float | None = None
    evaluations: float | None = None


@dataclass(frozen=True)
class Plan:
    """What `make_plan` found to be in order; ``metrics`` are measured in each trial, ``columns`` of the front only."""

    objectives: tuple[Objective, ...]
    quality: Objective
    metrics: tuple[Evaluator, ...]
    constraints: tuple[Constraint, ...]
    budget: Budget
    sampler: str
    seed: int
    folder: Path
    existing: Existing
    retry: Retry
    executor: str
    resources: Resources
    racing: bool = True
    columns: tuple[Evaluator, ...] = ()
    storage: str | None = None

    def lines(self) -> list[str]:
        """Return how the settings were read, for people: goals, each limit in words, budget, sampler."""
        units = {m.name: m.unit for m in self.metrics}
        ways = {"maximize": "larger", "minimize": "smaller"}
        goals = [f"{o.name} ({ways[o.direction]} is better)" for o in self.objectives]
        limits = [f"limit {c.text!r}: {c.meaning(self.quality, units.get(c.metric, ''))}" for c in self.constraints]
        amounts = {"trials": self.budget.trials, "minutes": self.budget.minutes, "evaluations": self.budget.evaluations}
        budget = " or ".join(f"{value:g} {name}" for name, value in amounts.items() if value is not None)
        racing = "with racing" if self.racing else "without racing"
        return [
            f"goals: {', '.join(goals)}",
            *limits,
            f"budget: {budget}; sampler {self.sampler}, seed {self.seed}, {racing}",
        ]


def make_plan(
    task: Task,
    objectives: Sequence[str] | None = None,
    *,
    metrics: Sequence[Evaluator] = (),
    budget: int | None = None,
    minutes: float | None = None,
    evaluations: float | None = None,
    constraints: Sequence[str] = (),
    sampler: str = "profile",
    seed: int = 0,
    run: str | Path | None = None,
    existing: Existing = "refuse",
    retry: Retry = "unfinished",
    executor: str = "ray",
    resources: Resources | None = None,
    racing: bool = True,
    storage: str | None = None,
) -> Plan:
    """Return the checked settings; the arguments are those of `search`.

    Raises
    ------
    SettingError, RunError
        For the first setting that can't be used.
    """
    if not isinstance(task, Task):
        raise SettingError("task", task, "must be a Task", "Write Task(model, validation=...).")
    check_sampler(sampler)
    check_seed(seed)
    if executor not in ("ray", "local"):
        raise SettingError("executor", executor, "must be 'ray' or 'local'")
    if retry not in get_args(Retry):
        raise SettingError("retry", retry, f"must be one of {', '.join(map(repr, get_args(Retry)))}")
    if not isinstance(racing, bool):
        raise SettingError("racing", racing, "must be True or False")
    quality = Objective(task.metric.name, task.metric.direction, True)
    if quality.name in evaluators():
        raise SettingError("metric", quality.name, "is the name of a built-in metric", "Give yours another name.")
    known = _known(metrics, quality)
    limits = _constraints(constraints, quality, existing == "resume", known)
    names = _names(objectives, quality)
    measured = tuple(metrics_for(task, [*names, *(c.metric for c in limits), quality.name, *ALWAYS], known))
    columns = tuple(m for m in known.values() if m not in measured and (m.anew or m in metrics))
    directions = {m.name: m.direction for m in measured}
    goals = tuple(Objective(n, directions[n], n == quality.name) for n in names)
    if run is not None and not isinstance(run, str | Path):
        raise SettingError("run", run, "must be a folder's path", "Leave it out for runs/<task name>.")
    if resources is not None and not isinstance(resources, Resources):
        raise SettingError("resources", resources, "must be Resources", "Write Resources(workers=4).")
    folder = Path(run) if run is not None else Path("runs") / task.name
    if storage is not None:
        check_address(storage)
    check(folder, existing, storage is None)
    return Plan(
        goals, quality, measured, limits, _budget(budget, minutes, evaluations), sampler, seed, folder, existing, retry,
        executor, resources or Resources(), racing, columns, storage,
    )  # fmt: skip


def _known(metrics: Sequence[Evaluator], quality: Objective) -> dict[str, Evaluator]:
    """Return all metrics by name, those that are given instead of those that everybody has."""
    if not isinstance(metrics, list | tuple) or not all(isinstance(m, Evaluator) for m in metrics):
        advice = "Write [Latency(batch=32)]. Built-in metrics are there without: name them in objectives."
        raise SettingError("metrics", metrics, "must be a list of metrics of your own", advice)
    taken = [quality.name, *ALWAYS]
    for metric in metrics:
        if metric.name in taken:
            raise SettingError("metrics", metric.name, "is the name of another metric", "Give yours another name.")
        taken.append(metric.name)
    return {**evaluators(), **{m.name: m for m in metrics}}


def _names(objectives: Sequence[str] | None, quality: Objective) -> list[str]:
    names = [quality.name, "size"] if objectives is None else objectives
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise SettingError("objectives", objectives, "must be a list of names", "Write ['accuracy', 'size'].")
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise SettingError("objectives", names, f"name {twice} more than once", "Name each metric once.")
    if len(names) < 2:
        raise SettingError("objectives", names, "must name at least two metrics", "E.g. accuracy and size.")
    return list(names)


def _constraints(
    constraints: Sequence[str], quality: Objective, stored: bool, metrics: Mapping[str, Evaluator]
) -> tuple[Constraint, ...]:
    if not isinstance(constraints, list | tuple):
        like = f"[{constraints!r}]" if isinstance(constraints, str) else "['size <= 300 kB', 'accuracy drop <= 1%']"
        raise SettingError("constraints", constraints, "must be a list", f"Write {like}.")
    limits = tuple(Constraint.parse(c) for c in constraints)
    known = {quality.name, *metrics}
    for limit in limits:
        if limit.metric not in known:
            raise SettingError("constraints", limit.text, "names no metric", known_metrics(limit.metric, known))
    check_constraints(limits, quality, stored, metrics)
    return limits


def _budget(trials: int | None, minutes: float | None, evaluations: float | None) -> Budget:
    if trials is not None and (not isinstance(trials, int) or isinstance(trials, bool) or trials < 1):
        raise SettingError("budget", trials, "must be a whole number of trials, at least 1", "Use minutes= for time.")
    for name, value in (("minutes", minutes), ("evaluations", evaluations)):
        if value is not None and (not isinstance(value, int | float) or not 0 < value < float("inf")):
            raise SettingError(name, value, "must be a number above 0")
    limited = any(limit is not None for limit in (trials, minutes, evaluations))
    return Budget(trials if limited else TRIALS, minutes, evaluations)
