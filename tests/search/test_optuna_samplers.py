"""Optuna's samplers propose legal recipes, learn from failures, and can be rebuilt."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest
import torch
from optuna.samplers import RandomSampler

from paretopress.evaluators.base import Measurement
from paretopress.search.optuna_samplers import SAMPLERS, OptunaSampler, decoded, distributions, encoded
from paretopress.search.result import Objective, Result
from paretopress.search.sampler import SAMPLERS as OFFERED
from paretopress.search.sampler import check_sampler
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.space import Space
from paretopress.spaces.threads import threaded

#: Trials of a sampler that takes its time; it models from the eleventh on.
LENGTHS = {"gp": 13}
GOALS = (Objective("accuracy", "maximize"), Objective("size", "minimize"))


def outcome(number: int, recipe: Recipe) -> Result:
    """Return made-up figures that depend on the recipe alone: fewer bits are smaller and less accurate."""
    bits = [int(s.options["bits"]) for s in recipe.steps if s.technique == "integer"]
    cost = 100 - sum(8 - b for b in bits) * 4
    accuracy = 0.9 - sum((8 - b) ** 2 for b in bits) / 400
    return Result(number, recipe, {"accuracy": Measurement(accuracy), "size": Measurement(cost, "B")})


@pytest.mark.parametrize("name", SAMPLERS)
def test_proposals_are_in_the_space(name: str, space: Space) -> None:
    """Whatever a sampler asks for decodes to a recipe that the space contains, whatever it was told."""
    sampler = OptunaSampler(space, GOALS, name, seed=1)
    for number in range(LENGTHS.get(name, 40)):
        proposal = sampler.ask()
        assert proposal.recipe in space
        sampler.tell(proposal, outcome(number, proposal.recipe))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_and_results_give_the_same_proposals(name: str, space: Space) -> None:
    """A run can be repeated."""

    def proposals() -> list[str]:
        sampler = OptunaSampler(space, GOALS, name, seed=3)
        found = []
        for number in range(LENGTHS.get(name, 30)):
            proposal = sampler.ask()
            found.append(proposal.recipe.digest)
            sampler.tell(proposal, outcome(number, proposal.recipe))
        return found

    assert proposals() == proposals()


def test_failures_are_told_as_the_worst_and_infeasible(space: Space) -> None:
    """A failed recipe completes with the worst values seen and a broken constraint, so that samplers turn away."""
    sampler = OptunaSampler(space, GOALS, "tpe", seed=0)
    good = sampler.ask()
    sampler.tell(good, outcome(0, good.recipe))
    bad = sampler.ask()
    sampler.tell(bad, Result(1, bad.recipe, {}, "failed", "boom"))
    trials = sampler._study.trials
    assert trials[1].values == trials[0].values
    assert trials[1].constraints["failed"] > 0 > trials[0].constraints["failed"]


def test_what_optuna_says_elsewhere_is_left_alone(space: Space, capfd: pytest.CaptureFixture[str]) -> None:
    """A search is quiet, and the user's own studies go on talking as before."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        sampler = OptunaSampler(space, GOALS, "tpe", seed=0)
        proposal = sampler.ask()
        sampler.tell(proposal, outcome(0, proposal.recipe))
        sampler.ask_for(Recipe(), "start")
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        assert capfd.readouterr().err == ""
    finally:
        optuna.logging.set_verbosity(before)


def test_starting_recipes_are_proposed_as_they_are(space: Space) -> None:
    """A recipe that is asked for comes back unchanged, with the origin given."""
    sampler = OptunaSampler(space, GOALS, "nsga2", seed=0)
    recipe = space.uniform(0.5)
    assert sampler.ask_for(recipe, "start").recipe == recipe
    assert sampler.ask_for(Recipe(), "random").origin == "random"


@pytest.mark.parametrize(("name", "key"), [("nsga2", "NSGAIISampler"), ("nsga3", "NSGAIIISampler")])
def test_genetic_samplers_go_on_with_their_generation_after_a_restart(space: Space, name: str, key: str) -> None:
    """Rebuilt from recorded results, they are in the generation that they had reached, not in the first."""
    key, born = f"{key}:generation", 0
    sampler = OptunaSampler(space, GOALS, name, seed=0)
    told = []
    while born < 2:
        number = len(told)
        proposal = sampler.ask()
        result = outcome(number, proposal.recipe)
        told.append((result, sampler.attributes(proposal)))
        sampler.tell(proposal, result)
        born = told[-1][1][key]
    again = OptunaSampler(space, GOALS, name, seed=1)
    for result, attributes in told:
        again.recall(result, (), attributes)
    assert again.attributes(again.ask())[key] >= 2


def test_every_name_on_offer_has_its_sampler() -> None:
    """What the settings accept, beside the engine's own sampler, is what Optuna is asked for."""
    assert set(OFFERED) == {*SAMPLERS, "profile"}


def test_a_sampler_computes_on_one_thread(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials have the other cores: threads of a Gaussian process that wait for each other would stall the driver."""
    seen = []

    class Watched(RandomSampler):
        def infer_relative_search_space(self, *args: Any) -> Any:
            seen.append(torch.get_num_threads())
            return super().infer_relative_search_space(*args)

    monkeypatch.setitem(SAMPLERS, "random", Watched)
    with threaded(2):
        OptunaSampler(space, GOALS, "random", 0).ask()
        assert torch.get_num_threads() == 2
    assert seen == [1]


def test_an_unknown_sampler_is_refused_with_the_nearest() -> None:
    """The message names what exists."""
    with pytest.raises(SettingError, match="Did you mean 'nsga[23]'"):
        check_sampler("nsga")


def test_recipes_survive_the_coding(space: Space) -> None:
    """A recipe's parameters lie within the distributions, and decode to the recipe."""
    rng = random.Random(0)
    drawn = distributions(space)
    for _ in range(50):
        recipe = space.sample(rng)
        params = encoded(space, recipe)
        assert params.keys() == drawn.keys()
        assert all(d._contains(d.to_internal_repr(params[name])) for name, d in drawn.items())
        assert decoded(space, params) == recipe


def test_recipes_of_another_space_are_refused(space: Space) -> None:
    """A recipe that the space doesn't hold has no parameters."""
    with pytest.raises(SettingError, match="nowhere"):
        encoded(space, Recipe.of([Step.of("nowhere", "integer", bits=8)]))
