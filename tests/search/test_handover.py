"""Results between a worker and the journal: kept where the driver looks, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.compressors.draft import NoSaves
from paretopress.evaluators.base import Measurement
from paretopress.search.handover import Handover
from paretopress.search.result import Result
from paretopress.search.training_saves import FileSaves
from paretopress.search.trial import Finished
from paretopress.spaces.recipe import Recipe, Step


def finished(number: int, data: bytes | None = b"model\nbytes", status: str = "ok") -> Finished:
    """Return an end."""
    recipe = Recipe.of([Step.of("a", "t", n=number)])
    result = Result(number, recipe, {"size": Measurement(10.0, "B")}, status)  # type: ignore[arg-type]  # of a test's list
    return Finished(result, data, f"{number}.1.abcd")


def test_what_was_left_is_found_by_the_next_session(tmp_path: Path) -> None:
    """Result, file and attempt are as they were; what was taken into the journal is gone."""
    first = Handover(tmp_path)
    first.open()
    ends = [finished(1), finished(2, None), finished(3)]
    for end in ends:
        first.leave(end)
    second = Handover(tmp_path)
    assert list(second.left()) == ends
    second.drop(ends[:2])
    assert list(second.left()) == ends[2:]
    second.close()
    assert not (tmp_path / "pending").exists()


def test_a_worker_without_the_drivers_folder_leaves_nothing(tmp_path: Path) -> None:
    """A folder of the same path on another machine's disk isn't the driver's: nobody would look there."""
    elsewhere = Handover(tmp_path)
    elsewhere.leave(finished(1))
    assert not list(tmp_path.iterdir())
    assert isinstance(elsewhere.saves("abc"), NoSaves)
    elsewhere.open()
    assert isinstance(elsewhere.saves("abc"), FileSaves)


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_damaged_result_is_none(tmp_path: Path, cut: int) -> None:
    """A trial whose result can't be read runs again."""
    handover = Handover(tmp_path)
    handover.open()
    handover.leave(finished(1))
    [path] = (tmp_path / "pending").glob("*.trial")
    path.write_bytes(path.read_bytes()[:cut])
    assert list(handover.left()) == []


def test_the_training_of_a_failed_trial_is_kept(tmp_path: Path) -> None:
    """It may be run again, from where it was; that of others is not needed any more."""
    handover = Handover(tmp_path)
    ends = [finished(1), finished(2, None, "failed")]
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for end in ends:
        (folder / f"{end.result.recipe.digest}.distillation.safetensors").write_bytes(b"state")
    handover.drop(ends)
    assert [p.name.partition(".")[0] for p in folder.iterdir()] == [ends[1].result.recipe.digest]
