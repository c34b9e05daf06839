"""Where a latency table comes from: what is known on disk, and what has to be measured, by whom."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from ..compressors.cache import cache_folder
from ..evaluators.latency import Latency
from ..spaces.choices import Choices, Setting
from .effects import Effect, Survey
from .latency_table import Border, LatencyTable
from .profile_store import Lines
from .stopwatch import machine

#: Changes when what is measured changes, so that tables on disk are measured anew.
VERSION = 5

#: Key -> a site, a setting of it, and its effect.
Todo = Mapping[str, tuple[str, Setting, Effect]]
#: Key -> path -> the share left, and path -> a conversion; see `LatencyTable`.
Left = Mapping[str, Mapping[str, float]]
Borders = Mapping[str, Border]


class LatencySource(ABC):
    """Measures how long modules take on this machine.

    Parameters
    ----------
    survey
        Of the task; it applies the settings.
    metric
        The evaluator that is predicted.
    folder
        Of all caches; by default this machine's. What is measured is kept there.
    """

    def __init__(self, survey: Survey, metric: Latency, folder: Path | None = None) -> None:
        self.survey, self.metric = survey, metric
        folder = folder if folder is not None else cache_folder()
        model = survey.task.digest, survey.task.behaviour
        content = [VERSION, *model, metric.conditions, machine(), version("onnxruntime")]
        self.lines = Lines(content, folder / "latencies" if folder is not None else None)

    @abstractmethod
    def estimate(self, steps: int) -> float:
        """Return about how many seconds `table` will take if so many settings change what is computed."""

    @abstractmethod
    def measure_units(self) -> None:
        """Keep "units", path -> the share of the original's time that a module takes, and its "milliseconds"."""

    @abstractmethod
    def measure_settings(self, todo: Todo, tell: Callable[[float], None]) -> None:
        """Keep what settings leave: ``left <key>``, and for each the shares by path and whether some are guessed."""

    def missing(self, choices: Choices, effects: Sequence[Sequence[Effect]]) -> dict[str, tuple[str, Setting, Effect]]:
        """Return the settings whose changed modules nobody has timed yet, one for each key."""
        found: dict[str, tuple[str, Setting, Effect]] = {}
        for decision, settings, own in zip(choices.decisions, choices.settings, effects):
            for setting, effect in zip(settings, own):
                key = LatencyTable.key(decision.site, effect)
                if effect.work and f"left {key}" not in self.lines.known:
                    found.setdefault(key, (decision.site, setting, effect))
        return found

    def table(
        self,
        choices: Choices,
        effects: Sequence[Sequence[Effect]],
        tell: Callable[[float], None] = lambda _: None,
    ) -> LatencyTable:
        """Return the table of a space, measuring what isn't known.

        Parameters
        ----------
        choices
            The space's settings.
        effects
            For each decision, one a setting.
        tell
            Called with the share of the work that is done.
        """
        known = self.lines.known
        if "units" not in known:
            self.measure_units()
        todo, alone = self.missing(choices, effects), self.settings_part(choices, effects)
        if todo:
            self.measure_settings(todo, lambda share: tell(alone * share))
        keys = {
            LatencyTable.key(decision.site, effect)
            for decision, own in zip(choices.decisions, effects)
            for effect in own
            if effect.work
        }
        found = {key: known[f"left {key}"] for key in sorted(keys) if f"left {key}" in known}
        left = {key: shares for key, (shares, _) in found.items()}
        integers, borders, alongside = self.mixed(choices, effects, left, lambda s: tell(alone + (1 - alone) * s))
        checked = tuple((float(p), float(m)) for p, m in known.get(f"checked {choices.space.digest}", ()))
        return LatencyTable(
            self.metric.name,
            self.metric.conditions,
            float(known["milliseconds"]),
            known["units"],
            {**left, **integers},
            frozenset(key for key, (_, guessed) in found.items() if guessed),
            borders,
            alongside,
            checked,
        )

    @abstractmethod
    def mixed(
        self, choices: Choices, effects: Sequence[Sequence[Effect]], left: Left, tell: Callable[[float], None]
    ) -> tuple[Left, Borders, Left]:
        """Return what takes another time where only some layers run on integers: what integers leave, and what is
        beyond shares that multiply: `LatencyTable`'s ``borders`` and ``alongside``.
        """

    def settings_part(self, choices: Choices, effects: Sequence[Sequence[Effect]]) -> float:  # noqa: ARG002 - by default
        """Return about which share of the work `measure_settings` is; the rest is `mixed`."""
        return 1.0

    def is_checked(self, choices: Choices) -> bool:
        """Whether `keep_checked` was called for a space."""
        return f"checked {choices.space.digest}" in self.lines.known

    def keep_checked(self, choices: Choices, checked: Sequence[tuple[float, float]]) -> None:
        """Keep predicted and measured latencies of some recipes of a space."""
        self.lines.add({f"checked {choices.space.digest}": list(checked)})
