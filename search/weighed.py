"""Candidates whose expected gains were looked at closely, until something is learnt or the front changes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Genomes

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weighed:
    """Candidates that were weighed closely: genomes (n, decisions), foreseen points, and n of each of the rest."""

    genomes: Genomes
    points: Values
    lost: Values
    allowed: Values
    works: Values
    excess: Values
    counts: npt.NDArray[np.bool_]
    refused: npt.NDArray[np.bool_]

    def without(self, place: int) -> Weighed:
        """Return all but one."""
        return Weighed(*(np.delete(getattr(self, f.name), place, 0) for f in fields(self)))
