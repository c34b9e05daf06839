"""How a measured number is written for a person: bytes as kB, MACs as M, shares as per cent, ratios with ×."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["share", "bytes", "count", "factor", "number"]

LABELS = {
    "macs": "MACs",
    "bops": "bit operations",
    "params": "parameters",
    "memory": "peak memory",
    "onnx_size": "ONNX file",
    "nnz_macs": "non-zero MACs",
}
_COUNTS = frozenset({"macs", "bops", "params", "parameters", "nnz_macs"})
_COUNT_UNITS = frozenset({"MACs", "MAC", "bops", "bit operations", "parameters", "weights"})
_SPACE = "\N{NO-BREAK SPACE}"
_PREFIXES = ("", "k", "M", "G", "T", "P")
_AXES: dict[Kind, tuple[str, str]] = {
    "share": (".1~%", ""),
    "bytes": (".3~s", " in bytes"),
    "count": (".3~s", ""),
    "factor": (".3~f", " × baseline"),
    "number": (".4~g", ""),
}


def label(metric: str) -> str:
    """Return the name of a metric as prose has it."""
    return LABELS.get(metric, re.sub(r"_batch(\d+)$", r" at batch \1", metric).replace("_", " "))


def kind_of(metric: str, unit: str) -> Kind:
    """Return how the values of a metric are written."""
    if unit == "B":
        return "bytes"
    if metric in _COUNTS or unit in _COUNT_UNITS:
        return "count"
    if unit.startswith(("x ", "×")) or unit == "x":
        return "factor"
    if "accuracy" in metric and unit in {"", "fraction", "share"}:
        return "share"
    return "number"


def axis(kind: Kind, unit: str) -> tuple[str, str]:
    """Return the d3 tick format of an axis, and the words that its title adds to the label."""
    tick, measure = _AXES[kind]
    return tick, f" in {unit}" if kind == "number" and unit else measure


def number(value: Any) -> float | None:
    """Return a finite float, or None for what isn't one (absent, NaN, infinite, not a number)."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def show(value: float | None, kind: Kind, unit: str = "") -> str:
    """Return a value with its unit, to about three significant digits; an en dash if there is none."""
    if value is None:
        return "–"
    if kind == "share":
        return f"{100 * value:.2f}{_SPACE}%"
    if kind == "factor":
        return factor(value)
    if kind == "number":
        return f"{value:.4g}{_SPACE}{unit}".rstrip()
    text, prefix = _prefixed(value)
    return f"{text}{_SPACE}{prefix}{'B' if kind == 'bytes' else ''}".rstrip()


def show_range(low: float, high: float, kind: Kind, unit: str = "") -> str:
    """Return an interval as low–high with the unit once where both share it."""
    if kind == "share":
        return f"{100 * low:.1f}–{100 * high:.1f}{_SPACE}%"
    first, last = show(low, kind, unit), show(high, kind, unit)
    tail = _SPACE + first.rpartition(_SPACE)[2] if _SPACE in first else "×"
    return f"{first.removesuffix(tail)}–{last}" if last.endswith(tail) else f"{first}–{last}"


def factor(value: float) -> str:
    """Return a ratio such as 5.2×."""
    return f"{_digits(value)}×"


def paired(ratio: float | None, detail: Mapping[str, Any]) -> str:
    """Return a latency in milliseconds beside the original's in the same pairs, as 0.0545 of 0.0567 ms, so that they
    say what the ratio says; nothing where that wasn't recorded.
    """
    base = number(detail.get("baseline_milliseconds"))
    return "" if base is None or ratio is None else f"{ratio * base:.3g} of {base:.3g} ms"


def share(value: float) -> str:
    """Return a part of a whole without needless digits: 0.5 as 50 %, 0.125 as 12.5 %."""
    return f"{round(100 * value, 1):g}{_SPACE}%"


def change(saving: float) -> str:
    """Return a saved share as the change it is: 0.81 as −81 %, -0.1 as +10 %, nothing as 0 %."""
    text = share(abs(saving))
    return text if text == share(0) else ("−" if saving > 0 else "+") + text


def _digits(value: float) -> str:
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if 0.001 <= size < 0.1:
        return f"{value:.3f}"  # a ratio such as 0.064 would be 0.06
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _prefixed(value: float) -> tuple[str, str]:
    step = 0
    while abs(value) >= 999.5 and step < len(_PREFIXES) - 1:
        value, step = value / 1000, step + 1
    text = f"{value:.0f}" if step == 0 and value == int(value) else _digits(value)
    return text, _PREFIXES[step]
