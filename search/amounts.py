"""Figures as people read them."""

from __future__ import annotations

import math


def amount(value: float, unit: str = "") -> str:
    """Return a figure as people read it: 12.3 kB, 1.52 M, 0.81×, 0.064×."""
    if math.isnan(value):
        return "–"
    if unit.startswith("x "):
        return f"{value:.{2 if value >= 0.1 else 3}f}×"
    if unit == "B" or abs(value) >= 10_000:
        prefixed = value
        for prefix in ("", "k", "M", "G", "T"):
            if abs(prefixed) < 1000 or prefix == "T":
                digits = 0 if prefix == "" else 1 if abs(prefixed) >= 10 else 2
                return f"{prefixed:.{digits}f} {prefix}{'B' if unit == 'B' else ''}".rstrip()
            prefixed /= 1000
    return f"{value:.4g}"
