"""Every runtime times the model that it is given beside the original."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paretopress.evaluators import runtimes
from paretopress.evaluators.base import Subject
from paretopress.evaluators.latency import Latency
from paretopress.search.deploy.onnx_file import to_onnx
from paretopress.spaces.errors import ArtifactError, SettingError
from paretopress.spaces.task import Task


def network(width: int) -> nn.Module:
    """Return three dense layers."""
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    ).eval()


@pytest.fixture(scope="module")
def wide() -> Subject:
    """Give a model sixteen times wider than its original, and the files of both."""
    torch.manual_seed(0)
    model = network(1024)
    task = Task(network(64), [(torch.randn(4, 64), torch.zeros(4, dtype=torch.long))])
    files = [to_onnx(m, {}, task.example) for m in (model, task.model)]
    return Subject(model, task, task.validation, deploy=lambda: files[0], deploy_baseline=lambda: files[1])


@pytest.mark.parametrize(
    ("runtime", "label"),
    [
        ("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO"), ("torch", "torch eager"),
        ("compiled", "torch compiled"),
    ],
)  # fmt: skip
def test_more_work_takes_longer_in_every_runtime(wide: Subject, runtime: str, label: str) -> None:
    """The candidate is the candidate, the baseline the baseline, and the figure says where it comes from."""
    metric = Latency(8, 0.2, runtime=runtime)
    found = metric.measure(wide)
    assert found.value > 1.2  # by how much depends on what a call costs on the machine
    assert found.detail["runtime"] == label
    assert metric.conditions == f"{label}, batch 8, 1 thread"
    assert metric.deployed == found.detail["deployed"] == (runtime in ("onnxruntime", "openvino"))


def test_several_threads_are_timed_by_the_clock_on_the_wall(wide: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor time would count every thread's, and call two threads as slow as one."""
    monkeypatch.setattr("time.process_time", lambda: pytest.fail("processor time"))
    found = Latency(seconds=0.1, threads=2, runtime="torch").measure(wide)
    assert found.detail["threads"] == 2


def test_without_a_file_there_is_no_figure(wide: Subject) -> None:
    """A model that nobody can deploy isn't timed as something else."""
    with pytest.raises(ArtifactError, match="no ONNX file"):
        Latency().measure(Subject(wide.model, wide.task, wide.split))


def test_unknown_and_missing_runtimes_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before hours of trials, with what to do."""
    with pytest.raises(SettingError, match=r"runtime = 'onnx_runtime'.*Did you mean 'onnxruntime'"):
        Latency(runtime="onnx_runtime")
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"needs the package openvino.*pip install 'paretopress\[openvino\]'"):
        Latency(runtime="openvino")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"batch": 0}, "batch = 0"), ({"batch": True}, "batch = True"), ({"threads": 1.5}, "threads = 1.5"),
        ({"seconds": float("inf")}, "seconds = inf"), ({"name": "on my phone"}, "letters, digits and _"),
        ({"device": 3}, "a command line or a function"),
    ],
)  # fmt: skip
def test_wrong_settings_name_themselves(settings: dict[str, object], expected: str) -> None:
    """What can't be measured is refused with the setting, the value and the rule."""
    with pytest.raises(SettingError, match=expected):
        Latency(**settings)  # type: ignore[arg-type] # wrong on purpose
