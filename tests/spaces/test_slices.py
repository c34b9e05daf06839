"""Slices: every example once, at random, in the same order for every model, and in memory once."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paretopress.spaces import data
from paretopress.spaces.data import Batches
from paretopress.spaces.slices import SMALLEST, Slices, ends


def counted(examples: int, batch: int) -> Batches:
    """Return a split whose inputs and targets count up."""
    x = torch.arange(examples).float().reshape(-1, 1)
    return Batches(list(zip(x.split(batch), torch.arange(examples).split(batch))), "validation", keep=True)


def targets(batches: Batches) -> list[list[int]]:
    """Return the targets of each slice."""
    return [[int(t) for _, target in part for t in target] for part in batches.slices()]


@given(st.integers(1, 5000), st.integers(1, 300))
def test_slices_grow_to_the_whole_split(examples: int, batch: int) -> None:
    """The ends rise to the last example; the first slice is small but not tiny; beyond a batch all batches are full, so
    that slices cost no time.
    """
    found = ends(examples, batch)
    assert found[-1] == examples
    assert all(a < b for a, b in pairwise(found))
    assert min(examples, SMALLEST) <= found[0] <= max(batch, 2 * SMALLEST)
    assert all(end % batch == 0 for end in found[:-1] if end > batch)
    assert batch > examples or batch in found or batch < SMALLEST
    assert all(b <= max(2 * a + 1, a + batch) for a, b in pairwise(found[:-1]))


@pytest.mark.parametrize(("examples", "batch"), [(400, 200), (403, 50), (40, 7), (5, 2)])
def test_every_example_comes_once_with_its_own_target(examples: int, batch: int) -> None:
    """A slice that repeated or lost examples would measure another split."""
    split = counted(examples, batch)
    pairs = [(int(x), int(y)) for part in split.slices() for (xs,), ys in part for x, y in zip(xs, ys)]
    assert sorted(pairs) == [(i, i) for i in range(examples)]
    assert all(len(ys) <= batch for part in split.slices() for _, ys in part)


def test_a_sorted_split_is_mixed_and_always_in_the_same_order() -> None:
    """Loaders may be sorted by class: the first slice must hold examples from everywhere, and the same ones again."""
    first = targets(counted(1600, 200))[0]
    assert len(first) == 50
    assert min(first) < 160
    assert max(first) > 1440
    assert 600 < sum(first) / 50 < 1000
    assert targets(counted(1600, 200))[0] == first
    assert sorted(targets(counted(1600, 50))[0]) == sorted(first)


def test_values_go_back_into_the_loaders_order() -> None:
    """What was computed slice by slice can be put back in the order that the user's metric expects."""
    split = counted(403, 50)
    flat = torch.tensor([t for part in targets(split) for t in part])
    assert torch.equal(split.restored(flat), torch.arange(403))


def test_the_loaders_own_batches_stay_as_they_are() -> None:
    """Whoever iterates the split still gets its batches, values and order, from the same memory."""
    split = counted(100, 30)
    before = [(x.clone(), y.clone()) for (x,), y in split]
    assert isinstance(split.slices(), Slices)
    after = list(split)
    assert [len(y) for _, y in after] == [30, 30, 30, 10]
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), ((c,), d) in zip(before, after))
    assert len({x.untyped_storage().data_ptr() for (x,), _ in after}) == 1


def test_inputs_that_all_examples_share_go_with_every_batch() -> None:
    """An input without a batch dimension is passed whole; one that differs from batch to batch can't be cut."""
    shared = torch.ones(3)
    both = [((torch.full((20, 1), float(i)), shared), torch.full((20,), i)) for i in range(4)]
    split = Batches(both, "validation", keep=True)
    for part in split.slices():
        for (x, same), y in part:
            assert torch.equal(same, shared)
            assert torch.equal(x[:, 0].long(), y)
    differing = [((x, s + i), y) for i, ((x, s), y) in enumerate(both)]
    assert len(list(Batches(differing, "validation", keep=True).slices())) == 1


def test_what_cannot_be_cut_is_one_slice_in_the_loaders_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of different lengths, and splits too large to be kept, are measured as they come."""
    ragged = [(torch.zeros(20, n), torch.arange(20)) for n in (5, 6, 7)]
    split = Batches(ragged, "validation", keep=True)
    assert targets(split) == [[*range(20)] * 3]
    assert torch.equal(split.restored(torch.arange(60)), torch.arange(60))
    monkeypatch.setattr(data, "KEEP_BYTES", 10)
    assert targets(counted(100, 30)) == [[*range(100)]]


def test_slices_are_not_sent_to_workers_twice() -> None:
    """A pickled split holds its examples once, and gives the same slices when it arrives."""
    split = counted(5000, 100)
    list(split)
    whole = len(pickle.dumps(split))
    before = targets(split)
    assert len(pickle.dumps(split)) < 1.5 * whole
    assert targets(pickle.loads(pickle.dumps(split))) == before


def test_a_model_that_writes_into_its_input_does_not_reach_the_split() -> None:
    """Batches of a slice are copies of the rows."""
    split = counted(100, 30)

    def zero(x: Tensor) -> None:
        x.zero_()

    for part in split.slices():
        for (x,), _ in part:
            zero(x)
    assert sorted(t for part in targets(split) for t in part) == [*range(100)]
    assert [float(x) for (xs,), _ in split for x in xs] == [float(i) for i in range(100)]
