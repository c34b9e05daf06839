"""Which technique was chosen where: the rows of the map of sites against points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .figures import number, share

#: Parameters that say what part of a site's weight bits remains, and how.
_KEEPS: dict[str, Callable[[float], float]] = {
    "bits": lambda v: v / 32,
    "density": lambda v: v,
    "fraction": lambda v: v,
    "ratio": lambda v: 1 - v,
}


def describe(step: Mapping[str, Any]) -> str:
    """Return a step as ``technique (param value, ...)``."""
    params = step.get("params") or {}
    inside = ", ".join(f"{k.replace('_', ' ')} {_scalar(k, v)}" for k, v in params.items())
    return f"{step['technique']} ({inside})" if inside else str(step["technique"])


def kept(steps: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the nominal share of a site's weight bits that remains, or None if no parameter says so.

    It is the product of bits / 32, density, fraction of the break-even rank and 1 - ratio. Scales, indices and
    coding aren't in it: the measured size is the figure to trust.
    """
    product, known = 1.0, False
    for step in steps:
        for name, value in (step.get("params") or {}).items():
            amount = number(value)
            if name in _KEEPS and amount is not None and not isinstance(value, bool):
                product, known = product * _KEEPS[name](amount), True
    return min(max(product, 0.0), 1.0) if known else None


def matrix(sites: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the map of choices.

    Parameters
    ----------
    sites
        In the model's order; a site that only a point names is put last.
    points
        With ``layers``: site -> steps.

    Returns
    -------
    dict
        ``rows``: ``{site, kind, cells}``, one cell a point, None where the site was left alone, else
        ``{lines, title, kept, knobs}``; ``knobs``: names ``technique.param`` of the numeric parameters;
        ``idle``: how many sites no point changed; ``short``: technique -> abbreviation.
    """
    kinds = {str(s["name"]): str(s.get("kind", "")) for s in sites}
    for point in points:
        for name in point.get("layers") or {}:
            kinds.setdefault(name, "model" if name == "<model>" else "")
    used = {s["technique"] for p in points for steps in (p.get("layers") or {}).values() for s in steps}
    short = abbreviations(used)
    rows: list[dict[str, Any]] = []
    for site, kind in kinds.items():
        cells = [_cell((p.get("layers") or {}).get(site) or (), short) for p in points]
        if any(cells):
            rows.append({"site": site, "kind": kind, "cells": cells})
    knobs = sorted({k for row in rows for cell in row["cells"] if cell for k in cell["knobs"]})
    return {"rows": rows, "knobs": knobs, "idle": len(kinds) - len(rows), "short": short}


def abbreviations(names: Iterable[str]) -> dict[str, str]:
    """Return the shortest prefix of three or more letters that tells each name from the others."""
    known = sorted(set(names))
    out = {}
    for name in known:
        length = 3
        while length < len(name) and any(o != name and o.startswith(name[:length]) for o in known):
            length += 1
        out[name] = name[:length]
    return out


def _cell(steps: Sequence[Mapping[str, Any]], short: Mapping[str, str]) -> dict[str, Any] | None:
    if not steps:
        return None
    lines, knobs = [], {}
    for step in steps:
        params = step.get("params") or {}
        main = next((k for k in (*_KEEPS, "rank", "steps", *params) if k in params), None)
        value = f" {_scalar(main, params[main])}" if main is not None else ""
        lines.append(short[step["technique"]] + value)
        for name, given in params.items():
            amount = number(given)
            if amount is not None and not isinstance(given, bool | str):
                knobs[f"{step['technique']}.{name}"] = amount
    title = "; ".join(describe(s) for s in steps)
    return {"lines": lines, "title": title, "kept": kept(steps), "knobs": knobs}


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return share(value) if name in _KEEPS else f"{value:g}"
    return str(value)
