"""Peak memory against sums made by hand."""

import gc

import pytest
import torch
from torch import Tensor, nn

from paretopress.evaluators.base import Measurement, Subject
from paretopress.evaluators.memory import Memory
from paretopress.spaces.task import Task


def measured(model: nn.Module, *size: int, batch: int = 3) -> Measurement:
    """Return the memory of a model with inputs of a size."""
    task = Task(model, [(torch.randn(batch, *size), torch.zeros(batch, dtype=torch.long))])
    return Memory().measure(Subject(task.model, task, task.validation))


def test_a_chain_of_linear_layers() -> None:
    """Weights, the input, and the largest pair of neighbours: an activation goes when the next one is there."""
    found = measured(nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 300), nn.Linear(300, 20)), 10)
    weights = 4 * (10 * 100 + 100 + 100 * 300 + 300 + 300 * 20 + 20)
    assert found.detail == {"weights": weights, "activations": 4 * (10 + 100 + 300)}
    assert found.value == weights + 4 * (10 + 100 + 300)


@pytest.mark.parametrize(("inplace", "activations"), [(False, 8 + 200 + 200), (True, 8 + 200 + 50)])
def test_an_in_place_activation_needs_no_second_buffer(inplace: bool, activations: int) -> None:
    """The peak must see which operators allocate and which write where they read."""
    model = nn.Sequential(nn.Linear(8, 200), nn.ReLU(inplace), nn.Linear(200, 50))
    assert measured(model, 8).detail["activations"] == 4 * activations


def test_a_skip_connection_stays_alive() -> None:
    """A residual branch holds its input through the block, which a plain chain doesn't."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(40, 40, bias=False), nn.Linear(40, 40, bias=False)
            self.start = nn.Linear(2, 40, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.start(x)
            out: Tensor = x + self.second(self.first(x))
            return out

    # input, skip, and either (first, second) or (second, sum)
    assert measured(Skip(), 2).detail["activations"] == 4 * (2 + 3 * 40)


def test_views_are_free_and_buffers_count() -> None:
    """Reshaping allocates nothing; running statistics are part of the model in memory."""
    model = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 3)), nn.Flatten())
    assert measured(model, 2, 3).value == 4 * 6
    norm = measured(nn.BatchNorm1d(5), 5)
    assert norm.detail["weights"] == 4 * (4 * 5) + 8  # two parameters, two statistics, one int64 counter


def test_shared_weights_are_held_once() -> None:
    """A tied tensor is one block of memory."""
    shared = nn.Linear(6, 6, bias=False)
    assert measured(nn.Sequential(shared, shared), 6).detail["weights"] == 4 * 36


def test_the_peak_is_for_one_example_of_any_example_batch() -> None:
    """Memory at batch 1 must not depend on how many examples the user gave."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    data = [(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))]
    tasks = [Task(model, data), Task(model, data, example=torch.randn(4, 3, 8, 8))]
    first, second = (Memory().measure(Subject(t.model, t, t.validation)) for t in tasks)
    assert first == second


@pytest.mark.parametrize("collecting", [True, False])
def test_the_figure_is_exact_and_the_collector_is_put_back(collecting: bool) -> None:
    """Neither repetition nor the garbage collector's timing may move the figure."""
    model = nn.Sequential(nn.Unflatten(1, (5, 4)), nn.LSTM(4, 8, batch_first=True))

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)[0][:, -1]
            return out

    (gc.enable if collecting else gc.disable)()
    try:
        figures = {measured(Last(), 20).value for _ in range(3)}
        assert gc.isenabled() == collecting
    finally:
        gc.enable()
    assert len(figures) == 1
