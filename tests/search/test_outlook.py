"""Beliefs: losses at each luck, and chances."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretopress.search.loss_scale import LossScale
from paretopress.search.outlook import Outlook

SCALE = LossScale(0.5, 0.005)


def outlook(
    logit: float = -2.0, spread: float = 0.3, misfit: float = 0.2, shift: float = 0.0, luck: float = 0.0
) -> Outlook:
    """Return beliefs on one recipe."""
    return Outlook(SCALE, np.array([logit]), np.array([spread]), misfit, np.array([shift]), np.array([luck]))


@given(st.floats(-9, 9), st.floats(0, 2), st.floats(0, 1), st.floats(-0.05, 0.05), st.floats(0, 0.05))
def test_the_luckier_the_less_is_lost(logit: float, spread: float, misfit: float, shift: float, luck: float) -> None:
    """Losses grow with bad luck, and the shift moves all of them alike."""
    made = outlook(logit, spread, misfit, shift, luck)
    losses = [float(made.at(z)[0]) for z in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    assert losses == sorted(losses)
    assert made.at(-1.0)[0] <= made.lucky()[0] <= made.at(0.0)[0]
    assert made.at(0.0) == pytest.approx(outlook(logit).at(0.0) + shift)


def test_only_luck_can_make_a_model_better() -> None:
    """However sure a small damage is, it is no gain; luck may be one."""
    assert outlook(-20.0).at(-2.0)[0] == 0
    assert outlook(-20.0, luck=0.01).at(-2.0)[0] == pytest.approx(-0.02)
    assert outlook(-20.0, shift=-0.01).at(0.0)[0] == pytest.approx(-0.01)


def test_chance_is_that_of_the_losses() -> None:
    """The chance to lose no more than what is lost at some luck is that of the luck, whatever the doubt is about."""
    for z in (-1.0, 0.5, 1.5):
        wanted = NormalDist().cdf(z)
        about_damage = outlook(luck=0.0)
        assert about_damage.chance(float(about_damage.at(z)[0]))[0] == pytest.approx(wanted)
        about_luck = outlook(spread=0.0, misfit=0.0, luck=0.003)
        assert about_luck.chance(float(about_luck.at(z)[0]))[0] == pytest.approx(wanted, abs=0.03)
    assert outlook(shift=-0.02).chance(0.03)[0] > outlook().chance(0.03)[0]


@given(st.floats(-9, 3), st.floats(0, 1), st.floats(0, 0.02), st.floats(-0.05, 0.3), st.floats(0, 0.1))
def test_chance_counts_the_lucks_that_are_allowed(
    logit: float, spread: float, luck: float, allowed: float, more: float
) -> None:
    """Near no loss at all, where luck is as large as what is lost, it is the share of lucks with which no more than
    that is lost; and what is allowed more has no smaller chance.
    """
    made = outlook(logit, spread, 0.0, luck=luck)
    lucks = [NormalDist().inv_cdf((i + 0.5) / 400) for i in range(400)]
    share = sum(float(made.at(z)[0]) <= allowed for z in lucks) / 400
    assert float(made.chance(allowed)[0]) == pytest.approx(share, abs=0.1)
    assert float(made.chance(allowed + more)[0]) >= float(made.chance(allowed)[0])
