"""From a sensitivity profile to its page and its JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..profile_check import Check
from ..profile_rows import METHODS, Row, cheapest_savings, most_sensitive
from ..sensitivity import Profile
from ..store import write_atomically
from .document import clean, document
from .figures import change, number, show

FILE, DATA = "profile.html", "profile.json"

_STYLES = ("page.css", "profile.css")
_SCRIPTS = ("base.js", "profile.js")  # one script: they share its scope
#: Rows of the rankings.
_RANKED = 8
#: A smaller share of the time is none: what is left of a difference of sums.
_SEEN = 0.0005


def write_profile(profile: Profile, check: Check | None, name: str, command: str, folder: Path) -> Path:
    """Write ``profile.html`` and ``profile.json`` into a folder, and return the page's path.

    Parameters
    ----------
    profile, check
        What was measured, and how good its predictions are on a few steps.
    name
        The page's title.
    command
        That writes them again.
    folder
        Made if it isn't there. A run in it stays as it is.
    """
    facts: dict[str, Any] = {"name": name, "command": command, "version": version("paretopress")}
    data = facts | profile.to_json() | {"check": check.to_json() if check else None}
    write_atomically(folder / DATA, json.dumps(clean(data), allow_nan=False, indent=1).encode())
    write_atomically(folder / FILE, render_profile(profile, check, facts).encode())
    return folder / FILE


def render_profile(profile: Profile, check: Check | None, about: Mapping[str, Any]) -> str:
    """Return the page of a profile: a map of sites and settings, and damage against what is saved.

    ``about`` has the page's ``name``, and the ``command`` and ``version`` that made it.
    """
    rows = profile.rows()
    space, varying = profile.choices.space, _varying(rows)
    techniques = [{"name": name, "params": params} for name, params in varying.items()]
    client = {"sites": _sites(profile, rows), "techniques": techniques, "rows": _rows(rows, varying)}
    view = {
        "client": client | {"latency": profile.latency is not None, "unit": _unit(profile)},
        "title": about["name"],
        "version": about["version"],
        "command": about["command"],
        "steps": len(rows),
        "failed": sum(bool(r.error) for r in rows),
        "sensitive": [
            {
                "site": s.site,
                "damage": damage(s.damage),
                "steps": s.steps,
                "bytes": show(profile.held(s.site).bytes, "bytes"),
            }
            for s in most_sensitive(rows, space.sites)[:_RANKED]
        ],
        "cheapest": [_saving(r, profile) for r in cheapest_savings(rows)[:_RANKED]],
        "methods": _methods(rows),
        "by_loss": profile.by_loss,
        "classes": profile.classes,
        "latency": _latency(profile),
        "check": _check(check) if check is not None and check.rows else None,
        "file": show(profile.file_bytes, "bytes"),
    }
    return document("profile.html", clean(view), _STYLES, _SCRIPTS)


def damage(value: float | None) -> str:
    """Return a damage to three digits; an en dash where there is none."""
    found = number(value)
    return "–" if found is None else f"{found:.3g}".replace("e-0", "e-")


def _unit(profile: Profile) -> str:
    """Return what a damage is."""
    return "predicted rise of the loss" if profile.classes else "predicted change of the outputs"


def _latency(profile: Profile) -> dict[str, Any] | None:
    """Return what the page says of the layers' times."""
    if profile.latency is None:
        return None
    table = profile.latency
    slowest = sorted(table.units.items(), key=lambda item: -item[1])[:_RANKED]
    return {
        "summary": table.summary,
        "milliseconds": f"{table.milliseconds:.3g}",
        "fixed": share(table.fixed if table.fixed >= _SEEN else 0.0),
        "slowest": [{"path": path or "the model itself", "share": share(part)} for path, part in slowest],
        "recipes": [{"predicted": f"{p:.3f}", "measured": f"{m:.3f}"} for p, m in table.checked],
    }


def share(part: float) -> str:
    """Return a share of the whole in percent, to two digits."""
    return f"{100 * part:.2g} %"


def _sites(profile: Profile, rows: Sequence[Row]) -> list[dict[str, Any]]:
    sites = profile.choices.space.sites
    held = {name: profile.held(name) for name in dict.fromkeys(r.site for r in rows)}
    return [{"name": n, "kind": sites[n].kind, "bytes": u.bytes, "macs": u.macs} for n, u in held.items()]


def _varying(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return for every technique the parameters that differ among its settings; all where none does."""
    seen: dict[str, dict[str, set[Any]]] = {}
    for row in rows:
        params = seen.setdefault(row.technique, {})
        for key, value in row.params.items():
            params.setdefault(key, set()).add(value)
    return {
        name: [k for k, values in params.items() if len(values) > 1] or list(params) for name, params in seen.items()
    }


def _rows(rows: Sequence[Row], varying: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    return [
        {
            "site": r.site,
            "technique": r.technique,
            "label": " ".join(str(r.params[k]) for k in varying[r.technique] if k in r.params) or "applied",
            "setting": r.setting,
            "damage": number(r.damage),
            "bytes": r.bytes_saved,
            "macs": r.macs_saved,
            "bops": r.bops_saved,
            "latency": None if r.latency_saved is None else number(100 * r.latency_saved),
            "guessed": r.latency_guessed,
            "method": METHODS.get(r.method, r.method),
            "error": r.error,
        }
        for r in rows
    ]


def _saving(row: Row, profile: Profile) -> dict[str, str]:
    held = profile.held(row.site).bytes
    return {
        "site": row.site,
        "step": f"{row.technique} {row.setting}".strip(),
        "bytes": show(row.bytes_saved, "bytes"),
        "share": change(row.bytes_saved / held) if held else "",
        "damage": damage(row.damage),
    }


def _methods(rows: Sequence[Row]) -> list[dict[str, Any]]:
    counted = Counter(r.method for r in rows if not r.error)
    return [{"text": METHODS.get(m, m), "count": n, "techniques": _by(rows, m)} for m, n in counted.most_common()]


def _by(rows: Sequence[Row], method: str) -> str:
    return ", ".join(dict.fromkeys(r.technique for r in rows if r.method == method and not r.error))


def _check(check: Check) -> dict[str, Any]:
    steps = [
        {
            "site": r.site,
            "step": f"{r.technique} {r.setting}".strip(),
            "predicted": damage(r.damage),
            "measured": damage(m),
        }
        for r, m in zip(check.rows, check.measured)
    ]
    return {"summary": check.summary, "steps": steps}
