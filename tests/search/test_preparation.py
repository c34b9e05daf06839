"""What is said before the first trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paretopress.evaluators.base import Measurement
from paretopress.search import Space, Task, search
from paretopress.search.preparation import out_of_reach
from paretopress.spaces.errors import ModelError


def test_a_limit_out_of_reach_is_told_with_the_least_there_is() -> None:
    """A prediction is said to be one, and the original's own cost isn't."""
    predicted = out_of_reach("'size <= 100'", "size", 1800.0, Measurement(9000.0, "B"))
    assert "predicted to keep 'size <= 100': the least is about 1.80 kB, give or take a third." in predicted
    known = out_of_reach("'macs <= 0.5x'", "macs", 16128.0, Measurement(16128.0, "MACs"))
    assert "the least is the original's own 16.1 k." in known
    assert known.endswith("a looser limit on macs, or a larger space, would leave it a choice")


class Checkpointed(nn.Module):
    """A forward pass that nothing traces."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(checkpoint(self.inner, self.first(x), use_reentrant=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_model_whose_operations_cannot_be_counted_has_other_samplers(tmp_path: Path) -> None:
    """The profile counts them though nobody asked; the message says which search does without, and it does."""
    torch.manual_seed(0)
    batches = [(torch.randn(16, 6), torch.randint(0, 4, (16,)))]
    task = Task(Checkpointed(), batches, calibration=batches)
    space, options = Space.from_task(task, ["integer"]), {"budget": 3, "executor": "local", "progress": False}
    with pytest.raises(ModelError, match="can't be traced.*sampler='tpe'"):
        search(task, space, run=tmp_path / "a", **options)
    assert len(search(task, space, run=tmp_path / "b", sampler="tpe", **options)) > 0
