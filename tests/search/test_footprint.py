"""What modules take, and what of it is left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paretopress.compressors.draft import Draft
from paretopress.compressors.encoding import Encoding
from paretopress.compressors.packing import pack_tensor, packed_bytes
from paretopress.search.footprint import module_bytes, shares_left


def test_bytes_are_those_of_parameters_and_buffers() -> None:
    """Parameters and statistics count with their module alone; a counter that no file holds doesn't."""
    draft = Draft(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    assert module_bytes(draft, dict(draft.model.named_modules())) == {"": 0, "0": 4 * 16, "1": 4 * 16}
    assert module_bytes(draft, {"": draft.model}, nested=True) == {"": 4 * 32}


def test_shared_tensor_counts_once() -> None:
    """Two layers with one weight take it once."""
    pair = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    pair[1].weight = pair[0].weight
    assert module_bytes(Draft(pair), dict(pair.named_modules())) == {"": 0, "0": 4 * 20, "1": 4 * 4}


def test_encoded_tensor_takes_what_it_is_packed_into() -> None:
    """An encoding's bytes count, beside the plain ones of the bias."""
    draft = Draft(nn.Sequential(nn.Linear(64, 64)))
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[0] = True
    draft.store("0.weight", Encoding(mask=mask))
    packed = packed_bytes(*pack_tensor(draft.parameter("0.weight").detach(), draft.encoding("0.weight")))
    assert module_bytes(draft, {"0": draft.module("0")}) == {"0": packed + 4 * 64}
    assert packed < 4 * 64 * 64 / 8


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"a": 100, "b.c": 30, "b.d": 10}, {"a": 1, "b.c": 1, "b.d": 1, "e": 1}),
        ({"a": 50}, {"a": 0.5, "b.c": 0, "b.d": 0, "e": 1}),
        ({"a.0": 5, "a.1.left": 20, "b.c": 30, "b.d": 10}, {"a": 0.25, "b.c": 1, "b.d": 1, "e": 1}),
        ({"a": 100, "b": 8}, {"a": 1, "b.c": 0.2, "b.d": 0.2, "e": 1}),
        ({"a": 100, "b.c": 30, "b.d": 10, "e": 14}, {"a": 1.1, "b.c": 1.1, "b.d": 1.1, "e": 1}),
        ({"a": 100, "b.c": 30, "b.d": 10, "": 14}, {"a": 1.1, "b.c": 1.1, "b.d": 1.1, "e": 1}),
        ({"a": 100, "b.c": 30, "b.d": 10, "b2": 0}, {"a": 1, "b.c": 1, "b.d": 1, "e": 1}),
    ],
    ids=["same", "removed", "replaced", "block replaced", "new", "root", "nothing"],
)
def test_new_modules_count_for_what_they_replace(after: dict[str, int], expected: dict[str, float]) -> None:
    """All of what the changed model takes is some original module's, wherever it is."""
    before = {"a": 100, "b.c": 30, "b.d": 10, "e": 0}
    shares = shares_left(before, after)
    assert shares == pytest.approx(expected)
    assert sum(before[p] * share for p, share in shares.items()) == pytest.approx(sum(after.values()))
