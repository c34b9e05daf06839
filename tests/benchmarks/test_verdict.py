"""How benchmarks end."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, imported as a benchmark does."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("verdict")


@pytest.mark.parametrize(
    ("value", "least", "most", "met"),
    [
        (2.0, 2.0, float("inf"), True),
        (1.999, 2.0, float("inf"), False),
        (0.02, -float("inf"), 0.02, True),
        (0.021, -float("inf"), 0.02, False),
        (float("nan"), 2.0, float("inf"), False),
        (float("nan"), -float("inf"), 2.0, False),
    ],
)
def test_a_bar_is_met_at_its_limit_and_never_by_nan(
    verdict: ModuleType, value: float, least: float, most: float, met: bool
) -> None:
    """A figure that reaches its bar exactly has met it; one that couldn't be computed has not."""
    assert verdict.Bar("x", value, least, most).met is met


def test_a_bar_without_a_limit_is_refused(verdict: ModuleType) -> None:
    """A figure that nothing is asked of can't pass as a bar that was met."""
    with pytest.raises(ValueError, match="'x' needs least or most"):
        verdict.Bar("x", 1.0)


def test_one_missed_bar_fails_the_benchmark_and_says_why(
    verdict: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, the table says which bar was missed over which runs, the reason stands below it, and the
    file holds bars and figures.
    """
    file = tmp_path / "figures.json"
    options = verdict.arguments("Doc.", quick="less").parse_args(["--json", str(file)])
    bars = [
        verdict.Bar("saved", 1.5, least=2.0, over=[1.25, 1.5, 1.75], why="because of this"),
        verdict.Bar("wrong", 0.0, most=0.02, form=".1%", why="not to be seen"),
    ]
    assert verdict.conclude(bars, options, {"seconds": 3.25, "runs": [1, 2]}) == 1
    text = capsys.readouterr().out
    assert "1.5 (1.25 to 1.75)" in text
    assert "MISSED" in text
    assert "saved: because of this" in text
    assert "<= 2.0%" in text
    assert "not to be seen" not in text
    found = json.loads(file.read_text())
    assert found["figures"] == {"seconds": 3.25, "runs": [1, 2]}
    assert [bar["met"] for bar in found["bars"]] == [False, True]
    assert found["quick"] is False


def test_all_bars_met_ends_with_zero(verdict: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """A benchmark that meets its bars exits with 0, and a quick one says that it was quick."""
    options = verdict.arguments("Doc.", quick="less").parse_args(["--quick"])
    assert verdict.conclude([verdict.Bar("x", 1.0, most=1.0)], options) == 0
    assert "--quick" in capsys.readouterr().out


def test_a_benchmark_without_bars_is_refused(verdict: ModuleType) -> None:
    """Nothing that was never judged can succeed."""
    options = verdict.arguments("Doc.", quick="less").parse_args([])
    with pytest.raises(ValueError, match="at least one bar"):
        verdict.conclude([], options)


def test_parts_are_named_or_all(verdict: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """A part that there isn't is refused with those that there are, before hours of others."""
    parser = verdict.arguments("Doc.", quick="less", parts=["a", "b"])
    assert parser.parse_args([]).parts == ["a", "b"]
    assert parser.parse_args(["--parts", "b"]).parts == ["b"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--parts", "b,c"])
    assert "there is no c, but a, b" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "width"), [(None, 140), ("90", 90)])
def test_tables_in_a_file_are_wide_enough_to_be_read(
    verdict: ModuleType, monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int
) -> None:
    """Where no terminal says how wide it is, figures aren't cut off at 80 characters; who names a width gets it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert verdict.terminal().width == width
