"""What may vary: at every site, one decision a stage. Every recipe that is sampled or decoded is legal."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .decision import NONE, Decision, Option, combinations, compatible
from .errors import SettingError, nearest
from .knob import Knob, Scalar
from .recipe import Recipe, Step
from .site import Site, select
from .stage import Stage

if TYPE_CHECKING:
    from .automatic import Techniques
    from .task import Task

__all__ = ["NONE", "Decision", "Option", "Space"]


class Space:
    """A set of decisions over the sites of one model.

    The *flat encoding* gives every decision and every parameter one dimension that is always present; a
    dimension whose condition doesn't hold is ignored by `decode`. So samplers see a fixed box, and every
    point of the box decodes to a legal recipe.

    Parameters
    ----------
    sites
        All sites of the model.
    decisions
        What may be chosen; at most one decision for a site and stage, and a technique once a site.

    Raises
    ------
    SettingError
        If there is nothing to decide, a decision's site is unknown, two decisions have the same site and
        stage, two offer the same technique at a site, or two remove the same block.
    """

    def __init__(self, sites: Iterable[Site], decisions: Iterable[Decision], notes: Iterable[str] = ()) -> None:
        self.notes = tuple(notes)
        self.sites: dict[str, Site] = {s.name: s for s in sites}
        chosen = [d for d in decisions if d.options]
        for decision in chosen:
            if decision.site not in self.sites:
                advice = nearest(decision.site, self.sites)
                raise SettingError("decision", decision.name, "is at a site the model doesn't have", advice)
        place = {name: i for i, name in enumerate(self.sites)}

        def rank(decision: Decision) -> tuple[int, int, int]:
            # Legality looks back along this order: stages in turn, a block before the blocks inside it, then
            # the order of the sites in the model.
            members = self.sites[decision.site].members
            nested = members[0].count(".") if decision.stage is Stage.TOPOLOGY and members else 0
            return decision.stage, nested, place[decision.site]

        self.decisions = tuple(sorted(chosen, key=rank))
        if not self.decisions:
            advice = "Give at least one technique that supports a layer of the model."
            raise SettingError("space", 0, "holds no choice", advice)
        names = [d.name for d in self.decisions]
        offers = [(d.site, o.technique) for d in self.decisions for o in d.options]
        roots = [self.sites[d.site].members[:1] for d in self.decisions if d.stage is Stage.TOPOLOGY]
        for listed, rule in ((names, "decided twice"), (offers, "offered twice"), (roots, "removed twice")):
            twice = [item for item, count in Counter(listed).items() if count > 1]
            if twice:
                raise SettingError("space", twice, f"must not be {rule} at one site")

    @classmethod
    def from_task(cls, task: Task, techniques: Techniques | None = None, layers: str | Iterable[str] = "*") -> Space:
        """Return the space of all choices for a task's model.

        Parameters
        ----------
        task
            Its model is looked at, and whether it has training data.
        techniques
            A preset ("quantize", "prune", "low-rank", "deep-compression", "fast", "full", "deployed"), names, or a
            mapping ``{name: {knob: values, "layers": globs}}``, where values are a list, one value or
            ``{"low": .., "high": .., "step": ..}``. By default "full", all techniques but "int8", which pays only in a
            deployed model; with it, "deployed".
        layers
            Globs over site names; ``!glob`` takes away.

        Raises
        ------
        SettingError
            For an unknown technique or knob, a value out of range, or a glob that matches nothing.
        ModelError
            If the model has no compressible layer.
        """
        from .automatic import build_space  # noqa: PLC0415 - automatic.py builds spaces, so it imports this module

        return build_space(task, techniques, layers)

    @classmethod
    def by_hand(cls, task: Task, choices: Mapping[str, Techniques]) -> Space:
        """Return a space from layer glob -> techniques, e.g. ``{"fc": {"integer": {"bits": [8, 4]}}}``.

        A later glob overrides an earlier one where both name a site and technique. ``"<model>"`` names the
        techniques of the whole model ("entropy", "distillation").

        Raises
        ------
        SettingError
            As `from_task`, and for a technique that supports none of the layers of its glob.
        """
        from .automatic import by_hand  # noqa: PLC0415 - as above

        return by_hand(task, choices)

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
                    name = decision.dimension(option, knob.name)
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
            if not compatible(decision.stage, option, taken.get(site.name, ())):
                continue
            names = {k.name: decision.dimension(option, k.name) for k in option.knobs}
            params = option.live({knob: values[name] for knob, name in names.items() if name in values})
            taken.setdefault(site.name, []).append((decision.stage, option))
            if decision.stage is Stage.TOPOLOGY:
                removed.append(site)
            steps.append(Step.of(site.name, option.technique, **params))
        return Recipe.of(steps)

    def encode(self, recipe: Recipe) -> dict[str, Scalar]:
        """Return the point of the flat box that decodes to ``recipe``; ignored dimensions are the gentlest.

        Raises
        ------
        SettingError
            If the recipe isn't in this space.
        """
        values = {name: knob.values[0] for name, knob in self.dimensions.items()}
        for step in recipe.steps:
            decision, option = self._find(step)
            values[decision.name] = option.technique
            given = step.options
            live = option.live(given)
            if given.keys() != live.keys():
                rule = f"must be exactly the live parameters {sorted(live)}"
                raise SettingError(f"{step.site}: {step.technique}", sorted(given), rule)
            values.update({decision.dimension(option, name): value for name, value in live.items()})
        found = self.decode(values)
        if found != recipe:
            lost = sorted(str(step) for step in set(recipe.steps) - set(found.steps))
            raise SettingError("recipe", str(recipe), f"stacks what can't stack: {lost}", "Leave those steps out.")
        return values

    def _find(self, step: Step) -> tuple[Decision, Option]:
        here = self._by_site.get(step.site)
        if here is None:
            advice = nearest(step.site, self._by_site)
            raise SettingError("site", step.site, "takes no choice in this space", advice)
        offers = {option.technique: (decision, option) for decision in here for option in decision.options}
        if step.technique not in offers:
            advice = nearest(step.technique, offers)
            raise SettingError(f"technique at {step.site}", step.technique, "is no choice", advice)
        return offers[step.technique]

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
    def points(self) -> int:
        """Number of points of the flat box, several of which may mean one recipe."""
        return math.prod(len(knob.values) for knob in self.dimensions.values())

    def every(self) -> Iterator[Recipe]:
        """Yield the recipe of every point of the flat box, for small spaces; some more than once."""
        for values in itertools.product(*(knob.values for knob in self.dimensions.values())):
            yield self.decode(dict(zip(self.dimensions, values)))

    @cached_property
    def size(self) -> int:
        """Number of distinct recipes; those that differ only inside a removed block are the same."""
        blocks = [d for d in self.decisions if d.stage is Stage.TOPOLOGY]
        inside: dict[str | None, list[str]] = {None: [], **{block.site: [] for block in blocks}}
        for name in self._by_site:
            around = None
            for block in blocks:  # outer blocks come first, so the last one that fits is the innermost
                if block.site != name and self.sites[name].inside(self.sites[block.site]):
                    around = block.site
            inside[around].append(name)

        def ways(name: str | None) -> int:
            """Return the number of choices at a site and, if it's a block, at the sites in it (None: all)."""
            decisions = self._by_site[name] if name is not None else []
            kept = combinations([d for d in decisions if d.stage is not Stage.TOPOLOGY])
            removed = sum(o.size for d in decisions if d.stage is Stage.TOPOLOGY for o in d.options)
            return removed + kept * math.prod(ways(inner) for inner in inside.get(name, ()))

        return ways(None)

    def uniform(self, level: float, techniques: Iterable[str] | Mapping[str, float] | None = None) -> Recipe:
        """Return the recipe that applies, at every site and stage, one technique at one strength.

        Parameters
        ----------
        level
            0 takes the gentlest value of every parameter, 1 the strongest.
        techniques
            Which may be used; where two compete at a site, the first named one is taken. Without it, the
            first that each decision offers. A mapping gives techniques strengths of their own. Blocks are never
            removed uniformly.

        Raises
        ------
        SettingError
            If the level is not from 0 to 1.
        """
        if not 0 <= level <= 1:
            raise SettingError("level", level, "must be from 0 to 1")
        order = None if techniques is None else {name: i for i, name in enumerate(techniques)}
        values: dict[str, Scalar] = {}
        for here in self._by_site.values():
            offers = [(d, o) for d in here if d.stage is not Stage.TOPOLOGY for o in d.options]
            if order is not None:
                offers = sorted((x for x in offers if x[1].technique in order), key=lambda x: order[x[1].technique])
            taken: dict[Stage, Option] = {}
            for decision, option in offers:
                if decision.stage not in taken and compatible(decision.stage, option, taken.items()):
                    taken[decision.stage] = option
                    values[decision.name] = option.technique
                    strength = techniques[option.technique] if isinstance(techniques, Mapping) else level
                    for knob in option.knobs:
                        position = round(strength * (len(knob.values) - 1)) if knob.ordered else 0
                        values[decision.dimension(option, knob.name)] = knob.values[position]
        return self.decode(values)

    # --- by hand -------------------------------------------------------------------------------------------

    def without(self, *layers: str, techniques: Iterable[str] | None = None) -> Space:
        """Return the space with no choice (or none of ``techniques``) at the sites that the globs name.

        Without globs, ``techniques`` are taken away everywhere.

        Raises
        ------
        SettingError
            If a glob matches no site, a technique is offered nowhere, or no choice is left.
        """
        banned = set(techniques) if techniques is not None else None
        for name in sorted(banned or ()):
            if name not in self.techniques:
                raise SettingError("techniques", name, "is offered nowhere", nearest(name, self.techniques))
        if not layers and banned is None:
            return self
        names = {s.name for s in select(tuple(self.sites.values()), layers or ("*",))}
        kept = []
        for decision in self.decisions:
            if decision.site not in names:
                kept.append(decision)
            elif banned is not None:
                options = tuple(o for o in decision.options if o.technique not in banned)
                kept.append(Decision(decision.site, decision.stage, options))
        return Space(self.sites.values(), kept, self.notes)

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
                    Option(o["technique"], tuple(map(Knob.from_json, o["knobs"])), frozenset(o["forbids"]))
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
        count = str(self.size) if self.size < 10**6 else f"about 10^{round(math.log10(self.size))}"
        return f"Space({len(self._by_site)} sites, {len(self.decisions)} decisions, {count} recipes)"
