"""A profile as rows, and the rankings made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from paretopress.search import profile
from paretopress.search.profile_rows import Row, by_site, cheapest_savings, most_sensitive
from paretopress.search.sensitivity import Profile
from paretopress.spaces.knob import Scalar
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


def row(site: str, damage: float, saved: int = 100, technique: str = "integer", **params: Scalar) -> Row:
    """Return a row of one site."""
    return Row(site, technique, params, damage, "fisher", saved, 0, 0)


def layers(*names: str) -> Mapping[str, Site]:
    """Return linear layers of these names."""
    return {name: Site(name, "linear", (name,)) for name in names}


def test_every_step_has_a_row(task: Task, space: Space) -> None:
    """Rows hold each layer's settings once, in the model's order, and nothing that acts on the model as a whole."""
    found: Profile = profile(task, space, progress=False)
    rows = found.rows()
    settings = {"integer": ["bits=8", "bits=4", "bits=2"], "magnitude": ["density=0.6", "density=0.2"]}
    assert list(by_site(rows)) == [s for s in space.sites if any(d.site == s != MODEL for d in space.decisions)]
    for site in by_site(rows):
        for technique, starts in settings.items():
            taken = [r for r in rows if (r.site, r.technique) == (site, technique)]
            assert [start for start in starts if any(r.setting.startswith(start) for r in taken)] == starts
            assert all(r.damage >= 0 and r.method == "fisher" for r in taken)
    assert {r.technique for r in rows} == set(settings)
    place = space.decisions.index(next(d for d in space.decisions if d.site == "fc" and d.stage.name == "MASK"))
    last = next(r for r in rows if r.site == "fc" and r.setting == "density=0.2")
    assert (last.bytes_saved, last.macs_saved, last.bops_saved) == found.saved(place, 2)
    assert last.damage == found.damage[place][2]


def test_json_says_all_that_the_rows_say(task: Task, space: Space) -> None:
    """The JSON form is strict JSON, has the layers' own bytes and MACs, and as many rows."""
    found = profile(task, space, progress=False)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(data["rows"]) == len(found.rows())
    head = next(s for s in data["sites"] if s["name"] == "fc")
    assert head["macs"] == 128 * 10
    assert head["bytes"] == 4 * (128 * 10 + 10)
    assert data["macs"] >= sum(s["macs"] for s in data["sites"] if s["kind"] in ("conv2d", "linear"))


def test_a_step_that_fails_has_no_number_in_json() -> None:
    """Infinity isn't JSON: such a damage is null, and the reason stays."""
    failed = Row("a", "svd", {}, math.inf, "", 0, 0, 0, "ValueError: no")
    assert failed.to_json()["damage"] is None
    assert failed.to_json()["error"] == "ValueError: no"


def test_sensitive_layers_are_compared_on_the_same_steps() -> None:
    """A step that only one layer offers doesn't move its place."""
    rows = [row("a", 1.0, bits=4), row("b", 2.0, bits=4), row("a", 1e6, bits=2)]
    found = most_sensitive(rows, layers("a", "b"))
    assert [(s.site, s.damage, s.steps) for s in found] == [("b", 2.0, 1), ("a", 1.0, 1)]


def test_layers_without_a_shared_step_are_ranked_by_their_own() -> None:
    """There is a ranking even where no step is the same everywhere."""
    found = most_sensitive([row("a", 1.0, bits=4), row("b", 2.0, bits=2)], layers("a", "b"))
    assert [s.site for s in found] == ["b", "a"]


@given(
    st.lists(
        st.builds(row, st.sampled_from("abc"), st.sampled_from([0.0, 1e-9, 0.1, math.inf]), st.integers(-50, 10_000))
    )
)
def test_cheapest_savings_are_the_best_of_their_sites(rows: list[Row]) -> None:
    """Each site has at most one step, none of its others saves more per damage, and the list is in that order."""

    def worth(r: Row) -> float:
        return math.inf if r.damage == 0 else r.bytes_saved / r.damage

    found = cheapest_savings(rows)
    assert len({r.site for r in found}) == len(found)
    assert [worth(r) for r in found] == sorted(map(worth, found), reverse=True)
    useful = [r for r in rows if r.bytes_saved > 0 and r.damage < math.inf]
    assert {r.site for r in found} == {r.site for r in useful}
    assert all(worth(r) >= max(worth(o) for o in useful if o.site == r.site) for r in found)
