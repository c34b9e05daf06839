"""``paretopress verify``: is every model of a finished run still what the run says of it?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..spaces.errors import RunError
from . import config as settings
from .facts import counted, machine
from .kept_settings import read_kept
from .recheck import FOREIGN, NO_TASK, READ, Check, Request
from .saved import load_front

_out = Console(highlight=False, width=None if sys.stdout.isatty() else 130)


def verify(folder: Path, task: str | None = None) -> list[Check]:
    """Check every model of a run, in a fresh process that has nothing but paretopress: the checksums, that files load
    without anybody's class where they say so, and, where the task can be built, the final figures.

    Parameters
    ----------
    folder
        Of a finished run.
    task
        ``module:function`` that builds the task; by default that of the run's settings, if it was started from a file.

    Returns
    -------
    list[Check]
        Of the original, then of each point.

    Raises
    ------
    RunError
        If there is no front, or ``task`` can't be built.
    """
    _, about = load_front(folder)
    chosen, origin, without = _settings(folder, task)
    threads = int(about.get("threads", 1))
    request = Request(str(folder.resolve()), chosen, str(origin), task is not None, sys.path, threads, without)
    command = [sys.executable, "-P", "-m", "paretopress.search.recheck"]
    done = subprocess.run(
        command, input=json.dumps(asdict(request)), stdout=subprocess.PIPE, text=True, env=_bare(), check=False
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise RunError(
            f"{folder}: the process that checks its models ended with status {done.returncode} and no answer. "
            "What it wrote above says why."
        ) from None
    if "error" in answer:
        raise RunError(answer["error"])
    return [Check(**check) for check in answer["checks"]]


def _settings(folder: Path, task: str | None) -> tuple[dict[str, Any] | None, Path, str]:
    """Return the settings that name the task and the folder of its module, or why there are none."""
    if task is not None:
        return settings.check({"task": task}, "command line").model_dump(), Path.cwd(), ""
    try:
        kept = read_kept(folder)
    except RunError:
        return None, Path.cwd(), NO_TASK
    return (kept.config.model_dump(), kept.origin, "") if kept.own else (None, Path.cwd(), FOREIGN)


def _bare() -> dict[str, str]:
    """Return this process's environment without the user's own modules."""
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = [place for place in places if place and (Path(place) / "paretopress").is_dir()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(ours)}


def command(
    folder: Annotated[Path, typer.Argument(help="The run folder, e.g. runs/digits.")],
    task: Annotated[
        str | None,
        typer.Option(help="module:function that builds the task; for a run from Python, or somebody else's."),
    ] = None,
) -> None:
    """Check that every model of the front loads in a fresh process and has the figures that the run says."""
    checks = verify(folder, task)
    _out.print(_table(checks))
    for check in checks:
        for sentence in check.wrong:
            _out.print(f"! {_name(check)}: {escape(sentence)}.", style="red", soft_wrap=True)
    for remark in _remarks(checks, load_front(folder)[1]):
        _out.print(f"· {escape(remark)}", soft_wrap=True)
    wrong = sum(bool(check.wrong) for check in checks)
    if wrong:
        _out.print(f"{wrong} of {counted(len(checks), 'model')} {'is' if wrong == 1 else 'are'} not what the run says")
        raise typer.Exit(1)
    if any(check.loads == "not tried" or (task is not None and check.unchecked) for check in checks):
        raise typer.Exit(1)  # a script must not take for good what wasn't loaded, or not by the task that was named


def _name(check: Check) -> str:
    return "the original" if check.point < 0 else f"point {check.point}"


def _table(checks: Sequence[Check]) -> Table:
    table = Table(title="models read back, without a class where none is needed", title_justify="left")
    table.add_column("point", justify="right")
    table.add_column("bytes", justify="right")
    for name in ("loads", "equal figures", "verdict"):
        table.add_column(name)
    for check in checks:
        verdict = "[red]wrong[/red]" if check.wrong else "right" if check.loads in READ else "not tried"
        table.add_row(
            "base" if check.point < 0 else str(check.point), f"{check.bytes:,}", check.loads,
            escape(", ".join(check.equal)), verdict, end_section=check.point < 0,
        )  # fmt: skip
    return table


def _remarks(checks: Sequence[Check], about: dict[str, Any]) -> Iterator[str]:
    """Yield what could not be checked, and what may explain a difference."""
    unchecked = dict.fromkeys(reason for check in checks for reason in check.unchecked)
    for reason in unchecked:
        names = [_name(check) for check in checks if reason in check.unchecked]
        yield f"not checked: {reason}, of {'all models' if len(names) == len(checks) else ', '.join(names)}"
    if any(without in reason for reason in unchecked for without in (NO_TASK, FOREIGN)):
        known = about.get("task", "")
        yield f"give --task {known if ':' in known else 'module:function'}, a function that returns the run's Task"
    then = (about.get("machine"), about.get("versions", {}).get("torch"))
    now = (machine(), version("torch"))
    if then != now and any(check.wrong for check in checks):
        yield f"the run was on {then[0]} with torch {then[1]}; this is {now[0]} with torch {now[1]}"
