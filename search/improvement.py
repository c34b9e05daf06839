"""How much hypervolume a point would add to a front. Smaller is better in every objective."""

from __future__ import annotations

import moocore
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def improvement(front: Values, reference: Values, points: Values) -> Values:
    """Return the hypervolume that each point adds on its own.

    Parameters
    ----------
    front
        (n, objectives) non-dominated losses; may be empty.
    reference
        (objectives,) losses beyond it count nothing.
    points
        (c, objectives).

    Returns
    -------
    Values
        (c,), 0 for a point that is dominated or beyond the reference.
    """
    inside = front[(front < reference).all(1)] if len(front) else front.reshape(0, len(reference))
    room = np.maximum(reference - points, 0.0)
    if not len(inside):
        alone: Values = room.prod(1)
        return alone
    if len(reference) == 2:
        return _in_plane(inside, reference, points)
    added = np.zeros(len(points))
    for i in np.flatnonzero(room.prod(1) > 0):
        clipped = np.maximum(inside, points[i])
        if (clipped == points[i]).all(1).any():
            continue  # a point of the front is nowhere worse
        added[i] = room[i].prod() - moocore.hypervolume(clipped, ref=reference)
    return np.maximum(added, 0.0)


def _in_plane(front: Values, reference: Values, points: Values) -> Values:
    order = np.lexsort((front[:, 1], front[:, 0]))
    first = front[order, 0]
    second = np.minimum.accumulate(front[order, 1])
    # Between the front's steps, how far down a point reaches below what is dominated already.
    left = np.concatenate([[-np.inf], first])
    right = np.concatenate([first, [reference[0]]])
    height = np.concatenate([[reference[1]], second])
    wide = np.clip(right[None] - np.maximum(left[None], points[:, :1]), 0.0, None)
    high = np.clip(height[None] - points[:, 1:], 0.0, None)
    added: Values = (wide * high).sum(1)
    return np.where((points < reference).all(1), added, 0.0)
