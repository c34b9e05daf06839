"""Tasks: what is wrong with model or data is said at construction, and the model is never changed."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.spaces.attention import Attention
from paretopress.spaces.errors import DataError, ModelError, PressError, SettingError
from paretopress.spaces.metric import Metric
from paretopress.spaces.task import Task


def batches(count: int = 2, size: int = 4, width: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return random batches for `net`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, width, generator=generator), torch.randint(0, 5, (size,), generator=generator))
        for _ in range(count)
    ]


def net() -> nn.Sequential:
    """Return a small classifier, the same every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5))


class WithAttention(nn.Module):
    """A model that attends over the batch before its layers."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1)
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        out: Tensor = self.layers(self.attention(x, x, x, need_weights=False)[0][:, 0])
        return out


class Returning(nn.Module):
    """A model whose forward pass returns what a function makes of its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(self.layer(args[0]), *args)


def test_task_takes_a_model_or_a_function_that_returns_one() -> None:
    """Both ways of giving a model make the same task."""
    model = net()
    assert Task(model, batches()).digest == Task(lambda: model, batches()).digest


def test_users_model_is_never_changed() -> None:
    """Not its weights, its statistics, its mode, its gradients or its modules, and no tensor is shared."""
    model = WithAttention(net()).train()
    model.layers[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    task = Task(model, batches(), train=batches())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert not model.layers[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert type(model.attention) is nn.MultiheadAttention
    assert not {t.data_ptr() for t in model.parameters()} & {t.data_ptr() for t in task.model.parameters()}


def test_task_model_is_in_eval_mode_with_separate_attention() -> None:
    """The baseline is ready to be measured, and its attention projections are layers of their own."""
    model = WithAttention(net())
    task = Task(model, batches())
    assert not any(m.training for m in task.model.modules())
    assert isinstance(task.model.attention, Attention)
    x = batches()[0][0]
    torch.testing.assert_close(task.model(x), model.eval()(x))


def test_example_is_one_input_of_validation_by_default() -> None:
    """The traced input has a batch of one; an input without batch dimension is taken whole."""
    model = Returning(lambda y, x, scale: y * scale.sum())
    scale = torch.rand(7)
    task = Task(model, [((x, scale), y) for x, y in batches()])
    assert [tuple(a.shape) for a in task.example] == [(1, 3), (7,)]


def test_calibration_comes_from_training_data_first() -> None:
    """Statistics come from the first 512 training examples, and from validation only without those."""
    train = batches(count=40, size=16, seed=1)
    task = Task(net(), batches(), train=train)
    seen = [args[0] for args, _ in task.calibration]
    assert sum(map(len, seen)) == 512
    assert torch.equal(seen[0], train[0][0])
    own = Task(net(), batches(), train=train, calibration=batches(seed=2))
    assert torch.equal(own.calibration.first()[0][0], batches(seed=2)[0][0])
    assert sum(len(t) for _, t in Task(net(), batches()).calibration) == 8


BAD_DATA: list[tuple[str, dict[str, Any], str]] = [
    (
        "batch is no pair",
        {"validation": [torch.zeros(4, 3)]},
        "validation data: a batch must be a pair.*Wrap",
    ),
    ("no batches", {"validation": []}, "validation data: the loader yields nothing"),
    ("empty test split", {"test": []}, "test data: the loader yields nothing"),
    ("no loader", {"train": 5}, "train data: a int can't be iterated"),
    ("generator", {"train": iter(batches())}, "train data: a list_iterator can be iterated once only"),
    ("target is a list", {"validation": [(torch.zeros(2, 3), [0, 1])]}, "must be tensors"),
    ("lengths differ", {"validation": [(torch.zeros(2, 3), torch.zeros(3))]}, "same first dimension"),
    ("bad calibration", {"calibration": [torch.zeros(2)]}, "calibration data: a batch must be a pair"),
    (
        "metric fails",
        {"metric": Metric("mine", lambda o, t: o @ t)},
        r"metric 'mine' fails on output \(8, 5\) and target \(8,\) of the validation data.*Give Task a",
    ),
    (
        "metric is NaN",
        {"metric": Metric("mine", lambda o, t: float("nan"))},
        "metric 'mine' is nan.*Give Task a metric that fits",
    ),
    ("regression without metric", {"validation": [(torch.zeros(4, 3), torch.zeros(4, 5))]}, "accuracy needs"),
    (
        "metric fails on test",
        {"test": [(torch.zeros(4, 3), torch.zeros(4, 7))]},
        r"metric 'accuracy' fails.*target \(4, 7\) of the test data",
    ),
    (
        "loss doesn't fit",
        {"train": [(torch.zeros(4, 3), torch.zeros(4, 7))]},
        "loss fails on output.*train data.*Give Task a loss that fits",
    ),
    (
        "loss doesn't fit, and chooses batch-norm statistics",
        {"validation": [(torch.zeros(4, 3), torch.zeros(4, 7))], "metric": Metric("mine", lambda o, t: 1.0)},
        "loss fails on output.*validation data.*Give Task a loss that fits.*batch-norm statistics",
    ),
    (
        "cross-entropy of one class",
        {
            "model": nn.Linear(3, 1),
            "validation": [(torch.zeros(4, 3), torch.zeros(4, 1))],
            "train": [(torch.zeros(4, 3), torch.zeros(4, 1))],
            "metric": Metric("mine", lambda o, t: 1.0),
        },
        "cross-entropy of one class is always 0.*Give Task a loss that fits",
    ),
    (
        "loss isn't scalar",
        {"train": batches(), "loss": lambda o, t: F.cross_entropy(o, t, reduction="none")},
        "loss.*no scalar tensor",
    ),
    (
        "loss has no gradient",
        {"train": batches(), "loss": lambda o, t: (o.argmax(1) != t).float().mean()},
        "loss.*with a gradient",
    ),
    ("NaN in validation", {"validation": [(torch.full((2, 3), math.nan), torch.zeros(2).long())]}, "input.*holds NaN"),
    (
        "NaN in training",
        {"train": [(torch.full((2, 3), math.nan), torch.zeros(2).long())]},
        "train data: the input.*NaN",
    ),
    (
        "NaN in targets",
        {"train": [(torch.zeros(4, 3), torch.full((4, 5), math.nan))], "loss": F.mse_loss},
        "train data: the target of the first batch holds NaN",
    ),
    (
        "loss is infinite",
        {"train": batches(), "loss": lambda o, t: (o * float("inf")).abs().sum()},
        "loss.*it is inf",
    ),
]


@pytest.mark.parametrize(("change", "message"), [c[1:] for c in BAD_DATA], ids=[c[0] for c in BAD_DATA])
def test_bad_data_is_a_data_error_that_says_what_to_do(change: dict[str, Any], message: str) -> None:
    """Each mistake in data, metric or loss is found at construction and named in the user's terms."""
    with pytest.raises(DataError, match=message):
        Task(**{"model": net(), "validation": batches(), **change})


def flaky(output: Tensor, x: Tensor) -> Tensor:
    """Return something else every time."""
    return output + torch.rand(())


BAD_MODELS: list[tuple[str, Any, str]] = [
    ("no module", "resnet", "a str is not a torch.nn.Module or a function returning one"),
    ("function of the wrong thing", dict, "the function returned a dict"),
    (
        "forward fails",
        nn.Linear(7, 5),
        r"forward pass fails on the first validation batch \(\(4, 3\) float32\).*loader",
    ),
    ("NaN", Returning(lambda y, x: y / 0 * 0), "NaN or infinity.*trained weights"),
    ("random", Returning(flaky), r"two forward passes in eval mode.*differ.*eval\(\)"),
    ("tuple", Returning(lambda y, x: (y, x)), "returns a tuple, not a tensor.*Wrap"),
    ("dict", Returning(lambda y, x: {"logits": y}), "returns a dict, not a tensor"),
    ("scalar", Returning(lambda y, x: y.sum()), r"output has shape \(\) for a batch of 4"),
    ("batch lost", Returning(lambda y, x: y[:2]), r"output has shape \(2, 5\) for a batch of 4"),
]


@pytest.mark.parametrize(("model", "message"), [c[1:] for c in BAD_MODELS], ids=[c[0] for c in BAD_MODELS])
def test_bad_model_is_a_model_error_that_says_what_to_do(model: Any, message: str) -> None:
    """Each mistake in the model is found at construction and named in the user's terms."""
    with pytest.raises(ModelError, match=message):
        Task(model, batches())


def test_model_that_cannot_be_copied_is_a_model_error() -> None:
    """Trials work on copies: a model that holds a lock is refused with the reason."""
    model = net()
    model.lock = threading.Lock()  # type: ignore[assignment]  # a module may hold anything
    with pytest.raises(ModelError, match="can't be copied.*lock"):
        Task(model, batches())


@pytest.mark.parametrize("split", ["test", "calibration", "train"])
def test_every_split_is_tried_on_the_model(split: str) -> None:
    """A test loader of another width fails in the first second, not when the search is over."""
    other: dict[str, Any] = {split: batches(width=9)}
    with pytest.raises(ModelError, match=rf"first {split} batch \(\(4, 9\)"):
        Task(net(), batches(), **other)


def test_example_is_tried_on_the_model() -> None:
    """An example input that the model can't take is named as such."""
    with pytest.raises(ModelError, match=r"fails on the example input \(\(1, 9\)"):
        Task(net(), batches(), example=torch.zeros(1, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name = ''.*folder"),
        ({"name": "a/b"}, "name = 'a/b'.*folder"),
        ({"name": 3}, "name = 3.*folder"),
        ({"name": ".hidden"}, "folder"),
        ({"metric": "accuracy"}, r"metric = 'accuracy'.*Metric\('f1', f\)"),
        ({"loss": "mse"}, "loss = 'mse'.*function"),
        ({"example": [[1.0, 2.0, 3.0]]}, "example.*tensor or a tuple of tensors"),
    ],
)
def test_bad_setting_names_setting_value_and_rule(change: dict[str, Any], message: str) -> None:
    """A setting of the wrong kind is a setting error, before anything is loaded."""
    with pytest.raises(SettingError, match=message):
        Task(net(), batches(), **change)


def test_every_error_is_one_the_command_line_prints_plainly() -> None:
    """All the errors of a task share the base class that is shown without a traceback."""
    assert issubclass(DataError, PressError)
    assert issubclass(ModelError, PressError)
    assert issubclass(SettingError, PressError)


def test_setting_error_survives_a_process_boundary() -> None:
    """A worker's error arrives with all its parts."""
    error = pickle.loads(pickle.dumps(SettingError("bits", 9, "must be from 1 to 8", "Take 8.")))
    assert (error.setting, error.value, error.rule, error.advice) == (
        "bits",
        9,
        "must be from 1 to 8",
        "Take 8.",
    )
    assert str(error) == "bits = 9: must be from 1 to 8. Take 8."


def test_metric_that_needs_a_whole_split_is_accepted() -> None:
    """A metric that is undefined on one batch, as an AUC is with one class, is judged on all of them."""

    def needs_both(output: Tensor, target: Tensor) -> float:
        if len(set(target.tolist())) < 2:
            raise ValueError("only one class")
        return 0.5

    data = [(torch.zeros(2, 3), torch.tensor([k, k])) for k in (0, 1)]
    task = Task(net(), data, metric=Metric("auc", needs_both))
    assert task.metric.name == "auc"
    with pytest.raises(DataError, match="only one class"):
        Task(net(), data[:1], metric=Metric("auc", needs_both))


def test_regression_needs_its_metric_and_loss_only() -> None:
    """A task without classes works once metric and loss fit it."""
    data = [(x, torch.randn(len(x), 5)) for x, _ in batches()]
    metric = Metric("mse", F.mse_loss, "minimize")
    assert Task(net(), data, train=data, metric=metric, loss=F.mse_loss).train is not None


def test_digest_is_stable() -> None:
    """The same model and data are the same task, whatever it is called."""
    assert Task(net(), batches()).digest == Task(net(), batches(), name="other", train=batches(seed=5)).digest


def replaced(index: int, module: nn.Module) -> nn.Sequential:
    """Return the classifier with another module at ``index``."""
    model = net()
    model[index] = module
    return model


def scaled(name: str) -> nn.Sequential:
    """Return the classifier with one number changed in a weight or buffer."""
    model = net()
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] += 1
    return model


DEFAULT: dict[str, Any] = {"model": net(), "validation": batches()}
CHANGES: dict[str, dict[str, Any]] = {
    "weight": {"model": scaled("4.weight")},
    "buffer": {"model": scaled("1.running_mean")},
    "activation": {"model": replaced(2, nn.GELU())},
    "setting of a layer": {"model": replaced(2, nn.ELU(0.5))},
    "input": {"validation": [(x + 1, y) for x, y in batches()]},
    "target": {"validation": [(x, (y + 1) % 5) for x, y in batches()]},
    "fewer batches": {"validation": batches()[:1]},
    "metric": {"metric": Metric("other", lambda o, t: 1.0)},
    "direction": {"metric": Metric("accuracy", lambda o, t: 1.0, "minimize")},
    "example": {"example": torch.zeros(1, 3)},
}


def test_digest_changes_with_everything_that_changes_the_results() -> None:
    """Resuming with another model or other data can't pass for the same task."""
    digests = {name: Task(**{**DEFAULT, **change}).digest for name, change in CHANGES.items()}
    digests["nothing"] = Task(**DEFAULT).digest
    digests["other setting"] = Task(**{**DEFAULT, "model": replaced(2, nn.ELU(0.6))}).digest
    assert len(set(digests.values())) == len(digests)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_task as t
print(t.Task(t.replaced(2, t.Printing()), t.batches()).digest)
"""


class Printing(nn.Module):
    """An activation that prints the function it holds, address included."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()

    def extra_repr(self) -> str:
        return f"function={object()!r}"


def test_digest_is_the_same_in_another_process() -> None:
    """A resumed run recognises its task: string hashing and object addresses aren't part of the digest."""
    here = Task(replaced(2, Printing()), batches()).digest
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here


class Casting(nn.Module):
    """Takes any number format in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_digest_reads_every_dtype_of_data(dtype: torch.dtype) -> None:
    """Token ids, masks and half-precision inputs are data like any other."""
    model = nn.Sequential(Casting(), net())
    one, two = ([(torch.full((2, 3), v).to(dtype), torch.tensor([0, 1]))] for v in (0, 1))
    assert Task(model, one).digest != Task(model, two).digest
