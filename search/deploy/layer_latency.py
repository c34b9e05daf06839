"""The latency table of deployed files: whole models are exported whose layers all have some setting, and every layer of
them is timed at once, in the midst of the others.

So the table needs few exports: one for each setting that a technique's decisions have, not one for each layer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from ...evaluators.inference import at_batch, device_of
from ...evaluators.latency import Latency
from ...spaces.choices import Choices, Setting
from ...spaces.errors import PressError
from ...spaces.recipe import Recipe
from ..effects import Effect, Survey
from ..latency_source import Borders, LatencySource, Left, Todo
from ..trial import Bench
from .integer_latency import NOTHING, IntegerLatency, parts_of
from .node_times import SECONDS, Marked, Times, marked, node_times, whole_ratio
from .onnx_file import to_graph

#: Seconds that torch's exporter takes for a structure of so many layers, about; more layers take as much longer.
_EXPORT, _LAYERS = 3.0, 20
#: The share of the work that settings by themselves are, about, where layers can run on integers.
_ALONE = 0.5


class DeployedLatency(LatencySource):
    """Measures how long layers take in a deployed file; see `LatencySource`."""

    def __init__(self, survey: Survey, metric: Latency, folder: Path | None = None) -> None:
        super().__init__(survey, metric, folder)
        self._bench = Bench(survey.task, survey.sites, (), ())
        self._layers = [path for path, module in survey.task.model.named_modules() if module._parameters and path]

    def estimate(self, steps: int) -> float:
        """See the class."""
        if "units" in self.lines.known and not steps:
            return 0.0
        models = math.ceil(steps / max(len(self._layers), 1)) + ("units" not in self.lines.known)
        return models * (_EXPORT * max(1.0, len(self._layers) / _LAYERS) + 2 * SECONDS)

    # --- what is timed -------------------------------------------------------------------------------------

    @cached_property
    def _original(self) -> Marked:
        return self._file(Recipe())

    def _file(self, recipe: Recipe) -> Marked:
        """Return the deployed file of a recipe's model."""
        saved, draft = self._bench.compress(recipe, 0)
        model = self._bench.reload(saved, draft)
        return marked(to_graph(model, draft.encodings, self.survey.task.example), self._layers)

    @cached_property
    def _inputs(self) -> list[Any]:
        inputs = at_batch(self.survey.task.example, self.metric.batch, device_of(self.survey.task.model))
        return [part.cpu().numpy() for part in inputs]

    def _beside(self, *files: Marked) -> list[Times]:
        return node_times([self._original, *files], self._inputs)

    def _ratio(self, file: Marked) -> float:
        return whole_ratio(file, self._original, self._inputs)

    def measure_units(self) -> None:
        """Time the original's layers in its file."""
        [found] = self._beside()
        units = {path: seconds / found.whole for path, seconds in found.layers.items()}
        total = max(1.0, sum(units.values()))
        milliseconds = 1e3 * found.whole
        self.lines.add({"units": {p: u / total for p, u in units.items()}, "milliseconds": milliseconds})

    # --- what settings change ------------------------------------------------------------------------------

    def measure_settings(self, todo: Todo, tell: Callable[[float], None]) -> None:
        """Time what settings change: the first ones of all sites together, then the second ones, and so on."""
        rounds: dict[tuple[str, int], dict[str, tuple[str, Setting, Effect]]] = {}
        counts: dict[tuple[str, str], int] = {}
        for key, (site, setting, effect) in todo.items():
            if _removes(effect):
                self._keep({key: (site, setting, effect)}, None)
                continue
            place = counts.get((setting.technique, site), 0)
            counts[setting.technique, site] = place + 1
            rounds.setdefault((setting.technique, place), {})[key] = (site, setting, effect)
        for number, settings in enumerate(rounds.values(), 1):
            self._round(settings)
            tell(number / len(rounds))

    def _round(self, settings: Todo) -> None:
        """Time settings of different sites in one model; where that can't be made, in two, and so on."""
        recipe = Recipe(tuple(setting.step(site) for site, setting, _ in settings.values()))
        try:
            file = self._file(recipe)
            [before, after] = self._beside(file)
        except (PressError, ValueError, RuntimeError):
            keys = list(settings)
            if len(keys) == 1:
                self._keep(settings, None)
                return
            for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                self._round({key: settings[key] for key in half})
            return
        ratios = {}
        for path, seconds in before.layers.items():
            if path in after.layers:
                ratios[path] = max(NOTHING, after.layers[path] / max(seconds, 1e-9))
        self._keep(settings, ratios)

    def _keep(self, settings: Todo, ratios: Mapping[str, float] | None) -> None:
        """Keep what each of some settings leaves, given what they leave together; without that, by their MACs."""
        units, found = self.lines.known["units"], {}
        done = {key: effect for key, (_, _, effect) in settings.items()}
        weights = {path: parts_of(done, path) for path in units}
        for key, (_, _, effect) in settings.items():
            left: dict[str, float] = {}
            guessed = False
            for path in effect.shares:
                if path not in units:
                    continue
                macs = effect.shares[path][1]
                if _removes(effect) or ratios is None or path not in ratios:
                    left[path] = macs
                    guessed |= macs not in (0.0, 1.0)
                else:
                    left[path] = ratios[path] ** weights[path].get(key, 0.0)
            found[f"left {key}"] = [{p: round(share, 6) for p, share in left.items() if share != 1.0}, guessed]
        self.lines.add(found)

    def settings_part(self, choices: Choices, effects: Sequence[Sequence[Effect]]) -> float:
        """See the class."""
        return _ALONE if IntegerLatency.steps(choices, effects) else 1.0

    def mixed(
        self, choices: Choices, effects: Sequence[Sequence[Effect]], left: Left, tell: Callable[[float], None]
    ) -> tuple[Left, Borders, Left]:
        """See the class."""
        steps = IntegerLatency.steps(choices, effects)
        if not steps:
            return {}, {}, {}
        known = self.lines.known
        content = json.dumps([sorted(left), [str(s) for s, _ in steps.values()]]).encode()
        key = f"mixed {hashlib.sha256(content).hexdigest()[:24]}"
        if key not in known:
            models = count(1)

            def file(recipe: Recipe) -> Marked:
                tell(min(1.0, next(models) / expected))
                return self._file(recipe)

            own = IntegerLatency(self.survey.sites, file, self._beside, self._ratio)
            expected = own.models(steps, choices, effects, left)
            weighed, borders = own.weighed(steps, known["units"], left)
            alongside = own.alongside(steps, choices, effects, left)  # notes of nodes, both
            self.lines.add({key: [weighed, borders, alongside]})
        weighed, borders, alongside = known[key]
        return weighed, {path: (float(cost), tuple(own)) for path, (cost, own) in borders.items()}, alongside


def _removes(effect: Effect) -> bool:
    """Whether a setting takes whole layers away, and leaves the others alone: nothing has to be timed."""
    macs = [share[1] for share in effect.shares.values()]
    return 0.0 in macs and all(m in (0.0, 1.0) for m in macs)
