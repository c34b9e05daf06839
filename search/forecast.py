"""How long single steps will take, foretold from a few of each technique that are measured first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..spaces.choices import Setting
from ..spaces.site import Site
from .effects import Request


def foretell(
    requests: Sequence[Request], sites: Mapping[str, Site], measure: Callable[[str, Setting], object]
) -> dict[str, float]:
    """Return for each site about how many seconds its steps will take that are not measured here.

    Of each technique up to seven steps are measured: one at the smallest site, which also pays for what all share, and
    three at the middle and at the largest one. The first step at a site may do what serves the others there (such as
    running the model), so it is foretold apart from them. In between, seconds follow the bytes of the site.

    Parameters
    ----------
    requests
        All steps, each site once.
    sites
        By name.
    measure
        Measures a step at a site, and keeps what it finds: no step is measured twice.
    """
    places: dict[str, list[tuple[str, list[Setting]]]] = {}
    for request in requests:
        for setting in request.settings:
            known = places.setdefault(setting.technique, [])
            if not known or known[-1][0] != request.site:
                known.append((request.site, []))
            known[-1][1].append(setting)
    found = {request.site: 0.0 for request in requests}
    for own in places.values():
        ordered = sorted(own, key=lambda place: sites[place[0]].bytes)
        for site, seconds in _of_technique(ordered, sites, measure).items():
            found[site] += seconds
    return found


def _of_technique(
    places: Sequence[tuple[str, list[Setting]]], sites: Mapping[str, Site], measure: Callable[[str, Setting], object]
) -> dict[str, float]:
    """Return the seconds of what is left at each site, from the smallest to the largest."""

    def timed(site: str, setting: Setting) -> float:
        start = time.perf_counter()
        measure(site, setting)
        return time.perf_counter() - start

    site, settings = places[0]
    pace = timed(site, settings[-1])
    left = {place: len(own) for place, own in places}
    left[site] -= 1
    if not any(left.values()):
        return dict.fromkeys(left, 0.0)
    sizes, firsts, others = [], [], []
    for place in dict.fromkeys((len(places) // 2, len(places) - 1)):
        site, settings = places[place]
        chosen = list(dict.fromkeys((0, len(settings) // 2, len(settings) - 1)))
        if not place:  # the only site: its last step is measured
            chosen = chosen[:-1]
        spent = [timed(site, settings[k]) for k in chosen]
        left[site] -= len(chosen)
        sizes.append(sites[site].bytes)
        firsts.append(spent[0] if spent else pace)
        others.append(float(np.mean(spent[1:] or spent or [pace])))
    found = {}
    for site, settings in places:
        size, more = sites[site].bytes, left[site]
        untouched = more == len(settings)
        found[site] = more * float(np.interp(size, sizes, others))
        if untouched:
            found[site] += float(np.interp(size, sizes, firsts)) - float(np.interp(size, sizes, others))
    return found


def seconds_left(share: float, elapsed: float, foretold: float) -> float:
    """Return about how many seconds are left when a share of the work is done: first by what was foretold for all of
    it, and more and more by what the work really took.
    """
    return (1 - share) * (elapsed + (1 - share) * foretold)
