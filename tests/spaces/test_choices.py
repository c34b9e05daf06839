"""Genomes: every recipe has one, and they mean what the space decodes."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import paretopress.compressors  # noqa: F401 - registers the techniques that spaces offer
from paretopress.search.examples.digits import DigitsNet
from paretopress.spaces.choices import Choices, Genomes, Setting
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.errors import SettingError
from paretopress.spaces.knob import Knob
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task


class Encoder(nn.Module):
    """Two transformer layers over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    """An LSTM classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0].mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "residual": (DigitsNet, lambda: torch.randn(8, 1, 8, 8)),
    "transformer": (Encoder, lambda: torch.randint(0, 20, (8, 5))),
    "recurrent": (Recurrent, lambda: torch.randn(8, 5, 6)),
}


@functools.cache
def choices_of(model: str) -> Choices:
    """Return the choices of the space of all techniques."""
    build, inputs = MODELS[model]
    torch.manual_seed(0)
    batches = [(inputs(), torch.randint(0, 4, (8,)))]
    return Choices(Space.from_task(Task(build(), batches, train=batches)))


def drawn(choices: Choices, seed: int, rows: int = 20) -> Genomes:
    """Return random genomes, not always legal ones, from sparse to full."""
    rng = np.random.default_rng(seed)
    genomes = rng.integers(choices.counts, size=(rows, len(choices)))
    return np.where(rng.random(genomes.shape) < rng.random((rows, 1)), genomes, 0)


def decoded(choices: Choices, genome: Genomes) -> Recipe:
    """Return what `Space.decode` makes of a genome, legal or not."""
    return choices.space.decode(choices.flat(genome))


def nested() -> Choices:
    """Return choices with a block inside a block, channels decided at a block, and a chain of forbidden stacks."""
    layers = [Site(n, "linear", (n,)) for n in ("a.fc", "a.b.fc", "head")]
    blocks = [Site(f"block:{n}", "block", (n,)) for n in ("a", "a.b")]
    bits = Option("integer", (Knob("bits", (8, 4)),), frozenset({"mask"}))
    decisions = [
        *(Decision(b.name, Stage.TOPOLOGY, (Option("depth"),)) for b in blocks),
        Decision("block:a", Stage.STRUCTURE, (Option("channels", (Knob("ratio", (0.25, 0.5)),)),)),
    ]
    for layer in layers:
        decisions += [
            Decision(layer.name, Stage.OPERATOR, (Option("svd", (), frozenset({"sparse"})),)),
            Decision(layer.name, Stage.MASK, (Option("sparse"), Option("blocks"))),
            Decision(layer.name, Stage.NUMERIC, (bits, Option("codebook"))),
        ]
    return Choices(Space([*layers, *blocks], decisions))


@pytest.mark.parametrize("model", MODELS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_every_recipe_has_one_genome(model: str, seed: int) -> None:
    """Recipes survive the way to a genome and back, and two legal genomes are never the same recipe."""
    choices = choices_of(model)
    rng = random.Random(seed)
    for _ in range(10):
        recipe = choices.space.sample(rng)
        genome = choices.genome(recipe)
        assert choices.recipe(genome) == recipe
        assert np.array_equal(choices.legal(genome[None])[0], genome)
    for genome in choices.legal(drawn(choices, seed)):
        assert np.array_equal(choices.genome(choices.recipe(genome)), genome)


def test_merged_rows_are_one_model() -> None:
    """Numbers that are alike become one, at their own decision only, and nothing else changes."""
    plain = nested()
    places = [i for i, count in enumerate(plain.counts) if count > 2][:2]
    merged = Choices(plain.space, {i: np.minimum(np.arange(plain.counts[i]), 1) for i in places})
    rows = plain.legal(drawn(plain, 0))
    found = merged.merged(rows)
    assert np.array_equal(found[:, places], np.minimum(rows[:, places], 1))
    assert np.array_equal(np.delete(found, places, 1), np.delete(rows, places, 1))
    assert np.array_equal(plain.merged(rows), rows)
    assert (rows[:, places] > 1).any()


@pytest.mark.parametrize("model", [*MODELS, "nested"])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_legal_drops_what_decoding_drops(model: str, seed: int) -> None:
    """Whatever a sampler mixes together, its genome means the recipe that the space would make of it."""
    choices = nested() if model == "nested" else choices_of(model)
    rows = drawn(choices, seed)
    before = rows.copy()
    for genome, legal in zip(rows, choices.legal(rows)):
        assert choices.recipe(legal) == decoded(choices, genome)
        assert decoded(choices, legal) == choices.recipe(legal)
    assert np.array_equal(rows, before)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32))
def test_flat_points_are_within_the_box(seed: int) -> None:
    """A genome's point of the flat box holds one of each dimension's own values."""
    choices = choices_of("residual")
    for genome in drawn(choices, seed, 3):
        for name, value in choices.flat(genome).items():
            assert value in choices.space.dimensions[name].values


@pytest.mark.parametrize("model", MODELS)
def test_counts_are_what_the_space_counts(model: str) -> None:
    """No setting of a decision is left out or listed twice."""
    choices = choices_of(model)
    for decision, listed, count in zip(choices.decisions, choices.settings, choices.counts):
        assert len(set(listed)) == len(listed) == sum(o.size for o in decision.options) == count - 1


def test_all_genomes_of_a_small_space_are_its_recipes() -> None:
    """The legal genomes are as many as the space has recipes, blocks and forbidden stacks included."""
    choices = nested()
    box = np.indices(choices.counts).reshape(len(choices), -1).T
    legal = np.unique(choices.legal(box), axis=0)
    assert len(legal) == choices.space.size
    assert len({choices.recipe(row) for row in legal}) == choices.space.size


def test_places_of_a_site() -> None:
    """A site's decisions are found in their order, and a site without any has none."""
    choices = nested()
    assert [choices.decisions[i].stage for i in choices.at("head")] == [Stage.OPERATOR, Stage.MASK, Stage.NUMERIC]
    assert choices.at("elsewhere") == ()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Step.of("nowhere", "svd")], "takes no choice"),
        ([Step.of("head", "integer", bits=5)], "must be one of"),
        ([Step.of("head", "hashed")], "is no choice"),
        ([Step.of("head", "svd"), Step.of("head", "sparse")], "stacks what can't stack"),
        ([Step.of("head", "sparse"), Step.of("head", "blocks")], "stacks what can't stack"),
        ([Step.of("block:a", "depth"), Step.of("a.b.fc", "svd")], "stacks what can't stack"),
        ([Step.of("block:a", "depth"), Step.of("block:a", "channels", ratio=0.5)], "stacks what can't stack"),
    ],
)
def test_recipe_outside_the_space_is_refused(steps: list[Step], message: str) -> None:
    """A recipe that isn't in the space is an error that says why, not another recipe's genome."""
    with pytest.raises(SettingError, match=message):
        nested().genome(Recipe.of(steps))


def test_setting_prints_its_parameters() -> None:
    """A setting reads like a call: it is the key under which its measured effect is kept."""
    assert str(Setting("integer", (("bits", 4), ("scheme", "symmetric")))) == "integer(bits=4, scheme=symmetric)"
    assert str(Setting("depth")) == "depth()"
