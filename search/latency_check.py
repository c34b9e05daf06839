"""How good a latency table is: some recipes are compressed and timed for real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..spaces.choices import Choices, Genomes
from ..spaces.stage import Stage
from .costs import CostModel
from .latency_source import LatencySource
from .sensitivity import Profile
from .trial import Bench

#: Recipes that are timed, and the seconds for one (of the evaluator, which may take more).
RECIPES, SECONDS = 8, 0.3
#: How often a block stays that might go: of a model without blocks nothing is left to be predicted.
_KEPT = 0.7


def estimate_latency_check(saving: float) -> float:
    """Return about how many seconds `check_latency` will take if the original is saved in ``saving`` seconds."""
    return RECIPES * (4 * SECONDS + 2 * saving)


def check_latency(profile: Profile, layers: LatencySource, bench: Bench, recipes: int | None = None) -> Profile:
    """Return a profile whose latency table knows how far it is off.

    Recipes are drawn at random, from hardly compressed to compressed everywhere. Their models are read back from files
    and timed beside the original's, as in a trial. What is known from an earlier check isn't measured again.

    Parameters
    ----------
    profile
        With a latency table.
    layers
        That measured the table.
    bench
        Of the same task and space.
    recipes
        How many are timed, `RECIPES` by default; twice as many are tried, for some can't be applied.
    """
    table = profile.latency
    if table is None or table.checked:
        return profile
    costs, metric = CostModel(profile), layers.metric.but(seconds=SECONDS)
    place = costs.metrics.index(table.metric)
    checked: list[tuple[float, float]] = []
    wanted = recipes if recipes is not None else RECIPES
    for genome in _drawn(profile.choices, wanted):
        if len(checked) == wanted:
            break
        try:
            saved, draft = bench.compress(profile.choices.recipe(genome), 0)
            model = bench.reload(saved, draft)
            measured = metric.measure(bench.subject(model, draft.encodings)).value
        except Exception:  # a recipe that can't be applied; others show how good the table is
            continue
        checked.append((float(costs.predict(genome[None])[0, place]), measured))
    if checked:
        layers.keep_checked(profile.choices, checked)
    return replace(profile, latency=replace(table, checked=tuple(checked)))


def _drawn(choices: Choices, wanted: int) -> Iterator[Genomes]:
    """Yield different genomes without training, none of them empty."""
    random = np.random.default_rng(0)
    stages = np.array([d.stage for d in choices.decisions])
    seen = {bytes(8 * len(choices))}
    for strength in np.tile(np.linspace(0.1, 1.0, wanted), 2):
        genome = np.where(random.random(len(choices)) < strength, random.integers(choices.counts), 0)
        genome[stages == Stage.RECOVERY] = 0
        genome[(stages == Stage.TOPOLOGY) & (random.random(len(choices)) < _KEPT)] = 0
        genome = choices.legal(genome[None])[0]
        if genome.tobytes() not in seen:
            seen.add(genome.tobytes())
            yield genome
