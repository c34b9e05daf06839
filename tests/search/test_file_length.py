"""Lengths of files that are never written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.search import container
from paretopress.search.effects import Survey
from paretopress.search.fisher import measure_fisher
from paretopress.search.trial import Bench
from paretopress.spaces.choices import Choices
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.site import MODEL
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

KINDS = (
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "bool",
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3000)), max_size=14),
    st.dictionaries(st.text(max_size=9), st.integers(), max_size=40),
)
def test_the_length_is_that_of_the_written_file(arrays: list[tuple[str, int]], document: dict[str, int]) -> None:
    """For any arrays and any document, to the byte."""
    parts = container.PartWriter()
    for kind, count in arrays:
        parts.add(np.zeros(count, dtype=kind))
    assert container.length(document, parts) == len(container.write(document, parts))


class Untraceable(nn.Module):
    """Looks at its values, so that files only say how it differs from the original."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 40), nn.Linear(40, 32)
        self.again = self.second
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(x) if x.sum() < 1e9 else self.last(self.again(x))


@pytest.mark.parametrize("coder", [None, Step.of(MODEL, "entropy")], ids=["plain", "coded"])
def test_steps_of_an_untraceable_model_save_what_its_files_do(coder: Step | None) -> None:
    """Where only the differences from the original are described, the bytes are those of the real file, too."""
    torch.manual_seed(0)
    batches = [(torch.randn(16, 24), torch.randint(0, 4, (16,)))]
    task = Task(Untraceable(), batches, train=batches)
    space = Space.from_task(task, ["svd", "integer", "int8", "codebook", "magnitude"])
    bench = Bench(task, space.sites, (), ())
    survey, fisher = Survey(task, space.sites, coder), measure_fisher(task, space.sites.values())
    before = str(task.model)
    tail = [] if coder is None else [coder]
    original = len(bench.compress(Recipe(), 0)[0].data)
    choices, kinds = Choices(space), set()
    for decision, found in zip(choices.decisions, choices.settings):
        for setting in found[::3]:
            effect = survey.effect(decision.site, setting, fisher)
            saved, _ = bench.compress(Recipe.of([setting.step(decision.site), *tail]), 0)
            assert not effect.error
            assert "can't be traced" in saved.needs_class
            assert effect.saved == original - len(saved.data), (decision.site, setting)
            kinds.add(setting.technique)
    assert kinds == {"svd", "integer", "int8", "codebook", "magnitude"}
    assert str(task.model) == before
