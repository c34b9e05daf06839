"""Predicted damages beside measured ones."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor

from paretopress.search import profile
from paretopress.search.profile_check import STEPS, Check, check_profile, estimate_check
from paretopress.search.profile_rows import Row
from paretopress.search.sensitivity import Profiler
from paretopress.spaces.recipe import Step
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


def checked(*pairs: tuple[float, float]) -> Check:
    """Return a check of (predicted, measured) damages."""
    rows = tuple(Row("fc", "integer", {"bits": i}, p, "fisher", 1, 0, 0) for i, (p, _) in enumerate(pairs))
    return Check(rows, tuple(m for _, m in pairs))


def test_predictions_of_a_real_network_hold(task: Task, space: Space) -> None:
    """Steps from gentle to strong move the outputs in about the predicted order."""
    survey = Profiler(task, space).survey
    check = check_profile(profile(task, space, progress=False), survey)
    assert len(check.rows) == STEPS
    assert [r.damage for r in check.rows] == sorted(r.damage for r in check.rows)
    assert check.correlation is not None
    assert check.correlation > 0.8
    assert check.ratio is not None
    assert 0.1 < check.ratio < 10
    assert check.summary.startswith("checked on 8 steps: rank correlation 0.9") or "1.00" in check.summary


def test_measured_are_the_steps_themselves(task: Task, space: Space) -> None:
    """The divergence is nothing for no step, and more for a stronger one."""
    survey = Profiler(task, space).survey
    mild, strong = (Step.of("fc", "magnitude", density=d) for d in (0.6, 0.2))
    assert survey.divergence() == 0
    assert 0 < survey.divergence(mild) < survey.divergence(strong)
    assert estimate_check(survey) > 0


@pytest.mark.parametrize("scale", [1, 1000])
def test_a_loss_of_ones_own_is_compared_in_the_same_unit(task: Task, space: Space, scale: float) -> None:
    """With squared errors, prediction and measurement are both changes of the outputs, however large the loss is."""

    def squared(output: Tensor, target: Tensor) -> Tensor:
        return scale * F.mse_loss(output, F.one_hot(target, output.shape[1]).float())

    other = Task(task.model, validation=task.validation.source, train=task.train.source, loss=squared, name="squared")
    check = check_profile(profile(other, space, progress=False), Profiler(other, space).survey)
    assert check.ratio is not None
    assert 0.1 < check.ratio < 10
    assert check.correlation is not None
    assert check.correlation > 0.8


def test_correlation_is_by_rank() -> None:
    """Any rising relation is 1, a falling one -1, and equal values share a rank."""
    assert checked((1, 1), (2, 10), (3, 1000)).correlation == pytest.approx(1)
    assert checked((1, 9), (2, 8), (3, 1)).correlation == pytest.approx(-1)
    assert checked((1, 5), (2, 5), (3, 7)).correlation == pytest.approx(0.866, abs=1e-3)
    assert checked((1, 5), (2, 5), (3, 5)).correlation is None
    assert checked((1, 2), (2, 8), (3, 9)).ratio == pytest.approx(3)


def test_nothing_to_check_is_said() -> None:
    """A profile without predictions is no error."""
    assert checked().summary.startswith("not checked")
    assert checked().to_json() == {"steps": [], "rank_correlation": None, "median_ratio": None}
