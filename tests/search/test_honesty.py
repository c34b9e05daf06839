"""What must never silently differ: the model in the file, a repeated trial, a figure that could not be taken."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.data import DataLoader, TensorDataset

from paretopress.compressors.draft import Draft
from paretopress.evaluators.base import Measurement
from paretopress.search import Front, Metric, Space, Task, search
from paretopress.search.artifact import FILE, loads
from paretopress.search.examples.digits import splits
from paretopress.search.pareto import scaled_hypervolume
from paretopress.search.result import Objective, Result
from paretopress.search.saving import dumps
from paretopress.search.trial import Bench, Job, metrics_for
from paretopress.spaces.errors import DataError, ModelError, RunError
from paretopress.spaces.plain import plain
from paretopress.spaces.recipe import Recipe

GOALS = (Objective("accuracy", "maximize", True), Objective("size", "minimize"))


def bench_of(task: Task) -> Bench:
    """Return a bench with the default metrics."""
    space = Space.from_task(task)
    return Bench(task, space.sites, metrics_for(task, ["accuracy", "size", "macs"]), GOALS)


class InPlace(nn.Module):
    """Changes its activations in place, in ways whose results nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h.clamp_(-0.2, 0.2)
        F.relu_(h)
        return self.b(h)


def test_statements_in_place_are_in_the_file() -> None:
    """An operation that only changes its operand is part of the saved model."""
    model = InPlace().eval()
    loaded = loads(dumps(Draft.of(model), model, Recipe()).data)
    x = torch.randn(50, 6) * 10
    assert torch.equal(loaded(x), model(x))


class HalfInside(nn.Module):
    """Computes in bfloat16 by a context manager, which a trace doesn't see."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.fc(x)
        return y.float()


def test_a_trace_that_changes_outputs_is_not_used() -> None:
    """If tracing loses something, files say that they need the class, and hold the right model with it."""
    torch.manual_seed(0)
    model = HalfInside().eval()
    x = torch.randn(16, 4)
    bench = bench_of(Task(model, validation=[(x, torch.randint(0, 3, (16,)))]))
    finished = bench.run(Job(0, Recipe()))
    assert "changes the outputs" in bench.needs_class
    assert finished.result.status == "ok", finished.result.error
    assert finished.data is not None
    with torch.no_grad():
        assert torch.equal(loads(finished.data, model)(x), model(x))


def test_a_repeated_trial_is_the_same_file(model: nn.Module) -> None:
    """Whatever was drawn before, a recipe and seed give the same bytes: loaders that shuffle and augment included."""

    def augmented(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images = torch.stack([x for x, _ in batch])
        return images + 0.1 * random.random(), torch.stack([y for _, y in batch])

    data = splits()

    def trial(noise: int) -> bytes | None:
        torch.manual_seed(noise)
        random.seed(noise)
        validation = DataLoader(TensorDataset(*(t[:100] for t in data["validation"].tensors)), batch_size=50)
        train = DataLoader(data["train"], batch_size=50, shuffle=True, collate_fn=augmented)
        task = Task(model, validation, train=train)
        space = Space.from_task(task, {"integer": {"bits": [3]}, "distillation": {"steps": [5]}})
        bench = Bench(task, space.sites, metrics_for(task, ["accuracy", "size"]), GOALS)
        return bench.run(Job(0, space.uniform(1.0), seed=7)).data

    first = trial(1)
    assert first is not None
    assert first == trial(2)


def test_the_answer_to_a_constraint_keeps_its_measured_file(task: Task, space: Space, tmp_path: Path) -> None:
    """With limits, the files of the front are those that were measured, not made again at the end."""
    front = search(
        task, space, budget=12, executor="local", run=tmp_path / "r", progress=False, constraints=["size <= 0.2x"]
    )
    assert front.points
    for point in front:
        assert (tmp_path / "r/models" / f"{point.recipe.digest}.safetensors").is_file()
        assert not any("made again" in flag for flag in point.flags)


def test_a_model_that_is_made_again_differently_says_so(task: Task, space: Space, tmp_path: Path) -> None:
    """If the file is lost and the trial can't be repeated bit for bit, new figures count and the point is flagged."""
    folder = tmp_path / "r"
    front = search(task, space, budget=6, executor="local", run=folder, progress=False)
    journal = folder / "journal.jsonl"
    lost = front[0]
    (folder / "models" / f"{lost.recipe.digest}.safetensors").unlink()
    journal.write_text(journal.read_text().replace(lost.result.checksum, "0" * 16))
    again = search(task, space, budget=7, executor="local", run=folder, progress=False, existing="resume")
    flagged = [p for p in again if any("made again" in flag for flag in p.flags)]
    assert [p.recipe for p in flagged] == [lost.recipe]
    assert flagged[0].path is not None
    assert (flagged[0].path / FILE).stat().st_size == flagged[0].final["size"].value


def test_a_metric_that_fails_on_test_does_not_lose_the_front(model: nn.Module, tmp_path: Path) -> None:
    """A metric that breaks on the test split leaves the search's figure and a warning, and a whole front."""
    data = splits()
    marker = data["test"].tensors[1][:60]

    def picky(outputs: Tensor, targets: Tensor) -> float:
        if len(targets) == 60 and torch.equal(targets, marker):
            raise ValueError("class 3 was never predicted")
        return float((outputs.argmax(1) == targets).float().mean())

    def part(name: str, count: int) -> list[tuple[Tensor, Tensor]]:
        images, labels = (t[:count] for t in data[name].tensors)
        return [(images[i : i + 30], labels[i : i + 30]) for i in range(0, count, 30)]

    task = Task(model, part("validation", 90), part("test", 60), metric=Metric("picky", picky))
    space = Space.from_task(task, {"integer": {"bits": [8, 4]}})
    front = search(task, space, ["picky", "size"], budget=4, executor="local", run=tmp_path / "r", progress=False)
    assert front.points
    for point in front:
        assert any("class 3 was never predicted" in flag for flag in point.flags)
        assert point.final["picky"] == point.result.measurements["picky"]


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_parametrised_weights_become_plain_ones(norm: object) -> None:
    """Weight norm and spectral norm are computed once: same outputs, and the layers can be compressed."""
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(20, 16)), nn.ReLU(), norm(nn.Linear(16, 5))).eval()  # type: ignore[operator]  # a function
    x = torch.randn(8, 20)
    task = Task(model, validation=[(x, torch.randint(0, 5, (8,)))])
    assert torch.allclose(task.model(x), model(x), atol=1e-6)
    bench = bench_of(task)
    space = Space.from_task(task)
    rng = random.Random(0)
    for number in range(8):
        result = bench.run(Job(number, space.sample(rng))).result
        assert result.status == "ok", result.error


def test_attention_that_would_change_stays_as_it_is() -> None:
    """An encoder whose padded positions matter keeps torch's own attention rather than other outputs."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
            self.embed = nn.Embedding(9, 16)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.encoder(self.embed(tokens), src_key_padding_mask=tokens == 0).mean(1)

    torch.manual_seed(0)
    model = Padded().eval()
    tokens = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        assert torch.equal(plain(copy.deepcopy(model), (tokens,))(tokens), model(tokens))


def test_other_precisions_are_refused_with_advice() -> None:
    """A double or half precision model is told what to do, instead of failing in every trial."""
    for kind in (torch.float64, torch.bfloat16):
        data = [(torch.randn(4, 3, dtype=kind), torch.randint(0, 2, (4,)))]
        with pytest.raises(ModelError, match=r"model\.float\(\)"):
            Task(nn.Linear(3, 2).to(kind), validation=data)


def test_loss_like_quality_counts_in_the_hypervolume() -> None:
    """A perplexity that rises by half of what counts is worth half as much as one that doesn't, never more than all."""
    goals = (Objective("perplexity", "minimize", True), Objective("size", "minimize"))

    def result(perplexity: float, size: float) -> Result:
        return Result(0, Recipe(), {"perplexity": Measurement(perplexity), "size": Measurement(size)})

    base = result(5.0, 1000)
    assert scaled_hypervolume([result(5.25, 100)], goals, base) == pytest.approx(0.5 * (1.0 / 1.1))
    assert scaled_hypervolume([result(5.5, 100)], goals, base) == 0
    assert scaled_hypervolume([result(4.0, 0.001)], goals, base) <= 1.0


def test_two_drivers_never_share_a_folder_even_when_starting_over(task: Task, space: Space, tmp_path: Path) -> None:
    """Starting fresh where a search runs is refused before anything is deleted."""

    def run(**options: object) -> Front:
        return search(task, space, budget=2, executor="local", run=tmp_path / "r", progress=False, **options)  # type: ignore[arg-type]  # by name

    run()
    before = (tmp_path / "r/journal.jsonl").read_bytes()
    with FileLock(tmp_path / "r/.lock"), pytest.raises(RunError, match="another process"):
        run(existing="fresh")
    assert (tmp_path / "r/journal.jsonl").read_bytes() == before


def test_faults_of_test_data_are_known_before_the_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Test data is needed at the end: what can't be read there ends the run at its start, and NaN is told."""
    torch.manual_seed(0)
    good, late = (torch.randn(20, 6), torch.randint(0, 3, (20,))), (torch.full((20, 6), float("nan")), torch.zeros(20))

    def breaking() -> Iterator[tuple[Tensor, Tensor]]:
        yield good
        raise OSError("no such image")

    settings: dict[str, Any] = {"budget": 2, "executor": "local", "sampler": "random"}
    task = Task(InPlace(), validation=[good], test=breaking, name="breaking")
    with pytest.raises(DataError, match="test data: batch 2 can't be read \\(OSError: no such image\\)"):
        search(task, Space.from_task(task, "quantize"), run=tmp_path / "a", **settings)
    assert not (tmp_path / "a" / "journal.jsonl").exists()
    task = Task(InPlace(), validation=[good], test=[good, (late[0], late[1].long())], name="late")
    search(task, Space.from_task(task, "quantize"), run=tmp_path / "b", **settings)
    assert "test data: the input of batch 2 holds NaN" in " ".join(capsys.readouterr().err.split())


def test_test_data_that_was_looked_at_does_not_travel(tmp_path: Path) -> None:
    """Workers get the task as it was given: test data is read once before the trials, and not kept for that."""
    torch.manual_seed(0)
    good = (torch.randn(20, 6), torch.randint(0, 3, (20,)))
    task = Task(InPlace(), validation=[good], test=[good, good], name="plain")
    given, at_start = len(pickle.dumps(task.test)), list[int]()
    search(
        task, Space.from_task(task, "quantize"), run=tmp_path / "r", budget=2, executor="local", sampler="random",
        prepared=lambda: at_start.append(len(pickle.dumps(task.test))), progress=False,
    )  # fmt: skip
    assert at_start == [given]
