"""Size of the file."""

import pytest
import torch
from torch import nn

from paretopress.evaluators.base import Measurement, Subject
from paretopress.evaluators.size import Size
from paretopress.spaces.task import Task


def subject(file_bytes: int) -> Subject:
    """Return a model whose file has that many bytes."""
    task = Task(nn.Linear(2, 2), [(torch.randn(2, 2), torch.zeros(2, dtype=torch.long))])
    return Subject(task.model, task, task.validation, file_bytes)


def test_size_is_the_length_of_the_file() -> None:
    """The figure is what was written, exact and in bytes."""
    assert Size().measure(subject(1234)) == Measurement(1234.0, "B")


def test_a_model_without_a_file_has_no_size() -> None:
    """A missing file must fail the trial: zero bytes would win every search."""
    with pytest.raises(ValueError, match="file_bytes = 0"):
        Size().measure(subject(0))
