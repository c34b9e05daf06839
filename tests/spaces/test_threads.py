"""Threads for a while."""

from __future__ import annotations

import pytest
import torch

from paretopress.spaces.threads import threaded


def test_the_number_of_threads_is_given_back() -> None:
    """Whatever happens inside, a user's torch computes afterwards as it did before."""
    before = torch.get_num_threads()
    seen = []

    def fail() -> None:
        with threaded(before + 1):
            seen.append(torch.get_num_threads())
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
