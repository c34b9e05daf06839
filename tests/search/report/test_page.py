"""The report page: safe with any text, complete without a network, calm with missing figures."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopress.search import report
from paretopress.search.report import render
from paretopress.spaces.errors import SettingError

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u2028{{ 7*7 }}<!--"
VOID = {"meta", "link", "input", "br", "img"}


class Read(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def data(self) -> Any:
        """What the page's own script gets."""
        return json.loads(self.scripts[0])

    @property
    def text(self) -> str:
        """What a reader reads, with single spaces."""
        return re.sub(r"\s+", " ", "".join(self.words))


def measured(accuracy: float, size: float, **more: Any) -> dict[str, Any]:
    """Return one side (search or final) of a point."""
    return {
        "accuracy": {"value": accuracy, "unit": "", "interval": [accuracy - 0.01, accuracy + 0.01]},
        "size": {"value": size, "unit": "B"},
        **more,
    }


def run(text: str = "plain") -> dict[str, Any]:
    """Return a run in which every free text is ``text``."""
    latency = {"value": 0.8, "unit": "x baseline", "interval": [0.7, 0.9], "detail": {"noisy": True, "runtime": text}}
    macs = {"value": 2e6, "unit": "MACs", "detail": {"uncounted": {text: 1}}}
    point = {
        "id": 1,
        "trial": 4,
        "digest": text,
        "path": text,
        "pick": text,
        "flags": [text],
        "search": measured(0.97, 20_000),
        "final": measured(0.96, 20_000, latency=latency, macs=macs),
        "ratios": {"size": {"compression": 5.0, "saving": 0.8}, "latency": {"speedup": 1.25}},
        "layers": {text: [{"technique": text, "params": {text: text, "bits": 4}}]},
    }
    return {
        "name": text,
        "created": text,
        "version": text,
        "objectives": [
            {"name": "accuracy", "direction": "maximize", "unit": ""},
            {"name": "size", "direction": "minimize", "unit": "B"},
        ],
        "quality": "accuracy",
        "quality_direction": "maximize",
        "split": "test",
        "baseline": {"search": measured(0.98, 100_000), "final": measured(0.975, 100_000)},
        "points": [point],
        "trials": [
            {"number": 0, "origin": text, "status": "ok", "values": {"accuracy": 0.9, "size": 30_000}, "front": False},
            {"number": 1, "origin": text, "status": "failed", "error": text, "values": {}},
            {"number": 2, "origin": text, "status": "failed", "error": text, "values": {}},
        ],
        "hypervolume": [[1, 0.2], [2, 0.3]],
        "sites": [{"name": text, "kind": text, "shape": [2, 2], "macs": 4, "bytes": 16}],
        "reproduce": {"command": text, text: text, "versions": {text: text}},
        "notes": [text],
    }


def test_stopped_trials_are_counted_apart_and_marked() -> None:
    """A trial that was stopped early is no failure: its estimate is shown, and called one."""
    data = run()
    values = {"accuracy": 0.4, "size": 9_000}
    data["trials"].append({"number": 3, "origin": "tpe", "status": "stopped", "error": "slow", "values": values})
    page = Read(render(data))
    assert "4 trials, 1 stopped early, 2 failed" in page.text
    assert [(t["number"], t["stopped"]) for t in page.data["trials"]] == [(0, False), (3, True)]
    assert [t["why"] for t in page.data["trials"]] == ["", "slow"]
    assert "slow" not in page.text


def test_text_from_outside_stays_text() -> None:
    """Layer names, errors and notes can't add markup or end the script that holds the data."""
    harmless, evil = Read(render(run())), Read(render(run(EVIL)))
    assert evil.tags == harmless.tags
    assert len(evil.scripts) == 3
    assert "img" not in evil.tags
    assert evil.data["name"] == EVIL
    assert evil.data["points"][0]["layers"][0]["site"] == EVIL
    assert EVIL in "".join(evil.words)


@settings(max_examples=20, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_any_unicode_arrives_unchanged(text: str) -> None:
    """Whatever a layer is called, the page keeps its structure and shows the name as it is."""
    page = render(run(text))
    page.encode("utf-8")
    assert Read(page).data["name"] == text


def test_lone_surrogates_do_not_stop_the_page_from_being_written() -> None:
    """A name that is no valid Unicode is shown with a replacement instead of failing when the file is saved."""
    assert "odd?name" in render(run("odd\ud800name")).encode("utf-8").decode()


def test_page_needs_nothing_from_anywhere() -> None:
    """It works from file:// without a network: nothing is loaded, and its policy allows only its own scripts."""
    page = Read(render(run()))
    addresses = [value for _, name, value in page.attributes if name in {"src", "href", "action", "srcset", "data"}]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert not re.search(r"@import|url\(", render(run()).split("<style>")[1].split("</style>")[0])
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and "default-src" in v)
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts[1:]}
    assert allowed == digests
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy


def test_library_is_the_one_its_notice_names() -> None:
    """The vendored charting library is byte for byte the released one that THIRD_PARTY.txt names."""
    folder = files(report.__name__)
    notice = folder.joinpath("THIRD_PARTY.txt").read_text(encoding="utf-8")
    library = folder.joinpath("plotly-cartesian.min.js").read_bytes()
    assert hashlib.sha256(library).hexdigest() in notice
    assert b"v4.1.1" in library[:200]
    assert "version 4.1.1" in notice


def test_least_data_still_gives_a_page() -> None:
    """A front of one point without intervals, ratios, trials or sites is a report too."""
    bare = {"accuracy": {"value": 0.9}, "size": {"value": 10}}
    data = {
        "name": "bare",
        "objectives": run()["objectives"],
        "quality": "accuracy",
        "baseline": {"final": bare},
        "points": [{"id": 1, "final": bare}],
    }
    page = Read(render(data))
    assert page.open == []
    assert "Point 1 is the smallest model within 1 % of the baseline’s accuracy" in page.text
    assert "No point changes any layer." in page.text
    assert "No hypervolume was recorded." in page.text


def test_empty_front_says_so() -> None:
    """A run in which nothing succeeded gets a page with its failures, not an error."""
    page = Read(render(run() | {"points": []}))
    assert "The search returned no compressed model." in page.text
    assert "plain" in page.text


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, None, np.float32("nan"), "?"])
def test_broken_figures_show_as_a_dash(broken: Any) -> None:
    """NaN, infinity or None in any figure gives valid JSON and a dash, never the word nan."""
    data = run()
    final = data["points"][0]["final"]
    final["size"] = {"value": broken, "unit": "B"}
    final["accuracy"]["interval"] = [broken, 0.99]
    final["latency"] = None
    data["points"][0]["ratios"] = {"size": {"compression": broken, "saving": broken}}
    data["trials"][0]["values"]["size"] = broken
    data["hypervolume"].append([3, broken if broken != "?" else None])
    page = Read(render(data))
    point = page.data["points"][0]
    assert point["final"]["size"]["value"] is None
    assert point["final"]["size"]["text"] == "–"
    assert point["final"]["accuracy"]["low"] is None
    assert point["ratios"] == {}
    assert page.data["trials"][0]["values"] == {"accuracy": 0.9}
    assert page.data["hypervolume"] == [[1, 0.2], [2, 0.3]]
    assert "nan" not in page.text.lower()


def test_numpy_scalars_are_numbers() -> None:
    """Figures straight from numpy are shown as numbers."""
    data = run()
    data["points"][0]["final"]["size"]["value"] = np.int64(20_000)
    assert Read(render(data)).data["points"][0]["final"]["size"]["text"] == "20.0\N{NO-BREAK SPACE}kB"


def test_six_objectives_and_two_hundred_points_fit() -> None:
    """The largest run still gives every point a row and every metric a column."""
    data = run()
    more = ["macs", "latency", "memory", "bops"]
    data["objectives"] += [{"name": n, "direction": "minimize", "unit": ""} for n in more]
    data["points"] = [data["points"][0] | {"id": i} for i in range(200)]
    page = Read(render(data))
    rows = [value for tag, name, value in page.attributes if tag == "tr" and name == "data-row"]
    sortable = [v for _, name, v in page.attributes if name == "data-sort" and v.startswith("final:")]
    assert rows == [str(i) for i in range(200)]
    assert sortable == [f"final:{n}" for n in ("accuracy", "size", *more)]


def test_reader_sees_both_splits_and_the_gain() -> None:
    """Final and search figure stand side by side, with interval, compression rate and saving."""
    text = Read(render(run())).text
    for expected in ("96.00 %", "95.0–97.0 %", "97.00 %", "5.00×, −80 %", "1.25× faster", "noisy"):
        assert expected in text


def test_report_on_validation_warns() -> None:
    """Without a test split the page says that its figures are optimistic, and doesn't invent a second column."""
    page = Read(render(run() | {"split": "validation"}))
    text = page.text
    assert "the accuracy shown is optimistic" in text
    assert not [v for tag, name, v in page.attributes if tag == "select" and v == "split"]
    assert "optimistic" not in Read(render(run())).text


@pytest.mark.parametrize("given_time", ["2026-03-14T15:09:26+00:00", "2026-03-14 15:09:26 UTC"])
def test_time_is_readable(given_time: str) -> None:
    """An ISO time loses its T, and nothing else."""
    text = Read(render(run() | {"created": given_time})).text
    assert given_time.replace("14T15", "14 15") in text


def test_sites_follow_the_model() -> None:
    """The choices of a point are listed in the model's order, whatever order the recipe keeps."""
    data = run()
    data["sites"] = [{"name": name} for name in ("stem", "a", "<model>")]
    step = [{"technique": "integer", "params": {"bits": 4}}]
    data["points"][0]["layers"] = {"<model>": step, "a": step, "stem": step, "own": step}
    point = Read(render(data)).data["points"][0]
    assert [entry["site"] for entry in point["layers"]] == ["stem", "a", "<model>", "own"]


def test_failures_are_grouped_by_reason() -> None:
    """Without a grouping of its own the page counts the trials' errors, the most frequent first."""
    data = run()
    data["trials"].append({"number": 3, "status": "failed", "error": "rare", "values": {}})
    text = Read(render(data)).text
    assert re.search(r"plain\s*2\s*rare\s*1", text)
    given_text = Read(render(data | {"failures": [{"reason": "memory", "count": 7}]})).text
    assert re.search(r"memory\s*7", given_text)


def test_missing_key_is_named() -> None:
    """Data that is no report fails with the names of what it lacks."""
    with pytest.raises(SettingError, match=r"baseline.*points"):
        render({"name": "x", "objectives": [], "quality": "accuracy"})


def test_limits_that_nothing_keeps_come_first() -> None:
    """Who opens the page reads before any other answer that no model keeps the limits, and by how much."""
    data = run() | {"infeasible": "No model that was tried keeps all limits. The nearest misses size <= 3 kB by 1 kB."}
    text = Read(render(data)).text
    assert 0 < text.index("No model that was tried keeps all limits") < text.index("you can give up")
    assert "No model that" not in Read(render(run())).text


def test_the_command_says_what_a_used_folder_needs() -> None:
    """A command that is copied must not end in a refusal that nobody explained."""
    data = run() | {"reproduce": {"command": "paretopress search d.yaml"}}
    assert "add --fresh" in Read(render(data)).text
    fresh = run() | {"reproduce": {"command": "paretopress search d.yaml --fresh"}}
    assert "add --fresh" not in Read(render(fresh)).text
