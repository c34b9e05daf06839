"""The nodes of a deployed file know whose they are, also after the runtime has merged them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.base import apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.search.artifact import opened
from paretopress.search.deploy.node_times import _by_layer, marked, node_times
from paretopress.search.deploy.onnx_file import to_graph
from paretopress.search.effects import compressor
from paretopress.search.saving import dumps
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task


class Residual(nn.Module):
    """A stem, a residual pair of which the second is by far the most work, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 64, 1)
        self.norm = nn.BatchNorm2d(64)
        self.second = nn.Conv2d(64, 16, 7, padding=3)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.second(F.relu(self.norm(self.first(x)))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


LAYERS = ["stem", "first", "norm", "second", "fc"]
X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def task() -> Task:
    """Return a task of the network."""
    torch.manual_seed(0)
    return Task(Residual().eval(), [(X, torch.zeros(4, dtype=torch.long))])


def test_time_is_where_the_work_is() -> None:
    """Activations, sums and folded norms count for a layer, and the large convolution takes most of all."""
    own = task()
    model = opened(dumps(Draft.of(own.model), own.model, Recipe(), own.example).data).model
    file = marked(to_graph(model, {}, own.example), LAYERS)
    assert set(file.owners) == {"stem", "first", "second", "fc"}
    assert file.readers == {"stem": ("first", "second"), "first": ("second",), "second": ("fc",)}
    [times] = node_times([file], [X.numpy()])
    assert times.layers.keys() == {"stem", "first", "second", "fc"}
    seconds = times.layers
    assert seconds["second"] > sum(seconds[path] for path in ("stem", "first", "fc"))
    assert sum(seconds.values()) <= (1 + 1e-9) * times.whole


def test_nodes_that_round_belong_to_the_layer_beside_them() -> None:
    """On integers the file has other nodes; those before the first layer count for it, and every layer is timed."""
    own = task()
    sites = {s.name: s for s in find_sites(own.model, own.example)[0]}
    draft, context = Draft.of(own.model), Context(own, sites)
    for path in ("stem", "first", "second", "fc"):
        apply_step(compressor("int8"), draft, Step.of(path, "int8", bits=7), context)
    compressor("int8").settle(draft, context, own.calibration)
    held = opened(dumps(draft, own.model, Recipe(), own.example).data)
    graph = to_graph(held.model, held.encodings, own.example)
    first = next(n for n in graph.graph if n.op_type == "QuantizeLinear")
    file = marked(graph, LAYERS)
    assert file.owners[int(first.name.strip("@"))] == "stem"
    [times] = node_times([file], [X.numpy()])
    assert times.layers.keys() >= {"stem", "first", "second", "fc"}
    assert all(found > 0 for path, found in times.layers.items() if path != "norm")


def test_looking_at_the_clock_is_no_work() -> None:
    """Nodes that take longer together than a pass without notes have that taken off, each as much: on machines with a
    slow clock layers of many small nodes, such as those on integers, would seem slower than they are.
    """
    noted = [("@0@", 4e-6), ("added", 3e-6), ("@1@", 8e-6)] * 5
    found = _by_layer(noted, ("first", "second"), 5, 12e-6)
    assert found == pytest.approx({"first": 3e-6, "second": 9e-6})
    rested = _by_layer(noted, ("first", "second"), 5, 20e-6)  # what is in no node stays there
    assert rested == pytest.approx({"first": 4e-6, "second": 11e-6})
    assert _by_layer(noted, ("first", "second"), 5, 1e-6)["first"] > 0
