"""Weights in a deployed file are the ones that were measured: no runtime puts them on a grid of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.activations import RoundedActivation
from paretopress.compressors.draft import Draft
from paretopress.search import Recipe, Space, Step, Task
from paretopress.search.deploy.onnx_file import to_onnx
from paretopress.search.result import Objective
from paretopress.search.trial import Bench, metrics_for


class Chain(nn.Module):
    """Three convolutions in a row, the first one with a batch norm, and a head."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.between = nn.Conv2d(16, 16, 3, padding=1, bias=bias)
        self.last, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.between(F.relu(self.norm(self.first(x)))))
        out: Tensor = self.head(F.relu(self.last(x)).mean((2, 3)))
        return out


def compressed(model: nn.Module, x: Tensor, *steps: Step) -> Draft:
    """Return a model's draft after some steps."""
    task = Task(model, [(x, torch.arange(len(x)) % 4)])
    goals = (Objective("accuracy", "maximize", True), Objective("size", "minimize"))
    bench = Bench(task, Space.from_task(task).sites, metrics_for(task, ["accuracy", "size"]), goals)
    return bench.compress(Recipe.of(steps), 0)[1]


def compared(draft: Draft, x: Tensor, folder: Path) -> tuple[float, Counter[str]]:
    """Return the largest difference of the runtime's outputs as a share of the largest output, and its nodes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    data = to_onnx(draft.model, draft.encodings, (x[:1],))
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = draft.model(x)
    theirs = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    nodes = Counter(node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node)
    return float((ours - theirs).abs().max() / ours.abs().max()), nodes


@pytest.mark.parametrize("bits", [5, 2])
def test_small_integer_layers_keep_their_own_grid(bits: int, tmp_path: Path) -> None:
    """A layer of a few weights is stored as integers too: a runtime would round floats, all channels alike."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4))
    x = torch.randn(64, 6)
    draft = compressed(model, x, *(Step.of(str(layer), "int8", bits=bits) for layer in (0, 2, 4)))
    difference, nodes = compared(draft, x, tmp_path)
    assert nodes["QGemm"] == 3
    assert difference < 0.02


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("steps", [(), (Step.of("between", "codebook", bits=6),)], ids=["untouched", "codebook"])
def test_a_layer_between_integer_ones_stays_in_fp32(steps: tuple[Step, ...], bias: bool, tmp_path: Path) -> None:
    """Its weights were measured as they are, so they aren't rounded to 8 bits because its neighbours are."""
    torch.manual_seed(0)
    x = torch.randn(32, 3, 8, 8)
    ends = (Step.of(layer, "int8", bits=6) for layer in ("first", "last"))
    draft = compressed(Chain(bias), x, *ends, *steps)
    difference, nodes = compared(draft, x, tmp_path)
    assert nodes["QLinearConv"] == 2
    assert nodes["Conv"] == 1
    assert difference < 1e-3


def test_linear_layers_beside_an_integer_one_stay_in_fp32(tmp_path: Path) -> None:
    """Two layers that read the same rounded tensor: only the one that was asked to runs on integers."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.one(x)) + self.head(self.other(x))
            return out

    torch.manual_seed(0)
    x = torch.randn(64, 16)
    draft = compressed(Beside(), x, Step.of("one", "int8", bits=6), Step.of("head", "int8", bits=6))
    difference, nodes = compared(draft, x, tmp_path)
    assert nodes["Gemm"] == 1
    assert nodes["QGemm"] == 3
    assert difference < 0.01


@pytest.mark.parametrize("weight", [1e-6, 1e-20, 0.0])
def test_a_channel_that_gives_only_its_bias_keeps_it(weight: float, tmp_path: Path) -> None:
    """In units of a batch norm that training has switched off, the bias would need more than 32 bits."""
    torch.manual_seed(0)
    model = Chain()
    model.norm.bias.data.uniform_(-1, 1)
    model.norm.weight.data[::2] = weight
    x = torch.randn(32, 3, 8, 8)
    draft = compressed(model, x, *(Step.of(layer, "int8", bits=6) for layer in ("first", "between", "last", "head")))
    difference, nodes = compared(draft, x, tmp_path)
    assert nodes["QLinearConv"] == 3
    assert difference < 0.02


def test_the_bias_of_a_channel_without_weights_is_exact(tmp_path: Path) -> None:
    """Where all weights of a layer are pruned, its output is its bias, to the last digits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    model[2].weight.data.zero_()
    x = torch.randn(8, 6)
    draft = compressed(model, x, Step.of("0", "int8", bits=4), Step.of("2", "int8", bits=2))
    assert sum(isinstance(module, RoundedActivation) for module in draft.model.modules()) == 2
    difference, _ = compared(draft, x, tmp_path)
    assert difference < 1e-5


def test_factors_of_rank_one_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Any column is a multiple of any other in each channel: only the constant of the same numbers is the weight."""

    class Thin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.column, self.row, self.third = nn.Linear(1, 8), nn.Linear(8, 1, bias=False), nn.Linear(1, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.third(self.row(self.column(x))).mean(1)
            return out

    torch.manual_seed(0)
    x = torch.randn(16, 5, 1)
    draft = compressed(Thin(), x, *(Step.of(layer, "int8", bits=6) for layer in ("column", "row", "third")))
    difference, _ = compared(draft, x, tmp_path)
    assert difference < 0.02
