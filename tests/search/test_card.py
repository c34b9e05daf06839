"""The card beside each model says what the run found, and what it shows works."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from torch import Tensor, nn

from paretopress.evaluators.base import Measurement
from paretopress.search import Front, Recipe, Space, Task, search
from paretopress.search.artifact import FILE
from paretopress.search.card import CARD, card
from paretopress.search.front import Point
from paretopress.search.result import Objective, Result
from paretopress.search.trial import Bench, metrics_for
from paretopress.spaces.recipe import Step

GOALS = (Objective("accuracy", "maximize", True), Objective("size", "minimize"))
READER = MarkdownIt("commonmark").enable("table")


def tables(markdown: str) -> list[list[list[str]]]:
    """Return what a reader sees of every table: rows of cells."""
    found: list[list[list[str]]] = []
    inside = False
    for token in READER.parse(markdown):
        inside = {"table_open": True, "table_close": False}.get(token.type, inside)
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif inside and token.type == "inline":
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found


def bench_of(task: Task) -> Bench:
    """Return a bench with the default metrics."""
    return Bench(task, Space.from_task(task).sites, metrics_for(task, ["accuracy", "size", "macs"]), GOALS)


@pytest.fixture(scope="module")
def front(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Front:
    """The front of a small run that was resumed once."""
    space = Space.from_task(task, {"integer": {"bits": [8, 3]}, "int8": {"bits": [6]}, "entropy": {}})
    folder = tmp_path_factory.mktemp("card") / "run"
    options = {"executor": "local", "run": folder, "progress": False}
    search(task, space, ["accuracy", "size"], budget=2, **options)
    return search(task, space, ["accuracy", "size"], budget=4, existing="resume", **options)


def test_every_model_has_a_card_with_its_figures(front: Front) -> None:
    """After a resumed run, too: the figures of ``front.json`` with units and intervals, recipe and checksum."""
    assert len(front) >= 2
    for point in (front.baseline, *front):
        assert point.path is not None
        text, data = (point.path / CARD).read_text(encoding="utf-8"), (point.path / FILE).read_bytes()
        figures, *others = tables(text)
        rows = {row[0]: row for row in figures}
        accuracy, size = point.final["accuracy"], point.final["size"]
        low, high = accuracy.interval or (0, 0)
        assert rows["accuracy"][1] == f"{100 * accuracy.value:.2f} %"
        assert rows["accuracy"][2] == f"{100 * low:.1f}–{100 * high:.1f} %"
        assert rows["accuracy"][-1] == "200 test examples"
        assert rows["accuracy, in the search"][1] == f"{100 * point.result.value('accuracy'):.2f} %"
        assert rows["size"][1].startswith(f"{size.value:,.0f} bytes")
        assert "batch 1, threads 1, runtime" in text
        assert hashlib.sha256(data).hexdigest() in text
        assert all(f"**Warning:** {flag}." in text for flag in point.flags)
        assert point.recipe.digest in text
        if point.recipe.is_baseline:
            assert len(others) == 1
            continue
        [recipe, _] = others
        assert {tuple(row) for row in recipe[1:]} == {
            (s.site, s.technique, ", ".join(f"{k}={v}" for k, v in s.params)) for s in point.recipe.steps
        }
        smaller = front.baseline.final["size"].value / size.value
        assert f"**{smaller:.2f}× smaller as a file" in text


def test_hubs_can_read_what_it_is(front: Front) -> None:
    """The front matter is YAML with the library and the techniques that were really used, and nothing unknown."""
    for point in (front.baseline, *front):
        assert point.path is not None
        _, matter, _ = (point.path / CARD).read_text(encoding="utf-8").split("---\n", 2)
        data = yaml.safe_load(matter)
        assert data.keys() == {"library_name", "tags"}
        assert data["library_name"] == "paretopress"
        assert {s.technique for s in point.recipe.steps} == set(data["tags"]) - {
            "paretopress", "pytorch", "model-compression",
        }  # fmt: skip


def test_code_of_a_card_runs_in_its_folder(front: Front) -> None:
    """What the card shows to load and export the model works in a process of its own, as it stands."""
    point = front[len(front) - 1]
    assert point.path is not None
    blocks = re.findall(r"```python\n(.*?)```", (point.path / CARD).read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    code = "\n".join([*blocks, "print(tuple(outputs.shape))"])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=point.path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 10)"
    (point.path / "model.onnx").unlink()


def test_a_fresh_run_leaves_no_old_card(task: Task, tmp_path: Path) -> None:
    """Cards belong to the run: starting over takes them away with the models that they are about."""
    options = {"executor": "local", "run": tmp_path, "progress": False, "sampler": "random"}
    search(task, Space.by_hand(task, {"fc": {"integer": {"bits": [8]}}}), budget=3, **options)
    front = search(task, Space.by_hand(task, {"fc": {"svd": {}}}), budget=2, existing="fresh", **options)
    cards = {path.parent.name for path in tmp_path.rglob(CARD)}
    assert cards == {"baseline", *(str(point.id) for point in front)}
    assert all("svd" in (p.path / CARD).read_text(encoding="utf-8") for p in front if p.path is not None)


def drawn(bench: Bench, steps: list[Step], flags: tuple[str, ...] = (), needs: str = "") -> tuple[Point, Point, bytes]:
    """Return a point with figures, the original, and the file of the original."""
    bench.needs_class = needs
    data = bench.compress(Recipe(), 0)[0].data
    searched = {"accuracy": Measurement(0.9, "", (0.8, 0.95), 40), "size": Measurement(5000.0, "B")}
    final = {**searched, "f_1": Measurement(0.5, "a|b", None, 7, {"odd|key": {"x`y": [True, 2.5]}})}
    base = Point(-1, Result(0, Recipe(), searched), final)
    return Point(3, Result(9, Recipe.of(steps), searched), final, None, flags), base, data


def test_strange_names_keep_the_card_in_shape(task: Task) -> None:
    """A layer's name, a unit, a condition or an error's text with pipes, backticks and tags stays text."""
    bench = bench_of(task)
    names = ["a|b", "c`d", "<script>", "_e_", "back\\slash|x", "<model>"]
    bench.sites |= dict.fromkeys(names, bench.sites["fc"])
    steps = [Step.of(name, "integer", bits=4) for name in names]
    point, base, data = drawn(bench, steps, ("f`1 fails: <b>|no|</b>\nsecond line",))
    text = card(point, base, 8, bench, "test", data)
    figures, recipe, _ = tables(text)
    assert len({len(row) for row in figures}) == 1
    assert [row[0] for row in recipe[1:]] == ["<model>", *names[:-1]]
    assert [row[1:] for row in recipe[1:]] == [["integer", "bits=4"]] * len(names)
    seen = "\n".join("".join(c.content for c in t.children or ()) for t in READER.parse(text) if t.type == "inline")
    assert "Warning: f`1 fails: <b>|no|</b> second line." in seen
    assert "f 1: odd|key (x`y (yes, 2.5))" in seen
    assert not any(t.type.startswith("html") for t in READER.parse(text))


def test_a_figure_of_the_search_is_not_passed_off_as_a_final_one(task: Task) -> None:
    """Where quality could not be measured at the end, or there is no test split, the card says validation."""
    bench = bench_of(task)
    point, base, data = drawn(bench, [Step.of("fc", "integer", bits=4)])
    [figures, *_] = tables(card(point, base, 8, bench, "test", data))
    assert next(row for row in figures if row[0] == "accuracy")[-1] == "40 validation examples"
    untested = bench_of(Task(task.model, task.validation.source))
    text = card(point, base, 8, untested, "validation", data)
    assert "**The accuracy above is optimistic.** The task has no test split" in text
    assert "test data" not in text


class Branching(nn.Module):
    """Its control flow depends on the data: it can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 1e9 else self.fc(x)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("my_module:make", "from my_module import make\n\noriginal = make().model"),
        (None, "original = ...  # the uncompressed model"),
        ("odd name'; import os:f", "original = ...  # the uncompressed model"),
    ],
)
def test_a_model_that_needs_its_class_says_so(source: str | None, shown: str) -> None:
    """The code takes the original from the task where that has a name that is safe to write into code."""
    torch.manual_seed(0)
    batch = (torch.randn(8, 4), torch.randint(0, 3, (8,)))
    bench = bench_of(Task(Branching(), [batch], source=source))
    point, base, data = drawn(bench, [Step.of("fc", "integer", bits=4)], (), bench.needs_class)
    text = card(point, base, 8, bench, "validation", data)
    assert "**It needs the original model**: its forward pass can't be traced" in text
    assert shown in text
    assert f'load("{FILE}", model=original)' in text
    assert 'export("model.safetensors", "model.onnx", model=original)' in text
