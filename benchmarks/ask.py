"""What the default sampler takes to propose a recipe, on a deep network and after thousands of trials.

The network is a residual one of 110 layers (He et al., 2016), narrow enough for any machine: 222 sites, 447 decisions
with all techniques. Its profile is a real one, measured by the first run and kept in the user's cache. What is told is
made up, since only the cost of learning from it counts: the recipe's predicted costs, and an accuracy that falls with
the profile's damage, each setting's times a random factor, plus noise. All trials but the original are the sampler's
own, so the front that it weighs proposals against is one that it found.

Peers, in the same run and on the same space, one integer a decision: Optuna's NSGA-II (population 50) after as many
trials of its own, and its multivariate TPE after NSGA-II's trials.

Bars
----
accuracy and size
    An ask and a tell after 5,000 trials, mean of the next 300, learning included: below 20 ms.
accuracy, size and MACs
    The same with three objectives.

Also printed: median, 99th percentile and largest, the mean after fewer trials, and how many times as long peers take.

Run: ``python benchmarks/ask.py [--quick] [--json FILE]``; exits 1 when a bar is missed. The first full run takes the
profile's minutes longer. ``--quick`` offers fewer settings at the same sites, has two objectives only, and gives the
peers 500 trials.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
import torch.nn.functional as F
from optuna.distributions import IntDistribution
from optuna.samplers import NSGAIISampler, TPESampler
from resnet20 import Block
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from verdict import Bar, arguments, conclude, terminal

from paretopress.evaluators.base import Measurement
from paretopress.search import Space, Task
from paretopress.search.costs import CostModel
from paretopress.search.examples.digits import splits
from paretopress.search.profile_sampler import ProfileSampler
from paretopress.search.result import Objective, Result
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.choices import Choices
from paretopress.spaces.recipe import Recipe

MILLISECONDS, SITES, TRIALS = 20.0, 200, 5_000
MARKS = (30, 100, 300, 1_000)
#: Fewer settings of every technique.
FEW: dict[str, Any] = {
    "depth": {}, "channels": {"ratio": [0.5, 0.25], "criterion": "l2"}, "svd": {"fraction": [0.5, 0.25]},
    "magnitude": {"density": [0.5, 0.2]}, "integer": {"bits": [8, 6, 4, 2], "granularity": "channel"},
    "codebook": {"bits": [4, 2]}, "entropy": {}, "distillation": {},
}  # fmt: skip
ACCURACY = Objective("accuracy", "maximize", True)
SIZE, MACS = Objective("size", "minimize"), Objective("macs", "minimize")

NAMES = ("accuracy and size", "accuracy, size and MACs")

Genome = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    techniques: dict[str, Any] | None
    peers: int
    costs: tuple[tuple[Objective, ...], ...]


FULL, QUICK = Scale(None, TRIALS, ((SIZE,), (SIZE, MACS))), Scale(FEW, 500, ((SIZE,),))
#: Asks after the trials, whose mean counts.
PAIRS = 300


class ResNet(nn.Module):
    """Three stages at 8, 16 and 32 channels, for images (batch, 1, height, width).

    Parameters
    ----------
    blocks
        Of two layers, in each stage: 18 make ResNet-110.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        widths = [(8, 8, 16, 32)[stage + (number > 0)] for stage in range(3) for number in range(blocks)]
        ends = zip(widths, [*widths[1:], 32])
        self.blocks = nn.Sequential(*(Block(a, b, 1 + (a != b)) for a, b in ends))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10)."""
        return self.fc(self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def profile_of(techniques: dict[str, Any] | None, blocks: int = 18) -> Profile:
    """Return a network's profile, on the digits; its weights are random."""
    torch.manual_seed(0)
    data = {name: DataLoader(split, 200) for name, split in splits().items()}
    model = ResNet(blocks).eval()
    task = Task(model, **data, calibration=data["train"], name=f"resnet{6 * blocks + 2}")
    space = Space.from_task(task, techniques)
    parameters = sum(p.numel() for p in model.parameters())
    return Profiler(task, space).measure(4 * parameters)


class Trials:
    """What made-up trials give.

    Parameters
    ----------
    profile
        Of the space.
    """

    def __init__(self, profile: Profile) -> None:
        self.choices, self.costs = profile.choices, CostModel(profile)
        self.random = np.random.default_rng(0)
        known = np.concatenate(profile.damage)
        known = np.where(np.isfinite(known), known, 0.0)
        self.damage = known * np.exp(self.random.normal(0, 0.7, len(known)))
        half = self.choices.genome(self.choices.space.uniform(0.5))
        self.typical = float(self.damage[self.costs.offsets + half].sum())  # costs half of the accuracy

    def result(self, number: int, genome: Genome, recipe: Recipe) -> Result:
        """Return the trial of a genome (decisions,) and its recipe."""
        damage = float(self.damage[self.costs.offsets + genome].sum()) * np.exp(self.random.normal(0, 0.1))
        accuracy = 0.95 - 0.9 * damage / (damage + self.typical) + self.random.normal(0, 0.003)
        values = dict(zip(self.costs.metrics, self.costs.predict(genome[None])[0].tolist())) | {"accuracy": accuracy}
        return Result(number, recipe, {name: Measurement(value) for name, value in values.items()})

    def row(self, number: int, numbers: list[int]) -> tuple[float, float]:
        """Return error and size of the settings with these numbers."""
        genome = self.choices.legal(np.array([numbers], dtype=np.int64))[0]
        result = self.result(number, genome, Recipe())
        return 1 - result.value("accuracy"), result.value("size")


def ours(profile: Profile, costs: tuple[Objective, ...]) -> list[float]:
    """Return the milliseconds of every ask with its tell: `TRIALS`, and `PAIRS` more."""
    trials = Trials(profile)
    baseline = trials.result(0, np.zeros(len(profile.choices), dtype=np.int64), Recipe())
    sampler = ProfileSampler(profile, (ACCURACY, *costs), ACCURACY, baseline, (), 0)
    taken = []
    for number in range(TRIALS + PAIRS):
        start = time.perf_counter()
        proposal = sampler.ask()
        asked = time.perf_counter()
        result = trials.result(number, proposal.handle, proposal.recipe)
        measured = time.perf_counter()
        sampler.tell(proposal, result)
        taken.append(1000 * (asked - start + time.perf_counter() - measured))
    return taken


def peers(profile: Profile, count: int) -> dict[str, list[float]]:
    """Return the milliseconds of asks with their tells after so many trials: of NSGA-II's last 100, and of TPE."""
    trials, choices = Trials(profile), Choices(profile.choices.space)
    space = {d.name: IntDistribution(0, int(n) - 1) for d, n in zip(choices.decisions, choices.counts)}
    study = optuna.create_study(directions=["minimize"] * 2, sampler=NSGAIISampler(population_size=50, seed=0))

    def pair(number: int) -> float:
        start = time.perf_counter()
        trial = study.ask(space)
        asked = time.perf_counter()
        row = trials.row(number, [trial.params[name] for name in space])
        measured = time.perf_counter()
        study.tell(trial, row)
        return 1000 * (asked - start + time.perf_counter() - measured)

    taken = {"NSGA-II": [pair(number) for number in range(count + 100)][-100:]}
    study.sampler = TPESampler(multivariate=True, seed=0)
    taken["TPE multivariate"] = [pair(count + 100 + number) for number in range(5)]
    return taken


def described(taken: list[float]) -> dict[str, float]:
    """Return mean, median, 99th percentile and largest."""
    return {
        "mean": float(np.mean(taken)),
        "median": float(np.median(taken)),
        "p99": float(np.quantile(taken, 0.99)),
        "largest": max(taken),
    }


def main() -> int:
    """Run, print, judge."""
    options = arguments(__doc__, quick="fewer settings, two objectives, peers after 500 trials").parse_args()
    scale = QUICK if options.quick else FULL
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    profile = profile_of(scale.techniques)
    choices = profile.choices
    sites = len(choices.space.sites)
    taken = {NAMES[len(costs) - 1]: ours(profile, costs) for costs in scale.costs}
    table = Table("", "after trials", "mean, ms", "median", "99 %", "largest")

    def show(name: str, after: int, values: list[float]) -> None:
        table.add_row(name, f"{after:,}", *(f"{x:.1f}" for x in described(values).values()))

    for name, values in taken.items():
        for mark in MARKS:
            show(name, mark, values[mark - 20 : mark + 20])
        show(name, TRIALS, values[TRIALS:])
    others = peers(profile, scale.peers)
    for name, values in others.items():
        show(name, scale.peers + 100, values)
    console = terminal()
    console.print(f"{sites} sites, {len(choices)} decisions, {int(choices.counts.sum() - len(choices)):,} settings")
    console.print(table)
    means = {name: float(np.mean(values[TRIALS:])) for name, values in taken.items()}
    first = means[NAMES[0]]
    figures: dict[str, Any] = {f"{name} over ours": float(np.mean(v)) / first for name, v in others.items()}
    figures |= {
        "sites": sites,
        "decisions": len(choices),
        "taken": {n: described(v[TRIALS:]) for n, v in taken.items()},
    }
    figures |= {"peers": {n: described(v) for n, v in others.items()}, "peer trials": scale.peers}
    bars = [Bar(f"ask and tell, {n}, mean ms after {TRIALS:,} trials", m, most=MILLISECONDS) for n, m in means.items()]
    return conclude([*bars, Bar("sites", sites, least=SITES)], options, figures)


if __name__ == "__main__":
    sys.exit(main())
