"""The page of a sensitivity profile in a real browser."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from torch import Tensor, nn

from paretopress.search import profile
from paretopress.search.effects import Effect
from paretopress.search.examples.digits import task as digits
from paretopress.search.latency_table import LatencyTable
from paretopress.search.profile_check import check_profile
from paretopress.search.report.profile_data import render_profile
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

pytestmark = pytest.mark.browser

EVIL = 'ValueError: <img src=x onerror=alert(1)> "quoted"'
ABOUT = {"name": "digits", "command": "paretopress profile runs/digits.yaml", "version": "0.1.0"}
OVERFLOW = "() => document.documentElement.scrollWidth - innerWidth"
HEAT = "i => { const t = document.getElementById(`map-${i}`).data[0]; return [t.z, t.zmin, t.zmax]; }"


class Wrapped(nn.Module):
    """A network whose layers have long names."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.a_network_within_another = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.a_network_within_another(x)


@pytest.fixture(scope="module")
def task() -> Task:
    """The digits, for a network with long names."""
    own = digits()
    return Task(Wrapped(own.model), validation=own.validation.source, train=own.train.source, name="digits")


@pytest.fixture(scope="module")
def found(task: Task) -> Profile:
    """Its profile, in which one step fails."""
    space = Space.from_task(
        task, {"integer": {"bits": [8, 4, 2], "granularity": ["channel"]}, "svd": {"fraction": [0.5]}, "depth": {}}
    )
    found = profile(task, space, progress=False)
    effects = [list(e) for e in found.effects]
    effects[next(i for i, d in enumerate(space.decisions) if d.site.endswith(".fc"))][0] = Effect(error=EVIL)
    block = "a_network_within_another.block1"
    gone = {path: 0.0 for path in found.units if path.startswith(block)}
    times = {"": 0.25, f"{block}.conv1": 0.2}
    left = {
        LatencyTable.key(d.site, e): gone
        for d, own in zip(space.decisions, effects)
        for e in own
        if d.site == f"block:{block}"
    }
    table = LatencyTable("latency", "ONNX Runtime, batch 1, 1 thread", 1.5, times, left, checked=((0.9, 1.0),))
    return replace(found, effects=tuple(map(tuple, effects)), latency=table)


@pytest.fixture(scope="module")
def path(task: Task, found: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page, on disk."""
    file = tmp_path_factory.mktemp("profile") / "profile.html"
    check = check_profile(found, Profiler(task, found.choices.space).survey)
    file.write_text(render_profile(found, check, ABOUT), encoding="utf-8")
    return file


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desk", "phone"])
def page(browser: Browser, path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page in a wide light window and in a narrow dark one; afterwards nothing may have gone wrong in it."""
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    opened.wait_for_selector("#trade .scatterlayer .point")
    yield opened
    opened.close()
    assert problems == []
    assert [url for url in asked if not url.startswith(("file://", "data:", "blob:"))] == []


def test_map_has_a_panel_for_each_technique(page: Page, found: Profile) -> None:
    """Every step is a cell of its technique's panel, with the logarithm of its damage, and nothing overflows."""
    names = list(dict.fromkeys(r.technique for r in found.rows()))
    assert [t.split()[0] for t in page.locator(".panels h3").all_inner_texts()] == names
    for i, name in enumerate(names):
        rows = [r for r in found.rows() if r.technique == name]
        cells, low, high = page.evaluate(HEAT, i)
        drawn = [z for line in cells for z in line if z is not None]
        expected = [max(low, math.log10(r.damage)) if r.damage else low for r in rows if not r.error]
        assert drawn == pytest.approx(expected)
        assert low <= min(drawn) <= max(drawn) <= high
    assert page.evaluate(OVERFLOW) <= 0


def test_hover_shows_the_exact_figures(page: Page, found: Profile) -> None:
    """Resting on a cell shows damage, bytes and MACs saved, and how the damage was predicted."""
    row = found.rows()[0]
    index = list(dict.fromkeys(r.technique for r in found.rows())).index(row.technique)
    page.locator(f"#map-{index}").scroll_into_view_if_needed()
    page.locator(f"#map-{index} .nsewdrag").hover(position={"x": 4, "y": 8})
    shown = page.locator(f"#map-{index} .hoverlayer .hovertext").first
    expect(shown).to_contain_text(row.site)
    expect(shown).to_contain_text(f"saves {row.bytes_saved:,} B")
    expect(shown).to_contain_text(f"saves {row.macs_saved:,} MACs")
    expect(shown).to_contain_text(f"saves {row.bops_saved:,} bit operations")
    expect(shown).to_contain_text("Fisher information")


def test_a_cell_selects_its_site_in_the_chart(page: Page, found: Profile) -> None:
    """After a click the chart and the table hold that site's steps only; the technique can be narrowed too."""
    page.locator("#map-0 .nsewdrag").click(position={"x": 4, "y": 8})
    site = page.locator("#site").input_value()
    steps = [r for r in found.rows() if r.site == site]
    page.locator("#steps summary").click()
    expect(page.locator("#step-rows tr")).to_have_count(len(steps))
    page.select_option("#technique", "integer")
    expect(page.locator("#step-rows tr")).to_have_count(sum(r.technique == "integer" for r in steps))
    expect(page.locator("#step-rows tr").first).to_contain_text(f"{steps[-3].bytes_saved:,}")
    page.select_option("#saving", "macs")
    expect(page.locator("#left-out")).to_contain_text("save no MACs")
    page.select_option("#saving", "latency")
    expect(page.locator("#left-out")).to_contain_text("save no latency")


def test_times_of_layers_are_shown(page: Page, found: Profile) -> None:
    """With a latency table the chart, the table of steps and a card of their own say where the time goes."""
    faster = [r for r in found.rows() if r.latency_saved and r.latency_saved > 0]
    assert {r.technique for r in faster} == {"depth", "svd"}  # nobody timed the factors: MACs stand for that
    page.select_option("#saving", "latency")
    expect(page.locator("#trade .xtitle")).to_contain_text("latency saved, in % of the original’s")
    expect(page.locator("#trade .scatterlayer .point")).to_have_count(len(faster))
    page.locator("#steps summary").click()
    page.select_option("#technique", "depth")
    expect(page.locator("#step-rows tr").first).to_contain_text("20 %")
    expect(page.locator("section", has_text="Where the time goes").last).to_contain_text("25 %")
    assert page.evaluate(OVERFLOW) <= 0


def test_a_failing_step_is_marked_and_its_reason_is_text(page: Page, found: Profile) -> None:
    """A cross stands where a step can't be applied; markup in its message is shown, not run."""
    failed = next(r for r in found.rows() if r.error)
    page.select_option("#site", failed.site)
    page.locator("#steps summary").click()
    expect(page.locator("#step-rows")).to_contain_text("fails")
    index = list(dict.fromkeys(r.technique for r in found.rows())).index(failed.technique)
    cross = page.locator(f"#map-{index} .scatterlayer .point")
    expect(cross).to_have_count(1)
    cross.hover(force=True)
    expect(page.locator(f"#map-{index} .hoverlayer .hovertext").first).to_contain_text("<img src=x onerror")


def test_labels_do_not_run_into_each_other(page: Page) -> None:
    """Names of settings and sites stand apart at any width."""
    boxes = """([i, axis]) => [...document.querySelectorAll(`#map-${i} .${axis}tick`)].map((n) => {
        const b = n.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]; })"""
    for i in range(page.locator(".panels > div").count()):
        for axis, low, high in (("x", 0, 1), ("y", 2, 3)):
            found = sorted(page.evaluate(boxes, [i, axis]), key=lambda b: b[low])
            assert found
            assert all(a[high] <= b[low] + 1 for a, b in pairwise(found))


def test_prediction_is_explained_and_checked(page: Page) -> None:
    """A reader learns how damage was predicted and how well, without a script."""
    expect(page.locator("main")).to_contain_text(re.compile(r"rank correlation (0\.\d\d|1\.00)"))
    expect(page.locator("main")).to_contain_text("outputs compared with the original's")
    expect(page.locator("main")).to_contain_text("half the Fisher information of the weights")
