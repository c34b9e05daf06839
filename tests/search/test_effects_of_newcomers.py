"""Techniques that a newcomer adds, of every kind, get an effect without being known."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretopress.compressors.base import Compressor, LayerCompressor, register
from paretopress.compressors.draft import Context, Draft
from paretopress.search.effects import Effect, Survey
from paretopress.search.examples.digits import task as digits
from paretopress.search.fisher import Fisher, measure_fisher
from paretopress.search.sample import Sample
from paretopress.spaces.catalogue import REGISTRY
from paretopress.spaces.choices import Choices, Setting
from paretopress.spaces.knob import Knob
from paretopress.spaces.metric import Metric
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.sites import find_sites
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task


@functools.cache
def surveyed() -> tuple[Survey, Fisher]:
    """Return the survey of the trained digits network, and its information."""
    task = digits()
    sites, _ = find_sites(task.model, task.example)
    return Survey(task, {s.name: s for s in sites}, Step.of(MODEL, "entropy")), measure_fisher(task, sites)


@contextmanager
def technique_of(entry: Compressor) -> Iterator[None]:
    """Register a technique for the time of a test."""
    register(entry)
    try:
        yield
    finally:
        del REGISTRY.members[entry.name]


class Newcomer(Compressor):
    """No knobs."""

    stage = Stage.OPERATOR
    kinds = frozenset({"linear", "conv2d"})
    summary = "a test's"

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        return ()


class Squash(LayerCompressor):
    """Puts a nonlinear bottleneck in the place of a Linear."""

    name = "squash"
    kinds = frozenset({"linear"})
    summary = "a test's"

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        return ()

    def transform(self, layer: nn.Module, params: dict[str, Any], context: Context) -> nn.Module:
        assert isinstance(layer, nn.Linear)
        return nn.Sequential(nn.Linear(layer.in_features, 2), nn.Tanh(), nn.Linear(2, layer.out_features))


class Wide(Newcomer):
    """Looks at the whole draft before it rounds a layer."""

    name = "wide"
    stage = Stage.MASK

    def apply(self, draft: Draft, site: Site, params: dict[str, Any], context: Context) -> None:
        draft.model(*context.task.example)
        with torch.no_grad():
            draft.parameter(site.weights[0]).mul_(0.5)


class Merge(Newcomer):
    """A structural technique that removes no channel: the weights of the group's members are halved."""

    name = "merge"
    stage = Stage.STRUCTURE
    kinds = frozenset({"group"})

    def apply(self, draft: Draft, site: Site, params: dict[str, Any], context: Context) -> None:
        for path in site.members:
            with torch.no_grad():
                draft.module(path).get_parameter("weight").mul_(0.5)


class Thinner(Newcomer):
    """Puts one cheap convolution in the place of a block."""

    name = "thinner"
    stage = Stage.TOPOLOGY
    kinds = frozenset({"block"})

    def apply(self, draft: Draft, site: Site, params: dict[str, Any], context: Context) -> None:
        width = draft.module(site.members[0]).get_submodule("conv1").get_parameter("weight").shape[0]
        draft.replace_module(site.members[0], nn.Conv2d(width, width, 1, bias=False))


class Tune(Newcomer):
    """Trains."""

    name = "tune"
    stage = Stage.RECOVERY
    kinds = frozenset({"model"})

    def apply(self, draft: Draft, site: Site, params: dict[str, Any], context: Context) -> None:
        raise AssertionError("training is not for the profile")


class Poison(Newcomer):
    """Makes the outputs infinite."""

    name = "poison"
    stage = Stage.STRUCTURE
    kinds = frozenset({"group"})

    def apply(self, draft: Draft, site: Site, params: dict[str, Any], context: Context) -> None:
        with torch.no_grad():
            draft.module(site.members[0]).get_parameter("weight").fill_(math.nan)


class Failing(Newcomer):
    """Says why it can't."""

    name = "failing"

    def apply(self, draft: Draft, site: Site, params: dict[str, Any], context: Context) -> None:
        raise RuntimeError("not on a Sunday\nand not at night")


def effect_of(entry: Compressor, site: str) -> Effect:
    """Return the effect of a newcomer's technique on the trained digits."""
    survey, fisher = surveyed()
    with technique_of(entry):
        return survey.effect(site, Setting(entry.name), fisher)


def test_nonlinear_operator_is_compared_by_its_outputs() -> None:
    """A replacement without a dense weight gets its damage from the outputs and its costs from what it is."""
    effect = effect_of(Squash(), "fc")
    assert (effect.method, effect.error) == ("outputs", "")
    assert effect.damage > 0.1
    size, macs, _ = effect.shares["fc"]
    assert macs == pytest.approx((32 * 2 + 2 * 10) / 320)
    assert 0.2 < size < 0.5


def test_technique_that_looks_at_the_model_gets_it() -> None:
    """A technique that runs the draft is measured, too: on a copy of the model instead of the layer alone."""
    effect = effect_of(Wide(), "block1.conv1")
    assert (effect.method, effect.error) == ("fisher", "")
    assert effect.damage > 0
    assert effect.change == pytest.approx(0.5)


def test_structural_technique_that_removes_nothing_is_compared_by_its_outputs() -> None:
    """Where no channel goes, the channels' information says nothing."""
    site = next(s for s in surveyed()[0].sites if s.startswith("group:"))
    effect = effect_of(Merge(), site)
    assert (effect.method, effect.error) == ("outputs", "")
    assert effect.damage > 0
    assert not effect.shares


def test_block_that_becomes_something_else_keeps_its_costs() -> None:
    """New modules in the place of a block count as what is left of it."""
    units = surveyed()[0].units
    effect = effect_of(Thinner(), "block:block1")
    left = sum(units[p].bytes * (effect.shares[p][0] - 1) for p in effect.shares)
    macs = sum(units[p].macs * (effect.shares[p][1] - 1) for p in effect.shares)
    inside = [u for p, u in units.items() if p.startswith("block1")]
    assert left == pytest.approx(4 * 16 * 16 - sum(u.bytes for u in inside))
    assert macs == pytest.approx(64 * 16 * 16 - sum(u.macs for u in inside))


def test_training_and_coding_have_no_effect_of_their_own() -> None:
    """Training isn't run, and the coder is in every step's bytes."""
    assert effect_of(Tune(), MODEL) == Effect()
    assert surveyed()[0].effect(MODEL, Setting("entropy"), surveyed()[1]) == Effect()


@pytest.mark.parametrize(
    ("entry", "site", "message"),
    [
        (Failing(), "stem", "RuntimeError: not on a Sunday"),
        (Failing(), "block:block1", "SettingError: technique at block:block1"),
        (Poison(), "group:block1.conv1", "the outputs are not finite"),
    ],
    ids=["raises", "unsupported", "not finite"],
)
def test_what_goes_wrong_is_the_effects_error(entry: Compressor, site: str, message: str) -> None:
    """A step that can't be applied is known as that, with the reason, and never looks harmless."""
    found = effect_of(entry, site)
    assert found.error.startswith(message)
    assert found.passing == (message.startswith("RuntimeError"))  # memory may only have been short


def test_regression_is_compared_in_units_of_its_outputs() -> None:
    """Without class scores, damage doesn't depend on whether the outputs are in metres or in millimetres."""
    error = Metric("mse", lambda output, target: float((output - target).square().mean()), direction="minimize")

    def damage(unit: float) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        with torch.no_grad():
            model[2].weight *= unit
            model[2].bias *= unit
        task = Task(model, [(torch.randn(32, 6), torch.randn(32, 2))], loss=F.mse_loss, metric=error)
        survey = Survey(task, {s.name: s for s in find_sites(task.model, task.example)[0]}, None)
        with technique_of(Squash()):
            return survey.effect("0", Setting("squash"), Fisher.blank(task, survey.sites.values())).damage

    assert damage(1.0) > 0
    assert damage(1000.0) == pytest.approx(damage(1.0), rel=1e-3)


def test_size_of_a_regressions_loss_does_not_change_the_ranking() -> None:
    """Damages by Fisher information and by the outputs have one scale: a thousand times the loss, or its sum, leaves
    the order of number formats, factors, channels and replacements as it is, and the figures nearly so.
    """
    error = Metric("mse", lambda output, target: float((output - target).square().mean()), direction="minimize")
    losses = {
        "mean": F.mse_loss,
        "sum": functools.partial(F.mse_loss, reduction="sum"),
        "thousandfold": lambda output, target: 1000 * F.mse_loss(output, target),
    }
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    batches = [(x, (x @ torch.linspace(-1, 1, 12).reshape(6, 2)).tanh())]
    found: dict[str, list[float]] = {}
    for name, loss in losses.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        task = Task(model, batches, calibration=batches, loss=loss, metric=error)
        sites = find_sites(task.model, task.example)[0]
        survey, fisher = Survey(task, {s.name: s for s in sites}, None), measure_fisher(task, sites)
        choices = Choices(Space.from_task(task, ["integer", "svd", "channels"]))
        steps = [(d.site, s) for d, settings in zip(choices.decisions, choices.settings) for s in settings[::3]]
        with technique_of(Squash()):
            effects = [survey.effect(site, setting, fisher) for site, setting in (*steps, ("0", Setting("squash")))]
        assert not any(e.error for e in effects)
        assert {e.method for e in effects} == {"fisher", "channels", "outputs"}
        found[name] = [e.damage for e in effects]
    assert max(found["mean"]) > 100 * min(found["mean"]) > 0
    for damages in found.values():
        assert np.argsort(damages).tolist() == np.argsort(found["mean"]).tolist()
        assert damages == pytest.approx(found["mean"], rel=0.01)


def test_sample_does_without_a_technique_that_needs_more_than_a_layer() -> None:
    """What can't be applied to a few weights alone changes nothing there, and stops no profile."""
    survey, _ = surveyed()
    sample = Sample(survey, survey.sites["block3.conv1"])
    with technique_of(Wide()):
        assert sample.bytes(Setting("wide")) == sample.bytes()
