"""What is known of a profile, on disk."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.evaluators.latency import Latency
from paretopress.search import profile_store
from paretopress.search.effects import Effect, Survey
from paretopress.search.latency_choice import source_of
from paretopress.search.profile_store import Lines, ProfileStore
from paretopress.spaces.choices import Setting
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import MODEL
from paretopress.spaces.task import Loss, Task

FULL = Effect(0.25, "fisher", {"a.b": (0.5, 0.125, 0.25), "": (0.0, 1.0, 1.0)}, -40, "", 0.125, "1234")
MILD, STRONG = Setting("integer", (("bits", 8),)), Setting("integer", (("bits", 2),))


def test_what_was_put_is_found_again(task: Task, tmp_path: Path) -> None:
    """By this store and by a later one: effects, how they were measured, and what settings do together."""
    store = ProfileStore(task, None, tmp_path)
    assert store.get("a", MILD) is None
    assert store.by_loss
    assert store.together("a", [(MILD, STRONG)]) is None
    store.put("a", {MILD: FULL, STRONG: Effect(error="no")})
    store.by_loss = False
    store.put_together("a", [(MILD, STRONG)], [1.25])
    for found in (store, ProfileStore(task, None, tmp_path)):
        assert found.get("a", MILD) == FULL
        assert found.get("a", STRONG) == Effect(error="no")
        assert found.get("b", MILD) is None
        assert not found.by_loss
        assert found.together("a", [(MILD, STRONG)]) == [1.25]
        assert found.together("b", [(MILD, STRONG)]) is None
        assert found.together("a", [(STRONG, MILD)]) is None


def test_tasks_and_coders_have_files_of_their_own(task: Task, tmp_path: Path) -> None:
    """What was measured with another loss, other data or another coder is not taken for this."""
    other = Task(task.model, task.validation.source, loss=lambda output, _: output.sum(), metric=task.metric)
    stores = [
        ProfileStore(task, None, tmp_path),
        ProfileStore(task, Step.of(MODEL, "entropy"), tmp_path),
        ProfileStore(other, None, tmp_path),
    ]
    assert len({store.lines.file for store in stores}) == len(stores)


class Gain(nn.Module):
    """A forward pass that a number decides, which is no weight and isn't printed."""

    def __init__(self, inner: nn.Module, gain: float) -> None:
        super().__init__()
        self.inner, self.gain = inner, gain

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.inner(x)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return what torch's returns, as a function of one's own: outputs aren't known to be class scores."""
    return F.cross_entropy(output, target)


def test_other_forward_passes_and_units_have_files_of_their_own(task: Task, tmp_path: Path) -> None:
    """The same weights computed with in another way, and a damage in another unit, are something else."""
    source = task.validation.source
    one, other, again = (Task(Gain(task.model, gain), source) for gain in (1.0, 30.0, 1.0))
    files = [ProfileStore(t, None, tmp_path).lines.file for t in (one, other, again)]
    assert files[0] == files[2] != files[1]
    tables = [
        source_of(Survey(t, {}, None), Latency(runtime="torch"), tmp_path).lines.file for t in (one, other, again)
    ]
    assert tables[0] == tables[2] != tables[1]
    own = Task(task.model, source, loss=cross_entropy)
    assert ProfileStore(own, None, tmp_path).lines.file != ProfileStore(task, None, tmp_path).lines.file


def test_an_edited_coder_has_a_file_of_its_own(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are counted with it, as exactly as the file."""
    coder = Step.of(MODEL, "entropy")
    before = ProfileStore(task, coder, tmp_path).lines.file
    assert ProfileStore(task, coder, tmp_path).lines.file == before
    monkeypatch.setattr(profile_store, "fingerprint", lambda cls: (f"edited {cls.__name__}", True))
    assert ProfileStore(task, coder, tmp_path).lines.file != before


def test_what_may_pass_is_tried_again_by_the_next_run(task: Task, tmp_path: Path) -> None:
    """A step that failed for want of memory, or with its worker, isn't impossible for ever; in this run it is."""
    store = ProfileStore(task, None, tmp_path)
    short, never = Effect(error="RuntimeError: no memory", passing=True), Effect(error="ValueError: no")
    store.put("a", {MILD: short, STRONG: never})
    assert (store.get("a", MILD), store.get("a", STRONG)) == (short, never)
    again = ProfileStore(task, None, tmp_path)
    assert (again.get("a", MILD), again.get("a", STRONG)) == (None, never)


def test_a_file_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared cache helps those who may not write to it, too."""

    def refused(self: Path) -> None:
        raise PermissionError(self)

    Lines(["x"], tmp_path).add({"a": 1})
    monkeypatch.setattr(Path, "touch", refused)
    assert Lines(["x"], tmp_path).known == {"a": 1}


def test_nothing_is_kept_without_a_folder(task: Task) -> None:
    """In memory it is, as long as the store lives."""
    store = ProfileStore(task, None)
    store.put("a", {MILD: FULL})
    assert store.get("a", MILD) == FULL
    assert store.lines.file is None


def test_torn_lines_are_passed_over(tmp_path: Path) -> None:
    """A line that a crash cut short, or that is no dictionary, takes nothing else with it, nor what comes after."""
    first = Lines(["x"], tmp_path)
    first.add({"a": 1})
    assert first.file is not None
    with first.file.open("ab") as file:
        file.write(b'\n[1, 2]\n{"b": 2, "c"')
    again = Lines(["x"], tmp_path)
    assert again.known == {"a": 1}
    again.add({"d": 4})
    assert Lines(["x"], tmp_path).known == {"a": 1, "d": 4}
    assert Lines(["y"], tmp_path).known == {}


def test_damaged_effects_are_measured_again(task: Task, tmp_path: Path) -> None:
    """An entry that is no effect is none."""
    store = ProfileStore(task, None, tmp_path)
    store.lines.add({store._key("a", MILD): {"damage": "much"}, store._key("a", STRONG): 7})
    assert store.get("a", MILD) is None
    assert store.get("a", STRONG) is None


def test_oldest_files_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder doesn't grow without end; a file that was read lately stays."""
    monkeypatch.setattr(profile_store, "KEPT", 3)
    for name in "abc":
        lines = Lines([name], tmp_path)
        lines.add({name: 1})
        assert lines.file is not None
        os.utime(lines.file, (ord(name), ord(name)))
    Lines(["a"], tmp_path)
    Lines(["d"], tmp_path).add({"d": 1})
    assert [bool(Lines([name], tmp_path).known) for name in "abcd"] == [True, False, True, True]


def test_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    """Where nothing can be written, what is known stays known in memory."""
    (tmp_path / "folder").write_text("in the way")
    lines = Lines(["x"], tmp_path / "folder")
    lines.add({"a": 1})
    assert lines.known == {"a": 1}
    assert lines.file is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda output, target: 1 * F.nll_loss(output, target), lambda output, target: 2 * F.nll_loss(output, target)),
        (partial(F.cross_entropy, label_smoothing=0.1), partial(F.cross_entropy, label_smoothing=0.2)),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0))),
    ],
)
def test_losses_of_one_name_have_files_of_their_own(task: Task, tmp_path: Path, one: Loss, other: Loss) -> None:
    """Functions without a name, and one function or class with other arguments, lead to other damages; the same loss
    to the same file.
    """
    source = task.validation.source
    files = [ProfileStore(Task(task.model, source, loss=x), None, tmp_path).lines.file for x in (one, other, one)]
    assert files[0] == files[2] != files[1]


def test_a_file_that_made_room_for_others_is_written_whole_again(tmp_path: Path) -> None:
    """What was known from it is not lost with it."""
    lines = Lines(["x"], tmp_path)
    lines.add({"a": 1})
    assert lines.file is not None
    lines.file.unlink()
    lines.add({"b": 2})
    assert Lines(["x"], tmp_path).known == {"a": 1, "b": 2}
