"""What the drop-in sampler refuses, leaves out and leaves alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FixedTrial, create_trial

from paretopress.search.drop_in import ParetoSampler, params_of, suggest
from paretopress.search.latency_table import LatencyTable
from paretopress.search.optuna_samplers import distributions
from paretopress.search.profile_store import ProfileStore
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.errors import SettingError
from paretopress.spaces.metric import Metric
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

BYTES = 20_000
BOTH = ["maximize", "minimize"]


@pytest.fixture(scope="module")
def profile(task: Task, space: Space) -> Profile:
    """The profile of the small network."""
    return Profiler(task, space, ProfileStore(task, None)).measure(BYTES)


@pytest.fixture
def sampler(space: Space, profile: Profile) -> ParetoSampler:
    """A sampler for accuracy and size."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return ParetoSampler(space, profile, baseline={"accuracy": 0.9}, seed=0)


@pytest.mark.parametrize(
    "directions",
    [["maximize"], ["maximize", "minimize", "minimize"], ["maximize", "maximize"], ["minimize", "minimize"]],
)
def test_study_that_does_not_fit_is_refused(sampler: ParetoSampler, directions: list[str]) -> None:
    """The number of objectives and the direction of accuracy and known costs are checked at the first trial."""
    study = optuna.create_study(directions=directions, sampler=sampler)
    with pytest.raises(SettingError, match="objectives|must be 'm"):
        study.optimize(lambda trial: (0.0,) * len(directions), n_trials=1)


def test_a_study_for_the_worst_error_is_refused(task: Task) -> None:
    """Which side of a metric is good the profile knows from the task: a search for the largest error is a slip."""
    mine = Task(task.model, task.validation, metric=Metric("error", lambda o, t: 0.0, direction="minimize"))
    space = Space.from_task(mine, "quantize")
    found = Profiler(mine, space, ProfileStore(mine, None)).measure(BYTES)
    sampler = ParetoSampler(space, found, ["error", "size"], baseline={"error": 0.1}, quality="error", seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    with pytest.raises(SettingError, match="must be 'minimize' for error"):
        study.ask()


def test_study_of_another_space_is_refused(task: Task, space: Space, sampler: ParetoSampler) -> None:
    """Numbers of settings mean other things in another space, so a study keeps to one."""
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    study.ask()
    smaller = space.without("fc")
    profile = Profiler(task, smaller, ProfileStore(task, None)).measure(BYTES)
    study.sampler = ParetoSampler(smaller, profile, baseline={"accuracy": 0.9})
    with pytest.raises(SettingError, match="Begin a new study"):
        study.ask()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ("accuracy", "accuracy")}, "different names"),
        ({"objectives": "accuracy"}, "list"),
        ({"objectives": ("accuracy", "latency")}, "lacks latency"),
        ({"baseline": {}}, "lacks accuracy"),
        ({"baseline": {"accuracy": "x"}}, "must be a finite number"),
        ({"baseline": {"accuracy": float("nan")}}, "finite"),
        ({"baseline": {"accuracy": 0.9, "size": 209.8}}, "another unit"),
        ({"constraints": ["small"]}, "must read like"),
        ({"constraints": ["memory <= 3"]}, "lacks memory"),
        ({"constraints": ["size drop <= 1%"]}, "only accuracy can drop"),
        ({"quality": "size", "objectives": ("size",)}, "name of a cost"),
        ({"baseline": None}, "baseline = None: must be a Mapping. Write Measure"),
        ({"profile": None}, "profile = None: must be a Profile. Write profile"),
        ({"objectives": ("mse", "size"), "baseline": {"mse": 1.0}}, "write quality='mse'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    space: Space, profile: Profile, changes: dict[str, object], message: str
) -> None:
    """Mistakes show where the sampler is made, not in the middle of a study."""
    given = {"profile": profile, "baseline": {"accuracy": 0.9}, **changes}
    with pytest.raises(SettingError, match=message):
        ParetoSampler(space, **given)  # type: ignore[arg-type] # wrong on purpose


def test_profile_of_another_space_is_refused(space: Space, profile: Profile) -> None:
    """A profile belongs to a space."""
    with pytest.raises(SettingError, match="Profile this space"):
        ParetoSampler(space.without("fc"), profile, baseline={"accuracy": 0.9})


def test_parameters_of_the_users_own_are_random(space: Space, sampler: ParetoSampler) -> None:
    """A learning rate beside the recipe is drawn at random, with one warning."""
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    trials = [study.ask() for _ in range(5)]
    with pytest.warns(UserWarning, match="'rate' is no dimension") as caught:
        rates = {trial.suggest_float("rate", 0.0, 1.0) for trial in trials}
    assert sum("rate" in str(w.message) for w in caught) == 1
    assert len(rates) == 5
    assert len({suggest(trial, space) for trial in trials}) == 5


def test_trials_that_suggest_otherwise_are_left_out(space: Space, sampler: ParetoSampler) -> None:
    """Parameters of the same names with other distributions aren't read as recipes."""
    study = optuna.create_study(directions=BOTH)
    params = dict.fromkeys(space.dimensions, "yes")
    other = {name: CategoricalDistribution(["yes"]) for name in params}
    study.add_trial(create_trial(values=[0.5, 1.0], params=params, distributions=other))
    study.add_trial(create_trial(values=[0.5, 1.0]))
    study.sampler = sampler
    with pytest.warns(UserWarning, match="left out"):
        trial = study.ask(distributions(space))
    assert suggest(trial, space) in space


def test_recipes_are_read_from_finished_trials(space: Space) -> None:
    """`suggest` on a finished or a fixed trial is the inverse of `params_of`."""
    recipe = space.uniform(0.5)
    assert suggest(FixedTrial(params_of(recipe, space)), space) == recipe
    with pytest.raises(SettingError):
        params_of(space.uniform(0.5), space.without("fc"))


def test_importing_the_front_door_leaves_optuna_alone() -> None:
    """Optuna is imported when the sampler is asked for, not with the package."""
    code = (
        "import sys, paretopress.search as s; assert 'optuna' not in sys.modules; s.ParetoSampler; s.suggest; "
        "assert 'optuna' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ImportError):
        from paretopress.search import nothing_of_that_name  # type: ignore[attr-defined] # noqa: F401, PLC0415 - must fail


def test_latency_may_be_in_another_unit_than_the_table(profile: Profile) -> None:
    """A table counts in shares of the original: milliseconds are taken as they are, and never filled in from it."""
    table = LatencyTable("latency", "ONNX Runtime, batch 1, 1 thread", 50.0, dict.fromkeys(profile.units, 0.1))
    timed, space = replace(profile, latency=table), profile.choices.space
    names = ("accuracy", "latency")
    sampler = ParetoSampler(space, timed, names, baseline={"accuracy": 0.9, "latency": 50.0}, seed=0)
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    study.optimize(lambda trial: (0.5, 40.0 if suggest(trial, space).steps else 50.0), n_trials=3)
    assert len(study.trials) == 3
    with pytest.raises(SettingError, match="baseline .* lacks latency"):
        ParetoSampler(space, timed, names, baseline={"accuracy": 0.9})


@pytest.mark.parametrize("seed", ["x", -1, 2**32, 1.5, True])
def test_a_seed_that_is_none_is_refused(space: Space, profile: Profile, seed: object) -> None:
    """At once and by name, not in numpy's words at the first trial."""
    with pytest.raises(SettingError, match="seed = .*: must be a whole number from 0"):
        ParetoSampler(space, profile, baseline={"accuracy": 0.9}, seed=seed)  # type: ignore[arg-type] # a mistake
    with pytest.raises(SettingError, match="Did you mean 'accuracy'"):
        ParetoSampler(space, profile, ["accuracyy", "size"], baseline={"accuracy": 0.9})


def test_what_is_no_trial_or_no_space_is_refused(space: Space) -> None:
    """The two are easily confused, and the message names the one that is wrong."""
    with pytest.raises(SettingError, match="trial = 3: must be a trial of Optuna"):
        suggest(3, space)  # type: ignore[arg-type] # a mistake
    with pytest.raises(SettingError, match="space = .*: must be a Space"):
        suggest(FixedTrial({}), "everything")  # type: ignore[arg-type] # a mistake


def test_limits_on_a_quality_that_is_no_objective_go_the_way_that_was_measured(task: Task) -> None:
    """Of an error less is better, as the profile's task says: nobody is told to ask for more of it."""
    source = task.validation.source
    mine = Task(task.model, source, metric=Metric("regret", lambda output, _: float(output.var()), "minimize"))
    space = Space.from_task(mine, {"integer": {"bits": [8, 4]}})
    found = Profiler(mine, space, ProfileStore(mine, None)).measure(BYTES)

    def ask(*texts: str) -> None:
        """Begin a study for the size alone."""
        baseline = {"regret": 0.3}
        sampler = ParetoSampler(space, found, ("size",), baseline=baseline, quality="regret", constraints=texts)
        optuna.create_study(sampler=sampler).ask()

    ask("regret <= 0.5", "regret rise <= 0.1")
    with pytest.raises(SettingError, match="a smaller regret is better"):
        ask("regret >= 0.5")
