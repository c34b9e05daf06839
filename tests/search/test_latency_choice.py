"""Which latency a table is measured for, and who measures it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from paretopress.evaluators.base import Evaluator, evaluator
from paretopress.evaluators.latency import Latency
from paretopress.search.deploy.layer_latency import DeployedLatency
from paretopress.search.effects import Survey
from paretopress.search.latency_choice import integers_missing, source_of, timed_metric, wants_integers
from paretopress.search.layer_latency import LayerLatency
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

PHONE = Latency(device="./phone.sh {model} {baseline}", name="phone")


def test_a_table_is_of_the_first_latency_that_is_measured_here_layer_by_layer() -> None:
    """A phone's or a compiler's layers can't be timed one by one, and other metrics have none."""
    own = [evaluator("size"), PHONE, Latency(runtime="compiled", name="compiled"), Latency(32), Latency()]
    assert timed_metric(own) is own[3]
    assert timed_metric(own[:3]) is None


@pytest.mark.parametrize(("runtime", "kind"), [("onnxruntime", DeployedLatency), ("torch", LayerLatency)])
def test_layers_are_timed_where_the_metric_times_models(runtime: str, kind: type, tmp_path: Path) -> None:
    """What predicts a figure must come from the runtime of that figure."""
    task = Task(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), [(torch.randn(2, 4), torch.zeros(2, dtype=torch.long))])
    assert type(source_of(Survey(task, {}, None), Latency(runtime=runtime), tmp_path)) is kind


@pytest.mark.parametrize(
    ("metrics", "wanted"),
    [([evaluator("size")], False), ([Latency(runtime="torch")], False), ([Latency()], True), ([PHONE], True)],
)
def test_integer_kernels_are_wanted_where_deployed_files_are_timed(metrics: list[Evaluator], wanted: bool) -> None:
    """Nothing else gains from them, and trials are few."""
    assert wants_integers(metrics) is wanted


def test_a_space_that_leaves_out_integer_kernels_is_told_where_they_pay() -> None:
    """Whoever asks for a latency and names a space of their own learns what isn't searched, and only then."""
    task = Task(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), [(torch.randn(2, 4), torch.zeros(2, dtype=torch.long))])
    full, deployed = Space.from_task(task), Space.from_task(task, "deployed")
    assert "the space is without int8" in integers_missing(full, [Latency()])
    assert not integers_missing(full, [evaluator("size")])
    assert not integers_missing(deployed, [Latency()])
    words = [(torch.randint(0, 9, (2, 4)), torch.zeros(2, dtype=torch.long))]
    lookup = Space.from_task(Task(nn.EmbeddingBag(9, 3), words), "deployed")
    assert not integers_missing(lookup, [Latency()])  # no layer of it runs on integers
