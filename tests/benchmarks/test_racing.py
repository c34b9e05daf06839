"""What the benchmark of racing counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from paretopress.evaluators.base import Measurement
from paretopress.search.result import Result, Status
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.task import Task

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def racing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, imported as Python does when it runs the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("racing")


@pytest.fixture(scope="module")
def task() -> Task:
    """A network that knows the sign of a sum, on 400 images of noise: random recipes ruin it to all degrees."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    x = torch.randn(600, 1, 4, 4)
    y = (x.sum((1, 2, 3)) > 0).long()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    first = list(zip(x[:400].split(50), y[:400].split(50)))
    last = list(zip(x[400:].split(50), y[400:].split(50)))
    return Task(model.eval(), validation=first, train=last, calibration=last[:2], name="sums")


def trial(number: int, accuracy: float, size: float, work: int, status: Status = "ok", trained: int = 0) -> Result:
    """Return a trial that looked at so many examples."""
    measured = {"accuracy": Measurement(accuracy), "size": Measurement(size)}
    recipe = Recipe.of([Step.of("fc", "magnitude", n=number)]) if number else Recipe()
    counted = {"examples": work, "calibrated": 0, "trained": trained}
    return Result(number, recipe, measured, status, work=counted, seconds=1.0)


def test_a_training_example_counts_four_times(racing: ModuleType) -> None:
    """Forward, twice that backward, and the teacher: training is no free evaluation."""
    assert racing.work(trial(1, 0.5, 1.0, 100, trained=30)) == 220


def test_the_same_trials_are_compared_with_racing_and_without(racing: ModuleType, task: Task) -> None:
    """What was stopped rightly saves work and costs nothing; what was stopped wrongly shows as a lost recipe and as
    lost hypervolume.
    """
    track = racing.Track(racing.Run("random", 0, 1, 3, False), task)
    full = [trial(0, 0.9, 100, 400), trial(1, 0.8, 20, 400), trial(2, 0.7, 21, 400), trial(3, 0.6, 10, 400)]
    right = [*full[:2], trial(2, 0.7, 21, 50, "stopped"), full[3]]
    found = track.figures(right, full)
    assert found["saved"] == 1600 / 1250
    assert found["kept"] == 1
    assert (found["wrong"], found["non-dominated"], found["stopped"]) == (0, 3, 1)
    # Known beforehand: the third costs a look at the first slice.
    assert found["could be saved"] == 1600 / (1200 + track.slice)
    wrong = [*full[:3], trial(3, 0.6, 10, 50, "stopped")]
    found = track.figures(wrong, full)
    assert (found["wrong"], found["non-dominated"]) == (1, 3)
    assert found["kept"] == pytest.approx(0.8 * 0.05 / (0.8 * 0.05 + 0.6 * 0.1))


def test_batch_norm_has_its_part_in_what_could_be_saved(racing: ModuleType, task: Task) -> None:
    """It isn't known which statistics a model will have before all were looked at."""
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 2)).eval()
    normed = Task(model, validation=task.validation, train=task.train, calibration=task.calibration, name="normed")
    track = racing.Track(racing.Run("random", 0, 1, 3, False), normed)
    assert track.look == 100 + 3 * 50


def test_work_counts_up_to_the_trial_that_reaches_the_front(racing: ModuleType, task: Task) -> None:
    """A search that is done early gains nothing from the trials it runs after that."""
    track = racing.Track(racing.Run("random", 0, 1, 3, False), task)
    results = [trial(0, 0.9, 100, 400), trial(1, 0.8, 20, 300), trial(2, 0.7, 21, 200)]
    assert track.work_until(results, track.reached(results)) == 700
    assert track.work_until(results, 2.0) == float("inf")


def test_a_run_knows_every_recipe_without_racing(racing: ModuleType, task: Task) -> None:
    """A real search: trials that racing stopped are run to their end, and a search that doesn't listen to results finds
    the same front with racing.
    """
    found = racing.Track(racing.Run("random", 0, 1, 14, True), task).play()
    assert found["trials"] == 14
    assert found["stopped"] > 0
    assert found["wrong"] == 0
    assert found["kept"] == 1
    assert 1 < found["saved"] < found["could be saved"]
    assert found["to the same front"] > 0


def test_a_run_is_recorded_until_the_code_changes(
    racing: ModuleType, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hours of runs go on where they were stopped, and what other code came to is not taken for today's."""
    record = importlib.import_module("record")
    monkeypatch.setattr(racing, "load", lambda: task)
    monkeypatch.setattr(racing, "RECORD", record.Record("racing", tmp_path))
    run = racing.Run("random", 0, 1, 3, False)
    first = racing.play(run)
    monkeypatch.setattr(racing, "Track", None)  # nothing is run any more
    assert racing.play(run) == first
    monkeypatch.setattr(racing, "source", lambda _: "other code")
    with pytest.raises(TypeError):
        racing.play(run)


def test_the_source_is_the_packages_and_the_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A line changed in any package, or in the benchmark, is other code; a document is none."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    record = importlib.import_module("record")
    monkeypatch.setattr(record, "FOLDER", tmp_path / "benchmarks" / "records")
    files = [tmp_path / "benchmarks/mine.py", tmp_path / "search/a.py", tmp_path / "compressors/deep/b.py"]
    for file in (*files, tmp_path / "search/notes.md"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    digests = {record.source(str(files[0]))}
    (tmp_path / "search/notes.md").write_text("2")
    assert record.source(str(files[0])) in digests
    for file in files:
        file.write_text("2")
        digests.add(record.source(str(files[0])))
    assert len(digests) == 1 + len(files)


def test_a_bar_says_why_only_where_it_is_out_of_reach(racing: ModuleType) -> None:
    """A race that could have saved enough has no excuse."""
    run = {"saved": 1.5, "kept": 1.0, "could be saved": 1.8, "wrong": 0, "non-dominated": 5}
    saved, kept, wrong = racing.bars_of("x", [run])
    assert (saved.met, kept.met, wrong.met) == (False, True, True)
    assert "1.80 times" in saved.why
    assert not racing.bars_of("x", [{**run, "could be saved": 3.0}])[0].why
