"""The gain of hypervolume, checked against its definition."""

from __future__ import annotations

import moocore
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paretopress.search.improvement import Improvement
from paretopress.search.pareto import nondominated

Values = npt.NDArray[np.float64]


def volume(points: Values, reference: Values) -> float:
    """Return the hypervolume of any points, those beyond the reference included."""
    inside = points[(points < reference).all(1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


@st.composite
def cases(draw: st.DrawFn) -> tuple[Values, Values, Values]:
    """Return a front, a reference and points: on a coarse grid for ties and duplicates, or anywhere."""
    objectives = draw(st.integers(2, 4))
    coarse = st.integers(0, 6).map(float)
    number = draw(st.sampled_from([coarse, st.floats(0, 6, width=32)]))
    front = draw(arrays(np.float64, (draw(st.integers(0, 8)), objectives), elements=number))
    points = draw(arrays(np.float64, (draw(st.integers(0, 6)), objectives), elements=number))
    reference = np.full(objectives, draw(st.sampled_from([3.0, 5.0, 7.0])))
    kept = front[nondominated(front.tolist())] if len(front) else front
    return draw(st.permutations(list(kept))), reference, points  # type: ignore[return-value]  # a list of rows


@settings(deadline=None, max_examples=300)
@given(cases())
def test_improvement_is_the_gain_of_hypervolume(case: tuple[list[Values], Values, Values]) -> None:
    """What a point adds is the hypervolume with it minus that without, for ties, duplicates and points outside."""
    rows, reference, points = case
    front = np.array(rows).reshape(len(rows), len(reference))
    before = volume(front, reference)
    expected = [volume(np.vstack([front, p]), reference) - before for p in points]
    found = Improvement(front, reference).of(points)
    assert found.shape == (len(points),)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (found >= 0).all()


def test_known_gains() -> None:
    """Small cases that can be counted on paper."""
    front, reference = np.array([[1.0, 3.0], [3.0, 1.0]]), np.array([4.0, 4.0])
    points = np.array([[2.0, 2.0], [0.0, 0.0], [1.0, 3.0], [3.5, 3.5], [5.0, 0.0], [4.0, 0.0], [0.0, 3.5]])
    assert Improvement(front, reference).of(points).tolist() == [1.0, 11.0, 0.0, 0.0, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_empty_front_leaves_the_whole_box(objectives: int) -> None:
    """Without a front, or with one that lies beyond the reference, a point adds all that it dominates."""
    reference, points = np.full(objectives, 2.0), np.vstack([np.full(objectives, 0.5), np.full(objectives, 3.0)])
    for front in (np.zeros((0, objectives)), np.full((1, objectives), 2.0)):
        assert Improvement(front, reference).of(points).tolist() == [1.5**objectives, 0.0]


def test_single_objective_is_a_length() -> None:
    """With one objective a point adds how far it goes below the best."""
    found = Improvement(np.array([[0.5]]), np.array([1.0])).of(np.array([[0.25], [0.75], [2.0]]))
    assert found.tolist() == [0.25, 0.0, 0.0]
