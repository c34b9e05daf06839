"""One trial: a recipe becomes a model, the model a file, the file a model again, and that one is measured."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from ..compressors.base import Compressor, apply_step
from ..compressors.batchnorm import Judge, reestimate
from ..compressors.cache import LayerCache
from ..compressors.draft import Context, Draft, NoSaves, Saves
from ..compressors.encoding import Encoding
from ..evaluators.accuracy import Look, Quality
from ..evaluators.base import Evaluator, Measurement, Subject, evaluator
from ..spaces.catalogue import check_stages, in_stage_order, technique
from ..spaces.metric import ACCURACY
from ..spaces.pulse import beat
from ..spaces.recipe import Recipe
from ..spaces.seeding import seeded
from ..spaces.site import Site
from ..spaces.stage import Stage
from ..spaces.task import Task
from ..spaces.threads import threaded
from .artifact import class_needed, loads
from .deployment import deployment
from .layers import ModuleForm
from .pareto import dominates
from .racing import Heat, HeatSaves, Race, Stop
from .result import Objective, Result, Status
from .result import checksum as checksum_of
from .saving import Saved, by_tensor, dumps

#: What is told a model's costs, and says who judges it; it raises `Stop` if nobody need to.
Entry = Callable[[Mapping[str, Measurement]], Judge | None]


@dataclass(frozen=True)
class Job:
    """A recipe to try.

    ``number``, ``seed`` and ``origin`` go into the result. ``race`` is None for a trial that nothing may stop.
    ``starts`` counts executions, this one among them, and ``driver`` names the session that asked for this one.
    """

    number: int
    recipe: Recipe
    seed: int = 0
    origin: str = ""
    race: Race | None = None
    starts: int = 1
    driver: str = ""

    @property
    def attempt(self) -> str:
        """Names this execution and no other: a result that comes late must not be taken for another attempt's."""
        return f"{self.number}.{self.starts}.{self.driver}"


@dataclass(frozen=True)
class Finished:
    """A result, the file if there is one, and the attempt that it is of."""

    result: Result
    data: bytes | None = None
    attempt: str = ""

    def without_dominated_file(self, objectives: Sequence[Objective], front: Sequence[Sequence[float]]) -> Finished:
        """Return it without the file if a row of ``front`` dominates it: such a model is not worth sending."""
        if self.data is None:
            return self
        row = [o.loss(self.result.value(o.name)) for o in objectives]
        return replace(self, data=None) if any(dominates(other, row) for other in front) else self


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
        What decides whether a trial can reach the front, and whether its file is sent back.
    threads
        Of torch while a trial runs, the same in every process: with another number, sums differ in their last bits
        and a recipe would not be the same model again.
    cache
        Where results of single layers are kept: each process's memory, and a folder that all of a machine share.
    """

    task: Task
    sites: dict[str, Site]
    metrics: Sequence[Evaluator]
    objectives: Sequence[Objective]
    threads: int = 1
    cache: LayerCache = field(default_factory=lambda: LayerCache(modules=ModuleForm()))

    @cached_property
    def needs_class(self) -> str:
        """Why saved models need the user's class, or "": see `class_needed`, which is asked once a run."""
        return class_needed(self.task)

    @cached_property
    def original(self) -> nn.Module:
        """The uncompressed model, read back from a file like every other: what latency is paired with."""
        return loads(self.compress(Recipe(), 0)[0].data, self.task.model)

    @cached_property
    def deployed_original(self) -> Callable[[], bytes]:
        """Writes the uncompressed model as a deployed file."""
        return deployment(self.original, {}, self.task.example)

    def subject(self, model: nn.Module, encodings: Mapping[str, Encoding]) -> Subject:
        """Return a model that was loaded as what evaluators measure, on validation data."""
        return Subject(
            model, self.task, self.task.validation, baseline=self.original,
            deploy=deployment(model, encodings, self.task.example), deploy_baseline=self.deployed_original,
        )  # fmt: skip

    @cached_property
    def quality(self) -> Quality:
        """The evaluator of the task's own metric."""
        return next((m for m in self.metrics if isinstance(m, Quality)), Quality(self.task.metric))

    @cached_property
    def reference(self) -> Look:
        """What the uncompressed model does on each validation example: what trials are compared with in the race."""
        *_, look = self.quality.looks(Subject(self.original, self.task, self.task.validation))
        return look

    def __getstate__(self) -> dict[str, object]:
        """Leave `original` and its file behind, and `reference` where it is large: a worker makes its own."""
        left = {"original", "deployed_original"}
        if self.quality.metric.function is not ACCURACY.function:
            left.add("reference")
        return {k: v for k, v in vars(self).items() if k not in left}

    def threaded(self) -> AbstractContextManager[None]:
        """Give torch the trial's number of threads, and its own back afterwards."""
        return threaded(self.threads)

    def heat(self, recipe: Recipe, race: Race | None, front: Sequence[Sequence[float]]) -> Heat:
        """Return a trial's part in the race; see `Heat`."""
        return Heat(
            recipe, self.objectives, front, race, self.quality,
            lambda model: self.quality.looks(Subject(model, self.task, self.task.validation)),
            lambda: self.reference, self.quality.partial(self.task.validation),
        )  # fmt: skip

    def run(self, job: Job, front: Sequence[Sequence[float]] = (), saves: Saves | None = None) -> Finished:
        """Run a trial. Whatever goes wrong becomes a failed result; nothing is raised but interrupts.

        ``front`` are the losses that are known to be non-dominated. A trial that can't reach them any more is stopped
        if the job says so, and a result that one of them dominates comes back without its file. With ``saves``,
        training goes on where an earlier attempt had come to.
        """
        start = time.perf_counter()
        clock = Clock()
        heat = self.heat(job.recipe, job.race, front)

        def result(measured: dict[str, Measurement], status: Status, error: str = "", checksum: str = "") -> Result:
            work = {"examples": heat.examples, "trained": heat.trained, "calibrated": heat.calibrated}
            seconds = time.perf_counter() - start
            return Result(
                job.number, job.recipe, measured, status, error, seconds, job.seed, job.origin, clock.seconds, checksum,
                work, heat.rungs, self.cache.taken(),
            )  # fmt: skip

        try:
            with self.threaded():
                saved, draft = self.compress(job.recipe, job.seed, clock, heat, saves)
                with clock("load"):
                    model = self.reload(saved, draft)
                with clock("measure"):
                    measured = self.measure(model, draft, len(saved.data), self.metrics, heat)
                if job.recipe.is_baseline and heat.look is not None:
                    self.reference = heat.look
        except Stop as stop:
            known = dict(heat.measured)
            if stop.estimate is not None:
                known[self.quality.name] = stop.estimate
            return Finished(result(known, "stopped", stop.reason), None, job.attempt)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0][:500]
            return Finished(result({}, "failed", reason), None, job.attempt)
        done = Finished(result(measured, "ok", "", checksum_of(saved.data)), saved.data, job.attempt)
        return done.without_dominated_file(self.objectives, front)

    def compress(
        self,
        recipe: Recipe,
        seed: int,
        clock: Clock | None = None,
        heat: Heat | None = None,
        saves: Saves | None = None,
    ) -> tuple[Saved, Draft]:
        """Return the compressed model as a file, and the draft that it was written from.

        ``heat`` judges it before and in its recovery training, and may raise `Stop`.

        Raises
        ------
        ValueError
            If the compressed model's output is not finite.
        """
        clock, heat = clock or Clock(), heat or self.heat(recipe, None, ())
        kept = HeatSaves(saves, heat) if saves is not None else NoSaves()
        context = Context(self.task, self.sites, seed, self.cache, checkpoint=heat.checkpoint, saves=kept)
        draft = Draft.of(self.task.model)
        steps = in_stage_order(recipe.steps)
        check_stages(steps)
        recovering = False
        for step in steps:
            entry = technique(step.technique)
            if not isinstance(entry, Compressor):
                raise TypeError(f"the technique {step.technique} can't be applied: it is no Compressor")
            if entry.stage is Stage.RECOVERY and not recovering:
                recovering = True
                self._settle(draft, recipe, context, heat, clock, heat.before_training)
            with clock("train" if entry.stage is Stage.RECOVERY else "compress"):
                apply_step(entry, draft, step, context)
        saved: Saved | None = None
        if any(technique(s.technique).stage < Stage.CONTAINER for s in steps):
            saved = self._settle(draft, recipe, context, heat, clock, heat.before_statistics)
        draft.model.eval()
        with torch.no_grad():
            if not torch.isfinite(draft.model(*(x.clone() for x in self.task.example))).all():
                raise ValueError("the compressed model's output is not finite")
        with clock("save"):
            saved = saved or self._saved(draft, recipe)
        return saved, draft

    def _settle(
        self, draft: Draft, recipe: Recipe, context: Context, heat: Heat, clock: Clock, enter: Entry
    ) -> Saved | None:
        """Choose the draft's batch-norm statistics, and let techniques finish; if the trial races, it is judged in
        between.

        ``enter`` is told the costs that a front or a constraint may ask for, and returns the judge. The file that told
        them is returned if it is still the draft's.
        """
        judge: Judge | None = None
        saved: Saved | None = None
        if heat.races:
            # What depends on the machine, as memory does, may be another figure once the model is read back.
            cheap = [m for m in self.metrics if m.cost < self.quality.cost and m.name in heat.compared and not m.anew]
            with clock("judge"):
                try:
                    with seeded(0):
                        saved = self._saved(draft, recipe)
                        costs = self.measure(draft.model, draft, len(saved.data), cheap)
                except Exception:
                    costs = None  # what is wrong with it may be mended in training; if not, it is told at the end
                judge = enter(costs) if costs is not None else None

        def timed(model: nn.Module, more: bool) -> bool:
            with clock("judge"):
                return judge is not None and judge(model, more)

        batches = heat.calibrating(self.task.calibration)
        with clock("batch norm"):
            changed = reestimate(draft.model, batches, self.task.loss, timed)
        for entry in dict.fromkeys(technique(s.technique) for s in recipe.steps):
            with clock("compress"):
                changed |= isinstance(entry, Compressor) and entry.settle(draft, context, batches)
        return None if changed else saved

    def _saved(self, draft: Draft, recipe: Recipe) -> Saved:
        example, source = self.task.example, self.task.source
        return dumps(draft, self.task.model, recipe, example, source, self.needs_class, self.cache)

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
        self,
        model: nn.Module,
        draft: Draft,
        file_bytes: int,
        metrics: Sequence[Evaluator],
        heat: Heat | None = None,
    ) -> dict[str, Measurement]:
        """Return metric name -> measurement of a loaded model, on validation data.

        Raises
        ------
        ValueError
            If a value is not finite.
        Stop
            From ``heat``, which measures the quality.
        """
        bits: dict[str, int] = {}
        encodings = by_tensor(draft)
        for path, module in draft.model.named_modules():
            for parameter in module.parameters(recurse=False):  # which another layer may have as well
                if (encoding := encodings.get(id(parameter))) is not None:
                    bits[path] = max(bits.get(path, 0), encoding.codec.bits)
        rounded = dict.fromkeys(draft.integer, 8)
        subject = self.subject(model, draft.encodings)
        subject = replace(subject, file_bytes=file_bytes, weight_bits=bits, activation_bits=rounded)
        measured: dict[str, Measurement] = {}
        for metric in metrics:
            if metric is self.quality and heat is not None:
                measurement = heat.measure(measured, model)
            else:
                if heat is not None and metric.cost > self.quality.cost:
                    heat.before(metric.name, measured)
                measurement = metric.measure(subject)
            if not math.isfinite(measurement.value):
                raise ValueError(f"{metric.name} is {measurement.value}")
            _check_detail(metric.name, measurement)
            measured[metric.name] = measurement
        return measured


def _check_detail(name: str, measurement: Measurement) -> None:
    try:
        json.dumps(measurement.detail)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: the detail of its measurement can't be written as JSON ({error})") from None


class Clock:
    """Adds up the seconds of a trial's phases; a phase inside another one is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time inside the block for ``phase``."""
        beat()
        start, around, self._inner = time.perf_counter(), self._inner, 0.0
        try:
            yield
        finally:
            whole = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + whole - self._inner
            self._inner = around + whole


def metrics_for(task: Task, names: Sequence[str], known: Mapping[str, Evaluator] | None = None) -> list[Evaluator]:
    """Return the evaluators of these names, the cheapest first; the task's own metric goes by its own name. ``known``
    are those that there are beside everybody's, by name.

    Raises
    ------
    SettingError
        If a name is unknown.
    """
    own = Quality(task.metric)
    more = {**(known or {}), own.name: own}
    found = [evaluator(name, more) for name in dict.fromkeys(names)]
    return sorted(found, key=lambda e: (e.cost, e.name))
