"""Number of parameters."""

from __future__ import annotations

from typing import ClassVar

from .base import Direction, Evaluator, Measurement, Subject, register


class Parameters(Evaluator):
    """Weights that the model still has, as elements of its parameter tensors.

    A tensor shared by two modules counts once; buffers (batch-norm statistics) don't count. A weight that a
    mask has set to zero is still there: ``detail["nonzero"]`` tells how many are not zero.
    """

    name = "parameters"
    unit = "weights"
    direction: Direction = "minimize"
    cost: ClassVar[float] = 0.001
    summary: ClassVar[str] = "Number of weights that remain; a tensor shared by several modules counts once."

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact count."""
        total = nonzero = 0
        for parameter in subject.model.parameters():
            total += parameter.numel()
            nonzero += int(parameter.detach().count_nonzero())
        return Measurement(float(total), self.unit, detail={"nonzero": nonzero})


register(Parameters())
