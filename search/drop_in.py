"""The sampler that knows the layers as a sampler of Optuna, for studies of your own.

Optuna's storage is the only record: before each proposal the sampler reads the trials that it hasn't seen, whoever
made them, so that threads, processes and later sessions share what was learnt.
"""

from __future__ import annotations

import math
import random
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from ..evaluators.base import Direction, Measurement, evaluators
from ..spaces.errors import SettingError, nearest
from ..spaces.metric import ACCURACY
from ..spaces.recipe import Recipe
from ..spaces.seeding import check_seed
from ..spaces.space import Space
from .constraint import Constraint, check_constraints, violations
from .costs import PREDICTED, CostModel
from .optuna_samplers import decoded, distributions, encoded
from .profile_sampler import ProfileSampler
from .result import Objective, Result
from .sampler import Proposal
from .sensitivity import Profile

__all__ = ["ParetoSampler", "params_of", "suggest"]

#: Attribute of a trial: its genome, so that others don't propose it too. Attribute of a study: the space's digest.
_CLAIM, _SPACE = "paretopress:genome", "paretopress:space"
#: Proposals that may turn out to be claimed by another process before one is taken as it is.
_TRIES = 10
#: A baseline that is so many times the profile's own figure, or less than its inverse, is in another unit.
_ANOTHER_UNIT = 1.5


#: What to write for arguments of another kind.
_WANTED = {
    "space": "Write Space.from_task(task).",
    "profile": "Write profile(task, space).",
    "baseline": "Write Measure(task, space)(Recipe()), or {'accuracy': 0.93}.",
}


def suggest(trial: BaseTrial, space: Space) -> Recipe:
    """Return the recipe that an Optuna trial is to try.

    Parameters
    ----------
    trial
        Running; of a finished trial, what it tried is returned.
    space
        Each of its dimensions becomes a parameter of the trial: a whole number where values have an order, else one
        of the values.

    Raises
    ------
    SettingError
        If these are something else.
    """
    if not isinstance(trial, BaseTrial):
        raise SettingError("trial", trial, "must be a trial of Optuna", "Write suggest(trial, space).")
    if not isinstance(space, Space):
        raise SettingError("space", space, "must be a Space", _WANTED["space"])
    return decoded(
        space,
        {
            name: trial.suggest_int(name, 0, len(knob.values) - 1)
            if knob.ordered
            else trial.suggest_categorical(name, knob.values)
            for name, knob in space.dimensions.items()
        },
    )


def params_of(recipe: Recipe, space: Space) -> dict[str, Any]:
    """Return the parameters for which `suggest` returns a recipe, e.g. for ``study.enqueue_trial``.

    Raises
    ------
    SettingError
        If the recipe isn't in the space.
    """
    return encoded(space, recipe)


class ParetoSampler(BaseSampler):
    """Proposes what the profile predicts to be best, and learns from every trial of the study.

    The objective calls `suggest` for its recipe, and returns the objectives' values. A metric that isn't among them,
    such as one that is only limited, is read from the trial's user attribute of its name; size, macs and bops are
    predicted where there is none. Trials that break a constraint (these, or those of ``trial.set_constraint``) count
    for what they tell of the quality and not for the front. Failed and pruned trials count as useless.

    Parameters
    ----------
    space
        What `suggest` is called with.
    profile
        Of the space; see `Profiler`.
    objectives
        What the study's values are called, in their order. "size" is in bytes, "macs" and "bops" are the
        multiply-accumulates of one example and their product with the bits of weights and activations; what these
        three will be is predicted, and others are learnt.
    baseline
        Metric -> the original model's value, for all that is mentioned but those three. A latency may be in another
        unit than the profile's table: what is predicted of it are shares.
    quality
        Which metric is the task's own, e.g. ``"mse"``. If it isn't an objective, larger is better.
    constraints
        As for `search`, e.g. ``"accuracy drop <= 0.01"`` or ``"size <= 0.5x"``.
    seed
        The same seed and the same results give the same proposals, with one trial at a time. None draws one.

    Raises
    ------
    SettingError
        If these don't fit together, or, at the first trial, don't fit the study.
    """

    def __init__(
        self,
        space: Space,
        profile: Profile,
        objectives: Sequence[str] = ("accuracy", "size"),
        *,
        baseline: Mapping[str, float],
        quality: str = "accuracy",
        constraints: Sequence[str] = (),
        seed: int | None = None,
    ) -> None:
        for name, value, kind in (
            ("space", space, Space),
            ("profile", profile, Profile),
            ("baseline", baseline, Mapping),
        ):
            if not isinstance(value, kind):
                raise SettingError(name, value, f"must be a {kind.__name__}", _WANTED[name])
        if space != profile.choices.space:
            raise SettingError("profile", profile.choices.space, f"is not of {space}", "Profile this space.")
        if isinstance(objectives, str) or not objectives or len(set(objectives)) != len(objectives):
            raise SettingError("objectives", objectives, "must be a list of different names", "E.g. accuracy and size.")
        if quality in evaluators():
            raise SettingError("quality", quality, "is the name of a cost", "Name the task's own metric: 'accuracy'.")
        if seed is not None:
            check_seed(seed)
        if not isinstance(constraints, list | tuple):
            raise SettingError("constraints", constraints, "must be a list", "Write ['accuracy drop <= 1%'].")
        self._given = (space, profile, tuple(objectives), dict(baseline), quality, tuple(constraints), seed)
        self.space, self.profile, self.quality = space, profile, quality
        self.objectives = tuple(objectives)
        self.constraints = tuple(Constraint.parse(c) for c in constraints)
        self.metrics = tuple(dict.fromkeys([quality, *objectives, *(c.metric for c in self.constraints)]))
        self._costs = CostModel(profile)
        self.baseline = self._checked(baseline)
        measured = profile.quality  # else the study will say which side of the task's own metric is the good one
        self._usual = measured if measured and measured.name == quality else Objective(quality, "maximize", True)
        check_constraints([c for c in self.constraints if c.metric != quality], self._usual)
        self._seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        self._distributions = {n: d for n, d in distributions(space).items() if not d.single()}
        self._others = RandomSampler(self._seed)
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._study: tuple[Any, int] | None = None
        self._sampler: ProfileSampler
        self._finished: set[int] = set()
        self._open: dict[int, Proposal] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the settings only: all that was learnt is in the study."""
        return _rebuilt, self._given

    def _checked(self, baseline: Mapping[str, float]) -> dict[str, float]:
        """Return the baseline's value of every metric."""
        predicted = self._predicted(Recipe())
        known = {**predicted, **baseline}
        for name in self.metrics:
            if name not in known:
                raise SettingError("baseline", sorted(baseline), f"lacks {name}", self._remedy(name))
            value = _number(known[name])
            if not math.isfinite(value):
                raise SettingError(f"baseline of {name}", known[name], "must be a finite number")
            if name in predicted and not 1 / _ANOTHER_UNIT < value / predicted[name] < _ANOTHER_UNIT:
                rule = f"is far from the profile's {predicted[name]:.0f}, so it may be in another unit"
                raise SettingError(f"baseline of {name}", value, rule, "Leave it out, and return values in that unit.")
        return {name: float(known[name]) for name in self.metrics}

    def _remedy(self, name: str) -> str:
        """Return what to do about a metric whose value isn't known."""
        own = [o for o in self.objectives if o not in evaluators()]
        if name == self.quality and name not in self.objectives and own:
            return f"If the task's own metric is {own[0]}, write quality={own[0]!r}."
        known = {self.quality, ACCURACY.name, *evaluators()}
        close = "" if name in known else nearest(name, known).partition("Known: ")[0]
        return f"{close}Give the original model's value: baseline={{{name!r}: ...}}."

    def _predicted(self, recipe: Recipe) -> dict[str, float]:
        genome = self.profile.choices.genome(recipe)
        found = dict(zip(self._costs.metrics, self._costs.predict(genome[None])[0].tolist()))
        return {name: found[name] for name in PREDICTED if name != self.quality}

    # --- what Optuna calls ---------------------------------------------------------------------------------

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:  # noqa: ARG002 - the study is what is looked at
        """Check that the study is the one that was described, the first time."""
        with self._lock:
            self._begin(study)

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - the space is known
        trial: FrozenTrial,  # noqa: ARG002 - as above
    ) -> dict[str, BaseDistribution]:
        """Return every dimension of the space that has a choice."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a proposal's parameters, as far as they are asked for."""
        fixed = trial.system_attrs.get("fixed_params", {})
        with self._lock:
            self._begin(study)
            for _ in range(_TRIES):
                self._read(study)
                params = self._propose(trial.number, fixed)
                claim = self._open[trial.number].handle.tolist()
                study._storage.set_trial_system_attr(trial._trial_id, _CLAIM, claim)
                # Both of two processes that make the same claim write before they look, so that one sees the other.
                running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if fixed or all(t.system_attrs.get(_CLAIM) != claim or t.number == trial.number for t in running):
                    break
        return {name: params[name] for name in search_space}

    def _propose(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return a proposal's parameters, and note it as running."""
        proposal = self._sampler.ask()
        params = encoded(self.space, proposal.recipe)
        if fixed.keys() & params.keys():  # a trial that was enqueued with some of its parameters
            self._sampler.forget(proposal)
            recipe = self._recipe_of({**params, **fixed}) or proposal.recipe
            proposal = self._sampler.ask_for(recipe, "")
        self._open[number] = proposal
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value: the parameter is none of the space's."""
        self._warn(f"{param_name!r} is no dimension of the space: it is drawn at random", "parameter")
        with self._lock:
            return self._others.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Draw a new seed, so that copies of the sampler propose different recipes."""
        with self._lock:
            self._seed = random.SystemRandom().randrange(2**32)
            self._others.reseed_rng()
            if self._study is not None:
                self._sampler.reseed(self._seed)

    # --- reading the study ---------------------------------------------------------------------------------

    def _begin(self, study: Study) -> None:
        """Check a study and forget what was learnt from another; nothing happens the second time."""
        if self._study == (study._storage, study._study_id):
            return
        goals = self._goals(study)
        attributes = study._storage.get_study_system_attrs(study._study_id)
        if attributes.get(_SPACE, self.space.digest) != self.space.digest:
            rule = "is not the space that the study was begun with"
            raise SettingError("space", self.space, rule, "Begin a new study for it.")
        study._storage.set_study_system_attr(study._study_id, _SPACE, self.space.digest)
        quality = next((o for o in goals if o.is_quality), self._usual)
        check_constraints(self.constraints, quality)
        original = Result(-1, Recipe(), {name: Measurement(value) for name, value in self.baseline.items()})
        self._original, self._quality = original, quality
        self._sampler = ProfileSampler(self.profile, goals, quality, original, self.constraints, self._seed)
        self._finished, self._open = set(), {}
        self._study = study._storage, study._study_id

    def _goals(self, study: Study) -> tuple[Objective, ...]:
        if len(study.directions) != len(self.objectives):
            rule = f"must be as many as the study's {len(study.directions)} directions"
            raise SettingError("objectives", self.objectives, rule, "Name the study's values, in their order.")
        goals = []
        for name, direction in zip(self.objectives, study.directions):
            way: Direction = "maximize" if direction == StudyDirection.MAXIMIZE else "minimize"
            right = "minimize" if name in PREDICTED and name != self.quality else way
            right = "maximize" if name == ACCURACY.name else right
            if self.profile.quality is not None and name == self.quality == self.profile.quality.name:
                right = self.profile.quality.direction
            if way != right:
                rule = f"must be {right!r} for {name}"
                raise SettingError("directions", study.directions, rule, f"The objectives are {self.objectives}.")
            goals.append(Objective(name, way, name == self.quality))
        return tuple(goals)

    def _read(self, study: Study) -> None:
        """Take in what became of trials since the last time."""
        for trial in study.get_trials(deepcopy=False):
            if trial.number in self._finished:
                continue
            recipe = self._recipe_tried(trial)
            if not trial.state.is_finished():
                if recipe is not None and trial.number not in self._open:
                    self._open[trial.number] = self._sampler.ask_for(recipe, "")
                continue
            self._finished.add(trial.number)
            proposal = self._open.pop(trial.number, None)
            if proposal is not None and (recipe is None or proposal.recipe != recipe):
                self._sampler.forget(proposal)
                proposal = None
            if recipe is not None:
                result = self._result(trial, recipe)
                broken = [*trial.constraints.values()]
                broken += violations(self.constraints, result, self._original, self._quality)
                if proposal is not None:
                    self._sampler.tell(proposal, result, broken)
                else:
                    self._sampler.recall(result, broken, {})

    def _recipe_tried(self, trial: FrozenTrial) -> Recipe | None:
        """Return a trial's recipe, as soon as it is settled; None for one that is of no space or of another."""
        if trial.number in self._open and not trial.state.is_finished():
            return self._open[trial.number].recipe
        if self.space.dimensions.keys() <= trial.params.keys():
            if all(trial.distributions[name] == d for name, d in self._distributions.items()):
                return self._recipe_of(trial.params)
            self._warn("trials whose parameters are not those of `suggest` are left out", "distribution")
            return None
        attributes = trial.system_attrs
        if _CLAIM in attributes:
            return self.profile.choices.recipe(np.array(attributes[_CLAIM], dtype=np.int64))
        return self._recipe_of(attributes.get("fixed_params", {}))

    def _recipe_of(self, params: Mapping[str, Any]) -> Recipe | None:
        try:
            return decoded(self.space, params)
        except (LookupError, TypeError, SettingError):  # an enqueued trial may hold anything
            return None

    def _result(self, trial: FrozenTrial, recipe: Recipe) -> Result:
        """Return what a finished trial measured."""
        if trial.state != TrialState.COMPLETE:
            return Result(trial.number, recipe, status="failed")
        told = dict(zip(self.objectives, trial.values))
        values = {**trial.user_attrs, **told}
        if any(name in PREDICTED and name not in values for name in self.metrics):
            values = {**self._predicted(recipe), **values}
        missing = [name for name in self.metrics if name not in values]
        if missing:
            advice = f"Call trial.set_user_attr({missing[0]!r}, ...) in the objective"
            self._warn(f"trials that don't tell {missing[0]} count as failed. {advice}", "metric")
        elif wrong := [name for name in self.metrics if isinstance(values[name], str | None)]:
            self._warn(f"trials whose {wrong[0]} is no number ({values[wrong[0]]!r}) count as failed", "number")
        elif all(math.isfinite(_number(values[name])) for name in self.metrics):
            return Result(trial.number, recipe, {name: Measurement(float(values[name])) for name in self.metrics})
        return Result(trial.number, recipe, status="failed")

    def _warn(self, text: str, kind: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"ParetoSampler: {text}.", stacklevel=3)


def _number(value: object) -> float:
    """Return a number, NaN for what is none, as text."""
    if isinstance(value, str):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type] # that is what is tried
    except (TypeError, ValueError):
        return math.nan


def _rebuilt(
    space: Space,
    profile: Profile,
    objectives: tuple[str, ...],
    baseline: dict[str, float],
    quality: str,
    constraints: tuple[str, ...],
    seed: int | None,
) -> ParetoSampler:
    return ParetoSampler(
        space, profile, objectives, baseline=baseline, quality=quality, constraints=constraints, seed=seed
    )
