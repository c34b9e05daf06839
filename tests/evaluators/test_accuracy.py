"""Quality: the same figure however the data is batched, an honest interval, and nothing left behind."""

from itertools import pairwise

import pytest
import torch
import torchmetrics
from torch import Tensor, nn

from paretopress.evaluators.accuracy import Quality, wilson
from paretopress.evaluators.base import Subject
from paretopress.spaces.data import Batches
from paretopress.spaces.errors import SettingError
from paretopress.spaces.metric import ACCURACY, Metric
from paretopress.spaces.task import Task


def mean_squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error."""
    return (outputs - targets).square().mean()


def classifier() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small network, inputs and classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(50, 6), torch.arange(50) % 3


def subject(model: nn.Module, x: Tensor, y: Tensor, batch: int, metric: Metric = ACCURACY) -> Subject:
    """Return the model on data in batches of a size."""
    data = list(zip(x.split(batch), y.split(batch)))
    task = Task(model, data, metric=metric)
    return Subject(task.model, task, task.validation)


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_accuracy_is_the_share_of_correct_examples_in_any_batching(batch: int) -> None:
    """Batches of unequal length must not be averaged as if they were equal."""
    model, x, y = classifier()
    measured = Quality().measure(subject(model, x, y, batch))
    assert measured.value == pytest.approx(float((model(x).argmax(1) == y).double().mean()))
    assert measured.repeats == 50


def test_accuracy_of_pixels_counts_examples_as_observations() -> None:
    """The labels of one image hang together: taking pixels as observations would make the interval too narrow."""
    torch.manual_seed(0)
    model, x = nn.Conv2d(2, 3, 1), torch.randn(10, 2, 16, 16)
    y = torch.randint(3, (10, 16, 16))
    measured = Quality().measure(subject(model, x, y, 4))
    assert measured.value == pytest.approx(ACCURACY(model(x), y))
    assert measured.repeats == 10
    assert measured.interval == wilson(measured.value, 10)


@pytest.mark.parametrize(
    ("share", "examples", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.9, 1000, 0.8799, 0.9171), (0.0, 20, 0.0, 0.1611), (1.0, 20, 0.8389, 1.0)],
)
def test_wilson_gives_the_published_intervals(share: float, examples: int, low: float, high: float) -> None:
    """The interval must be Wilson's, with a width at 0 and 1 where the normal approximation has none."""
    assert wilson(share, examples) == pytest.approx((low, high), abs=1e-4)


def test_wilson_covers_the_truth_about_95_times_in_100() -> None:
    """An interval called 95 % must hold the true share that often."""
    draws = torch.distributions.Binomial(200, torch.tensor(0.9)).sample((4000,)) if torch.manual_seed(1) else None
    assert draws is not None
    hits = [low <= 0.9 <= high for low, high in (wilson(float(k) / 200, 200) for k in draws)]
    assert 0.93 < sum(hits) / len(hits) < 0.97


def test_a_function_sees_the_whole_split_at_once() -> None:
    """A metric that is no mean over examples must not be averaged over batches."""
    model, x, y = classifier()

    def largest(outputs: Tensor, targets: Tensor) -> float:
        return float(outputs.max())

    measured = Quality(Metric("largest", largest)).measure(subject(model, x, y, 9, Metric("largest", largest)))
    assert measured.value == pytest.approx(float(model(x).detach().max()))
    assert measured.interval is None


def test_a_torchmetrics_object_is_streamed_and_left_reset() -> None:
    """A metric with state must not carry one trial's examples into the next."""
    model, x, y = classifier()
    score = torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro")
    metric = Metric("f1", score)
    quality = Quality(metric)
    first = quality.measure(subject(model, x, y, 9, metric))
    again = quality.measure(subject(model, x, y, 50, metric))
    assert first.value == pytest.approx(again.value)
    assert first.value == pytest.approx(metric(model(x), y))
    assert first.interval is None
    quality.measure(subject(model, x, y, 9, metric))
    assert score.update_count == 0


@pytest.mark.parametrize("streams", [False, True])
def test_the_bootstrap_interval_shrinks_with_the_root_of_the_examples(streams: bool) -> None:
    """The interval must be that of a mean: it holds the value and is about z s / sqrt(n) to each side."""
    torch.manual_seed(0)
    x = torch.randn(400, 1)
    y = x + torch.randn(400, 1)
    function = torchmetrics.MeanSquaredError() if streams else mean_squared
    metric = Metric("mse", function, "minimize")
    measured = Quality(metric, resamples=300).measure(subject(nn.Identity(), x, y, 64, metric))
    assert measured.interval is not None
    low, high = measured.interval
    assert low < measured.value < high
    half = 1.96 * float((x - y).square().std()) / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.2)
    again = Quality(metric, resamples=300).measure(subject(nn.Identity(), x, y, 64, metric))
    assert measured == again


def test_resamples_on_which_the_metric_is_undefined_are_left_out() -> None:
    """A recall without positives in a resample is NaN and must not make the whole interval NaN."""

    def recall(outputs: Tensor, targets: Tensor) -> float:
        positive = targets == 1
        return float((outputs.argmax(1) == 1)[positive].double().mean())

    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([1, 0, 0])
    measured = Quality(Metric("recall", recall), 50).measure(subject(nn.Identity(), x, y, 3, Metric("recall", recall)))
    assert measured.interval == (1.0, 1.0)


def test_a_nan_metric_fails_with_its_name() -> None:
    """A trial whose quality is undefined must fail with a reason instead of entering the front."""
    model, x, y = classifier()
    broken = Metric("kappa", lambda outputs, targets: float("nan"))
    with pytest.raises(ValueError, match="'kappa' is NaN"):
        Quality(broken).measure(subject(model, x, y, 10))


def test_nan_in_the_data_is_not_blamed_on_the_model() -> None:
    """Whoever reads the message looks for the fault where it is: in the input, or in the targets."""
    model, x, y = classifier()
    x[27] = float("nan")
    with pytest.raises(ValueError, match="whose input holds NaN"):
        Quality().measure(subject(model, x, y, 10))
    error = Metric("error", lambda outputs, targets: float((outputs[:, 0] - targets).square().mean()), "minimize")
    with pytest.raises(ValueError, match="'error' is NaN on the split, where a target is NaN"):
        Quality(error).measure(subject(model, torch.zeros_like(x), torch.full(y.shape, float("nan")), 10))


def test_nan_outputs_fail_instead_of_counting_as_a_class() -> None:
    """The arg-max of NaN is a class like any other: a broken model must not get its accuracy by chance."""
    model, x, y = classifier()
    fine = subject(model, x, y, 10)
    broken = nn.Linear(6, 3)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        Quality().measure(Subject(broken, fine.task, fine.split))


def test_a_model_that_writes_into_its_input_leaves_the_data_alone() -> None:
    """Kept batches are shared by all trials: in-place models must get copies."""

    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2)

    x, y = torch.randn(8, 3), torch.arange(8) % 3
    before = x.clone()
    tested = subject(Doubling(), x, y, 4)
    first = Quality().measure(tested)
    assert Quality().measure(tested) == first
    assert torch.equal(torch.cat([args[0] for args, _ in tested.split]), before)


def test_the_split_that_is_measured_is_the_subjects() -> None:
    """At the end of a run the same evaluator must look at test data, not at validation."""
    model, x, y = classifier()
    first = subject(model, x, y, 10)
    other = Batches([(x[:5], model(x[:5]).argmax(1))], "test", keep=True)
    measured = Quality().measure(Subject(first.model, first.task, other))
    assert (measured.value, measured.repeats) == (1.0, 5)


def test_negative_resamples_are_refused() -> None:
    """A wrong setting must name itself."""
    with pytest.raises(SettingError, match="resamples = -1"):
        Quality(resamples=-1)


def test_looks_grow_to_exactly_the_measurement() -> None:
    """The last look is the measurement, earlier ones are of the same examples, and none is skipped."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3), torch.randn(640, 6)
    tested = subject(model, x, torch.arange(640) % 3, 160)
    looks = list(Quality().looks(tested))
    assert [look.examples for look in looks] == [40, 80, 160, 320, 480, 640]
    assert [look.whole for look in looks] == [False] * 5 + [True]
    assert looks[-1].measurement == Quality().measure(tested)
    for before, after in pairwise(looks):
        assert before.right is not None
        assert after.right is not None
        assert torch.equal(before.right, after.right[: before.examples])
    assert int(looks[-1].right.sum()) / 640 == looks[-1].measurement.value  # type: ignore[union-attr] - checked above


def test_a_function_is_looked_at_when_the_examples_have_doubled() -> None:
    """What a function tells of a part is found by resampling: not after every batch."""
    torch.manual_seed(0)
    metric = Metric("own", lambda output, target: float((output.argmax(1) == target).float().mean()))
    tested = subject(nn.Linear(6, 3), torch.randn(640, 6), torch.arange(640) % 3, 32, metric)
    looks = list(Quality(metric).looks(tested))
    assert [look.examples for look in looks] == [32, 64, 128, 256, 576, 640]
    assert looks[-1].measurement == Quality(metric).measure(tested)


def test_a_function_gets_the_split_in_the_loaders_order() -> None:
    """Frames of a film or rows of a table may belong together: only the looking is in random order."""
    x, y = torch.randn(200, 3), torch.arange(200) % 3

    def in_order(outputs: Tensor, targets: Tensor) -> float:
        return float(torch.equal(outputs, x) and torch.equal(targets, y))

    metric = Metric("in_order", in_order)
    assert Quality(metric).measure(subject(nn.Identity(), x, y, 32, metric)).value == 1.0


def test_between_two_looks_the_model_is_as_it_was() -> None:
    """Whoever stops listening leaves no model in eval mode and no gradients switched off."""
    model, x, y = classifier()
    tested = subject(model.train(), x.repeat(10, 1), y.repeat(10), 20)
    tested.model.train()
    next(Quality().looks(tested))
    assert tested.model.training
    assert torch.is_grad_enabled()
