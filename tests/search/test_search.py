"""The whole path: search, files, resume, interrupts, failures."""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn

from paretopress.compressors.base import Compressor, Params
from paretopress.compressors.draft import Context, Draft
from paretopress.evaluators.accuracy import Quality
from paretopress.evaluators.base import Subject
from paretopress.search import Front, Recipe, Resources, Space, Task, load, open_front, search
from paretopress.search.amounts import amount
from paretopress.search.artifact import FILE
from paretopress.search.journal import read
from paretopress.search.pareto import dominates
from paretopress.search.report.data import write_report
from paretopress.search.saved import load_front
from paretopress.spaces import catalogue
from paretopress.spaces.errors import DataError, ModelError, RunError, SettingError
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.stage import Stage


def run(task: Task, space: Space, folder: Path, **options: object) -> Front:
    """Search in this process, silently."""
    settings = {"budget": 8, "executor": "local", "progress": False, "run": folder, **options}
    return search(task, space, **settings)  # type: ignore[arg-type]  # keyword arguments by name


@pytest.fixture(scope="module")
def finished(task: Task, space: Space, tmp_path_factory: pytest.TempPathFactory) -> Front:
    """A small finished run."""
    return run(task, space, tmp_path_factory.mktemp("run") / "small", budget=12)


def test_no_point_of_the_front_is_dominated(finished: Front) -> None:
    """The front is the non-dominated part of all results, and the baseline isn't repeated in it."""
    rows = {
        r.number: [o.loss(r.value(o.name)) for o in finished.objectives] for r in finished.results if r.status == "ok"
    }
    for point in finished:
        assert not any(dominates(row, rows[point.result.number]) for row in rows.values())
        assert not point.recipe.is_baseline
    assert len(finished) >= 2


def test_every_point_is_a_file_that_reproduces_its_figures(finished: Front, task: Task) -> None:
    """Size is the file's length, and accuracy on test and validation is what the loaded model has."""
    assert task.test is not None
    for point in (finished.baseline, *finished):
        assert point.path is not None
        file = point.path / FILE
        assert file.stat().st_size == point.result.value("size") == point.final["size"].value
        model = load(point.path)
        for split, expected in ((task.test, point.final), (task.validation, point.result.measurements)):
            measured = Quality(task.metric).measure(Subject(model, task, split))
            assert measured.value == expected["accuracy"].value
            assert measured.interval == expected["accuracy"].interval


def test_a_report_that_cannot_be_written_says_that_the_front_is_complete(finished: Front) -> None:
    """The last file of a run is no reason to repeat any of it."""
    assert finished.folder is not None
    with pytest.raises(RunError, match=r"can't be written .*complete.* paretopress report /proc/run"):
        write_report(finished, load_front(finished.folder)[1], Path("/proc/run"))


def test_the_smallest_point_is_really_smaller(finished: Front) -> None:
    """Picking by size gives a file a few times smaller than the original's."""
    smallest = finished.pick(max_accuracy_drop=1.0, minimise="size")
    assert smallest.ratios(finished.baseline)["size"]["compression"] > 2


def test_the_original_model_is_untouched(task: Task, space: Space, tmp_path: Path) -> None:
    """Trials that prune and train leave the task's model byte-identical."""
    before = copy.deepcopy(task.model.state_dict())
    run(task, space, tmp_path / "r", budget=6)
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())


def test_a_front_can_be_opened_again(finished: Front) -> None:
    """What is on disk gives the same front: points, figures, flags, notes and failed trials."""
    assert finished.folder is not None
    again = open_front(finished.folder)
    assert [p.recipe for p in again] == [p.recipe for p in finished]
    assert [dict(p.final) for p in again] == [dict(p.final) for p in finished]
    assert again.notes == finished.notes
    assert again.hypervolume == finished.hypervolume
    assert len(again.results) == len(finished.results)


def test_the_baseline_comes_first_then_the_predicted_front(finished: Front) -> None:
    """The default sampler starts with what the profile predicts to be best, not with uniform settings."""
    origins = [r.origin for r in sorted(finished.results, key=lambda r: r.number)]
    assert origins[0] == "baseline"
    assert set(origins[1:]) == {"profile"}


def test_other_samplers_start_with_uniform_recipes(task: Task, tmp_path: Path) -> None:
    """A sampler that knows nothing of the layers gets a front to start from: the same technique everywhere."""
    space = Space.from_task(task, {"integer": {}, "entropy": {}})
    front = search(task, space, budget=4, run=tmp_path, sampler="random", executor="local", progress=False)
    origins = [r.origin for r in sorted(front.results, key=lambda r: r.number)]
    assert origins == ["baseline", "start", "start", "start"]


def test_resume_continues_without_repeating(task: Task, space: Space, tmp_path: Path) -> None:
    """A resumed run keeps its trials, adds only new recipes and ends at the same total."""
    folder = tmp_path / "r"
    run(task, space, folder, budget=5)
    first = [r.to_json() for r, _ in read(folder)[1].results]
    run(task, space, folder, budget=9, existing="resume")
    lines = [r.to_json() for r, _ in read(folder)[1].results]
    assert lines[:5] == first
    assert len({line["digest"] for line in lines}) == len(lines) == 9


def test_a_resumed_run_finds_its_models_again(task: Task, space: Space, tmp_path: Path) -> None:
    """If the front's files were lost, they are made again from recipe and seed, with the same figures."""
    folder = tmp_path / "r"
    before = run(task, space, folder, budget=6)
    sizes = [p.final["size"].value for p in before]
    for file in (folder / "models").iterdir():
        file.unlink()
    (folder / "front.json").unlink()  # or there is nothing left to do
    after = run(task, space, folder, budget=6, existing="resume")
    assert [p.final["size"].value for p in after] == sizes
    for point in after:
        assert point.path is not None
        assert (point.path / FILE).stat().st_size == point.final["size"].value


def test_a_finished_run_is_not_measured_again(
    task: Task, space: Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming it returns its front at once and says how to get more; other limits ask for another front."""
    folder = tmp_path / "r"
    before = run(task, space, folder, budget=5)
    stamp = (folder / "front.json").stat().st_mtime_ns
    again = run(task, space, folder, budget=5, existing="resume", progress=True)
    assert "5 of 5 trials are done; give --trials (in Python: budget=) for more" in capsys.readouterr().err
    assert (folder / "front.json").stat().st_mtime_ns == stamp
    assert repr(again) == repr(before)
    run(task, space, folder, budget=5, existing="resume", constraints=["size <= 0.5x"])
    assert (folder / "front.json").stat().st_mtime_ns > stamp
    assert again[0].path is not None
    model = (again[0].path / FILE).read_bytes()
    (again[0].path / FILE).write_bytes(b"something else")
    run(task, space, folder, budget=5, existing="resume", constraints=["size <= 0.5x"])
    assert (again[0].path / FILE).read_bytes() == model
    (folder / "front.json").write_text("{")
    assert len(run(task, space, folder, budget=5, existing="resume")) == len(before)


def test_a_small_space_is_exhausted(task: Task, tmp_path: Path) -> None:
    """When every recipe was tried the run ends by itself, says so, and no recipe was tried twice."""
    space = Space.by_hand(task, {"fc": {"integer": {"bits": [8, 4], "granularity": "channel"}}})
    front = run(task, space, tmp_path / "r", budget=50)
    assert len(front.results) == space.size == len({r.recipe for r in front.results})
    assert any("every recipe" in note for note in front.notes)


def test_minutes_end_the_run_with_a_front(task: Task, space: Space, tmp_path: Path) -> None:
    """A limit of time returns the front so far."""
    front = run(task, space, tmp_path / "r", budget=None, minutes=0.02)
    assert any("time was up" in note for note in front.notes)
    assert front.points


def test_ctrl_c_returns_the_front_so_far(task: Task, space: Space, tmp_path: Path) -> None:
    """One interrupt lets the running trial finish, writes the front, and the run can be resumed."""
    folder = tmp_path / "r"

    def interrupt() -> None:
        while not (folder / "journal.jsonl").exists() or len(read(folder)[1].results) < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    front = run(task, space, folder, budget=500)
    thread.join()
    assert 3 <= len(front.results) < 500
    assert any("interrupted" in note for note in front.notes)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(run(task, space, folder, budget=len(front.results) + 1, existing="resume").results) > len(front.results)


class Breaks(Compressor):
    """Fails at its second setting."""

    name = "breaks"
    stage = Stage.OPERATOR
    kinds = frozenset({"linear"})
    summary = "fails on purpose"

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        return (Knob("how", ("not", "raise", "nan")),)

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        if params["how"] == "raise":
            raise RuntimeError("this layer can't be had\nsecond line")
        if params["how"] == "nan":
            draft.replace_module(site.name, nn.Sequential(nn.Linear(128, 10), nn.Threshold(1e9, float("nan"))))


def test_a_failing_trial_is_recorded_and_does_not_end_the_run(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception and a NaN output are results with a reason; the run goes on to its budget."""
    monkeypatch.setattr(catalogue.REGISTRY, "members", dict(catalogue.techniques()))
    catalogue.register(Breaks())
    space = Space.by_hand(task, {"fc": {"breaks": {}, "integer": {"bits": [8, 4, 2], "granularity": "channel"}}})
    front = run(task, space, tmp_path / "r", budget=14)
    assert len(front.results) == space.size == 16 or len(front.results) == 14
    reasons = {r.error for r in front.errors}
    assert "RuntimeError: this layer can't be had" in reasons
    assert any("not finite" in reason for reason in reasons)
    assert any("failed" in note for note in front.notes)


def test_constraints_are_kept_or_the_nearest_points_are_shown(
    task: Task, space: Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Front points keep the limits; if none can, the run says by how much the nearest misses, wherever one looks."""
    limit = 9000
    front = run(task, space, tmp_path / "a", budget=12, constraints=[f"size <= {limit}"])
    assert front.feasible
    assert all(p.result.value("size") <= limit for p in front)
    limits = ["size <= 100", "accuracy drop <= 90%"]
    hopeless = run(task, space, tmp_path / "b", budget=8, constraints=limits, progress=True)
    assert not hopeless.feasible
    assert len(hopeless) >= 1
    smallest = min(r.value("size") for r in hopeless.results if r.status == "ok")
    nearest = next(p for p in hopeless if p.result.value("size") == smallest)
    assert all("breaks the limit 'size <= 100': " in " ".join(p.flags) for p in hopeless)
    assert all(p.result.value("size") - 100 <= 2 * (smallest - 100) for p in hopeless)
    missed = hopeless.notes[0]
    assert f"The nearest, point {nearest.id}, misses size <= 100 by " in missed
    assert missed.endswith(f"(it had {amount(smallest, 'B')} in the search).")
    assert f"! {missed}" in repr(hopeless)
    told = " ".join(capsys.readouterr().err.split())
    assert missed in told
    assert told.index("predicted to keep 'size <= 100': the least is about") < told.index(missed)
    assert "No model" not in repr(front)


def test_duplicates_are_answered_from_the_journal(task: Task, tmp_path: Path) -> None:
    """A sampler that repeats itself costs no trial: every recipe is run once."""
    space = Space.by_hand(
        task,
        {
            "fc": {"integer": {"bits": [8, 6, 4, 2], "granularity": "channel"}},
            "conv2": {"integer": {"bits": [8, 4], "granularity": "channel"}},
        },
    )
    front = run(task, space, tmp_path / "r", budget=space.size, sampler="tpe")
    assert len({r.recipe for r in front.results}) == len(front.results) == space.size


class TestBadInput:
    """Each mistake is one error at once, before anything is written."""

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"objectives": ["accuracy", "sise"]}, SettingError, "size"),
            ({"objectives": ["accuracy"]}, SettingError, "at least two"),
            ({"objectives": ["accuracy", "size", "size"]}, SettingError, "name size more than once"),
            ({"objectives": "accuracy"}, SettingError, "list"),
            ({"objectives": ["accuracy", 3]}, SettingError, "list of names"),
            ({"sampler": None}, SettingError, "sampler = None: is unknown"),
            ({"run": 3}, SettingError, "run = 3: must be a folder's path"),
            ({"resources": 3}, SettingError, "resources = 3: must be Resources"),
            ({"constraints": None}, SettingError, "constraints = None: must be a list"),
            ({"sampler": "nsga"}, SettingError, "nsga2"),
            ({"budget": 0}, SettingError, "at least 1"),
            ({"minutes": -1.0}, SettingError, "above 0"),
            ({"constraints": ["size about 3"]}, SettingError, "must read like"),
            ({"constraints": ["sise <= 3"]}, SettingError, "size"),
            ({"executor": "cloud"}, SettingError, "ray"),
            ({"existing": "resume"}, RunError, "no run to resume"),
        ],
    )
    def test_a_wrong_setting_is_refused_and_nothing_written(
        self, task: Task, space: Space, tmp_path: Path, options: dict[str, object], error: type[Exception], text: str
    ) -> None:
        """The message names the value and what would do; the run folder isn't even made."""
        with pytest.raises(error, match=text):
            run(task, space, tmp_path / "r", **options)
        assert not (tmp_path / "r").exists()

    def test_a_folder_with_a_run_is_not_overwritten(self, task: Task, space: Space, tmp_path: Path) -> None:
        """Without being told to resume or start over, an earlier run is safe."""
        run(task, space, tmp_path / "r", budget=2)
        before = (tmp_path / "r/journal.jsonl").read_bytes()
        with pytest.raises(RunError, match="resume"):
            run(task, space, tmp_path / "r", budget=2)
        assert (tmp_path / "r/journal.jsonl").read_bytes() == before
        assert len(run(task, space, tmp_path / "r", budget=3, existing="fresh").results) == 3

    def test_somebody_elses_folder_is_not_used(self, task: Task, space: Space, tmp_path: Path) -> None:
        """A folder with other files is refused, and starting fresh never deletes them."""
        (tmp_path / "thesis.txt").write_text("mine")
        for existing in ("refuse", "fresh"):
            with pytest.raises(RunError, match=r"thesis\.txt"):
                run(task, space, tmp_path, existing=existing)
        assert (tmp_path / "thesis.txt").read_text() == "mine"

    def test_resuming_with_another_space_is_refused(self, task: Task, space: Space, tmp_path: Path) -> None:
        """The journal of another space is named as such."""
        run(task, space, tmp_path / "r", budget=2)
        with pytest.raises(RunError, match="search space"):
            run(task, space.without("fc"), tmp_path / "r", budget=4, existing="resume")

    def test_a_place_that_cannot_hold_the_folder(self, task: Task, space: Space, tmp_path: Path) -> None:
        """A run folder that is a file, or lies in one, is refused."""
        (tmp_path / "r").write_text("")
        with pytest.raises(RunError, match="not a folder"):
            run(task, space, tmp_path / "r")
        with pytest.raises(RunError, match="can't be written"):
            run(task, space, tmp_path / "r" / "below")
        with pytest.raises(RunError, match="can't be written"):  # even with every right
            run(task, space, Path("/proc/r"))

    def test_what_fails_before_the_first_trial_leaves_no_folder(self, task: Task, space: Space, tmp_path: Path) -> None:
        """A cluster that can't be reached, or a baseline that can't be measured, is told before anything is written."""
        with pytest.raises(RunError, match="can't be reached"):
            run(task, space, tmp_path / "r", executor="ray", resources=Resources(address="127.0.0.1:1"))
        assert not (tmp_path / "r").exists()
        run(task, space, tmp_path / "r", budget=2)
        with pytest.raises(RunError, match="can't be reached"):
            run(
                task,
                space,
                tmp_path / "r",
                executor="ray",
                resources=Resources(address="127.0.0.1:1"),
                existing="fresh",
            )
        assert len(read(tmp_path / "r")[1].results) == 2

    def test_a_folder_in_use_is_refused_at_once(self, task: Task, space: Space, tmp_path: Path) -> None:
        """While another driver holds the folder nobody else starts in it."""
        run(task, space, tmp_path / "r", budget=2)
        with FileLock(tmp_path / "r" / ".lock"), pytest.raises(RunError, match="another process"):
            run(task, space, tmp_path / "r", existing="resume")

    def test_a_model_without_compressible_layers(self, task: Task) -> None:
        """The message says which layers are supported."""
        model = nn.Sequential(nn.Flatten(), nn.Identity())
        bare = Task(model, validation=[(torch.randn(4, 1, 10), torch.randint(0, 10, (4,)))])
        with pytest.raises(ModelError, match="Linear"):
            Space.from_task(bare)

    def test_distillation_without_training_data(self, model: nn.Module, task: Task) -> None:
        """A technique that trains, asked for without training data, is refused with advice."""
        bare = Task(model, validation=task.validation.source)
        with pytest.raises(SettingError, match="training data"):
            Space.from_task(bare, {"distillation": {}})
        with pytest.raises(DataError, match="pair"):
            Task(model, validation=[torch.randn(4, 1, 8, 8)])


def test_figures_in_the_folder_are_plain_json(finished: Front) -> None:
    """A script can read a point's recipe and figures without paretopress."""
    for point in finished:
        assert point.path is not None
        assert Recipe.from_json(json.loads((point.path / "recipe.json").read_text())) == point.recipe
        figures = json.loads((point.path / "metrics.json").read_text())
        assert figures["final"]["accuracy"]["value"] == point.final["accuracy"].value


def test_a_pick_that_no_point_allows_names_the_limit(finished: Front) -> None:
    """A limit on size that nothing keeps is explained by the smallest size, not by the accuracy."""
    with pytest.raises(RunError, match="has size <= 10; the lowest is"):
        finished.pick(max_accuracy_drop=1.0, at_most={"size": 10})


def test_mistakes_in_spaces_and_tasks_are_named(task: Task, space: Space, tmp_path: Path) -> None:
    """Unknown knobs by hand, no layers at all, and a function in the place of a task."""
    with pytest.raises(SettingError, match="Did you mean 'bits'"):
        Space.by_hand(task, {"fc": {"integer": {"bitz": [4]}}})
    with pytest.raises(SettingError, match="names no layer"):
        Space.from_task(task, "quantize", layers=[])
    with pytest.raises(SettingError, match="must be a Task"):
        search(lambda: task, space, run=tmp_path / "r")  # type: ignore[arg-type]  # that is the mistake
