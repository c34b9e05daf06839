"""A profile by hand, and what trials give where it is wrong: a world in which the proposer can be judged."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from paretopress.search.costs import CostModel
from paretopress.search.effects import Effect, Unit
from paretopress.search.goals import Goals
from paretopress.search.pareto import hypervolume
from paretopress.search.proposer import Proposer
from paretopress.search.sensitivity import Profile
from paretopress.spaces.choices import Choices
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

Genome = npt.NDArray[np.int64]

LAYERS = tuple(f"{block}.{layer}" for block in "abc" for layer in ("one", "two"))
BITS = (8, 6, 4, 3, 2)
SPAN = 0.5


def option(name: str, values: tuple[int, ...]) -> Option:
    """Return an option with one knob."""
    return Option(name, (Knob("k", values),))


def by_hand(*extra: Decision) -> Profile:
    """Return the profile of six layers in three blocks: block removal, channels, masks, bits, coding and training."""
    rng = np.random.default_rng(0)
    sites = [
        *(Site(name, "linear", (name,)) for name in LAYERS),
        Site("block:b", "block", ("b",)),
        Site("group:a", "group", ("a.one", "a.two")),
        Site("<model>", "model", ("",)),
    ]
    decisions = [
        Decision("block:b", Stage.TOPOLOGY, (Option("depth"),)),
        Decision("group:a", Stage.STRUCTURE, (option("channels", (1, 2, 3)),)),
        *(Decision(name, Stage.MASK, (option("sparse", (1, 2)),)) for name in LAYERS),
        *(Decision(name, Stage.NUMERIC, (option("integer", BITS),)) for name in LAYERS),
        Decision("<model>", Stage.CONTAINER, (Option("entropy"),)),
        Decision("<model>", Stage.RECOVERY, (option("distillation", (10, 100)),)),
        *extra,
    ]
    choices = Choices(Space(sites, decisions))
    units = {name: Unit(int(rng.integers(2000, 40000)), int(rng.integers(10000, 90000))) for name in LAYERS}
    effects = []
    for decision, own in zip(choices.decisions, choices.settings):
        touched = {"block:b": ("b.one", "b.two"), "group:a": ("a.one", "a.two")}.get(decision.site, (decision.site,))
        weight = float(rng.exponential())
        row = []
        for k, setting in enumerate(own, 1):
            if decision.stage is Stage.NUMERIC:
                bits = int(dict(setting.params)["k"])
                row.append(Effect(weight * 4.0 ** (2 - bits), "fisher", {touched[0]: (bits / 32, 1.0, bits / 32)}))
            elif decision.stage is Stage.MASK:
                row.append(Effect(weight * 0.05 * k, "fisher", {touched[0]: (1 - k / 3, 1.0, 1.0)}))
            elif decision.stage is Stage.STRUCTURE:
                row.append(Effect(weight * 0.1 * k, "channels", dict.fromkeys(touched, (1 - k / 5, 1 - k / 5, 1.0))))
            elif decision.stage is Stage.TOPOLOGY:
                row.append(Effect(0.8, "outputs", dict.fromkeys(touched, (0.0, 0.0, 1.0))))
            else:
                row.append(Effect())
        effects.append(tuple(row))
    return Profile(choices, tuple(effects), units, 500 + sum(u.bytes for u in units.values()))


class Truth:
    """What trials give: damages that the profile is wrong about, training that gives half of the loss back."""

    def __init__(self, profile: Profile, wrong: float = 1.0) -> None:
        self.profile, self.costs = profile, CostModel(profile)
        known = np.concatenate(profile.damage)
        self.damage = known * np.exp(np.random.default_rng(5).normal(0, wrong, len(known)))
        self.base = self.of(np.zeros(len(profile.choices), dtype=np.int64))[1]

    def of(self, genome: Genome) -> tuple[float, dict[str, float]]:
        """Return the loss of quality, and the costs; latency is a root of the bit operations."""
        damage = float(self.damage[self.costs.offsets + genome].sum())
        if genome[self.profile.choices.at("<model>")[-1]]:
            damage /= 2
        costs = dict(zip(self.costs.metrics, self.costs.predict(genome[None])[0].tolist()))
        return 0.9 * damage / (damage + 0.5), costs | {"latency": 1e-6 * math.sqrt(costs["bops"])}

    def goals(self, *objectives: str, quality: bool = True, **more: object) -> Goals:
        """Return goals, by default the size beside the quality."""
        names = objectives or ("size",)
        limits: Mapping[str, float] = more.get("limits", {})  # type: ignore[assignment] # given as a mapping
        base = {name: self.base[name] for name in (*names, *limits)}
        worst = {name: 1.1 * self.base[name] for name in names}
        return Goals(base, worst, SPAN, 2 * SPAN, 0.005, quality, **more)  # type: ignore[arg-type] # limits and lost

    def run(self, proposer: Proposer, trials: int) -> list[Genome]:
        """Ask and tell so many times; what loses more than is allowed can't be on the front."""
        found = []
        for _ in range(trials):
            genome = proposer.ask()
            lost, costs = self.of(genome)
            proposer.tell(genome, lost, costs, usable=lost <= proposer.goals.lost)
            found.append(genome)
        return found

    def volume(self, genomes: list[Genome], *costs: str) -> float:
        """Return the share of the loss x costs box that genomes dominate."""
        told = [self.of(genome) for genome in genomes]
        rows = [[lost / SPAN, *(c[name] / (1.1 * self.base[name]) for name in costs)] for lost, c in told]
        return hypervolume(rows, [1.0] * (1 + len(costs)))

    def random(self, count: int) -> list[Genome]:
        """Return random legal genomes."""
        choices = self.profile.choices
        drawn = np.random.default_rng(1).integers(choices.counts, size=(count, len(choices)))
        return list(choices.legal(drawn))


PROFILE = by_hand()
TRUTH = Truth(PROFILE)
