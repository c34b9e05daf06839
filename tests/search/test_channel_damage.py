"""What the removal of channels is predicted to do, beside what it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from paretopress.search.effects import Survey
from paretopress.search.fisher import measure_fisher
from paretopress.spaces.choices import Setting
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task


@pytest.mark.parametrize(("sign", "times"), [(1.0, 4.0), (-1.0, 2.0)], ids=["together", "against"])
def test_channels_that_go_together_pull_together(sign: float, times: float) -> None:
    """Two equal channels do four times the damage of one; two that cancel out do theirs, not none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        for parameter in (model[0].weight, model[0].bias):
            parameter[1] = parameter[0]
        model[2].weight[:, 1] = sign * model[2].weight[:, 0]
    examples = TensorDataset(torch.randn(64, 6), torch.randint(0, 3, (64,)))
    task = Task(model, DataLoader(examples, batch_size=64))
    [site] = [s for s in find_sites(task.model, task.example)[0] if s.kind == "group"]
    fisher = measure_fisher(task, [site])
    one, both = torch.tensor([True, False, False, False]), torch.tensor([True, True, False, False])
    assert fisher.without(site.name, one) > 0
    assert fisher.without(site.name, both) == pytest.approx(times * fisher.without(site.name, one), rel=1e-4)


def test_the_damage_of_removed_neurons_is_what_the_outputs_do() -> None:
    """Prediction and comparison agree over all widths of a trained network without batch norm."""
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    data = TensorDataset(x, (x @ torch.randn(8, 5) + 0.5 * torch.randn(512, 5)).argmax(1))
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(model(x), data.tensors[1]).backward()
        optimiser.step()
    task = Task(model, DataLoader(data, batch_size=64))
    sites = {s.name: s for s in find_sites(task.model, task.example)[0]}
    survey, fisher = Survey(task, sites, None), measure_fisher(task, sites.values())
    ratios = []
    for site in (s for s in sites.values() if s.kind == "group"):
        for ratio in (0.25, 0.5, 0.75):
            setting = Setting("channels", (("ratio", ratio), ("criterion", "l2"), ("round_to", 1)))
            predicted = survey.effect(site.name, setting, fisher)
            assert (predicted.method, predicted.error) == ("channels", "")
            ratios.append(survey.divergence(setting.step(site.name)) / predicted.damage)
    assert 0.7 < np.median(ratios) < 1.6
    assert 0.3 < min(ratios) <= max(ratios) < 2.5
