"""What can't be deployed is told before a search, with the layer and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paretopress.search import Task
from paretopress.search.cli import main
from paretopress.search.deploy.doctor import examine


class Moody(nn.Module):
    """A layer whose work depends on what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_small_network_can_be_all_of_it(task: Task) -> None:
    """A plain network is traced, exported and runs on integers; each with figures."""
    found = {f.what: f for f in examine(task)}
    assert [f.verdict for f in found.values()][:2] == ["yes", "yes"]
    integers = found["it runs on 8-bit integers"]
    assert integers.verdict in ("yes", "partly")
    assert integers.details[0].startswith("3 layers; speed beside the original")


def test_layer_that_cannot_be_exported_is_named() -> None:
    """Of a model with one such layer, that layer and torch's reason are told, and nothing else is tried."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Moody(), nn.Linear(4, 2))
    task = Task(model, [(torch.rand(8, 4), torch.randint(0, 2, (8,)))])
    tracing, exporting = examine(task)
    assert tracing.verdict == "no"
    assert "control flow" in tracing.details[0]
    assert exporting.verdict == "no"
    assert exporting.details[1].startswith("1 (Moody): torch can't export the model to ONNX: ")
    assert len(exporting.details) == 2


def test_command_prints_every_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command needs nothing but the file that a search would be started with."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nfrom paretopress.search import Task\n"
        "def task():\n    torch.manual_seed(0)\n"
        "    return Task(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),"
        " [(torch.randn(64, 4), torch.randint(0, 2, (64,)))])\n"
    )
    (tmp_path / "run.yaml").write_text("task: net:task\nobjectives: [accuracy, size]\ntechniques: {integer: {}}\n")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path / "run.yaml")])
    told = capsys.readouterr().out
    assert ended.value.code in (0, None)
    assert "it can be exported to ONNX" in told
    assert "it runs on 8-bit integers" in told
