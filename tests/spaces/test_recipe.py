"""Recipes: canonical, hashable, the same in every process, JSON both ways."""

from __future__ import annotations

import math
from typing import Any

import pytest

from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Recipe, Step


def test_order_of_steps_and_parameters_does_not_matter() -> None:
    """Two ways of writing one recipe are one recipe, with one digest and one hash."""
    one = Recipe.of([Step.of("b", "svd", rank=0.5), Step.of("a", "integer", bits=4, group=32)])
    two = Recipe.of([Step.of("a", "integer", group=32, bits=4), Step.of("b", "svd", rank=0.5)])
    assert one == two
    assert hash(one) == hash(two)
    assert one.digest == two.digest


def test_unordered_parameters_of_a_raw_step_are_put_in_order() -> None:
    """A step built without `Step.of` becomes canonical inside a recipe."""
    raw = Step("a", "integer", (("group", 32), ("bits", 4)))
    assert Recipe((raw,)) == Recipe.of([Step.of("a", "integer", bits=4, group=32)])


@pytest.mark.parametrize(("first", "second"), [(1, 1.0), (0, False), (True, 1), (0.0, -0.0), (0.3, 0.1 + 0.2)])
def test_equal_recipes_have_equal_digests(first: float, second: float) -> None:
    """Spellings of a value that compare equal can't make one recipe count as two."""
    one, two = (Recipe.of([Step.of("a", "t", x=value)]) for value in (first, second))
    assert one == two
    assert one.digest == two.digest


@pytest.mark.parametrize(("first", "second"), [(4, 2), (0.5, 0.500001), ("a", "b"), ("1", 1), (True, False)])
def test_different_values_give_different_digests(first: float | str, second: float | str) -> None:
    """A parameter that changes the model changes the digest."""
    one, two = (Recipe.of([Step.of("a", "t", x=value)]) for value in (first, second))
    assert one != two
    assert one.digest != two.digest


def test_digest_depends_on_site_and_technique() -> None:
    """The same parameters elsewhere, or of another technique, are another recipe."""
    digests = {Recipe.of([Step.of(s, t)]).digest for s in ("a", "b") for t in ("p", "q")}
    assert len(digests) == 4


def test_digest_is_stable_across_versions() -> None:
    """Journals name recipes by digest: a change of its definition would orphan every finished run."""
    assert Recipe().digest == "4f53cda18c2baa0c"
    assert Recipe.of([Step.of("conv1", "integer", bits=4, ratio=0.5)]).digest == "7cbddf4f91011618"


def test_parameter_may_be_named_like_an_argument() -> None:
    """Technique authors are free to call a parameter "site" or "technique"."""
    assert Step.of("a", "t", site=1, technique="x").options == {"site": 1, "technique": "x"}


def test_what_is_no_step_is_named() -> None:
    """A recipe from a technique's name, or from a step's parameters, is a mistake with advice."""
    for wrong in ("integer", [{"bits": 4}]):
        with pytest.raises(SettingError, match=r"is no step\. Write Recipe"):
            Recipe.of(wrong)  # type: ignore[arg-type]  # that is the mistake


@pytest.mark.parametrize("values", [(1, 2), (1, "one"), (1, 1)])
def test_same_technique_twice_at_a_site_is_refused(values: tuple[object, object]) -> None:
    """A doubled step is an error with advice, whatever types its parameters have."""
    steps = [Step("a", "t", (("x", value),)) for value in values]  # type: ignore[arg-type]  # mixed on purpose
    with pytest.raises(SettingError, match=r"'a: t'.*once only"):
        Recipe.of(steps)


def test_at_returns_the_steps_of_one_site() -> None:
    """Looking up one layer finds its steps and no others."""
    recipe = Recipe.of([Step.of("a", "p"), Step.of("ab", "p"), Step.of("a", "q")])
    assert recipe.at("a") == (Step.of("a", "p"), Step.of("a", "q"))
    assert recipe.at("c") == ()


def test_empty_recipe_is_the_baseline() -> None:
    """Nothing to do is a recipe too, and says so."""
    assert Recipe().is_baseline
    assert str(Recipe()) == "baseline"
    assert not Recipe.of([Step.of("a", "p")]).is_baseline


def test_text_names_site_technique_and_values() -> None:
    """The one-line form holds everything a person needs to write the recipe again."""
    recipe = Recipe.of([Step.of("fc", "integer", bits=4), Step.of("conv", "svd", fraction=0.5)])
    assert str(recipe) == "conv: svd(fraction=0.5); fc: integer(bits=4)"


@pytest.mark.parametrize(
    "data",
    [
        5,
        "svd",
        [{"site": "a"}],
        [{"technique": "t"}],
        [["a", "t"]],
        [{"site": "a", "technique": "t", "params": None}],
        [{"site": "a", "technique": "t", "params": "bits"}],
        [{"site": "a", "technique": "t", "params": {1: 2}}],
        {"site": "a", "technique": "t"},
    ],
)
def test_malformed_json_is_a_setting_error(data: Any) -> None:
    """A recipe file with the wrong structure is the user's mistake, and the message shows the right one."""
    with pytest.raises(SettingError, match=r"recipe.*list of \{site, technique, params\}"):
        Recipe.from_json(data)


@pytest.mark.parametrize("value", [None, [1, 2], {"a": 1}, math.nan, math.inf])
def test_parameter_that_is_no_finite_scalar_is_refused(value: Any) -> None:
    """A list, null or NaN in a recipe file can't reach a technique or a digest."""
    with pytest.raises(SettingError, match="must be"):
        Recipe.from_json([{"site": "a", "technique": "t", "params": {"x": value}}])


def test_params_may_be_left_out_of_json() -> None:
    """A technique without parameters needs no empty mapping in the file."""
    assert Recipe.from_json([{"site": "a", "technique": "t"}]) == Recipe.of([Step.of("a", "t")])
