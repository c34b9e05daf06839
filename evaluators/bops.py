"""Bit operations: multiply-accumulates weighted by the widths of both factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from .base import Direction, Evaluator, Measurement, Subject, register
from .macs import macs_by_module

FULL = 32


def bits_at(path: str, named: Mapping[str, int]) -> int:
    """Return the bits of the longest prefix of a module path that is named, 32 if none is.

    So the factors ``conv.0`` and ``conv.1`` of a factorised layer may be named each, or together as ``conv``.
    """
    while path and path not in named:
        path = path.rpartition(".")[0]
    return named.get(path, FULL)


def _canonical(named: Mapping[str, int], model: nn.Module) -> dict[str, int]:
    """Call modules by the first of their names, as the counts do: a shared module has several."""
    first: dict[int, str] = {}
    known: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        known[path] = first.setdefault(id(module), path)
    return {known.get(path, path): bits for path, bits in named.items()}


class BitOperations(Evaluator):
    """Sum over modules of MACs x weight bits x activation bits (Baskin et al., UNIQ, ACM TOCS 37, 2021).

    For one example. Products of two activations (attention) and normalisations belong to the module that runs
    them, which is usually not named and then has 32 bits; a full-precision model has 1024 times its MACs.
    """

    name = "bops"
    unit = "bit operations"
    direction: Direction = "minimize"
    cost: ClassVar[float] = 0.06
    summary: ClassVar[str] = "Multiply-accumulates x weight bits x activation bits of one example."

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact count; ``detail["uncounted"]`` has operators with no known count, as for MACs.

        Raises
        ------
        ModelError
            If the model can't be traced.
        """
        counts, uncounted = macs_by_module(subject.model, subject.task.example)
        weight_bits = _canonical(subject.weight_bits, subject.model)
        activation_bits = _canonical(subject.activation_bits, subject.model)
        total = sum(n * bits_at(path, weight_bits) * bits_at(path, activation_bits) for path, n in counts.items())
        detail: dict[str, Any] = {"uncounted": uncounted} if uncounted else {}
        return Measurement(float(total), self.unit, detail=detail)


register(BitOperations())
