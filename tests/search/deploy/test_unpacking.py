"""Packed constants give back what was packed, computed by the runtime itself when it loads a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paretopress.compressors.encoding import Codec, Portable
from paretopress.compressors.quantization.grid import IntegerCodec
from paretopress.compressors.sharing.codebook import CodebookCodec
from paretopress.search.deploy.unpacking import Array, Workbench

Make = Callable[[Workbench], ir.Value]
seeds = st.integers(0, 2**32 - 1)


def run(make: Make) -> Array:
    """Return what the runtime makes of a value of fp32."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    first = ir.node("Identity", [x])
    first.outputs[0].name = "same"
    graph = ir.Graph([x], [], nodes=[first], opset_imports={"": 20})
    bench = Workbench(graph)
    out = make(bench)
    bench.finish()
    out.name, out.type = "out", ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(out)
    data = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    [found] = session.run(["out"], {"x": np.zeros(1, np.float32)})
    return np.asarray(found)


def as_float(value: ir.Value, bench: Workbench) -> ir.Value:
    """Return a value as fp32, so that one kind of output is enough."""
    return bench.cast(value, ir.DataType.FLOAT)


@settings(deadline=None, max_examples=30)
@given(bits=st.integers(1, 8), count=st.integers(1, 70), seed=seeds)
def test_numbers_of_every_width(bits: int, count: int, seed: int) -> None:
    """Numbers of 1 to 8 bits come back, however many there are, whatever else is in the pool."""
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 1 << bits, count).astype(np.uint8) for _ in range(2))

    def make(bench: Workbench) -> ir.Value:
        parts = [as_float(bench.numbers(values, bits), bench) for values in (first, second)]
        return bench.node("Concat", *parts, axis=0)

    out = run(make)
    assert np.array_equal(out, np.concatenate([first, second]))


@settings(deadline=None, max_examples=20)
@given(bits=st.integers(2, 8), share=st.floats(0, 1), count=st.integers(1, 300), seed=seeds)
def test_sparse_numbers(bits: int, share: float, count: int, seed: int) -> None:
    """Where most numbers are the same one, only the others are stored, and all come back."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1 << bits, count).astype(np.uint8)
    values[rng.random(count) < share] = 1
    keep = values != 1
    if keep.any():
        out = run(lambda bench: as_float(bench.sparse(values, keep, bits, 1), bench))
        assert np.array_equal(out, values)


def portable(codec: Codec, weight: torch.Tensor) -> Portable:
    """Return a weight in portable form."""
    found = codec.portable(codec.project(weight))
    assert found is not None
    return found


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(bits=st.integers(2, 8), group=st.sampled_from([0, 4, 5, 8]), shifted=st.booleans(), seed=seeds)
def test_integer_weights_with_groups_and_zero_points(bits: int, group: int, shifted: bool, seed: int) -> None:
    """Every grid of the technique comes back as fp32 to the last digits, times a factor for each channel."""
    torch.manual_seed(seed)
    weight = torch.randn(6, 3, 2, 2)
    groups = -(-12 // group) if group else 1
    zero = torch.randint(0, 1 << bits, (6, groups)) if shifted else None
    codec = IntegerCodec(bits, torch.rand(6, groups).half().float() + 0.25, zero, 0, group)
    factor = torch.randn(6).numpy()
    out = run(lambda bench: bench.floats(portable(codec, weight), factor))
    wanted = codec.project(weight).numpy() * factor.reshape(6, 1, 1, 1)
    assert np.allclose(out, wanted, rtol=1e-6, atol=1e-6)


def test_codebook_comes_back_bit_for_bit() -> None:
    """Shared values are looked up: the same floats."""
    torch.manual_seed(0)
    codec = CodebookCodec(torch.randn(13).unique())
    weight = torch.randn(20, 9)
    out = run(lambda bench: bench.floats(portable(codec, weight), None))
    assert np.array_equal(out, codec.project(weight).numpy())


@settings(deadline=None, max_examples=20)
@given(bits=st.integers(2, 8), seed=seeds, transposed=st.booleans(), width=st.sampled_from([7, 90]))
def test_integers_change_sign_with_their_scale(bits: int, seed: int, transposed: bool, width: int) -> None:
    """A batch norm with a negative weight turns codes around, because scales must be positive; either way round."""
    torch.manual_seed(seed)
    weight, factor = torch.randn(5, width), torch.randn(5).numpy()
    codec = IntegerCodec(bits, torch.rand(5, 1) + 0.1)
    scales: list[Array] = []

    def make(bench: Workbench) -> ir.Value:
        held = portable(codec, weight)
        assert held.scale is not None
        codes, scale = bench.integers(replace(held, scale=held.scale * factor[:, None]), transposed)
        scales.append(scale)
        return as_float(codes, bench)

    out = run(make)
    out = out.T if transposed else out
    wanted = codec.project(weight).numpy() * factor[:, None]
    assert (scales[0] > 0).all()
    # With 8 bits, -128 has no counterpart: it loses one level.
    assert np.abs(out * scales[0][:, None] - wanted).max() <= (scales[0].max() * 1.001 if bits == 8 else 1e-5)
