"""Whatever stands in a model file, loading it ends in a model or in one clear error."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.compressors.base import Compressor, apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.search import Recipe, Task, container
from paretopress.search.artifact import opened
from paretopress.search.saving import dumps
from paretopress.spaces.catalogue import technique
from paretopress.spaces.errors import ArtifactError
from paretopress.spaces.recipe import Step
from paretopress.spaces.sites import find_sites

#: What an attacker, or a broken disk, might write in any place of the document.
EVIL: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**40, 2**63, 1e308, float("nan"), "", "x", "../../etc/passwd", "__class__",
    "m" * 1000, "os.system", "torch.load", "torch.from_file", "torch.zeros", "operator.add", "eval", "getattr",
    "__reduce__",
    [], {}, [[]], {"n": "x"}, {"n": "x0"}, {"t": []}, [2**40], [2**20, 2**20], {"raw": [2**40]}, [1, 2**40],
    "call_function", "call_method", "get_attr", "resize_", "repeat_interleave", "entropy", "sparse", "integer",
    "float32",
)  # fmt: skip


class Net(nn.Module):
    """A network whose file has every kind of entry: a graph, packed tensors, raw ones, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))
        return out


@cache
def example() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a file's document and its arrays by type."""
    torch.manual_seed(0)
    task = Task(Net(), [(torch.randn(4, 2, 6, 6), torch.randint(0, 3, (4,)))])
    context = Context(task, {s.name: s for s in find_sites(task.model, task.example)[0]})
    draft = Draft.of(task.model)
    for step in (Step.of("conv", "int8", bits=5), Step.of("head", "codebook", bits=3), Step.of("<model>", "entropy")):
        entry = technique(step.technique)
        assert isinstance(entry, Compressor)
        apply_step(entry, draft, step, context)
        entry.settle(draft, context, task.calibration)
    document, reader = container.read(dumps(draft, task.model, Recipe(), task.example).data)
    return document, {code: np.asarray(array) for code, array in reader._arrays.items()}


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in a document."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    """Return what stands at a path."""
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def edited(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a document with one to three places replaced by something else, removed, or doubled."""
    document = copy.deepcopy(example()[0])
    for _ in range(draw(st.integers(1, 3))):
        everywhere = list(places(document))
        *inside, key = draw(st.sampled_from(everywhere))
        parent = at(document, tuple(inside))
        what = draw(st.sampled_from(["evil", "evil", "evil", "other", "remove", "insert"]))
        new = draw(st.sampled_from(EVIL)) if what != "other" else at(document, draw(st.sampled_from(everywhere)))
        if what == "remove":
            del parent[key]
        elif what == "insert" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(new))
        else:
            parent[key] = copy.deepcopy(new)
    return document


@settings(max_examples=300, deadline=5_000)
@given(document=edited())
def test_edited_documents_load_or_are_refused(document: dict[str, Any]) -> None:
    """With a valid checksum, as an attacker would write it: no other exception, no memory beyond reason, no code."""
    writer = container.PartWriter()
    for array in example()[1].values():
        writer.add(array)
    data = container.write(document, writer)
    assert len(json.dumps(document)) < 100_000
    try:
        held = opened(data)
    except ArtifactError:
        return
    assert sum(p.numel() for p in held.model.parameters()) < 10_000
