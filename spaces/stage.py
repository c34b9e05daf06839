"""The order in which techniques stack on one layer."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """Where a technique acts. A recipe's steps run in this order; a site takes at most one of each stage.

    ``TOPOLOGY`` removes whole blocks, ``STRUCTURE`` removes coupled channels or heads, ``OPERATOR`` replaces
    a layer by another operator, ``MASK`` zeroes single weights, ``NUMERIC`` chooses the number format,
    ``CONTAINER`` how the numbers are coded in the file, and ``RECOVERY`` is training after all of them.
    """

    TOPOLOGY = 1
    STRUCTURE = 2
    OPERATOR = 3
    MASK = 4
    NUMERIC = 5
    CONTAINER = 6
    RECOVERY = 7
