"""What parts cost, weighed: from whole passes of models that have half of them each.

Notes of single nodes say little where a node takes a microsecond or the runtime merges several. So many models are
timed, each with other parts, and every part is in half of them: all models together say what each part costs, much
more exactly than a model for each part would (weighing designs: Yates, 1935; Hotelling, 1944). What notes say is where
the estimate starts, and by which factor they are off on the whole is estimated, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

#: Pairs of models: one has half of the parts, the other one the rest.
PAIRS = 4
#: What is thought before anything is weighed: how far notes may be off in all parts of a kind by one factor, how far in
#: each part by itself, in shares of the original's latency and in seconds, and how far parts together are off a pass.
_FACTOR, _SHARE, _SECONDS, _NOISE = 0.3, 0.001, 5e-7, 0.015


def halves(parts: Sequence[str], pairs: int = PAIRS) -> list[list[str]]:
    """Return subsets of parts, always two that make up the whole: every other part first, then at random; none twice.

    Parameters
    ----------
    parts
        At least two.
    pairs
        At most.
    """
    random, found = np.random.default_rng(0), [list(parts[0::2]), list(parts[1::2])]
    for _ in range(pairs - 1):
        drawn = set(random.permutation(len(parts))[: len(parts) // 2].tolist())
        pair = [[part for place, part in enumerate(parts) if (place in drawn) == inside] for inside in (True, False)]
        found += pair if pair[0] not in found else []
    return found


def weigh(has: Values, taken: Values, noted: Values, kinds: Sequence[npt.NDArray[np.bool_]], seconds: float) -> Values:
    """Return (parts,) what each part costs: the mean of what can be thought (Gaussian) after the weighings.

    Parameters
    ----------
    has
        (models, parts) whether a model has a part.
    taken
        (models,) what it takes beyond the original, as a share of what that takes.
    noted
        (parts,) what notes say of each, the same way.
    kinds
        (parts,) each: the parts of a kind.
    seconds
        That a pass of the original takes: notes of a short one say less.
    """
    spread = (_SHARE + _SECONDS / seconds) ** 2 * np.eye(len(noted))
    for kind in kinds:
        own = np.where(kind, noted, 0.0)
        spread += _FACTOR**2 * np.outer(own, own)
    weights = has @ spread @ has.T + _NOISE**2 * np.eye(len(taken))
    found: Values = noted + spread @ has.T @ np.linalg.solve(weights, taken - has @ noted)
    return found
