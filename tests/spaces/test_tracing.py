"""Which models can be traced, and what is offered to those that can't."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paretopress.spaces.errors import SettingError
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task
from paretopress.spaces.tracing import ROOT, trace, untraceable


class Branching(nn.Module):
    """A forward pass that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        out: Tensor = self.head(x if x.sum() > 0 else -x)
        return out


def task() -> Task:
    """Return the task of a model that can't be traced."""
    torch.manual_seed(0)
    return Task(Branching(), [(torch.randn(4, 3, 8, 8), torch.randint(0, 2, (4,)))])


def test_graph_names_modules_by_their_paths() -> None:
    """Whoever reads the graph finds the user's modules by the paths that they know."""
    graph, root = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 1)
    assert [n.target for n in graph.nodes if n.op == "call_module"] == [f"{ROOT}0", f"{ROOT}1"]
    assert isinstance(root.get_submodule(f"{ROOT}0"), nn.Linear)


def test_reason_is_told() -> None:
    """A forward pass that depends on data is said to be one; others give no reason."""
    assert untraceable(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 1) == ""
    assert "control flow" in untraceable(Branching(), 1)


def test_technique_that_needs_a_graph_is_left_out_where_there_is_none() -> None:
    """An untraceable model is offered integers at linear layers only, and the space says why."""
    space = Space.from_task(task(), ["int8"])
    assert [d.site for d in space.decisions] == ["head"]
    assert any("int8 is not offered at conv: the forward pass can't be traced" in note for note in space.notes)


def test_technique_that_needs_a_graph_is_refused_by_hand() -> None:
    """Who asks for it by name is told at once."""
    with pytest.raises(SettingError, match="int8.*needs a forward pass that can be traced"):
        Space.by_hand(task(), {"conv": {"int8": {}}})


def test_integer_kernels_are_searched_where_they_are_asked_for() -> None:
    """No default figure gains from int8, so it takes no trials unless it is named, or the preset is about speed."""
    own = task()
    assert "int8" not in Space.from_task(own).techniques
    assert "int8" not in Space.from_task(own, "full").techniques
    assert "int8" in Space.from_task(own, "fast").techniques
    assert "int8" in Space.from_task(own, {"int8": {}}).techniques
