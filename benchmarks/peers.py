"""The other samplers, each in the coding that suits it best.

A decision that offers one technique with one ordered parameter is one integer, from the gentlest to the strongest;
others are flat: the technique, and every parameter beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import optuna
from arena import Arena
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from paretopress.spaces.decision import NONE
from paretopress.spaces.knob import Scalar
from paretopress.spaces.recipe import Recipe

warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "nsga2 (20)": lambda seed: NSGAIISampler(population_size=20, seed=seed),
    "nsga2 (50)": lambda seed: NSGAIISampler(population_size=50, seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "tpe multivariate": lambda seed: TPESampler(multivariate=True, seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}


class Coding:
    """Trial parameters <-> recipes of an arena."""

    def __init__(self, arena: Arena) -> None:
        self.space = arena.space
        self.distributions: dict[str, BaseDistribution] = {}
        self.single: dict[str, list[dict[str, Scalar]]] = {}
        for decision in self.space.decisions:
            options = decision.options
            settings = options[0].settings()
            searched = [k for k in options[0].knobs if len({s.get(k.name) for s in settings}) > 1]
            if len(options) == 1 and (not searched or (len(searched) == 1 and searched[0].ordered)):
                choices: list[dict[str, Scalar]] = [] if arena.bout.must else [{decision.name: NONE}]
                for setting in settings:
                    dims = {decision.dimension(options[0], k): v for k, v in setting.items()}
                    choices.append({decision.name: options[0].technique, **dims})
                self.single[decision.name] = choices
                self.distributions[decision.name] = IntDistribution(0, len(choices) - 1)
                continue
            for name, knob in self.space.dimensions.items():
                own = {decision.name, *(decision.dimension(o, k.name) for o in options for k in o.knobs)}
                if name in own:
                    fits = knob.ordered and name != decision.name
                    self.distributions[name] = (
                        IntDistribution(0, len(knob.values) - 1) if fits else CategoricalDistribution(knob.values)
                    )

    def recipe(self, params: dict[str, int | str]) -> Recipe:
        """Return the recipe of a trial's parameters."""
        flat: dict[str, Scalar] = {}
        for name, value in params.items():
            if name in self.single:
                flat.update(self.single[name][int(value)])
            elif isinstance(self.distributions[name], IntDistribution):
                flat[name] = self.space.dimensions[name].values[int(value)]
            else:
                flat[name] = value
        return self.space.decode(flat)


def proposals(arena: Arena, name: str, seed: int) -> Iterator[Recipe]:
    """Yield what a sampler tries, each told its result before the next."""
    coding = Coding(arena)
    study = optuna.create_study(directions=["minimize"] * len(arena.objectives), sampler=SAMPLERS[name](seed))
    while True:
        trial = study.ask(coding.distributions)
        recipe = coding.recipe(trial.params)
        yield recipe
        study.tell(trial, arena.row(arena.outcome(recipe)))


def uniform(arena: Arena) -> Iterator[Recipe]:
    """Yield the recipes that apply all techniques everywhere with one strength, gentle to strong and back in steps."""
    seen = set()
    for level in np.linspace(0, 1, 21):
        recipe = arena.space.uniform(float(level))
        if recipe.digest not in seen:
            seen.add(recipe.digest)
            yield recipe
