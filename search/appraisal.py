"""What a model of the front comes to in the end: read from its file, measured on data that no trial has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..evaluators.base import Evaluator, Measurement, Subject
from ..evaluators.onnx_session import Session
from .artifact import opened
from .trial import Bench

#: So many examples show whether a deployed file answers as its model does.
_EXAMPLES = 256


@dataclass(frozen=True)
class Unmeasured:
    """A figure that could not be taken.

    Attributes
    ----------
    reason
        One line.
    lost
        Whether it cost the worker that took it: it hung, say, or filled the memory. Trying that again may take long.
    """

    reason: str
    lost: bool = False


class Appraisal:
    """Takes figures of models one after the other; the last model stays open for the next figure.

    Parameters
    ----------
    bench
        Of the run.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._open: tuple[bytes, Subject] | None = None

    def measure(self, data: bytes, metric: Evaluator) -> Measurement | Unmeasured:
        """Measure the model that a file holds, on the test split where there is one, else on validation.

        Whatever goes wrong is returned; nothing is raised but interrupts.
        """
        try:
            with self._bench.threaded():
                return metric.measure(self._subject(data))
        except Exception as error:
            return Unmeasured((str(error).strip() or type(error).__name__).splitlines()[0][:200])

    def _subject(self, data: bytes) -> Subject:
        if self._open is None or self._open[0] != data:
            self._open = None  # two models at a time are not needed
            task = self._bench.task
            held = opened(data, task.model)
            subject = self._bench.subject(held.model, held.encodings)
            self._open = data, replace(subject, split=task.test or task.validation, file_bytes=len(data))
        return self._open[1]


class Parity(Evaluator):
    """How often a deployed file gives the model's own answer, on the first examples of the split."""

    name, unit, direction, cost = "parity", "", "maximize", 1.0
    summary = "Share of examples to which the deployed file gives the model's answer."

    def measure(self, subject: Subject) -> Measurement:
        """Return the share; 1 for a model whose outputs are no classes."""
        from .deploy.export import compared  # noqa: PLC0415 - the exporter takes seconds to import

        inputs = tuple(x[:_EXAMPLES] for x in subject.split.first()[0])
        parity = compared(subject.model, Session(subject.deployed()), inputs, True)
        share = 1.0 if parity.agreement is None else parity.agreement
        return Measurement(share, repeats=parity.examples)
