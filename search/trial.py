"""One trial: a recipe becomes a model, the model a file, the file a model again, and that one is measured."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from ..compressors.base import Compressor, apply_step
from ..compressors.batchnorm import reestimate
from ..compressors.draft import Context, Draft
from ..evaluators.accuracy import Quality
from ..evaluators.base import Evaluator, Measurement, Subject, evaluator
from ..spaces.catalogue import in_stage_order, technique
from ..spaces.data import Batches
from ..spaces.recipe import Recipe
from ..spaces.site import Site
from ..spaces.stage import Stage
from ..spaces.task import Task
from .artifact import Saved, dumps, loads
from .pareto import dominates
from .result import Objective, Result, Status


@dataclass(frozen=True)
class Job:
    """A recipe to try.

    ``number``, ``seed`` and ``origin`` go into the result. ``attempt`` counts executions after a worker died.
    """

    number: int
    recipe: Recipe
    seed: int = 0
    origin: str = ""
    attempt: int = 1


@dataclass(frozen=True)
class Finished:
    """A result, and the file if there is one."""

    result: Result
    data: bytes | None = None

    def without_dominated_file(self, objectives: Sequence[Objective], front: Sequence[Sequence[float]]) -> Finished:
        """Return it without the file if a row of ``front`` dominates it: such a model is not worth sending."""
        if self.data is None:
            return self
        row = [o.loss(self.result.value(o.name)) for o in objectives]
        return Finished(self.result) if any(dominates(other, row) for other in front) else self


@dataclass
class Bench:
    """Where trials are made: everything that stays the same from trial to trial.

    Attributes
    ----------
    task
        The original model and its data.
    sites
        All sites of the original model by name.
    metrics
        What each trial measures, the cheapest first.
    objectives
        What decides whether a trial's file is sent back.
    threads
        Of torch while a trial runs, the same in every process: with another number, sums differ in their last bits
        and a recipe would not be the same model again.
    """

    task: Task
    sites: dict[str, Site]
    metrics: Sequence[Evaluator]
    objectives: Sequence[Objective]
    threads: int = 1

    @cached_property
    def needs_class(self) -> str:
        """Why saved models need the user's class, or "": whether tracing gives the same model is tried once a run,
        on a whole batch, because a trace can miss what one example doesn't touch.
        """
        args, _ = self.task.validation.first()
        saved = dumps(Draft.of(self.task.model), self.task.model, Recipe(), len(args))
        if saved.needs_class:
            return saved.needs_class
        with torch.no_grad():
            before = self.task.model(*(x.clone() for x in args))
            after = loads(saved.data)(*(x.clone() for x in args))
        return "" if torch.equal(before, after) else "tracing its forward pass changes the outputs"

    @cached_property
    def original(self) -> nn.Module:
        """The uncompressed model, read back from a file like every other: what latency is paired with."""
        return loads(self.compress(Recipe(), 0)[0].data, self.task.model)

    def __getstate__(self) -> dict[str, object]:
        """Leave `original` behind: a worker makes its own."""
        return {k: v for k, v in vars(self).items() if k != "original"}

    @contextmanager
    def threaded(self) -> Iterator[None]:
        """Give torch the trial's number of threads, and its own back afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def run(self, job: Job) -> Finished:
        """Run a trial. Whatever goes wrong becomes a failed result; nothing is raised but interrupts."""
        start = time.perf_counter()
        clock = Clock()
        try:
            with self.threaded():
                saved, draft = self.compress(job.recipe, job.seed, clock)
                with clock("load"):
                    model = self.reload(saved, draft)
                with clock("measure"):
                    measured = self.measure(model, draft, len(saved.data), self.task.validation, self.metrics)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0][:500]
            return Finished(self._result(job, {}, "failed", reason, start, clock))
        checksum = hashlib.sha256(saved.data).hexdigest()[:16]
        return Finished(replace(self._result(job, measured, "ok", "", start, clock), checksum=checksum), saved.data)

    @staticmethod
    def _result(
        job: Job, measured: dict[str, Measurement], status: Status, error: str, start: float, clock: Clock
    ) -> Result:
        seconds = time.perf_counter() - start
        return Result(job.number, job.recipe, measured, status, error, seconds, job.seed, job.origin, clock.seconds)

    def compress(self, recipe: Recipe, seed: int, clock: Clock | None = None) -> tuple[Saved, Draft]:
        """Return the compressed model as a file, and the draft that it was written from.

        Raises
        ------
        ValueError
            If the compressed model's output is not finite.
        """
        clock = clock or Clock()
        context = Context(self.task, self.sites, seed)
        draft = Draft.of(self.task.model)
        steps = in_stage_order(recipe.steps)
        recovering = False
        for step in steps:
            entry = technique(step.technique)
            if not isinstance(entry, Compressor):
                raise TypeError(f"the technique {step.technique} can't be applied: it is no Compressor")
            if entry.stage is Stage.RECOVERY and not recovering:
                recovering = True
                with clock("batch norm"):
                    reestimate(draft.model, self.task.calibration, self.task.loss)
            with clock("train" if entry.stage is Stage.RECOVERY else "compress"):
                apply_step(entry, draft, step, context)
        if any(technique(s.technique).stage < Stage.CONTAINER for s in steps):
            with clock("batch norm"):
                reestimate(draft.model, self.task.calibration, self.task.loss)
        draft.model.eval()
        with torch.no_grad():
            if not torch.isfinite(draft.model(*(x.clone() for x in self.task.example))).all():
                raise ValueError("the compressed model's output is not finite")
        with clock("save"):
            inputs, source = len(self.task.example), self.task.source
            saved = dumps(draft, self.task.model, recipe, inputs, source, self.needs_class)
        return saved, draft

    def reload(self, saved: Saved, draft: Draft) -> nn.Module:
        """Return the model read back from the file.

        Raises
        ------
        ValueError
            If it doesn't compute exactly what the draft computes.
        """
        model = loads(saved.data, self.task.model)
        with torch.no_grad():
            before = draft.model(*(x.clone() for x in self.task.example))
            after = model(*(x.clone() for x in self.task.example))
        if not torch.equal(before, after):
            gap = float((before - after).abs().max())
            raise ValueError(f"the saved model's output differs from the searched model's by up to {gap:.3g}")
        return model

    def measure(
        self, model: nn.Module, draft: Draft, file_bytes: int, split: Batches, metrics: Sequence[Evaluator]
    ) -> dict[str, Measurement]:
        """Return metric name -> measurement of a loaded model.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        bits: dict[str, int] = {}
        for name, encoding in draft.encodings.items():
            path = name.rpartition(".")[0]
            bits[path] = max(bits.get(path, 0), encoding.codec.bits)
        subject = Subject(model, self.task, split, file_bytes, bits, baseline=self.original)
        measured: dict[str, Measurement] = {}
        for metric in metrics:
            measurement = metric.measure(subject)
            if not math.isfinite(measurement.value):
                raise ValueError(f"{metric.name} is {measurement.value}")
            measured[metric.name] = measurement
        return measured


class Clock:
    """Adds up the seconds of a trial's phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time inside the block for ``phase``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def metrics_for(task: Task, names: Sequence[str]) -> list[Evaluator]:
    """Return the evaluators of these names, the cheapest first; the task's own metric goes by its own name.

    Raises
    ------
    SettingError
        If a name is unknown.
    """
    own = Quality(task.metric)
    found = [evaluator(name, {own.name: own}) for name in dict.fromkeys(names)]
    return sorted(found, key=lambda e: (e.cost, e.name))
