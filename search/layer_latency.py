"""Measures the latency table: every module of the original by itself, and every changed module that computes
something else.

Each shape is timed once, and each changed module beside the one whose place it takes; see `stopwatch`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..evaluators.inference import at_batch, device_of, inference
from ..evaluators.latency import Latency
from ..evaluators.pairing import alone, clock_of
from ..spaces.choices import Setting
from ..spaces.errors import PressError
from .calls import Pass, copied
from .effects import Effect, Survey
from .footprint import shares_left
from .latency_source import Borders, LatencySource, Left, Todo
from .stopwatch import FEWEST, SECONDS, TURNS, Ready, beside, once
from .trial import Bench

#: Modules that are timed together.
TOGETHER = 60


@dataclass
class _Form:
    """What changes with a setting: for each path the calls before and after, by their keys; None can't be timed."""

    key: str
    effect: Effect
    before: dict[str, list[Hashable] | None] = field(default_factory=dict)
    after: dict[str, list[Hashable] | None] = field(default_factory=dict)
    works: dict[Hashable, Ready] = field(default_factory=dict)
    members: tuple[str, ...] = ()  # that share one figure


class LayerLatency(LatencySource):
    """Measures how long modules take as torch runs them; see `LatencySource`."""

    def __init__(self, survey: Survey, metric: Latency, folder: Path | None = None) -> None:
        super().__init__(survey, metric, folder)
        self._times: dict[Hashable, float] = {}
        self._samples: dict[Hashable, list[float]] = {}

    # --- what is timed -------------------------------------------------------------------------------------

    @cached_property
    def _inputs(self) -> tuple[Tensor, ...]:
        model = self.survey.task.model
        return at_batch(self.survey.task.example, self.metric.batch, device_of(model))

    @cached_property
    def _pass(self) -> Pass:
        return Pass(copy.deepcopy(self.survey.task.model), self._inputs)

    @cached_property
    def _apart(self) -> Pass:
        """The same on a copy that nothing else touches, so that it is as cold as changed modules are."""
        return Pass(copy.deepcopy(self.survey.task.model), self._inputs)

    @cached_property
    def _original(self) -> nn.Module:
        """The original as the evaluator sees it: read back from a file."""
        return Bench(self.survey.task, self.survey.sites, (), ()).original

    def _whole(self) -> Callable[[], Any]:
        inputs = copied(self._inputs)
        return lambda: self._original(*inputs)

    def estimate(self, steps: int) -> float:
        """See the class."""
        if "units" in self.lines.known and not steps:
            return 0.0
        clock = clock_of(device=device_of(self._original))
        with alone(), inference(self._original):
            whole = min(once(self._whole, clock) for _ in range(3))
        works = 2 * steps + (len(self._pass.calls) if "units" not in self.lines.known else 0)
        turn = whole * (1 + TOGETHER / max(len(self._pass.calls), 1))
        groups = max(works / TOGETHER, 1)
        return groups * max(FEWEST * turn, min(SECONDS, TURNS * turn)) + 4 * steps * whole

    def measure_settings(self, todo: Todo, tell: Callable[[float], None]) -> None:
        """Time what settings change, `TOGETHER` modules at a time."""
        waiting: list[_Form] = []
        for place, (key, (site, setting, effect)) in enumerate(todo.items(), 1):
            waiting.append(self._form(key, site, setting, effect))
            new = {k for form in waiting for k in form.works if k not in self._times}
            if len(new) >= TOGETHER or place == len(todo):
                self._measure(waiting)
                waiting = []
                tell(place / len(todo))

    def mixed(self, *_: Any) -> tuple[Left, Borders, Left]:
        """Nothing: torch computes all layers in fp32."""
        return {}, {}, {}

    # --- the original --------------------------------------------------------------------------------------

    def _beside(self, works: Mapping[Hashable, Ready]) -> tuple[float, dict[Hashable, float]]:
        """Time works in the midst of the original's calls, which run so often that they are warm, as in a model."""
        context = [self._pass.runner(call) for calls in self._pass.calls.values() for call in calls]
        return beside(self._whole, works, context, clock_of(device=device_of(self._original)))

    def _add(self, measured: tuple[float, Mapping[Hashable, float]]) -> None:
        """Take in the times of some works. Of those that were timed before they tell how much slower everything is."""
        times = measured[1]
        known = [key for key in times if key in self._times]
        pace = float(np.median([self._times[key] / max(times[key], 1e-12) for key in known])) if known else 1.0
        for key, time in times.items():
            self._samples.setdefault(key, []).append(pace * time)
            self._times[key] = float(np.mean(self._samples[key]))

    def measure_units(self) -> None:
        """Time the original's modules, and keep the share of the whole that each takes."""
        works, keys = self._works(self._pass), self._keys(self._pass)
        whole, times = self._beside(works)
        self._add((whole, times))
        units = {p: sum(times[k] for k in own) for p, own in keys.items() if own and all(k in times for k in own)}
        units |= self._guessed(units)
        total = sum(units.values())
        units = {path: time / max(total, 1.0) for path, time in units.items()}
        self.lines.add({"units": units, "milliseconds": 1e3 * whole})

    def _guessed(self, units: Mapping[str, float]) -> dict[str, float]:
        """Return the shares of modules that can't be timed alone, by their multiplications."""
        macs = {path: unit.macs for path, unit in self.survey.units.items() if unit.macs}
        timed = [path for path in macs if path in units]
        if timed:
            pace = sum(units[p] for p in timed) / sum(macs[p] for p in timed)
        else:
            pace = max(0.0, 1 - sum(units.values())) / max(sum(macs.values()), 1)
        return {path: pace * count for path, count in macs.items() if path not in units}

    @staticmethod
    def _keys(found: Pass) -> dict[str, list[Hashable]]:
        """Return path -> key of each of its calls; one that can't be compared stands for itself."""
        return {p: [call if call.key is None else call.key for call in calls] for p, calls in found.calls.items()}

    def _works(self, found: Pass) -> dict[Hashable, Ready]:
        calls = [(key, c) for p, keys in self._keys(found).items() for key, c in zip(keys, found.calls[p])]
        return {key: found.runner(call) for key, call in calls}

    # --- what settings change ------------------------------------------------------------------------------

    def _form(self, key: str, site: str, setting: Setting, effect: Effect) -> _Form:
        form = _Form(key, effect)
        try:
            draft, layers = self.survey.applied(site, setting)
        except (PressError, ValueError, RuntimeError):  # it could be applied when the effect was measured
            return form
        if layers:
            form.members = tuple(m for m in self.survey.sites[site].members if m in self._pass.calls)
            for member in form.members:
                self._layer(form, member, draft.module(member))
        else:
            self._model(form, draft.model)
        return form

    def _layer(self, form: _Form, path: str, new: nn.Module) -> None:
        """Note the calls of a layer, before and after it is replaced."""
        after: list[Hashable] | None = []
        for call in self._pass.calls[path]:
            found = Pass(copy.deepcopy(new), call.args, call.kwargs)
            form.works |= self._works(found)
            if not found.calls:
                after = None
            elif after is not None:
                after.extend(chain.from_iterable(self._keys(found).values()))
        form.after[path] = after
        self._before(form, path)

    def _model(self, form: _Form, model: nn.Module) -> None:
        """Note the calls of a changed model that differ from the original's."""
        changed = Pass(model, self._inputs)
        old, new, works = self._keys(self._pass), self._keys(changed), self._works(changed)
        if not new:
            return
        for path, keys in new.items():
            if keys != old.get(path):
                form.after[path] = keys if all(c.key is not None for c in changed.calls[path]) else None
                form.works |= {key: works[key] for key in keys}
        for path in old:
            if path not in new or path in form.after:
                self._before(form, path)

    def _before(self, form: _Form, path: str) -> None:
        keys, calls = self._keys(self._pass)[path], self._apart.calls[path]
        form.before[path] = keys
        form.works |= {key: self._apart.runner(call) for key, call in zip(keys, calls)}

    def _measure(self, forms: Sequence[_Form]) -> None:
        """Time what some settings change, and keep what each of them leaves."""
        works = {key: ready for form in forms for key, ready in form.works.items()}
        original = set(chain.from_iterable(self._keys(self._pass).values()))
        new = works.keys() - self._times.keys()
        if new:
            again = {key: work for key, work in works.items() if key in new or key in original}
            self._add(self._beside(again))
        found = {}
        for form in forms:
            found[f"left {form.key}"] = list(self._left(form))
        self.lines.add(found)

    def _left(self, form: _Form) -> tuple[dict[str, float], bool]:
        """Return what a setting leaves of each module's time, and whether some of that is by MACs."""
        units = self.lines.known["units"]
        before, after = self._seconds(form.before), self._seconds(form.after)
        by_macs = {path: macs for path, (_, macs, _) in form.effect.shares.items() if path in units}
        unknown = {path for side in (before, after) for path, time in side.items() if time is None}
        # Modules that aren't called, and all of them where the step couldn't be applied or the model run again.
        unknown |= by_macs.keys() - self._pass.calls.keys() if before or after else by_macs.keys()
        unknown |= set(form.members) if unknown else set()  # one figure for all of them
        old = {path: time for path, time in before.items() if time is not None and path not in unknown}
        new = {path: time for path, time in after.items() if time is not None and path not in unknown}
        if form.members:
            whole = sum(old.values())
            shares = dict.fromkeys(old, sum(new.values()) / whole if whole else 1.0)
        else:
            untouched = {path: time for path, time in units.items() if path not in before}
            shares = shares_left({**untouched, **old}, {**untouched, **new})
        shares |= {path: by_macs.get(path, 1.0) for path in unknown}
        left = {path: round(share, 6) for path, share in shares.items() if path in units}
        guessed = any(by_macs.get(path, 1.0) != 1.0 for path in unknown)
        return {path: share for path, share in left.items() if share != 1.0}, guessed

    def _seconds(self, calls: Mapping[str, list[Hashable] | None]) -> dict[str, float | None]:
        """Return path -> time of its calls, None where one can't be timed."""
        found: dict[str, float | None] = {}
        for path, keys in calls.items():
            timed = keys is not None and all(k in self._times for k in keys)
            found[path] = sum(self._times[k] for k in keys or ()) if timed else None
        return found
