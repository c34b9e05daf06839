"""What must hold for every recipe."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopress.spaces.knob import Scalar
from paretopress.spaces.recipe import Recipe, Step

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)
VALUES: st.SearchStrategy[Scalar] = st.one_of(
    st.integers(), st.booleans(), st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)
)
STEPS = st.builds(lambda s, t, p: Step.of(s, t, **p), NAMES, NAMES, st.dictionaries(NAMES, VALUES, max_size=3))
RECIPES = st.lists(STEPS, max_size=6, unique_by=lambda s: (s.site, s.technique)).map(Recipe.of)


@settings(deadline=None)
@given(RECIPES)
def test_json_round_trip(recipe: Recipe) -> None:
    """A recipe comes back from JSON text equal, with the same digest and the same types of values."""
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.digest == recipe.digest
    assert again.to_json() == recipe.to_json()


@settings(deadline=None)
@given(RECIPES, st.randoms(use_true_random=False))
def test_canonical_form_does_not_depend_on_the_order_of_writing(recipe: Recipe, rng: random.Random) -> None:
    """Steps and parameters in any order make the same recipe."""
    again = Recipe.of(
        Step(step.site, step.technique, tuple(rng.sample(step.params, len(step.params))))
        for step in rng.sample(recipe.steps, len(recipe.steps))
    )
    assert again.steps == recipe.steps
    assert again.digest == recipe.digest


@settings(deadline=None)
@given(RECIPES, RECIPES)
def test_digests_agree_with_equality(one: Recipe, two: Recipe) -> None:
    """Two recipes are equal exactly if their digests are."""
    assert (one == two) == (one.digest == two.digest)


PROGRAM = """
import json, sys
from paretopress.spaces.recipe import Recipe
print(json.dumps([Recipe.from_json(data).digest for data in json.load(sys.stdin)]))
"""


@pytest.fixture
def drawn() -> list[Recipe]:
    """Two hundred recipes over sites, techniques and values of every type."""
    rng = random.Random(0)
    values: list[Scalar] = [1, 2.5, "ä", True, False, -0.0, 1e-9, 12345678901234567890]
    return [
        Recipe.of(
            Step.of(f"layer.{i}", rng.choice("abc"), **{k: rng.choice(values) for k in "xyz"[: rng.randrange(4)]})
            for i in rng.sample(range(10), 4)
        )
        for _ in range(200)
    ]


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_digest_is_the_same_in_another_process(drawn: list[Recipe], hash_seed: str) -> None:
    """Workers and a resumed run name recipes as this process does, however Python hashes strings."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([r.to_json() for r in drawn]),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [r.digest for r in drawn]
