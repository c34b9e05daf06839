"""What may vary: at every site, one decision a stage. Recipes are sampled, decoded and counted legally by construction."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import SettingError, nearest
from .knob import Knob, Scalar
from .recipe import Recipe, Step
from .site import Site, select
from .stage import Stage

#: The value of a decision that applies no technique.
NONE = "none"


@dataclass(frozen=True)
class Option:
    """A technique that a decision may take, with its parameters."""

    technique: str
    knobs: tuple[Knob, ...] = ()
    forbids: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Number of distinct parameter settings."""
        return len(self.settings())

    def settings(self) -> list[dict[str, Scalar]]:
        """Return every distinct setting of the live parameters."""
        found: list[dict[str, Scalar]] = [{}]
        for knob in self.knobs:
            grown: list[dict[str, Scalar]] = []
            for params in found:
                grown += [{**params, knob.name: v} for v in knob.values] if knob.alive(params) else [params]
            found = grown
        return found


@dataclass(frozen=True)
class Decision:
    """The choice taken at one site in one stage: one of ``options``, or nothing."""

    site: str
    stage: Stage
    options: tuple[Option, ...]

    @property
    def name(self) -> str:
        """``site/stage``, the name of its dimension."""
        return f"{self.site}/{self.stage.name.lower()}"

    def option(self, technique: str) -> Option:
        """Return the option of that technique, or raise SettingError."""
        for option in self.options:
            if option.technique == technique:
                return option
        raise SettingError(self.name, technique, "is no choice here", nearest(technique, [o.technique for o in self.options]))


class Space:
    """A set of decisions over the sites of one model.

    The *flat encoding* gives every decision and every parameter one dimension that is always present; a dimension
    whose condition doesn't hold is ignored by `decode`. So samplers see a fixed box, and every point of the box
    decodes to a legal recipe.

    Parameters
    ----------
    sites
        All sites of the model.
    decisions
        What may be chosen; at most one decision for a site and stage.

    Raises
    ------
    SettingError
        If there is nothing to decide, or two decisions have the same site and stage.
    """

    def __init__(self, sites: Iterable[Site], decisions: Iterable[Decision]) -> None:
        self.sites: dict[str, Site] = {s.name: s for s in sites}
        # Stage order, then the order of the sites in the model: legality looks back along this order.
        place = {name: i for i, name in enumerate(self.sites)}
        self.decisions = tuple(sorted((d for d in decisions if d.options), key=lambda d: (d.stage, place[d.site])))
        names = [d.name for d in self.decisions]
        if not names:
            raise SettingError(
                "space", 0, "holds no choice", "Give at least one technique that supports a layer of the model."
            )
        if len(set(names)) != len(names):
            raise SettingError("space", sorted(names), "has two decisions for one site and stage")
        self._blocks = [s for s in self.sites.values() if s.kind == "block"]

    # --- the flat encoding ---------------------------------------------------------------------------------

    @cached_property
    def dimensions(self) -> dict[str, Knob]:
        """Name -> domain of every flat dimension, in a fixed order."""
        out: dict[str, Knob] = {}
        for decision in self.decisions:
            choices = (NONE, *(o.technique for o in decision.options))
            out[decision.name] = Knob(decision.name, choices, ordered=len(choices) == 2)
            for option in decision.options:
                for knob in option.knobs:
                    name = f"{decision.site}/{option.technique}.{knob.name}"
                    out[name] = Knob(name, knob.values, knob.ordered)
        return out

    def decode(self, values: Mapping[str, Scalar]) -> Recipe:
        """Return the recipe of a point of the flat box; missing dimensions mean "none" and gentlest.

        Choices that an earlier one makes illegal, or that concern layers of a removed block, are dropped.
        """
        steps: list[Step] = []
        removed: list[Site] = []
        taken: dict[str, list[tuple[Stage, Option]]] = {}
        for decision in self.decisions:
            choice = str(values.get(decision.name, NONE))
            if choice == NONE:
                continue
            site, option = self.sites[decision.site], decision.option(choice)
            if any(site.inside(block) for block in removed):
                continue
            if not _compatible(decision.stage, option, taken.get(site.name, ())):
                continue
            params: dict[str, Scalar] = {}
            for knob in option.knobs:
                if knob.alive(params):
                    name = f"{decision.site}/{option.technique}.{knob.name}"
                    value = values.get(name, knob.values[0])
                    params[knob.name] = knob.values[knob.index(value)]
            taken.setdefault(site.name, []).append((decision.stage, option))
            if decision.stage is Stage.TOPOLOGY:
                removed.append(site)
            steps.append(Step.of(site.name, option.technique, **params))
        return Recipe.of(steps)

    def encode(self, recipe: Recipe) -> dict[str, Scalar]:
        """Return the point of the flat box that decodes to ``recipe``; ignored dimensions get their gentlest value.

        Raises
        ------
        SettingError
            If the recipe isn't in this space.
        """
        values = {name: knob.values[0] for name, knob in self.dimensions.items()}
        for step in recipe.steps:
            decision, option = self._find(step)
            values[decision.name] = option.technique
            known = {k.name: k for k in option.knobs}
            for name, value in step.params:
                if name not in known:
                    raise SettingError(f"{step.site}: {step.technique}", name, "is no parameter", nearest(name, known))
                values[f"{step.site}/{step.technique}.{name}"] = known[name].values[known[name].index(value)]
        if self.decode(values) != recipe:
            lost = sorted(set(map(str, recipe.steps)) ^ set(map(str, self.decode(values).steps)))
            raise SettingError("recipe", str(recipe), f"stacks what can't stack: {lost}")
        return values

    def _find(self, step: Step) -> tuple[Decision, Option]:
        here = [d for d in self.decisions if d.site == step.site]
        if not here:
            raise SettingError("site", step.site, "takes no choice in this space", nearest(step.site, self._by_site))
        for decision in here:
            for option in decision.options:
                if option.technique == step.technique:
                    return decision, option
        offered = [o.technique for d in here for o in d.options]
        raise SettingError(f"technique at {step.site}", step.technique, "is no choice", nearest(step.technique, offered))

    @cached_property
    def _by_site(self) -> dict[str, list[Decision]]:
        out: dict[str, list[Decision]] = {}
        for decision in self.decisions:
            out.setdefault(decision.site, []).append(decision)
        return out

    def __contains__(self, recipe: Recipe) -> bool:
        try:
            self.encode(recipe)
        except SettingError:
            return False
        return True

    # --- sampling and counting -----------------------------------------------------------------------------

    def sample(self, rng: random.Random) -> Recipe:
        """Return the recipe of a uniformly drawn point of the flat box."""
        return self.decode({name: rng.choice(knob.values) for name, knob in self.dimensions.items()})

    @cached_property
    def size(self) -> int:
        """Number of distinct recipes (exact where blocks don't overlap; layers of a removed block count once)."""
        per_site = {name: self._combinations(decisions) for name, decisions in self._by_site.items()}
        deciding = {d.site for d in self.decisions if d.stage is Stage.TOPOLOGY}
        blocks = [b for b in self._blocks if b.name in deciding]
        total = 1
        covered: set[str] = set()
        for block in blocks:
            inner = [n for n in per_site if n not in covered and n != block.name and self.sites[n].inside(block)]
            covered.update(inner)
            covered.add(block.name)
            total *= math.prod(per_site[n] for n in inner) + per_site[block.name] - 1
        return total * math.prod(count for name, count in per_site.items() if name not in covered)

    def _combinations(self, decisions: Sequence[Decision]) -> int:
        states: list[tuple[tuple[tuple[Stage, Option], ...], int]] = [((), 1)]
        for decision in decisions:
            grown = list(states)
            for chosen, count in states:
                for option in decision.options:
                    if _compatible(decision.stage, option, chosen):
                        grown.append(((*chosen, (decision.stage, option)), count * option.size))
            states = grown
        return sum(count for _, count in states)

    def uniform(self, level: float, techniques: Iterable[str] | None = None) -> Recipe:
        """Return the recipe that applies, at every site and stage, one technique at one strength.

        Parameters
        ----------
        level
            0 takes the gentlest value of every parameter, 1 the strongest.
        techniques
            Which may be used; where two compete at a site, the first named one is taken. Blocks are never removed
            uniformly.
        """
        order = list(techniques) if techniques is not None else None
        values: dict[str, Scalar] = {}
        for decision in self.decisions:
            if decision.stage is Stage.TOPOLOGY:
                continue
            offered = {o.technique: o for o in decision.options}
            names = [n for n in (order if order is not None else offered) if n in offered]
            if not names:
                continue
            option = offered[names[0]]
            values[decision.name] = option.technique
            for knob in option.knobs:
                position = round(level * (len(knob.values) - 1)) if knob.ordered else 0
                values[f"{decision.site}/{option.technique}.{knob.name}"] = knob.values[position]
        return self.decode(values)

    # --- by hand -------------------------------------------------------------------------------------------

    def without(self, *layers: str, techniques: Iterable[str] | None = None) -> Space:
        """Return the space with no choice (or none of ``techniques``) at the sites that the globs name."""
        names = {s.name for s in select(tuple(self.sites.values()), layers)}
        banned = set(techniques) if techniques is not None else None
        kept = []
        for decision in self.decisions:
            if decision.site not in names:
                kept.append(decision)
            elif banned is not None:
                options = tuple(o for o in decision.options if o.technique not in banned)
                kept.append(Decision(decision.site, decision.stage, options))
        return Space(self.sites.values(), kept)

    @property
    def techniques(self) -> tuple[str, ...]:
        """Names of the techniques that any decision offers, in stage order."""
        return tuple(dict.fromkeys(o.technique for d in self.decisions for o in d.options))

    # --- JSON ----------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able description of sites and decisions."""
        return {
            "sites": [s.to_json() for s in self.sites.values()],
            "decisions": [
                {
                    "site": d.site,
                    "stage": d.stage.name,
                    "options": [
                        {
                            "technique": o.technique,
                            "knobs": [k.to_json() for k in o.knobs],
                            "forbids": sorted(o.forbids),
                        }
                        for o in d.options
                    ],
                }
                for d in self.decisions
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Read what `to_json` wrote."""
        decisions = [
            Decision(
                d["site"],
                Stage[d["stage"]],
                tuple(
                    Option(o["technique"], tuple(Knob.from_json(k) for k in o["knobs"]), frozenset(o["forbids"]))
                    for o in d["options"]
                ),
            )
            for d in data["decisions"]
        ]
        return cls([Site.from_json(s) for s in data["sites"]], decisions)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits: what makes two spaces the same."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        exponent = len(str(self.size)) - 1
        count = str(self.size) if exponent < 6 else f"about 10^{exponent}"
        return f"Space({len(self._by_site)} sites, {len(self.decisions)} decisions, {count} recipes)"


def _compatible(stage: Stage, option: Option, taken: Iterable[tuple[Stage, Option]]) -> bool:
    for other_stage, other in taken:
        if {option.technique, stage.name.lower()} & other.forbids:
            return False
        if {other.technique, other_stage.name.lower()} & option.forbids:
            return False
    return True
