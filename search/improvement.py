"""How much hypervolume points would add to a front. Smaller is better in every objective.

With two or three objectives what the front leaves is cut into boxes, once; a point then adds its share of each box, and
many points are weighed at once. The boxes come from a sweep along the last objective, at most two for each point of the
front and one more (Yang, Emmerich, Deutz and Bäck, "Efficient computation of expected hypervolume improvement using box
decomposition algorithms", Journal of Global Optimization 75, 2019).
"""

from __future__ import annotations

import math
from bisect import bisect_right

import moocore
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


class Improvement:
    """Tells what points add to a front.

    Parameters
    ----------
    front
        (n, objectives) losses; may be empty.
    reference
        (objectives,) losses beyond it count nothing.
    """

    def __init__(self, front: Values, reference: Values) -> None:
        self.reference = reference
        self.inside = front[(front < reference).all(1)] if len(front) else front.reshape(0, len(reference))
        cut = {2: _strips, 3: _boxes}.get(len(reference))
        self._parts = cut(self.inside, reference) if cut and len(self.inside) else None

    def of(self, points: Values) -> Values:
        """Return the hypervolume (c,) that each of the points (c, objectives) adds on its own, 0 for one that is
        dominated or beyond the reference.
        """
        room: Values = np.maximum(self.reference - points, 0.0).prod(1)
        if not len(self.inside):
            return room
        if self._parts is None:
            return self._one_by_one(points, room)
        within = np.flatnonzero(room > 0)
        shares = np.ones((len(within), self._parts.shape[2]))
        for at, (least, most) in zip(points[within].T, self._parts):
            shares *= np.maximum(most - np.maximum(least, at[:, None]), 0.0)
        added = np.zeros(len(points))
        added[within] = shares.sum(1)
        return added

    def _one_by_one(self, points: Values, room: Values) -> Values:
        added = np.zeros(len(points))
        for i in np.flatnonzero(room > 0):
            clipped = np.maximum(self.inside, points[i])
            if (clipped == points[i]).all(1).any():
                continue  # a point of the front is nowhere worse
            added[i] = room[i] - moocore.hypervolume(clipped, ref=self.reference)
        return np.maximum(added, 0.0)


def _strips(front: Values, reference: Values) -> Values:
    """Return the ends (2, 2, strips), lower and upper, of strips that together are all that isn't dominated."""
    order = np.lexsort((front[:, 1], front[:, 0]))
    edges = front[order, 0]
    heights = np.concatenate([[reference[1]], np.minimum.accumulate(front[order, 1])])
    left, right = np.concatenate([[-np.inf], edges]), np.concatenate([edges, [reference[0]]])
    return np.array([[left, right], [np.full(len(left), -np.inf), heights]])


def _boxes(front: Values, reference: Values) -> Values:
    """Return the ends (3, 2, boxes), lower and upper, of boxes that together are all that isn't dominated.

    Going up along the last objective, what isn't dominated in the other two is a row of strips, each from its left edge
    to the next one's, and from its height downwards. A point ends those that it cuts, and two new ones begin.
    """
    edges, heights, since = [-math.inf], [float(reference[1])], [-math.inf]
    found: list[tuple[float, ...]] = []
    for x, y, z in front[np.lexsort(front.T)].tolist():
        first = bisect_right(edges, x) - 1
        if heights[first] <= y:
            continue  # dominated by one that was there before
        last = first + 1
        while last < len(edges) and heights[last] > y:
            last += 1
        ends = [*edges[first + 1 : last], edges[last] if last < len(edges) else float(reference[0])]
        found += zip(edges[first:last], ends, heights[first:last], since[first:last], [z] * (last - first))
        kept = slice(first, first + (edges[first] < x))  # what the point leaves of the first strip
        edges[first:last] = [*edges[kept], x]
        heights[first:last] = [*heights[kept], y]
        since[first:last] = [*since[kept], z]
        since[first] = z
    found += zip(edges, [*edges[1:], float(reference[0])], heights, since, [float(reference[2])] * len(edges))
    left, right, height, start, stop = np.array([box for box in found if box[3] < box[4]]).T
    return np.array([[left, right], [np.full(len(left), -np.inf), height], [start, stop]])
