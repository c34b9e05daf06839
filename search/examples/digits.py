"""The built-in example: a small residual network on scikit-learn's handwritten digits (1,797 real images, 8x8).

The images ship with scikit-learn, so that the main job runs anywhere, without a download.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ...spaces.task import Task

EPOCHS = 15


class Block(nn.Module):
    """relu(x + f(x)) with two 3x3 convolutions (He et al., 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same shape."""
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class DigitsNet(nn.Module):
    """Stem, two residual blocks, a strided convolution, two more, and a linear classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.block1 = Block(width)
        self.block2 = Block(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn_down = nn.BatchNorm2d(2 * width)
        self.block3 = Block(2 * width)
        self.block4 = Block(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, 8, 8) -> (batch, 10) logits."""
        x = F.relu(self.bn(self.stem(x)))
        x = self.block2(self.block1(x))
        x = F.relu(self.bn_down(self.down(x)))
        x = self.block4(self.block3(x))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def splits() -> dict[str, TensorDataset]:
    """Return 997 training, 400 validation and 400 test images, always the same ones."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return {
        "train": TensorDataset(x[:997], y[:997]),
        "validation": TensorDataset(x[997:1397], y[997:1397]),
        "test": TensorDataset(x[1397:], y[1397:]),
    }


def _train(model: nn.Module, data: TensorDataset) -> None:
    batches = DataLoader(data, batch_size=64, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=EPOCHS * len(batches))
    model.train()
    for _ in range(EPOCHS):
        for images, labels in batches:
            optimiser.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimiser.step()
            schedule.step()
    model.eval()


def _cache() -> Path:
    """Return where the trained weights are kept; the name changes with this file's code and torch."""
    key = hashlib.sha256((inspect.getsource(sys.modules[__name__]) + torch.__version__).encode()).hexdigest()[:12]
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "paretopress" / f"digits-{key}.safetensors"


def trained_model() -> DigitsNet:
    """Return the network, trained in a few seconds the first time and read from the user's cache after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DigitsNet().eval()
        path = _cache()
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError):
            _train(model, splits()["train"])
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(f".{os.getpid()}")
                save_file(model.state_dict(), part)
                part.replace(path)
            except OSError:
                pass  # no cache: the next call trains again
    return model


def task() -> Task:
    """Return the digits task."""
    data = splits()
    return Task(
        trained_model(),
        validation=DataLoader(data["validation"], batch_size=200),
        test=DataLoader(data["test"], batch_size=200),
        train=DataLoader(data["train"], batch_size=64, shuffle=True, drop_last=True),
        calibration=DataLoader(data["train"], batch_size=200),
        name="digits",
        source="paretopress.search.examples.digits:task",
    )
