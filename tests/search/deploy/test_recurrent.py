"""Recurrent layers are deployed with packed weights, as small as the native file, and plain ones as single nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from paretopress.evaluators.onnx_session import Session
from paretopress.search import Recipe, Space, Task
from paretopress.search.deploy.onnx_file import to_onnx
from paretopress.search.deploy.skeleton import Exporter, Skeleton
from paretopress.search.trial import Bench
from paretopress.spaces.recipe import Step

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("integer", {"bits": 4, "granularity": "channel"}),
    ("codebook", {"bits": 4}),
    ("magnitude", {"density": 0.2}),
]


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last output."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(16, 96, batch_first=True, **options)
        self.head = nn.Linear(96 * (1 + self.rnn.bidirectional), 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def bench_of(kind: type[nn.RNNBase], **options: Any) -> Bench:
    """Return where trials of a recurrent model are made."""
    torch.manual_seed(0)
    task = Task(Recurrent(kind, **options), [(torch.randn(8, 6, 16), torch.arange(8) % 4)])
    return Bench(task, Space.from_task(task).sites, (), ())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("technique", "params"), FORMS, ids=[name for name, _ in FORMS])
def test_compressed_recurrent_weights_stay_compressed_in_onnx(
    kind: type[nn.RNNBase], technique: str, params: dict[str, Any]
) -> None:
    """Protects the size on the device: reordered gates were stored dense, in 3 to 4.5 times the native bytes."""
    bench = bench_of(kind)
    saved, draft = bench.compress(Recipe.of([Step.of("rnn", technique, **params)]), 0)
    data = to_onnx(bench.reload(saved, draft), draft.encodings, bench.task.example)
    share = len(data) / len(saved.data)
    assert share <= 1.10


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "bias": False}, {"dropout": 0.5, "num_layers": 2}],
    ids=str,
)
def test_recurrent_layers_compute_the_same_in_onnx(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    """Protects outputs: gates and directions must come together again as the operator wants them."""
    bench = bench_of(kind, **options)
    x = torch.randn(5, 6, 16)
    data = to_onnx(bench.task.model, {}, bench.task.example)
    with torch.no_grad():
        expected = bench.task.model(x)
    assert torch.allclose(torch.from_numpy(Session(data)(x.numpy())), expected, atol=1e-5)


def test_plain_recurrent_layers_are_not_unrolled() -> None:
    """Protects speed and size: unrolled, a layer was a node for each step, and its weights were stored as often."""
    bench = bench_of(nn.RNN, nonlinearity="relu")
    data = to_onnx(bench.task.model, {}, bench.task.example)
    nodes = Counter(node.op_type for node in onnx.load_from_string(data).graph.node)
    assert nodes["RNN"] == 1
    assert nodes["MatMul"] == 0


def test_a_recurrent_model_is_exported_once_for_all_its_recipes() -> None:
    """Protects trials' time: with reordered weights as constants, torch's exporter ran for every one of them."""
    bench = bench_of(nn.LSTM)
    known: dict[str, Skeleton | None] = {}
    exporter = Exporter(memory=known)
    exporter._shelf = None
    for technique, params in FORMS:
        saved, draft = bench.compress(Recipe.of([Step.of("rnn", technique, **params)]), 0)
        to_onnx(bench.reload(saved, draft), draft.encodings, bench.task.example, exporter)
    assert exporter.runs == 1
