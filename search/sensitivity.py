"""The sensitivity profile: what every choice at every site saves, exactly, and what damage it is predicted to do.

It is measured once and kept on disk by content: a second run on the same model, data and
space reads it, and one that was interrupted goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from ..compressors.distillation.losses import scores_classes
from ..evaluators.bops import FULL
from ..evaluators.latency import Latency
from ..spaces.choices import Choices, Setting
from ..spaces.decision import Decision
from ..spaces.recipe import Step
from ..spaces.site import LAYER_KINDS, Site
from ..spaces.space import Space
from ..spaces.stage import Stage
from ..spaces.task import Task
from .alike import alike
from .effects import Effect, Request, Survey, Surveyor, Unit
from .fisher import Fisher, measure_fisher
from .forecast import foretell, seconds_left
from .latency_choice import source_of
from .latency_table import LatencyTable
from .profile_rows import Row, cheapest_savings, most_sensitive
from .profile_store import ProfileStore
from .result import Objective
from .sample import Sample

#: Layers and steps that are named when a profile is printed.
_NAMED = 3


@dataclass(frozen=True, repr=False)
class Profile:
    """What is known of every choice before the first trial.

    Attributes
    ----------
    choices
        The space's settings.
    effects
        For each decision, one effect a setting.
    units
        Path -> bytes and MACs of each weighted layer of the original.
    file_bytes
        Length of the uncompressed model's file.
    together
        (mask setting, number format) -> bytes of both together, as a multiple of the product of their shares.
    by_loss
        False if the task's loss can't be evaluated on the calibration data; see `Fisher`.
    classes
        Whether outputs are class scores, so that damages are rises of the loss. Others are half the squared change of
        the outputs, in units of their own variance.
    latency
        How long the original's modules take, and what each setting leaves of that; None if nobody asked.
    seconds
        That measuring took in this session; next to nothing if it was read from disk.
    quality
        The task's own metric; None of a profile that no task was measured for.
    """

    choices: Choices
    effects: tuple[tuple[Effect, ...], ...]
    units: Mapping[str, Unit]
    file_bytes: int
    together: Mapping[tuple[Setting, Setting], float] = field(default_factory=dict)
    by_loss: bool = True
    classes: bool = True
    latency: LatencyTable | None = None
    seconds: float = 0.0
    quality: Objective | None = None

    def __repr__(self) -> str:
        rows = self.rows()
        places = len({row.site for row in rows})
        head = f"Profile({len(rows)} single steps at {places} sites, a file of {self.file_bytes:,} bytes)"
        sensitive = [f"{s.site} ({s.damage:.2g})" for s in most_sensitive(rows, self.choices.space.sites)[:_NAMED]]
        cheap = [f"{r.site}: {r.technique} {r.setting}".rstrip() for r in cheapest_savings(rows)[:_NAMED]]
        lines = [f"most sensitive (median damage): {', '.join(sensitive)}"] if sensitive else []
        lines += [f"most bytes per damage: {', '.join(cheap)}"] if cheap else []
        return "\n  ".join([head, *lines, "rows() has every step, and `paretopress profile` prints them as tables"])

    @cached_property
    def damage(self) -> tuple[np.ndarray[Any, np.dtype[np.float64]], ...]:
        """For each decision (counts,) predicted rises of the loss, 0 first for none; infinite where a step fails."""
        return tuple(
            np.array([0.0, *(np.inf if e.error else max(0.0, e.damage) for e in effects)]) for effects in self.effects
        )

    def saved(self, place: int, number: int) -> tuple[int, int, int]:
        """Return the bytes, MACs and bit operations that setting ``number`` (from 1) of the decision at ``place`` saves
        alone.
        """
        effect = self.effects[place][number - 1]
        macs = bops = 0
        for path, (_, left, bits) in effect.shares.items():
            before = self.units[path].macs if path in self.units else 0
            after = round(before * left)
            macs += before - after
            bops += before * FULL**2 - round(after * bits * FULL**2)
        return effect.saved, macs, bops

    def time_saved(self, site: str, effect: Effect) -> tuple[float | None, bool]:
        """Return the share of the original's latency that a setting saves alone, None where no layer was timed; and
        whether some of it is by MACs.
        """
        if self.latency is None or effect.error:
            return None, False
        return self.latency.saved(site, effect), self.latency.is_guess(site, effect)

    def rows(self) -> list[Row]:
        """Return one row a site and setting, in the model's order and from the gentlest setting to the strongest.

        What is no compression of layers (coding of the file, recovery training) has none.
        """
        found = []
        for place, (decision, settings) in enumerate(zip(self.choices.decisions, self.choices.settings)):
            for number, (setting, effect) in enumerate(zip(settings, self.effects[place]), 1):
                if is_measured(decision):
                    damage, saved = float(self.damage[place][number]), self.saved(place, number)
                    row = Row(
                        decision.site, setting.technique, dict(setting.params), damage, effect.method, *saved,
                        effect.error, *self.time_saved(decision.site, effect),
                    )  # fmt: skip
                    found.append(row)
        order = {name: place for place, name in enumerate(self.choices.space.sites)}
        return sorted(found, key=lambda row: order[row.site])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form: the model's file and layers, and the `rows`."""
        sites = self.choices.space.sites.values()
        return {
            "file_bytes": self.file_bytes,
            "macs": sum(unit.macs for unit in self.units.values()),
            "by_loss": self.by_loss,
            "unit": "loss" if self.classes else "variance of the outputs",
            "latency": self.latency.to_json() if self.latency is not None else None,
            "sites": [
                {"name": s.name, "kind": s.kind, "shape": list(s.shape), **vars(self.held(s.name))} for s in sites
            ],
            "rows": [row.to_json() for row in self.rows()],
        }

    def held(self, site: str) -> Unit:
        """Return the bytes and MACs of a site's layers in the original."""
        members = self.choices.space.sites[site].members
        whole = "" in members
        inside = [u for path, u in self.units.items() if whole or any(f"{path}.".startswith(f"{m}.") for m in members)]
        return Unit(sum(u.bytes for u in inside), sum(u.macs for u in inside))


class Profiler:
    """Measures a profile, a site at a time.

    Parameters
    ----------
    task, space
        What is searched.
    store
        What is known already, and where what is measured is kept; by default in this machine's cache folder.
    latency
        The evaluator of which a table is measured, on this machine; None for no table.
    """

    def __init__(
        self, task: Task, space: Space, store: ProfileStore | None = None, latency: Latency | None = None
    ) -> None:
        self.task, self.space = task, space
        self.choices = Choices(space)
        self.coder = coder_of(self.choices)
        self.store = store if store is not None else ProfileStore.usual(task, self.coder)
        self.survey = Survey(task, space.sites, self.coder)
        self.layers = source_of(self.survey, latency) if latency is not None else None
        self._foretold: dict[str, float] = {}
        self._parts: tuple[float, float] | None = None
        self._spent = 0.0

    @cached_property
    def missing(self) -> list[Request]:
        """The settings at each site that nobody has measured yet."""
        found: dict[str, list[Setting]] = {}
        for decision, settings in zip(self.choices.decisions, self.choices.settings):
            if is_measured(decision):
                todo = [s for s in settings if self.store.get(decision.site, s) is None]
                found.setdefault(decision.site, []).extend(todo)
        return [Request(site, tuple(settings)) for site, settings in found.items() if settings]

    @property
    def count(self) -> int:
        """How many single steps the space has, known ones included."""
        found = zip(self.choices.decisions, self.choices.settings)
        return sum(len(settings) for d, settings in found if is_measured(d))

    def estimate(self, workers: int = 1) -> float:
        """Return about how many seconds `measure` will take for effects.

        The gradients and a few steps of each technique are measured for that, and kept, so that it costs nothing.
        """
        start = time.perf_counter()
        if self.missing:
            self._foretold = foretell(self.missing, self.space.sites, self._one)
            del self.missing  # some of them are known now
        self._parts = sum(self._foretold.values()) / workers, self._estimate_together()
        self._spent += time.perf_counter() - start
        return sum(self._parts)

    def _one(self, site: str, setting: Setting) -> None:
        self.store.put(site, {setting: self.survey.effect(site, setting, self.fisher)})

    @cached_property
    def fisher(self) -> Fisher:
        """The Fisher information of the original model."""
        found = measure_fisher(self.task, self.space.sites.values())
        self.store.by_loss = found.by_loss
        return found

    def estimate_latency(self) -> float:
        """Return about how many seconds `measure` will take for the latency table, 0 if it is known or not wanted.

        Steps that nobody has applied yet are taken to change what is computed if their stage lets them.
        """
        if self.layers is None:
            return 0.0
        steps = len(self.layers.missing(self.choices, self._known))
        stages = (Stage.TOPOLOGY, Stage.STRUCTURE, Stage.OPERATOR)
        for decision, settings in zip(self.choices.decisions, self.choices.settings):
            if decision.stage in stages:
                steps += sum(self.store.get(decision.site, s) is None for s in settings)
        return self.layers.estimate(steps)

    @property
    def _known(self) -> tuple[tuple[Effect, ...], ...]:
        """The effects, of which those that aren't measured (yet) change nothing."""
        return tuple(
            tuple(self.store.get(d.site, s) or Effect() for s in settings)
            for d, settings in zip(self.choices.decisions, self.choices.settings)
        )

    def measure(
        self, file_bytes: int, run: Surveyor | None = None, tell: Callable[[float, float], None] = lambda *_: None
    ) -> Profile:
        """Return the profile.

        Parameters
        ----------
        file_bytes
            Length of the uncompressed model's file.
        run
            Measures requests, in any order; by default one after the other in this process.
        tell
            Called with the share of the work that is done, and about how many seconds are left.
        """
        if self._parts is None:
            self.estimate()
        assert self._parts is not None
        steps, pairs = self._parts
        timing = self.estimate_latency()
        start, whole = time.perf_counter(), steps + pairs + timing

        def progress(done: float) -> None:
            share = min(1.0, done / whole) if whole else 1.0
            tell(share, seconds_left(share, time.perf_counter() - start, whole))

        requests = sorted(self.missing, key=lambda r: self._foretold[r.site], reverse=True)
        finished, every = 0.0, sum(self._foretold.values())
        if requests:
            for index, effects in (run or self._here)(requests, self.fisher):
                self.store.put(requests[index].site, dict(zip(requests[index].settings, effects)))
                finished += self._foretold[requests[index].site]
                progress(steps * finished / every)
        together = self.together()
        progress(steps + pairs)
        known, latency = self._known, None
        if self.layers is not None:
            latency = self.layers.table(self.choices, known, lambda share: progress(steps + pairs + timing * share))
        self._spent += time.perf_counter() - start
        return Profile(
            Choices(self.space, alike(self.choices.settings, known)),
            known,
            self.survey.units,
            file_bytes,
            together,
            self.store.by_loss,
            scores_classes(self.task.loss),
            latency,
            self._spent,
            Objective(self.task.metric.name, self.task.metric.direction, True),
        )

    def _here(self, requests: Sequence[Request], fisher: Fisher) -> Iterator[tuple[int, list[Effect]]]:
        for index, request in enumerate(requests):
            yield index, self.survey.effects(request, fisher)

    def together(self) -> dict[tuple[Setting, Setting], float]:
        """Return how masks and number formats combine, measured on a few weights of the largest layer.

        Zeros cost less beside long numbers than beside short ones, so the shares of the two don't multiply.
        """
        largest, pairs = self._pairs
        if largest is None or not pairs:
            return {}
        factors = self.store.together(largest.name, pairs)
        if factors is None:
            sample = Sample(self.survey, largest)
            masks, formats = (dict.fromkeys(side) for side in zip(*pairs))
            alone = {s: sample.bytes(s) for s in (Setting(""), *masks, *formats)}
            factors = [sample.bytes(m, f) * alone[Setting("")] / (alone[m] * alone[f]) for m, f in pairs]
            self.store.put_together(largest.name, pairs, factors)
        return dict(zip(pairs, factors))

    @cached_property
    def _pairs(self) -> tuple[Site | None, list[tuple[Setting, Setting]]]:
        """The largest layer, and each mask with each number format."""
        layers = [s for s in self.space.sites.values() if s.kind in LAYER_KINDS]
        pairs = list(product(self._distinct(Stage.MASK), self._distinct(Stage.NUMERIC)))
        return max(layers, key=lambda s: s.bytes, default=None), pairs

    def _estimate_together(self) -> float:
        """Return about how many seconds `together` will take, from one pair of each number format's technique."""
        largest, pairs = self._pairs
        if largest is None or not pairs or self.store.together(largest.name, pairs) is not None:
            return 0.0
        sample = Sample(self.survey, largest)
        groups: dict[str, list[tuple[Setting, Setting]]] = {}
        for mask, number in pairs:
            groups.setdefault(number.technique, []).append((mask, number))
        found = 0.0
        for group in groups.values():
            start = time.perf_counter()
            sample.bytes(*group[len(group) // 2])
            found += (time.perf_counter() - start) * len(group)
        return found

    def _distinct(self, stage: Stage) -> list[Setting]:
        found = zip(self.choices.decisions, self.choices.settings)
        return list(dict.fromkeys(s for d, settings in found if d.stage is stage for s in settings))


def is_measured(decision: Decision) -> bool:
    """Whether the steps of a decision compress layers, so that they have effects to be measured."""
    return decision.stage not in (Stage.CONTAINER, Stage.RECOVERY)


def coder_of(choices: Choices) -> Step | None:
    """Return the step of the container technique that a space offers, or None."""
    for decision, settings in zip(choices.decisions, choices.settings):
        if decision.stage is Stage.CONTAINER:
            return settings[-1].step(decision.site)
    return None
