"""A figure at the end of a run is of the file and of the test split, or comes with the reason why there is none."""

from __future__ import annotations

import pytest

from paretopress.evaluators.accuracy import Quality
from paretopress.evaluators.base import Evaluator, Measurement, Subject
from paretopress.search.appraisal import Appraisal, Parity, Unmeasured
from paretopress.search.trial import Bench, Job, metrics_for
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


@pytest.fixture
def bench(task: Task, space: Space) -> Bench:
    """A bench that measures accuracy and size."""
    return Bench(task, space.sites, metrics_for(task, ["accuracy", "size"]), ())


@pytest.fixture
def data(bench: Bench) -> bytes:
    """The file of a model in four bits."""
    done = bench.run(Job(1, Recipe.of([Step.of("conv2", "integer", bits=4, granularity="channel")])))
    assert done.data is not None
    return done.data


class Seen(Evaluator):
    """Notes what it was given."""

    name, unit, direction, cost = "seen", "", "minimize", 0.1
    summary = "a test's"

    def __init__(self) -> None:
        self.subjects: list[Subject] = []

    def measure(self, subject: Subject) -> Measurement:
        """Return the length of the file."""
        self.subjects.append(subject)
        return Measurement(float(subject.file_bytes))


def test_figures_are_of_the_file_on_test(bench: Bench, data: bytes, task: Task) -> None:
    """The model comes from the file, once for all of its figures; examples are those that no trial has seen."""
    seen, appraisal = Seen(), Appraisal(bench)
    assert appraisal.measure(data, seen) == appraisal.measure(data, seen) == Measurement(float(len(data)))
    assert seen.subjects[0].split is task.test
    assert seen.subjects[0].model is seen.subjects[1].model
    assert appraisal.measure(data, Quality(task.metric)) == Quality(task.metric).measure(seen.subjects[0])


def test_another_file_is_another_model(bench: Bench, data: bytes) -> None:
    """No figure is of the model before."""
    seen, appraisal = Seen(), Appraisal(bench)
    original = bench.run(Job(0, Recipe())).data
    assert original is not None
    for file in (data, original, data):
        assert appraisal.measure(file, seen) == Measurement(float(len(file)))
    assert len({id(subject.model) for subject in seen.subjects}) == 3


def test_a_damaged_file_has_no_figures(bench: Bench, data: bytes) -> None:
    """It costs neither the run nor a traceback."""
    found = Appraisal(bench).measure(data[:-100], Seen())
    assert isinstance(found, Unmeasured)
    assert not found.lost
    assert found.reason


def test_a_deployed_file_is_compared_with_its_model(bench: Bench, data: bytes, task: Task) -> None:
    """What ONNX Runtime answers is what the model does; a file that it can't load is no figure, and says so."""
    found = Appraisal(bench).measure(data, Parity())
    assert isinstance(found, Measurement)
    assert found.value == 1
    assert task.test is not None
    assert found.repeats == min(256, len(task.test.first()[1]))
    subject = Subject(task.model, task, task.validation, deploy=lambda: b"no file")
    with pytest.raises(Exception, match="ONNX Runtime can't load it"):
        Parity().measure(subject)
