"""The benchmarks' real network: a ResNet-20 trained on CIFAR-10, where its folder is there; else the digits.

The folder holds ``resnet20.safetensors`` and ``cifar10_jpeg.npz`` and stands beside the repository, or is named by
``--data``. Images 0 to 44,999 trained the network, the next 2,500 are for validation, the last 2,500 for test.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from paretopress.search import Task
from paretopress.search.examples.digits import task as digits

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
TRAINED, VALIDATION, CALIBRATION = 45_000, 2_500, 256
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016, arXiv:1512.03385)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for (batch, before, height, width)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNet20(nn.Module):
    """Three stages of three blocks at 16, 32 and 64 channels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) of images (batch, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def images(data: Path, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Return images first to last - 1, normalised (n, 3, 32, 32), and their labels (n,)."""
    with np.load(data / "cifar10_jpeg.npz") as file:
        stream, offset, label = file["train_jpeg"], file["train_offset"], file["train_label"]
    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(stream[offset[i] : offset[i + 1]].tobytes()))) for i in range(first, last)]
    )
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(_MEAN)[:, None, None], torch.tensor(_STD)[:, None, None]
    return ((x - mean) / std).contiguous(), torch.from_numpy(label[first:last].astype(np.int64))


def batches(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the examples in batches of ``size``."""
    return list(zip(x.split(size), y.split(size)))


def resnet20(
    data: Path = DATA,
    validation: int = VALIDATION,
    train: int = 2_560,
    test: int = 0,
    calibration: int = CALIBRATION,
    skip: int = 0,
) -> Task:
    """Return the ResNet-20 as a task.

    Parameters
    ----------
    data
        The folder.
    validation, train, test, calibration
        How many images of each split; 0 leaves train or test out.
    skip
        So many images for validation are left out, and those after them taken.
    """
    model = ResNet20()
    model.load_state_dict(load_file(data / "resnet20.safetensors"), strict=False)
    first, end = TRAINED + skip, TRAINED + VALIDATION
    return Task(
        model,
        validation=batches(*images(data, first, first + validation), 50),
        test=batches(*images(data, end, end + test), 50) if test else None,
        train=batches(*images(data, 0, train), 32) if train else None,
        calibration=batches(*images(data, TRAINED - calibration, TRAINED), 64),
        name="resnet20",
    )


def load(data: Path = DATA, validation: int = VALIDATION, train: int = 2_560, calibration: int = CALIBRATION) -> Task:
    """Return the ResNet-20 where its folder is there, else the digits, which have their own splits."""
    if not (data / "resnet20.safetensors").is_file():
        return digits()
    return resnet20(data, validation, train, calibration=calibration)
