"""Size of the deployed file."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from paretopress.evaluators.base import Measurement, Subject
from paretopress.evaluators.onnx_size import OnnxSize
from paretopress.spaces.errors import ArtifactError
from paretopress.spaces.task import Task


def test_the_deployed_size_is_the_length_of_the_onnx_file() -> None:
    """It is what a device downloads, not the length of the model's own file."""
    task = Task(nn.Linear(2, 2), [(torch.randn(2, 2), torch.zeros(2, dtype=torch.long))])
    subject = Subject(task.model, task, task.validation, 1234, deploy=lambda: b"12345")
    assert OnnxSize().measure(subject) == Measurement(5.0, "B")
    with pytest.raises(ArtifactError, match="no ONNX file"):
        OnnxSize().measure(replace(subject, deploy=None))
