"""Batches for training: as many as there are steps, and taken up again in the midst of an epoch."""

from __future__ import annotations

import json

import torch
from torch.utils.data import DataLoader, TensorDataset

from paretopress.compressors.distillation.state import Feed
from paretopress.spaces.data import Batches
from paretopress.spaces.seeding import seeded


def numbers(feed: Feed) -> list[tuple[int, ...]]:
    """Return the targets of each batch that a feed gives."""
    return [tuple(target.tolist()) for _, (_, target) in feed]


def test_steps_start_over_when_the_source_ends() -> None:
    """As many batches as steps, no more, and none for none."""
    batches = Batches([(torch.zeros(1, 2), torch.tensor([n])) for n in range(3)], "train", keep=False)
    assert numbers(Feed(batches, 7)) == [(0,), (1,), (2,), (0,), (1,), (2,), (0,)]
    assert numbers(Feed(batches, 2)) == [(0,), (1,)]
    assert numbers(Feed(batches, 0)) == []


def test_a_shuffled_epoch_is_taken_up_where_it_was() -> None:
    """The order is that of the epoch that was interrupted, and the next epoch's that which it would have been."""
    data = TensorDataset(torch.zeros(10, 2), torch.arange(10))
    batches = Batches(DataLoader(data, batch_size=3, shuffle=True), "train", keep=False)
    with seeded(5):
        whole = numbers(Feed(batches, 11))
    for cut in range(1, 11):
        with seeded(5):
            first, head = Feed(batches, 11), []
            for step, (_, target) in first:
                head.append(tuple(target.tolist()))
                if step == cut:
                    break
            state = json.loads(json.dumps(first.state()))
        with seeded(99):
            rest = Feed(batches, 11)
            rest.resume(state)
            assert head + numbers(rest) == whole
