"""The sensitivity profile on a terminal."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from paretopress.search import profile
from paretopress.search.latency_table import LatencyTable
from paretopress.search.profile_table import (
    Shades,
    damage_text,
    narrowed,
    percent,
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


def printed(profile: Profile, technique: str | None, layers: str, width: int, coloured: bool = False) -> str:
    """Return what the terminal gets."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    sites = narrowed(profile.choices.space, technique, layers)
    for line in profile_lines(profile, technique, sites, width, coloured):
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
        ("entropy", "*", "is of the whole model, so it does nothing to one layer"),
        ("nm", "*", "not among this space's steps"),
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


def test_latency_has_a_line(found: Profile) -> None:
    """Where layers were timed, cells say what share of the time a step saves, and the legend says what that is."""
    effects = tuple(tuple(replace(e, work="other") for e in own) for own in found.effects)
    keys = {f"fc/{e.work}": {"fc": 0.5} for own in effects for e in own}
    timed = replace(
        found,
        effects=effects,
        latency=LatencyTable("latency", "ONNX Runtime, batch 1, 1 thread", 2.0, {"fc": 0.25}, keys),
    )
    text = printed(timed, "integer", "fc", 120)
    assert "12%" in text
    assert "time" in text
    assert "of the time in percent" in text
    assert "of the time in percent" not in printed(found, "integer", "fc", 100)


def test_colours_are_explained_where_there_are_any(found: Profile) -> None:
    """A log has none, and reads the words for something else."""
    assert "most harmful fifth" in printed(found, None, "fc", 200, coloured=True)
    assert "fifth" not in printed(found, None, "fc", 200)


def test_units_of_damage_are_said(found: Profile) -> None:
    """A change of outputs is not called a rise of the loss."""
    assert "predicted rise of the loss" in printed(found, None, "fc", 100)
    text = " ".join(printed(replace(found, classes=False, by_loss=False), None, "fc", 200).split())
    assert "predicted change of the outputs" in text
    assert "half the squared change, in units of the outputs' variance" in text
    assert "can't be evaluated on this data: all outputs count alike" in text


@given(st.floats(-100, 1))
def test_shares_fit_their_column(share: float) -> None:
    """Five characters hold what a step saves of the time; six what makes it ten times longer."""
    assert len(percent(share)) <= (5 if share > -10 else 7)


def test_shares_are_short() -> None:
    """Two digits, no minus before nothing, and a dash for what isn't known."""
    assert [percent(x) for x in (0.031, 0.42, -0.002, -0.0001, 0.0, None)] == ["3.1%", "42%", "-0.2%", "0%", "0%", "–"]


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
