"""Checks the models of a finished run.

As a program it is a process that has imported nothing of the user's when it loads them. It reads a `Request` from
standard input and writes the checks to standard output, both as JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..evaluators.accuracy import Quality
from ..evaluators.base import Measurement, Subject
from ..evaluators.macs import macs_by_module
from ..spaces.errors import PressError
from ..spaces.metric import ACCURACY
from ..spaces.task import Task
from . import config as settings
from .artifact import FILE, Opened, needs_class, opened
from .front import Front, Point
from .journal import read
from .saved import load_front, point_json

#: Of a metric with sums of floats, which another processor may add in another order; counts are compared exactly.
_CLOSE = 1e-5
#: What a check says of a model that was read: alone, or with its class.
READ = ("yes", "with its class")
#: Why a run's task is not known, or not imported.
NO_TASK, FOREIGN = "the run names no task", "somebody else started the run, so its task is not imported unasked"


@dataclass(frozen=True)
class Request:
    """What is to be checked.

    Attributes
    ----------
    folder
        The run folder.
    settings
        Of a run that names the task, or None for no task.
    origin
        The folder beside which the task's module may be.
    asked
        Whether a task that can't be built is an error; else what needs it isn't checked.
    path
        Where modules may be imported from once all models were loaded without any.
    threads
        Of torch, as when the figures were taken.
    without
        Why there are no settings.
    """

    folder: str
    settings: dict[str, Any] | None
    origin: str
    asked: bool
    path: list[str]
    threads: int
    without: str = NO_TASK


@dataclass
class Check:
    """What was found of one model.

    Attributes
    ----------
    point
        Its number; -1 for the original.
    bytes
        Length of its file; 0 if there is none.
    loads
        "yes": without anybody's class; "with its class"; "not tried", because it needs its class; "no".
    equal
        The figures that are what the run says.
    wrong
        What isn't, in sentences.
    unchecked
        What could not be checked, and why.
    """

    point: int
    bytes: int = 0
    loads: str = "no"
    equal: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def compare(self, name: str, now: float, then: float, close: float = 0.0) -> None:
        """Note whether a figure is equal, or differs by at most a share of it."""
        if now == then or math.isclose(now, then, rel_tol=close, abs_tol=0.0):
            self.equal.append(name)
        else:
            self.wrong.append(f"{name} is {now:.10g}, the run says {then:.10g}")


def recheck(request: Request) -> list[Check]:
    """Return the checks of the original and every point, in this order.

    Raises
    ------
    PressError
        If there is no front, or the task that was asked for can't be built.
    """
    front, _ = load_front(Path(request.folder))
    points = (front.baseline, *front)
    checks = [_read(point) for point in points]  # before anything of the user's is imported
    sys.path += [place for place in request.path if place not in sys.path]
    task, why = _task(request, front)  # on as many threads as in a search: it may train its model
    torch.set_num_threads(request.threads)
    for check, point in zip(checks, points):
        if check.loads != "no":
            _measure(check, point, front, task, why)
    return checks


def _read(point: Point) -> Check:
    """Check a point's file, and load it where it needs no class."""
    check = Check(point.id)
    file = point.path / FILE if point.path is not None else None
    if file is None or not file.is_file():
        check.wrong.append(f"there is no file {file}" if file is not None else "the run kept no files")
        return check
    data = file.read_bytes()
    check.bytes = len(data)
    digest = hashlib.sha256(data).hexdigest()
    try:
        reason = needs_class(data)  # reads the file's own checksum
        check.loads = "not tried" if reason else "no"
        if not reason:
            opened(data)
            check.loads = "yes"
    except PressError as error:
        check.wrong.append(str(error).rstrip("."))
    if point.result.checksum and not digest.startswith(point.result.checksum):
        check.wrong.append(
            f"it is not the file that was measured: its SHA-256 begins with {digest[:16]}, that one's with "
            f"{point.result.checksum}"
        )
    check.compare("size", len(data), point.value("size"))
    _read_beside(check, point, file.parent)
    return check


def _read_beside(check: Check, point: Point, folder: Path) -> None:
    """Check the files beside the model, which other programs read."""
    about = point_json(replace(point, path=None), folder)
    for name, wanted in (("recipe.json", point.result.recipe.to_json()), ("metrics.json", about)):
        try:
            found = json.loads((folder / name).read_bytes())
            if isinstance(found, dict) and "path" in found:  # it was written before the folder had its name
                found["path"] = None
        except (OSError, ValueError) as error:
            check.wrong.append(f"{name} can't be read ({type(error).__name__})")
            continue
        if found != json.loads(json.dumps(wanted)):
            check.wrong.append(f"{name} is not what the run says")


def _task(request: Request, front: Front) -> tuple[Task | None, str]:
    """Return the task, or None and why there is none."""
    if request.settings is None:
        return None, request.without
    try:
        task = settings.check(request.settings, "settings").build_task(Path(request.origin))
    except PressError as error:
        if request.asked:
            raise
        return None, f"the run's task can't be built: {str(error).rstrip('.')}"
    header, _ = read(Path(request.folder))
    if header is not None and header.get("task") != task.digest:
        what = "its model, validation data or metric is another one than when the run was started"
        if task.metric.name != front.quality.name:
            what = f"its metric is {task.metric.name!r}, the run's was {front.quality.name!r}"
        return None, f"the task is not the one that was searched: {what}"
    return task, ""


def _measure(check: Check, point: Point, front: Front, task: Task | None, why: str) -> None:
    """Load a model, and compare what it is with the run's figures."""
    if check.loads == "not tried" and task is None:
        check.unchecked.append(f"the model, which needs its class ({why})")
        return
    assert point.path is not None
    try:
        held = opened((point.path / FILE).read_bytes(), task.model if task is not None else None)
    except PressError as error:
        check.loads = "no"
        check.wrong.append(str(error).rstrip("."))
        return
    check.loads = READ[1] if check.loads == "not tried" else check.loads
    _count(check, point, held, task)
    name = front.quality.name
    if task is None:
        check.unchecked.append(f"{name} on {front.split} ({why})")
    elif any(flag.startswith(f"{name} could not be measured") for flag in point.flags):
        check.unchecked.append(f"{name} on {front.split} (the run could not measure it either)")
    else:
        _judge(check, point.final[name], held.model, front.split, task)


def _count(check: Check, point: Point, held: Opened, task: Task | None) -> None:
    """Compare what can be counted: multiply-accumulates and parameters."""
    if "parameters" in point.final:
        number = sum(p.numel() for p in held.model.parameters())
        check.compare("parameters", number, point.final["parameters"].value)
    example = task.example if task is not None else held.example
    if "macs" not in point.final or not example:
        return
    try:
        check.compare("macs", sum(macs_by_module(held.model, example)[0].values()), point.final["macs"].value)
    except PressError as error:
        if task is not None:
            check.wrong.append(str(error).rstrip("."))
        else:  # an input may have no batch, which a file doesn't say
            check.unchecked.append(str(error).rstrip("."))


def _judge(check: Check, then: Measurement, model: nn.Module, split: str, task: Task) -> None:
    """Compare the task's own metric on the split of the final figures."""
    batches = task.test if split == "test" else task.validation
    name = task.metric.name
    if batches is None:
        check.wrong.append(f"{name} was measured on {split} data, and the task has none")
        return
    try:
        # With any number of resamples a metric is computed as it was at the end of the run.
        now = Quality(task.metric, 1).measure(Subject(model, task, batches))
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        check.wrong.append(f"{name} can't be measured on {split}: {type(error).__name__}: {reason[:200]}")
        return
    if now.repeats != then.repeats:
        check.wrong.append(f"the {split} data has {now.repeats} examples, the run's had {then.repeats}")
    check.compare(name, now.value, then.value, 0.0 if task.metric.function is ACCURACY.function else _CLOSE)


def _answer(request: Request) -> Iterator[tuple[str, Any]]:
    try:
        yield "checks", [asdict(check) for check in recheck(request)]
    except PressError as error:
        yield "error", str(error)


def main() -> None:
    """Answer the request on standard input."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a task may print
    with answer:
        json.dump(dict(_answer(Request(**json.load(sys.stdin)))), answer)


if __name__ == "__main__":
    main()
