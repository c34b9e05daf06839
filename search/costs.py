"""Costs of any recipe, predicted from the profile without running it: bytes, MACs, bit operations and latency.

What a step leaves of a layer is a share, and shares of different steps multiply: a layer that loses half its outputs
and half its inputs keeps a quarter. Masks and number formats, which don't multiply, have a table of what they do
together. Files are taken to be coded, if the space offers a coder. Latency is that of the profile's table, where one
was measured, as a ratio to the original's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..spaces.choices import Genomes
from ..spaces.stage import Stage
from .effects import Effect, Unit
from .integer_costs import IntegerCosts
from .sensitivity import Profile

Values = npt.NDArray[np.float64]

SIZE = "size"
#: Metrics that every profile predicts.
PREDICTED = (SIZE, "macs", "bops")
#: What stands for a metric that is measured only: the deployed file holds the same numbers in as many bits.
_STANDS = {"onnx_size": "size"}
#: Bytes that a file takes for a step, beside the numbers: its line in the recipe and what its tensors are called.
#: About, after deflation: 25 on a ResNet-20, 40 on the digits.
STEP_BYTES = 30
#: What stands for the logarithm of nothing.
_NOTHING = -1e3
#: How far predicted logarithms are off, before many trials tell: with a table, and without one; and what few are.
_GUESS, _WILD, _FEW = 0.2, 0.5, 8
#: So many times as far off is all but impossible.
_SURE = 3.0


def stand_in(metric: str, predicted: Collection[str]) -> str | None:
    """Return which predicted cost falls as a metric does: itself, where it is predicted; None if nobody knows any."""
    return metric if metric in predicted else _STANDS.get(metric)


class CostModel:
    """Predicts costs of genomes.

    Parameters
    ----------
    profile
        Of the space.

    Attributes
    ----------
    metrics
        What is predicted, in the order of the columns that `predict` returns.
    """

    def __init__(self, profile: Profile) -> None:
        table = profile.latency
        self.metrics = (*PREDICTED, table.metric) if table is not None else PREDICTED
        self.choices = profile.choices
        self.paths = tuple(dict.fromkeys([*profile.units, *(table.units if table is not None else ())]))
        self.offsets = np.concatenate([[0], np.cumsum(self.choices.counts)[:-1]])
        units = [profile.units.get(p, Unit(0, 0)) for p in self.paths]
        unit_bytes = np.array([u.bytes for u in units], dtype=float)
        unit_macs = np.array([u.macs for u in units], dtype=float)
        fixed = max(0.0, profile.file_bytes - unit_bytes.sum())
        per = {"size": (unit_bytes, fixed), "macs": (unit_macs, 0.0), "bops": (unit_macs * 32 * 32, 0.0)}
        if table is not None:
            shares = np.array([table.units.get(p, 0.0) for p in self.paths])
            per[table.metric] = (shares, table.fixed)
        self.base = [per[m][0] for m in self.metrics]
        self.fixed = np.array([per[m][1] for m in self.metrics])
        self.logs = [self._table(profile, m) for m in self.metrics]
        self.pairs = self._together(profile)
        self._timed = table.metric if table is not None else ""
        self._integers = IntegerCosts.of(profile, self.paths, self.offsets.tolist())

    def _table(self, profile: Profile, metric: str) -> sparse.csr_matrix:
        """Return (all settings, units) logarithms of what each setting leaves of each unit."""
        column = {p: i for i, p in enumerate(self.paths)}
        rows, columns, values = [], [], []
        for offset, decision, effects in zip(self.offsets, self.choices.decisions, profile.effects):
            for number, effect in enumerate(effects, 1):
                for path, share in _shares(profile, metric, decision.site, effect).items():
                    if path in column and share != 1.0:
                        rows.append(offset + number)
                        columns.append(column[path])
                        values.append(np.log(share) if share > 0 else _NOTHING)
        shape = (int(self.choices.counts.sum()), len(self.paths))
        return sparse.csr_matrix((values, (rows, columns)), shape=shape)

    def _together(self, profile: Profile) -> list[tuple[int, int, npt.NDArray[np.int64], Values]]:
        """Return, for each site with a mask and a number format: their places, units, and table of corrections."""
        found = []
        column = {p: i for i, p in enumerate(self.paths)}
        for i, decision in enumerate(self.choices.decisions):
            if decision.stage is not Stage.MASK or not profile.together:
                continue
            for j in self.choices.at(decision.site):
                if self.choices.decisions[j].stage is Stage.NUMERIC:
                    table = np.zeros((self.choices.counts[i], self.choices.counts[j]))
                    for k, mask in enumerate(self.choices.settings[i], 1):
                        for m, number in enumerate(self.choices.settings[j], 1):
                            table[k, m] = np.log(profile.together.get((mask, number), 1.0))
                    members = self.choices.space.sites[decision.site].members
                    found.append((i, j, np.array([column[p] for p in members if p in column]), table))
        return found

    def hot(self, genomes: Genomes) -> sparse.csr_matrix:
        """Return genomes (n, decisions) as (n, all settings) ones and zeros."""
        n, d = genomes.shape
        indices = (genomes + self.offsets).reshape(-1)
        return sparse.csr_matrix(
            (np.ones(n * d), indices, np.arange(0, n * d + 1, d)), shape=(n, int(self.choices.counts.sum()))
        )

    def left(self, genomes: Genomes, hot: sparse.csr_matrix | None = None) -> list[Values]:
        """Return for each metric what is left of every unit, (n, units), in the metric's own unit."""
        hot = self.hot(genomes) if hot is None else hot
        out = []
        for metric, base, logs in zip(self.metrics, self.base, self.logs):
            total = np.asarray((hot @ logs).todense())
            if metric == "size":
                for i, j, columns, table in self.pairs:
                    total[:, columns] += table[genomes[:, i], genomes[:, j]][:, None]
            out.append(base * np.exp(total))
        return out

    def predict(self, genomes: Genomes, hot: sparse.csr_matrix | None = None) -> Values:
        """Return costs (n, metrics) of legal genomes (n, decisions)."""
        left = self.left(genomes, hot)
        costs: Values = np.stack([x.sum(1) for x in left], axis=1) + self.fixed
        costs[:, self.metrics.index("size")] += STEP_BYTES * np.count_nonzero(genomes, axis=1)
        if self._integers is not None and self._timed in self.metrics:
            place = self.metrics.index(self._timed)
            hot = self.hot(genomes) if hot is None else hot
            costs[:, place] += self._integers.extra(genomes + self.offsets, hot, left[place])
        return costs


def _shares(profile: Profile, metric: str, site: str, effect: Effect) -> Mapping[str, float]:
    """Return path -> what a setting leaves of a module's figure."""
    if profile.latency is not None and metric == profile.latency.metric:
        return profile.latency.shares(site, effect)
    place = {"size": 0, "macs": 1}.get(metric)
    return {p: shares[place] if place is not None else shares[1] * shares[2] for p, shares in effect.shares.items()}


class Fitted:
    """Metrics learnt from trials: their logarithm is linear in those of the predicted costs.

    Before any trial a predicted metric, such as a latency with a table, is what is predicted, and the deployed file
    shrinks as the native one; of others, such as a latency without a table, half of the saved multiplications are
    expected to show.

    Parameters
    ----------
    costs
        The predicted costs.
    base
        Metric -> the original model's value, above 0.
    """

    def __init__(self, costs: CostModel, base: Mapping[str, float]) -> None:
        self._costs, self._base = costs, dict(base)
        self._whole = np.maximum(costs.predict(np.zeros((1, len(costs.choices)), dtype=np.int64)), 1e-12)
        self._prior = {}
        for metric in self._base:
            stands = stand_in(metric, costs.metrics)
            source, slope = (stands, 1.0) if stands else ("macs", 0.5)
            self._prior[metric] = np.array([slope if m == source else 0.0 for m in costs.metrics])
        self._slopes = dict(self._prior)
        self._spread = {m: _GUESS if stand_in(m, costs.metrics) else _WILD for m in self._base}

    def learn(self, hot: sparse.csr_matrix, genomes: Genomes, values: Values, metrics: Sequence[str]) -> None:
        """Take in the trials: genomes (n, decisions) and their values (n, metrics), NaN where not measured."""
        if not self._base:
            return
        logs = self._logs(self._costs.predict(genomes, hot))
        for metric, base in self._base.items():
            column = values[:, list(metrics).index(metric)]
            seen = np.isfinite(column) & (column > 0)
            prior = self._prior[metric]
            target = np.log(column[seen] / base) - logs[seen] @ prior
            precision = logs[seen].T @ logs[seen] + np.eye(logs.shape[1])
            self._slopes[metric] = prior + np.linalg.solve(precision, logs[seen].T @ target)
            off = np.log(column[seen] / base) - logs[seen] @ self._slopes[metric]
            guess = _GUESS if stand_in(metric, self._costs.metrics) else _WILD
            self._spread[metric] = float(np.sqrt((_FEW * guess**2 + off @ off) / (_FEW + len(off))))

    def predict(self, known: Values) -> dict[str, Values]:
        """Return metric -> (n,) predictions, given the predicted costs (n, metrics)."""
        logs = self._logs(known)
        return {m: base * np.exp(logs @ self._slopes[m]) for m, base in self._base.items()}

    def floors(self, known: Values) -> dict[str, float]:
        """Return metric -> a value that is below the true one all but surely, given a genome's costs (1, metrics)."""
        found = self.predict(known)
        return {m: float(values[0]) * math.exp(-_SURE * self._spread[m]) for m, values in found.items()}

    def _logs(self, known: Values) -> Values:
        logs: Values = np.log(np.maximum(known, 1e-12) / self._whole)
        return logs
