"""A Ray that a search starts is this machine's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paretopress.search.ray_cluster import connect
from paretopress.search.resources import Resources
from paretopress.spaces.errors import RunError

SCRIPT = """
import os
import psutil, ray
from paretopress.search.ray_cluster import connect
from paretopress.search.resources import Resources

before = dict(os.environ)
assert connect(Resources(workers=1))
assert ray.get(ray.remote(lambda: 7).remote()) == 7
me = psutil.Process()
for process in (me, *me.children(recursive=True)):
    for connection in process.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN:
            print(process.name(), connection.laddr.ip)
own = [p.name() for p in me.children(recursive=True) if os.getpgid(p.pid) == os.getpgid(0)]
assert not own, own
ray.shutdown()
changed = {k for k in os.environ.keys() | before.keys() if os.environ.get(k) != before.get(k)}
assert not {k for k in changed if "CLUSTER" in k}, changed
"""


def test_nothing_listens_to_other_machines_and_signals_are_the_drivers() -> None:
    """Whoever reaches a port of Ray runs code here: all of its processes keep to loopback, workers too. And none is in
    the driver's process group: a signal to that, as of `timeout`, ends the run in order, not Ray under it.
    """
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    places = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert {"gcs_server", "raylet"} <= {name for name, _ in places}
    assert {ip.removeprefix("::ffff:") for _, ip in places} <= {"127.0.0.1", "::1"}, places


def test_a_trial_that_needs_more_than_this_machine_has_is_refused() -> None:
    """It would compute with more threads than there are cores, which is slower than with one. More workers than cores
    may be wanted.
    """
    cores = os.cpu_count() or 1
    with pytest.raises(RunError, match=f"a trial needs {cores + 1} cpus, and this machine has {cores}"):
        connect(Resources(workers=1, cpus=cores + 1))
