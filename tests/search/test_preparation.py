"""What is said before the first trial."""

from __future__ import annotations

from paretopress.evaluators.base import Measurement
from paretopress.search.preparation import out_of_reach


def test_a_limit_out_of_reach_is_told_with_the_least_there_is() -> None:
    """A prediction is said to be one, and the original's own cost isn't."""
    predicted = out_of_reach("'size <= 100'", "size", 1800.0, Measurement(9000.0, "B"))
    assert "predicted to keep 'size <= 100': the least is about 1.80 kB, give or take a third." in predicted
    known = out_of_reach("'macs <= 0.5x'", "macs", 16128.0, Measurement(16128.0, "MACs"))
    assert "the least is the original's own 16.1 k." in known
    assert known.endswith("a looser limit on macs, or a larger space, would leave it a choice")
