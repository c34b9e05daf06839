"""The benchmarks' transformer: a small encoder on the digits, trained in some seconds."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from paretopress.search import Task
from paretopress.search.examples.digits import splits

TOKENS, WIDTH, HEADS, LAYERS, EPOCHS = 8, 64, 4, 3, 12


class Layer(nn.Module):
    """Attention and two linear layers, each after a norm and beside a shortcut (Vaswani et al., 2017,
    arXiv:1706.03762; norms first as in Xiong et al., 2020, arXiv:2002.04745).
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, tokens, width) of the same."""
        own = self.first(x)
        x = x + self.attention(own, own, own, need_weights=False)[0]
        out: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
        return out


class Encoder(nn.Module):
    """Eight tokens of eight pixels, three layers, and the mean of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(64 // TOKENS, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH))
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) of images (batch, 1, 8, 8)."""
        x = self.embed(x.reshape(-1, TOKENS, 64 // TOKENS)) + self.place
        out: Tensor = self.head(self.norm(self.layers(x)).mean(1))
        return out


@cache
def encoder() -> Task:
    """Return the trained encoder as a task."""
    torch.manual_seed(0)
    model, data = Encoder(), splits()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for images, labels in DataLoader(data["train"], 64, shuffle=True):
            optimiser.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimiser.step()
    return Task(
        model.eval(),
        validation=DataLoader(data["validation"], 100),
        test=DataLoader(data["test"], 100),
        train=DataLoader(data["train"], 64, shuffle=True),
        name="encoder",
    )
