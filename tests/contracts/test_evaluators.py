"""What every metric must do, on a convolutional, a dense, an attention and a recurrent network.

A new evaluator is picked up here by its registration.
"""

import copy
import json
import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from paretopress.evaluators import Quality
from paretopress.evaluators.base import Evaluator, Measurement, Subject, evaluator, evaluators
from paretopress.evaluators.latency import Latency
from paretopress.search.deploy.onnx_file import to_onnx
from paretopress.search.deployment import deployment
from paretopress.spaces.data import Batches
from paretopress.spaces.task import Task

#: Metrics that measure time; all others are exact.
TIMED = {"latency", "latency_torch"}


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=2)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean((2, 3)))
        return out


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1, enable_nested_tensor=False
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x)).mean(1))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(5, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x)[0][:, -1])
        return out


def build(kind: str) -> Task:
    """Return a task with a small network of the kind."""
    torch.manual_seed(0)
    models = {
        "convolutional": (Convolutional(), torch.randn(12, 3, 8, 8)),
        "dense": (nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 4)), torch.randn(12, 6)),
        "attention": (Attending(), torch.randint(20, (12, 7))),
        "recurrent": (Recurrent(), torch.randn(12, 7, 5)),
    }
    model, x = models[kind]
    return Task(model, [(x[:8], torch.arange(8) % 4), (x[8:], torch.arange(4))])


@pytest.fixture(scope="module", params=["convolutional", "dense", "attention", "recurrent"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Give a copy of the baseline, as if it had been loaded from a file."""
    task = build(request.param)
    file = to_onnx(task.model, {}, task.example)
    return Subject(
        copy.deepcopy(task.model), task, task.validation, 4321, deploy=lambda: file, deploy_baseline=lambda: file
    )


def quick(metric: Evaluator) -> Evaluator:
    """Give a timer less to do: the contract isn't about the figure's precision."""
    return metric.but(seconds=0.1) if isinstance(metric, Latency) else metric


ALL = [*evaluators().values(), Quality(), Latency(runtime="torch", name="latency_torch")]
EXACT = [m for m in ALL if m.name not in TIMED]
exact = pytest.mark.parametrize("metric", EXACT, ids=[m.name for m in EXACT])
each = pytest.mark.parametrize("metric", [quick(m) for m in ALL], ids=[m.name for m in ALL])


def snapshot(model: nn.Module) -> bytes:
    """Return everything of a model: tensors, modes, hooks and attributes."""
    return pickle.dumps(
        [
            (path, module.training, len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
            for path, module in model.named_modules()
        ]
    ) + b"".join(name.encode() + tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items())


def test_the_metrics_of_the_package_are_registered() -> None:
    """Importing the entry point is enough: no list of names is kept anywhere else."""
    assert {"bops", "latency", "macs", "memory", "parameters", "size"} <= set(evaluators())


def test_the_cheapest_metric_comes_first() -> None:
    """A trial stops early once a cheap metric rules it out, so the order is by cost."""
    costs = [m.cost for m in evaluators().values()]
    assert costs == sorted(costs)


@pytest.mark.parametrize("metric", evaluators().values(), ids=list(evaluators()))
def test_a_registered_metric_describes_itself(metric: Evaluator) -> None:
    """Tables and the documentation are made of these."""
    assert evaluator(metric.name) is metric
    assert metric.unit
    assert metric.direction in ("maximize", "minimize")
    assert metric.cost >= 0
    assert metric.summary.endswith(".")
    assert type(metric).__doc__


@each
def test_a_measurement_is_finite_and_survives_json(metric: Evaluator, subject: Subject) -> None:
    """Whatever is measured goes through the journal and back without loss."""
    measured = metric.measure(subject)
    assert math.isfinite(measured.value)
    assert measured.value >= 0
    assert measured.unit == metric.unit
    assert measured.repeats >= 1
    assert Measurement.from_json(json.loads(json.dumps(measured.to_json(), allow_nan=False))) == measured


@each
def test_an_interval_holds_its_value(metric: Evaluator, subject: Subject) -> None:
    """An interval beside its own value would be a bug in either."""
    measured = metric.measure(subject)
    if measured.interval is None:
        assert metric.name not in TIMED
    else:
        low, high = measured.interval
        assert low <= measured.value <= high


@each
def test_the_model_is_untouched(metric: Evaluator, subject: Subject) -> None:
    """The same model object is measured by every metric in turn, and is then the user's."""
    before = snapshot(subject.model), snapshot(subject.task.model), subject.task.example[0].clone()
    metric.measure(subject)
    assert (snapshot(subject.model), snapshot(subject.task.model)) == before[:2]
    assert torch.equal(subject.task.example[0], before[2])


@exact
def test_exact_metrics_repeat_to_the_last_digit(metric: Evaluator, subject: Subject) -> None:
    """A figure that isn't timed must be the same on every machine and at every repetition."""
    task = build_like(subject)
    model = copy.deepcopy(subject.model)
    written = deployment(model, {}, task.example)
    other = Subject(model, task, subject.split, subject.file_bytes, deploy=written)
    assert metric.measure(subject) == metric.measure(subject) == metric.measure(other)


def build_like(subject: Subject) -> Task:
    """Return the same task built again."""
    task = subject.task
    return Task(task.model, list(task.validation))


@each
def test_the_baseline_is_no_better_than_itself(metric: Evaluator, subject: Subject) -> None:
    """A ratio to the baseline must be about 1 for the baseline, and any other figure the same for both."""
    measured = metric.measure(replace(subject, model=subject.task.model))
    if metric.name in TIMED:
        assert measured.interval is not None
        assert measured.interval[0] <= 1 <= measured.interval[1] or abs(measured.value - 1) < 0.5
    else:
        assert measured == metric.measure(subject)


@each
def test_a_metric_crosses_a_process_boundary(metric: Evaluator) -> None:
    """Workers on other machines are handed their metrics."""
    again = pickle.loads(pickle.dumps(metric))
    assert (again.name, again.unit, again.direction) == (metric.name, metric.unit, metric.direction)


@pytest.mark.parametrize("metric", [quick(m) for m in ALL if not m.deployed], ids=lambda m: m.name)
def test_half_precision_is_measured_as_it_is(metric: Evaluator, subject: Subject) -> None:
    """Smaller tensors must not break a metric of cost; those that ONNX Runtime has no kernels for are not deployed."""

    def halved(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(a.bfloat16() if a.is_floating_point() else a for a in args)

    batches = Batches([(halved(args), target) for args, target in subject.task.validation], "validation", keep=True)
    task = copy.copy(subject.task)
    task.example = halved(task.example)
    model = copy.deepcopy(task.model).bfloat16()
    measured = metric.measure(Subject(model, task, batches, subject.file_bytes, baseline=copy.deepcopy(model)))
    assert math.isfinite(measured.value)
