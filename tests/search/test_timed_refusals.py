"""What can't be timed is told before the first trial, with the metric's name; nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paretopress.evaluators.latency import Latency
from paretopress.search import Space, Task, search
from paretopress.spaces.errors import SettingError

PHONE = Latency(device="./phone.sh {model} {baseline}", name="phone")


class Halting(nn.Module):
    """Can't be exported: what it does depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        while float(x.abs().max()) > 1:
            x = x / 2
        return self.fc(x)


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        (nn.Linear(4, 3), {"metrics": [PHONE]}, "metrics = 'phone': can't be taken of the original model: ./phone.sh"),
        (
            nn.Linear(4, 3),
            {"metrics": [PHONE], "objectives": ["accuracy", "phone"]},
            "metrics = 'phone': can't be taken of the original model: ./phone.sh can't be run",
        ),
        (Halting(), {"objectives": ["accuracy", "latency"]}, "objectives = 'latency': is of the deployed file"),
        (Halting(), {"objectives": ["accuracy", "onnx_size"]}, "Or take: size."),
        (nn.Linear(4, 3), {"objectives": ["accuracy", "latency_b32"]}, "metrics: {latency_b32: {batch: 32}}"),
        (nn.Linear(4, 3), {"constraints": ["latency_b32 <= 0.5x"]}, "metrics=[Latency(batch=32, name='latency_b32')]"),
    ],
)
def test_what_cannot_be_timed_is_told_at_once(
    model: nn.Module, settings: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """A device that doesn't answer, as a column or as an objective, and a model that can't be deployed."""
    task = Task(model, [(torch.randn(30, 4), torch.arange(30) % 3)], name="timed")
    with pytest.raises(SettingError) as refused:
        search(task, run=tmp_path / "run", budget=3, executor="local", progress=False, **settings)
    assert expected in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_exported_has_no_column_of_its_file(tmp_path: Path) -> None:
    """Nobody asked for it: it is left out with one note, not a warning at every point; latency is the model's."""
    task = Task(Halting(), [(torch.randn(30, 4), torch.arange(30) % 3)], name="halting")
    front = search(task, run=tmp_path / "run", budget=2, executor="local", progress=False)
    for point in (front.baseline, *front):
        assert "onnx_size" not in point.final
        assert not any("onnx_size" in flag for flag in point.flags)
        assert point.final["latency"].detail["deployed"] is False
    assert sum("onnx_size could not be measured for any model: torch can't export" in n for n in front.notes) == 1


def test_a_deployed_file_has_its_size_beside_the_models(tmp_path: Path) -> None:
    """Whoever deploys the file must not have to export every point to learn how large it is."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    task = Task(model, [(torch.randn(30, 4), torch.arange(30) % 3)], name="small")
    front = search(task, run=tmp_path / "run", budget=2, executor="local", progress=False)
    for number, point in enumerate((front.baseline, *front)):
        exported = point.export(tmp_path / f"{number}.onnx")
        assert point.final["onnx_size"].value == exported.bytes == (tmp_path / f"{number}.onnx").stat().st_size


def test_the_deployed_files_size_can_be_searched_and_limited(tmp_path: Path) -> None:
    """What a device downloads is what a user of ONNX wants small: as an objective, and within a limit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 3))
    task = Task(model, [(torch.randn(30, 32), torch.arange(30) % 3)], name="small")
    front = search(
        task, Space.from_task(task, {"integer": {"bits": [8, 4]}}), ["accuracy", "onnx_size"],
        constraints=["onnx_size <= 0.5x"], run=tmp_path / "run", budget=4, executor="local", progress=False,
    )  # fmt: skip
    assert front.feasible
    for point in front:
        assert point.final["onnx_size"].value <= 0.5 * front.baseline.final["onnx_size"].value
