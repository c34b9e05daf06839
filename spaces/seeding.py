"""Everything random that a library may draw from, seeded for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch

from .errors import SettingError


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch inside the block, and put their states back afterwards.

    Data loaders and augmentations draw from any of the three. An accelerator's generators are seeded too, and not put
    back.
    """
    python, legacy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        if _accelerated():
            torch.manual_seed(seed)
        else:
            # The function above also leaves word for accelerators that may come, at ten times the price.
            torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(own)


def random_state() -> dict[str, Any]:
    """Return the states of the three generators as JSON-able values; those of accelerators are left out."""
    name, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), place, has_gauss, gauss],
        "torch": torch.get_rng_state().tolist(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` returned, as it is or read from JSON."""
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), place, has_gauss, cached))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))


@cache
def _accelerated() -> bool:
    return torch.accelerator.is_available()


def check_seed(seed: object) -> None:
    """Check that a seed is one that Python, numpy and torch all take.

    Raises
    ------
    SettingError
        If it isn't.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise SettingError("seed", seed, "must be a whole number from 0 to 2**32 - 1")
