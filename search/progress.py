"""What a person sees while a search runs: one live line on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from .pareto import compressed, scaled_hypervolume
from .plan import Budget
from .result import Objective, Result

#: Seconds between lines where there is no terminal.
_EVERY = 5.0


def duration(seconds: float) -> str:
    """Return an estimate of time as people say it."""
    if seconds < 1:
        return "less than 1 s"
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"


class Progress:
    """Watches an engine.

    Parameters
    ----------
    budget
        What the bar fills up to.
    objectives
        To show the hypervolume.
    shown
        False shows nothing at all.
    """

    def __init__(self, budget: Budget, objectives: Sequence[Objective], shown: bool = True) -> None:
        self._budget, self._objectives, self._shown = budget, objectives, shown
        self._baseline: Result | None = None
        self._console = Console(file=sys.stderr)
        self._live = shown and self._console.is_terminal
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._start = self._last = self._searching = time.monotonic()
        self._failed = self._stopped = 0
        self._done: set[int] = set()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a sentence, if there is one."""
        if self._shown and text:
            self._console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def profiling(self, share: float, left: float) -> None:
        """Show how much of the layers' sensitivity is measured, and about how many seconds are left."""
        text = f"measuring the layers' sensitivity, {duration(left)} left"
        self._bar.update(self._task, description=text, total=1.0, completed=share)
        now = time.monotonic()
        if self._shown and not self._live and share < 1 and now - self._last >= _EVERY:
            self._last = now
            self._line(f"{now - self._start:6.0f} s  {100 * share:.0f} % of {text}")

    def searching(self, baseline: Result, done: Sequence[Result]) -> None:
        """Note that trials start now, and which are done already; budgets of time count from here."""
        self._baseline, self._searching = baseline, time.monotonic()
        self._done = {result.number for result in done}
        self._failed = sum(result.status == "failed" for result in done)
        self._stopped = sum(result.status == "stopped" for result in done)
        self._bar.update(self._task, description="waiting for the first trial", total=None)

    def finished(self, result: Result, front: Sequence[Result], running: int, feasible: bool) -> None:
        """Show one more finished trial. The front is counted as at the end: models that are compressed."""
        assert self._baseline is not None
        front = compressed(front)
        self._done.add(result.number)
        self._failed += result.status == "failed"
        self._stopped += result.status == "stopped"
        now = time.monotonic()
        if not self._live and (not self._shown or now - self._last < _EVERY):
            return
        self._last = now
        total = self._budget.trials
        volume = scaled_hypervolume(front, self._objectives, self._baseline)
        text = f"{len(self._done)}" + (f" of {total}" if total else "") + " trials done · "
        text += f"front {len(front)} · hypervolume {volume:.3f}" if feasible else "nothing keeps all limits yet"
        text += f" · {self._stopped} stopped early" if self._stopped else ""
        text += f" · {self._failed} failed" if self._failed else ""
        if self._live:
            done: float = len(self._done)
            if total is None and self._budget.minutes is not None:
                total, done = 100, 100 * (now - self._searching) / 60 / self._budget.minutes
            self._bar.update(self._task, description=text, total=total, completed=done)
        else:
            self._line(f"{now - self._start:6.0f} s  {text} · {running} running")

    def concluding(self, why: str) -> None:
        """Show that the search is over."""
        if self._shown and not self._live:
            self._line(f"search over ({why}); measuring the front")

    def measured(self, done: int, of: int) -> None:
        """Show how much of the front is measured."""
        self._bar.update(self._task, description="measuring the front", total=of, completed=done)
        now = time.monotonic()
        if self._shown and not self._live and now - self._last >= _EVERY:
            self._last = now
            self._line(f"{now - self._start:6.0f} s  {done} of {of} models measured")

    def _line(self, text: str) -> None:
        """Print a line of a log, however long: who reads it line by line wants it whole."""
        self._console.print(text, highlight=False, soft_wrap=True)
