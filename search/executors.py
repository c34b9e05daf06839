"""Which executor a name stands for."""

from __future__ import annotations

from .executor import Executor, LocalExecutor, Resources
from .trial import Bench


def start_executor(name: str, bench: Bench, resources: Resources) -> Executor:
    """Return the executor "local" or "ray", with its workers started.

    Raises
    ------
    RunError
        If Ray can't be reached, or its workers can't take the task.
    """
    if name == "local":
        return LocalExecutor(bench)
    from .ray_executor import RayExecutor  # noqa: PLC0415 - importing Ray takes a second that local runs don't owe

    return RayExecutor(bench, resources)
