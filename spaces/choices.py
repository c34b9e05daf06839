"""A space as a table of whole numbers: for every decision, which of its settings is taken.

Samplers that reason about many recipes at once work on *genomes*: rows of one number a decision, 0 for none and
k for the decision's k-th setting (each option's settings in turn).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .decision import NONE, Decision, compatible
from .knob import Scalar
from .recipe import Recipe, Step
from .space import Space
from .stage import Stage

Genomes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """One technique with a value for each of its live parameters."""

    technique: str
    params: tuple[tuple[str, Scalar], ...] = ()

    def step(self, site: str) -> Step:
        """Return the step that applies it at a site."""
        return Step.of(site, self.technique, **dict(self.params))

    def __str__(self) -> str:
        return f"{self.technique}({', '.join(f'{k}={v}' for k, v in self.params)})"


class Choices:
    """The settings of every decision, and genomes <-> recipes.

    Parameters
    ----------
    space
        What may vary.
    alike
        Place of a decision -> (its count,) for each of its numbers one of those that give the same model; without an
        entry they all differ.

    Attributes
    ----------
    settings
        For each decision its settings; number k of a genome is ``settings[i][k - 1]``.
    counts
        (decisions,) how many numbers each decision may take, none included.
    """

    def __init__(self, space: Space, alike: Mapping[int, npt.NDArray[np.int64]] | None = None) -> None:
        self.space, self.alike = space, alike or {}
        self.decisions: tuple[Decision, ...] = space.decisions
        self.settings: tuple[tuple[Setting, ...], ...] = tuple(
            tuple(Setting(o.technique, tuple(params.items())) for o in d.options for params in o.settings())
            for d in self.decisions
        )
        self.counts = np.array([len(s) + 1 for s in self.settings], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.decisions)

    @cached_property
    def _index(self) -> dict[Step, tuple[int, int]]:
        """Where each step is: its decision and the number of its setting. A technique is at one decision of a site."""
        return {step: (i, k) for i, steps in enumerate(self._steps) for k, step in enumerate(steps, 1)}

    def recipe(self, genome: npt.NDArray[np.int64]) -> Recipe:
        """Return the recipe of a genome (decisions,) that `legal` returned."""
        chosen = np.flatnonzero(genome)
        return Recipe.of(self._steps[i][genome[i] - 1] for i in chosen.tolist())

    @cached_property
    def _steps(self) -> list[list[Step]]:
        return [[setting.step(d.site) for setting in settings] for d, settings in zip(self.decisions, self.settings)]

    def genome(self, recipe: Recipe) -> Genomes:
        """Return the genome (decisions,) of a recipe.

        Raises
        ------
        SettingError
            If the recipe isn't in the space.
        """
        genome = np.zeros(len(self), dtype=np.int64)
        for step in recipe.steps:
            found = self._index.get(step)
            if found is not None:
                genome[found[0]] = found[1]
        known = np.count_nonzero(genome) == len(recipe.steps)
        if not known or not np.array_equal(self.legal(genome[None])[0], genome):
            self.space.encode(recipe)  # says what is wrong
        return genome

    @cached_property
    def _at(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for i, decision in enumerate(self.decisions):
            places.setdefault(decision.site, []).append(i)
        return places

    def at(self, site: str) -> tuple[int, ...]:
        """Return the places of a site's decisions."""
        return tuple(self._at.get(site, ()))

    @cached_property
    def inside(self) -> tuple[tuple[int, npt.NDArray[np.int64]], ...]:
        """For each decision that removes a block: its place, and the places of the others at or inside that block."""
        found = []
        for i, decision in enumerate(self.decisions):
            if decision.stage is Stage.TOPOLOGY:
                block = self.space.sites[decision.site]
                here = [
                    j for j, other in enumerate(self.decisions) if j != i and self.space.sites[other.site].inside(block)
                ]
                found.append((i, np.array(here, dtype=np.int64)))
        return tuple(found)

    @cached_property
    def conflicts(self) -> tuple[tuple[int, int, npt.NDArray[np.bool_]], ...]:
        """Pairs of decisions at one site that hold settings which can't be stacked: places and (counts, counts)."""
        found = []
        for places in self._at.values():
            for a, i in enumerate(places):
                for j in places[a + 1 :]:
                    table = np.zeros((self.counts[i], self.counts[j]), dtype=bool)
                    first, second = self.decisions[i], self.decisions[j]
                    for k, setting in enumerate(self.settings[i], 1):
                        taken = [(first.stage, first.option(setting.technique))]
                        for m, other in enumerate(self.settings[j], 1):
                            table[k, m] = not compatible(second.stage, second.option(other.technique), taken)
                    if table.any():
                        found.append((i, j, table))
        return tuple(found)

    def legal(self, genomes: Genomes) -> Genomes:
        """Return genomes (n, decisions) without the settings that an earlier decision makes illegal or void.

        So every recipe has one genome.
        """
        rows = genomes.copy()
        for place, within in self.inside:
            removed = np.flatnonzero(rows[:, place])
            if len(removed):
                rows[removed[:, None], within] = 0
        for i, j, table in self.conflicts:
            rows[table[rows[:, i], rows[:, j]], j] = 0
        return rows

    def merged(self, genomes: Genomes) -> Genomes:
        """Return genomes (n, decisions) with one number for all that are alike: the same row is the same model."""
        places, first, table = self._tables
        rows = genomes.copy()
        rows[:, places] = table[first + rows[:, places]]
        return rows

    @cached_property
    def _tables(self) -> tuple[Genomes, Genomes, Genomes]:
        """Places with settings that are alike, where the numbers of each begin in a table, and the table."""
        tables = [np.zeros(0, dtype=np.int64), *self.alike.values()]
        ends = np.cumsum([len(table) for table in tables])
        return np.array(list(self.alike), dtype=np.int64), ends[:-1], np.concatenate(tables)

    def flat(self, genome: Genomes) -> dict[str, Scalar]:
        """Return the point of the space's flat box that a genome stands for; parameters without effect are left out."""
        values: dict[str, Scalar] = {}
        for decision, settings, number in zip(self.decisions, self.settings, genome.tolist()):
            values[decision.name] = NONE
            if number:
                setting = settings[number - 1]
                option = decision.option(setting.technique)
                values[decision.name] = setting.technique
                values |= {decision.dimension(option, name): value for name, value in setting.params}
        return values
