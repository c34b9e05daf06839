"""Stages: the order in which techniques stack on a layer."""

from __future__ import annotations

from paretopress.spaces.stage import Stage


def test_stages_run_in_the_order_that_stacking_needs() -> None:
    """Structure goes before operators, masks act on factors, rounding comes last, training follows all."""
    order = [stage.name for stage in sorted(Stage)]
    assert order == ["TOPOLOGY", "STRUCTURE", "OPERATOR", "MASK", "NUMERIC", "CONTAINER", "RECOVERY"]
