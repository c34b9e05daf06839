"""Size of the model's file."""

from __future__ import annotations

from typing import ClassVar

from .base import Direction, Evaluator, Measurement, Subject, register


class Size(Evaluator):
    """Length of the file that is shipped, everything in it: payload, scales, codebooks, tables, header."""

    name = "size"
    unit = "B"
    direction: Direction = "minimize"
    cost: ClassVar[float] = 0.0
    summary: ClassVar[str] = "Length of the model's file in bytes."

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact length.

        Raises
        ------
        ValueError
            If the model hasn't been written to a file.
        """
        if subject.file_bytes <= 0:
            raise ValueError(f"size: file_bytes = {subject.file_bytes}: write the model to a file before measuring it")
        return Measurement(float(subject.file_bytes), self.unit)


register(Size())
