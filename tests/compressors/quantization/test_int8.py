"""Layers that run on integers: symmetric weights, rounded activations, in files and in training."""

from __future__ import annotations

import torch
from torch import nn

from paretopress.compressors.activations import RoundedActivation
from paretopress.compressors.base import Compressor, apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.quantization.grid import IntegerCodec
from paretopress.spaces.catalogue import technique
from paretopress.spaces.recipe import Step
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task


def context() -> Context:
    """Return a perceptron's task and sites."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    data = [(torch.randn(64, 4, 4), torch.randint(0, 4, (64,)))]
    task = Task(model, data, train=data)
    return Context(task, {s.name: s for s in find_sites(task.model, task.example)[0]}, seed=0)


def applied(own: Context, *steps: Step) -> Draft:
    """Return a settled draft after some steps."""
    draft = Draft.of(own.task.model)
    entries = [technique(s.technique) for s in steps]
    for entry, step in zip(entries, steps):
        assert isinstance(entry, Compressor)
        apply_step(entry, draft, step, own)
    for entry in entries:
        assert isinstance(entry, Compressor)
        entry.settle(draft, own, own.task.calibration)
    return draft


def test_weights_are_symmetric_with_a_scale_per_channel() -> None:
    """Kernels for signed weights know no zero point, and one scale for each output channel."""
    draft = applied(context(), Step.of("1", "int8", bits=4))
    codec = draft.encodings["1.weight"].codec
    assert isinstance(codec, IntegerCodec)
    assert codec.zero_point is None
    assert codec.scale.shape == (32, 1)
    assert len(draft.model.get_parameter("1.weight")[0].unique()) <= 16


def test_outputs_stay_close_at_eight_bits() -> None:
    """Eight bits for weights and activations hardly change a model's outputs."""
    own = context()
    draft = applied(own, Step.of("1", "int8", bits=8), Step.of("3", "int8", bits=8))
    x = own.task.validation.first()[0][0]
    before, after = own.task.model(x), draft.model(x)
    assert (after - before).abs().max() < 0.05 * before.abs().max()
    assert not torch.equal(after, before)


def test_factors_of_a_layer_run_on_integers_too() -> None:
    """After a factorisation both thin layers count as the layer: each gets a rounded input."""
    rank = technique("svd").knobs(context().sites["1"])[0]
    draft = applied(context(), Step.of("1", "svd", **{rank.name: rank.values[0]}), Step.of("1", "int8", bits=8))
    assert draft.integer == {"1.0", "1.1"}
    assert sum(isinstance(m, RoundedActivation) for m in draft.model.modules()) == 2


def test_recovery_trains_through_rounded_activations() -> None:
    """Training after int8 lowers the loss of the model as it will be stored, and ranges are taken again after it."""
    own = context()
    few = [Step.of(layer, "int8", bits=2) for layer in ("1", "3")]
    step = Step.of("<model>", "distillation", steps=60, learning_rate=0.01, temperature=1.0, weight=0.5)
    args, target = own.task.validation.first()
    draft = applied(own, *few)
    before = float(own.task.loss(draft.model(*args), target).detach())
    trainer = technique("distillation")
    assert isinstance(trainer, Compressor)
    apply_step(trainer, draft, step, own)
    int8 = technique("int8")
    assert isinstance(int8, Compressor)
    assert int8.settle(draft, own, own.task.calibration)
    assert float(own.task.loss(draft.model(*args), target).detach()) < before
