"""A structure is exported once, and every model that has it gets its own weights."""

from __future__ import annotations

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
    exporter = Exporter()
    for model in (net(0), net(1), net(2, width=4)):
        session = Session(to_onnx(model, {}, (X[:1],), exporter))
        assert torch.allclose(torch.from_numpy(session(X.numpy())), model(X), atol=1e-4)
    assert exporter.runs == 1


def test_tensors_that_are_equal_by_chance_stay_apart() -> None:
    """Biases that are all zero in the first model and aren't in the second don't become one constant."""
    exporter = Exporter()
    for model in (net(0, bias=0.0, weight=1.0), net(1)):
        session = Session(to_onnx(model, {}, (X[:1],), exporter))
        assert torch.allclose(torch.from_numpy(session(X.numpy())), model(X), atol=1e-4)
    assert exporter.runs == 1


def test_another_structure_is_exported_anew() -> None:
    """What differs in more than widths and values is no match."""

    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).tanh()

    exporter = Exporter()
    torch.manual_seed(0)
    for model in (net(0), fx.symbolic_trace(Other(6).eval())):
        session = Session(to_onnx(model, {}, (X[:1],), exporter))
        assert torch.allclose(torch.from_numpy(session(X.numpy())), model(X), atol=1e-4)
    assert exporter.runs == 2
