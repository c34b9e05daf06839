"""Layers that compute with weights of 4 bits give what the weights give, and stand only where they can."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.compressors.draft import Draft
from paretopress.compressors.encoding import Portable
from paretopress.evaluators.onnx_session import Session
from paretopress.search import Recipe, Space, Step, Task
from paretopress.search.deploy import four_bits
from paretopress.search.deploy.four_bits import is_faster, replaced
from paretopress.search.deploy.one_node import one_node
from paretopress.search.deploy.onnx_file import to_onnx
from paretopress.search.deploy.unpacking import Workbench
from paretopress.search.trial import Bench


class Wide(nn.Module):
    """Two large layers and a small one."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(256, 512, bias), nn.Linear(512, 256, bias), nn.Linear(256, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(torch.relu(self.up(x)))
        out: Tensor = self.head(x.mean(1) if x.ndim == 3 else x)
        return out


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the kernel is fast."""
    monkeypatch.setattr(four_bits, "is_faster", lambda *_: True)


def draft(model: nn.Module, x: Tensor, *steps: Step) -> Draft:
    """Return a model after some steps."""
    task = Task(model, [(x, torch.arange(len(x)) % 4)])
    return Bench(task, Space.from_task(task).sites, (), ()).compress(Recipe.of(steps), 0)[1]


def kinds(data: bytes) -> Counter[str]:
    """Return how many nodes there are of each kind."""
    return Counter(node.op_type for node in onnx.load_from_string(data).graph.node)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("tokens", [0, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [0, 32])
def test_the_file_computes_what_the_model_does(tokens: int, bias: bool, group: int) -> None:
    """For inputs of rows and of sequences, with scales of channels and of groups: as near as 8 bits of its inputs are,
    in a file no larger than its 4 bits and scales.
    """
    torch.manual_seed(0)
    model, x = Wide(bias).eval(), torch.randn(16, *([tokens] if tokens else []), 256)
    shared = {"granularity": "group", "group": group} if group else {"granularity": "channel"}
    found = draft(model, x, *(Step.of(name, "integer", bits=4, **shared) for name in ("up", "down")))
    data = to_onnx(found.model, found.encodings, (x[:1],))
    assert kinds(data)["MatMulNBits"] == 2
    with torch.no_grad():
        ours = found.model(x).numpy()
    for batch in (1, 16):
        theirs = Session(data)(x[:batch].numpy())
        assert np.abs(ours[:batch] - theirs).max() < 0.03 * np.abs(ours).max()
    scales = sum(2 * len(w) * (w.shape[1] // group if group else 1) for w in (model.up.weight, model.down.weight))
    assert len(data) < 2 * 256 * 512 // 2 + scales + 8000


@pytest.mark.usefixtures("always")
def test_other_weights_are_unpacked() -> None:
    """Other widths, small layers, and layers on integers go on as before."""
    torch.manual_seed(0)
    model, x = Wide(True).eval(), torch.randn(16, 256)
    steps = [Step.of("up", "integer", bits=3, granularity="channel"), Step.of("down", "int8", bits=4),
             Step.of("head", "integer", bits=4, granularity="channel")]  # fmt: skip
    found = draft(model, x, *steps)
    assert not kinds(to_onnx(found.model, found.encodings, (x[:1],)))["MatMulNBits"]


def test_a_machine_that_is_not_faster_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in the file but standard operators then, and its outputs are the model's own."""
    monkeypatch.setattr(four_bits, "is_faster", lambda *_: False)
    torch.manual_seed(0)
    model, x = Wide(True).eval(), torch.randn(16, 256)
    found = draft(model, x, Step.of("up", "integer", bits=4, granularity="channel"))
    data = to_onnx(found.model, found.encodings, (x[:1],))
    assert not any(node.domain for node in onnx.load_from_string(data).graph.node)
    with torch.no_grad():
        np.testing.assert_allclose(Session(data)(x.numpy()), found.model(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("always")
@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 40), st.integers(1, 200), st.sampled_from([0, 16, 32, 64]), st.booleans(), st.booleans(),
    st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_layer(
    outputs: int, inputs: int, group: int, middle: bool, transposed: bool, folded: bool, seed: int
) -> None:
    """Whatever its width, blocks and zeros: a product of ONNX gives the dense weight's outputs, or stays as it is."""
    rng = np.random.default_rng(seed)
    groups = -(-inputs // group) if group else 1
    zero = np.full((outputs, groups), 8.0) if middle else rng.integers(0, 16, (outputs, groups))
    scale = (0.1 + rng.random((outputs, groups))).astype(np.float32)
    codes = rng.integers(0, 16, (outputs, inputs)).astype(np.uint8)
    portable = Portable(codes, 4, None, zero.astype(np.float32), scale, group)
    factor = rng.random(outputs).astype(np.float32) + 0.5 if folded else None
    places = np.arange(inputs) // group if group else np.zeros(inputs, dtype=int)
    dense = (codes - zero[:, places]) * scale[:, places] * (1 if factor is None else factor[:, None])
    x = rng.standard_normal((3, inputs)).astype(np.float32)
    data = _replaced(portable, dense.astype(np.float32), transposed, factor)
    can = group > 0 or any(inputs % block == 0 for block in (16, 32, 64, 128, 256))
    assert (kinds(data)["MatMulNBits"] == 1) == can
    error = np.abs(Session(data)(x) - x @ dense.T).max()
    assert error <= 0.02 * np.abs(x).max() * np.abs(dense).sum(1).max() + 1e-4  # zeros are subtracted in fp32


def _replaced(portable: Portable, dense: npt.NDArray[np.float32], transposed: bool, factor: object) -> bytes:
    """Return the file of a product after the replacement; layers of any size are worth it."""
    outputs, inputs = dense.shape
    node = onnx.helper.make_node(
        "MatMul" if transposed else "Gemm", ["x", "w"], ["y"], **({} if transposed else {"transB": 1})
    )
    model = ir.from_proto(
        onnx.load_from_string(one_node(node, (3, inputs), (3, outputs), {"w": dense.T if transposed else dense}))
    )
    bench = Workbench(model.graph)
    before, four_bits.LARGE = four_bits.LARGE, 0
    try:
        replaced(bench, next(iter(model.graph)), 1, portable, transposed, factor)
    finally:
        four_bits.LARGE = before
    bench.finish()
    return ir.to_proto(model).SerializeToString()


def test_what_was_timed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine times each kind of layer once, for all of its processes."""
    monkeypatch.setenv("PARETOPRESS_CACHE", str(tmp_path))
    timed: list[tuple[int, ...]] = []

    def speedup(*layer: int) -> float:
        timed.append(layer)
        return 2.0 if layer[1] > 300 else 1.0

    monkeypatch.setattr(four_bits, "speedup", speedup)
    for _ in range(2):
        is_faster.cache_clear()
        assert is_faster(5, 512, 256, 32)
        assert not is_faster(5, 256, 512, 32)
    assert timed == [(5, 512, 256, 32), (160, 512, 256, 32), (5, 256, 512, 32)]
    is_faster.cache_clear()


def test_timing_tells_a_ratio() -> None:
    """What is timed runs, and is positive."""
    assert 0.05 < four_bits.speedup(4, 64, 32, 32) < 50
