"""Everything random that a library may draw from, seeded for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch


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


@cache
def _accelerated() -> bool:
    return torch.accelerator.is_available()
