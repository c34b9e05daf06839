"""The map of choices: which technique where."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretopress.search.report.choices import abbreviations, describe, kept, matrix


def step(technique: str, **params: Any) -> dict[str, Any]:
    """Return one step of a recipe as JSON has it."""
    return {"technique": technique, "params": params}


def test_kept_share_is_the_product_of_what_each_step_leaves() -> None:
    """Half the channels, a quarter of the weights at 8 bits leave 1/32 of the bits."""
    steps = [step("channels", ratio=0.5, criterion="l2"), step("magnitude", density=0.25), step("integer", bits=8)]
    assert kept(steps) == pytest.approx(0.5 * 0.25 * 8 / 32)
    assert kept([step("entropy")]) is None


def test_matrix_keeps_the_order_of_the_model_and_hides_idle_sites() -> None:
    """Rows follow the model; a site that no point changes is counted, not shown; an unknown site isn't lost."""
    sites = [{"name": n, "kind": "linear"} for n in ("first", "idle", "last")]
    points = [
        {"layers": {"last": [step("integer", bits=4)], "<model>": [step("entropy")]}},
        {"layers": {"first": [step("magnitude", density=0.3), step("integer", bits=2)]}},
    ]
    found = matrix(sites, points)
    assert [r["site"] for r in found["rows"]] == ["first", "last", "<model>"]
    assert found["idle"] == 1
    assert found["knobs"] == ["integer.bits", "magnitude.density"]
    assert found["rows"][0]["cells"][0] is None
    assert found["rows"][0]["cells"][1]["lines"] == ["mag 30\N{NO-BREAK SPACE}%", "int 2"]
    assert found["rows"][1]["cells"][0]["knobs"] == {"integer.bits": 4.0}


@given(st.sets(st.text("abc", min_size=1, max_size=6), max_size=12))
def test_abbreviations_tell_techniques_apart(names: set[str]) -> None:
    """Two techniques never share a short name unless one is the beginning of the other's whole name."""
    short = abbreviations(names)
    for name, brief in short.items():
        assert name.startswith(brief)
        others = [o for o in names if o != name and o.startswith(brief)]
        assert not others or brief == name


def test_step_reads_as_a_sentence_part() -> None:
    """Only shares of a layer read as per cent; a learning rate stays a number."""
    text = describe(step("distillation", learning_rate=0.01, steps=50, hints=True))
    assert text == "distillation (learning rate 0.01, steps 50, hints on)"
    assert describe(step("svd", fraction=0.5)) == "svd (fraction 50\N{NO-BREAK SPACE}%)"
