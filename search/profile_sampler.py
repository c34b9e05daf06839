"""The sampler that knows the layers: a `Proposer` in terms of recipes and results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..spaces.recipe import Recipe
from ..spaces.stage import Stage
from .constraint import Constraint, allowed, reach
from .goals import Goals
from .pareto import COST_SPAN, QUALITY_SPAN
from .proposer import Proposer
from .result import Objective, Result
from .sampler import Proposal
from .sensitivity import Profile

#: Standard error of quality where its measurement has no interval, as a share of the baseline's.
_NOISE = 0.005
#: Of the standard error of the quality itself, what is left in a difference to the baseline on the same examples.
_PAIRED = 0.7
#: So many standard errors above the original's a quality is by chance. Chasing that would take all trials where little
#: may be lost, and what is found is no better on other data.
_CHANCE = 2.0
#: A least cost that is predicted as so many times a limit doesn't keep it; the smallest models are a third off.
_CLEARLY = 1.5
#: Costs are positive: what stands for one of nothing.
_LEAST = 1e-12


class ProfileSampler:
    """Proposes what the profile predicts to be best, and learns from every trial.

    Parameters
    ----------
    profile
        Of the space.
    objectives
        The search's.
    quality
        The task's own metric, an objective or not.
    baseline
        The original model's result.
    constraints
        The search's.
    seed
        The same seed and the same results give the same proposals.
    """

    name = "profile"

    def __init__(
        self,
        profile: Profile,
        objectives: Sequence[Objective],
        quality: Objective,
        baseline: Result,
        constraints: Sequence[Constraint],
        seed: int,
    ) -> None:
        self._quality, self._baseline = quality, baseline
        costs = [o for o in objectives if not o.is_quality]
        limits = allowed(constraints, baseline, quality)
        # Of a metric that is better when larger, or that has a lowest value, the reciprocal is the cost.
        self._larger = {m: math.isinf(high) for m, (_, high) in limits.items() if m != quality.name}
        self._larger |= {o.name: o.direction == "maximize" for o in costs}
        upper = {}
        for metric, larger in self._larger.items():
            low, high = limits.get(metric, (-math.inf, math.inf))
            most = (1 / low if low > 0 else math.inf) if larger else high
            if 0 < most < math.inf:  # one of nothing or less is only judged: there is no share of it to be near by
                upper[metric] = most
        base = {name: self._cost(name, baseline) for name in self._larger}
        whole = abs(baseline.value(quality.name)) or 1.0
        lost, noise = self._lost_limit(limits), self.noise(baseline, quality)
        goals = Goals(
            base,
            # What breaks a limit counts nothing, so the front is sought within the limits.
            {o.name: min(COST_SPAN * base[o.name], upper.get(o.name, math.inf)) for o in costs},
            lost if 0 < lost < math.inf else QUALITY_SPAN * whole,
            reach(whole, lost),
            noise,
            any(o.is_quality for o in objectives),
            upper,
            lost,
            _CHANCE * noise,
        )
        self._proposer = Proposer(profile, goals, seed)
        self._choices = profile.choices
        self._trains = np.array([d.stage is Stage.RECOVERY for d in self._choices.decisions])

    def out_of_reach(self) -> dict[str, float]:
        """Return cost -> the least that any recipe is predicted to have, where that is clearly above the limit."""
        limits = self._proposer.goals.limits
        least = {name: self._proposer.least(name) for name in limits if not self._larger[name]}
        return {name: low for name, low in least.items() if low > _CLEARLY * limits[name]}

    def _cost(self, name: str, result: Result) -> float:
        value = result.value(name)
        if self._larger[name]:
            return 1 / max(value, _LEAST)
        return max(value, _LEAST)

    @staticmethod
    def noise(baseline: Result, quality: Objective) -> float:
        """Return the standard error of a difference in quality to the baseline, on the same examples."""
        interval = baseline.measurements[quality.name].interval
        if interval is None or interval[1] <= interval[0]:
            return _NOISE * abs(baseline.value(quality.name))
        return _PAIRED * (interval[1] - interval[0]) / 2 / 1.96

    def _lost_limit(self, limits: Mapping[str, tuple[float, float]]) -> float:
        if self._quality.name not in limits:
            return math.inf
        low, high = limits[self._quality.name]
        worst = low if self._quality.direction == "maximize" else high
        return self._lost(worst)

    def _lost(self, value: float) -> float:
        """Return the loss of quality of a value."""
        return self._quality.loss(value) - self._quality.loss(self._baseline.value(self._quality.name))

    def reseed(self, seed: int) -> None:
        """Go on with other random numbers."""
        self._proposer.random = np.random.default_rng(seed)

    def ask(self) -> Proposal:
        """Return the next proposal: a recipe that was neither told nor is running, as long as one is found.

        A space that is all but tried out has none left; then recipes are drawn at random, and told ones come again.
        """
        genome = self._proposer.ask()
        floors = {m: v for m, v in self._proposer.floors(genome).items() if not self._larger[m]}
        return Proposal(self._choices.recipe(genome), genome, self.name, floors)

    def ask_for(self, recipe: Recipe, origin: str) -> Proposal:
        """Return a proposal of a given recipe."""
        genome = self._choices.genome(recipe)
        self._proposer.expect(genome)
        return Proposal(recipe, genome, origin)

    def tell(self, proposal: Proposal, result: Result, violations: Sequence[float] = ()) -> None:
        """Report a result. Of one that failed the worst is assumed; of one that was stopped for its costs, before its
        quality was known, these are learnt from.
        """
        lost = self._lost(result.value(self._quality.name))
        untrained = self._lost(result.rungs.get("before", {}).get(self._quality.name, math.nan))
        if math.isfinite(untrained):
            self._proposer.note(self._choices.legal(np.where(self._trains, 0, proposal.handle)[None])[0], untrained)
        costs = {name: self._cost(name, result) for name in self._larger}
        kept = result.status == "ok" and all(v <= 0 for v in violations)
        known = math.isfinite(lost) or (math.isnan(lost) and result.status == "stopped")
        if result.status == "failed" or not known:
            lost, costs = math.inf, {}
        self._proposer.tell(proposal.handle, lost, costs, kept)

    def attributes(self, proposal: Proposal) -> dict[str, Any]:  # noqa: ARG002 - results are all it needs
        """Return nothing: results are all it needs."""
        return {}

    def forget(self, proposal: Proposal) -> None:
        """Drop a proposal that will have no result."""
        self._proposer.forget(proposal.handle)

    def recall(self, result: Result, violations: Sequence[float], attributes: Mapping[str, Any]) -> None:  # noqa: ARG002 - there are none
        """Add a result of an earlier session."""
        self.tell(Proposal(result.recipe, self._choices.genome(result.recipe), ""), result, violations)
