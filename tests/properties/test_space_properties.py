"""What must hold for every space: checked on drawn spaces small enough to be enumerated."""

from __future__ import annotations

import itertools
import json
import math
import random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from paretopress.spaces.decision import NONE, Decision, Option
from paretopress.spaces.knob import Knob, Scalar
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

#: Layers at several depths, blocks that nest, and a group across a block's border.
LAYERS = [Site(n, "linear", (n,)) for n in ("a.fc", "a.b.fc", "a.b.out", "c.fc", "head")]
BLOCKS = [Site(f"block:{n}", "block", (n,)) for n in ("a.b", "a", "c")]
GROUP = Site("group:a.b.out", "group", ("a.b.out", "head"))
SITES = (*LAYERS, *BLOCKS, GROUP)

NAMES = {
    Stage.OPERATOR: ("svd", "hashed"),
    Stage.MASK: ("sparse", "block-sparse"),
    Stage.NUMERIC: ("integer", "codebook"),
}
FORBIDDABLE = st.frozensets(
    st.sampled_from([*itertools.chain(*NAMES.values()), *(s.name.lower() for s in NAMES)]), max_size=2
)
LARGEST_BOX = 3000


@st.composite
def knobs(draw: st.DrawFn) -> tuple[Knob, ...]:
    """Up to two parameters, the second perhaps alive under a value of the first only."""
    first = Knob("p", tuple(range(draw(st.integers(1, 2)))))
    when = draw(st.sampled_from([None, ("p", 0), ("p", 1)]))
    second = Knob("q", (0.25, 0.5), when=when)
    return draw(st.sampled_from([(), (first,), (first, second)]))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """A space of up to four decisions at layers, and any of the blocks and groups."""
    places = draw(st.lists(st.tuples(st.sampled_from(LAYERS), st.sampled_from(list(NAMES))), max_size=4, unique=True))
    decisions = []
    for site, stage in places:
        chosen = draw(st.lists(st.sampled_from(NAMES[stage]), min_size=1, max_size=2, unique=True))
        options = tuple(Option(name, draw(knobs()), draw(FORBIDDABLE) - {name}) for name in chosen)
        decisions.append(Decision(site.name, stage, options))
    blocks = draw(st.lists(st.sampled_from(BLOCKS), max_size=3, unique=True))
    decisions += [Decision(block.name, Stage.TOPOLOGY, (Option("depth"),)) for block in blocks]
    for site in draw(st.lists(st.sampled_from([GROUP, BLOCKS[1]]), max_size=2, unique=True)):
        decisions.append(Decision(site.name, Stage.STRUCTURE, (Option("channels", draw(knobs())),)))
    assume(decisions)
    return Space(draw(st.permutations(SITES)), draw(st.permutations(decisions)))


def all_recipes(space: Space) -> set[Recipe]:
    """Decode every point of the flat box."""
    domains = [knob.values for knob in space.dimensions.values()]
    assume(math.prod(map(len, domains)) <= LARGEST_BOX)
    return {space.decode(dict(zip(space.dimensions, point))) for point in itertools.product(*domains)}


def legal(space: Space, recipe: Recipe) -> bool:
    """Say from the rules alone, not from the code under test, whether a recipe may exist."""
    found = []
    for step in recipe.steps:
        [(decision, option)] = [
            (d, o) for d in space.decisions for o in d.options if (d.site, o.technique) == (step.site, step.technique)
        ]
        found.append((decision, option))
        params = step.options
        for knob in option.knobs:
            alive = knob.when is None or params.get(knob.when[0]) == knob.when[1]
            if (knob.name in params) != alive or (alive and params[knob.name] not in knob.values):
                return False
    for (d1, o1), (d2, o2) in itertools.combinations(found, 2):
        if d1.site == d2.site:
            tags = {o1.technique, d1.stage.name.lower()}, {o2.technique, d2.stage.name.lower()}
            if d1.stage == d2.stage or o1.forbids & tags[1] or o2.forbids & tags[0]:
                return False
    paths = {site.name: site.members for site in space.sites.values()}
    for removed in recipe.steps:
        if removed.technique == "depth":
            root = paths[removed.site][0] + "."
            others = [step.site for step in recipe.steps if step != removed]
            if any(all((path + ".").startswith(root) for path in paths[site]) for site in others):
                return False
    return True


def every_legal_recipe(space: Space) -> set[Recipe]:
    """List what the rules allow, by trying all sets of choices with all settings."""
    choices = [
        [None, *((d.site, o.technique, params) for o in d.options for params in o.settings())] for d in space.decisions
    ]
    assume(math.prod(map(len, choices)) <= LARGEST_BOX)
    stacks = (
        [{"site": c[0], "technique": c[1], "params": c[2]} for c in combination if c is not None]
        for combination in itertools.product(*choices)
    )
    return {recipe for recipe in map(Recipe.from_json, stacks) if legal(space, recipe)}


@settings(deadline=None, max_examples=150)
@given(spaces())
def test_size_is_the_number_of_recipes(space: Space) -> None:
    """The size that a report prints equals a count of all points, blocks and forbidden stacks included."""
    recipes = all_recipes(space)
    assert space.size == len(recipes)
    listed = list(space.every())
    assert set(listed) == recipes
    assert len(listed) == space.points


@settings(deadline=None, max_examples=150)
@given(spaces())
def test_box_decodes_to_all_legal_recipes_and_no_others(space: Space) -> None:
    """Sampling can reach exactly what the rules allow."""
    assert all_recipes(space) == every_legal_recipe(space)


@settings(deadline=None, max_examples=200)
@given(spaces(), st.integers(0, 2**32))
def test_sampled_recipes_are_legal_members(space: Space, seed: int) -> None:
    """Whatever is drawn is legal, belongs to the space, and is drawn again from the same seed."""
    rng, again = random.Random(seed), random.Random(seed)
    for _ in range(20):
        recipe = space.sample(rng)
        assert legal(space, recipe)
        assert recipe in space
        assert space.sample(again) == recipe


@settings(deadline=None, max_examples=200)
@given(spaces(), st.integers(0, 2**32))
def test_encode_and_decode_are_inverse(space: Space, seed: int) -> None:
    """A recipe survives the flat box, and its point is canonical and inside the box."""
    recipe = space.sample(random.Random(seed))
    point = space.encode(recipe)
    assert space.decode(point) == recipe
    assert point.keys() == space.dimensions.keys()
    assert all(point[name] in knob.values for name, knob in space.dimensions.items())
    assert space.encode(space.decode(point)) == point


@settings(deadline=None, max_examples=200)
@given(spaces(), st.data())
def test_missing_dimensions_mean_none_and_gentlest(space: Space, data: st.DataObject) -> None:
    """A sampler that reports only the dimensions it drew describes the same recipe as the full point."""
    drawn: dict[str, Scalar] = {}
    for name, knob in space.dimensions.items():
        if data.draw(st.booleans()):
            drawn[name] = data.draw(st.sampled_from(knob.values))
    gentlest = {n: NONE if NONE in k.values else k.values[0] for n, k in space.dimensions.items()}
    assert space.decode(drawn) == space.decode({**gentlest, **drawn})


@settings(deadline=None, max_examples=100)
@given(spaces(), st.floats(0, 1), st.booleans())
def test_uniform_recipes_are_members(space: Space, level: float, every: bool) -> None:
    """A uniform recipe of any strength is legal and removes no block."""
    recipe = space.uniform(level, None if every else space.techniques[:2])
    assert recipe in space
    assert legal(space, recipe)
    assert all(step.technique != "depth" for step in recipe.steps)


@settings(deadline=None, max_examples=100)
@given(spaces(), st.integers(0, 2**32))
def test_json_keeps_the_space(space: Space, seed: int) -> None:
    """A space read back from JSON is equal, has the same size, and draws the same recipes."""
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.size == space.size
    assert again.sample(random.Random(seed)) == space.sample(random.Random(seed))


@settings(deadline=None, max_examples=100)
@given(spaces(), st.data())
def test_without_never_offers_what_was_taken(space: Space, data: st.DataObject) -> None:
    """A smaller space is part of the larger one and lacks exactly the techniques taken away."""
    assume(len(space.techniques) > 1)
    banned = data.draw(st.sampled_from(space.techniques))
    smaller = space.without(techniques=[banned])
    assert set(smaller.techniques) == set(space.techniques) - {banned}
    assert smaller.size < space.size
    assert smaller.sample(random.Random(0)) in space
