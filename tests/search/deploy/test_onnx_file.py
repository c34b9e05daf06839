"""Deployed files compute what the searched model computes, are as small as its own, and run on integer kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.draft import Draft
from paretopress.search import Recipe, Space, Task
from paretopress.search.deploy.onnx_file import _short, to_onnx
from paretopress.search.result import Objective
from paretopress.search.trial import Bench, metrics_for
from paretopress.spaces.errors import ArtifactError
from paretopress.spaces.recipe import Step


class Net(nn.Module):
    """Two convolutions with batch norms, one of whose weights are negative, a shortcut, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(x)))
        x = F.relu(self.norm2(self.conv(x)) + x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Tokens(nn.Module):
    """Linear layers on sequences: three-dimensional products, whose weights the exporter turns around."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(x)))
        out: Tensor = self.head(x.mean(1))
        return out


def _task(net: nn.Module, x: Tensor) -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr] # it keeps statistics
        return Task(net, [(x, torch.randint(0, 4, (len(x),)))])


@pytest.fixture(scope="module")
def images() -> Task:
    """A small residual network."""
    torch.manual_seed(0)
    return _task(Net(), torch.randn(64, 3, 8, 8))


@pytest.fixture(scope="module")
def tokens() -> Task:
    """A small transformer block."""
    torch.manual_seed(0)
    return _task(Tokens(), torch.randint(0, 12, (64, 6)))


def compressed(task: Task, technique: str, **wanted: object) -> tuple[int, Draft]:
    """Return bytes of the native file, and the draft, with a technique at every layer that supports it."""
    space = Space.from_task(task, [technique])
    steps = []
    for decision in space.decisions:
        settings = [s for s in decision.options[0].settings() if all(s.get(k) == v for k, v in wanted.items())]
        steps.append(Step.of(decision.site, technique, **settings[0]))
    metrics = metrics_for(task, ["accuracy", "size"])
    bench = Bench(task, space.sites, metrics, (Objective("accuracy", "maximize", True), Objective("size", "minimize")))
    saved, draft = bench.compress(Recipe(tuple(steps)), 0)
    return len(saved.data), draft


def outputs(data: bytes, x: Tensor) -> Tensor:
    """Return what the runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    [out] = session.run(None, {"input": x.numpy()})
    return torch.from_numpy(np.asarray(out))


def kinds(data: bytes, folder: Path) -> Counter[str]:
    """Return the kinds of node that the runtime is left with after it has loaded a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node)


WEIGHTS = [
    ("integer", {"bits": 4, "granularity": "channel"}), ("integer", {"bits": 3, "granularity": "group", "group": 32}),
    ("codebook", {}), ("magnitude", {}), ("svd", {}),
]  # fmt: skip


@pytest.mark.parametrize(("technique", "wanted"), WEIGHTS, ids=[f"{t}-{w.get('bits', '')}" for t, w in WEIGHTS])
@pytest.mark.parametrize("name", ["images", "tokens"])
def test_weights_are_the_same_and_the_file_as_small(
    name: str, technique: str, wanted: dict[str, object], request: pytest.FixtureRequest
) -> None:
    """Any batch gives the outputs of the searched model, and the file isn't much larger than the native one."""
    task: Task = request.getfixturevalue(name)
    native, draft = compressed(task, technique, **wanted)
    data = to_onnx(draft.model, draft.encodings, task.example)
    x = task.validation.first()[0][0]
    for batch in (x[:1], x[:7], x):
        assert torch.allclose(outputs(data, batch), draft.model(batch), rtol=1e-3, atol=1e-4)
    assert len(data) < native + 6_000


@pytest.mark.parametrize("bits", [8, 6, 5, 3, 2])
def test_integer_layers_run_on_integer_kernels(images: Task, bits: int, tmp_path: Path) -> None:
    """Weights of any width are plain int8 when the file is loaded, and no convolution is left in fp32."""
    _, draft = compressed(images, "int8", bits=bits)
    data = to_onnx(draft.model, draft.encodings, images.example)
    found = kinds(data, tmp_path)
    assert found["QLinearConv"] == 2
    assert found["QLinearAdd"] == 1
    assert found["QGemm"] == 1
    assert not {"Conv", "Gemm", "BitShift", "BitwiseAnd", "Split", "Cast"} & set(found)
    x = images.validation.first()[0][0]
    ours, theirs = draft.model(x), outputs(data, x)
    tolerance = 0.5 if bits == 8 else 0.1  # processors without a dot product of bytes saturate at 8 bits
    assert (ours - theirs).abs().max() < tolerance * ours.abs().max()
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.9


def test_linear_layers_of_sequences_run_on_integer_kernels(tokens: Task, tmp_path: Path) -> None:
    """A transformer's products of three dimensions are computed on integers, their weights turned around."""
    _, draft = compressed(tokens, "int8", bits=6)
    data = to_onnx(draft.model, draft.encodings, tokens.example)
    found = kinds(data, tmp_path)
    assert found["MatMulIntegerToFloat"] + found["QGemm"] == 7
    x = tokens.validation.first()[0][0]
    assert (draft.model(x) - outputs(data, x)).abs().max() < 0.05


def test_weights_alone_leave_no_trace_after_loading(images: Task, tmp_path: Path) -> None:
    """Packed weights of fp32 layers cost nothing at run time: the loaded graph is that of the original."""
    _, draft = compressed(images, "codebook")
    plain = kinds(to_onnx(images.model, {}, images.example), tmp_path)
    assert kinds(to_onnx(draft.model, draft.encodings, images.example), tmp_path) == plain


def test_file_says_nothing_of_where_it_was_written(images: Task) -> None:
    """The exporter's notes on source files are left out: they outweigh the graph, and name the user's folders."""
    data = to_onnx(images.model, {}, images.example)
    model = onnx.load_from_string(data)
    assert not model.metadata_props
    assert b"/" + Path(__file__).parts[1].encode() not in data
    assert not model.graph.value_info


def test_model_that_cannot_be_exported_says_why() -> None:
    """The exporter's pages of advice become one sentence."""

    class Refused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ArtifactError, match="torch can't export the model to ONNX: ") as caught:
        to_onnx(Refused(), {}, (torch.randn(2, 3),))
    assert len(str(caught.value).splitlines()) == 1


def test_short_names_are_all_different() -> None:
    """Two values of one name would be one value."""
    names = [_short(n) for n in range(10_000)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) == 3
    assert not {"input", "output"} & set(names)
