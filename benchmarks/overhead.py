"""What the engine costs beside the trials.

The limit is what no engine could beat on these slots: the trials' own seconds (compress, train, save, load, measure),
divided by the number of workers. It is measured in the same run, from the journal.

Bars
----
overhead
    Share of the workers' time, between the first trial's start and the last one's end, that is not a trial's own:
    below 2 % for trials of about one second, on two workers.
main job
    ``make demo``'s search, within 180 seconds from start to report.

Also printed: seconds from ``import`` to the first trial, in a fresh process.

Run: ``python benchmarks/overhead.py [--quick] [--json FILE]``; exits 1 when a bar is missed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from verdict import Bar, arguments, conclude

from paretopress.search import Resources, Space, Task, search
from paretopress.search.examples.digits import task as digits
from paretopress.search.saved import load_front

ROOT = Path(__file__).resolve().parent.parent
OVERHEAD, MAIN_JOB = 0.02, 180.0
WORKERS = 2

#: Prints the seconds from the interpreter's first import to the moment when the first trial may start.
_FIRST_TRIAL = """
import time; start = time.perf_counter()
from paretopress.search import search, Resources
from paretopress.search.examples.digits import task
print("imported", time.perf_counter() - start)
import sys
front = search(task(), budget=2, run=sys.argv[1], resources=Resources(workers=2), progress=False)
import json, pathlib
seconds = json.loads((pathlib.Path(sys.argv[1]) / "front.json").read_text())["about"]["seconds"]
print("total", time.perf_counter() - start, "after", seconds["search"] + seconds["measure the front"])
"""


def long_task(seconds: float) -> Task:
    """Return the digits with so many validation images, each of them many times, that a trial takes about as long.

    Trials that are alike end together: what a worker waits for the other's last trial is none of the engine's doing.
    """
    task = digits()
    torch.set_num_threads(1)
    images = list(task.validation)
    start = time.perf_counter()
    with torch.no_grad():
        for args, _ in images:
            task.model(*args)
    repeats = max(1, round(seconds / (time.perf_counter() - start)))
    return Task(task.model, [(args[0], target) for args, target in images] * repeats, name="long")


def overhead(trials: int, folder: Path) -> dict[str, float]:
    """Return the idle share of two workers over trials of about one second, and what the parts took."""
    task = long_task(1.0)
    space = Space.from_task(task, {"integer": {}, "svd": {}, "magnitude": {}, "entropy": {}})
    front = search(
        task, space, budget=trials, run=folder, resources=Resources(workers=WORKERS), progress=False, sampler="random",
        racing=False,
    )  # fmt: skip
    _, about = load_front(folder)
    own = sum(r.seconds for r in front.results if not r.recipe.is_baseline)
    wall = about["seconds"]["search"]
    count = len(front.results) - 1
    return {
        "trials": count,
        "trial_seconds": own / count,
        "wall_seconds": wall,
        "overhead": 1 - own / (wall * WORKERS),
        "driver_ms_per_trial": 1000 * (wall * WORKERS - own) / count,
        "start_workers_seconds": about["seconds"]["start workers"],
    }


def first_trial(folder: Path) -> dict[str, float]:
    """Return the seconds of the imports, and from the first import to the first trial, in a fresh process."""
    text = subprocess.run(
        [sys.executable, "-c", _FIRST_TRIAL, str(folder)], check=True, capture_output=True, text=True
    ).stdout
    words = text.split()
    imported, total, after = float(words[1]), float(words[3]), float(words[5])
    return {"import_seconds": imported, "first_trial_seconds": total - after}


def main_job(folder: Path) -> float:
    """Return the wall seconds of the main job, from the command to the report."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "paretopress.search.cli", "search", str(ROOT / "runs/digits.yaml")]
    subprocess.run([*command, "-o", str(folder)], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    options = arguments(__doc__, quick="fewer trials").parse_args()
    digits()  # trains the network once, so that no figure below holds that
    with tempfile.TemporaryDirectory() as place:
        figures = overhead(60 if options.quick else 200, Path(place) / "a")
        figures |= first_trial(Path(place) / "b")
        figures["main_job_seconds"] = main_job(Path(place) / "c")
    bars = [
        Bar("idle share of the workers", figures["overhead"], most=OVERHEAD, form=".2%"),
        Bar("main job, wall seconds", figures["main_job_seconds"], most=MAIN_JOB),
    ]
    return conclude(bars, options, figures)


if __name__ == "__main__":
    sys.exit(main())
