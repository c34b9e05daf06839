"""Which executor a name stands for."""

from __future__ import annotations

import os

from ..spaces.errors import RunError
from .executor import LocalExecutor, Workers
from .handover import Handover
from .resources import Resources
from .trial import Bench


def starting_ray(resources: Resources) -> str:
    """Return what is said before Ray is started, which nothing is heard of for a while."""
    address = resources.cluster
    what = f"connecting to Ray at {address}" if address else "starting Ray on this machine"
    return f"{what}, which takes a while (executor: ray)"


def check_executor(name: str, resources: Resources) -> None:
    """Say at once what will keep an executor from starting.

    Raises
    ------
    RunError
        If nothing answers where Ray should be, or this machine, where it would be started, is too small for a trial.
    """
    if name == "ray":
        from .ray_cluster import check_reachable  # noqa: PLC0415 - as below

        check_reachable(resources)
        cores = os.cpu_count() or 1
        if resources.cluster is None and resources.workers is None and resources.cpus > cores:
            raise RunError(
                f"a trial needs {resources.cpus:g} CPU, and this machine has {cores}. Ask for less (ray: cpus)."
            )


def start_executor(name: str, bench: Bench, resources: Resources, handover: Handover) -> Workers:
    """Return the executor "local" or "ray", with its workers started.

    Raises
    ------
    RunError
        If Ray can't be reached, or its workers can't take the task.
    """
    if name == "local":
        return LocalExecutor(bench)
    from .ray_executor import RayExecutor  # noqa: PLC0415 - importing Ray takes a second that local runs don't owe

    return RayExecutor(bench, resources, handover)
