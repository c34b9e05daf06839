"""Settings that give the same model count as one, and the sampler tries each model once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paretopress.search import search
from paretopress.search.alike import alike
from paretopress.search.artifact import loads
from paretopress.search.effects import Effect
from paretopress.search.journal import read
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.search.trial import Bench
from paretopress.spaces.choices import Setting
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task

TECHNIQUES = ["channels", "svd", "magnitude", "integer", "codebook"]


@pytest.fixture(scope="module")
def profile(task: Task) -> Profile:
    """The small network's, whose rows of 9, 72 and 128 weights are no longer than some groups."""
    return Profiler(task, Space.from_task(task, TECHNIQUES)).measure(4 * 3000)


def test_what_is_alike_gives_the_same_outputs(task: Task, profile: Profile) -> None:
    """A setting that is taken for another gives, to the bit, its model."""
    choices, images = profile.choices, task.example
    bench = Bench(task, dict(choices.space.sites), (), ())
    techniques = set()
    for place, stands in choices.alike.items():
        for number in np.flatnonzero(stands != np.arange(len(stands))):
            pair = [choices.settings[place][n - 1] for n in (number, stands[number])]
            recipes = [Recipe.of([setting.step(choices.decisions[place].site)]) for setting in pair]
            first, second = (loads(bench.compress(r, 0)[0].data, task.model)(*images) for r in recipes)
            assert torch.equal(first, second), pair
            techniques.add(pair[0].technique)
    assert {"channels", "integer"} <= techniques


def test_groups_as_long_as_a_row_are_the_row(profile: Profile) -> None:
    """Of nine weights a row, any group is the row: one setting is left of four. What differs stays."""
    choices = profile.choices
    place = next(i for i, d in enumerate(choices.decisions) if d.site == "conv1" and d.stage is Stage.NUMERIC)
    numbers = {
        n for n, s in enumerate(choices.settings[place], 1) if s.technique == "integer" and dict(s.params)["bits"] == 4
    }
    names = {n: dict(choices.settings[place][n - 1].params) for n in numbers}
    stands = {n: int(choices.alike[place][n]) for n in numbers}
    rows = {stands[n] for n, params in names.items() if params["granularity"] != "tensor"}
    assert len(rows) == 1
    assert all(stands[n] == n for n, params in names.items() if params["granularity"] == "tensor")


def test_other_techniques_other_costs_and_no_damage_are_not_alike() -> None:
    """What only looks alike stays: another technique, another share of a layer, a step that fails or does no damage."""
    left, other = {"a": (0.5, 1.0, 0.25)}, {"a": (0.5, 0.5, 0.25)}
    one, two = (Setting("one", (("k", k),)) for k in (1, 2))
    same = [Effect(0.1, "fisher", left, saved=90), Effect(0.1, "fisher", left, saved=91)]
    assert alike([[one, two]], [same])[0].tolist() == [0, 1, 1]
    assert not alike([[one, Setting("other")]], [same])
    assert not alike([[one, two]], [[same[0], Effect(0.1, "fisher", other, saved=90)]])
    assert not alike([[one, two]], [[same[0], Effect(0.2, "fisher", left, saved=90)]])
    assert not alike([[one, two]], [[Effect(), Effect()]])
    assert not alike([[one, two]], [[Effect(error="no"), Effect(error="no")]])


def test_each_model_is_tried_once(task: Task, profile: Profile, tmp_path: Path) -> None:
    """No trial is spent on a recipe that is another's name for a model that was measured."""
    search(task, profile.choices.space, ["accuracy", "size"], budget=60, run=tmp_path / "run", executor="local", seed=1)
    tried = [result.recipe for result, _ in read(tmp_path / "run")[1].results]
    genomes = np.stack([profile.choices.genome(recipe) for recipe in tried])
    assert len(np.unique(profile.choices.merged(genomes), axis=0)) == len(tried) >= 60
