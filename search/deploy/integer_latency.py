"""What is beyond shares that multiply where layers run on integers: what they cost at least, and conversions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from ...spaces.choices import Choices, Setting
from ...spaces.errors import PressError
from ...spaces.recipe import Recipe
from ...spaces.site import Site
from ..effects import ON_FOUR_BITS, ON_INTEGERS, Effect
from ..latency_source import Left
from ..latency_table import Border, LatencyTable
from .node_times import Marked, Times
from .weighing import halves, weigh

#: Models of which notes of nodes are taken: all layers on integers, and every other one.
_NOTED = 3
#: Where fewer layers can run on integers, conversions aren't worth a look.
_FEWEST = 2
#: Which of a technique's settings are tried together with integers, as places in their order.
_TRIED = (0.0, 0.33, 0.67, 1.0)

#: What stands for the time of layers that are gone.
NOTHING = 1e-6

#: A setting, its key and its effect.
_Choice = tuple[Setting, str, Effect]


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
    ratio
        Returns how long a file takes as a multiple of the original's.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        file: Callable[[Recipe], Marked],
        beside: Callable[..., Sequence[Times]],
        ratio: Callable[[Marked], float],
    ) -> None:
        self._sites, self._file, self._beside, self._ratio = sites, file, beside, ratio

    @staticmethod
    def steps(choices: Choices, effects: Sequence[Sequence[Effect]]) -> dict[str, tuple[Setting, str]]:
        """Return for each site that can run on integers a setting for it, and its key; nothing if they are too few."""
        found: dict[str, tuple[Setting, str]] = {}
        for decision, settings, own in zip(choices.decisions, choices.settings, effects):
            for setting, effect in zip(settings, own):
                if effect.work.endswith(ON_INTEGERS):
                    found.setdefault(decision.site, (setting, LatencyTable.key(decision.site, effect)))
        return found if len(found) >= _FEWEST else {}

    @staticmethod
    def models(
        steps: Mapping[str, tuple[Setting, str]],
        choices: Choices,
        effects: Sequence[Sequence[Effect]],
        left: Left,
    ) -> int:
        """Return how many models `weighed` and `alongside` make together."""
        return 1 + len(halves(list(steps))) + len(_TRIED) * len(_others(choices, effects, left))

    def weighed(
        self, steps: Mapping[str, tuple[Setting, str]], units: Mapping[str, float], left: Left
    ) -> tuple[dict[str, dict[str, float]], dict[str, Border]]:
        """Return key -> path -> what integers leave of a layer, and path -> what converting its output costs, and who
        reads it: from models in which some layers run on integers.

        Parameters
        ----------
        steps
            As `steps` returns them.
        units
            Path -> its share of the original's time.
        left
            What notes of a model say in which all those layers run on integers.
        """
        sets = [list(steps), *halves(list(steps))]
        try:
            files = [self._file(_recipe(steps, sites)) for sites in sets[:_NOTED]]
            base, *timed = self._beside(*files)
            taken = [times.whole / base.whole for times in timed]
            taken += [self._ratio(self._file(_recipe(steps, sites))) for sites in sets[_NOTED:]]
        except (PressError, ValueError, RuntimeError):
            return {}, {}
        readers = files[0].readers
        integer = [{member for site in sites for member in self._sites[site].members} for sites in sets]
        paid = {path: [_differs(path, own, those) for those in integer] for path, own in readers.items()}
        borders = {path: _extra(path, paid[path], timed, base, integer) for path in readers if any(paid[path])}
        layers = {site: self._noted(site, units, left.get(key, {})) for site, (_, key) in steps.items()}
        has = [[site in sites for site in steps] + [paid[path][n] for path in borders] for n, sites in enumerate(sets)]
        noted = np.array([*layers.values(), *borders.values()])
        layer = np.arange(len(noted)) < len(layers)
        costs = weigh(np.array(has, float), np.array(taken) - 1, noted, (layer, ~layer), base.whole)
        off = dict(zip(layers, costs - noted))
        return (
            {key: self._shifted(site, off[site], units, left.get(key, {})) for site, (_, key) in steps.items()},
            {path: (round(float(c), 6), readers[path]) for path, c in zip(borders, costs[len(layers) :])},
        )

    def _noted(self, site: str, units: Mapping[str, float], left: Mapping[str, float]) -> float:
        """Return what integers cost at a site, negative where they save."""
        return sum(units.get(m, 0.0) * (left.get(m, 1.0) - 1) for m in self._sites[site].members)

    def _shifted(
        self, site: str, off: float, units: Mapping[str, float], left: Mapping[str, float]
    ) -> dict[str, float]:
        """Return path -> what is left of the members of a site, if together they take so much more than they did."""
        members = [m for m in self._sites[site].members if units.get(m, 0.0) > 0]
        whole = sum(units[m] for m in members)
        return {**left, **{m: round(max(left.get(m, 1.0) + off / whole, NOTHING), 6) for m in members}}

    def alongside(
        self,
        steps: Mapping[str, tuple[Setting, str]],
        choices: Choices,
        effects: Sequence[Sequence[Effect]],
        left: Left,
    ) -> dict[str, dict[str, float]]:
        """Return key -> path -> the share of its time on integers that a setting of another technique leaves a layer.

        From models all of whose layers run on integers, and have some setting of another technique: the mildest, the
        strongest and two between. Of other settings it is between their neighbours'.
        """
        found: dict[str, dict[str, float]] = {}
        for sites in _others(choices, effects, left):
            timed: dict[str, dict[str, float]] = {}
            for chosen in _chosen(sites):
                for path, shares in self._together(steps, chosen, left).items():
                    timed.setdefault(path, {}).update(shares)
            for settings in sites.values():
                for path in {path for _, _, effect in settings for path in effect.shares} & timed.keys():
                    known = {n: timed[path][key] for n, (_, key, _) in enumerate(settings) if key in timed[path]}
                    for n, (_, key, _) in enumerate(settings if known else ()):
                        share = np.interp(n, list(known), list(known.values()))
                        found.setdefault(key, {})[path] = round(float(share), 4)
        return found

    def _together(
        self, steps: Mapping[str, tuple[Setting, str]], chosen: Mapping[str, _Choice], left: Left
    ) -> dict[str, dict[str, float]]:
        """Return path -> key -> what a setting leaves of a layer, from one model that has all of some; nothing if it
        can't be made.
        """
        recipe = Recipe((*_recipe(steps, steps).steps, *(s.step(site) for site, (s, _, _) in chosen.items())))
        try:
            base, times = self._beside(self._file(recipe))
        except (PressError, ValueError, RuntimeError):
            return {}
        others = {key: effect for _, key, effect in chosen.values()}
        found = {}
        for site, (_, whole) in steps.items():
            for path in times.layers.keys() & base.layers.keys() & set(self._sites[site].members):
                now = times.layers[path] / max(base.layers[path], 1e-9)
                share = max(now / max(left[whole].get(path, 1.0), 1e-9), NOTHING)
                found[path] = {key: share**part for key, part in parts_of(others, path).items()}
        return found


def _differs(path: str, readers: Iterable[str], integer: Collection[str]) -> bool:
    """Whether a layer's output is converted, given which layers run on integers."""
    return any((path in integer) != (reader in integer) for reader in readers)


def _extra(
    path: str, paid: Sequence[bool], timed: Sequence[Times], base: Times, integer: Sequence[Collection[str]]
) -> float:
    """Return what notes say a conversion costs: how much more a layer takes where it is paid than where all layers are
    as itself.
    """
    found = []
    for times, pays, those in zip(timed, paid, integer):
        alike = timed[0] if path in those else base
        if pays and all(path in t.layers for t in (times, alike)):
            found.append((times.layers[path] - alike.layers[path]) / base.whole)
    return max(0.0, float(np.mean(found))) if found else 0.0


def _recipe(steps: Mapping[str, tuple[Setting, str]], sites: Iterable[str]) -> Recipe:
    return Recipe(tuple(steps[site][0].step(site) for site in sites))


def parts_of(settings: Mapping[str, Effect], path: str) -> dict[str, float]:
    """Return key -> the part of a layer's change, in logarithms, that is a setting's doing: as the MACs say, and where
    no MACs change, all alike, or those that let it run on integers.
    """
    touching = {key: e.shares[path][1] for key, e in settings.items() if path in e.shares}
    logs = {key: -math.log(max(macs, NOTHING)) for key, macs in touching.items()}
    total = sum(logs.values())
    if total <= 0:
        integers = [key for key in touching if settings[key].work.endswith(ON_INTEGERS)] or list(touching)
        return {key: 1 / len(integers) for key in integers}
    return {key: log / total for key, log in logs.items()}


def _others(choices: Choices, effects: Sequence[Sequence[Effect]], left: Left) -> list[dict[str, list[_Choice]]]:
    """Return, for each technique that makes layers smaller, the settings of each of its sites, the mildest first; of
    those that compute the same, one.
    """
    known: dict[str, dict[str, dict[str, _Choice]]] = {}
    for decision, settings, own in zip(choices.decisions, choices.settings, effects):
        for setting, effect in zip(settings, own):
            key = LatencyTable.key(decision.site, effect)
            removes = any(share[1] == 0.0 for share in effect.shares.values())
            numbers = effect.work.endswith((ON_INTEGERS, ON_FOUR_BITS))
            if effect.work and not numbers and not removes and key in left:
                known.setdefault(setting.technique, {}).setdefault(decision.site, {})[key] = (setting, key, effect)
    return [{site: sorted(found.values(), key=_macs_left) for site, found in sites.items()} for sites in known.values()]


def _macs_left(choice: _Choice) -> float:
    return -sum(macs for _, macs, _ in choice[2].shares.values())


def _chosen(sites: Mapping[str, Sequence[_Choice]]) -> list[dict[str, _Choice]]:
    """Return settings that are tried together, one for each site."""
    return [{site: found[int(place * (len(found) - 1) + 0.5)] for site, found in sites.items()} for place in _TRIED]
