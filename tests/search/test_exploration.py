"""What training can do is found out where that costs little."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from paretopress.search import proposer as module
from paretopress.search.costs import CostModel
from paretopress.search.effects import Effect, Unit
from paretopress.search.goals import Goals
from paretopress.search.proposer import Proposer
from paretopress.search.sensitivity import Profile
from paretopress.search.surrogate import Surrogate
from paretopress.spaces.choices import Choices
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

Genome = npt.NDArray[np.int64]

LAYERS, BITS = 10, (8, 6, 5, 4, 3, 2)
RATES = (0.001, 0.01, 0.1)


def profile() -> Profile:
    """Return a profile of the bits of a few layers, and of training at several rates."""
    sites = [*(Site(f"layer{i}", "linear", (f"layer{i}",)) for i in range(LAYERS)), Site(MODEL, "model", ("",))]
    bits = Option("integer", (Knob("bits", BITS),))
    training = Option("distillation", (Knob("steps", (100, 200)), Knob("rate", RATES, ordered=False)))
    decisions = [Decision(s.name, Stage.NUMERIC, (bits,)) for s in sites[:-1]]
    choices = Choices(Space(sites, [*decisions, Decision(MODEL, Stage.RECOVERY, (training,))]))
    effects = [
        tuple(Effect(weight * 4.0 ** (1 - b), "fisher", {f"layer{i}": (b / 32, 1.0, b / 32)}) for b in BITS)
        for i, weight in enumerate(np.random.default_rng(0).exponential(size=LAYERS).tolist())
    ]
    effects.append(tuple(Effect() for _ in choices.settings[-1]))
    return Profile(choices, tuple(effects), {s.name: Unit(4000, 1000) for s in sites[:-1]}, 41_000)


PROFILE = profile()
COSTS = CostModel(PROFILE)


def size(genome: Genome) -> float:
    """Return the bytes of a genome's file."""
    return float(COSTS.predict(genome[None])[0, COSTS.metrics.index("size")])


def training(steps: int, rate: float) -> int:
    """Return the choice of a training."""
    wanted = {"steps": steps, "rate": rate}
    return 1 + next(k for k, s in enumerate(PROFILE.choices.settings[-1]) if dict(s.params) == wanted)


def after_trials() -> Proposer:
    """Return a proposer that has seen a training that gives four fifths of the damage back, and a useless one."""
    base = size(np.zeros(LAYERS + 1, dtype=np.int64))
    found = Proposer(PROFILE, Goals({"size": base}, {"size": 1.1 * base}, 0.1, 1.0, 0.005), 0)
    damage, rng = np.concatenate(PROFILE.damage), np.random.default_rng(0)
    for rate, left in [(0.01, 0.2)] * 16 + [(0.001, 1.0)] * 4:
        genome = rng.integers(2, len(BITS) + 1, size=LAYERS + 1)
        genome[-1] = training(200, rate)
        total = left * damage[COSTS.offsets + genome].sum()
        lost = 0.9 * total / (total + 0.5) * math.exp(0.1 * rng.standard_normal())
        found.tell(genome, lost, {"size": size(genome)})
    found.ask()  # it learns when it is asked
    return found


def test_what_a_training_promises_is_what_is_not_known_of_it() -> None:
    """The best that was seen promises nothing more, nor does a bad one, and one that was never seen may."""
    genomes = np.zeros((4, LAYERS + 1), dtype=np.int64)
    genomes[:, -1] = 0, training(200, 0.01), training(200, 0.001), training(200, 0.1)
    nothing, best, bad, unseen = after_trials().surrogate.promise(genomes)
    assert nothing == 0
    assert best < 1e-6
    assert bad < unseen / 20
    assert unseen > 0.05


def test_what_a_training_promises_all_later_trials_makes_it_worth_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two recipes alike but for the training, the known one gains a little more at once: without regard to what the
    other teaches, a search kept to one rate to its end.
    """
    genomes = np.full((2, LAYERS + 1), 3, dtype=np.int64)
    genomes[:, -1] = training(200, 0.01), training(200, 0.1)

    def asked(teaches: float) -> int:
        monkeypatch.setattr(module, "_TEACHES", teaches)
        proposer = after_trials()
        proposer.expect(genomes[0])  # what was weighed is weighed anew
        proposer.forget(genomes[0])
        monkeypatch.setattr(proposer.pool, "candidates", lambda *_: genomes)
        return int(proposer.ask()[-1])

    assert asked(0.0) == training(200, 0.01)
    assert asked(30.0) == training(200, 0.1)


def test_without_training_nothing_is_promised() -> None:
    """A space that trains nothing is searched as before."""
    bits = PROFILE.choices.space.decisions[:-1]
    choices = Choices(Space([s for s in PROFILE.choices.space.sites.values() if s.name != MODEL], bits))
    plain = Profile(choices, PROFILE.effects[:-1], PROFILE.units, PROFILE.file_bytes)
    assert (Surrogate(plain, 1.0, 0.005).promise(np.zeros((3, LAYERS), dtype=np.int64)) == 0).all()
