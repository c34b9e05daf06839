"""Optuna's samplers, by name. The only file that imports Optuna, with `drop_in`, which goes the other way.

The study lives in memory; the journal is the record. A recipe is coded *flat*: every decision and parameter is
one dimension that is always present, ordered ones as integers, so that every sampler of Optuna can model it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..spaces.recipe import Recipe
from ..spaces.space import Space
from ..spaces.threads import threaded
from .result import Objective, Result
from .sampler import Proposal

#: Number of trials before TPE models; the uniform recipes count among them.
_TPE_STARTUP = 16


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(multivariate=True, constant_liar=True, n_startup_trials=_TPE_STARTUP, seed=seed)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": lambda seed: NSGAIISampler(population_size=20, seed=seed),
    "nsga3": lambda seed: NSGAIIISampler(population_size=20, seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Optuna says of its own to errors, and leave what the user's studies say as it is."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


class OptunaSampler:
    """Ask for recipes, tell what became of them.

    Parameters
    ----------
    space
        What may be proposed.
    objectives
        In the order of the values told.
    name
        "tpe" (Ozaki et al., 2022), "nsga2" (Deb et al., 2002), "nsga3" (Deb & Jain, 2014), "gp" or "random".
    seed
        The same seed and the same results give the same proposals.
    constraints
        Number of constraint violations told with each result.
    """

    def __init__(
        self, space: Space, objectives: Sequence[Objective], name: str, seed: int, constraints: int = 0
    ) -> None:
        self.space, self.objectives, self.name, self._constraints = (
            space,
            tuple(objectives),
            name,
            constraints,
        )
        with _quiet():
            self._study = optuna.create_study(
                directions=[o.direction for o in objectives], sampler=SAMPLERS[name](seed)
            )
        self._distributions = distributions(space)
        self._worst: list[float] | None = None

    def ask(self) -> Proposal:
        """Return the sampler's next proposal."""
        # A Gaussian process is many small matrices: threads wait for each other, beside trials 20 times as long.
        with _quiet(), threaded(1):
            trial = self._study.ask(self._distributions)
        return Proposal(decoded(self.space, trial.params), trial, self.name)

    def ask_for(self, recipe: Recipe, origin: str) -> Proposal:
        """Return a proposal of a given recipe, so that the sampler learns from it like from its own."""
        with _quiet():
            self._study.enqueue_trial(encoded(self.space, recipe))
        return replace(self.ask(), origin=origin)

    def tell(self, proposal: Proposal, result: Result, violations: Sequence[float] = ()) -> None:
        """Report a result.

        A failed trial is told as completed with the worst values seen and an infeasible mark: samplers ignore
        trials that are told as failed, and would propose the same broken setting again.
        """
        trial: optuna.Trial = proposal.handle
        trial.set_constraint("failed", 1.0 if result.status == "failed" else -1.0)
        for index, violation in enumerate(self._padded(violations)):
            trial.set_constraint(f"c{index}", violation)
        self._study.tell(trial, self._values(result))

    def attributes(self, proposal: Proposal) -> dict[str, Any]:
        """Return what must be recorded with the result to rebuild the sampler: the generation of NSGA-II and NSGA-III,
        without which they would start over.
        """
        trial = self._study.get_trials(deepcopy=False)[proposal.handle.number]
        return {k: v for k, v in trial.system_attrs.items() if k.endswith(":generation")}

    def forget(self, proposal: Proposal) -> None:
        """Drop a proposal that will have no result."""
        self._study.tell(proposal.handle, state=TrialState.FAIL)

    def recall(self, result: Result, violations: Sequence[float], attributes: Mapping[str, Any]) -> None:
        """Add a result of an earlier session, with what `attributes` returned for it."""
        constraints = {"failed": 1.0 if result.status == "failed" else -1.0}
        constraints |= {f"c{i}": v for i, v in enumerate(self._padded(violations))}
        values = self._values(result)
        trial: FrozenTrial = create_trial(
            values=values,
            params=encoded(self.space, result.recipe),
            distributions=self._distributions,
            system_attrs=dict(attributes),
            constraints=constraints,
        )
        self._study.add_trial(trial)

    def _padded(self, violations: Sequence[float]) -> list[float]:
        """Return one violation for each constraint: a failed trial violates them all."""
        known = [1.0 if math.isnan(v) else v for v in violations]
        return [*known, *[1.0] * (self._constraints - len(known))]

    def _values(self, result: Result) -> list[float]:
        values = [result.value(o.name) for o in self.objectives]
        if result.status != "failed" and not any(map(math.isnan, values)):
            self._worst = values if self._worst is None else [
                max(a, b, key=o.loss) for o, a, b in zip(self.objectives, self._worst, values)
            ]  # fmt: skip
            return values
        return self._worst or [1e30 if o.direction == "minimize" else -1e30 for o in self.objectives]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return dimension -> what Optuna draws from."""
    return {
        name: IntDistribution(0, len(knob.values) - 1) if knob.ordered else CategoricalDistribution(knob.values)
        for name, knob in space.dimensions.items()
    }


def encoded(space: Space, recipe: Recipe) -> dict[str, Any]:
    """Return the parameters of an Optuna trial of a recipe, or raise SettingError if it isn't in the space."""
    flat = space.encode(recipe)
    return {n: k.index(flat[n]) if k.ordered else flat[n] for n, k in space.dimensions.items()}


def decoded(space: Space, params: Mapping[str, Any]) -> Recipe:
    """Return the recipe of an Optuna trial's parameters, which are all there."""
    return space.decode({n: k.values[params[n]] if k.ordered else params[n] for n, k in space.dimensions.items()})
