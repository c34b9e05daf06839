"""The Ray cluster: connecting to it, what its nodes can take, and whether its head is alive."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
from ray._private import ray_constants, services, worker

from ..spaces.errors import RunError
from .resources import Resources

#: Seconds in which a head must take a connection.
_ANSWER = 10.0


def connect(resources: Resources) -> bool:
    """Connect to Ray, or start it; return whether it was started here (and must be stopped here).

    Raises
    ------
    RunError
        If it can't be reached, or this machine, where it would be started, has too few processor cores for a trial.
    """
    if ray.is_initialized():
        return False
    address = resources.cluster
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    check_reachable(resources)
    if not address and resources.cpus > (cores := os.cpu_count() or 1):
        raise RunError(
            f"a trial needs {resources.cpus:g} cpus, and this machine has {cores}. Lower resources.cpus (ray: cpus:) "
            "or give the address of a cluster that has them."
        )
    try:
        if address:
            ray.init(address=address, **options)
        else:
            _start(resources, options)
    except Exception as error:
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        where = f"at {address!r} " if address else ""
        raise RunError(
            f"Ray {where}can't be reached: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. "
            "Check the address, that the cluster runs the same Ray and Python, and that RAY_AUTH_MODE and "
            f"RAY_AUTH_TOKEN are here what they were where it was started (RAY_AUTH_MODE is {mode} here; `ray start` "
            "turns tokens on by itself)."
        ) from error
    return True


def _start(resources: Resources, options: Mapping[str, Any]) -> None:
    """Start Ray on this machine, with nothing that listens to others."""
    wanted = math.ceil((resources.workers or 0) * resources.cpus)
    with _in_no_cluster(), _in_own_session():
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, wanted),
            resources=dict(resources.custom) and {n: v * (resources.workers or 1) for n, v in resources.custom.items()},
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **options,
        )


@contextmanager
def _in_no_cluster() -> Iterator[None]:
    """Let Ray keep to loopback: unless this machine is in no cluster, it takes the machine's own address for 127.0.0.1,
    and all its processes listen to everybody.
    """
    variable, constant = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    before = os.environ.get(variable)
    os.environ[variable], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # for the processes to come, and for this one
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        os.environ.pop(variable)
        if before is not None:
            os.environ[variable] = before


@contextmanager
def _in_own_session() -> Iterator[None]:
    """Start Ray's processes in a session of their own: a signal to this process's group, as of `timeout`, is for this
    process, which ends in order. They end with it all the same, whatever becomes of it.
    """
    before = services.ConsolePopen
    services.ConsolePopen = partial(before, start_new_session=True)  # type: ignore[misc,assignment]  # for a while
    try:
        yield
    finally:
        services.ConsolePopen = before  # type: ignore[misc]  # as it was


def let_go() -> None:
    """Take Ray's hand off errors that nobody catches: it would tell a head that is gone of them before they are shown,
    and end this process while it waits.
    """
    if sys.excepthook is worker.custom_excepthook:
        sys.excepthook = worker.normal_excepthook


def check_reachable(resources: Resources) -> None:
    """Raise RunError within seconds if nothing listens at host:port; Ray itself would try for minutes."""
    address = resources.cluster or ""
    if ray.is_initialized():
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto", or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except OSError as error:
        raise RunError(
            f"Ray at {address!r} can't be reached: nothing answers there ({error.strerror or error}). "
            "Check the address; `ray start --head` prints it. Leave it out to start Ray on this machine."
        ) from error


def head_answers() -> bool:
    """Whether the cluster's head takes connections; where it is gone, Ray ends this process within a minute.

    To be asked while connected: Ray would start a cluster to answer.
    """
    with suppress(Exception):
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        with suppress(OSError):
            socket.create_connection((host, int(port)), timeout=_ANSWER).close()
            return True
        return False
    return True  # an address that can't be told is no sign of anything


def needs(resources: Resources) -> dict[str, float]:
    """Return what one worker takes, by Ray's names."""
    asked = {"CPU": float(resources.cpus), "GPU": float(resources.gpus), **resources.custom}
    return {name: amount for name, amount in asked.items() if amount}


def capacity(resources: Resources) -> int:
    """Return how many workers fit onto the nodes that are alive now, whatever else runs on them."""
    fits = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            fits += min(int(has.get(name, 0.0) / amount + 1e-6) for name, amount in needs(resources).items())
    return fits


def check_fits(resources: Resources) -> None:
    """Raise RunError if no node can take a worker: Ray itself would wait for one for ever."""
    if capacity(resources):
        return
    asked = ", ".join(f"{amount:g} {name}" for name, amount in needs(resources).items())
    nodes = [
        ", ".join(f"{n['Resources'].get(name, 0.0):g} {name}" for name in needs(resources))
        for n in ray.nodes()
        if n["Alive"]
    ]
    raise RunError(
        f"a trial needs {asked}, and no node of the Ray cluster has that (they have: {'; '.join(sorted(set(nodes)))}). "
        "Ask for less (cpus, gpus, custom), or add a node that has it."
    )
