"""The multiple-choice knapsack, as numbers: decisions that take one choice each, whose damage and costs add up.

Smaller is better everywhere. N decisions, K_i choices of decision i, T choices in all, M costs. `solver` solves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import moocore
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

#: A group may have so many legal joint choices before the dominated ones are dropped.
_LARGEST_GROUP = 1_000_000


@dataclass(frozen=True, eq=False)
class Flat:
    """All decisions' choices in one row; ``start`` (N,) says where each decision's begin.

    ``damage`` (T,), ``costs`` (M, T), ``fixed`` (M,), ``choice`` (T,) the number of a choice within its decision.
    """

    damage: Array
    costs: Array
    fixed: Array
    start: Ints
    choice: Ints

    @cached_property
    def owner(self) -> Ints:
        """(T,) the decision that each choice belongs to."""
        return np.repeat(np.arange(len(self.start)), np.diff(self.start, append=len(self.damage)))

    def least(self, values: Array) -> Array:
        """Return the (..., N) minima over each decision's choices of (..., T) values."""
        return np.asarray(np.minimum.reduceat(values, self.start, axis=-1))

    def best(self, *values: Array) -> Ints:
        """Return the (N,) columns with the least value; of ties the least next value, then the first."""
        mask = np.ones(len(self.damage), dtype=bool)
        for value in values:
            mask &= value == self.least(np.where(mask, value, np.inf))[self.owner]
        columns = np.where(mask, np.arange(len(mask)), len(mask))
        return np.asarray(np.minimum.reduceat(columns, self.start))

    def total(self, columns: Ints) -> Array:
        """Return the (M, ...) costs of (..., N) columns."""
        totals = np.take(self.costs, columns, axis=1).sum(axis=-1)
        return np.asarray(totals + self.fixed.reshape(-1, *[1] * (columns.ndim - 1)))

    def keep(self, columns: Ints) -> Flat:
        """Return it with these rising columns only, among which every decision has one or more."""
        start = np.searchsorted(self.owner[columns], np.arange(len(self.start)))
        damage, costs, choice = self.damage[columns], self.costs[:, columns], self.choice[columns]
        return Flat(damage, costs, self.fixed, start, choice)

    def useful(self) -> Flat:
        """Return it without dominated choices."""
        rows = np.column_stack([self.damage, *self.costs])
        parts = np.split(rows, self.start[1:])
        return self.keep(np.flatnonzero(np.concatenate([_nondominated(part) for part in parts])))


@dataclass(frozen=True, eq=False)
class Problem:
    """Decisions, of which each takes exactly one choice; damage and costs are sums over the decisions.

    Attributes
    ----------
    damage
        N arrays (K_i,): what each choice of decision i adds to the damage, in any unit, negative where it helps. A
        choice that is illegal is left out.
    costs
        By name N arrays (K_i,): what each choice adds to that cost, in its own unit.
    fixed
        By name what is added to a cost whatever is chosen; 0 if left out.

    Raises
    ------
    ValueError
        If there is no decision, a decision has no choice, shapes differ, a number is not finite or ``fixed`` names an
        unknown cost.
    """

    damage: Sequence[Array]
    costs: Mapping[str, Sequence[Array]]
    fixed: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.damage):
            raise ValueError("damage: needs one decision or more")
        _check_arrays("damage", self.damage, self.damage)
        for name, arrays in self.costs.items():
            _check_arrays(f"costs[{name!r}]", arrays, self.damage)
        if unknown := self.fixed.keys() - self.costs.keys():
            raise ValueError(f"fixed: unknown costs {sorted(unknown)}; known: {sorted(self.costs)}")
        if bad := [name for name, value in self.fixed.items() if not math.isfinite(value)]:
            raise ValueError(f"fixed[{bad[0]!r}]: must be finite")

    @cached_property
    def flat(self) -> Flat:
        """All choices in one row, in the order of the decisions and of ``costs``."""
        sizes = np.array([len(array) for array in self.damage])
        start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        damage = np.concatenate(self.damage).astype(float)
        costs = np.array([np.concatenate(arrays) for arrays in self.costs.values()], dtype=float)
        fixed = np.array([self.fixed.get(name, 0.0) for name in self.costs], dtype=float)
        return Flat(damage, costs.reshape(-1, len(damage)), fixed, start, np.arange(len(damage)) - start.repeat(sizes))

    def solutions(self, columns: Ints) -> list[Solution]:
        """Return the solutions of (P, N) columns, as optimal ones."""
        flat = self.flat
        damages, totals, choices = flat.damage[columns].sum(axis=-1), flat.total(columns), flat.choice[columns]
        return [
            Solution(choices[p], float(d), dict(zip(self.costs, totals[:, p].tolist())), float(d))
            for p, d in enumerate(damages)
        ]

    def evaluate(self, choices: Sequence[int] | Ints) -> Solution:
        """Return (N,) choices with their damage and costs; nothing is known of the ``bound``.

        Raises
        ------
        ValueError
            If the shape is not (N,) or a choice is out of its range.
        """
        numbers = np.asarray(choices, dtype=np.int64)
        sizes = np.array([len(array) for array in self.damage])
        if numbers.shape != sizes.shape or (numbers < 0).any() or (numbers >= sizes).any():
            raise ValueError(f"choices: needs one number for each of {len(sizes)} decisions, within its choices")
        return replace(self.solutions((self.flat.start + numbers)[None])[0], bound=-math.inf)


@dataclass(frozen=True, eq=False)
class Solution:
    """One choice for each decision.

    Attributes
    ----------
    choices
        (N,) the number of each decision's choice.
    damage
        Their sum.
    costs
        By name, ``fixed`` included.
    bound
        No choice that keeps the limits has less damage than this: ``damage`` where it is proven optimal, infinity where
        it is proven that nothing keeps the limits, less where the time was up.
    excess
        By name of a broken limit how far it is exceeded, as a share of the limit (of 1 if it is 0).
    """

    choices: Ints
    damage: float
    costs: dict[str, float]
    bound: float
    excess: dict[str, float] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether it keeps all limits."""
        return not self.excess

    @property
    def infeasible(self) -> bool:
        """Whether it is proven that no choice keeps all limits."""
        return self.bound == math.inf

    @property
    def gap(self) -> float:
        """How much more damage it has than the bound, 0 if optimal. Not meaningful where a limit is broken."""
        return max(0.0, self.damage - self.bound)


@dataclass(frozen=True, eq=False)
class Merged:
    """A problem whose groups of coupled decisions are one decision each.

    Attributes
    ----------
    problem
        First one decision for each group, in order, then the decisions that are in no group, in theirs.
    members
        For each of its decisions the original ones.
    joint
        For each of its decisions (choices, members): what each choice means for its members.
    """

    problem: Problem
    members: tuple[tuple[int, ...], ...]
    joint: tuple[Ints, ...]

    def split(self, choices: Sequence[int] | Ints) -> Ints:
        """Return the (N,) choices of the original decisions."""
        parts = np.concatenate([joint[choice] for joint, choice in zip(self.joint, choices)])
        original = np.empty_like(parts)
        original[np.concatenate(self.members)] = parts
        return original


def merge(
    problem: Problem,
    groups: Sequence[Sequence[int]],
    legal: Callable[[tuple[int, ...], tuple[int, ...]], bool],
) -> Merged:
    """Return the problem with each group of coupled decisions as one, whose choices are the legal joint ones.

    Joint choices that another one beats or equals in damage and in every cost are left out.

    Parameters
    ----------
    groups
        Disjoint groups of decisions, by number.
    legal
        Is asked about a group's first members and their choices, from two on to the whole group; false means that these
        can't go together, whatever the rest does.

    Raises
    ------
    ValueError
        If a decision is unknown or in two groups, or a group has no legal joint choice or too many.
    """
    flat, sizes = problem.flat, [len(array) for array in problem.damage]
    grouped = [i for group in groups for i in group]
    if len(set(grouped)) != len(grouped) or not set(grouped) <= set(range(len(sizes))) or not all(groups):
        raise ValueError(f"groups: must be disjoint, not empty, and of decisions 0 to {len(sizes) - 1}")
    members = [*map(tuple, groups), *((i,) for i in range(len(sizes)) if i not in set(grouped))]
    rows, joint = [], []
    for group in members:
        choices = _joint(group, [sizes[i] for i in group], legal)
        columns = flat.start[list(group)] + choices
        row = np.column_stack([flat.damage[columns].sum(axis=1), *np.take(flat.costs, columns, axis=1).sum(axis=2)])
        kept = _nondominated(row) if len(group) > 1 else np.ones(len(row), dtype=bool)
        rows.append(row[kept])
        joint.append(choices[kept])
    costs = {name: [row[:, number] for row in rows] for number, name in enumerate(problem.costs, 1)}
    return Merged(Problem([row[:, 0] for row in rows], costs, problem.fixed), tuple(members), tuple(joint))


def _joint(group: tuple[int, ...], sizes: Sequence[int], legal: Callable[..., bool]) -> Ints:
    """Return the (choices, members) legal combinations, member by member."""
    found: list[tuple[int, ...]] = [(choice,) for choice in range(sizes[0])]
    for count, size in enumerate(sizes[1:], 2):
        if len(found) * size > _LARGEST_GROUP:
            raise ValueError(f"groups: {group} has over {_LARGEST_GROUP} joint choices; offer its members fewer")
        wider = [(*one, choice) for one in found for choice in range(size)]
        found = [one for one in wider if legal(group[:count], one)]
    if not found:
        raise ValueError(f"groups: {group} has no legal joint choice")
    return np.array(found, dtype=np.int64)


def _nondominated(rows: Array) -> NDArray[np.bool_]:
    """Return (K,) whether no other of (K, M) rows is as good everywhere; of equal rows the first stays."""
    return np.asarray(moocore.is_nondominated(rows, maximise=False, keep_weakly=False), dtype=bool)


def _check_arrays(name: str, arrays: Sequence[Array], like: Sequence[Array]) -> None:
    if len(arrays) != len(like):
        raise ValueError(f"{name}: {len(arrays)} decisions, but damage has {len(like)}")
    for i, (array, other) in enumerate(zip(arrays, like)):
        if np.shape(array) != np.shape(other) or np.ndim(array) != 1 or not len(array):
            raise ValueError(f"{name}[{i}]: shape {np.shape(array)}, must be (K,), K > 0, as in damage")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}[{i}]: must be finite; leave out choices that are illegal")
