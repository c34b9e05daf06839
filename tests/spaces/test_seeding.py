"""Seeds for a while: the same draws inside, and no trace outside."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from paretopress.spaces import seeding
from paretopress.spaces.seeding import seeded

Draws = tuple[float, float, float]


def draws() -> Draws:
    """Return one number from each generator."""
    return random.random(), float(np.random.random()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 1])
def test_the_block_draws_what_the_seed_says(seed: int) -> None:
    """The libraries' own seeding functions give the same numbers."""
    with seeded(seed):
        found = draws()
    with seeded(1):  # puts the states back that the next lines change
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        assert draws() == found


def test_all_three_go_on_where_they_were() -> None:
    """What is drawn after a block is what would have been drawn without it, also where the block failed."""
    with seeded(3):
        expected = [draws() for _ in range(3)]
    with seeded(3):
        found = [draws()]
        with seeded(9):
            draws()
        found.append(draws())
        with pytest.raises(ZeroDivisionError), seeded(9):
            random.seed(1 // 0)
        found.append(draws())
    assert found == expected


def test_accelerators_are_seeded_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a machine without one may leave out what seeds all devices; the processor's draws are the same."""
    asked: list[int] = []
    real = torch.manual_seed

    def seed_all(seed: int) -> torch.Generator:
        asked.append(seed)
        return real(seed)

    monkeypatch.setattr(torch, "manual_seed", seed_all)
    monkeypatch.setattr(seeding, "_accelerated", lambda: False)
    with seeded(5):
        without = draws()
    assert asked == []
    monkeypatch.setattr(seeding, "_accelerated", lambda: True)
    with seeded(5):
        assert draws() == without
    assert asked == [5]
