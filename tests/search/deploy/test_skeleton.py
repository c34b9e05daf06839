"""A structure is exported once, and every model that has it gets its own weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from paretopress.evaluators.onnx_session import Session
from paretopress.search.deploy.folding import folded
from paretopress.search.deploy.onnx_file import to_onnx
from paretopress.search.deploy.skeleton import Exporter

X = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions with and without a batch norm after them, and one used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.twice = nn.Conv2d(width, width, 3, padding=1)
        self.after = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.relu(self.after(self.twice(self.twice(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def net(seed: int, width: int = 6, **constants: float) -> fx.GraphModule:
    """Return a traced network with statistics; ``constants`` fills the tensors of a name with one number."""
    torch.manual_seed(seed)
    model = Net(width).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = torch.randn(width), torch.rand(width) + 0.5
    for name, tensor in model.named_parameters():
        if name.rpartition(".")[2] in constants:
            tensor.data.fill_(constants[name.rpartition(".")[2]])
    return fx.symbolic_trace(model)


def test_batch_norms_are_folded_where_nothing_else_reads() -> None:
    """Outputs stay, the original stays, and a norm after a convolution that runs twice stays too."""
    model = net(0)
    small = folded(model)
    assert torch.allclose(small(X), model(X), atol=1e-5)
    assert [type(m).__name__ for m in small.children()] == ["Conv2d", "Conv2d", "BatchNorm2d", "Linear"]
    assert small.get_parameter("conv.bias") is not None
    assert model.get_submodule("conv").bias is None


def test_other_weights_and_widths_share_the_export() -> None:
    """Three models of one structure: torch's exporter runs once, and each computes what it should."""
    exporter = Exporter(memory={})
    for model in (net(0), net(1), net(2, width=4)):
        session = Session(to_onnx(model, {}, (X[:1],), exporter))
        assert torch.allclose(torch.from_numpy(session(X.numpy())), model(X), atol=1e-4)
    assert exporter.runs == 1


def test_tensors_that_are_equal_by_chance_stay_apart() -> None:
    """Biases that are all zero in the first model and aren't in the second don't become one constant."""
    exporter = Exporter(memory={})
    for model in (net(0, bias=0.0, weight=1.0), net(1)):
        session = Session(to_onnx(model, {}, (X[:1],), exporter))
        assert torch.allclose(torch.from_numpy(session(X.numpy())), model(X), atol=1e-4)
    assert exporter.runs == 1


def test_another_structure_is_exported_anew() -> None:
    """What differs in more than widths and values is no match."""

    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).tanh()

    exporter = Exporter(memory={})
    torch.manual_seed(0)
    for model in (net(0), fx.symbolic_trace(Other(6).eval())):
        session = Session(to_onnx(model, {}, (X[:1],), exporter))
        assert torch.allclose(torch.from_numpy(session(X.numpy())), model(X), atol=1e-4)
    assert exporter.runs == 2


def test_structures_are_remembered_on_disk(tmp_path: Path) -> None:
    """Another process, and the next search, don't export again; a damaged file is exported anew."""
    wanted = to_onnx(net(0), {}, (X[:1],), Exporter(tmp_path, {}))
    again = Exporter(tmp_path, {})
    assert to_onnx(net(0), {}, (X[:1],), again) == wanted
    assert again.runs == 0
    [file] = tmp_path.rglob("*.safetensors")
    assert len(file.read_bytes()) < 16_000
    file.write_bytes(file.read_bytes()[:-100])
    anew = Exporter(tmp_path, {})
    assert to_onnx(net(0), {}, (X[:1],), anew) == wanted
    assert anew.runs == 1
    assert file.stat().st_size > 0


@pytest.mark.parametrize("width", [4, 40])
def test_structure_without_a_skeleton_is_remembered_as_one(tmp_path: Path, width: int) -> None:
    """A constant that the exporter computed from weights, however small, is no other model's: each is exported."""

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(width, width)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.fc.weight.exp().sum(1)

    first, second = Exporter(tmp_path, {}), Exporter(tmp_path, {})
    for seed, exporter in enumerate((first, second)):
        torch.manual_seed(seed)
        model, x = fx.symbolic_trace(Computed().eval()), torch.randn(3, width)
        found = torch.from_numpy(Session(to_onnx(model, {}, (x,), exporter))(x.numpy()))
        assert torch.allclose(found, model(x), rtol=1e-4, atol=1e-4)
    assert (first.runs, second.runs) == (2, 1)


class Cut(nn.Module):
    """Does something to what a convolution gives whose graph may have a number that follows from its channels."""

    def __init__(self, how: str, channels: int) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(1, channels, 3, padding=1), how
        self.head = nn.Linear({"flat": 16 * channels, "rows": 8 * channels, "half": 4, "scaled": 4}[how], 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        if self.how == "flat":
            x = x.flatten(1)
        elif self.how == "rows":
            x = x.reshape(x.shape[0], 2, -1)
        elif self.how == "half":
            x = x[:, : x.shape[1] // 2].mean((1, 2))
        else:
            x = x.mean((1, 2)) / x.shape[1] ** 0.5
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize(("how", "runs"), [("flat", 1), ("rows", 2), ("half", 2), ("scaled", 2)])
def test_what_follows_from_widths_is_right(how: str, runs: int, tmp_path: Path) -> None:
    """A pruned convolution before a flattening: the file takes the new length, from the same export. Where the graph
    holds a number that can't be told from others, with which a file of other widths would load and compute something
    else, these widths are exported for themselves; once on a machine.
    """
    for exporter, expected_runs in ((Exporter(tmp_path, {}), runs), (Exporter(tmp_path, {}), 0)):
        for channels in (8, 2, 2, 8):
            torch.manual_seed(channels)
            model, x = fx.symbolic_trace(Cut(how, channels).eval()), torch.randn(3, 1, 8, 8)
            data = to_onnx(model, {}, (x[:1],), exporter)
            with torch.no_grad():
                expected = model(x).numpy()
            np.testing.assert_allclose(Session(data)(x.numpy()), expected, rtol=1e-4, atol=1e-5)
        assert exporter.runs == expected_runs
