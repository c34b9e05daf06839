"""A run that is killed, frozen and starved of disk all the time, beside the same run left in peace.

500 trials of about half a second on two Ray workers. Every two to five seconds one of: the driver is killed, a worker
is killed, a worker is stopped for some seconds, the disk is full for the driver. A driver that has ended is started
again with ``resume``, until the run is done. The space has exactly as many recipes as the run has trials, so both runs
try the same ones, in whatever order.

Bars
----
lost, twice, running
    Of the trials: none is without a result, has two of them, or is left unfinished.
failed
    No trial failed: none does anything wrong.
front
    The disturbed run's front is that of the undisturbed one, recipe by recipe and figure by figure.

Also printed: what was done to it, how many trials had to be run again, how much longer it took.

Run: ``python benchmarks/chaos.py [--quick] [--json FILE]``; exits 1 when a bar is missed. ``--quick`` has 60 trials.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from torch import nn
from verdict import Bar, arguments, conclude

from paretopress.compressors.base import Compressor, Params, register
from paretopress.compressors.draft import Context, Draft
from paretopress.search import Resources, Space, Task, search
from paretopress.search.journal import FILE, read
from paretopress.spaces.errors import RunError
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.stage import Stage

TRIALS, QUICK = 500, 60
PAUSE = (2.0, 5.0)
ACTS = ("kill the driver", "kill a worker", "stop a worker", "fill the disk")


class Nap(Compressor):
    """Sleeps for about half a second, and changes the model a little."""

    name, stage, kinds, summary = "nap", Stage.OPERATOR, frozenset({"model"}), "a benchmark's"

    def __init__(self, trials: int, folder: str) -> None:
        self.trials, self.folder = trials, folder

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        """Return a number for each trial but the original's."""
        return (Knob("number", tuple(range(1, self.trials))),)

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        """Do it, and note that it was done."""
        number = int(params["number"])
        with (Path(self.folder) / "began").open("a") as file:
            file.write(f"{number}\n")
        time.sleep(0.25 + (number * 7919 % 500) / 1000)
        noise = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in draft.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.02 * (number % 50))


def drive(folder: Path, trials: int) -> int:
    """Run or resume the search; return the exit status."""
    torch.manual_seed(0)
    register(Nap(trials, str(folder)))
    x = torch.randn(400, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    task = Task(model, validation=[(x, model(x).argmax(1))], name="chaos")
    run = folder / "run"
    existing = "resume" if (run / FILE).exists() else "refuse"
    try:
        search(
            task, Space.from_task(task, {"nap": {}}), ["accuracy", "size"], budget=trials, sampler="random", run=run,
            existing=existing, resources=Resources(workers=2), progress=False, racing=False,
        )  # fmt: skip
    except RunError as error:
        print(error)
        return 3
    return 0


@dataclass
class Tormentor:
    """Starts drivers, and torments them."""

    folder: Path
    trials: int
    random: random.Random = field(default_factory=lambda: random.Random(0))
    done: Counter[str] = field(default_factory=Counter)
    sessions: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Start a driver."""
        self.sessions += 1
        command = [sys.executable, __file__, "--driver", str(self.folder), "--trials", str(self.trials)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def act(self, driver: subprocess.Popen[bytes]) -> None:
        """Do one of the acts, if there is something to do it to."""
        workers = [p for p in psutil.Process(driver.pid).children(recursive=True) if "ray::Worker" in p.name()]
        if not workers:  # it is still starting: killed then, again and again, nothing would ever run
            return
        what = self.random.choice(ACTS)
        if what == "kill the driver":
            driver.send_signal(signal.SIGKILL)
        elif what == "kill a worker":
            self.random.choice(workers).kill()
        elif what == "stop a worker":
            worker = self.random.choice(workers)
            worker.suspend()
            time.sleep(self.random.uniform(1, 3))
            worker.resume()
        else:
            size = (self.folder / "run" / FILE).stat().st_size
            _, hard = resource.prlimit(driver.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(driver.pid, resource.RLIMIT_FSIZE, (size, hard))
        self.done[what] += 1

    def torment(self) -> float:
        """Run until the run is done; return the seconds."""
        start = time.monotonic()
        while True:
            driver = self.start()
            while driver.poll() is None:
                try:
                    driver.wait(self.random.uniform(*PAUSE))
                except subprocess.TimeoutExpired:
                    try:
                        if len(read(self.folder / "run")[1].results) > 1:  # its workers are up
                            self.act(driver)
                    except (RunError, OSError, psutil.Error):
                        continue
            if driver.returncode == 0:
                return time.monotonic() - start


def ends(folder: Path) -> Counter[int]:
    """Return how many results each trial's number has in the journal."""
    lines = (json.loads(line) for line in (folder / "run" / FILE).read_text().splitlines())
    return Counter(line["trial"]["number"] for line in lines if "trial" in line)


def front(folder: Path) -> list[tuple[str, dict[str, float]]]:
    """Return the digests and figures of the front's recipes."""
    points = json.loads((folder / "run" / "front.json").read_text())["points"]
    found = [(p["trial"]["digest"], {n: m["value"] for n, m in p["trial"]["measurements"].items()}) for p in points]
    return sorted(found, key=lambda x: x[0])


def main() -> int:
    """Run, print, judge."""
    parser = arguments(__doc__, quick=f"{QUICK} trials")
    parser.add_argument("--driver", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.driver:
        return drive(options.driver, options.trials)
    trials = QUICK if options.quick else TRIALS
    with tempfile.TemporaryDirectory(prefix="paretopress-") as name:
        disturbed, peaceful = Path(name) / "disturbed", Path(name) / "peaceful"
        for folder in (disturbed, peaceful):
            folder.mkdir()
        tormentor = Tormentor(disturbed, trials)
        seconds = tormentor.torment()
        start = time.monotonic()
        status = Tormentor(peaceful, trials).start().wait()
        peace = time.monotonic() - start
        if status:
            print((peaceful / "log").read_text())
            return status
        counts, record = ends(disturbed), read(disturbed / "run")[1]
        began = len((disturbed / "began").read_text().splitlines())
        failed = [r for r, _ in record.results if r.status == "failed"]
        same = float(front(disturbed) == front(peaceful))
    print(f"{dict(tormentor.done)}; {tormentor.sessions} sessions; {began - trials + 1} executions more than trials;")
    print(f"{seconds:.0f} s, {peace:.0f} s in peace")
    for result in failed:
        print(f"failed: {result.number}: {result.error}")
    bars = [
        Bar("trials lost", trials - len(counts), most=0),
        Bar("trials told twice", sum(n > 1 for n in counts.values()), most=0),
        Bar("trials left running", len(record.unfinished), most=0),
        Bar("trials failed", len(failed), most=0),
        Bar("front as without disturbance", same, least=1),
    ]
    figures = {"acts": dict(tormentor.done), "sessions": tormentor.sessions, "again": began - trials + 1}
    return conclude(bars, options, figures | {"seconds": seconds, "peace": peace})


if __name__ == "__main__":
    sys.exit(main())
