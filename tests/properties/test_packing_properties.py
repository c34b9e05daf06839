"""Whatever tensor, format, mask and coder: packing and unpacking give the same bits, and damage is a ValueError."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paretopress.compressors.base import Params
from paretopress.compressors.coding.entropy import AnsCoder
from paretopress.compressors.encoding import Encoding
from paretopress.compressors.packing import (
    bit_width,
    pack_bits,
    pack_tensor,
    packed_bytes,
    packed_size,
    unpack_bits,
    unpack_tensor,
)
from paretopress.compressors.quantization.integer import Integer
from paretopress.compressors.sharing.codebook import Codebook

seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Draw a weight of any scale: normal, heavy-tailed, constant, one-sided or mostly repeated values."""
    shape, rng = draw(shapes), np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(["normal", "heavy", "constant", "positive", "repeated"]))
    values = {
        "normal": rng.normal(size=shape),
        "heavy": rng.standard_t(1.5, size=shape),
        "constant": np.full(shape, rng.normal()),
        "positive": rng.exponential(size=shape),
        "repeated": rng.choice([-1.0, 0.0, 0.5], size=shape),
    }[kind]
    return torch.from_numpy((values * 10.0 ** draw(st.integers(-30, 30))).astype(np.float32))


@st.composite
def packings(draw: st.DrawFn) -> tuple[Tensor, Encoding]:
    """Draw a tensor on the grid of a drawn encoding."""
    weight = draw(weights())
    mask = None
    if draw(st.booleans()):
        keep = np.random.default_rng(draw(seeds)).random(tuple(weight.shape)) < draw(st.floats(0, 1))
        mask = torch.from_numpy(keep)
        weight = weight.masked_fill(~mask, 0.0)
    coder = AnsCoder() if draw(st.booleans()) else None
    format_ = draw(st.sampled_from(["float32", "integer", "group", "codebook"]))
    encoding = Encoding(mask=mask, coder=coder)
    if format_ == "codebook":
        bits = draw(st.integers(1, 8))
        encoding = Encoding(Codebook().fit(weight, mask, 0, {"bits": bits}, 0), mask, coder)
    elif format_ != "float32":
        granularity = "group" if format_ == "group" else "channel"
        params: Params = {
            "bits": draw(st.integers(2, 8)),
            "granularity": granularity,
            "group": draw(st.integers(8, 40)),
        }
        axis = draw(st.integers(0, weight.ndim - 1))
        encoding = Encoding(Integer().fit(weight, mask, axis, params, 0), mask, coder)
    return encoding.project(weight), encoding


@given(st.integers(1, 16), st.integers(0, 200), seeds)
def test_bits_round_trip_at_every_width(width: int, count: int, seed: int) -> None:
    """Any symbols of 1 to 16 bits come back, from exactly the bytes that the formula promises."""
    symbols = np.random.default_rng(seed).integers(0, 1 << width, count)
    packed = pack_bits(symbols, width)
    assert packed.dtype == np.uint8
    assert packed.nbytes == packed_size(count, width)
    assert packed.nbytes <= -(-count * width // 8) + 1
    assert np.array_equal(unpack_bits(packed, count, width), symbols)


@given(st.integers(1, 1 << 16))
def test_bit_width_is_the_least_that_holds_the_alphabet(alphabet: int) -> None:
    """One bit less could not tell the symbols apart; one more would be wasted."""
    width = bit_width(alphabet)
    assert alphabet <= 1 << width
    assert width == 1 or alphabet > 1 << (width - 1)


@settings(max_examples=200, deadline=None)
@given(packings())
def test_packing_round_trips_bit_for_bit(drawn: tuple[Tensor, Encoding]) -> None:
    """The model that is loaded must be the model that was measured, to the last bit of every weight."""
    weight, encoding = drawn
    spec, parts = pack_tensor(weight, encoding)
    read = unpack_tensor(json.loads(json.dumps(spec)), [part.copy() for part in parts])
    assert read.dtype == torch.float32
    assert read.shape == weight.shape
    assert torch.equal(read.view(torch.int32), weight.view(torch.int32))
    if encoding.mask is not None:
        assert not read[~encoding.mask].any()


@settings(max_examples=60, deadline=None)
@given(packings())
def test_a_coder_never_makes_it_larger(drawn: tuple[Tensor, Encoding]) -> None:
    """Entropy coding is taken only where coded + table is smaller than raw."""
    weight, encoding = drawn
    raw = pack_tensor(weight, Encoding(encoding.codec, encoding.mask))
    coded = pack_tensor(weight, Encoding(encoding.codec, encoding.mask, AnsCoder()))
    assert packed_bytes(*coded) <= packed_bytes(*raw)


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(packings(), st.data())
def test_damage_is_a_value_error_or_the_right_shape(drawn: tuple[Tensor, Encoding], data: st.DataObject) -> None:
    """Reading never raises anything but ValueError, and never returns a tensor of another shape or type."""
    spec, parts = pack_tensor(*drawn)
    damaged: dict[str, Any] = dict(spec)
    if data.draw(st.booleans()):
        damaged[data.draw(st.sampled_from(sorted(spec)))] = data.draw(junk)
    else:
        at = data.draw(st.integers(0, len(parts) - 1))
        keep = data.draw(st.integers(0, parts[at].shape[0]))
        dtype = data.draw(st.sampled_from(["uint8", "uint16", "float32"]))
        with np.errstate(invalid="ignore"):  # large floats don't fit integers; any garbage will do
            parts[at] = parts[at][:keep].astype(dtype)
    try:
        read = unpack_tensor(damaged, parts)
    except ValueError:
        return
    assert read.dtype == torch.float32
    assert list(read.shape) == damaged["shape"]
