"""Measuring a sensitivity profile by itself: what it will cost is said first, then it is measured and checked."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ..evaluators.latency import Latency
from ..spaces.errors import ModelError, SettingError
from ..spaces.recipe import Recipe
from ..spaces.space import Space
from ..spaces.task import Task
from .cache_place import cache_problem
from .effects import Effect, Request
from .executors import start_executor, starting_ray
from .fisher import Fisher
from .fitting import check_fits
from .handover import Handover
from .latency_check import RECIPES, check_latency, estimate_latency_check
from .preparation import FIRST
from .profile_check import STEPS, Check, check_profile, estimate_check
from .progress import duration
from .resources import Resources
from .sensitivity import Profile, Profiler
from .trial import Bench

#: Seconds between lines where there is no terminal.
_EVERY = 5.0


def profile(
    task: Task,
    space: Space | None = None,
    *,
    executor: str = "local",
    resources: Resources | None = None,
    latency: bool = False,
    progress: bool = True,
) -> Profile:
    """Return the sensitivity profile of a task's model: what every single step saves, and what damage it will do.

    It is kept on disk by content: what is known from an earlier run, or from a search, isn't measured again.

    Parameters
    ----------
    task
        The trained model and its data.
    space
        The steps to look at; by default everything (`Space.from_task`).
    executor
        "local", or "ray" to measure on all workers.
    resources
        Ray's address, the number of workers, and the CPUs of each.
    latency
        Time every layer on this machine, too, as it is and as the steps leave it, and check what that predicts.
    progress
        Say on standard error what it will cost, and show how far it is.

    Returns
    -------
    Profile
        ``profile.rows()`` has one row a site and setting, ``profile.to_json()`` everything.

    Raises
    ------
    SettingError, ModelError, RunError
        For what a user can mend.
    """
    if isinstance(task, Task) and space is None:
        space = Space.from_task(task)
    check_fits(task, space)
    for name, value in (("latency", latency), ("progress", progress)):
        if not isinstance(value, bool):
            raise SettingError(name, value, "must be True or False")
    if resources is not None and not isinstance(resources, Resources):
        raise SettingError("resources", resources, "must be Resources", "Write Resources(workers=4).")
    console = Console(stderr=True, quiet=not progress, highlight=False)
    timed = Latency() if latency else None
    found, _ = measure(task, space, executor, resources or Resources(), console, timed, checked=False)
    return found


def measure(
    task: Task,
    space: Space,
    executor: str,
    resources: Resources,
    console: Console,
    latency: Latency | None = None,
    checked: bool = True,
) -> tuple[Profile, Check | None]:
    """Return a profile, and how good its predictions of damage are on a few steps if ``checked``.

    With a ``latency``, it holds a table that predicts it, and how far that is off.

    Raises
    ------
    SettingError, ModelError, RunError
        As `profile`.
    """
    if executor not in ("ray", "local"):
        raise SettingError("executor", executor, "must be 'ray' or 'local'")
    if problem := cache_problem():
        console.print(problem, soft_wrap=True)
    profiler = Profiler(task, space, latency=latency)
    bench = Bench(task, space.sites, (), (), max(1, int(resources.cpus)))
    start = time.perf_counter()
    file_bytes = _file_bytes(bench)
    saving = time.perf_counter() - start
    if not profiler.missing:  # nothing that is worth starting workers for
        executor = "local"
    if executor == "ray":
        console.print(starting_ray(resources), soft_wrap=True)
    workers = start_executor(executor, bench, resources, Handover(Path(tempfile.gettempdir())))
    try:
        if profiler.missing:
            console.print(FIRST.format(sum(len(r.settings) for r in profiler.missing)), soft_wrap=True)
        with bench.threaded():
            text = announcement(profiler, workers.slots, saving, checked)
        console.print(text, soft_wrap=True)

        def run(requests: Sequence[Request], fisher: Fisher) -> Iterator[tuple[int, list[Effect]]]:
            return workers.survey(requests, profiler.coder, fisher)

        with bench.threaded(), _bar(console) as tell:
            found = profiler.measure(file_bytes, run, tell)
    finally:
        workers.close()
    with bench.threaded():
        if profiler.layers is not None:
            found = check_latency(found, profiler.layers, bench)
        return found, check_profile(found, profiler.survey) if checked else None


def announcement(profiler: Profiler, workers: int, saving: float, checked: bool) -> str:
    """Return what measuring and checking will cost, in one sentence.

    Parameters
    ----------
    profiler
        Before it measures.
    workers
        That will measure.
    saving
        Seconds in which the original is saved.
    checked
        Whether damages will be checked. A latency always is, once.
    """
    missing = sum(len(r.settings) for r in profiler.missing)
    whole, seconds = profiler.count, profiler.estimate(workers)
    if not whole:
        return "the space has no step that changes a layer"
    if not missing:
        text = f"all {whole} single steps are known from an earlier run"
    elif missing < whole:
        text = f"{missing} of {whole} single steps, {duration(seconds)}; the others are known from an earlier run"
    else:
        text = f"{whole} single steps, {duration(seconds)}"
    if checked:
        text += f"; a check on {min(STEPS, whole)} of them, {duration(estimate_check(profiler.survey))}"
    if profiler.layers is not None:
        timing = profiler.estimate_latency()
        text += f"; how long the layers take, {duration(timing) if timing else 'known from an earlier run'}"
        if not profiler.layers.is_checked(profiler.choices):
            text += f"; a check on {RECIPES} recipes, {duration(estimate_latency_check(saving))}"
    return text


def _file_bytes(bench: Bench) -> int:
    try:
        with bench.threaded():
            return len(bench.compress(Recipe(), 0)[0].data)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"the unmodified model can't be saved: {reason}.") from error


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[float, float], None]]:
    """Show a share of the work: as a bar on a terminal, as a line now and then elsewhere."""
    live = console.is_terminal and not console.quiet
    last = time.monotonic()
    bar = Bar(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, disable=not live,
        transient=True,
    )  # fmt: skip
    item = bar.add_task("measuring the layers' sensitivity", total=1.0)

    def tell(share: float, left: float) -> None:
        nonlocal last
        bar.update(item, completed=share, description=f"measuring the layers' sensitivity, {duration(left)} left")
        if not live and share < 1 and time.monotonic() - last > _EVERY:
            last = time.monotonic()
            console.print(f"{100 * share:3.0f} % measured, {duration(left)} left")

    with bar:
        yield tell
