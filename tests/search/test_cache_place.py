"""A cache that can't be used is said, not found out by waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.search.cache_place import cache_kept, cache_problem


def test_a_place_that_can_not_hold_the_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, the path, the reason and what to do are in the sentence."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PARETOPRESS_CACHE", str(tmp_path / "file" / "cache"))
    problem = cache_problem()
    for words in ("PARETOPRESS_CACHE = ", str(tmp_path / "file"), "Not a directory", "a folder that you may write to"):
        assert words in problem
    assert not cache_kept()


def test_a_place_that_can_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is made where there is none, and a cache that is switched off is what was wanted."""
    monkeypatch.setenv("PARETOPRESS_CACHE", str(tmp_path / "new" / "cache"))
    assert cache_problem() == ""
    assert cache_kept()
    monkeypatch.setenv("PARETOPRESS_CACHE", "off")
    assert cache_problem() == ""
    assert not cache_kept()
