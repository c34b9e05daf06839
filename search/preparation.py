"""What a search does before its first trial: the layers' profile, where the sampler wants one, and the sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ..evaluators.base import Measurement
from ..evaluators.latency import Latency
from ..spaces.errors import ModelError
from ..spaces.space import Space
from ..spaces.task import Task
from .amounts import amount
from .effects import Effect, Request
from .executor import Workers
from .fisher import Fisher
from .latency_choice import timed_metric
from .plan import Plan
from .profile_sampler import ProfileSampler
from .progress import duration
from .result import Result
from .sampler import Sampler
from .sensitivity import Profile, Profiler

#: What takes less than so many seconds is measured without a word.
_WORTH_SAYING = 2.0
#: What is said before anything is known of how long a profile takes, with the number of its steps.
FIRST = "{} single steps to measure: gradients and a few of each technique come first"
#: What is said when the profile knows of no recipe that keeps a limit.
OUT_OF_REACH = (
    "no model of this space is predicted to keep {}: the least is {}. The search goes for what comes nearest; a looser "
    "limit on {}, or a larger space, would leave it a choice"
)
#: What that least is: something predicted, or what the original has, as nothing is predicted to lower it.
ABOUT, ORIGINAL = "about {}, give or take a third", "the original's own {}"


class Teller(Protocol):
    """Shows what is done before the first trial."""

    def say(self, text: str) -> None:
        """Print a line."""
        ...

    def profiling(self, share: float, left: float) -> None:
        """Show how much of the profile is measured, and about how many seconds are left."""
        ...


def make_profile(
    task: Task, space: Space, file_bytes: int, executor: Workers, teller: Teller, latency: Latency | None = None
) -> Profile:
    """Return the space's profile, measured by an executor's workers where it isn't on disk.

    If it shall predict a ``latency``, layers are timed here, while the workers have nothing to do.
    """
    profiler = Profiler(task, space, latency=latency)
    if profiler.missing:
        teller.say(FIRST.format(sum(len(r.settings) for r in profiler.missing)))
    seconds, timing = profiler.estimate(executor.slots), profiler.estimate_latency()
    if seconds >= _WORTH_SAYING:
        teller.say(f"measuring the sensitivity of the layers: {duration(seconds)}")
    if timing >= _WORTH_SAYING:
        teller.say(f"measuring how long the layers take: {duration(timing)}")

    def run(requests: Sequence[Request], fisher: Fisher) -> Iterator[tuple[int, list[Effect]]]:
        return executor.survey(requests, profiler.coder, fisher)

    return profiler.measure(file_bytes, run, teller.profiling)


def make_sampler(plan: Plan, task: Task, space: Space, baseline: Result, executor: Workers, teller: Teller) -> Sampler:
    """Return the plan's sampler.

    Raises
    ------
    ModelError
        If the profile's figures of the original model can't be taken.
    """
    if plan.sampler == "profile":
        timed = timed_metric(plan.metrics)
        try:
            profile = make_profile(task, space, int(baseline.value("size")), executor, teller, timed)
        except ModelError as error:
            raise ModelError(f"{error} The profile needs them: a search with sampler='tpe' doesn't.") from error
        sampler = ProfileSampler(profile, plan.objectives, plan.quality, baseline, plan.constraints, plan.seed)
        for metric, least in sampler.out_of_reach().items():
            limits = " and ".join(repr(c.text) for c in plan.constraints if c.metric == metric)
            teller.say(out_of_reach(limits, metric, least, baseline.measurements[metric]))
        return sampler
    from .optuna_samplers import OptunaSampler  # noqa: PLC0415 - the default sampler doesn't owe Optuna's import time

    return OptunaSampler(space, plan.objectives, plan.sampler, plan.seed, len(plan.constraints))


def out_of_reach(limits: str, metric: str, least: float, original: Measurement) -> str:
    """Return what is said of limits on a metric of which no recipe is predicted to have less than ``least``."""
    lowest = ORIGINAL if least >= original.value else ABOUT
    return OUT_OF_REACH.format(limits, lowest.format(amount(min(least, original.value), original.unit)), metric)
