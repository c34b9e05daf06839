"""Losses survive the way to a logit and back."""

from __future__ import annotations

import numpy as np
import pytest

from paretopress.search.loss_scale import LossScale

SCALE = LossScale(0.5, 0.005)


def test_losses_and_logits_are_inverse() -> None:
    """A loss within what counts survives the way to a logit and back, and the logit grows with it."""
    losses = np.linspace(0, SCALE.span, 50)
    assert SCALE.lost(SCALE.logit(losses)) == pytest.approx(losses)
    assert (np.diff(SCALE.logit(losses)) > 0).all()
    worst = SCALE.logit(np.array([SCALE.span]))
    assert SCALE.logit(np.array([np.inf, 9.0])) == pytest.approx(worst.repeat(2))
    assert np.isfinite(SCALE.lost(np.array([-1e4, 1e4]))).all()


def test_steepness_is_the_derivative_of_the_logit() -> None:
    """Standard deviations are carried from losses to logits with it."""
    losses = np.linspace(0.001, SCALE.span - 0.001, 20)
    slope = (SCALE.logit(losses + 1e-7) - SCALE.logit(losses - 1e-7)) / 2e-7
    assert SCALE.steepness(losses) == pytest.approx(slope, rel=1e-4)


def test_damage_makes_nothing_better() -> None:
    """The scale goes below 0, as measurements may; what damage is predicted to do doesn't."""
    logits = np.array([-50.0, -6.0, 0.0])
    assert SCALE.lost(logits)[0] < 0
    assert SCALE.damaged(logits).tolist() == [0.0, 0.0, SCALE.lost(logits)[2]]
