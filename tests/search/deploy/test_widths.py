"""Which numbers of channels kernels like is found by timing them."""

from __future__ import annotations

import pytest

from paretopress.search.deploy.widths import MULTIPLES, Widths, liked_widths, multiple_of


@pytest.mark.parametrize("multiple", [1, 4, 8, 16])
def test_padding_is_seen_in_the_times(multiple: int) -> None:
    """Kernels that pad to a multiple take as long for all widths below it; where none does, none is named."""
    seconds = {w: (-(-w // multiple) * multiple) ** 2.0 for w in range(33, 65)}
    assert multiple_of(seconds) == multiple


def test_waste_is_beyond_the_share_of_the_work() -> None:
    """A width of half the next multiple that takes as long as that wastes four times."""
    assert Widths(8, {4: 1.0, 8: 1.0}).waste == 4
    assert Widths(1, {4: 1.0, 8: 1.0}).waste == 1


def test_this_machine_has_an_answer() -> None:
    """It is measured for real, in a second."""
    found = liked_widths()
    assert found.multiple in (1, *MULTIPLES)
    assert all(seconds > 0 for seconds in found.seconds.values())
