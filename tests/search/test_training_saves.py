"""Training that was interrupted goes on where it was, to the very same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from paretopress.compressors.draft import Checkpoint
from paretopress.search import training_saves
from paretopress.search.examples.digits import splits
from paretopress.search.racing import Heat, Race
from paretopress.search.training_saves import FileSaves
from paretopress.search.trial import Bench, Job, metrics_for
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.site import MODEL
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

STEPS = 12


class Dropped(torch.nn.Module):
    """A network that draws random numbers while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.drop = torch.nn.Dropout(0.3)
        self.last = torch.nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x))).flatten(1)))


@pytest.fixture(scope="module")
def bench() -> Bench:
    """A bench whose training data are shuffled, five batches an epoch."""
    torch.manual_seed(0)
    data = splits()
    train = TensorDataset(*(t[:100] for t in data["train"].tensors))
    check = TensorDataset(*(t[:100] for t in data["validation"].tensors))
    task = Task(
        Dropped().eval(), validation=DataLoader(check, 50), train=DataLoader(train, 20, shuffle=True), name="dropped"
    )
    space = Space.from_task(task, {"magnitude": {}, "integer": {}, "codebook": {}, "distillation": {}})
    return Bench(task, space.sites, metrics_for(task, ["accuracy", "size"]), ())


def recipe() -> Recipe:
    """Return weights in three trainable forms, and their training."""
    first = [Step.of("first", "magnitude", density=0.5), Step.of("first", "codebook", bits=3)]
    training = {"steps": STEPS, "learning_rate": 0.003, "temperature": 2.0, "weight": 0.5}
    last = Step.of("last", "integer", bits=4, granularity="channel")
    return Recipe.of([*first, last, Step.of(MODEL, "distillation", **training)])


@pytest.mark.parametrize("steps", [[1], [5], [7], [11], [3, 4, 9]])
def test_training_ends_with_the_same_model(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    """Bit for bit, wherever it was interrupted and however often: in an epoch, at its end, or just before the last."""
    monkeypatch.setattr(training_saves, "EVERY", 0.0)
    monkeypatch.setattr(training_saves, "SHARE", 0.0)
    job = Job(1, recipe(), 3, race=Race())
    whole = bench.run(job)
    assert whole.result.status == "ok", whole.result.error
    trained: list[int] = []
    watched = Heat.checkpoint

    def dying(self: Heat, point: Checkpoint) -> None:
        if steps and point.done == steps[0] + 1:
            del steps[0]
            raise KeyboardInterrupt
        trained.append(point.done)
        watched(self, point)

    monkeypatch.setattr(Heat, "checkpoint", dying)
    saves = FileSaves(tmp_path, job.recipe.digest)
    while steps:
        with pytest.raises(KeyboardInterrupt):
            bench.run(job, saves=saves)
    resumed = bench.run(job, saves=saves)
    assert trained == list(range(1, STEPS + 1))
    assert resumed.data == whole.data
    assert resumed.result.work == whole.result.work
    assert resumed.result.rungs == whole.result.rungs
    saves.remove()
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_is_none(bench: Bench, tmp_path: Path) -> None:
    """Training then begins anew, rather than fail."""
    job = Job(1, recipe(), 3)
    (tmp_path / f"{job.recipe.digest}.distillation.safetensors").write_bytes(b"oops")
    assert bench.run(job, saves=FileSaves(tmp_path, job.recipe.digest)).data == bench.run(job).data


def test_states_are_saved_rarely(tmp_path: Path) -> None:
    """So that what they take is a small share of the training's time."""
    saves = FileSaves(tmp_path, "abc")
    assert not saves.due()
    saves._next = 0.0
    assert saves.due()
    saves.save("distillation", {"x": torch.ones(3)}, {"n": 1})
    assert not saves.due()
    loaded = saves.load("distillation")
    assert loaded is not None
    assert torch.equal(loaded[0]["x"], torch.ones(3))
    assert loaded[1] == {"n": 1}
