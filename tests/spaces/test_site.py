"""Sites: finding them by globs, and telling what lies inside a block."""

from __future__ import annotations

import json

import pytest

from paretopress.spaces.errors import SettingError
from paretopress.spaces.site import MODEL, Site, Slice, matches, select

SITES = (
    Site("stem", "conv2d", ("stem",)),
    Site("layer1.0.conv1", "conv2d", ("layer1.0.conv1",)),
    Site("layer1.0.conv2", "conv2d", ("layer1.0.conv2",)),
    Site("layer10.conv", "conv2d", ("layer10.conv",)),
    Site("group:stem", "group", ("stem", "layer1.0.conv2")),
    Site("block:layer1.0", "block", ("layer1.0", "layer1.0.conv1", "layer1.0.conv2")),
    Site("tied", "linear", ("encoder.embed", "decoder.out")),
    Site(MODEL, "model", ("",)),
)
BY_NAME = {site.name: site for site in SITES}


def names(*patterns: str) -> list[str]:
    """Return the names of the selected sites."""
    return [site.name for site in select(SITES, patterns)]


def test_glob_matches_names_and_member_paths() -> None:
    """A user may name a site by its own name or by the path of any layer in it."""
    assert names("layer1.*") == ["layer1.0.conv1", "layer1.0.conv2", "group:stem", "block:layer1.0"]
    assert names("group:*") == ["group:stem"]
    assert names("decoder.out") == ["tied"]
    assert matches(BY_NAME["tied"], "encoder.*")
    assert not matches(BY_NAME["stem"], "Stem")


def test_exclamation_mark_takes_away() -> None:
    """Patterns apply from left to right, and those with ``!`` take away."""
    assert names("layer1*", "!layer1.0.conv2") == ["layer1.0.conv1", "layer10.conv"]
    assert names("stem", "!stem", "tied") == ["tied"]


def test_naming_a_layer_names_whatever_would_change_it() -> None:
    """A layer that a user protects is protected from removal with its block and its group as well."""
    assert names("layer1.0.conv2") == ["layer1.0.conv2", "group:stem", "block:layer1.0"]


def test_only_exclusions_start_from_everything() -> None:
    """``!x`` alone means all sites but x."""
    assert names("!stem") == [n for n in BY_NAME if n not in ("stem", "group:stem")]


def test_selection_keeps_the_order_of_the_model() -> None:
    """The order of the patterns doesn't change the order of the sites, which seeds and digests depend on."""
    assert names("tied", "stem") == ["stem", "group:stem", "tied"]
    assert names("*") == list(BY_NAME)


@pytest.mark.parametrize("pattern", ["layer2.*", "!layer2.*"])
def test_pattern_that_matches_nothing_names_the_nearest_site(pattern: str) -> None:
    """A misspelt layer is an error that suggests the right one, whether it is added or taken away."""
    with pytest.raises(SettingError, match=r"exclude = '!?layer2.*matches no layer.*Did you mean"):
        select(SITES, [pattern], "exclude")


def test_inside_compares_paths_by_component() -> None:
    """``layer10`` isn't inside block ``layer1``, and a group that reaches outside isn't either."""
    block = Site("block:layer1", "block", ("layer1",))
    assert BY_NAME["layer1.0.conv1"].inside(block)
    assert BY_NAME["block:layer1.0"].inside(block)
    assert block.inside(block)
    assert not BY_NAME["layer10.conv"].inside(block)
    assert not BY_NAME["group:stem"].inside(block)
    assert not BY_NAME[MODEL].inside(block)
    assert not block.inside(BY_NAME["block:layer1.0"])


def test_site_without_members_is_inside_nothing() -> None:
    """Removing a block never takes away a site that has no layer in it."""
    empty = Site("empty", "group", ())
    assert not empty.inside(BY_NAME["block:layer1.0"])
    assert not BY_NAME["stem"].inside(empty)


def test_json_round_trip_restores_every_field() -> None:
    """A saved space needs its sites back exactly, nested tuples included."""
    site = Site(
        "group:a",
        "group",
        ("a", "b"),
        ("a.weight",),
        (8,),
        123,
        456,
        (Slice("a", "out", ((0,), (1,))), Slice("b", "in", ((0, 1), (2, 3)))),
        (3, 3),
    )
    again = Site.from_json(json.loads(json.dumps(site.to_json())))
    assert again == site
    assert hash(again) == hash(site)
