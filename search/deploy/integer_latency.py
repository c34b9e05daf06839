"""What is beyond shares that multiply where layers run on integers: what they cost at least, and conversions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ...spaces.choices import Choices, Setting
from ...spaces.errors import PressError
from ...spaces.recipe import Recipe
from ...spaces.site import Site
from ..effects import ON_FOUR_BITS, ON_INTEGERS, Effect
from ..latency_table import Border, LatencyTable
from .node_times import Marked, Times

#: What conversions cost that belong to no layer, at most, as a multiple of those that do.
_PACE = 4.0
#: Where fewer layers can run on integers, conversions aren't worth a look.
_FEWEST = 2
#: Which of a technique's settings are tried together with integers, as places in their order.
_TRIED = (0.25, 0.75)
#: Of a layer on integers, the share that nothing else saves, at most: above 1 two thin layers take longer than a whole.
_MOST = 1.3

#: Shares left by key and path.
Left = Mapping[str, Mapping[str, float]]


class IntegerLatency:
    """Times models in which some or all layers run on integers.

    Parameters
    ----------
    sites
        By name.
    file
        Makes the deployed file of a recipe.
    beside
        Times files beside the original's, whose times come first.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        file: Callable[[Recipe], Marked],
        beside: Callable[..., Sequence[Times]],
    ) -> None:
        self._sites, self._file, self._beside = sites, file, beside

    @staticmethod
    def steps(choices: Choices, effects: Sequence[Sequence[Effect]]) -> dict[str, tuple[Setting, str]]:
        """Return for each site that can run on integers a setting for it, and its key; nothing if they are too few."""
        found: dict[str, tuple[Setting, str]] = {}
        for decision, settings, own in zip(choices.decisions, choices.settings, effects):
            for setting, effect in zip(settings, own):
                if effect.work.endswith(ON_INTEGERS):
                    found.setdefault(decision.site, (setting, LatencyTable.key(decision.site, effect)))
        return found if len(found) >= _FEWEST else {}

    def conversions(self, steps: Mapping[str, tuple[Setting, str]]) -> dict[str, Border]:
        """Return path -> what converting its output costs, and who reads it: from two models in which every other
        layer runs on integers.
        """
        halves = [list(steps)[start::2] for start in (0, 1)]
        try:
            files = [self._file(_recipe(steps, sites)) for sites in (list(steps), *halves)]
            base, whole, *mixed = self._beside(*files)
        except (PressError, ValueError, RuntimeError):
            return {}
        members = [{m for site in sites for m in self._sites[site].members} for sites in halves]
        found: dict[str, list[float]] = {}
        beyond = 0.0  # what mixing costs, in the layers' nodes or in none
        for times, integer in zip(mixed, members):
            beyond += float(np.median(times.whole / base.whole)) - 1
            for path in times.layers.keys() & base.layers.keys() & whole.layers.keys():
                shares = [float(np.median(t.layers[path] / base.whole)) for t in (times, base, whole)]
                alike = shares[2 if path in integer else 1]
                beyond -= alike - shares[1]
                if path in files[0].readers:
                    found.setdefault(path, []).append(shares[0] - alike)
        costs = {path: max(0.0, float(np.mean(extra))) for path, extra in found.items()}
        paid = len(halves) * sum(costs.values())
        pace = float(np.clip(beyond / paid, 1.0, _PACE)) if paid > 0 else 1.0
        return {path: (round(pace * cost, 6), files[0].readers[path]) for path, cost in costs.items() if cost > 0}

    def stubborn(
        self,
        steps: Mapping[str, tuple[Setting, str]],
        choices: Choices,
        effects: Sequence[Sequence[Effect]],
        left: Left,
    ) -> dict[str, float]:
        """Return path -> the share of a layer's time on integers that other steps don't save: from models all of whose
        layers run on integers, and have some setting of another technique.
        """
        seen: dict[str, list[tuple[float, float]]] = {}
        for others in _others(choices, effects, left):
            recipe = Recipe((*_recipe(steps, steps).steps, *(s.step(site) for site, (s, _) in others.items())))
            try:
                base, times = self._beside(self._file(recipe))
            except (PressError, ValueError, RuntimeError):
                continue
            for site, (_, key) in steps.items():
                for path in self._sites[site].members:
                    if path in times.layers and path in base.layers:
                        alone = left[key].get(path, 1.0)
                        share = float(np.prod([left[k].get(path, 1.0) for _, k in others.values()]))
                        now = float(np.median(times.layers[path] / np.maximum(base.layers[path], 1e-9)))
                        seen.setdefault(path, []).append((share, now / max(alone, 1e-9)))
        found = {}
        for path, pairs in seen.items():
            shares, times_left = np.array(pairs).T
            saved = np.maximum(1 - shares, 0.0)
            if saved.any():  # what is left is q + (1 - q) * share, by least squares
                q = float(((times_left - shares) * saved).sum() / (saved**2).sum())
                found[path] = round(float(np.clip(q, 0.0, _MOST)), 4)
        return found


def _recipe(steps: Mapping[str, tuple[Setting, str]], sites: Iterable[str]) -> Recipe:
    return Recipe(tuple(steps[site][0].step(site) for site in sites))


def _others(choices: Choices, effects: Sequence[Sequence[Effect]], left: Left) -> list[dict[str, tuple[Setting, str]]]:
    """Return, for each technique that makes layers smaller, a mild and a strong setting of each of its sites."""
    known: dict[str, dict[str, list[tuple[Setting, str]]]] = {}
    for decision, settings, own in zip(choices.decisions, choices.settings, effects):
        for setting, effect in zip(settings, own):
            key = LatencyTable.key(decision.site, effect)
            removes = any(share[1] == 0.0 for share in effect.shares.values())
            numbers = effect.work.endswith((ON_INTEGERS, ON_FOUR_BITS))
            if effect.work and not numbers and not removes and key in left:
                known.setdefault(setting.technique, {}).setdefault(decision.site, []).append((setting, key))
    return [
        {site: found[int(place * (len(found) - 1) + 0.5)] for site, found in sites.items()}
        for sites in known.values()
        for place in _TRIED
    ]
