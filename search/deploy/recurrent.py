"""Recurrent layers in ONNX: their weights stay whole tensors of the model, and plain ones stay single nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from onnxscript import opset20

op: Any = opset20  # it takes lists of numbers as well, which its types don't say
_LAYERS = {"LSTM", "GRU", "RNN"}
#: What an exporter reorders gates and joins directions with.
_ORDERS = {"Slice", "Concat", "Unsqueeze"}


def is_foldable(node: ir.Node) -> bool | None:
    """Return False for what orders a recurrent layer's weights, None where the exporter may decide.

    Folded, such weights are constants that no tensor of the model is equal to. Left as they are, they can be packed,
    and runtimes fold the few nodes when they load the file.
    """
    if node.op_type not in _ORDERS:
        return None
    seen = [node]
    for each in seen:
        users = [use.node for value in each.outputs for use in value.uses()]
        seen += [user for user in users if user.op_type in _ORDERS]
        if not users or any(user.op_type not in _ORDERS | _LAYERS for user in users):
            return None
    return False


def as_rnn(activation: str) -> Callable[..., Any]:
    """Return what translates torch's plain recurrent layers of an activation, which would be unrolled otherwise."""

    def translated(
        x: Any,
        hidden: Any,
        params: Sequence[Any],
        has_biases: bool,
        num_layers: int,
        dropout: float,  # noqa: ARG001 - inference has none
        train: bool,  # noqa: ARG001 - as above
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Any, Any]:
        directions, each = 1 + bidirectional, 4 if has_biases else 2
        x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
        last = []
        for layer in range(num_layers):
            first = layer * directions
            own = [params[each * n : each * (n + 1)] for n in range(first, first + directions)]
            inner, outer = ([op.Unsqueeze(p[k], [0]) for p in own] for k in range(2))
            joined = [_joined(inner), _joined(outer)]
            if has_biases:
                joined.append(_joined([op.Unsqueeze(op.Concat(p[2], p[3], axis=0), [0]) for p in own]))
            start = op.Slice(hidden, [first], [first + directions], [0])
            x, h = op.RNN(
                x, *joined, *[None] * (has_biases is False), None, start,
                activations=[activation] * directions, hidden_size=hidden.shape[2],
                direction="bidirectional" if bidirectional else "forward",
            )  # fmt: skip
            x = op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), [0, 0, -1])
            last.append(h)
        return (op.Transpose(x, perm=[1, 0, 2]) if batch_first else x), _joined(last)

    return translated


def _joined(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else op.Concat(*values, axis=0)
