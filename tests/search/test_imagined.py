"""Fronts that are kept up to date proposal by proposal are those that are made anew."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paretopress.search.imagined import Foretold, Imagined, Values
from paretopress.search.improvement import Improvement
from paretopress.search.pareto import nondominated

POINT = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda p: (p[0] / 7, p[1] / 7))
RUNNING = st.lists(st.tuples(POINT, POINT, st.booleans()), max_size=8)


def improvement(front: Values) -> Improvement:
    """Return the gains over a front."""
    return Improvement(front, np.ones(2))


@given(st.lists(POINT, max_size=6), RUNNING, RUNNING)
def test_one_by_one_is_all_at_once(
    measured: list[tuple[float, float]],
    first: list[tuple[tuple[float, float], tuple[float, float], bool]],
    then: list[tuple[tuple[float, float], tuple[float, float], bool]],
) -> None:
    """Whatever runs already and whatever is added, at each luck; what breaks a limit counts nothing."""
    rows = np.array(measured, dtype=float).reshape(-1, 2)
    front = rows[nondominated(rows)]
    known = front, improvement(front)
    foretold = [(bytes([i]), Foretold(np.array([a, b]), c)) for i, (a, b, c) in enumerate([*first, *then])]
    grown = Imagined(improvement, known, foretold[: len(first)], 2)
    for key, entry in foretold[len(first) :]:
        grown.add(key, entry)
    at_once = Imagined(improvement, known, foretold, 2)
    probes = np.array([(x / 10, y / 10) for x in range(11) for y in range(11)])
    for luck in range(2):
        counted = [entry.points[luck] for _, entry in foretold if entry.counts]
        every = np.vstack([front, *[point[None] for point in counted]])
        exact = improvement(every[nondominated(every)]).of(probes)
        assert np.allclose(grown.gains[luck].of(probes), exact)
        assert np.allclose(at_once.gains[luck].of(probes), exact)
    for key, entry in foretold:
        if not entry.counts:
            assert not grown.holds(key)
