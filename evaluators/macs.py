"""Multiply-accumulates of one example, through fvcore."""

from __future__ import annotations

import copy
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..spaces.errors import ModelError
from .base import Direction, Evaluator, Measurement, Subject, register
from .inference import at_batch, device_of, inference
from .operators import HANDLERS, without_macs
from .structure import structure

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # fvcore compiles a loss with torch.jit when imported
    from fvcore.nn import FlopCountAnalysis

Counts = tuple[dict[str, int], dict[str, int]]

#: Structures whose counts are remembered. Few are alive at a time: most recipes of a search share one.
REMEMBERED = 256
_remembered: OrderedDict[Hashable, Counts] = OrderedDict()
_lock = threading.Lock()


def macs_by_module(model: nn.Module, example: tuple[Tensor, ...]) -> Counts:
    """Return what each module multiplies and accumulates for one example, and what couldn't be counted.

    The counts are fvcore's (a fused multiply-add is 1; a batch norm 2 per element, a layer norm 5), with
    handlers of our own for what fvcore misses (see `operators`). Element-wise arithmetic, activations,
    pooling and data movement count 0 by fvcore's convention. An operator that may multiply and isn't known is
    reported.

    Tracing takes long and counts depend on the structure alone, so they are remembered for each structure. A
    model whose control flow depends on values is counted along the path of the first one traced.

    Parameters
    ----------
    model
        Any module; it is traced as a copy and never touched.
    example
        Its inputs, the batch in the first dimension. Counts are divided by the number of examples.

    Returns
    -------
    counts
        Module path -> MACs of its own operators, not those of its children. A module that is called under
        several names is listed under the first. The values add up to the model's total.
    uncounted
        Operator -> how often it occurs.

    Raises
    ------
    ModelError
        If the model can't be traced.
    """
    inputs = at_batch(example, len(example[0]), device_of(model))
    key = structure(model, inputs)
    with _lock:
        found = _remembered.get(key) if key is not None else None
        if found is None:
            found = _count(model, inputs)
        if key is not None:
            _remembered[key] = found
            _remembered.move_to_end(key)
            if len(_remembered) > REMEMBERED:
                _remembered.popitem(last=False)
    return dict(found[0]), dict(found[1])


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Switch off the fused encoder layers of `torch.nn`, which a trace would show as one unknown operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _count(model: nn.Module, inputs: tuple[Tensor, ...]) -> Counts:
    traced = copy.deepcopy(model)  # fvcore puts hooks on every module, and leaves them when tracing fails
    try:
        with warnings.catch_warnings(), inference(traced), _plain_attention():
            warnings.simplefilter("ignore")  # torch.jit's tracer, which fvcore relies on, is deprecated
            analysis: Any = FlopCountAnalysis(traced, inputs).set_op_handle(**HANDLERS)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            totals: Counter[str] = analysis.by_module()
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ModelError(
            f"macs: the model can't be traced ({type(error).__name__}: {reason}). "
            "Let its forward pass take and return tensors only, or leave macs and bops out of the objectives."
        ) from error
    unknown = {op: n for op, n in analysis.unsupported_ops().items() if not without_macs(op)}
    rows = len(inputs[0])
    own = {path: round(n / rows) for path, n in _without_children(totals).items()}
    return {path: n for path, n in own.items() if n}, dict(sorted(unknown.items()))


def _without_children(totals: Counter[str]) -> Counter[str]:
    """Take from each module's total what its descendants did."""
    own = Counter(totals)
    for path, count in totals.items():
        if path:
            parent = path.rpartition(".")[0]
            while parent not in totals:
                parent = parent.rpartition(".")[0]
            own[parent] -= count
    return own


class Macs(Evaluator):
    """Multiply-accumulates for one example, as fvcore counts them; operators nobody knows are reported."""

    name = "macs"
    unit = "MACs"
    direction: Direction = "minimize"
    cost: ClassVar[float] = 0.05
    summary: ClassVar[str] = "Multiply-accumulates of one example (fvcore's count; unknown operators are listed)."

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact count; ``detail["uncounted"]`` has operators with no known count, and how many.

        Raises
        ------
        ModelError
            If the model can't be traced.
        """
        counts, uncounted = macs_by_module(subject.model, subject.task.example)
        detail: dict[str, Any] = {"uncounted": uncounted} if uncounted else {}
        return Measurement(float(sum(counts.values())), self.unit, detail=detail)


register(Macs())
