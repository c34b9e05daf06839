"""Packing: the smallest layout wins, and nothing but what was packed is ever read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paretopress.compressors import packing
from paretopress.compressors.coding.entropy import AnsCoder
from paretopress.compressors.encoding import Codec, Encoding
from paretopress.compressors.packing import formats, pack_tensor, packed_bytes, unpack_tensor
from paretopress.compressors.quantization.integer import Integer
from paretopress.compressors.sharing.codebook import Codebook, CodebookCodec
from paretopress.spaces.catalogue import techniques
from paretopress.spaces.errors import SettingError

Packed = tuple[dict[str, Any], list[Any]]


def integers(weight: Tensor, bits: int = 4) -> Codec:
    """Fit integers to each channel."""
    return Integer().fit(weight, None, 0, {"bits": bits, "granularity": "channel"}, 0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return weights as a layer might have them."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def through_json(packed: Packed) -> Packed:
    """Return what a file would hand back."""
    return json.loads(json.dumps(packed[0])), [part.copy() for part in packed[1]]


def pruned(weight: Tensor, density: float) -> tuple[Tensor, Tensor]:
    """Return the mask of the largest weights, and the masked weight."""
    kept = weight.abs() >= weight.abs().flatten().quantile(1 - density)
    return kept, weight.masked_fill(~kept, 0.0)


def test_the_whole_pipeline_beats_each_of_its_steps() -> None:
    """Deep Compression's point: pruning, shared values and entropy coding together are far smaller than each alone."""
    weight = normal(128, 576)
    mask, thin = pruned(weight, 0.1)
    shared = Codebook().fit(weight, None, 0, {"bits": 4}, 0)
    both = Codebook().fit(thin, mask, 0, {"bits": 4}, 0)
    sizes = {}
    for name, encoding in {
        "raw": Encoding(),
        "entropy": Encoding(coder=AnsCoder()),
        "prune": Encoding(mask=mask),
        "codebook": Encoding(shared),
        "prune + codebook": Encoding(both, mask),
        "prune + codebook + entropy": Encoding(both, mask, AnsCoder()),
    }.items():
        dense = encoding.project(weight)
        packed = pack_tensor(dense, encoding)
        assert torch.equal(unpack_tensor(*through_json(packed)), dense)
        sizes[name] = packed_bytes(*packed)
    assert sizes["entropy"] == sizes["raw"]  # distinct floats can't be coded
    assert sizes["prune"] < sizes["raw"] / 7
    assert sizes["codebook"] < sizes["raw"] / 7.5
    assert sizes["prune + codebook"] < sizes["codebook"] / 2
    assert sizes["prune + codebook + entropy"] < 0.65 * sizes["prune + codebook"]
    assert sizes["prune + codebook + entropy"] < sizes["raw"] / 35


def test_random_codes_stay_raw() -> None:
    """Entropy coding of uniform 8-bit codes would only add a table, so the raw form must win."""
    values = torch.arange(256, dtype=torch.float32) / 256 + 0.001
    index = torch.randint(256, (64, 64), generator=torch.Generator().manual_seed(0))
    spec, parts = pack_tensor(values[index], Encoding(CodebookCodec(values), coder=AnsCoder()))
    assert spec["layout"] == "dense"
    assert "coder" not in spec
    assert parts[-1].nbytes == 64 * 64


@pytest.mark.parametrize(("bits", "layout"), [(8, "sparse"), (2, "dense")])
def test_the_bitmap_is_taken_where_it_pays(bits: int, layout: str) -> None:
    """A bitmap costs a bit a weight: worth it beside 8-bit codes at 60 % density, not beside 2-bit codes."""
    mask, thin = pruned(normal(64, 64), 0.6)
    codec = Codebook().fit(thin, mask, 0, {"bits": bits}, 0)
    encoding = Encoding(codec, mask)
    spec, _ = pack_tensor(encoding.project(thin), encoding)
    assert spec["layout"] == layout


def test_a_sparse_float_tensor_keeps_negative_zeros() -> None:
    """A bitmap that took -0.0 for a pruned weight would change its sign bit."""
    weight = torch.zeros(32, 32)
    weight[3, 4], weight[5, 6], weight[7, 8] = -0.0, 1.5, -2.5
    spec, parts = pack_tensor(weight, Encoding())
    assert spec["layout"] == "sparse"
    read = unpack_tensor(spec, parts)
    assert torch.equal(read.view(torch.int32), weight.view(torch.int32))
    assert torch.signbit(read[3, 4])


def test_the_bitmap_of_a_pruned_float_tensor_is_coded() -> None:
    """At 2 % density a coded bitmap takes about 0.14 bits a weight instead of 1."""
    _, thin = pruned(normal(200, 200), 0.02)
    raw = pack_tensor(thin, Encoding())
    coded = pack_tensor(thin, Encoding(coder=AnsCoder()))
    assert coded[0]["coder"] == "ans"
    assert packed_bytes(*coded) < packed_bytes(*raw) - 0.8 * 200 * 200 / 8
    assert torch.equal(unpack_tensor(*through_json(coded)), thin)


@pytest.mark.parametrize("shape", [(1, 1), (7,), (3, 5, 2, 2), ()])
def test_any_shape_comes_back(shape: tuple[int, ...]) -> None:
    """Vectors, scalars and convolutions are all packed in their own shape."""
    weight = normal(*shape) if shape else torch.tensor(0.25)
    assert torch.equal(unpack_tensor(*through_json(pack_tensor(weight, Encoding(coder=AnsCoder())))), weight)


def test_the_size_is_that_of_what_is_returned() -> None:
    """`packed_bytes` is what decides between layouts, so it must count every array and the description."""
    spec, parts = pack_tensor(normal(16, 16), Encoding())
    assert packed_bytes(spec, parts) == 16 * 16 * 4 + len(json.dumps(spec, separators=(",", ":")))
    assert len(json.dumps(spec)) < 100


@pytest.mark.parametrize("weight", [torch.zeros(0, 4), torch.zeros(2, 2, dtype=torch.float64)])
def test_what_cannot_be_packed_is_refused(weight: Tensor) -> None:
    """Empty tensors and other types than fp32 would not come back as they were."""
    with pytest.raises(ValueError, match="must be float32 with at least one element"):
        pack_tensor(weight, Encoding())


def test_a_tensor_off_its_grid_is_refused() -> None:
    """Weights that were changed after their codec was fitted must not be rounded without a word."""
    weight = normal(8, 8)
    with pytest.raises(ValueError, match="not on the grid of its integer codec"):
        pack_tensor(weight, Encoding(integers(weight)))


def test_formats_come_from_the_techniques() -> None:
    """A file can name whatever a registered technique writes, and raw floats."""
    assert {"float32", "integer", "codebook", "ans"} <= set(formats())


def test_two_formats_of_one_name_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If two techniques wrote different formats under one name, a file would be read by the wrong one."""

    class Impostor(CodebookCodec):
        kind = "integer"

    class Other(Codebook):
        name = "impostor"
        formats = (Impostor,)

    both = {**techniques(), "impostor": Other()}
    monkeypatch.setattr(packing, "techniques", lambda: both)
    with pytest.raises(SettingError, match="format = 'integer': is claimed by two techniques"):
        formats()


def change(**entries: Any) -> Callable[[Packed], Packed]:
    """Return a mutation that sets entries of the description."""
    return lambda packed: ({**packed[0], **entries}, packed[1])


@pytest.mark.parametrize(
    ("mutate", "reason"),
    [
        (change(codec="intger"), "number format 'intger' is unknown.*Did you mean 'integer'"),
        (change(codec="ans"), "number format 'ans' is unknown"),
        (change(codec=["integer"]), "number format .* is unknown"),
        (change(layout="diagonal"), "unknown layout 'diagonal'"),
        (change(layout="sparse"), "expected one part of values, not 0"),
        (change(coder="codebook", coded={}), "entropy coder 'codebook' is unknown"),
        (change(coder="ans", coded={}), "expected a histogram"),
        (change(shape=[8, 9]), "take uint8"),
        (change(shape=[1 << 20, 1 << 20]), "more elements than"),
        (change(shape=[8, 0]), "dimension must be a whole number from 1"),
        (change(shape=[8, -8]), "dimension must be a whole number from 1"),
        (change(shape=[8.0, 8]), "dimension must be a whole number"),
        (change(shape=None), "shape: must be a list, not None"),
        (change(alphabet=1 << 17), "alphabet must be a whole number"),
        (change(alphabet=0), "expected float32"),
        (change(side=9), "side must be a whole number from 0"),
        (change(side=0), "expected one part of values"),
        (change(facts={"bits": 3}), "doesn't fit 3 bits"),
        (change(facts={}), "must be whole numbers"),
        (change(facts=[4]), "malformed"),
        (lambda packed: ({}, packed[1]), "malformed"),
        (lambda packed: (packed[0], []), "side must be"),
        (lambda packed: (packed[0], [packed[1][0][:-1], *packed[1][1:]]), "must be"),
        (lambda packed: (packed[0], [*packed[1][:-1], packed[1][-1][:-1]]), "take uint8"),
        (lambda packed: (packed[0], [*packed[1][:-1], packed[1][-1].astype(np.uint16)]), "take uint8"),
    ],
)
def test_a_damaged_file_is_refused_with_a_reason(mutate: Callable[[Packed], Packed], reason: str) -> None:
    """Whatever is wrong with a packed tensor must be a ValueError that says what, never a crash or other weights."""
    weight = normal(8, 8)
    codec = integers(weight)
    packed = pack_tensor(codec.project(weight), Encoding(codec))
    assert packed[0]["layout"] == "dense"
    with pytest.raises(ValueError, match=reason):
        unpack_tensor(*mutate(packed))


def test_symbols_outside_the_alphabet_are_refused() -> None:
    """A code that the alphabet doesn't have would index past the end of a codebook."""
    codec = CodebookCodec(torch.tensor([-1.0, 0.5, 1.0]))
    spec, parts = pack_tensor(torch.full((4, 4), 1.0), Encoding(codec))
    parts[-1][:] = 0xFF
    with pytest.raises(ValueError, match="outside the alphabet of 3"):
        unpack_tensor(spec, parts)


def test_a_short_file_cannot_ask_for_all_memory() -> None:
    """A stream of one symbol takes no payload, so the number of elements is bounded by the size of the parts."""
    weight = torch.zeros(64, 64)
    spec, parts = pack_tensor(weight, Encoding(CodebookCodec(torch.tensor([0.0, 1.0])), coder=AnsCoder()))
    assert spec["coder"] == "ans"
    assert torch.equal(unpack_tensor(spec, parts), weight)
    spec["shape"] = [1 << 16, 1 << 16]
    with pytest.raises(ValueError, match="more elements than"):
        unpack_tensor(spec, parts)


def test_a_form_that_could_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on reading must also hold for writing: a huge constant tensor falls back to a larger form."""
    monkeypatch.setattr(packing, "FREE_ELEMENTS", 1 << 10)
    monkeypatch.setattr(packing, "MAX_ELEMENTS_PER_BYTE", 64)
    weight = torch.zeros(256, 256)
    encoding = Encoding(CodebookCodec(torch.tensor([0.0, 1.0])), coder=AnsCoder())
    packed = pack_tensor(weight, encoding)
    assert "coder" not in packed[0]
    assert torch.equal(unpack_tensor(*packed), weight)


@pytest.mark.parametrize("shape", ["", {}, None, 3])
def test_a_shape_that_is_no_list_is_refused(shape: object) -> None:
    """An empty text has no dimensions, and would pass for the shape of a single number."""
    spec, parts = pack_tensor(torch.tensor([[0.5]]), Encoding())
    with pytest.raises(ValueError, match="shape: must be a list"):
        unpack_tensor({**spec, "shape": shape}, parts)
