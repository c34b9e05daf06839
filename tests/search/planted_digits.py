"""The digits' space in an Optuna study whose trials take no time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from optuna.study import Study
from optuna.trial import Trial

from paretopress.search.costs import CostModel
from paretopress.search.drop_in import ParetoSampler, suggest
from paretopress.search.examples.digits import task as digits
from paretopress.search.pareto import hypervolume
from paretopress.search.profile_store import ProfileStore
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.space import Space

BYTES, ACCURACY = 209_781, 0.98


class Planted:
    """The digits' space with damages that differ from the profile's: trials in no time."""

    def __init__(self) -> None:
        task = digits()
        techniques = {"integer": {"bits": [8, 6, 4, 3, 2]}, "magnitude": {"density": [0.6, 0.3]}, "entropy": {}}
        self.space = Space.from_task(task, techniques)
        self.profile: Profile = Profiler(task, self.space, ProfileStore(task, None)).measure(BYTES)
        self.costs = CostModel(self.profile)
        known = np.concatenate(self.profile.damage)
        self.damage = known * np.exp(np.random.default_rng(7).normal(0, 1, len(known)))
        self.typical = 20 * float(np.median(known[known > 0]))

    def sampler(self, *objectives: str, seed: int | None = 0, **more: object) -> ParetoSampler:
        """Return the sampler for accuracy and size, unless other objectives are named."""
        baseline = {"accuracy": ACCURACY, "latency": 2.0, "speed": 0.5}
        names = objectives or ("accuracy", "size")
        return ParetoSampler(self.space, self.profile, names, baseline=baseline, seed=seed, **more)  # type: ignore[arg-type] # settings of any kind

    def cost(self, recipe: Recipe) -> dict[str, float]:
        """Return the predicted costs."""
        row = self.costs.predict(self.profile.choices.genome(recipe)[None])[0]
        return dict(zip(self.costs.metrics, row.tolist()))

    def measured(self, recipe: Recipe) -> dict[str, float]:
        """Return made-up figures of a recipe: the costs are a little off, and latency follows bit operations."""
        damage = float(self.damage[self.costs.offsets + self.profile.choices.genome(recipe)].sum())
        cost = self.cost(recipe)
        latency = 2.0 * (cost["bops"] / self.cost(Recipe())["bops"]) ** 0.3
        accuracy = ACCURACY - 0.9 * damage / (damage + self.typical)
        return {**cost, "size": 1.02 * cost["size"], "accuracy": accuracy, "latency": latency, "speed": 1 / latency}

    def objective(self, *names: str) -> Callable[[Trial], tuple[float, ...]]:
        """Return a user's objective of these metrics."""

        def run(trial: Trial) -> tuple[float, ...]:
            values = self.measured(suggest(trial, self.space))
            return tuple(values[name] for name in names or ("accuracy", "size"))

        return run

    def recipes(self, study: Study) -> list[Recipe]:
        """Return what the trials tried."""
        return [suggest(trial, self.space) for trial in study.trials]

    def share(self, study: Study, most: float = 0.5) -> float:
        """Return the share of the loss x size plane that trials dominate, up to a loss of a part of the accuracy."""
        rows = [[max(0.0, ACCURACY - t.values[0]), t.values[1]] for t in study.trials if t.values]
        reference = [most * ACCURACY, 1.1 * BYTES]
        return hypervolume(rows, reference) / (reference[0] * reference[1])
