"""Estimates from a part of the split: the metric on all of it, whatever its kind."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.evaluators.accuracy import Look, Quality
from paretopress.evaluators.base import Measurement, Subject
from paretopress.search.estimate import Paired
from paretopress.spaces.metric import ACCURACY, IGNORED, Metric
from paretopress.spaces.task import Task


def looks(model: nn.Module, x: Tensor, y: Tensor, metric: Metric = ACCURACY) -> list[Look]:
    """Return all looks at a model."""
    task = Task(model, list(zip(x.split(50), y.split(50))), metric=metric)
    return list(Quality(metric).looks(Subject(task.model, task, task.validation)))


def pixels() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Return two models, images and labels of pixels of which different numbers are left out."""
    torch.manual_seed(0)
    good, worse = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
    x = torch.randn(400, 2, 4, 4)
    y = good(x).argmax(1)
    y[torch.rand(400, 4, 4) < torch.rand(400, 1, 1)] = IGNORED
    return good, worse, x, y


def test_the_whole_split_gives_the_metric_itself() -> None:
    """After the last example the estimate is the measured figure, with several labels each and some left out too."""
    good, worse, x, y = pixels()
    base, last = looks(good, x, y)[-1], looks(worse, x, y)[-1]
    assert Paired(last, base, Quality()).value == pytest.approx(last.measurement.value)
    assert Paired(last, base, Quality()).loss == pytest.approx(-last.measurement.value)


def test_a_part_of_pixels_is_compared_on_the_right_scale() -> None:
    """What is far below is proven so, what is just above isn't, and the interval holds the truth."""
    good, worse, x, y = pixels()
    base, (*parts, last) = looks(good, x, y)[-1], looks(worse, x, y)
    half = next(look for look in parts if look.examples >= 200)
    known, truth = Paired(half, base, Quality()), last.measurement.value
    measured = known.measurement({})
    assert measured.interval is not None
    assert measured.interval[0] <= truth <= measured.interval[1]
    assert measured.repeats == 200
    assert known.worse_than(-truth - 0.3, 0.01)
    assert not known.worse_than(-truth + 0.01, 0.01)


def test_a_function_is_estimated_from_the_difference_on_the_same_examples() -> None:
    """Pairing takes out what the drawn examples do to both: the estimate is nearer than the slice's own figure."""
    torch.manual_seed(0)
    x = torch.randn(800, 1) * torch.rand(800, 1) * 3
    y = x + x * torch.randn(800, 1)
    metric = Metric("mse", F.mse_loss, "minimize")
    quality = Quality(metric)
    base = looks(nn.Identity(), x, y, metric)[-1]
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 1.05)
    nn.init.constant_(model.bias, 1.2)
    *_, half, last = looks(model, x, y, metric)
    known, truth = Paired(half, base, quality), last.measurement.value
    assert half.outputs is not None
    assert half.targets is not None
    own = abs(metric(half.outputs, half.targets) - truth)
    assert abs(known.value - truth) < own
    assert known.worse_than(base.measurement.value, 0.01)
    assert not known.worse_than(truth, 0.01)
    measured = known.measurement({})
    assert measured.interval is not None
    assert measured.interval[0] < known.value < measured.interval[1]


def test_a_metric_that_is_undefined_on_a_part_proves_nothing() -> None:
    """An error, or NaN, on some examples must stop nobody."""

    def needs_all(outputs: Tensor, targets: Tensor) -> float:
        if len(targets) < 400:
            raise ValueError("one class is missing")
        return float((outputs.argmax(1) == targets).float().mean())

    torch.manual_seed(0)
    x, y = torch.randn(400, 3), torch.arange(400) % 3
    metric = Metric("needs_all", needs_all)
    base, first = looks(nn.Identity(), x, y, metric)[-1], looks(nn.Linear(3, 3), x, y, metric)[2]
    known = Paired(first, base, Quality(metric))
    assert math.isnan(known.value)
    assert not known.worse_than(-2.0, 0.01)


def test_a_share_stays_a_share() -> None:
    """Where the slice is easier than the split, and the model misses all of it, the estimate is 0, not less."""
    x = torch.cat([torch.eye(2)[torch.zeros(100, dtype=torch.long)], torch.eye(2)[torch.ones(100, dtype=torch.long)]])
    y = torch.zeros(200, dtype=torch.long)  # the original is right on the first half only

    def look(model: nn.Module, count: int) -> Look:
        right = (model(x[:count]).argmax(1) == y[:count]).long()
        share = float(right.double().mean())
        return Look(Measurement(share, "", None, count), count == 200, right, torch.ones(count, dtype=torch.long))

    never = nn.Linear(2, 2)
    nn.init.zeros_(never.weight)
    never.bias.data = torch.tensor([0.0, 1.0])
    known = Paired(look(never, 60), look(nn.Identity(), 200), Quality())
    assert known.value == -0.5
    measured = known.measurement({})
    assert measured.value == 0
    assert measured.interval is not None
    assert measured.interval[0] <= 0 <= measured.interval[1]


def test_few_examples_that_decide_a_function_may_be_those_not_seen() -> None:
    """A model that is a little worse everywhere and much better on one example in fifty is as good in the end: it is
    hardly ever stopped before such examples were seen.
    """

    def error(outputs: Tensor, targets: Tensor) -> float:
        return float(((outputs - targets) ** 2).mean())

    metric, total, stopped = Metric("error", error, "minimize"), 1600, 0
    quality = Quality(metric)
    for seed in range(100):
        torch.manual_seed(seed)
        target, odd = torch.randn(total, 1), (torch.rand(total, 1) < 0.02).float()
        before = target + 0.1 * torch.randn(total, 1) + 3 * odd
        after = target + 0.25 * torch.randn(total, 1) + 1.5 * odd
        base = Look(Measurement(error(before, target), "", None, total), True, None, None, before, target)
        for count in (50, 100, 200, 400, 800):
            look = Look(Measurement(math.nan, "", None, count), False, None, None, after[:count], target[:count])
            if Paired(look, base, quality).worse_than(error(after, target), 0.01):
                stopped += 1
                break
    assert stopped <= 6


def test_an_extreme_is_no_guide_to_the_rest() -> None:
    """A largest error grows with every example: what a part says beside the baseline's proves nothing, unless it is too
    much by itself.
    """

    def largest(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs - targets).abs().max())

    metric, total = Metric("largest", largest, "minimize"), 800
    quality = Quality(metric)
    stopped = {"as good": 0, "worse": 0}
    for seed in range(60):
        torch.manual_seed(seed)
        target = torch.randn(total, 1)
        before, after = target + torch.randn(total, 1).abs() ** 0.5, target + torch.randn(total, 1).abs() ** 0.5
        before[torch.randint(total, (1,))] += 3  # the original's largest error is rare, and the model's own is not
        base = Look(Measurement(largest(before, target), "", None, total), True, None, None, before, target)
        look = Look(Measurement(math.nan, "", None, 400), False, None, None, after[:400], target[:400])
        known = Paired(look, base, quality)
        stopped["as good"] += known.worse_than(largest(after, target), 0.01)
        stopped["worse"] += known.worse_than(0.3 * largest(after, target), 0.01)
    assert stopped["as good"] == 0
    assert stopped["worse"] > 0
