"""Signs of life: work that takes long counts its steps, so that somebody outside can tell slow from stuck."""

from __future__ import annotations


class _Pulse:
    beats = 0


def beat() -> None:
    """Count a step of work: a batch, a training step, a phase of a trial."""
    _Pulse.beats += 1


def beats() -> int:
    """Return how many steps this process has counted."""
    return _Pulse.beats
