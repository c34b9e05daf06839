"""What to take, for one who can give up this much quality: the sentence at the top of the page.

The margin is tested on the figures of the search (validation), so that the test data chooses nothing; what the
chosen point reaches on the final split is then reported beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import label

#: Relative losses of quality that a reader can choose from.
TOLERANCES = (0.0, 0.005, 0.01, 0.02, 0.05)
DEFAULT = 0.01

_SUPERLATIVES = {
    "size": "smallest",
    "latency": "fastest",
    "macs": "fewest MACs",
    "bops": "fewest bit operations",
    "parameters": "fewest parameters",
    "params": "fewest parameters",
    "memory": "least memory",
}


def answers(
    points: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, Any],
    quality: tuple[str, str],
    goals: Sequence[tuple[str, str]],
    split: str,
) -> list[dict[str, Any]]:
    """Return one answer for each tolerance.

    Parameters
    ----------
    points, baseline
        Points whose ``search`` and ``final`` hold ``{metric: {"value", "text", "range"}}`` and whose ``ratios``
        hold ``{metric: {"short", "tone"}}``.
    quality
        Name and direction of the quality metric.
    goals
        Names and directions of the other objectives, the one that the headline speaks of first.
    split
        Where the final figures were taken.

    Returns
    -------
    list of dict
        ``tolerance``, ``label``, ``headline``, ``caveat`` and ``cards`` (one for each goal that has a winner).
    """
    out = []
    for tolerance in TOLERANCES:
        inside = [p for p in points if _loss(p, baseline, quality, "search") <= tolerance + 1e-9]
        cards = [c for goal in goals if (c := _card(inside, baseline, quality, goal, tolerance))]
        headline, caveat = _sentence(points, inside, baseline, quality, goals, tolerance, split)
        named = f"{100 * tolerance:g} %" if tolerance else "none"
        out.append({"tolerance": tolerance, "label": named, "headline": headline, "caveat": caveat, "cards": cards})
    return out


def _value(point: Mapping[str, Any], metric: str, side: str) -> float | None:
    other = "final" if side == "search" else "search"
    for where in (side, other):
        found = point[where].get(metric)
        if found is not None and found["value"] is not None:
            return float(found["value"])
    return None


def _loss(point: Mapping[str, Any], baseline: Mapping[str, Any], quality: tuple[str, str], side: str) -> float:
    """Return the relative loss of quality against the baseline, infinite where it isn't known."""
    name, direction = quality
    here, base = _value(point, name, side), _value(baseline, name, side)
    if here is None or base is None:
        return float("inf")
    lost = base - here if direction == "maximize" else here - base
    if lost <= 0:
        return lost
    return lost / abs(base) if base else float("inf")


def _best(points: Sequence[Mapping[str, Any]], goal: tuple[str, str]) -> Mapping[str, Any] | None:
    name, direction = goal
    known = [(v, p) for p in points if (v := _value(p, name, "search")) is not None]
    if not known:
        return None
    sign = -1.0 if direction == "maximize" else 1.0
    return min(known, key=lambda pair: sign * pair[0])[1]  # the first of equals: points come sorted by quality


def _figure(point: Mapping[str, Any], metric: str) -> str:
    found = point["final"].get(metric) or point["search"].get(metric)
    return str(found["text"]) if found else "–"


def _superlative(metric: str) -> str:
    if metric.startswith("latency_"):
        where = label(metric).partition(" at ")[2]
        return f"fastest at {where}" if where else f"fastest ({label(metric)})"
    return _SUPERLATIVES.get(metric, f"best {label(metric)}")


def _card(
    inside: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, Any],
    quality: tuple[str, str],
    goal: tuple[str, str],
    tolerance: float,
) -> dict[str, Any] | None:
    point = _best(inside, goal)
    if point is None:
        return None
    title = _superlative(goal[0])
    return {
        "title": title[:1].upper() + title[1:],
        "point": point["id"],
        "value": _figure(point, goal[0]),
        "versus": point["ratios"].get(goal[0], {}).get("short", ""),
        "tone": point["ratios"].get(goal[0], {}).get("tone", "even"),
        "quality": f"{_figure(point, quality[0])} {label(quality[0])}",
        "outside": _loss(point, baseline, quality, "final") > tolerance + 1e-9,
    }


def _sentence(
    points: Sequence[Mapping[str, Any]],
    inside: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, Any],
    quality: tuple[str, str],
    goals: Sequence[tuple[str, str]],
    tolerance: float,
    split: str,
) -> tuple[str, str]:
    name = label(quality[0])
    margin = f"within {100 * tolerance:g} % of the baseline’s {name}"
    if not tolerance:
        margin = f"that keeps the baseline’s {name}"
    if not points:
        return "The search returned no compressed model.", ""
    best = _best(inside, goals[0]) if goals else None
    if best is None:
        nearest = min(points, key=lambda p: _loss(p, baseline, quality, "search"))
        lead = f"No point is {margin}." if tolerance else f"No point keeps the baseline’s {name}."
        return f"{lead} The nearest is point {nearest['id']}: {_facts(nearest, quality, goals, split)}.", ""
    kind = _superlative(goals[0][0])
    lead = f"Point {best['id']} is the {kind} model {margin}"
    if kind.startswith(("fewest", "least", "best")):
        lead = f"Point {best['id']} has the {kind} {margin.replace('that keeps', 'while keeping')}"
    headline = f"{lead}: {_facts(best, quality, goals, split)}."
    lost = _loss(best, baseline, quality, "final")
    if lost <= tolerance + 1e-9 or lost == float("inf"):
        return headline, ""
    return headline, (
        f"It was inside this margin on validation; on {split} it is {100 * lost:.2g} % below the baseline."
        if quality[1] == "maximize"
        else f"It was inside this margin on validation; on {split} it is {100 * lost:.2g} % above the baseline."
    )


def _facts(point: Mapping[str, Any], quality: tuple[str, str], goals: Sequence[tuple[str, str]], split: str) -> str:
    parts = []
    for goal, _ in goals[:1]:
        versus = point["ratios"].get(goal, {}).get("short", "")
        parts.append(_figure(point, goal) + (f", {versus}" if versus else ""))
    final = point["final"].get(quality[0])
    if final is not None and final["value"] is not None:
        around = f" (95 % interval {final['range']})" if final["range"] else ""
        parts.append(f"{final['text']} {label(quality[0])} on {split}{around}")
    return ", ".join(parts) or "its figures are missing"
