"""How long a profile takes, foretold from a few steps: on a clock that is turned by hand."""

from __future__ import annotations

import pytest

from paretopress.search import forecast
from paretopress.search.effects import Request
from paretopress.search.forecast import foretell, seconds_left
from paretopress.spaces.choices import Setting
from paretopress.spaces.site import Site

BITS = tuple(Setting("integer", (("bits", b),)) for b in (8, 6, 5, 4, 3, 2))
RATIOS = tuple(Setting("channels", (("ratio", r),)) for r in (0.25, 0.5))


class Work:
    """Steps whose seconds are known: a technique's own, more for larger sites, and more for the first at a site."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.seen: list[tuple[str, Setting]] = []
        self.sites = {f"s{i}": Site(f"s{i}", "linear", (f"s{i}",), bytes=1000 * i) for i in range(1, 21)}
        monkeypatch.setattr(forecast.time, "perf_counter", lambda: self.now)

    def seconds(self, site: str, setting: Setting) -> float:
        """Return what a step costs now."""
        own = {"integer": 0.02, "channels": 0.5}[setting.technique] * (1 + self.sites[site].bytes / 1e4)
        first = all(s != site or t.technique != setting.technique for s, t in self.seen)
        return own + (1.0 if first and setting.technique == "integer" else 0.0) + (0.0 if self.seen else 30.0)

    def measure(self, site: str, setting: Setting) -> None:
        """Let a step's time pass."""
        self.now += self.seconds(site, setting)
        self.seen.append((site, setting))


def test_the_rest_is_foretold_by_technique_size_and_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap and dear techniques, small and large layers, and what the first step at a layer costs are told apart, and
    what only the very first step pays for isn't counted again.
    """
    work = Work(monkeypatch)
    requests = [Request(name, (*BITS, *RATIOS)) for name in work.sites]
    found = foretell(requests, work.sites, work.measure)
    assert len(work.seen) == len(set(work.seen)) <= 2 * 7
    start = work.now
    for request in requests:
        for setting in request.settings:
            if (request.site, setting) not in work.seen:
                work.measure(request.site, setting)
    assert sum(found.values()) == pytest.approx(work.now - start, rel=0.1)


def test_few_steps_leave_nothing_to_foretell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A space of one step is measured on the way, and one of a single site is foretold by its own steps."""
    work = Work(monkeypatch)
    assert foretell([Request("s1", BITS[:1])], work.sites, work.measure) == {"s1": 0.0}
    work = Work(monkeypatch)
    [left] = foretell([Request("s3", BITS)], work.sites, work.measure).values()
    assert left == pytest.approx((len(BITS) - len(work.seen)) * 0.02 * 1.3)


def test_the_time_left_believes_the_clock_more_and_more() -> None:
    """At the start it is what was foretold, in the end what the work really takes, and nothing when all is done."""
    assert seconds_left(0.0, 0.0, 60.0) == 60
    assert seconds_left(0.9, 90.0, 10.0) == pytest.approx(10.0, rel=0.1)
    assert seconds_left(1.0, 90.0, 10.0) == 0
