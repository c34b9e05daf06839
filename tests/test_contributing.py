"""The worked examples of CONTRIBUTING.md run as they stand, so that they can't go stale."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from paretopress.compressors.base import Compressor, apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.packing import pack_tensor, unpack_tensor
from paretopress.evaluators import base as evaluators
from paretopress.evaluators.base import Subject
from paretopress.spaces import catalogue
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Step
from paretopress.spaces.sites import find_sites
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(marker: str, folder: Path) -> ModuleType:
    """Write the code block behind ``<!-- marker -->`` to a module of its own, and import it."""
    found = re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"CONTRIBUTING.md has no code block marked {marker}"
    path = folder / f"contributed_{marker}.py"
    path.write_text(found[1], encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process's techniques and metrics as they were."""
    monkeypatch.setattr(catalogue.REGISTRY, "members", dict(catalogue.techniques()))
    monkeypatch.setattr(evaluators.REGISTRY, "members", dict(evaluators.evaluators()))
    yield
    for name in ("contributed_technique", "contributed_metric"):
        sys.modules.pop(name, None)


@pytest.fixture
def task() -> Task:
    """A small convolutional classifier and eight images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    batches = [(torch.randn(4, 1, 4, 4), torch.randint(0, 3, (4,))) for _ in range(2)]
    return Task(model, batches)


def compressed(task: Task, site: str, **params: str) -> tuple[Tensor, Draft]:
    """Return the original weight of a layer and the draft after the example technique was applied to it."""
    technique = catalogue.technique("sign")
    assert isinstance(technique, Compressor)
    context = Context(task, {s.name: s for s in find_sites(task.model, task.example)[0]})
    draft = Draft.of(task.model)
    apply_step(technique, draft, Step.of(site, "sign", **params), context)
    return task.model.get_parameter(f"{site}.weight").detach(), draft


@pytest.mark.parametrize("site", ["0", "3"])
def test_technique_example_gives_the_best_binary_weights(task: Task, tmp_path: Path, site: str) -> None:
    """Applied as the search applies it: scaled signs, and no other scale of a channel comes closer."""
    example("technique", tmp_path)
    weight, draft = compressed(task, site, scale="channel")
    binary = draft.parameter(f"{site}.weight").detach()
    assert torch.equal(binary.sign(), torch.where(weight < 0, -1.0, 1.0))
    error = (binary - weight).flatten(1).square().sum(1)
    for factor in (0.95, 1.05):
        assert bool((error <= (binary * factor - weight).flatten(1).square().sum(1)).all())
    _, coarse = compressed(task, site, scale="tensor")
    assert len(coarse.parameter(f"{site}.weight").abs().unique()) == 1
    assert error.sum() <= (coarse.parameter(f"{site}.weight").detach() - weight).square().sum()


def test_technique_example_is_stored_in_one_bit_a_weight(task: Task, tmp_path: Path) -> None:
    """The file's form comes back bit for bit, and takes a bit for each weight and a float for each channel."""
    example("technique", tmp_path)
    _, draft = compressed(task, "3", scale="channel")
    weight = draft.parameter("3.weight").detach()
    spec, parts = pack_tensor(weight, draft.encoding("3.weight"))
    assert torch.equal(unpack_tensor(spec, parts), weight)
    assert sum(part.nbytes for part in parts) == 16 * 3 // 8 + 3 * 4


def test_technique_example_takes_part_in_the_search(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is offered at every layer, excludes masks as it says, and is handed to workers."""
    example("technique", tmp_path)
    space = Space.from_task(task, ["sign", "magnitude"])
    assert {d.site for d in space.decisions if "sign" in [o.technique for o in d.options]} == {"0", "3"}
    stacked = space.decode({"3/mask": "magnitude", "3/numeric": "sign"})
    assert [step.technique for step in stacked.steps] == ["magnitude"]
    monkeypatch.setattr(catalogue.REGISTRY, "loaded", False)  # a script registers before anything asks for techniques
    assert [technique.name for technique in catalogue.REGISTRY.own()] == ["sign"]
    with pytest.raises(SettingError, match=r"sign\.scale = 'row': must be one of"):
        compressed(task, "3", scale="row")


def test_metric_example_measures_agreement(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline agrees with itself everywhere, a model that always answers 2 just where the baseline does."""
    example("metric", tmp_path)
    agreement = evaluators.evaluator("agreement")
    same = agreement.measure(Subject(task.model, task, task.validation))
    assert (same.value, same.repeats) == (1.0, 8)
    assert same.interval is not None
    assert same.interval[0] < 1.0
    other = Draft.of(task.model).model
    with torch.no_grad():
        other.get_parameter("3.bias").copy_(torch.tensor([0.0, 0.0, 1e6]))
    answers = torch.cat([task.model(*args) for args, _ in task.validation]).argmax(1)
    measured = agreement.measure(Subject(other, task, task.validation))
    assert measured.value == float((answers == 2).double().mean())
    assert 0 < measured.value < 1
    monkeypatch.setattr(evaluators.REGISTRY, "loaded", False)  # a script registers before anything asks for metrics
    assert [evaluator.name for evaluator in evaluators.REGISTRY.own()] == ["agreement"]


def test_examples_are_all_of_the_python_in_the_document() -> None:
    """A further code block would be one that nothing runs."""
    assert len(re.findall(r"```python", TEXT)) == len(re.findall(r"<!-- \w+ -->\n```python", TEXT)) == 2
