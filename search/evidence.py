"""What a part of the validation examples proves about all of them, however often one looks.

A trial is compared with the baseline example by example: a compressed model errs mostly where the original does, so
the differences are few and their mean is known much better than either accuracy. The examples are drawn without
replacement, and the test is a bet (Waudby-Smith & Ramdas, 2024, JRSS B 86(1), section 5, arXiv:2010.09686): were the
mean of all differences as high as a bound, nobody could multiply a stake by betting on lower ones, whatever the
strategy; the stake exceeds 1 / risk at any time with a probability of at most ``risk`` (Ville, 1939). That holds for
any number of examples and of looks, with no approximation where discordant pairs are few. The strategy is the growth
rate's approximate optimum (section B.3 there), so that it adapts to the spread of the differences.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: A bet never loses more than this share of the stake.
_MOST = 0.75
#: Halvings of the range that a bound is looked for in.
_STEPS = 20
#: What rounding may do to a share: a bound that is reached exactly must not look out of reach.
_ROUNDING = 1e-9


def below(seen: Array, bound: float, total: int, risk: float) -> bool:
    """Return whether the mean of all values is below ``bound``, with at most ``risk`` of saying so wrongly.

    The risk is for all looks together: asking again with more values of the same sequence adds none.

    Parameters
    ----------
    seen
        (n,), each from -1 to 1: the first of ``total`` values in random order.
    bound
        What the mean would have to reach.
    total
        How many values there are in all.
    risk
        Above 0, below 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        stake, impossible = _stakes((seen + 1) / 2, (bound + 1) / 2, total)
    return bool(impossible or stake.max(initial=0.0) >= -np.log(risk))


def interval(seen: Array, total: int, risk: float) -> tuple[float, float]:
    """Return where the mean of all values lies, with at most ``risk`` of missing it at any time; what was seen lies
    within.
    """
    # What was refused once stays refused, so by chance the mean seen since can be among it.
    mean = float(seen.mean())
    return min(mean, -_highest(-seen, total, risk / 2)), max(mean, _highest(seen, total, risk / 2))


def _highest(seen: Array, total: int, risk: float) -> float:
    """Return the lowest bound that the mean is proven to be below, to about one millionth; 1 if none is."""
    low, high = float(seen.sum() / total - (total - len(seen)) / total), 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if below(seen, middle, total, risk):
            high = middle
        else:
            low = middle
    return high


def _stakes(seen: Array, bound: float, total: int) -> tuple[Array, bool]:
    """Return the logarithm of the stake after each value (n,), and whether the mean can't reach the bound at all.

    Values and bound are from 0 to 1 here.
    """
    count = np.arange(len(seen))
    before = np.concatenate(([0.0], np.cumsum(seen)))
    # What the remaining values would average if all of them had the mean ``bound``.
    due = (total * bound - before[:-1]) / (total - count)
    left = total - len(seen)
    impossible = bool(np.any(due > 1 + _ROUNDING)) or total * bound - before[-1] > left + _ROUNDING * total
    # The strategy knows earlier values only, and starts from one value of no difference with the largest spread.
    mean = (0.5 + before[:-1]) / (count + 1)
    deviations = (seen - (0.5 + before[1:]) / (count + 2)) ** 2
    spread = (0.25 + np.concatenate(([0.0], np.cumsum(deviations)[:-1]))) / (count + 1)
    gap = due - mean
    bet = np.clip(gap / (spread + gap**2), 0.0, _MOST / np.maximum(1 - due, 1e-12))
    # Once the bound is reached for certain (due <= 0) there is nothing left to bet on.
    bet[due <= 0] = 0.0
    return np.cumsum(np.log1p(bet * (due - seen))), impossible
