"""From the data of a run to one HTML page that works from ``file://`` and never touches the network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...spaces.errors import SettingError
from .answers import DEFAULT, answers
from .choices import describe, matrix
from .document import clean, document
from .figures import axis, change, factor, kind_of, label, number, paired, show, show_range

_REQUIRED = ("name", "objectives", "quality", "baseline", "points")
_ALWAYS = ("size", "latency")  # what one asks for even if the search didn't
_RATIO = "x "  # how the unit of a latency begins
_SCRIPTS = ("base.js", "core.js", "plots.js", "matrix.js", "panel.js", "page.js")  # one script: they share its scope
_RATIO_WORDS = {"size": ("smaller", "larger"), "memory": ("smaller", "larger")}


def render(data: Mapping[str, Any]) -> str:
    """Return the report of a run as one self-contained HTML page.

    Everything in ``data`` is treated as text of unknown origin: it is escaped, and the page's content security
    policy runs no script but its own. NaN, infinite and missing figures are shown as a dash.

    Parameters
    ----------
    data
        JSON-able, of this form (REPORT_SCHEMA); only the keys marked * must be there::

            name*, created, version: str
            objectives*: [{name, direction: "maximize" | "minimize", unit}]
            quality*: str, name of the quality metric; quality_direction: "maximize" | "minimize"
            larger: [str], other metrics that are better when larger
            split: "test" | "validation", where the final figures were taken
            baseline*: POINT; points*: [POINT], the front sorted by quality
            trials: [{number, origin, status: "ok" | "failed" | "stopped", error, values: {metric: float}, seconds,
                      front}]
            hypervolume: [[number of trials, value]]
            sites: [{name, kind, shape, macs, bytes}]
            reproduce: {command, seed, task, space, sampler, budget, machine, versions: {package: version}}
            infeasible: str, which limits the nearest point misses if no point keeps them all
            notes: [str]; failures: [{reason, count}], by default the errors of the failed trials, counted

            POINT: {id, trial, digest, path, pick, export, flags: [str],
                    search: {metric: MEASUREMENT}, on validation; final: {metric: MEASUREMENT}, on ``split``
                    ratios: {metric: {compression, saving} | {speedup}}
                    layers: {site: [{technique, params}]}}
            MEASUREMENT: {value, unit, interval: [low, high], detail: {...}}

    Returns
    -------
    str
        The page, about 1.5 MB, nearly all of it the charting library.

    Raises
    ------
    SettingError
        If a required key is missing.
    """
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise SettingError("report data", missing, "these keys are missing", "Write the report from a finished run.")
    view = _view(clean(data))
    return document("page.html", view, ("page.css",), _SCRIPTS)


def _view(data: dict[str, Any]) -> dict[str, Any]:
    quality = data["quality"]
    split = data.get("split") or "validation"
    metrics = _metrics(data)
    by_name = {m["name"]: m for m in metrics}
    order = {s["name"]: i for i, s in enumerate(data.get("sites") or [])}
    baseline = _point(data["baseline"], by_name, order) | {"ratios": {}}
    points = [_point(p, by_name, order) for p in data["points"]]
    wanted = [m for m in metrics if m["objective"] or m["name"] in _ALWAYS or m["unit"].startswith(_RATIO)]
    goals = [(m["name"], m["direction"]) for m in wanted if m["name"] != quality]
    goals.sort(key=lambda goal: goal[0] != "size")
    trials = data.get("trials") or []
    client = {
        "name": data["name"],
        "metrics": metrics,
        "quality": quality,
        "split": split,
        "baseline": baseline,
        "points": points,
        "trials": [_trial(t, by_name) for t in trials if t.get("status") != "failed" and not t.get("front")],
        "hypervolume": [pair for pair in data.get("hypervolume") or [] if None not in pair],
        "matrix": matrix(data.get("sites") or [], data["points"]),
        "sites": {s["name"]: _site(s) for s in data.get("sites") or []},
    }
    return {
        "client": client,
        "title": data["name"],
        "created": re.sub(r"(?<=\d)T(?=\d)", " ", data.get("created") or ""),
        "version": data.get("version") or "",
        "split": split,
        "metrics": metrics,
        "baseline": baseline,
        "points": points,
        "borrowed": any(m["name"] not in p["final"] and m["name"] in p["search"] for p in points for m in metrics),
        "quality": by_name[quality],
        "both_splits": split != "validation",
        "answers": answers(points, baseline, (quality, by_name[quality]["direction"]), goals, split),
        "default": DEFAULT,
        "tried": len(trials),
        "failed": sum(t.get("status") == "failed" for t in trials),
        "stopped": sum(t.get("status") == "stopped" for t in trials),
        "failures": _failures(data, trials),
        "hypervolume": client["hypervolume"],
        "matrix": client["matrix"],
        "reproduce": _reproduce(data.get("reproduce") or {}),
        "command": (data.get("reproduce") or {}).get("command") or "",
        "infeasible": data.get("infeasible") or "",
        "notes": data.get("notes") or [],
        "limits": _limits(data, by_name, split),
    }


def _metrics(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every metric once: quality, the other objectives, then whatever else was measured."""
    quality = data["quality"]
    goals = {o["name"]: o for o in data["objectives"]}
    order = dict.fromkeys([quality, *goals])
    units = {o["name"]: o.get("unit") or "" for o in data["objectives"]}
    for point in (data["baseline"], *data["points"]):
        for side in ("final", "search"):
            for name, measured in (point.get(side) or {}).items():
                order.setdefault(name)
                units[name] = units.get(name) or (measured or {}).get("unit") or ""
    out = []
    for name in order:
        usual = "maximize" if name in data.get("larger", ()) else "minimize"
        direction = goals.get(name, {}).get("direction") or usual
        if name == quality:
            direction = data.get("quality_direction") or goals.get(name, {}).get("direction") or "maximize"
        unit = units.get(name, "")
        kind = kind_of(name, unit)
        tick, measure = axis(kind, unit)
        out.append(
            {
                "name": name,
                "label": label(name),
                "direction": direction,
                "unit": unit,
                "kind": kind,
                "tick": tick,
                "measure": measure,
                "objective": name in goals or name == quality,
            }
        )
    return out


def _point(
    point: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], order: Mapping[str, int]
) -> dict[str, Any]:
    layers = point.get("layers") or {}
    ratios = point.get("ratios") or {}
    return {
        "id": point.get("id"),
        "trial": point.get("trial"),
        "digest": point.get("digest") or "",
        "path": point.get("path") or "",
        "flags": point.get("flags") or [],
        "pick": point.get("pick") or "",
        "export": point.get("export") or "",
        "search": _figures(point.get("search") or {}, metrics),
        "final": _figures(point.get("final") or {}, metrics),
        "ratios": {name: r for name, given in ratios.items() if (r := _ratio(name, given or {}))},
        "layers": [
            {"site": site, "choices": [describe(s) for s in steps]}
            for site, steps in sorted(layers.items(), key=lambda item: order.get(item[0], len(order)))
            if steps
        ],
    }


def _figures(measured: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    out = {}
    for name, given in measured.items():
        kind, unit = metrics[name]["kind"], metrics[name]["unit"]
        value = number((given or {}).get("value"))
        low, high = _interval(given or {})
        exact = low is None or high is None or value is None
        around = "" if low is None or high is None or value is None else show_range(low, high, kind, unit)
        out[name] = {
            "value": value,
            "low": None if exact else low,
            "high": None if exact else high,
            "text": show(value, kind, unit),
            "range": around,
            **_details(value, (given or {}).get("detail") or {}),
        }
    return out


def _interval(given: Mapping[str, Any]) -> tuple[float | None, float | None]:
    interval = given.get("interval")
    if not isinstance(interval, Sequence) or len(interval) != 2:
        return None, None
    return number(interval[0]), number(interval[1])


def _details(value: float | None, detail: Mapping[str, Any]) -> dict[str, str]:
    """Return what else there is to say of a figure, and in short for the table, whose first row has the baseline's."""
    marks = [word for key, word in (("noisy", "noisy"), ("contended", "busy machine")) if detail.get(key)]
    timed = paired(value, detail)
    short = timed.partition(" of ")[0] + " ms" if timed else ""
    return {name: ", ".join(w for w in (words, *marks) if w) for name, words in (("detail", timed), ("brief", short))}


def _ratio(name: str, given: Mapping[str, Any]) -> dict[str, str] | None:
    """Return compression rate or speed-up, and space saving, in words and in short for the table."""
    rate = number(given.get("compression", given.get("speedup")))
    if rate is None or rate <= 0:
        return None
    better, worse = ("faster", "slower") if "speedup" in given else _RATIO_WORDS.get(name, ("fewer", "more"))
    short = f"{factor(rate)} {better}" if rate > 1 else f"{factor(1 / rate)} {worse}"
    if factor(rate) == factor(1):
        short = "as the baseline"
    saving = number(given.get("saving"))
    table = short if "speedup" in given else factor(rate)
    if saving is not None:
        table += f", {change(saving)}"
    tone = "even" if factor(rate) == factor(1) else "gain" if rate > 1 else "loss"
    return {"short": short, "table": table, "tone": tone}


def _site(site: Mapping[str, Any]) -> dict[str, str]:
    return {
        "kind": site.get("kind") or "",
        "shape": " × ".join(map(str, site.get("shape") or ())),
        "macs": show(number(site.get("macs")) or None, "count"),
        "bytes": show(number(site.get("bytes")) or None, "bytes"),
    }


def _trial(trial: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    values = {k: v for k, given in (trial.get("values") or {}).items() if (v := number(given)) is not None}
    shown = [
        f"{metrics[k]['label']} {show(v, metrics[k]['kind'], metrics[k]['unit'])}"
        for k, v in values.items()
        if k in metrics
    ]
    return {
        "number": trial.get("number"),
        "stopped": trial.get("status") == "stopped",
        "why": trial.get("error") or "",
        "origin": trial.get("origin") or "",
        "values": values,
        "shown": shown,
    }


def _failures(data: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if data.get("failures") is not None:
        given = [{"reason": f.get("reason") or "no reason given", "count": f.get("count", 1)} for f in data["failures"]]
    else:
        reasons = Counter(t.get("error") or "no reason given" for t in trials if t.get("status") == "failed")
        given = [{"reason": reason, "count": count} for reason, count in reasons.items()]
    return sorted(given, key=lambda f: -(number(f["count"]) or 0))


def _reproduce(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in given.items():
        if key == "command" or value is None or value == "":
            continue
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        rows.append((key.replace("_", " ").capitalize(), text))
    return rows


def _limits(data: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], split: str) -> list[str]:
    """Return what the figures can't say, in sentences."""
    quality = metrics[data["quality"]]["label"]
    if split == "validation":
        out = [
            "There was no test split: the final figures were taken on the validation data that the search "
            f"optimised, so the {quality} shown is optimistic. Check the model you pick on data of its own."
        ]
    else:
        out = [
            f"The search saw validation data only. The final figures were taken on {split} data once, at the end; "
            f"where validation and {split} differ, trust {split}."
        ]
    out.append(
        "Ranges are 95 % confidence intervals of each figure by itself; two points whose ranges overlap may "
        "not differ. Figures without a range are exact counts or have no interval."
    )
    points = (data["baseline"], *data["points"])
    timed: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        for name, measured in (point.get("final") or {}).items():
            if str((measured or {}).get("unit") or "").startswith(_RATIO):
                timed.setdefault(name, []).append(measured.get("detail") or {})
    for name, details in timed.items():
        first = next((d for d in details if d), {})
        facts = [f"{key} {first[key]}" for key in ("runtime", "threads", "batch") if key in first]
        noisy = sum(bool(d.get("noisy") or d.get("contended")) for d in details)
        doubt = f" {noisy} of the measurements were noisy, or made on a busy machine." if noisy else ""
        deployed = " of the deployed file" if first.get("deployed") else ""
        out.append(
            f"{label(name).capitalize()}{deployed} was measured beside the baseline’s"
            + (f" ({', '.join(facts)})" if facts else "")
            + ", and milliseconds are of the original’s at that moment; other hardware or another runtime can rank the "
            f"points differently.{doubt}"
        )
    uncounted = Counter(
        operator
        for p in points
        for operator in (((p.get("final") or {}).get("macs") or {}).get("detail") or {}).get("uncounted") or ()
    )
    if uncounted:
        out.append(f"Operators that the MACs don't count: {', '.join(sorted(uncounted))}.")
    return out
