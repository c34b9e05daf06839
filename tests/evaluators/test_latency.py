"""Latency: what can be said of a timer without trusting a busy machine's clock."""

import copy
import gc
import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretopress.evaluators import pairing as module
from paretopress.evaluators.base import Subject
from paretopress.evaluators.latency import Latency
from paretopress.evaluators.pairing import median_interval
from paretopress.spaces.errors import SettingError
from paretopress.spaces.pulse import beats
from paretopress.spaces.task import Task


def task_of(model: nn.Module) -> Task:
    """Return a task for a model with 64 inputs."""
    return Task(model, [(torch.randn(4, 64), torch.zeros(4, dtype=torch.long))])


def network(width: int) -> nn.Module:
    """Return three dense layers."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


def test_a_model_eight_times_wider_is_slower_than_its_baseline() -> None:
    """The ratio must point the right way, by far more than noise can be."""
    task = task_of(network(128))
    measured = Latency(runtime="torch", seconds=0.2).measure(Subject(network(2048).eval(), task, task.validation))
    assert measured.value > 3
    assert measured.interval is not None
    assert measured.interval[0] <= measured.value <= measured.interval[1]
    assert measured.detail["milliseconds"] > measured.detail["baseline_milliseconds"]
    assert measured.repeats >= module.FEWEST


def test_a_model_is_as_fast_as_itself() -> None:
    """The two sides must be measured alike: no side may carry the warm-up or the other's garbage."""
    task = task_of(network(256))
    measured = Latency(runtime="torch", seconds=0.3).measure(Subject(copy.deepcopy(task.model), task, task.validation))
    assert measured.value == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("batch", [1, 6])
def test_both_models_run_at_the_batch_and_in_turns(batch: int) -> None:
    """A paired figure needs the same input for both, and neighbours in time."""
    log: list[tuple[str, int]] = []

    class Noting(nn.Module):
        def __init__(self, label: str) -> None:
            super().__init__()
            self.label, self.body = label, network(64)

        def forward(self, x: Tensor) -> Tensor:
            log.append((self.label, len(x)))
            out: Tensor = self.body(x)
            return out

    task = task_of(Noting("baseline"))
    log.clear()
    evaluator = Latency(batch, seconds=0.1, runtime="torch")
    measured = evaluator.measure(Subject(Noting("candidate").eval(), task, task.validation))
    assert {n for _, n in log} == {batch}
    assert measured.detail["batch"] == batch
    turns = [label for n, (label, _) in enumerate(log) if n == 0 or log[n - 1][0] != label]
    assert len(turns) > measured.repeats  # they alternate; two samples in a row only where the order turns
    assert evaluator.name == ("latency" if batch == 1 else "latency_batch6")


def test_threads_and_collector_are_put_back_even_after_an_error() -> None:
    """One measurement must not leave training on one thread."""

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError(f"threads {torch.get_num_threads()}")

    task = task_of(network(8))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="threads 1"):
            Latency(runtime="torch").measure(Subject(Failing(), task, task.validation))
        assert torch.get_num_threads() == 2
        assert gc.isenabled()
    finally:
        torch.set_num_threads(before)


def test_only_one_measures_at_a_time() -> None:
    """Two candidates that are timed beside each other would slow each other down."""
    entered = threading.Event()

    def second() -> None:
        with module.alone():
            entered.set()

    with module.alone():
        other = threading.Thread(target=second)
        other.start()
        assert not entered.wait(0.2)
    assert entered.wait(20)
    other.join()


def test_the_interval_of_the_median_covers_it_about_95_times_in_100() -> None:
    """An interval called 95 % must hold the true median that often, for the skewed noise that timers have."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        low, high = median_interval(list(rng.lognormal(0.0, 0.3, 40)))[1:]
        hits += low <= 1.0 <= high
    assert 0.90 < hits / 300 < 0.99


def test_an_outlier_doesnt_move_the_figure() -> None:
    """Another program that takes the processor for a moment must not decide a trial."""
    quiet = [0.5 + 0.001 * n for n in range(21)]
    assert median_interval([*quiet[:-1], 50.0])[0] == median_interval(quiet)[0]


def test_a_noisy_figure_gets_more_time_and_then_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide interval must be visible instead of passing as a measurement."""
    clock = {"now": 0.0}
    steps = np.random.default_rng(0).lognormal(-5.0, 0.8, 100_000).tolist()

    def unsteady() -> float:
        clock["now"] += steps.pop()
        return clock["now"]

    monkeypatch.setattr(time, "process_time", unsteady)
    task = task_of(network(8))
    measured = Latency(runtime="torch", seconds=0.5).measure(Subject(task.model, task, task.validation))
    assert measured.detail["noisy"] is True
    seconds_of_a_pair = 2 * math.exp(-5.0 + 0.8**2 / 2)
    assert measured.repeats * seconds_of_a_pair > 0.8 * module.PATIENCE * 0.5


def test_wrong_settings_name_themselves() -> None:
    """A batch or a time that can't be measured is refused at once."""
    with pytest.raises(SettingError, match="batch = 0"):
        Latency(0)
    with pytest.raises(SettingError, match="seconds = 0"):
        Latency(seconds=0)


def test_waiting_for_a_turn_is_no_sign_of_being_stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine of many workers the wait may be long: it counts steps, or a healthy trial would be given up."""
    monkeypatch.setattr(module, "WAIT", 0.05)
    monkeypatch.setattr(module, "_SHARED", tmp_path)
    with module.alone():
        before, waiting = beats(), threading.Event()

        def wait() -> None:
            waiting.set()
            with module.alone():
                pass

        other = threading.Thread(target=wait)
        other.start()
        waiting.wait()
        while beats() < before + 3:  # else this test times out
            time.sleep(0.01)
    other.join()
