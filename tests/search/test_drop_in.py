"""The drop-in sampler works in real Optuna studies, whoever else runs trials in them."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import Trial, TrialState
from planted_digits import ACCURACY, BYTES, Planted

from paretopress.evaluators.base import Measurement
from paretopress.search.drop_in import params_of, suggest
from paretopress.search.profile_sampler import ProfileSampler
from paretopress.search.result import Objective, Result
from paretopress.spaces.recipe import Recipe

BOTH = ["maximize", "minimize"]


@pytest.fixture(autouse=True)
def _silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def planted() -> Planted:
    """The problem; profiling takes a moment."""
    return Planted()


def test_thirty_trials_beat_two_hundred_random_ones(planted: Planted) -> None:
    """On damages that the profile is wrong about by a factor of e, the front is far ahead of a random search's."""
    ours = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    ours.optimize(planted.objective(), n_trials=30)
    other = optuna.create_study(directions=BOTH, sampler=RandomSampler(seed=0))
    other.optimize(planted.objective(), n_trials=200)
    assert planted.share(ours) > 0.8
    assert planted.share(ours) > planted.share(other) + 0.2


def test_learning_improves_on_the_profile_alone(planted: Planted) -> None:
    """Told what its proposals really lose, the sampler finds a better front than one that is told nothing, where models
    are wanted: down to a loss of a tenth.
    """
    told = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    told.optimize(planted.objective(), n_trials=60)
    silent = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    trials = [silent.ask() for _ in range(60)]
    values = [planted.objective()(trial) for trial in trials]
    for trial, pair in zip(trials, values):
        silent.tell(trial, pair)
    assert planted.share(told, 0.1) > planted.share(silent, 0.1)


def test_three_objectives_with_one_to_learn(planted: Planted) -> None:
    """A cost that the profile doesn't predict is learnt: fast and small models are found without one repetition."""
    names = ("size", "accuracy", "latency")
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"], sampler=planted.sampler(*names))
    study.optimize(planted.objective(*names), n_trials=40)
    assert len(set(planted.recipes(study))) == 40
    assert any(
        size < 0.3 * BYTES and accuracy > 0.9 and latency < 1.4
        for size, accuracy, latency in (t.values for t in study.best_trials)
    )


def test_cost_that_is_better_when_larger(planted: Planted) -> None:
    """Speed is raised, not lowered, if the study says so."""
    study = optuna.create_study(directions=["maximize"] * 2, sampler=planted.sampler("accuracy", "speed"))
    study.optimize(planted.objective("accuracy", "speed"), n_trials=30)
    assert max(t.values[1] for t in study.best_trials) > 0.65
    assert max(t.values[0] for t in study.best_trials) > 0.95


def test_one_objective_under_a_limit(planted: Planted) -> None:
    """With the quality alone, the best model within the limits is looked for."""
    sampler = planted.sampler("accuracy", constraints=["size <= 0.2x"])
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(planted.objective("accuracy"), n_trials=30)
    costs = [planted.cost(recipe)["size"] for recipe in planted.recipes(study)]
    assert max(costs) <= 1.01 * 0.2 * BYTES
    assert study.best_value > 0.9


def test_size_alone_with_the_quality_as_a_limit(planted: Planted) -> None:
    """What is no objective is told as a user attribute; the smallest model of those that keep the limit is found."""
    study = optuna.create_study(sampler=planted.sampler("size", constraints=["accuracy drop <= 0.03"]))

    def objective(trial: Trial) -> float:
        values = planted.measured(suggest(trial, planted.space))
        trial.set_user_attr("accuracy", values["accuracy"])
        trial.set_constraint("accuracy", ACCURACY - 0.03 - values["accuracy"])
        return values["size"]

    study.optimize(objective, n_trials=30)
    assert study.best_value < 0.25 * BYTES


def test_parallel_asks_differ(planted: Planted) -> None:
    """Eight trials that are asked for before any is told try eight recipes, of different sizes."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    recipes = [suggest(study.ask(), planted.space) for _ in range(8)]
    assert len(set(recipes)) == 8
    sizes = [planted.cost(recipe)["size"] for recipe in recipes]
    assert max(sizes) > 1.3 * min(sizes)


def test_threads_share_a_study(planted: Planted) -> None:
    """With two threads over 40 trials no recipe is tried twice."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    study.optimize(planted.objective(), n_trials=40, n_jobs=2)
    assert len(study.trials) == 40
    assert len(set(planted.recipes(study))) == 40


def test_same_seed_same_proposals(planted: Planted) -> None:
    """A sequential study can be repeated; another seed gives another one."""

    def run(seed: int) -> list[Recipe]:
        study = optuna.create_study(directions=BOTH, sampler=planted.sampler(seed=seed))
        study.optimize(planted.objective(), n_trials=12)
        return planted.recipes(study)

    assert run(3) == run(3) != run(4)


def test_study_goes_on_from_its_storage(planted: Planted, tmp_path: Path) -> None:
    """A later session with a new sampler repeats nothing, and learns from the first session's trials."""
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    optuna.create_study(study_name="s", storage=storage, directions=BOTH)
    for seed in (0, 0, 0):
        again = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
        study = optuna.load_study(study_name="s", storage=again, sampler=planted.sampler(seed=seed))
        study.optimize(planted.objective(), n_trials=5)
    assert len(set(planted.recipes(study))) == 15
    assert planted.share(study) > 0.7


def test_processes_see_what_others_run(planted: Planted, tmp_path: Path) -> None:
    """Samplers with the same seed that know each other only through the storage never run one recipe twice."""
    name, studies = str(tmp_path / "study.log"), []
    for _ in range(3):
        storage = JournalStorage(JournalFileBackend(name))
        sampler = planted.sampler(seed=5)
        studies.append(
            optuna.create_study(study_name="s", storage=storage, directions=BOTH, sampler=sampler, load_if_exists=True)
        )
    first = [suggest(study.ask(), planted.space) for _ in range(3) for study in studies]
    assert len(set(first)) == 9
    # The first parameter settles the whole recipe, before the others are in the storage.
    trials = [study.ask() for study in studies]
    dimension = next(iter(planted.sampler().infer_relative_search_space(studies[0], studies[0].trials[0])))
    for trial in trials:
        knob = planted.space.dimensions[dimension]
        trial.suggest_int(dimension, 0, len(knob.values) - 1)
    assert len({suggest(trial, planted.space) for trial in trials}) == 3


def test_claim_made_at_the_same_moment_is_given_up(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process claims the same recipe between reading and writing, another one is proposed."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler(seed=1))
    wanted = suggest(study.ask(), planted.space)
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler(seed=1))
    other = study.ask()
    write = study._storage.set_trial_system_attr

    def both(number: int, key: str, value: object) -> None:
        if key == "paretopress:genome" and not study.trials[other.number].system_attrs:
            write(other._trial_id, key, value)  # type: ignore[arg-type] # a list of numbers
        write(number, key, value)  # type: ignore[arg-type] # as above

    monkeypatch.setattr(study._storage, "set_trial_system_attr", both)
    assert suggest(study.ask(), planted.space) != wanted


def test_enqueued_trials_are_run_and_learnt_from(planted: Planted) -> None:
    """Recipes that the user enqueues are tried as they are and not proposed again, not even while they wait."""
    plain = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    plain.optimize(planted.objective(), n_trials=1)
    expected = planted.recipes(plain)[0]
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    running = study.ask()
    study.enqueue_trial(params_of(expected, planted.space))
    assert suggest(running, planted.space) != expected
    study.optimize(planted.objective(), n_trials=5)
    recipes = planted.recipes(study)
    assert recipes[1] == expected
    assert len(set(recipes)) == 6


def test_partly_enqueued_trial_keeps_its_parameters(planted: Planted) -> None:
    """What the user fixed is kept, and the rest is proposed around it."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    fixed = {"fc/numeric": 1, "fc/integer.bits": 0}
    study.enqueue_trial(fixed)
    study.optimize(planted.objective(), n_trials=3)
    assert study.trials[0].params.items() >= fixed.items()
    assert any(step.options.get("bits") == 8 for step in planted.recipes(study)[0].at("fc"))
    assert len(set(planted.recipes(study))) == 3


def test_trials_of_others_are_learnt_from(planted: Planted) -> None:
    """A random sampler's trials and those added by hand are known: their good points aren't proposed again."""
    study = optuna.create_study(directions=BOTH, sampler=RandomSampler(seed=0))
    study.optimize(planted.objective(), n_trials=20)
    best = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    best.optimize(planted.objective(), n_trials=20)
    for trial in best.trials:
        study.add_trial(trial)
    study.sampler = planted.sampler()
    study.optimize(planted.objective(), n_trials=10)
    assert len(set(planted.recipes(study)[20:])) == 30
    assert planted.share(study) > planted.share(best)


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_useless_trials_are_not_repeated(planted: Planted, state: TrialState) -> None:
    """A recipe that failed or was pruned isn't tried again, and what it has in common with others is avoided."""
    sampler = planted.sampler()
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    bad = 0
    for _ in range(40):
        trial = study.ask()
        recipe = suggest(trial, planted.space)
        if any(step.site == "fc" and step.technique == "integer" for step in recipe.steps):
            bad += 1
            study.tell(trial, state=state)
        else:
            study.tell(trial, planted.objective()(trial))
    assert len(set(planted.recipes(study))) == 40
    assert 0 < bad < 20


def test_all_trials_fail(planted: Planted) -> None:
    """A broken objective ends in no error of the sampler, and no recipe is tried twice."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler())

    def broken(trial: Trial) -> float:
        suggest(trial, planted.space)
        raise RuntimeError("boom")

    study.optimize(broken, n_trials=15, catch=RuntimeError)
    assert len(set(planted.recipes(study))) == 15


def test_infinite_values_count_as_failed(planted: Planted) -> None:
    """An objective that diverges to infinity, which Optuna accepts, doesn't break the sampler."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    study.optimize(lambda trial: (-np.inf, planted.cost(suggest(trial, planted.space))["size"]), n_trials=3)
    study.optimize(planted.objective(), n_trials=10)
    assert len(set(planted.recipes(study))) == 13


def test_own_constraints_keep_trials_off_the_front(planted: Planted) -> None:
    """A trial that breaks a constraint of ``set_constraint`` doesn't hold a place on the front, so others get there."""

    def run(limit: float) -> Study:
        study = optuna.create_study(directions=BOTH, sampler=planted.sampler())

        def objective(trial: Trial) -> tuple[float, ...]:
            values = planted.measured(suggest(trial, planted.space))
            trial.set_constraint("size", values["size"] / BYTES - limit)
            return values["accuracy"], values["size"]

        study.optimize(objective, n_trials=25)
        return study

    # All that is small is refused: the sampler doesn't take those for its front, and looks at large ones.
    refused, free = run(-1.0), run(2.0)
    assert not refused.best_trials
    assert planted.recipes(refused) != planted.recipes(free)
    assert len(set(planted.recipes(refused))) == 25


def test_limits_are_kept(planted: Planted) -> None:
    """Proposals are predicted to keep the limits on costs, within one per cent."""
    sampler = planted.sampler(constraints=["size <= 40 kB", "bops <= 0.15x"])
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    study.optimize(planted.objective(), n_trials=25)
    costs = [planted.cost(recipe) for recipe in planted.recipes(study)]
    assert max(c["size"] for c in costs) <= 1.01 * 40_000
    assert max(c["bops"] for c in costs) <= 1.01 * 0.15 * planted.cost(Recipe())["bops"]


def test_missing_metric_is_asked_for(planted: Planted) -> None:
    """A limited metric that trials don't tell is named in a warning, once, with what to do."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler(constraints=["latency <= 0.9x"]))
    with pytest.warns(UserWarning, match="trial.set_user_attr\\('latency', ...\\)") as caught:
        study.optimize(planted.objective(), n_trials=4)
    assert sum("latency" in str(w.message) for w in caught) == 1


def test_sampler_goes_from_study_to_study(planted: Planted) -> None:
    """Used for another study, a sampler begins anew instead of mixing their trials."""
    sampler = planted.sampler()
    first = optuna.create_study(directions=BOTH, sampler=sampler)
    first.optimize(planted.objective(), n_trials=5)
    second = optuna.create_study(directions=BOTH, sampler=sampler)
    second.optimize(planted.objective(), n_trials=5)
    assert planted.recipes(first) == planted.recipes(second)


def test_sampler_can_be_sent_to_other_processes(planted: Planted) -> None:
    """Pickled within its study, the sampler takes its settings along and reads the rest from the study."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    study.optimize(planted.objective(), n_trials=5)
    copy = pickle.loads(pickle.dumps(study))
    copy.optimize(planted.objective(), n_trials=5)
    assert len(set(planted.recipes(copy))) == 10


def test_reading_a_long_study_takes_in_each_trial_once(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ask looks at what is new only, however many trials there are."""
    sampler = planted.sampler()
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    study.optimize(planted.objective(), n_trials=20)
    read: Counter[int] = Counter()
    tried = sampler._recipe_tried
    monkeypatch.setattr(sampler, "_recipe_tried", lambda trial: read.update([trial.number]) or tried(trial))
    study.optimize(planted.objective(), n_trials=5)
    assert set(read) == set(range(19, 25))
    assert max(read.values()) <= 2


def test_a_study_proposes_what_a_search_does(planted: Planted) -> None:
    """A finished trial is told as a search tells it: what it was weighed with isn't thrown away."""
    study = optuna.create_study(directions=BOTH, sampler=planted.sampler())
    study.optimize(planted.objective(), n_trials=12)
    goals = (Objective("accuracy", "maximize", True), Objective("size", "minimize"))
    figures = [{**planted.cost(Recipe()), "accuracy": ACCURACY}, *map(planted.measured, planted.recipes(study))]
    results = [Result(0, Recipe(), {n: Measurement(f[n]) for n in ("accuracy", "size")}) for f in figures]
    search = ProfileSampler(planted.profile, goals, goals[0], results[0], (), 0)
    for recipe, result in zip(planted.recipes(study), results[1:]):
        proposal = search.ask()
        assert proposal.recipe == recipe
        search.tell(proposal, result)


def test_text_for_a_number_counts_as_failed(planted: Planted) -> None:
    """A slip in an objective is told, and takes neither the study nor what is in its storage with it."""
    sampler = planted.sampler(constraints=["latency <= 1.5"])
    study = optuna.create_study(directions=BOTH, sampler=sampler)

    def objective(trial: Trial) -> tuple[float, float]:
        values = planted.measured(suggest(trial, planted.space))
        trial.set_user_attr("latency", "much" if trial.number == 1 else values["latency"])
        return values["accuracy"], values["size"]

    with pytest.warns(UserWarning, match="whose latency is no number \\('much'\\) count as failed"):
        study.optimize(objective, n_trials=6)
    assert len(set(planted.recipes(study))) == 6
