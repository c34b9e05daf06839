"""A measurement holds plain numbers, whatever a metric made it of: it is written to files and read again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from paretopress.evaluators.base import Measurement


def test_numbers_of_numpy_and_torch_become_plain() -> None:
    """They are written as JSON, and come back equal."""
    found = Measurement(torch.tensor(0.5), "", np.array([0.25, 0.75]), np.int64(8))  # type: ignore[arg-type]  # the point
    assert found == Measurement(0.5, "", (0.25, 0.75), 8)
    assert Measurement.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"value": None}, "value=None"),
        ({"value": torch.zeros(2)}, "value=tensor"),
        ({"value": 1.0, "repeats": None}, "repeats=None"),
        ({"value": 1.0, "repeats": 1.5}, "repeats=1.5"),
        ({"value": 1.0, "interval": 3.0}, "interval=3.0"),
        ({"value": 1.0, "interval": (1.0, 2.0, 3.0)}, "interval="),
        ({"value": 1.0, "interval": (None, 2.0)}, "interval="),
    ],
)
def test_anything_else_is_refused_where_it_is_made(fields: dict[str, Any], name: str) -> None:
    """The field is named: in the trial's error, and not in hours, when a file is written or read."""
    with pytest.raises(TypeError) as caught:
        Measurement(**fields)
    assert name in str(caught.value)
