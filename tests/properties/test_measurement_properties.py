"""Laws that measurements obey for all models, sizes and numbers."""

import json
import math
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paretopress.evaluators.accuracy import wilson
from paretopress.evaluators.base import Measurement, Subject
from paretopress.evaluators.bops import BitOperations
from paretopress.evaluators.macs import macs_by_module
from paretopress.evaluators.memory import Memory
from paretopress.evaluators.pairing import median_interval
from paretopress.evaluators.params import Parameters
from paretopress.spaces.task import Task

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(max_size=8)
facts = st.dictionaries(words, st.none() | st.booleans() | st.integers() | finite | words, max_size=4)
few = settings(max_examples=25, deadline=None)


@given(finite, words, st.none() | st.tuples(finite, finite), st.integers(1, 10**9), facts)
def test_measurements_survive_json(
    value: float, unit: str, interval: tuple[float, float] | None, repeats: int, detail: dict[str, object]
) -> None:
    """A journal line gives back exactly what was measured."""
    measured = Measurement(value, unit, interval, repeats, detail)
    assert Measurement.from_json(json.loads(json.dumps(measured.to_json()))) == measured


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_intervals_hold_the_share_and_stay_proportions(counts: tuple[int, int]) -> None:
    """At every count, 0 and all included, the interval has a width and lies in [0, 1]."""
    right, examples = counts
    low, high = wilson(right / examples, examples)
    assert 0 <= low <= right / examples <= high <= 1
    assert low < high


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_wilson_intervals_mirror_and_narrow(right: int, times: int) -> None:
    """Calling right wrong mirrors the interval; more examples with the same share never widen it."""
    low, high = wilson(right / 1000, 1000)
    other = wilson(1 - right / 1000, 1000)
    assert math.isclose(low, 1 - other[1], abs_tol=1e-9)
    more = wilson(right / 1000, 1000 * times)
    assert more[1] - more[0] <= high - low + 1e-12


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60), st.floats(0.1, 10))
@few
def test_the_interval_of_a_median_holds_it_and_scales(ratios: list[float], factor: float) -> None:
    """The order statistics stay in order, and the unit of time doesn't matter."""
    median, low, high = median_interval(ratios)
    assert min(ratios) <= low <= median <= high <= max(ratios)
    scaled = median_interval([factor * r for r in ratios])
    assert all(math.isclose(a * factor, b, rel_tol=1e-9) for a, b in zip((median, low, high), scaled))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, int]:
    """Draw a convolution and the side of its input."""
    groups = draw(st.integers(1, 3))
    kernel = draw(st.integers(1, 3))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 4)),
        groups * draw(st.integers(1, 4)),
        kernel,
        stride=draw(st.integers(1, 3)),
        padding=draw(st.integers(0, 2)),
        dilation=draw(st.integers(1, 2)),
        groups=groups,
        bias=draw(st.booleans()),
    )
    return conv, draw(st.integers(5, 12))


@given(convolutions(), st.integers(1, 3))
@few
def test_convolutions_cost_output_positions_times_weights(drawn: tuple[nn.Conv2d, int], batch: int) -> None:
    """The closed form holds for every stride, padding, dilation, grouping and batch."""
    conv, side = drawn
    x = torch.zeros(batch, conv.in_channels, side, side)
    positions = math.prod(conv(x).shape[2:])
    assert macs_by_module(conv, (x,)) == ({"": positions * conv.weight.numel()}, {})


@st.composite
def subjects(draw: st.DrawFn) -> Subject:
    """Draw a chain of dense layers with bits."""
    widths = [*draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)), draw(st.integers(2, 20))]
    layers = [nn.Linear(a, b, bias=draw(st.booleans())) for a, b in pairwise(widths)]
    task = Task(nn.Sequential(*layers), [(torch.randn(2, widths[0]), torch.zeros(2, dtype=torch.long))])
    bits = st.dictionaries(st.sampled_from([str(n) for n in range(len(layers))]), st.integers(1, 32))
    return Subject(task.model, task, task.validation, weight_bits=draw(bits), activation_bits=draw(bits))


@given(subjects())
@few
def test_the_costs_of_a_dense_chain_follow_from_its_shapes(subject: Subject) -> None:
    """Parameters, MACs, bit operations and memory of dense chains all have closed forms."""
    layers = [m for m in subject.model.modules() if isinstance(m, nn.Linear)]
    weights = [layer.weight.numel() for layer in layers]
    counts, _ = macs_by_module(subject.model, subject.task.example)
    assert counts == {str(n): w for n, w in enumerate(weights)}
    expected = sum(
        w * subject.weight_bits.get(str(n), 32) * subject.activation_bits.get(str(n), 32) for n, w in enumerate(weights)
    )
    assert BitOperations().measure(subject).value == expected
    parameters = sum(p.numel() for p in subject.model.parameters())
    assert Parameters().measure(subject).value == parameters
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    live = [widths[0] + widths[1], *(widths[0] + a + b for a, b in pairwise(widths[1:]))]
    assert Memory().measure(subject).value == 4 * (parameters + max(live))
