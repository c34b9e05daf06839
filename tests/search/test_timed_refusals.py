"""What can't be timed is told before the first trial, with the metric's name; nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paretopress.evaluators.latency import Latency
from paretopress.search import Task, search
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
