"""Limits as people write them."""

from __future__ import annotations

import math

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search.constraint import Constraint, allowed, check_constraints, violations
from paretopress.search.result import Objective, Result
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Recipe

QUALITY = Objective("accuracy", "maximize")
BASE = Result(0, Recipe(), {"accuracy": Measurement(0.9), "size": Measurement(1000, "B")})
SMALL = Result(1, Recipe(), {"accuracy": Measurement(0.88), "size": Measurement(300, "B")})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("size <= 300", True),
        ("size <= 0.29 kB", False),
        ("size<=0.3x", True),
        ("size <= 0.2x", False),
        ("accuracy >= 88%", True),
        ("accuracy >= 0.89", False),
        ("accuracy drop <= 0.021", True),
        ("accuracy drop <= 1%", False),
        ("size <= 31%", True),
        ("size <= 29%", False),
    ],
)
def test_limits_are_kept_or_broken(text: str, kept: bool) -> None:
    """Absolute, relative and drop limits are read with their units and compared on the right side."""
    [violation] = violations([Constraint.parse(text)], SMALL, BASE, QUALITY)
    assert (violation <= 1e-9) is kept


@pytest.mark.parametrize(
    ("text", "unit", "said", "most"),
    [
        ("size <= 0.3 kB", "B", "size at most 300 bytes", 300),
        ("size <= 30%", "B", "size at most 0.3 times the original's", 300),
        ("accuracy drop <= 2%", "", "accuracy at most 0.02 below the original's", -0.88),
        ("accuracy >= 80%", "", "accuracy at least 0.8", -0.8),
        ("accuracy >= 0.5x", "", "accuracy at least 0.5 times the original's", -0.45),
        ("latency <= 70%", "x baseline", "latency at most 0.7 times the original's", 0.7),
        ("macs <= 1.5 M", "MACs", "macs at most 1,500,000 MACs", 1.5e6),
    ],
)
def test_what_a_limit_is_said_to_mean_is_what_it_does(text: str, unit: str, said: str, most: float) -> None:
    """The words of a dry run and the judgement of a trial are of one reading."""
    base = Result(
        0, Recipe(), {**BASE.measurements, "latency": Measurement(0.97, "x baseline"), "macs": Measurement(3e6)}
    )
    limit = Constraint.parse(text)
    assert limit.meaning(QUALITY, unit) == said
    low, high = limit.allowed(base, QUALITY)
    assert (high if most > 0 else -low) == pytest.approx(most)


@pytest.mark.parametrize("text", ["latency <= 0.7x", "latency <= 70%", "latency <= 0.7"])
def test_a_ratio_is_limited_as_it_is(text: str) -> None:
    """A latency is a multiple of the original's already: the noise of the original's own doesn't move the limit."""
    base = Result(0, Recipe(), {"latency": Measurement(0.97, "x baseline")})
    fast = Result(1, Recipe(), {"latency": Measurement(0.69, "x baseline")})
    limit = Constraint.parse(text)
    [violation] = violations([limit], fast, base, QUALITY)
    assert violation == pytest.approx(-0.01)
    assert limit.allowed(base, QUALITY)[1] == pytest.approx(0.7)


def test_a_loss_rises_where_accuracy_drops() -> None:
    """For a metric of which less is better, worse is a rise of its value."""
    base = Result(0, Recipe(), {"mse": Measurement(1.0)})
    worse = Result(1, Recipe(), {"mse": Measurement(1.5)})
    [violation] = violations([Constraint.parse("mse rise <= 0.25")], worse, base, Objective("mse", "minimize"))
    assert violation == pytest.approx(0.25)


def test_a_near_miss_is_nearer_than_the_original() -> None:
    """Of a small loss and a small file asked for at once, a model that all but has both is the nearest."""
    limits = [Constraint.parse("accuracy drop <= 0.2%"), Constraint.parse("size <= 0.1x")]
    whole, accuracy = BASE.value("size"), BASE.value("accuracy")
    near = Result(1, Recipe(), {"accuracy": Measurement(accuracy - 0.03), "size": Measurement(0.12 * whole)})
    missed, original = (sum(max(0.0, v) for v in violations(limits, r, BASE, QUALITY)) for r in (near, BASE))
    assert 0 < missed < original / 5


@pytest.mark.parametrize("text", ["mse rise <= 0.05", "mse <= 0.056"])
def test_where_the_original_errs_hardly_at_all_a_near_miss_is_near(text: str) -> None:
    """An error may rise to many times an original's of next to nothing: a little more is not many times too far."""
    quality = Objective("mse", "minimize", True)
    base = Result(0, Recipe(), {"mse": Measurement(0.006), "size": Measurement(1000, "B")})
    near = Result(1, Recipe(), {"mse": Measurement(0.076), "size": Measurement(100, "B")})
    limits = [Constraint.parse(text), Constraint.parse("size <= 0.1x")]
    missed, original = (sum(max(0.0, v) for v in violations(limits, r, base, quality)) for r in (near, base))
    assert 0 < missed < original / 2


@pytest.mark.parametrize("text", ["size", "size < 3", "size <= big", "<= 3", "size <= 3 furlongs", "", "size <= 1.2.3"])
def test_another_form_is_refused(text: str) -> None:
    """The message shows the text and the forms that are understood."""
    with pytest.raises(SettingError, match="must read like"):
        Constraint.parse(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("size", "a sign is missing"),
        ("size < 3", "'< 3' is not a sign"),
        ("size <= big", "'big' is not a number"),
        ("accuracy dorp <= 2%", "'dorp <= 2%' is not drop, rise or a sign"),
        ("size <= 3 furlongs", "'furlongs' is no unit"),
        ("size <= 3 kb", "'kb' is no unit (did you mean 'kB'?)"),
        ("", "the name of a metric is missing"),
    ],
)
def test_the_part_that_is_not_understood_is_shown(text: str, part: str) -> None:
    """With it come the signs and the units that the metric may have."""
    with pytest.raises(SettingError) as caught:
        Constraint.parse(text)
    assert part in str(caught.value)
    assert "Signs: <= and >=. Units" in str(caught.value)
    if text.startswith("size"):
        assert "Units of size: x, %, B, kB, MB, GB, k, M, G, or none" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size <= -3 kB", "size is always above 0"),
        ("latency <= 0", "latency is always above 0"),
        ("accuracy drop <= 0.01 kB", "'kB' is no unit of a drop. Write 'accuracy drop <= 0.01' or"),
        ("accuracy drop <= 0.5x", "'x' is no unit of a drop"),
        ("size <= 3", "no model has so few bytes. Did you mean 'size <= 3 kB' or 'size <= 3 MB'?"),
        ("size <= 3 B", "no model has so few bytes. E.g. 'size <= 0.1x'"),
        ("size >= 3 MB", "a smaller size is better, so it is limited by <="),
        ("accuracy <= 0.9", "a larger accuracy is better, so it is limited by >=. Write 'accuracy >= ...', or"),
        ("accuracy >= 98", "an accuracy is at most 1. Did you mean 'accuracy >= 98%'?"),
        ("accuracy drop <= 1", "limits nothing. Did you mean 'accuracy drop <= 1%'?"),
        ("accuracy drop <= 100%", "limits nothing. Leave it out."),
        ("accuracy >= 1.2", "an accuracy is at most 1. E.g. 'accuracy >= 0.95'."),
        ("size <= 0.1", "less than one byte. Did you mean 'size <= 0.1x'"),
        ("macs <= 0.5", "less than one MAC. Did you mean 'macs <= 0.5x'"),
        ("macs <= 3 kB", "'kB' is no unit of macs"),
        ("accuracy drop <= -1", "limited from above, by 0 or more"),
        ("accuracy drop <= 5", "Did you mean 'accuracy drop <= 5%'?"),
        ("accuracy drop >= 0.1", "limited from above, by 0 or more"),
        ("accuracy rise <= 0.1", "Write 'accuracy drop <= ...'"),
    ],
)
def test_limits_without_sense_are_refused(text: str, message: str) -> None:
    """A slip that would make every model or none keep the limit is told before the first trial."""
    with pytest.raises(SettingError) as caught:
        check_constraints([Constraint.parse(text)], QUALITY)
    assert message in str(caught.value)


def test_a_loss_does_not_drop_except_in_runs_of_old() -> None:
    """The word for a metric of which less is better is asked for, and limits that a run folder holds are still read."""
    loss, old = Objective("mse", "minimize", True), [Constraint.parse("mse drop <= 0.25")]
    with pytest.raises(SettingError, match="Write 'mse rise <= ...'"):
        check_constraints(old, loss)
    check_constraints(old, loss, stored=True)
    base = Result(0, Recipe(), {"mse": Measurement(1.0)})
    assert allowed(old, base, loss) == allowed([Constraint.parse("mse rise <= 0.25")], base, loss)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("mse rise <= 5%", "Write 'mse rise <= 0.05' for its own unit, or 'mse <= 1.05x' for a multiple"),
        ("mse <= 110%", "Write 'mse <= 1.1' for its own unit, or 'mse <= 1.1x' for a multiple"),
    ],
)
def test_a_percentage_of_an_error_is_asked_about(text: str, advice: str) -> None:
    """Points, as of an accuracy, or a share, as of a cost: for an original with an mse of 0.006 these are far apart."""
    loss = Objective("mse", "minimize", True)
    with pytest.raises(SettingError) as caught:
        check_constraints([Constraint.parse(text)], loss)
    assert advice in str(caught.value)
    check_constraints([Constraint.parse(text)], loss, stored=True)


def test_how_far_a_limit_is_missed() -> None:
    """The value and the excess are in the metric's unit, of a drop those of the drop."""
    assert Constraint.parse("size <= 0.2x").missed_by(SMALL, BASE, QUALITY) == (300, 100)
    assert Constraint.parse("accuracy drop <= 1%").missed_by(SMALL, BASE, QUALITY) == pytest.approx((0.02, 0.01))


@pytest.mark.parametrize("examples", [400, 997, 10_000])
def test_a_model_exactly_at_a_limit_keeps_it(examples: int) -> None:
    """Whatever the rounding of a difference of two accuracies is, and the racing's range agrees."""
    fewer = examples // 100
    limits = [Constraint.parse(f"accuracy drop <= {fewer / examples!r}"), Constraint.parse("size <= 0.3x")]
    for right in range(examples // 2, examples, 7):
        base = Result(0, Recipe(), {"accuracy": Measurement(right / examples), "size": Measurement(10.0)})
        at, below = (
            Result(1, Recipe(), {"accuracy": Measurement((right - lost) / examples), "size": Measurement(3.0)})
            for lost in (fewer, fewer + 1)
        )
        assert max(violations(limits, at, base, QUALITY)) <= 0
        assert max(violations(limits, below, base, QUALITY)) > 0
        low, high = allowed(limits, base, QUALITY)["accuracy"]
        assert low <= at.value("accuracy") <= high
        assert below.value("accuracy") < low


def test_only_the_quality_can_drop() -> None:
    """A drop of a cost has no meaning, and the message says how to limit one."""
    with pytest.raises(SettingError, match="size <= 0.5x"):
        check_constraints([Constraint.parse("size drop <= 10%")], QUALITY)
    check_constraints([Constraint.parse("accuracy drop <= 10%")], QUALITY)


@pytest.mark.parametrize(
    "text",
    ["size <= 300", "size <= 0.3x", "accuracy >= 88%", "accuracy drop <= 0.02", "size >= 2 kB", "accuracy <= 0.5"],
)
def test_the_allowed_range_says_what_the_violation_says(text: str) -> None:
    """A value is in the range exactly where its violation is 0 or less: racing and front must agree."""
    constraint = Constraint.parse(text)
    ((name, (low, high)),) = allowed([constraint], BASE, QUALITY).items()
    for value in (0.0, 0.5, 0.879, 0.881, 0.9, 299.0, 300.0, 301.0, 2001.0):
        result = Result(1, Recipe(), {name: Measurement(value)})
        assert (low <= value <= high) == (constraint.violation(result, BASE, QUALITY) <= 0)


def test_ranges_of_a_loss_and_of_several_limits() -> None:
    """A drop of a metric to be minimised is an upper end, and two limits on one metric leave what both allow."""
    base = Result(0, Recipe(), {"mse": Measurement(1.0)})
    drop = Constraint.parse("mse rise <= 0.25")
    assert allowed([drop], base, Objective("mse", "minimize"))["mse"] == (-math.inf, pytest.approx(1.25))
    both = [Constraint.parse("size <= 0.3x"), Constraint.parse("size >= 100"), Constraint.parse("size <= 400")]
    assert allowed(both, BASE, QUALITY) == {"size": pytest.approx((100.0, 300.0))}


def test_what_a_stopped_trial_never_measured_counts_as_broken() -> None:
    """Samplers can't be told NaN: a limit on a figure that is missing is a broken one."""
    stopped = Result(1, Recipe(), {"size": Measurement(300)}, "stopped")
    assert violations([Constraint.parse("accuracy >= 0.5")], stopped, BASE, QUALITY) == [1.0]
