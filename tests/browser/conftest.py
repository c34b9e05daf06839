"""A report of a plausible run, and a real browser that looks at it."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from paretopress.search.report import render

LAYERS = {
    "stem": (16, 3, 3, 3),
    "stage1.conv1": (16, 16, 3, 3),
    "stage1.conv2": (16, 16, 3, 3),
    "stage2.conv1": (32, 16, 3, 3),
    "stage2.conv2": (32, 32, 3, 3),
    "stage3.conv1": (64, 32, 3, 3),
    "stage3.conv2": (64, 64, 3, 3),
    'odd<b>name</b>"é"': (64, 64, 1, 1),
    "head": (10, 64),
}
POINTS = 9
PARAMETERS, MACS, EXAMPLES = 77_850, 12_400_000, 1_000


def report(count: int, trials: int = 60) -> dict[str, Any]:
    """Return the data of a run with ``count`` points on its front: what the search hands to the page."""
    random.seed(count)
    points = [_point(i, i / max(count - 1, 1)) for i in range(count)]
    return {
        "name": "digits",
        "created": "2026-03-14 15:09 UTC",
        "version": "0.1.0",
        "objectives": [
            {"name": "accuracy", "direction": "maximize", "unit": ""},
            {"name": "size", "direction": "minimize", "unit": "B"},
            {"name": "macs", "direction": "minimize", "unit": "MACs"},
        ],
        "quality": "accuracy",
        "quality_direction": "maximize",
        "split": "test",
        "baseline": _measured(None, 0.975, 4.0 * PARAMETERS + 9_000, float(MACS), 1.0),
        "points": points,
        "trials": [_trial(n, points) for n in range(trials)],
        "hypervolume": [[n, 0.63 * (1 - math.exp(-n / 9))] for n in range(1, trials + 1)],
        "sites": [_site(name, shape) for name, shape in LAYERS.items()]
        + [{"name": "group:stage3.conv1", "kind": "group", "shape": [64], "macs": 0, "bytes": 0}]
        + [{"name": "<model>", "kind": "model", "shape": [], "macs": 0, "bytes": 0}],
        "reproduce": {
            "command": "paretopress search runs/digits.yaml",
            "seed": 0,
            "task": "paretopress.search.examples.digits:task",
            "space": "about 10^23 recipes",
            "sampler": "tpe",
            "budget": f"{trials} trials",
            "machine": "2 × AMD EPYC 7B13, Linux 6.1",
            "versions": {"python": "3.11.9", "torch": "2.13.0", "optuna": "5.0.0"},
        },
        "notes": ["block:stage1 can’t be removed: its input and output differ in shape."],
    }


def _site(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    weights = math.prod(shape)
    return {"name": name, "kind": "conv2d" if len(shape) == 4 else "linear", "shape": list(shape)} | {
        "macs": weights * 64,
        "bytes": 4 * weights,
    }


def _measured(ident: int | None, accuracy: float, size: float, macs: float, latency: float) -> dict[str, Any]:
    def quality(value: float) -> dict[str, Any]:
        half = 1.96 * math.sqrt(max(value * (1 - value), 1e-4) / EXAMPLES)
        return {"value": value, "unit": "", "interval": [value - half, value + half], "repeats": EXAMPLES}

    counted = {"size": {"value": size, "unit": "B"}, "macs": {"value": macs, "unit": "MACs"}}
    timed = {
        "value": latency,
        "unit": "x baseline",
        "interval": [latency * 0.97, latency * 1.04],
        "detail": {
            "milliseconds": 2.31 * latency,
            "baseline_milliseconds": 2.31,
            "batch": 1,
            "threads": 1,
            "runtime": "torch eager",
        },
    }
    return {
        "id": ident,
        "search": {"accuracy": quality(accuracy + 0.004), **counted},
        "final": {
            "accuracy": quality(accuracy),
            **counted,
            "latency": timed,
            "memory": {"value": size + 240_000, "unit": "B"},
            "bops": {"value": macs * 64, "unit": "bit operations"},
            "parameters": {"value": PARAMETERS * (0.3 + 0.7 * macs / MACS), "unit": "weights"},
        },
    }


def _point(index: int, strength: float) -> dict[str, Any]:
    size = 320_000 / (3 + 35 * strength**1.4)
    macs = MACS * (1 - 0.8 * strength)
    latency = 1.02 - 0.5 * strength + (0.14 if index % 4 == 2 else 0.0)
    accuracy = 0.9745 - 0.21 * strength**3 + random.uniform(-0.002, 0.002)
    point = _measured(index + 1, accuracy, size, macs, latency)
    layers: dict[str, list[dict[str, Any]]] = {}
    for depth, name in enumerate(LAYERS):
        bits = max(2, min(8, round(8 - 6 * strength + random.choice((-1, 0, 0, 1)))))
        steps: list[dict[str, Any]] = [{"technique": "integer", "params": {"bits": bits, "granularity": "channel"}}]
        if random.random() < 0.3:
            steps = [{"technique": "codebook", "params": {"bits": bits}}]
        if strength > 0.3 and depth % 3 == 1:
            steps.insert(0, {"technique": "magnitude", "params": {"density": round(1.1 - strength, 2)}})
        if strength > 0.5 and name == "stage3.conv2":
            steps.insert(0, {"technique": "svd", "params": {"fraction": 0.5}})
        if depth or index % 2:
            layers[name] = steps
    if strength > 0.2:
        layers["group:stage3.conv1"] = [
            {"technique": "channels", "params": {"ratio": 0.125 * max(1, round(5 * strength)), "criterion": "l2"}}
        ]
        recovery = {"steps": 200, "learning_rate": 0.001, "temperature": 4, "weight": 0.9}
        layers["<model>"] = [{"technique": "distillation", "params": recovery}, {"technique": "entropy", "params": {}}]
    before = 4.0 * PARAMETERS + 9_000
    point |= {
        "trial": 5 * index + 3,
        "digest": f"{random.getrandbits(64):016x}",
        "path": f"runs/digits/front/{index + 1}",
        "flags": ["fewer MACs but not faster"] if index == 1 else [],
        "ratios": {
            "size": {"compression": before / size, "saving": 1 - size / before},
            "macs": {"compression": MACS / macs, "saving": 1 - macs / MACS},
            "latency": {"speedup": 1 / latency},
        },
        "layers": layers,
        "pick": f"paretopress pick runs/digits --point {index + 1}",
    }
    return point


def _trial(number: int, points: list[dict[str, Any]]) -> dict[str, Any]:
    if number % 13 == 12:
        error = "ValueError: stage2.conv1: <img src=x onerror=alert(1)> output holds NaN after 25 steps"
        return {"number": number, "origin": "tpe", "status": "failed", "error": error, "values": {}, "seconds": 0.4}
    near = points[number % len(points)]["search"]
    values = {
        "accuracy": near["accuracy"]["value"] - random.expovariate(18),
        "size": near["size"]["value"] * random.uniform(1.0, 1.9),
        "macs": near["macs"]["value"] * random.uniform(1.0, 1.4),
    }
    front = any(p["trial"] == number for p in points)
    return {
        "number": number,
        "origin": "uniform" if number < 10 else "tpe",
        "status": "ok",
        "error": "",
        "values": values,
        "seconds": 1.3,
        "front": front,
    }


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium once; without one the tests fail and say how to get it."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail(
            "No Chromium found for the browser tests. Install one (Debian: apt-get install -y chromium; "
            "`make test` does it where it may), or name its path in the environment variable CHROMIUM."
        )
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=path, args=flags)
        yield started
        started.close()


class Opened:
    """A report in a browser tab, with what the tab complained about and asked for."""

    def __init__(self, page: Page, path: Path, data: dict[str, Any]) -> None:
        self.page, self.data = page, data
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())


@pytest.fixture
def make_report(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a report of so many points, with some of its data replaced."""

    def make(count: int, **replaced: Any) -> Path:
        path = tmp_path / "report.html"
        path.write_text(render(report(count) | replaced), encoding="utf-8")
        return path

    return make


@pytest.fixture
def opened(browser: Browser, make_report: Callable[..., Path]) -> Iterator[Opened]:
    """Open the report of the plausible run at 1280 x 900, and check afterwards that nothing went wrong in it."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    found = Opened(page, make_report(POINTS), report(POINTS))
    yield found
    page.close()
    assert found.problems == []
    assert [url for url in found.requests if not url.startswith(("file://", "data:", "blob:"))] == []
