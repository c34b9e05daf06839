"""What a person sees while a search runs: one live line on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from .pareto import scaled_hypervolume
from .plan import Budget
from .result import Objective, Result

#: Seconds between lines where there is no terminal.
_EVERY = 5.0


class Progress:
    """Watches an engine.

    Parameters
    ----------
    budget
        What the bar fills up to.
    objectives, baseline
        To show the hypervolume.
    shown
        False shows nothing at all.
    """

    def __init__(self, budget: Budget, objectives: Sequence[Objective], baseline: Result, shown: bool = True) -> None:
        self._budget, self._objectives, self._baseline, self._shown = budget, objectives, baseline, shown
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
        self._task = self._bar.add_task("starting workers", total=None)
        self._start = self._last = time.monotonic()
        self._failed = self._stopped = 0

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a sentence."""
        if self._shown:
            self._console.print(text, style="yellow", highlight=False)

    def profiling(self, share: float) -> None:
        """Show how much of the layers' sensitivity is measured."""
        self._bar.update(self._task, description="measuring the layers' sensitivity", total=1.0, completed=share)

    def finished(self, result: Result, front: Sequence[Result], running: int) -> None:
        """Show one more finished trial."""
        self._failed += result.status == "failed"
        self._stopped += result.status == "stopped"
        now = time.monotonic()
        if not self._live and (not self._shown or now - self._last < _EVERY):
            return
        self._last = now
        total = self._budget.trials
        volume = scaled_hypervolume(front, self._objectives, self._baseline)
        text = f"trial {result.number}" + (f" of {total}" if total else "") + f" · front {len(front)}"
        text += f" · hypervolume {volume:.3f}" + (f" · {self._stopped} stopped early" if self._stopped else "")
        text += f" · {self._failed} failed" if self._failed else ""
        if self._live:
            done: float = result.number
            if total is None and self._budget.minutes is not None:
                total, done = 100, 100 * (now - self._start) / 60 / self._budget.minutes
            self._bar.update(self._task, description=text, total=total, completed=done)
        else:
            self._console.print(f"{now - self._start:6.0f} s  {text} · {running} running", highlight=False)

    def concluding(self, why: str) -> None:
        """Show that the search is over."""
        if self._shown and not self._live:
            self._console.print(f"search over ({why}); measuring the front", highlight=False)

    def measured(self, done: int, of: int) -> None:
        """Show how much of the front is measured."""
        self._bar.update(self._task, description="measuring the front", total=of, completed=done)
