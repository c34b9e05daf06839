"""Batch-norm statistics are measured anew only where that helps, and nothing else moves."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.batchnorm import reestimate
from paretopress.spaces.data import Batches


def _batches(*sizes: int) -> Batches:
    generator = torch.Generator().manual_seed(3)
    return Batches(
        [
            (
                2 + 3 * torch.randn(n, 4, 5, 5, generator=generator),
                torch.randint(0, 3, (n,), generator=generator),
            )
            for n in sizes
        ],
        "calibration",
        keep=True,
    )


class Network(nn.Module):
    """A convolution with batch norm, dropout and group norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm2d(4, momentum=0.3)
        self.conv = nn.Conv2d(4, 6, 3)
        self.norm2 = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(self.norm(x))).mean((2, 3))
        out: Tensor = self.head(self.drop(self.norm2(x)))
        return out


def _loss(model: nn.Module, batches: Batches) -> float:
    with torch.no_grad():
        return sum(float(F.cross_entropy(model(*a), t)) * len(t) for a, t in batches) / sum(len(t) for _, t in batches)


def _spoilt() -> Network:
    model = Network()
    model.eval()
    model.get_buffer("norm.running_mean").fill_(100.0)
    model.get_buffer("norm2.running_var").fill_(1e-4)
    return model


def test_stale_statistics_become_those_of_the_data() -> None:
    """The first layer's statistics are the averages of the batches' own, each batch weighing the same."""
    model, batches = _spoilt(), _batches(8, 8, 8)
    before = _loss(model, batches)
    assert reestimate(model, batches, F.cross_entropy)
    means = torch.stack([a[0].mean((0, 2, 3)) for a, _ in batches]).mean(0)
    variances = torch.stack([a[0].transpose(0, 1).flatten(1).var(1) for a, _ in batches]).mean(0)
    torch.testing.assert_close(model.get_buffer("norm.running_mean"), means, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.get_buffer("norm.running_var"), variances, rtol=1e-4, atol=1e-4)
    assert _loss(model, batches) < before


def test_nothing_but_the_statistics_changes() -> None:
    """Weights, mode, momentum and gradients are as before, and dropout stays off."""
    model = _spoilt()
    weights = {k: v.clone() for k, v in model.named_parameters()}
    assert reestimate(model, _batches(8, 8), F.cross_entropy)
    assert all(torch.equal(v, weights[k]) for k, v in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m.training for m in model.modules())
    assert (model.norm.momentum, model.norm2.momentum) == (0.3, 0.1)
    again = _spoilt()
    reestimate(again, _batches(8, 8), F.cross_entropy)
    assert torch.equal(model.get_buffer("norm2.running_var"), again.get_buffer("norm2.running_var"))


def test_statistics_that_serve_better_are_kept_bit_for_bit() -> None:
    """A model whose loss would rise keeps its buffers, the count of batches included."""
    model, batches = _spoilt(), _batches(8, 8)
    trained = [model.norm.weight, model.norm2.weight, *model.head.parameters()]
    optimiser = torch.optim.Adam(trained, 0.05)
    with torch.no_grad():
        model.get_buffer("norm.running_mean").fill_(2.0)
        model.get_buffer("norm2.running_var").fill_(1.0)
    for _ in range(30):  # fit to these very statistics, which aren't those of the data
        optimiser.zero_grad()
        torch.stack([F.cross_entropy(model(*a), t) for a, t in batches]).sum().backward()
        optimiser.step()
    before = copy.deepcopy(model.state_dict())
    assert not reestimate(model, batches, F.cross_entropy)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_statistics_halfway_are_kept_where_they_are_best() -> None:
    """Weights that fit neither the old statistics nor those of a few examples, but what is between, get that."""
    model, batches = _spoilt(), _batches(8, 8)
    reestimate(model, batches, F.cross_entropy)
    new = {k: v.clone() for k, v in model.named_buffers()}
    between = {k: v + 0.5 if "mean" in k else 1.5 * v for k, v in new.items() if v.is_floating_point()}
    for key, value in between.items():
        model.get_buffer(key).copy_(value)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        optimiser.zero_grad()
        torch.stack([F.cross_entropy(model(*a), t) for a, t in batches]).sum().backward()
        optimiser.step()
    # The first layer's are of the data, whatever the weights are; the second's are measured with those.
    model.norm2 = nn.BatchNorm1d(6, track_running_stats=False).eval()
    least = _loss(model, batches)
    model.get_buffer("norm.running_mean").copy_(2 * between["norm.running_mean"] - new["norm.running_mean"])
    model.get_buffer("norm.running_var").copy_(2 * between["norm.running_var"] - new["norm.running_var"])
    assert reestimate(model, batches, F.cross_entropy)
    for key in ("norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(model.get_buffer(key), between[key])
    assert _loss(model, batches) == pytest.approx(least)


def test_a_loss_of_nan_is_worse_than_any() -> None:
    """Broken statistics are replaced, although no number is below NaN."""
    model = _spoilt()
    model.get_buffer("norm.running_var").fill_(float("nan"))
    assert reestimate(model, _batches(8), F.cross_entropy)
    assert torch.isfinite(model.get_buffer("norm.running_var")).all()


def test_a_model_without_batch_norm_is_not_run() -> None:
    """There is nothing to measure, so no time is spent on it."""

    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("ran")

    assert not reestimate(nn.Sequential(Never(), nn.LayerNorm(4)), _batches(8), F.cross_entropy)
    untracked = nn.Sequential(Never(), nn.BatchNorm2d(4, track_running_stats=False))
    assert not reestimate(untracked, _batches(8), F.cross_entropy)


def test_batches_of_one_example_are_left_out() -> None:
    """One example has no variance after pooling; it neither fails nor spoils the others' statistics."""
    model, other = _spoilt(), _spoilt()
    assert reestimate(model, _batches(8, 1), F.cross_entropy)
    reestimate(other, _batches(8), F.cross_entropy)
    assert torch.equal(model.get_buffer("norm.running_mean"), other.get_buffer("norm.running_mean"))
    before = model.get_buffer("norm.running_mean").clone()
    assert not reestimate(model, _batches(1, 1), F.cross_entropy)
    assert torch.equal(model.get_buffer("norm.running_mean"), before)


def test_a_failing_pass_leaves_the_model_as_it_was() -> None:
    """An error in the middle doesn't leave half a set of statistics behind."""
    model, batches = _spoilt(), _batches(8, 8)
    before = copy.deepcopy(model.state_dict())
    calls: list[int] = []

    def fails(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module.training:
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("out of memory")

    model.norm2.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        reestimate(model, batches, F.cross_entropy)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.norm.training
    assert model.norm.momentum == 0.3


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failing_loss_leaves_the_model_as_it_was(failing: int) -> None:
    """Whichever statistics the loss fails with, those that were tried before are not left behind."""
    model, asked = _spoilt(), list[int]()
    before = copy.deepcopy(model.state_dict())

    def fails(output: Tensor, target: Tensor) -> Tensor:
        asked.append(1)
        if len(asked) == failing:
            raise RuntimeError("out of memory")
        return F.cross_entropy(output, target)

    with pytest.raises(RuntimeError, match="out of memory"):
        reestimate(model, _batches(8), fails)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_batches_are_not_written_to() -> None:
    """A model that works in place on its input doesn't spoil the calibration data."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _spoilt()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x.mul_(2.0))
            return out

    batches = _batches(8)
    before = batches.first()[0][0].clone()
    list(batches)
    reestimate(InPlace().eval(), batches, F.cross_entropy)
    assert torch.equal(batches.first()[0][0], before)


@pytest.mark.parametrize("hopeless", [(False,), (True, False), (True, True, False), (True, True, True)])
def test_a_judge_sees_new_statistics_and_then_older_ones_and_changes_none(hopeless: tuple[bool, ...]) -> None:
    """What may end a trial is shown just what the model can become, and the outcome is the same without it."""
    model, alone, batches = _spoilt(), _spoilt(), _batches(8, 8)
    before = model.get_buffer("norm.running_mean").clone()
    assert reestimate(alone, batches, F.cross_entropy)
    seen, more = [], []

    def judge(shown: nn.Module, left: bool) -> bool:
        seen.append(shown.get_buffer("norm.running_mean").clone())
        more.append(left)
        return hopeless[len(seen) - 1]

    assert reestimate(model, batches, F.cross_entropy, judge)
    assert more == [True, True, False][: len(hopeless)]
    new = alone.get_buffer("norm.running_mean")
    for found, expected in zip(seen, (new, (before + new) / 2, before)):
        torch.testing.assert_close(found, expected)
    assert all(torch.equal(v, alone.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_judge_that_raises_ends_it_before_any_loss_is_asked_for() -> None:
    """The error passes, the old statistics stay, and the three passes that were left are saved."""
    model = _spoilt()
    before = copy.deepcopy(model.state_dict())

    def never(output: Tensor, target: Tensor) -> Tensor:
        raise AssertionError

    def judge(shown: nn.Module, left: bool) -> bool:
        raise RuntimeError("over")

    with pytest.raises(RuntimeError, match="over"):
        reestimate(model, _batches(8, 8), never, judge)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_without_new_statistics_a_judge_sees_the_model_as_it_is() -> None:
    """A model without batch norm, or with batches of one example, has a single fate; it is judged once."""
    for model, batches in ((nn.Sequential(nn.LayerNorm(4)), _batches(8)), (_spoilt(), _batches(1, 1))):
        asked: list[bool] = []

        def judge(shown: nn.Module, left: bool, asked: list[bool] = asked) -> bool:
            asked.append(left)
            return True

        assert not reestimate(model, batches, F.cross_entropy, judge)
        assert asked == [False]
