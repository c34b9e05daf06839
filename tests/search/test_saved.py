"""A run folder without a front is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.search import Recipe, open_front
from paretopress.search.folder import SETTINGS
from paretopress.search.journal import Journal
from paretopress.search.result import Result
from paretopress.spaces.errors import RunError
from paretopress.spaces.recipe import Step


@pytest.mark.parametrize(("trials", "text"), [(1, "has 1 trial but"), (2, "has 2 trials but")])
def test_a_run_without_a_front_says_how_far_it_came(tmp_path: Path, trials: int, text: str) -> None:
    """The message counts the trials in words that are right for one, too, and says how to finish."""
    with Journal(tmp_path, {"schema": 1}) as journal:
        for number in range(trials):
            journal.finish([(Result(number, Recipe.of([Step.of("fc", "integer", bits=number + 2)])), {})])
    with pytest.raises(RunError, match=text) as caught:
        open_front(tmp_path)
    assert "search(..., existing='resume')" in str(caught.value)  # it was started from Python
    (tmp_path / SETTINGS).write_text("{}")
    with pytest.raises(RunError, match=f"paretopress resume {tmp_path}"):
        open_front(tmp_path)
