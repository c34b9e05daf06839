"""Effects of single steps: costs as in real files, damage as in the outputs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from paretopress.evaluators.bops import BitOperations
from paretopress.evaluators.macs import macs_by_module
from paretopress.search.effects import Effect, Request, Survey
from paretopress.search.examples.digits import DigitsNet
from paretopress.search.examples.digits import task as digits
from paretopress.search.fisher import Fisher, measure_fisher
from paretopress.search.sample import Sample
from paretopress.search.sensitivity import Profile, coder_of
from paretopress.search.trial import Bench
from paretopress.spaces.catalogue import techniques
from paretopress.spaces.choices import Choices, Setting
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.site import MODEL
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

#: What a file says of a step, beside the layer: a line of the recipe, and names that compress better or worse.
STEP_TEXT = 320


class Encoder(nn.Module):
    """A transformer over tokens whose attention is not a layer of its own, beside an ordinary one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.layer(self.embed(tokens))
        x = x + F.scaled_dot_product_attention(x, x, x)
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    """A convolution, an LSTM and two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(6, 32, 3, stride=2, padding=1)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.mix, self.again = nn.Linear(32, 32), nn.Linear(32, 32)
        self.again.weight = self.mix.weight
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(F.relu(self.front(x)).transpose(1, 2))[0].mean(1)
        return self.head(F.relu(self.again(F.relu(self.mix(x)))))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "residual": (DigitsNet, lambda: torch.randn(8, 1, 8, 8)),
    "transformer": (Encoder, lambda: torch.randint(0, 40, (8, 5))),
    "recurrent": (Recurrent, lambda: torch.randn(8, 6, 10)),
}


class Place:
    """A task with its space, bench and survey."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.choices = Choices(Space.from_task(task, list(techniques())))
        self.sites = self.choices.space.sites
        self.coder = coder_of(self.choices)
        self.bench = Bench(task, self.sites, (), ())
        self.survey = Survey(task, self.sites, self.coder)
        self.fisher: Fisher = measure_fisher(task, self.sites.values())

    def compressed(self, *steps: Step) -> tuple[int, int, int, nn.Module]:
        """Return bytes, MACs and bit operations of the real file of a recipe, and the model in it."""
        assert self.coder is not None
        saved, draft = self.bench.compress(Recipe.of([*steps, self.coder]), 0)
        model = self.bench.reload(saved, draft)
        bops = self.bench.measure(model, draft, len(saved.data), [BitOperations()])["bops"].value
        return len(saved.data), sum(macs_by_module(model, self.task.example)[0].values()), round(bops), model

    def steps(self) -> Iterator[tuple[str, list[Setting]]]:
        """Yield each decision's site and the first, the middle and the last setting of each technique there."""
        for decision, settings in zip(self.choices.decisions, self.choices.settings):
            for option in decision.options:
                own = [s for s in settings if s.technique == option.technique]
                if decision.site != MODEL:
                    yield decision.site, list(dict.fromkeys([own[0], own[len(own) // 2], own[-1]]))


@functools.cache
def place_of(model: str) -> Place:
    """Return the place of a small untrained model."""
    build, inputs = MODELS[model]
    torch.manual_seed(0)
    batches = [(inputs(), torch.randint(0, 4, (8,)))]
    return Place(Task(build(), batches, train=batches))


@functools.cache
def trained() -> Place:
    """Return the place of the trained digits network."""
    return Place(digits())


@pytest.mark.parametrize("model", MODELS)
def test_units_add_up_to_the_model(model: str) -> None:
    """All multiplications and all bytes are some unit's, those of functions without weights included."""
    place = place_of(model)
    size, macs, _, _ = place.compressed()
    units = place.survey.units
    assert sum(u.macs for u in units.values()) == macs
    assert 0 < size - sum(u.bytes for u in units.values()) < 2000
    if model == "transformer":
        assert units[""].macs > 0
        assert units[""].bytes == 0


@pytest.mark.parametrize("model", MODELS)
def test_costs_of_single_steps_are_those_of_real_files(model: str) -> None:
    """What an effect says is left of the bytes and MACs is what is left of them in the real compressed model."""
    place = place_of(model)
    units, (size, macs, bops, _) = place.survey.units, place.compressed()
    original = len(place.bench.compress(Recipe(), 0)[0].data)
    seen = set()
    sites: dict[tuple[str, str], str] = {}
    for site, settings in place.steps():
        name = settings[0].technique
        if sites.setdefault((name, place.sites[site].kind), site) != site:
            continue  # one site of each kind will do
        for setting in settings:
            effect = place.survey.effect(site, setting, place.fisher)
            assert not effect.error
            real_size, real_macs, real_bops, _ = place.compressed(setting.step(site))
            saved = sum(units[p].bytes * (1 - share[0]) for p, share in effect.shares.items())
            assert abs(saved - (size - real_size)) <= 0.01 * abs(size - real_size) + STEP_TEXT, (site, setting)
            fewer = sum(units[p].macs * (1 - share[1]) for p, share in effect.shares.items())
            assert fewer == pytest.approx(macs - real_macs, abs=0.5), (site, setting)
            saved = Profile(place.choices, ((effect,),), units, original).saved(0, 1)
            assert saved == (original - real_size, macs - real_macs, bops - real_bops), (site, setting)
            seen.add(name)
    expected = {"svd", "magnitude", "codebook", "integer", "int8"}
    extra = {"residual": {"channels", "depth"}, "transformer": {"channels"}}
    assert seen == expected | extra.get(model, set())


def test_shared_weight_is_stored_once_and_multiplied_twice() -> None:
    """Of two layers that share a weight, one has its bytes, and both have their multiplications."""
    units = place_of("recurrent").survey.units
    assert (units["mix"].macs, units["again"].macs) == (32 * 32, 32 * 32)
    assert (units["mix"].bytes, units["again"].bytes) == (4 * 32 * 33, 4 * 32)


def test_bits_are_those_of_the_number_format() -> None:
    """Bit operations follow the bits of the stored weights."""
    place = place_of("residual")
    setting = next(s for s in place.choices.settings[place.choices.at("stem")[-1]] if dict(s.params).get("bits") == 4)
    assert place.survey.effect("stem", setting, place.fisher).shares["stem"][2] == 4 / 32
    mask = next(s for i in place.choices.at("stem") for s in place.choices.settings[i] if s.technique == "magnitude")
    assert place.survey.effect("stem", mask, place.fisher).shares["stem"][2] == 1


@pytest.mark.parametrize(
    ("technique", "knob", "site"),
    [
        ("integer", "bits", "block3.conv1"),
        ("magnitude", "density", "block3.conv1"),
        ("svd", "fraction", "block3.conv1"),
        ("channels", "ratio", "group:block3.conv1"),
    ],
)
def test_damage_grows_with_strength(technique: str, knob: str, site: str) -> None:
    """The stronger the setting, the more damage, and never less than none."""
    place = trained()
    survey, every = place.survey, [s for i in place.choices.at(site) for s in place.choices.settings[i]]
    ladders: dict[tuple[Any, ...], list[float]] = {}
    for setting in every:
        if setting.technique == technique:
            rest = tuple((k, v) for k, v in setting.params if k != knob)
            ladders.setdefault(rest, []).append(survey.effect(site, setting, place.fisher).damage)
    assert ladders
    for damages in ladders.values():
        assert len(damages) > 2
        assert damages[0] >= 0
        assert damages == sorted(damages)
        assert damages[-1] > damages[0]


def test_damage_ranks_like_the_measured_change_of_the_outputs() -> None:
    """On a trained model, steps that are predicted to hurt more move the outputs on unseen examples more."""
    place = trained()
    images, _ = place.task.validation.first()
    with torch.no_grad():
        before = place.task.model(*images).log_softmax(1)
    predicted, measured = [], []
    rng = np.random.default_rng(0)
    everything = [(site, s) for site, settings in place.steps() for s in settings]
    for i in rng.permutation(len(everything))[:40]:
        site, setting = everything[i]
        model = place.compressed(setting.step(site))[-1]
        with torch.no_grad():
            after = model(*images).log_softmax(1)
        predicted.append(place.survey.effect(site, setting, place.fisher).damage)
        measured.append(float((before.exp() * (before - after)).sum(1).mean()))
    assert spearmanr(predicted, measured).statistic >= 0.7


def test_effects_are_the_same_again() -> None:
    """Measuring twice, or by request, gives the same, and leaves the task's model alone."""
    place = place_of("residual")
    state = {k: v.clone() for k, v in place.task.model.state_dict().items()}
    for site, settings in list(place.steps())[::9]:
        first = place.survey.effects(Request(site, tuple(settings)), place.fisher)
        assert first == [Survey(place.task, place.sites, place.coder).effect(site, s, place.fisher) for s in settings]
    assert all(torch.equal(v, state[k]) for k, v in place.task.model.state_dict().items())


def test_json_keeps_an_effect() -> None:
    """Effects are kept on disk as JSON; what is read is what was written."""
    full = Effect(0.25, "fisher", {"a.b": (0.5, 0.125, 0.25), "": (0.0, 1.0, 1.0)}, -40, "", 0.125)
    for effect in (Effect(), full, Effect(error="ValueError: no")):
        assert Effect.from_json(json.loads(json.dumps(effect.to_json()))) == effect
    with pytest.raises(KeyError):
        Effect.from_json({"damage": 1.0})


def test_sample_shows_that_zeros_and_short_numbers_share_their_savings() -> None:
    """Masks and number formats together save less than the product of their shares."""
    place = place_of("residual")
    largest = max((s for s in place.sites.values() if s.kind == "conv2d"), key=lambda s: s.bytes)
    sample = Sample(place.survey, largest)
    found = [s for i in place.choices.at(largest.name) for s in place.choices.settings[i]]
    mask = next(s for s in found if dict(s.params).get("density") == 0.5)
    bits = next(s for s in found if dict(s.params).get("bits") == 4)
    whole, alone, short, both = (
        sample.bytes(Setting("")),
        sample.bytes(mask),
        sample.bytes(bits),
        sample.bytes(mask, bits),
    )
    assert whole > alone > short > both
    state = torch.get_rng_state()
    sample.bytes(mask)
    assert torch.equal(torch.get_rng_state(), state)  # what the user draws later doesn't depend on what is cached
    assert both > alone * short / whole
