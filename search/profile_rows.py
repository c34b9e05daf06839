"""A sensitivity profile as rows: one a site and setting, for tables, pages and data frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..spaces.knob import Scalar
from ..spaces.site import LAYER_KINDS, Site

#: What `Effect.method` means, for people.
METHODS = {
    "fisher": "half the Fisher information of the weights times their squared change",
    "channels": "half the squared sum of the derivatives by the removed channels",
    "outputs": "outputs compared with the original's on a small batch",
    "": "nothing: such a step changes no output",
}


@dataclass(frozen=True)
class Row:
    """One setting at one site, applied alone.

    Attributes
    ----------
    site
        Name of the layer, group or block.
    technique
        Name of the technique.
    params
        Its parameters.
    damage
        Predicted rise of the loss, 0 or more; infinite where the step can't be applied.
    method
        How the damage was predicted: "fisher", "channels", "outputs" or "" (changes no output).
    bytes_saved
        By which the file with this step alone is shorter than the original's, to the byte; negative where it is longer.
        Where the space has a technique that codes the file (`entropy`), it is coded.
    macs_saved, bops_saved
        Multiply-accumulates and bit operations of one example that are saved.
    error
        Why the step can't be applied, or "".
    latency_saved
        Share of the original's latency that is saved, negative where the step costs time; None where no layer was
        timed.
    latency_guessed
        Whether some of the times are by MACs.
    """

    site: str
    technique: str
    params: Mapping[str, Scalar]
    damage: float
    method: str
    bytes_saved: int
    macs_saved: int
    bops_saved: int
    error: str = ""
    latency_saved: float | None = None
    latency_guessed: bool = False

    @property
    def setting(self) -> str:
        """The parameters as text, e.g. ``bits=4 granularity=channel``."""
        return " ".join(f"{k}={v}" for k, v in self.params.items())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; an infinite damage is None."""
        damage = self.damage if math.isfinite(self.damage) else None
        return {**vars(self), "params": dict(self.params), "damage": damage}


def by_site(rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """Return site -> technique -> its rows, from the gentlest setting to the strongest."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row.site, {}).setdefault(row.technique, []).append(row)
    return found


@dataclass(frozen=True)
class Sensitive:
    """How sensitive a layer is: the median damage of ``steps`` steps."""

    site: str
    damage: float
    steps: int


def most_sensitive(rows: Iterable[Row], sites: Mapping[str, Site]) -> list[Sensitive]:
    """Return the layers, the most sensitive first, by the median damage of the steps that all of them offer.

    Where there is no such step it is the median of each layer's own. Groups and blocks count where there are no layers.
    """
    known = by_site(rows)
    layers = [s for s in known if sites[s].kind in LAYER_KINDS] or list(known)
    offered = {s: {(r.technique, r.setting): r.damage for t in known[s].values() for r in t} for s in layers}
    shared = set.intersection(*(set(o) for o in offered.values())) if offered else set()
    found = []
    for site, damages in offered.items():
        taken = [d for key, d in damages.items() if key in shared or not shared]
        found.append(Sensitive(site, float(np.median(taken)), len(taken)))
    return sorted(found, key=lambda s: -s.damage)


def cheapest_savings(rows: Iterable[Row]) -> list[Row]:
    """Return each site's step that saves most bytes for its damage; those with most bytes per damage first."""

    def worth(row: Row) -> tuple[float, int]:
        return (row.bytes_saved / row.damage if row.damage else math.inf, row.bytes_saved)

    best: dict[str, Row] = {}
    for row in rows:
        if row.bytes_saved > 0 and math.isfinite(row.damage):
            kept = best.get(row.site)
            best[row.site] = row if kept is None or worth(row) > worth(kept) else kept
    return sorted(best.values(), key=worth, reverse=True)
