"""Entropy coding: exact, close to the entropy, and safe to read."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paretopress.compressors.base import apply_step
from paretopress.compressors.coding.entropy import AnsCoder, EntropyCoding
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.encoding import Encoding, Part, Symbols
from paretopress.compressors.packing import pack_tensor, packed_bytes, unpack_tensor
from paretopress.compressors.sharing.codebook import Codebook
from paretopress.spaces.catalogue import technique
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task

ALPHABETS = (1, 2, 3, 16, 256, 65536)


def entropy(symbols: Symbols) -> float:
    """Return the empirical entropy in bits a symbol."""
    share = np.bincount(symbols) / len(symbols)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def payload_bits(parts: list[Part]) -> int:
    """Return the length of the coded stream, without its table."""
    return 8 * parts[-1].nbytes


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALPHABETS), st.integers(1, 400), st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_any_stream_round_trips(alphabet: int, count: int, seed: int, skew: float) -> None:
    """Any symbols, few or many, even or skewed, come back exactly through JSON and arrays of small integers."""
    symbols = (np.random.default_rng(seed).random(count) ** skew * alphabet).astype(np.int64)
    facts, parts = AnsCoder().encode(symbols, alphabet)
    assert all(part.dtype.kind == "u" for part in parts)
    read = AnsCoder().decode(json.loads(json.dumps(facts)), [part.copy() for part in parts], count, alphabet)
    assert read.dtype == np.int64
    assert np.array_equal(read, symbols)


@pytest.mark.parametrize("count", [64, 1000, 50_000])
@pytest.mark.parametrize(
    "weights", [[1, 1], [99, 1], [1] * 16, [2**-k for k in range(12)], list(range(1, 257))], ids=str
)
def test_the_payload_is_within_a_bit_of_the_entropy(weights: list[float], count: int) -> None:
    """Shannon's bound and the coder's promise: H <= bits a symbol < H + 1, and nearly H for long streams."""
    share = np.array(weights) / sum(weights)
    symbols = np.random.default_rng(0).choice(len(share), size=count, p=share)
    _, parts = AnsCoder().encode(symbols, len(share))
    bits = payload_bits(parts) / count
    assert bits < entropy(symbols) + 1
    assert bits >= entropy(symbols) - 16 / count  # the coder starts empty: its first symbols may be free
    if count == 50_000:
        assert bits <= entropy(symbols) * 1.005 + 0.001


def test_the_table_is_counted_and_as_short_as_possible() -> None:
    """A few symbols of a large alphabet are listed; an alphabet that is used in full isn't."""
    few = np.array([5, 60_000, 5, 5, 12])
    _, parts = AnsCoder().encode(few, 65536)
    assert [part.dtype for part in parts] == [np.uint16, np.uint8, np.uint8]
    assert parts[0].tolist() == [5, 12, 60_000]
    assert parts[1].tolist() == [3, 1, 1]
    every = np.repeat(np.arange(16), 300)
    _, parts = AnsCoder().encode(every, 16)
    assert len(parts) == 2
    assert parts[0].tolist() == [300] * 16
    assert parts[0].nbytes == 32


def test_a_stream_of_one_symbol_has_no_payload() -> None:
    """A constant stream has no entropy, so it costs its table only."""
    facts, parts = AnsCoder().encode(np.full(1000, 3), 8)
    assert parts[-1].nbytes == 0
    assert AnsCoder().decode(facts, parts, 1000, 8).tolist() == [3] * 1000


def test_the_stream_is_the_same_every_time() -> None:
    """Files must not depend on the process that wrote them: the bytes of one known stream are pinned."""
    symbols = np.array([0, 1, 1, 2, 1, 0, 1, 1, 3, 1] * 3)
    _, parts = AnsCoder().encode(symbols, 4)
    assert parts[0].tolist() == [6, 18, 3, 3]
    assert parts[1].tobytes().hex() == "78e18961ec2e0ceb10"


@pytest.mark.parametrize("symbols", [[], [-1, 0], [0, 4]])
def test_what_the_alphabet_lacks_is_refused(symbols: list[int]) -> None:
    """A symbol outside the alphabet could not be decoded again."""
    with pytest.raises(ValueError, match=r"needs symbols in range\(4\)"):
        AnsCoder().encode(np.array(symbols, dtype=np.int64), 4)


def stream() -> Symbols:
    """Return a typical stream."""
    return np.random.default_rng(0).choice(8, size=500, p=np.array([40, 20, 10, 10, 8, 6, 4, 2]) / 100)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_streams_are_value_errors(data: st.DataObject) -> None:
    """Cutting or changing any byte of table or payload is noticed: no crash, no hang and no other symbols."""
    facts, parts = AnsCoder().encode(stream(), 8)
    at = data.draw(st.integers(0, len(parts) - 1))
    if data.draw(st.booleans()):
        parts[at] = parts[at][: data.draw(st.integers(0, len(parts[at]) - 1))]
    else:
        place = data.draw(st.integers(0, len(parts[at]) - 1))
        parts[at] = parts[at].copy()
        parts[at][place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"ans: "):
        AnsCoder().decode(facts, parts, 500, 8)


def decode_sealed(parts: list[Part], count: int = 500, alphabet: int = 8) -> Symbols:
    """Decode under a checksum that fits, so that only the checks behind it can object."""
    return AnsCoder().decode({"crc": zlib.crc32(b"".join(p.tobytes() for p in parts))}, parts, count, alphabet)


def test_streams_that_contradict_themselves_are_value_errors() -> None:
    """A file written by something else may have a right checksum and wrong contents; each contradiction is named."""
    _, (table, payload) = AnsCoder().encode(stream(), 8)
    assert np.array_equal(decode_sealed([table, payload]), stream())
    swapped = table.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    listed, one = np.arange(8, dtype=np.uint8), np.array([250, 250], dtype=np.uint8)
    empty = np.zeros(0, dtype=np.uint8)
    # The same stream twice has the same probabilities, so that half of it decodes to the right symbols.
    twice = AnsCoder().encode(np.tile(stream(), 2), 8)[1][-1]
    contradictions: list[tuple[list[Part], int, int, str]] = [
        ([table, payload], 501, 8, "counts 500 symbols instead of 501"),
        ([table, payload], 500, 9, "8 counts for an alphabet of 9"),
        ([swapped, payload], 500, 8, "histogram it was stored with|more than 500 symbols"),
        ([table, payload[:-3]], 500, 8, "histogram it was stored with|more than 500 symbols"),
        ([table, twice], 500, 8, "more than 500 symbols"),
        ([table, payload.astype(np.uint16)], 500, 8, "must be uint8"),
        ([table, payload.astype(np.int8)], 500, 8, "unsigned"),
        ([table], 500, 8, "expected a histogram and a payload"),
        ([listed[::-1], table, payload], 500, 8, "ascending symbols"),
        ([listed, table, payload], 500, 7, "ascending symbols below 7"),
        ([listed[:2], one[:1], payload], 500, 8, "a count for each"),
        ([empty, empty, payload], 500, 8, "needs a symbol"),
        ([np.array([0, 1], dtype=np.uint8), np.array([0, 500], dtype=np.uint16), payload], 500, 8, "positive"),
        ([np.array([500], dtype=np.uint16), payload], 500, 1, "one symbol has no payload"),
        ([table, np.zeros(4, dtype=np.uint8)], 500, 8, "zero word"),
    ]
    for parts, count, alphabet, reason in contradictions:
        with pytest.raises(ValueError, match=reason):
            decode_sealed(parts, count, alphabet)


def tied_model() -> nn.Sequential:
    """Return a model whose first and last layer share their weight."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 12, bias=False))
    model[2].weight = model[0].weight
    return model


def test_the_technique_reaches_every_weight_once() -> None:
    """Each weight tensor gets the coder, a shared one under the name it already has; biases are left alone."""
    inputs = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    task = Task(tied_model(), [(inputs, torch.arange(8) % 12)])
    site = Site(MODEL, "model", ())
    draft = Draft.of(task.model)
    weight = draft.parameter("2.weight").detach()
    codec = Codebook().fit(weight, None, 0, {"bits": 3}, 0)
    draft.store("2.weight", Encoding(codec))
    stored = draft.parameter("2.weight").detach().clone()
    apply_step(EntropyCoding(), draft, Step.of(MODEL, "entropy"), Context(task, {MODEL: site}))
    assert set(draft.encodings) == {"2.weight"}
    assert draft.encodings["2.weight"] == Encoding(codec, None, AnsCoder())
    assert torch.equal(draft.parameter("0.weight"), stored)


def test_weights_without_a_format_are_coded_where_they_have_zeros() -> None:
    """A pruned fp32 layer has no codec; the coder must still shorten its bitmap."""
    inputs = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    task = Task(nn.Linear(64, 64), [(inputs, torch.arange(8))])
    draft = Draft.of(task.model)
    weight = draft.parameter("weight").detach()
    draft.store("weight", Encoding(mask=weight.abs() > weight.abs().quantile(0.95)))
    before = packed_bytes(*pack_tensor(draft.parameter("weight"), draft.encoding("weight")))
    context = Context(task, {MODEL: Site(MODEL, "model", ())})
    apply_step(EntropyCoding(), draft, Step.of(MODEL, "entropy"), context)
    packed = pack_tensor(draft.parameter("weight"), draft.encoding("weight"))
    assert packed_bytes(*packed) < before - 0.6 * 64 * 64 / 8
    assert torch.equal(unpack_tensor(*packed), draft.parameter("weight"))


def test_the_technique_is_offered_for_the_whole_model_only() -> None:
    """It is found by name, acts on the container, and has nothing to choose."""
    found = technique("entropy")
    assert found.stage is Stage.CONTAINER
    assert found.supports(Site(MODEL, "model", ()))
    assert not found.supports(Site("a", "linear", ("a",)))
    assert found.knobs(Site(MODEL, "model", ())) == ()
