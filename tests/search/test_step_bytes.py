"""Bytes of steps, learnt from trials."""

from __future__ import annotations

import math

import numpy as np
import pytest
from known_truth import PROFILE, TRUTH

from paretopress.search.proposer import Proposer
from paretopress.search.step_bytes import StepBytes
from paretopress.spaces.stage import Stage

GENOMES = np.stack(TRUTH.random(60))
SIZES = TRUTH.costs.predict(GENOMES)[:, 0]
CHOICES = PROFILE.choices
#: Bytes that each step really adds, by stage.
REAL = {Stage.NUMERIC: -80.0, Stage.MASK: -40.0, Stage.CONTAINER: -500.0}


def added(genomes: np.ndarray) -> np.ndarray:
    """Return what steps really add."""
    each = np.array([REAL.get(d.stage, 0.0) for d in CHOICES.decisions])
    return np.asarray((genomes > 0) @ each)


def test_nothing_is_added_before_a_trial() -> None:
    """The profile's prediction stands."""
    assert np.array_equal(StepBytes(CHOICES).corrected(GENOMES, SIZES), SIZES)


@pytest.mark.parametrize("trials", [5, 30])
def test_a_few_trials_tell_what_steps_add(trials: int) -> None:
    """Files of recipes that weren't tried are predicted, and those that weren't measured do no harm."""
    steps, told = StepBytes(CHOICES), slice(0, trials)
    small = 0.2 * SIZES
    real = 1.02 * small + added(GENOMES)
    measured = np.append(real[told], math.nan)
    steps.learn(np.vstack([GENOMES[told], GENOMES[59:]]), np.append(small[told], small[59]), measured)
    off = np.abs(steps.corrected(GENOMES[30:59], small[30:59]) - real[30:59])
    assert off.mean() < (0.5 if trials == 5 else 0.1) * np.abs(small - real)[30:59].mean()


def test_limits_are_kept_where_files_are_larger_than_predicted() -> None:
    """A proposer whose first trials broke the limit on the size proposes smaller ones."""
    limit = 0.2 * TRUTH.base["size"]
    proposer = Proposer(PROFILE, TRUTH.goals(limits={"size": limit}), 0)
    kept = []
    for _ in range(30):
        genome = proposer.ask()
        lost, costs = TRUTH.of(genome)
        size = costs["size"] + 600 * np.count_nonzero(genome)
        kept.append(size <= limit)
        proposer.tell(genome, lost, costs | {"size": size}, usable=kept[-1])
    assert np.mean(kept[10:]) > 0.7


def test_a_wanted_length_is_what_comes_to_it() -> None:
    """The predicted length at which files come to a limit: that is what a solver of predicted lengths is given."""
    steps = StepBytes(CHOICES)
    steps.learn(GENOMES[:30], SIZES[:30], 0.9 * SIZES[:30])
    wanted = float(np.median(SIZES))
    assert steps.before(GENOMES, SIZES, wanted) == pytest.approx(1 / 0.9, rel=0.02)
