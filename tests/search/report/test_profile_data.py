"""The page of a sensitivity profile: complete, safe with any text, and calm with steps that fail."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from paretopress.search import profile
from paretopress.search.effects import Effect
from paretopress.search.latency_table import LatencyTable
from paretopress.search.profile_check import Check, check_profile
from paretopress.search.report.profile_data import damage, render_profile, write_profile
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
ABOUT = {"name": "small", "command": "paretopress profile small.yaml", "version": "1.2.3"}


@pytest.fixture(scope="module")
def found(task: Task, space: Space) -> Profile:
    """The small network's profile."""
    return profile(task, space, progress=False)


@pytest.fixture(scope="module")
def check(task: Task, space: Space, found: Profile) -> Check:
    """How good it is."""
    return check_profile(found, Profiler(task, space).survey)


def client(page: str) -> dict[str, list[dict[str, object]]]:
    """Return what the page's script gets."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return] # JSON has no type


def test_page_holds_every_step(found: Profile, check: Check) -> None:
    """The page's script gets all rows, and the text says how they were predicted and how well."""
    page = render_profile(found, check, ABOUT)
    data = client(page)
    assert len(data["rows"]) == len(found.rows())
    assert [t["name"] for t in data["techniques"]] == list(dict.fromkeys(r.technique for r in found.rows()))
    assert "half the Fisher information of the weights" in page
    assert f"rank correlation {check.correlation:.2f}" in page
    assert "paretopress profile small.yaml" in page
    for address in re.findall(r'(?:src|href)="([^"]*)"', page.split('<script type="application/json"')[0]):
        assert address.startswith(("#", "data:"))


def test_page_says_where_the_time_goes(found: Profile, check: Check) -> None:
    """With a latency table every row has what it saves, and the page how good that is; without it, neither."""
    table = LatencyTable(
        "latency",
        "ONNX Runtime, batch 1, 1 thread",
        1.5,
        {"fc": 0.5, "": 0.1, EVIL: 0.2},
        checked=((0.9, 1.0), (0.5, 0.5)),
    )
    page = render_profile(replace(found, latency=table), check, ABOUT)
    assert {row["latency"] for row in client(page)["rows"]} == {0.0}
    assert "Where the time goes" in page
    assert "its prediction was off by 5 % (median of 2 recipes)" in page
    assert '<option value="latency">' in page
    assert "the model itself" in page
    assert "<img src=x" not in page
    plain = render_profile(found, check, ABOUT)
    assert {row["latency"] for row in client(plain)["rows"]} == {None}
    assert "Where the time goes" not in plain
    assert '<option value="latency">' not in plain
    unchecked = render_profile(replace(found, latency=replace(table, checked=())), None, ABOUT)
    assert "its prediction was not checked" in unchecked


def test_texts_are_escaped(found: Profile, check: Check) -> None:
    """A name or an error with markup in it stays text."""
    effects = tuple(tuple(Effect(error=EVIL) for _ in e) for e in found.effects)
    page = render_profile(replace(found, effects=effects), None, ABOUT | {"name": EVIL})
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "It was not checked" in page
    assert all(row["damage"] is None for row in client(page)["rows"])
    assert "can’t be applied" in page


def test_files_are_written_beside_what_is_there(found: Profile, check: Check, tmp_path: Path) -> None:
    """The folder is made, and other files in it stay."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.jsonl").write_text("mine")
    page = write_profile(found, check, "small", "command", tmp_path / "run")
    data = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert page == tmp_path / "run" / "profile.html"
    assert data["check"]["median_ratio"] == check.ratio
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["journal.jsonl", "profile.html", "profile.json"]
    assert (tmp_path / "run" / "journal.jsonl").read_text() == "mine"
    assert write_profile(found, None, "small", "command", tmp_path / "new" / "run").exists()


def test_damages_are_short() -> None:
    """Three digits, and a dash for what has none."""
    assert [damage(x) for x in (0.0123456, 1.5e-7, 0, math.inf, None)] == ["0.0123", "1.5e-7", "0", "–", "–"]
