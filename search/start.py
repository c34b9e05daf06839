"""The recipes that a search starts with: the same technique everywhere, at a few strengths.

They make a front of ten trials already, and they are what a person would have tried first.
"""

from __future__ import annotations

from ..spaces.catalogue import technique
from ..spaces.recipe import Recipe
from ..spaces.space import Space
from ..spaces.stage import Stage

#: Strength (0 gentlest, 1 strongest) of each stage in each starting recipe; a stage that isn't named is left out.
_DESIGNS: tuple[dict[Stage, float], ...] = (
    {Stage.NUMERIC: 0.0, Stage.CONTAINER: 0.0},
    {Stage.NUMERIC: 0.6, Stage.CONTAINER: 0.0, Stage.RECOVERY: 0.5},
    {Stage.STRUCTURE: 0.4, Stage.NUMERIC: 0.0, Stage.CONTAINER: 0.0, Stage.RECOVERY: 0.5},
    {Stage.MASK: 0.6, Stage.NUMERIC: 0.6, Stage.CONTAINER: 0.0, Stage.RECOVERY: 0.5},
    {Stage.STRUCTURE: 0.6, Stage.NUMERIC: 0.6, Stage.CONTAINER: 0.0, Stage.RECOVERY: 1.0},
    {Stage.OPERATOR: 0.4, Stage.NUMERIC: 0.0, Stage.CONTAINER: 0.0, Stage.RECOVERY: 0.5},
    {Stage.NUMERIC: 0.4, Stage.CONTAINER: 0.0},
    {Stage.STRUCTURE: 0.2, Stage.CONTAINER: 0.0, Stage.RECOVERY: 0.5},
    {Stage.STRUCTURE: 0.4, Stage.MASK: 0.6, Stage.NUMERIC: 0.6, Stage.CONTAINER: 0.0, Stage.RECOVERY: 1.0},
    {Stage.NUMERIC: 0.8, Stage.CONTAINER: 0.0, Stage.RECOVERY: 1.0},
)


def starting_recipes(space: Space) -> list[Recipe]:
    """Return up to ten different recipes of the space, none of them the baseline."""
    stages = {name: technique(name).stage for name in space.techniques}
    found: dict[str, Recipe] = {}
    for design in _DESIGNS:
        # After a mask, shared values suit the zeros better than an integer grid: prefer the second numeric technique.
        order = sorted(stages, key=lambda n: (stages[n], Stage.MASK in design and n != "codebook"))
        recipe = space.uniform(0.0, {n: design[stages[n]] for n in order if stages[n] in design})
        if not recipe.is_baseline:
            found.setdefault(recipe.digest, recipe)
    return list(found.values())
