"""Batches: checked, kept when small, iterated anew when not, never lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from paretopress.spaces import data
from paretopress.spaces.data import Batches, as_batch, to_device
from paretopress.spaces.errors import DataError


def rows(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch whose inputs and targets count up from ``first``."""
    return torch.arange(first, first + count).float().reshape(count, 1), torch.arange(first, first + count)


class Counting:
    """A loader that counts its passes and reuses one buffer for all batches, as some loaders do."""

    def __init__(self, batches: int = 3) -> None:
        self.batches, self.passes = batches, 0
        self.buffer = torch.zeros(2, 1)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.passes += 1
        for i in range(self.batches):
            yield self.buffer.fill_(i), torch.tensor([i, i])


def targets(batches: Batches) -> list[int]:
    """Return all targets of one pass."""
    return [int(t) for _, target in batches for t in target]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.zeros(4, 2), "pair.*gave a Tensor of 4"),
        (
            (torch.zeros(2), torch.zeros(2), torch.zeros(2)),
            "pair.*gave a tuple of 3.*several inputs go into one",
        ),
        ({"x": 1, "y": 2}, "pair.*gave a dict of 2"),
        (3, "pair.*gave a int"),
        ((torch.zeros(2, 1), [0, 1]), "must be tensors.*gave a list"),
        (([1.0], torch.zeros(1)), "must be tensors.*gave a float"),
        ((torch.zeros(3, 1), torch.zeros(2)), r"\(3, 1\).*\(2,\).*same first dimension"),
        ((torch.tensor(1.0), torch.tensor(1)), "same first dimension"),
        (((), torch.zeros(2)), "same first dimension"),
    ],
)
def test_item_that_is_no_batch_says_what_came_instead(item: Any, message: str) -> None:
    """A loader of the wrong form is an error that names the split, what came, and what to do."""
    with pytest.raises(DataError, match=f"validation data.*{message}"):
        as_batch(item, "validation")


def test_several_inputs_become_a_tuple() -> None:
    """One tensor, or a tuple or list of them, is what the model's forward pass takes."""
    x, y = rows(0, 2)
    for given, count in ((x, 1), ((x, x), 2), ([x, x, x], 3)):
        args, target = as_batch([given, y], "train")
        assert isinstance(args, tuple)
        assert len(args) == count
        assert target is y


def test_kept_split_is_loaded_once_and_copied() -> None:
    """A split that is kept runs the user's loader once, and survives a loader that reuses its buffer."""
    loader = Counting()
    batches = Batches(loader, "validation", keep=True)
    passes = [[(args[0].tolist(), target.tolist()) for args, target in batches] for _ in range(3)]
    assert loader.passes == 1
    assert passes[0] == passes[1] == passes[2]
    assert passes[0][2] == ([[2.0], [2.0]], [2, 2])


def test_stopping_early_keeps_nothing_half() -> None:
    """A look at the first batch doesn't turn the split into one batch."""
    batches = Batches(Counting(), "validation", keep=True)
    assert batches.first()[1].tolist() == [0, 0]
    assert targets(batches) == [0, 0, 1, 1, 2, 2]


def test_training_split_is_loaded_anew() -> None:
    """Shuffling and augmentation stay random: a split that isn't kept runs the loader every time."""
    loader = Counting()
    batches = Batches(loader, "train", keep=False)
    assert targets(batches) == targets(batches)
    assert loader.passes == 2


def test_large_split_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A split beyond the limit is complete all the same, loaded anew each time."""
    monkeypatch.setattr(data, "KEEP_BYTES", 30)
    loader = Counting()
    batches = Batches(loader, "validation", keep=True)
    assert targets(batches) == targets(batches) == [0, 0, 1, 1, 2, 2]
    assert loader.passes == 2


def test_function_returns_a_fresh_iterable() -> None:
    """A function, a generator function included, may stand for a loader."""

    def generate() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield rows(0, 2)
        yield rows(2, 2)

    batches = Batches(generate, "train", keep=False)
    assert targets(batches) == targets(batches) == [0, 1, 2, 3]


def test_loader_that_is_also_callable_is_iterated() -> None:
    """A loader class with a ``__call__`` of its own isn't mistaken for a function that returns one."""

    class Loader(Counting):
        def __call__(self) -> None:
            raise AssertionError("the loader was called")

    assert targets(Batches(Loader(1), "train", keep=False)) == [0, 0]


def test_a_model_in_the_place_of_data_is_named() -> None:
    """Model and data in the wrong order give a sentence, not an error from within the model."""
    with pytest.raises(DataError, match="validation data: is a model .Linear.. The model comes first"):
        Batches(nn.Linear(2, 2), "validation", keep=True)


@pytest.mark.parametrize("keep", [True, False])
def test_iterator_that_can_be_read_once_is_refused(keep: bool) -> None:
    """A generator would lose its first batch to the checks and be empty later: it is refused at once."""
    with pytest.raises(DataError, match="train data: a generator can be iterated once only.*DataLoader, a list"):
        Batches((rows(0, 1) for _ in range(3)), "train", keep=keep)


@pytest.mark.parametrize(
    ("source", "message"),
    [([], "yields nothing"), (lambda: iter(()), "yields nothing"), (7, "int can't be iterated")],
)
def test_empty_or_impossible_source_is_a_data_error(source: Any, message: str) -> None:
    """No data is an error at the first look, not a division by zero later."""
    with pytest.raises(DataError, match=f"test data.*{message}"):
        Batches(source, "test", keep=True).first()


def test_bad_batch_in_the_middle_is_found() -> None:
    """Every batch is checked, not only the first."""
    with pytest.raises(DataError, match="same first dimension"):
        list(Batches([rows(0, 2), (torch.zeros(3, 1), torch.zeros(2))], "train", keep=False))


def test_head_takes_whole_batches_up_to_the_number_of_examples() -> None:
    """Calibration sees at least the examples asked for, and the rest of the loader isn't run for it."""
    loader = Counting(batches=5)
    head = Batches(loader, "train", keep=False).head(3)
    assert targets(head) == targets(head) == [0, 0, 1, 1]
    assert loader.passes == 1
    assert head.split == "train"
    assert targets(Batches(loader, "train", keep=False).head(100)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_to_device_copies_the_input() -> None:
    """A model that writes into its input can't change the kept data."""
    x, y = rows(0, 2)
    args, _ = to_device(((x,), y), torch.device("cpu"))
    args[0].add_(1)
    assert x.tolist() == [[0.0], [1.0]]


def test_data_loader_works_as_it_is() -> None:
    """PyTorch's own DataLoader needs no wrapping."""
    loader = DataLoader(TensorDataset(*rows(0, 5)), batch_size=2)
    assert targets(Batches(loader, "validation", keep=True)) == [0, 1, 2, 3, 4]


#: Reads a split whose loader shuffles, after some noise, and prints in which order it came.
ORDER = """
import sys, torch
from torch.utils.data import DataLoader, TensorDataset
from paretopress.spaces.data import Batches
workers, noise = map(int, sys.argv[1:])
torch.manual_seed(noise)
data = TensorDataset(torch.arange(40.0)[:, None], torch.arange(40))
split = Batches(DataLoader(data, batch_size=8, shuffle=True, num_workers=workers), "validation", keep=True)
split.first()
print([int(y) for _, target in split for y in target])
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_measured_split_has_one_order_even_if_its_loader_shuffles(workers: int) -> None:
    """Whatever was drawn before, validation comes in the same order, so that a run can be resumed."""
    one, other = (  # in processes of their own: to fork this one, with all its threads, may end it
        subprocess.run(
            [sys.executable, "-c", ORDER, str(workers), noise], capture_output=True, text=True, check=True
        ).stdout
        for noise in "12"
    )
    assert one == other
    assert sorted(json.loads(one)) == list(range(40))
    assert json.loads(one) != list(range(40))
