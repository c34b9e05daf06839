"""The pool holds legal, distinct points of the predicted front, and makes legal changes of them."""

from __future__ import annotations

import time
from itertools import count

import numpy as np
import pytest
from known_truth import PROFILE as HARDER
from known_truth import TRUTH

from paretopress.search.effects import Effect, Unit
from paretopress.search.pool import Pool
from paretopress.search.quick_costs import QuickCosts
from paretopress.search.sensitivity import Profile
from paretopress.search.surrogate import Surrogate
from paretopress.spaces.choices import Choices, Genomes
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

BITS = (8, 6, 5, 4, 3, 2)
LAYERS = tuple("abcdefgh")


def profile() -> Profile:
    """Return the profile of eight layers that differ in size and in how much rounding hurts, a coder and training."""
    bits = Option("integer", (Knob("bits", BITS),))
    sites = [*(Site(name, "linear", (name,)) for name in LAYERS), Site("<model>", "model", ("",))]
    decisions = [
        *(Decision(name, Stage.NUMERIC, (bits,)) for name in LAYERS),
        Decision("<model>", Stage.CONTAINER, (Option("entropy"),)),
        Decision("<model>", Stage.RECOVERY, (Option("distillation", (Knob("steps", (10, 100)),)),)),
    ]
    choices = Choices(Space(sites, decisions))
    effects = tuple(
        tuple(Effect(2.0**k * 4.0**-b, shares={name: (b / 32, 1.0, b / 32)}) for b in BITS)
        for k, name in enumerate(LAYERS)
    )
    units = {name: Unit(1000 * (k % 3 + 1), 5000) for k, name in enumerate(LAYERS)}
    return Profile(choices, (*effects, (Effect(),), (Effect(), Effect())), units, sum(u.bytes for u in units.values()))


PROFILE = profile()
BYTES = {"size": float(PROFILE.file_bytes)}


def pool(metric: str = "size") -> Pool:
    """Return an empty pool for the size, or for what it stands for."""
    return Pool(QuickCosts(PROFILE), Surrogate(PROFILE, 1.0, 0.01), {metric: BYTES["size"]})


def none_refused(made: Pool) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return that no setting is refused."""
    return np.zeros(int(made.choices.counts.sum()), dtype=bool)


def legal(made: Pool, rows: Genomes) -> bool:
    """Return whether all genomes are legal."""
    return np.array_equal(made.choices.legal(rows), rows)


def test_points_are_distinct_and_the_latest_stay() -> None:
    """However often it is solved, the pool stays within its size and repeats nothing; what was found last is last."""
    made, random = pool(), np.random.default_rng(0)
    for _ in range(30):
        made.solve(300, none_refused(made), random)
        assert len({row.tobytes() for row in made.genomes}) == len(made) <= 400
        assert legal(made, made.genomes)
    kept = {row.tobytes() for row in made.genomes}
    made._add(made.genomes[:5].copy())
    assert {row.tobytes() for row in made.genomes} == kept
    made._add(np.zeros((1, len(made.choices)), dtype=np.int64))
    assert not made.genomes[-1].any()


def test_points_are_a_front() -> None:
    """Hardly a point has another one's damage or more at another one's size or more, and the ends are far apart."""
    made = pool()
    made.solve(100, none_refused(made), np.random.default_rng(0))
    rows = made.genomes[:, : len(LAYERS)]
    damage = np.array([sum(PROFILE.damage[i][k] for i, k in enumerate(row)) for row in rows])
    size = made.costs.predict(made.genomes)[:, 0]
    worse = (damage[:, None] > damage + 1e-12) & (size[:, None] > size + 1e-6)
    assert worse.any(1).mean() < 0.05
    assert size.max() > 3 * size.min()


def test_refused_settings_are_left_out() -> None:
    """No point holds what was refused: at a layer, of the coder, or of training."""
    made, random = pool(), np.random.default_rng(0)
    refused = random.random(int(made.choices.counts.sum())) < 0.5
    refused[made.costs.offsets] = False
    refused[made.costs.offsets[-2] + 1 :] = True
    refused[made.costs.offsets[-1]] = False
    made.solve(100, refused, random)
    made.solve_exactly({"size": 0.3}, refused, random)
    assert not refused[made.costs.offsets + made.genomes].any()


@pytest.mark.parametrize(("metric", "share"), [("size", 0.5), ("size", 0.2), ("onnx_size", 0.2)])
def test_exact_points_use_what_a_limit_allows(metric: str, share: float) -> None:
    """The best point within a limit on the size is there, and leaves no room for a gentler one; the deployed file
    shrinks as the native one does, before anything was measured.
    """
    made, random = pool(metric), np.random.default_rng(0)
    made.solve(1, none_refused(made), random)
    made.solve_exactly({metric: share}, none_refused(made), random)
    size = made.costs.predict(made.genomes)[:, 0]
    inside = made.genomes[size <= share * BYTES["size"]]
    best = inside[np.argmin([sum(PROFILE.damage[i][k] for i, k in enumerate(row[: len(LAYERS)])) for row in inside])]
    for place in range(len(LAYERS)):
        for number in range(int(made.choices.counts[place])):
            other = best.copy()
            other[place] = number
            gentler = PROFILE.damage[place][number] < PROFILE.damage[place][best[place]]
            assert not gentler or made.costs.predict(other[None])[0, 0] > share * BYTES["size"]


def test_candidates_are_points_and_changes() -> None:
    """A third is of the pool; the others are new and legal, near the pool or the best known, or near the latter."""
    made, random = pool(), np.random.default_rng(0)
    made.solve(200, none_refused(made), random)
    best = np.zeros((1, len(made.choices)), dtype=np.int64)
    found = made.candidates(best, 50, random)
    known = {row.tobytes() for row in made.genomes}
    assert found.shape == (150, len(made.choices))
    assert legal(made, found)
    assert all(row.tobytes() in known for row in found[:50])
    assert sum(row.tobytes() not in known for row in found[50:]) > 25
    parents = np.vstack([made.genomes, best])
    moved = [(row != parents).sum(1).min() for row in found[50:]]
    assert np.median(moved) <= 3
    assert np.median((found[100:] != best).sum(1)) <= 3


def test_exact_points_do_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine on which an hour goes by between two looks, the same points are found."""
    found = []
    for hurry in (0.0, 3600.0):
        now = count(0.0, hurry)
        monkeypatch.setattr(time, "monotonic", lambda now=now: next(now))
        costs = QuickCosts(HARDER)
        made, random = Pool(costs, Surrogate(HARDER, 1.0, 0.01), TRUTH.base), np.random.default_rng(0)
        made.solve(20, none_refused(made), random)
        for share in (0.5, 0.4, 0.3, 0.2, 0.15, 0.1):
            limits = {"size": share, "macs": 0.7, "bops": share / 2}
            made.solve_exactly(limits, none_refused(made), random)
        found.append(made.genomes.tolist())
    assert found[0] == found[1]
