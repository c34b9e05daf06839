"""The sensitivity profile on a terminal."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from paretopress.search import profile
from paretopress.search.profile_table import (
    Shades,
    damage_text,
    narrowed,
    profile_lines,
    ranking_lines,
    short,
    shortened,
)
from paretopress.search.sensitivity import Profile
from paretopress.spaces.errors import SettingError
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


@pytest.fixture(scope="module")
def found(task: Task, space: Space) -> Profile:
    """The small network's profile."""
    return profile(task, space, progress=False)


def printed(profile: Profile, technique: str | None, layers: str, width: int) -> str:
    """Return what the terminal gets."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    sites = narrowed(profile.choices.space, technique, layers)
    for line in profile_lines(profile, technique, sites, width):
        console.print(line)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_every_site_and_technique_is_shown_whole(found: Profile, width: int) -> None:
    """Nothing is cut off at any width: what doesn't fit beside goes below."""
    text = printed(found, None, "*", width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for word in ("conv1", "conv2", "fc", "integer", "magnitude density", "most sensitive", "cheapest savings"):
        assert word in text
    strongest = next(r for r in found.rows() if (r.site, r.setting) == ("fc", "density=0.2"))
    assert damage_text(strongest.damage) in text
    assert short(strongest.bytes_saved) in text


def test_one_technique_shows_all_its_settings(found: Profile) -> None:
    """With a technique and a glob there is a column for each setting, and no other technique and layer."""
    text = printed(found, "integer", "conv*", 100)
    head = text.splitlines()[0]
    assert head.startswith("integer · bits")
    assert "magnitude" not in text
    assert "fc" not in text
    for r in found.rows():
        if r.technique == "integer" and r.site == "conv2":
            assert damage_text(r.damage) in text


@pytest.mark.parametrize(
    ("technique", "layers", "expected"),
    [
        ("integr", "*", "Did you mean 'integer'"),
        ("entropy", "*", "not among this space's steps"),
        (None, "cnov1", "Did you mean 'conv1'"),
        ("integer", "fcc", "Did you mean 'fc'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    space: Space, technique: str | None, layers: str, expected: str
) -> None:
    """A slip is answered with what was meant."""
    with pytest.raises(SettingError, match=expected):
        narrowed(space, technique, layers)


def test_colours_go_by_fifths(found: Profile) -> None:
    """The least harmful steps and the most harmful ones look different; nothing has a colour when nothing does harm."""
    rows = found.rows()
    shades = Shades.of(rows)
    damages = sorted(r.damage for r in rows)
    assert shades.colour(damages[0]) != shades.colour(damages[-1])
    assert len({shades.colour(d) for d in damages}) == 5
    assert Shades.of([]).colour(0) == Shades.of([]).colour(1)


def test_rankings_name_the_extremes(found: Profile) -> None:
    """The first line of the ranking is the layer with the largest median damage."""
    lines = [line.plain for line in ranking_lines(found, found.rows())]
    named = [line.split()[1] for line in lines[1:4]]
    assert sorted(named) == ["conv1", "conv2", "fc"]


@given(st.floats(0, 1e9))
def test_damages_fit_their_column(damage: float) -> None:
    """Five characters hold any damage to a tenth of its size, and read back as a number."""
    text = damage_text(damage)
    assert len(text) <= 6 if 0 < damage < 1e-99 else len(text) <= 5
    assert math.isclose(float(text), damage, rel_tol=0.5, abs_tol=1e-300)


@given(st.integers(-(10**14), 10**14))
def test_counts_fit_their_column(count: int) -> None:
    """So do five for a count, with its sign."""
    assert len(short(count)) <= 5


def test_long_names_keep_what_tells_them_apart() -> None:
    """Layers of a deep network differ in a number in the middle or in a word at the end: both stay."""
    blocks = [f"encoder_layers.{i}.{part}" for i in range(12) for part in ("convolution_first", "convolution_second")]
    short_ones = [shortened(name) for name in blocks]
    assert len(set(short_ones)) == len(blocks)
    assert all(len(text) <= 24 for text in short_ones)
    assert shortened("fc") == "fc"


@given(st.text(st.sampled_from("ab.:_"), max_size=80), st.integers(8, 40))
def test_shortened_names_fit(name: str, longest: int) -> None:
    """Whatever a path looks like, it fits; one that fits stays as it is."""
    text = shortened(name, longest)
    assert len(text) <= longest
    assert text == name or len(name) > longest
