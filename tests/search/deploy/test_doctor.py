"""What can't be deployed is told before a search, with the layer and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paretopress.search import Task
from paretopress.search.cli import main
from paretopress.search.deploy.doctor import examine
from paretopress.search.trial import metrics_for


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
    assert integers.details[0].startswith("3 layers; latency as a multiple of the original")


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


def test_objectives_that_cannot_be_measured_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    """A search for the latency of a file that there can't be would be refused: that is said, with what to do instead,
    the line that is in the way is named, and what torch prints of its graphs isn't shown.
    """
    torch.manual_seed(0)
    task = Task(Moody(), [(torch.rand(8, 4), torch.randint(0, 2, (8,)))])
    *_, exporting, refused = examine(task, metrics_for(task, ["accuracy", "size", "latency"]))
    assert exporting.details[0].endswith("line 21: return x * 2 if x.sum() > 0 else x)")
    assert refused.what == "it can be searched for latency"
    assert refused.verdict == "no"
    assert "metrics: {latency: {runtime: torch}}" in refused.details[0]
    assert capfd.readouterr() == ("", "")


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
