"""Decisions: which parameters are alive, how many settings there are, and what can stack on what."""

from __future__ import annotations

import pytest

from paretopress.spaces.decision import Decision, Option, combinations, compatible
from paretopress.spaces.errors import SettingError
from paretopress.spaces.knob import Knob
from paretopress.spaces.stage import Stage

INTEGER = Option(
    "integer",
    (
        Knob("bits", (8, 4)),
        Knob("granularity", ("channel", "group"), ordered=False),
        Knob("group", (128, 64, 32), when=("granularity", "group")),
    ),
)
BINARY = Option("binary", forbids=frozenset({"mask"}))
SPARSE = Option("sparse", (Knob("density", (0.5, 0.25)),))
HASHED = Option("hashed", forbids=frozenset({"sparse"}))


def test_settings_hold_live_parameters_only() -> None:
    """A parameter whose condition doesn't hold is absent, so that equal models have equal recipes."""
    settings = INTEGER.settings()
    assert len(settings) == INTEGER.size == 2 * (1 + 3)
    assert {"bits": 4, "granularity": "channel"} in settings
    assert {"bits": 8, "granularity": "group", "group": 32} in settings
    assert all(("group" in s) == (s["granularity"] == "group") for s in settings)


def test_live_fills_in_the_gentlest_and_drops_the_dead() -> None:
    """A partial setting is completed from the gentle end, and dead values are ignored."""
    assert INTEGER.live({}) == {"bits": 8, "granularity": "channel"}
    assert INTEGER.live({"bits": 4, "group": 32}) == {"bits": 4, "granularity": "channel"}
    assert INTEGER.live({"granularity": "group"}) == {"bits": 8, "granularity": "group", "group": 128}


def test_live_refuses_a_value_off_the_grid() -> None:
    """A live parameter's value must be one of its grid."""
    with pytest.raises(SettingError, match=r"bits = 5: must be one of \[8, 4\]"):
        INTEGER.live({"bits": 5})


def test_condition_must_look_back() -> None:
    """A condition on a later or unknown parameter would never hold: it is refused when it is written."""
    with pytest.raises(SettingError, match=r"t\.b.*must look at an earlier parameter"):
        Option("t", (Knob("b", (1, 2), when=("a", 1)), Knob("a", (1, 2))))


def test_parameters_have_different_names() -> None:
    """Two parameters of one name would overwrite each other in a recipe."""
    with pytest.raises(SettingError, match=r"t\.a.*name of two parameters"):
        Option("t", (Knob("a", (1, 2)), Knob("a", (3, 4))))


def test_unknown_choice_lists_what_is_offered() -> None:
    """A decision names itself and its choices, none included, when it is given another."""
    decision = Decision("conv1", Stage.NUMERIC, (INTEGER, BINARY))
    assert decision.option("binary") is BINARY
    with pytest.raises(SettingError, match=r"conv1/numeric = 'interger'.*'integer'.*none"):
        decision.option("interger")


@pytest.mark.parametrize(
    ("stage", "option", "taken", "legal"),
    [
        (Stage.NUMERIC, BINARY, [(Stage.MASK, SPARSE)], False),
        (Stage.MASK, SPARSE, [(Stage.NUMERIC, BINARY)], False),
        (Stage.MASK, SPARSE, [(Stage.OPERATOR, HASHED)], False),
        (Stage.OPERATOR, HASHED, [(Stage.MASK, SPARSE)], False),
        (Stage.NUMERIC, INTEGER, [(Stage.MASK, SPARSE)], True),
        (Stage.NUMERIC, BINARY, [(Stage.OPERATOR, HASHED)], True),
        (Stage.NUMERIC, BINARY, [], True),
    ],
)
def test_forbidding_works_in_both_directions(
    stage: Stage, option: Option, taken: list[tuple[Stage, Option]], legal: bool
) -> None:
    """It doesn't matter which of two techniques declares that they can't share a site, or how."""
    assert compatible(stage, option, taken) is legal


def test_combinations_leave_out_illegal_stacks() -> None:
    """Counting follows the same rules as stacking: binary never meets a mask."""
    mask, numeric = Decision("a", Stage.MASK, (SPARSE,)), Decision("a", Stage.NUMERIC, (INTEGER, BINARY))
    assert combinations([mask, numeric]) == (1 + 2) * (1 + 8) + 1
    assert combinations([]) == 1
