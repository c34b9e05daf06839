"""Recovery training repairs a damaged model without leaving its format, and touches nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from paretopress.compressors.base import apply_step, with_mask
from paretopress.compressors.distillation.recovery import Distillation
from paretopress.compressors.draft import Checkpoint, Context, Draft
from paretopress.compressors.encoding import Encoding
from paretopress.compressors.quantization.grid import IntegerCodec
from paretopress.compressors.sharing.codebook import CodebookCodec
from paretopress.spaces.errors import DataError, ModelError, SettingError
from paretopress.spaces.metric import Metric
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.task import Task


def grid(channels: int, step: float) -> IntegerCodec:
    """Return 8-bit integers with one scale for all channels."""
    return IntegerCodec(8, torch.full((channels, 1), step))


class Digits(nn.Module):
    """A small network for 8 x 8 digits with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        out: Tensor = self.head(self.drop(x.flatten(1)))
        return out


class Tied(nn.Module):
    """A next-token model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.out = nn.Linear(8, 12, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.out(self.lstm(self.embed(tokens))[0])
        return logits.transpose(1, 2)


def _context(task: Task, seed: int = 0) -> Context:
    return Context(task, {MODEL: Site(MODEL, "model", ("",))}, seed)


def _step(steps: int = 20, learning_rate: float = 3e-3, temperature: float = 2.0, weight: float = 0.5) -> Step:
    return Step.of(
        MODEL,
        "distillation",
        steps=steps,
        learning_rate=learning_rate,
        temperature=temperature,
        weight=weight,
    )


@pytest.fixture(scope="module")
def digits() -> Task:
    """A network trained on handwritten digits to over 90 %, with its data."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    train = [(x[i : i + 128], y[i : i + 128]) for i in range(0, 640, 128)]
    model = Digits()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(10):
        for inputs, target in train:
            optimiser.zero_grad()
            F.cross_entropy(model(inputs), target).backward()
            optimiser.step()
    return Task(model, [(x[640:1000], y[640:1000])], train=train)


def _loss(task: Task, model: nn.Module) -> float:
    assert task.train is not None
    with torch.no_grad():
        return sum(float(F.cross_entropy(model(*args), target)) for args, target in task.train)


def _damaged(task: Task, step: float = 0.5) -> Draft:
    draft = Draft.of(task.model)
    for name in ("conv.weight", "head.weight"):
        keep = draft.parameter(name).detach().abs() > 0.1
        draft.store(name, with_mask(Encoding(grid(len(keep), step)), keep))
    return draft


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_it_repairs_a_damaged_network(digits: Task, weight: float) -> None:
    """From targets, from the teacher alone, or from both, the loss on digits falls by at least a third."""
    draft = _damaged(digits)
    before = _loss(digits, draft.model)
    apply_step(Distillation(), draft, _step(40, weight=weight), _context(digits))
    assert _loss(digits, draft.model) < before * 2 / 3


def test_weights_end_on_their_grid_and_under_their_mask(digits: Task) -> None:
    """What was trained is what will be stored: projecting it again changes no bit, and zeros are zeros."""
    draft = _damaged(digits)
    before = {n: draft.parameter(n).detach().clone() for n in draft.encodings}
    apply_step(Distillation(), draft, _step(), _context(digits))
    for name, encoding in draft.encodings.items():
        after = draft.parameter(name).detach()
        assert torch.equal(encoding.project(after).view(torch.int32), after.view(torch.int32))
        assert encoding.mask is not None
        assert not after[~encoding.mask].any()
        assert not torch.equal(after, before[name])


def test_shared_values_train_as_one() -> None:
    """The gradient goes to the values: equal weights stay equal, and the codec holds the new values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    batches = [(torch.randn(16, 6), torch.randint(0, 3, (16,)))]
    task = Task(model, batches, train=batches)
    draft = Draft.of(task.model)
    draft.store("0.weight", Encoding(CodebookCodec(torch.tensor([-0.3, 0.0, 0.3]))))
    before = draft.parameter("0.weight").detach().clone()
    apply_step(Distillation(), draft, _step(weight=0.0), _context(task))
    after, codec = draft.parameter("0.weight").detach(), draft.encoding("0.weight").codec
    assert isinstance(codec, CodebookCodec)
    assert not torch.equal(codec.centroids, torch.tensor([-0.3, 0.0, 0.3]))
    for old, new in zip((-0.3, 0.0, 0.3), codec.centroids):
        assert (after[before == torch.tensor(old)] == new).all()


def test_pruned_weights_hold_the_shared_zero_throughout() -> None:
    """A large weight that was pruned must not fall back to the value nearest to what it once was."""
    model = nn.Linear(6, 3)
    nn.init.constant_(model.weight, 0.3)
    batches = [(torch.randn(16, 6), torch.randint(0, 3, (16,)))]
    task = Task(model, batches, train=batches)
    draft = Draft.of(task.model)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, 0] = False
    draft.store("weight", Encoding(CodebookCodec(torch.tensor([0.0, 0.3])), mask))
    apply_step(Distillation(), draft, _step(1, weight=0.0), _context(task))
    weight = draft.parameter("weight").detach()
    assert torch.equal(weight == 0, ~mask)
    assert torch.equal(draft.encoding("weight").project(weight), weight)
    assert torch.equal(draft.encoding("weight").codec.project(weight), weight)


@pytest.mark.parametrize(("stored", "reached"), [(0.24, 0.5), (0.9, 0.0)])
def test_training_starts_from_the_weight_before_rounding(stored: float, reached: float) -> None:
    """Just below the middle of two grid points it crosses at once; one that was put on 0 on purpose starts there."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, stored)
    mse = Metric("mse", F.mse_loss, direction="minimize")
    batches = [(torch.ones(4, 1), torch.full((4, 1), 9.0))]
    task = Task(model, batches, train=batches, loss=F.mse_loss, metric=mse)
    draft = Draft.of(task.model)
    draft.store("weight", Encoding(grid(1, 0.5)))
    with torch.no_grad():
        draft.parameter("weight").zero_()
    apply_step(Distillation(), draft, _step(1, 0.05, weight=0.0), _context(task))
    assert draft.parameter("weight").item() == reached


def test_an_encoding_that_changes_nothing_trains_like_none(digits: Task) -> None:
    """A weight in fp32 with nothing masked takes the same path with and without its encoding."""
    plain, listed = Draft.of(digits.model), Draft.of(digits.model)
    listed.store("head.weight", Encoding(mask=torch.ones(10, 128, dtype=torch.bool)))
    listed.store("conv.weight", Encoding())
    for draft in (plain, listed):
        apply_step(Distillation(), draft, _step(5), _context(digits))
    torch.testing.assert_close(plain.parameter("head.weight"), listed.parameter("head.weight"), atol=1e-6, rtol=0)


def test_the_teacher_is_not_touched(digits: Task) -> None:
    """Weights, buffers, gradients and mode of the original model stay as they were, byte for byte."""
    before = copy.deepcopy(digits.model.state_dict())
    apply_step(Distillation(), _damaged(digits), _step(5), _context(digits))
    assert all(torch.equal(before[k], v) for k, v in digits.model.state_dict().items())
    assert all(p.grad is None for p in digits.model.parameters())
    assert not digits.model.training


def test_batch_norm_adapts_and_the_model_ends_in_eval_mode(digits: Task) -> None:
    """Training runs with live statistics and dropout; the result is ready to be measured."""
    draft = _damaged(digits)
    before = draft.model.get_buffer("norm.running_mean").clone()
    apply_step(Distillation(), draft, _step(5), _context(digits))
    assert not torch.equal(before, draft.model.get_buffer("norm.running_mean"))
    assert not any(m.training for m in draft.model.modules())


def test_a_seed_repeats_a_training_and_another_does_not(digits: Task) -> None:
    """Dropout is drawn from the context's seed and from nothing else."""
    results = []
    for seed in (1, 1, 2):
        torch.rand(int(torch.randint(1, 9, ())))
        draft = _damaged(digits)
        apply_step(Distillation(), draft, _step(5), _context(digits, seed))
        results.append(draft.parameter("head.bias").detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_tied_and_recurrent_weights_train_in_their_format() -> None:
    """A tensor used by two layers stays one tensor, and an LSTM really runs on its projected weights."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 12, (8, 6))
    batches = [(tokens, tokens.roll(-1, 1))]
    task = Task(Tied(), batches, train=batches)
    draft = Draft.of(task.model)
    for name in ("embed.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"):
        draft.store(name, Encoding(grid(len(draft.parameter(name)), 0.05)))
    before = _loss(task, draft.model)
    apply_step(Distillation(), draft, _step(40, 1e-2, weight=0.0), _context(task))
    assert draft.parameter("out.weight") is draft.parameter("embed.weight")
    assert _loss(task, draft.model) < before * 0.8
    for name, encoding in draft.encodings.items():
        assert torch.equal(encoding.project(draft.parameter(name).detach()), draft.parameter(name))


def test_the_lstm_trains_on_its_projected_weights() -> None:
    """With a grid so coarse that every weight is zero, the outputs in training are those of a zero LSTM."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 12, (8, 6))
    seen: list[Tensor] = []

    def loss(out: Tensor, target: Tensor) -> Tensor:
        seen.append(out.detach().clone())
        return F.cross_entropy(out, target)

    task = Task(Tied(), [(tokens, tokens)], train=[(tokens, tokens)], loss=loss)
    draft = Draft.of(task.model)
    names = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")
    for name in names:
        draft.store(name, Encoding(grid(32, 1e3)))
    expected = draft.model(tokens)
    assert not draft.parameter(names[0]).any()
    with torch.no_grad():
        draft.parameter(names[0]).fill_(123.0)  # what the module holds is not what training uses
    seen.clear()
    apply_step(Distillation(), draft, _step(1, weight=0.0), _context(task))
    torch.testing.assert_close(seen[0], expected)


def test_a_network_without_classes_is_distilled() -> None:
    """A regression network learns from its teacher's outputs alone, with no targets that mean anything."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    x = torch.randn(64, 4)
    mse = Metric("mse", F.mse_loss, direction="minimize")
    batches = [(x, torch.full((64, 2), 1e6))]
    task = Task(model, batches, train=batches, loss=F.mse_loss, metric=mse)
    draft = Draft.of(task.model)
    draft.store("2.weight", Encoding(grid(2, 0.25)))

    def distance() -> float:
        with torch.no_grad():
            return float(F.mse_loss(draft.model(x), task.model(x)))

    before = distance()
    apply_step(Distillation(), draft, _step(100, 1e-2, weight=1.0), _context(task))
    assert distance() < before / 2


def test_a_training_batch_is_never_written_to() -> None:
    """A model that works in place on its input must not spoil the data for the trials that follow."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x.mul_(2.0))
            return out

    x, y = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    before = x.clone()
    task = Task(InPlace(), [(x.clone(), y)], train=lambda: iter([(x, y)]))
    assert torch.equal(x, before)
    apply_step(Distillation(), Draft.of(task.model), _step(3), _context(task))
    assert torch.equal(x, before)


def test_a_last_batch_of_one_example_trains_beside_batch_norm() -> None:
    """A loader without drop_last may end with one example, which has no variance; training goes on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    batches = [(torch.randn(n, 4), torch.randint(0, 3, (n,))) for n in (16, 1)]
    task = Task(model, batches, train=batches)
    draft = Draft.of(task.model)
    apply_step(Distillation(), draft, _step(4), _context(task))
    assert not torch.equal(draft.parameter("0.weight"), task.model.get_parameter("0.weight"))


def test_frozen_parameters_stay_frozen_unless_they_are_compressed(digits: Task) -> None:
    """requires_grad=False is respected, but a compressed weight must be free to recover."""
    draft = _damaged(digits)
    draft.encodings["norm.weight"] = Encoding()  # listed, for an entropy coder say, but fp32 as before
    for parameter in draft.model.parameters():
        parameter.requires_grad_(False)
    scale, bias, weight = (draft.parameter(k).detach().clone() for k in ("norm.weight", "head.bias", "head.weight"))
    apply_step(Distillation(), draft, _step(5), _context(digits))
    assert torch.equal(draft.parameter("norm.weight"), scale)
    assert torch.equal(draft.parameter("head.bias"), bias)
    assert not torch.equal(draft.parameter("head.weight"), weight)


def test_a_model_that_can_not_train_is_refused(digits: Task) -> None:
    """With everything frozen and nothing compressed, the message says so instead of training nothing."""
    draft = Draft.of(digits.model)
    draft.model.requires_grad_(False)
    with pytest.raises(ModelError, match="requires_grad"):
        apply_step(Distillation(), draft, _step(), _context(digits))


def test_without_training_data_the_message_says_what_to_give() -> None:
    """A recipe written by hand may ask for training that the task can't do."""
    task = Task(nn.Sequential(nn.Linear(4, 3)), [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))])
    with pytest.raises(DataError, match=r"Task\(train="):
        apply_step(Distillation(), Draft.of(task.model), _step(), _context(task))


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_step() -> None:
    """A diverging training is reported where it broke, not as a model full of NaN."""
    x = torch.randn(8, 4)
    good, bad = (x, torch.zeros(8, 3)), (x, torch.full((8, 3), float("inf")))
    mse = Metric("mse", F.mse_loss, direction="minimize")
    task = Task(nn.Sequential(nn.Linear(4, 3)), [good], train=[good, good, bad], loss=F.mse_loss, metric=mse)
    with pytest.raises(RuntimeError, match="inf at step 3 of 20"):
        apply_step(Distillation(), Draft.of(task.model), _step(20), _context(task))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("steps", 0), ("steps", 2.5), ("learning_rate", 0.0), ("temperature", -1.0), ("weight", 1.1)],
)
def test_parameters_out_of_range_are_refused(digits: Task, setting: str, value: float) -> None:
    """Each message names its setting."""
    params = {**_step().options, setting: value}
    with pytest.raises(SettingError, match=setting):
        apply_step(Distillation(), Draft.of(digits.model), Step.of(MODEL, "distillation", **params), _context(digits))


def test_looking_at_the_model_in_training_changes_nothing(digits: Task) -> None:
    """A checkpoint that runs the model after every step leaves weights, statistics and random numbers bit for bit."""
    outputs = []

    def look(point: Checkpoint) -> None:
        outputs.append(point.forward((digits.example[0],)))
        assert not outputs[-1].requires_grad
        assert (point.steps, point.done) == (6, len(outputs))

    drafts = []
    for context in (_context(digits), replace(_context(digits), checkpoint=look)):
        draft = Draft.of(digits.model)
        draft.store("head.weight", Encoding(grid(10, 0.05)))
        apply_step(Distillation(), draft, _step(6), context)
        drafts.append(draft.model)
    assert len(outputs) == 6
    before, after = (model.state_dict() for model in drafts)
    assert all(torch.equal(before[k], v) for k, v in after.items())
    with torch.no_grad():
        assert torch.allclose(outputs[-1], drafts[1](digits.example[0]), atol=1e-5)


def test_a_checkpoint_may_end_the_training(digits: Task) -> None:
    """What it raises gets through, and no further step is taken."""
    seen = []

    def stop(point: Checkpoint) -> None:
        seen.append(point.examples)
        raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        apply_step(Distillation(), Draft.of(digits.model), _step(6), replace(_context(digits), checkpoint=stop))
    assert len(seen) == 1
    assert seen[0] > 0
