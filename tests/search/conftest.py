"""A small real task that trains in a second, for the engine's tests."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from paretopress.search.examples.digits import splits
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


class Small(nn.Module):
    """Two convolutions and a linear layer on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.flatten(F.relu(self.conv2(x)), 1))


def trained() -> Small:
    """Return the network after three epochs of the digits."""
    torch.manual_seed(0)
    model = Small()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        for images, labels in DataLoader(splits()["train"], batch_size=64):
            optimiser.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimiser.step()
    return model.eval()


@pytest.fixture(scope="session")
def model() -> Small:
    """The trained network."""
    return trained()


@pytest.fixture(scope="session")
def task(model: Small) -> Task:
    """The digits for the small network: 200 images to search on, 200 to test on."""
    data = splits()
    part = {name: TensorDataset(*(t[:200] for t in data[name].tensors)) for name in ("validation", "test")}
    return Task(
        model,
        validation=DataLoader(part["validation"], batch_size=100),
        test=DataLoader(part["test"], batch_size=100),
        train=DataLoader(data["train"], batch_size=50),
        name="small",
    )


@pytest.fixture(scope="session")
def space(task: Task) -> Space:
    """Bits, density and coding of every layer, and a short recovery."""
    return Space.from_task(
        task,
        {
            "integer": {"bits": [8, 4, 2]},
            "magnitude": {"density": [0.6, 0.2]},
            "entropy": {},
            "distillation": {"steps": [5]},
        },
    )
