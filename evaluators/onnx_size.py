"""Size of the deployed file."""

from __future__ import annotations

from typing import ClassVar

from .base import Direction, Evaluator, Measurement, Subject, register


class OnnxSize(Evaluator):
    """Length of the ONNX file: what a device downloads, where that isn't the model's own file.

    It holds the same numbers in the same bits, but not entropy coded, and its graph: of small models it can be much
    larger than ``size``.
    """

    name = "onnx_size"
    unit = "B"
    direction: Direction = "minimize"
    cost: ClassVar[float] = 4.0
    anew = True
    summary: ClassVar[str] = "Length of the deployed ONNX file in bytes; its weights are packed, not entropy coded."

    @property
    def deployed(self) -> bool:
        """It is the deployed file that is measured."""
        return True

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact length; raises ArtifactError if the model can't be exported."""
        return Measurement(float(len(subject.deployed())), self.unit)


register(OnnxSize())
