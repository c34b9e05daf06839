"""Whether a space is one of a task's model."""

from __future__ import annotations

from ..spaces.errors import SettingError
from ..spaces.site import LAYER_KINDS, Site
from ..spaces.space import Space
from ..spaces.task import Task

_ADVICE = "Write Space.from_task(task) with this task."


def check_fits(task: object, space: object) -> None:
    """Check that every site of a space is in a task's model.

    Raises
    ------
    SettingError
        If one isn't, or these are no task and no space.
    """
    if not isinstance(task, Task):
        raise SettingError("task", task, "must be a Task", "Write Task(model, validation=...).")
    if not isinstance(space, Space):
        given = repr(space) if isinstance(space, str | list | dict) else "..."
        raise SettingError("space", space, "must be a Space", f"Write Space.from_task(task, {given}).")
    shapes = {name: tuple(p.shape) for name, p in task.model.named_parameters(remove_duplicate=False)}
    paths = {path for path, _ in task.model.named_modules(remove_duplicate=False)}
    for site in space.sites.values():
        problem = _misfit(site, shapes, paths)
        if problem:
            raise SettingError("space", space, f"is of another model than the task's: {problem}", _ADVICE)


def _misfit(site: Site, shapes: dict[str, tuple[int, ...]], paths: set[str]) -> str:
    """Return what a site names that a model of these parameters and modules doesn't have, or ""."""
    for path in (*site.members, *(part.module for part in site.slices)):
        if path not in paths:
            return f"it has no module {path!r}"
    for name in site.weights:
        if name not in shapes:
            return f"it has no weight {name!r}"
    if site.kind in LAYER_KINDS and site.weights and shapes[site.weights[0]] != site.shape:
        return f"{site.weights[0]!r} has the shape {shapes[site.weights[0]]} there, and {site.shape} in the space"
    return ""
