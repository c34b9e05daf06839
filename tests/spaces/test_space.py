"""Spaces: built legally or not at all, counted exactly, the same after JSON."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping

import pytest

from paretopress.spaces.errors import SettingError
from paretopress.spaces.knob import Knob, Scalar
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.space import Decision, Option, Space
from paretopress.spaces.stage import Stage

LAYERS = tuple(
    Site(n, "linear", (n,), (f"{n}.weight",), (8, 8), 64, 256) for n in ("stem", "b.0.fc1", "b.0.fc2", "head")
)
BLOCK = Site("block:b.0", "block", ("b.0", "b.0.fc1", "b.0.fc2"))
WHOLE = Site(MODEL, "model", ("",))
SITES = (*LAYERS, BLOCK, WHOLE)

SVD = Option("svd", (Knob("fraction", (0.75, 0.5, 0.25)),))
HASHED = Option("hashed", (Knob("buckets", (64, 16)),), frozenset({"mask", "codebook"}))
SPARSE = Option("sparse", (Knob("density", (0.5, 0.25)),))
INTEGER = Option(
    "integer",
    (
        Knob("bits", (8, 6, 4, 2)),
        Knob("mode", ("channel", "group"), ordered=False),
        Knob("group", (64, 32), when=("mode", "group")),
    ),
)
CODEBOOK = Option("codebook", (Knob("bits", (4, 2)),))
DEPTH = Option("depth")
ENTROPY = Option("entropy")


def layer_decisions(site: str) -> list[Decision]:
    """Return the three decisions that every layer takes, out of order."""
    return [
        Decision(site, Stage.NUMERIC, (INTEGER, CODEBOOK)),
        Decision(site, Stage.OPERATOR, (SVD, HASHED)),
        Decision(site, Stage.MASK, (SPARSE,)),
    ]


@pytest.fixture
def space() -> Space:
    """Return a space of four layers, two of them in a removable block, with stacks that forbid each other."""
    decisions = [d for layer in LAYERS for d in layer_decisions(layer.name)]
    decisions.append(Decision(WHOLE.name, Stage.CONTAINER, (ENTROPY,)))
    decisions.append(Decision(BLOCK.name, Stage.TOPOLOGY, (DEPTH,)))
    return Space(SITES, decisions)


def test_decisions_run_in_stage_order(space: Space) -> None:
    """Whatever order decisions are given in, they are taken stage by stage, then in the model's order."""
    stages = [d.stage for d in space.decisions]
    assert stages == sorted(stages)
    numeric = [d.site for d in space.decisions if d.stage is Stage.NUMERIC]
    assert numeric == [layer.name for layer in LAYERS]


def test_every_decision_and_parameter_has_one_dimension(space: Space) -> None:
    """The flat box has one dimension for each decision and for each of its options' parameters."""
    here = [name for name in space.dimensions if name.startswith("stem/")]
    assert here == [
        "stem/operator",
        "stem/svd.fraction",
        "stem/hashed.buckets",
        "stem/mask",
        "stem/sparse.density",
        "stem/numeric",
        "stem/integer.bits",
        "stem/integer.mode",
        "stem/integer.group",
        "stem/codebook.bits",
    ]
    assert space.dimensions["stem/numeric"].values == ("none", "integer", "codebook")
    assert len(space.dimensions) == 4 * len(here) + 2


def test_empty_point_decodes_to_the_baseline(space: Space) -> None:
    """Saying nothing about a layer leaves it alone."""
    assert space.decode({}).is_baseline


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        # A forbidden stack: the later stage gives way.
        ({"stem/operator": "hashed", "stem/mask": "sparse"}, [Step.of("stem", "hashed", buckets=64)]),
        ({"stem/operator": "hashed", "stem/numeric": "codebook"}, [Step.of("stem", "hashed", buckets=64)]),
        # Layers of a removed block: nothing is left to choose.
        ({"block:b.0/topology": "depth", "b.0.fc1/mask": "sparse"}, [Step.of("block:b.0", "depth")]),
        # A dead parameter is absent, a live one is the gentlest where it isn't given.
        (
            {"head/numeric": "integer", "head/integer.group": 32, "head/integer.bits": 4},
            [Step.of("head", "integer", bits=4, mode="channel")],
        ),
        (
            {"head/numeric": "integer", "head/integer.mode": "group"},
            [Step.of("head", "integer", bits=8, mode="group", group=64)],
        ),
    ],
)
def test_decode_drops_what_is_illegal_or_dead(space: Space, values: Mapping[str, Scalar], steps: list[Step]) -> None:
    """Every point of the box has one meaning, and it is a legal recipe."""
    assert space.decode(values) == Recipe.of(steps)


def test_decode_refuses_unknown_choices(space: Space) -> None:
    """A point from outside the box is an error that names the dimension's choices."""
    with pytest.raises(SettingError, match=r"stem/mask = 'magnitude'.*'?sparse"):
        space.decode({"stem/mask": "magnitude"})
    with pytest.raises(SettingError, match=r"density = 0\.3.*must be one of"):
        space.decode({"stem/mask": "sparse", "stem/sparse.density": 0.3})


def test_three_thousand_sampled_recipes_are_legal(space: Space) -> None:
    """No sampled recipe stacks what can't stack, doubles a stage, or changes a removed block."""
    rng = random.Random(0)
    stage_of = {o.technique: d.stage for d in space.decisions for o in d.options}
    hashed = removed = 0
    for _ in range(3000):
        recipe = space.sample(rng)
        for site in space.sites:
            here = [step.technique for step in recipe.at(site)]
            stages = [stage_of[technique] for technique in here]
            assert len(stages) == len(set(stages))
            if "hashed" in here:
                hashed += 1
                assert not {"sparse", "codebook"} & set(here)
        if recipe.at(BLOCK.name):
            removed += 1
            assert not recipe.at("b.0.fc1")
            assert not recipe.at("b.0.fc2")
    assert hashed > 1000
    assert removed > 1000


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step.of("steem", "svd", fraction=0.5), r"site = 'steem'.*Did you mean 'stem'"),
        (Step.of("stem", "svt", fraction=0.5), r"technique at stem = 'svt'.*Did you mean 'svd'"),
        (Step.of("stem", "svd", fraction=0.3), r"fraction = 0\.3: must be one of"),
        (Step.of("stem", "svd"), r"stem: svd.*exactly the live parameters \['fraction'\]"),
        (Step.of("stem", "svd", fraction=0.5, rank=3), r"stem: svd.*exactly the live parameters"),
        (Step.of("stem", "integer", bits=4, mode="channel", group=32), r"live parameters \['bits', 'mode'\]"),
        (Step.of(BLOCK.name, "svd", fraction=0.5), "technique at block:b.0"),
    ],
)
def test_recipe_outside_the_space_is_refused(space: Space, step: Step, message: str) -> None:
    """A recipe that this space can't express is an error that says which part of it, never another recipe."""
    recipe = Recipe.of([step])
    with pytest.raises(SettingError, match=message):
        space.encode(recipe)
    assert recipe not in space


def test_illegal_stack_is_refused_by_encode(space: Space) -> None:
    """A hand-written recipe that stacks what can't stack is refused, and the step in the way is named."""
    recipe = Recipe.of([Step.of("stem", "hashed", buckets=64), Step.of("stem", "sparse", density=0.5)])
    with pytest.raises(SettingError, match=r"can't stack: \['stem: sparse\(density=0\.5\)'\]"):
        space.encode(recipe)


def test_size_is_the_product_over_free_layers(space: Space) -> None:
    """The count agrees with one done by hand: layers of the block count only while the block stays."""
    # Numeric without operator: (1 + 12 + 2); a mask has 2 settings; svd 3; hashed 2, then integer or nothing.
    layer = (1 + 3) * (1 + 2) * 15 + 2 * (1 + 12)
    assert space.size == layer**2 * (layer**2 + 1) * 2


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ([], "holds no choice"),
        ([Decision("stem", Stage.MASK, ())], "holds no choice"),
        ([Decision("stam", Stage.MASK, (SPARSE,))], "stam/mask.*Did you mean 'stem'"),
        ([Decision("stem", Stage.MASK, (SPARSE,))] * 2, "decided twice"),
        ([Decision("stem", Stage.MASK, (SPARSE, SPARSE))], "offered twice"),
        (
            [Decision("stem", Stage.MASK, (SPARSE,)), Decision("stem", Stage.NUMERIC, (SPARSE,))],
            "offered twice",
        ),
        (
            [Decision(name, Stage.TOPOLOGY, (DEPTH,)) for name in (BLOCK.name, "twin:b.0")],
            "removed twice",
        ),
    ],
)
def test_ambiguous_space_is_refused(decisions: list[Decision], message: str) -> None:
    """A space in which a point could mean two recipes, or none, isn't built."""
    with pytest.raises(SettingError, match=message):
        Space([*SITES, Site("twin:b.0", "block", ("b.0",))], decisions)


def test_uniform_walks_from_gentlest_to_strongest(space: Space) -> None:
    """Level 0 is the gentle end of every grid and level 1 the strong one, at every layer alike."""
    for level, bits in ((0.0, 8), (0.34, 6), (1.0, 2)):
        recipe = space.uniform(level, ["integer"])
        assert recipe == Recipe.of(Step.of(s.name, "integer", bits=bits, mode="channel") for s in LAYERS)
        assert recipe in space


def test_uniform_gives_the_first_named_technique_precedence(space: Space) -> None:
    """Where two named techniques compete, by stage or because one forbids the other, the first one wins."""

    def at_stem(*techniques: str) -> list[str]:
        return [step.technique for step in space.uniform(0.5, techniques).at("stem")]

    assert at_stem("codebook", "integer") == ["codebook"]
    assert at_stem("integer", "codebook", "svd") == ["integer", "svd"]
    assert at_stem("hashed", "sparse") == ["hashed"]
    assert at_stem("sparse", "hashed") == ["sparse"]


def test_uniform_without_names_fills_every_stage_but_keeps_blocks(space: Space) -> None:
    """The default uniform recipe compresses every layer and removes none."""
    recipe = space.uniform(1.0)
    assert [s.technique for s in recipe.at("b.0.fc1")] == ["integer", "sparse", "svd"]
    assert recipe.at(MODEL) == (Step.of(MODEL, "entropy"),)
    assert not recipe.at(BLOCK.name)


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_uniform_level_is_a_share(space: Space, level: float) -> None:
    """A level outside 0..1 is an error, not an index from the wrong end."""
    with pytest.raises(SettingError, match="level.*from 0 to 1"):
        space.uniform(level)


def test_without_layers_takes_their_choices_away(space: Space) -> None:
    """A protected layer takes no choice any more, nor does the block whose removal would take it along."""
    smaller = space.without("b.0.fc1")
    assert {d.site for d in space.decisions} - {d.site for d in smaller.decisions} == {"b.0.fc1", BLOCK.name}
    assert smaller.size < space.size
    assert smaller.sites == space.sites


def test_without_techniques_at_layers(space: Space) -> None:
    """One technique can be taken away at one layer, and the others stay."""
    smaller = space.without("head", techniques=["svd", "hashed", "codebook"])
    offered = {d.name: [o.technique for o in d.options] for d in smaller.decisions if d.site == "head"}
    assert offered == {"head/mask": ["sparse"], "head/numeric": ["integer"]}
    assert "svd" in smaller.techniques


def test_without_techniques_everywhere(space: Space) -> None:
    """Without layers, the techniques are taken away at all of them."""
    assert "svd" not in space.without(techniques=["svd"]).techniques
    assert space.without() == space


def test_without_refuses_what_is_not_there(space: Space) -> None:
    """A misspelt layer or technique is an error, so that nothing stays in the search unnoticed."""
    with pytest.raises(SettingError, match="matches no layer"):
        space.without("b.1.*")
    with pytest.raises(SettingError, match=r"'svdd': is offered nowhere\. Did you mean 'svd'"):
        space.without(techniques=["svdd"])
    with pytest.raises(SettingError, match="holds no choice"):
        space.without("*")


def test_techniques_are_listed_in_stage_order(space: Space) -> None:
    """What the space offers is listed once each, in the order in which it would be applied."""
    assert space.techniques == ("depth", "svd", "hashed", "sparse", "integer", "codebook", "entropy")


def test_json_round_trip(space: Space) -> None:
    """A space written to a run folder is read back as the same space."""
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert hash(again) == hash(space)
    assert again.decisions == space.decisions
    assert again.sites == space.sites
    assert again.dimensions == space.dimensions


def test_digest_tells_spaces_apart(space: Space) -> None:
    """A space with a choice less isn't the same space, and no space equals something else."""
    assert space != space.without("head")
    assert space.digest != space.without(techniques=["sparse"]).digest
    assert space != "space"


def test_digest_and_samples_are_the_same_in_another_process(space: Space) -> None:
    """A worker with another string hashing sees the same space, and the same seed draws the same recipes."""
    program = (
        "import json, random, sys; from paretopress.spaces.space import Space;"
        "space = Space.from_json(json.load(sys.stdin)); rng = random.Random(7);"
        "print(json.dumps([space.digest, *(space.sample(rng).digest for _ in range(20))]))"
    )
    rng = random.Random(7)
    expected = [space.digest, *(space.sample(rng).digest for _ in range(20))]
    for seed in ("0", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(space.to_json()),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == expected


def test_repr_counts_spaces_of_any_size(space: Space) -> None:
    """Small spaces are counted exactly in text and huge ones by their power of ten, without failing."""
    small = Space(SITES, [Decision("stem", Stage.MASK, (SPARSE,))])
    assert repr(small) == "Space(1 sites, 1 decisions, 3 recipes)"
    assert repr(space).endswith("about 10^10 recipes)")
    sites = [Site(f"l{i}", "linear", (f"l{i}",)) for i in range(5000)]
    many = Option("many", (Knob.integers("n", 0, 8),))
    assert "about 10^5000" in repr(Space(sites, [Decision(s.name, Stage.NUMERIC, (many,)) for s in sites]))
