"""Single trials without a search, for studies of your own and for trying a recipe by hand."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from ..evaluators.base import Evaluator
from ..spaces.errors import ModelError, SettingError
from ..spaces.recipe import Recipe
from ..spaces.seeding import check_seed
from ..spaces.space import Space
from ..spaces.task import Task
from .fitting import check_fits
from .store import write_atomically
from .trial import Bench, Job, metrics_for

#: Tracing a model isn't safe in threads: a process runs one trial at a time, whoever asks for it.
_ONE_AT_A_TIME = threading.Lock()


class Measure:
    """Compresses the task's model as a recipe says, saves it, reads it back and measures it, as each trial of a search.

    What is the same for all trials is done once, so make one `Measure` and call it often. It runs in this process, one
    trial at a time: threads (``n_jobs`` of a study) wait for each other. For trials in parallel use several processes
    that share the study's storage, or `search`.

    Parameters
    ----------
    task
        The trained model and its data.
    space
        Whose recipes are tried.
    metrics
        What is measured on validation data, in this order: names (see ``paretopress techniques``) or metrics of your
        own, such as ``Latency(batch=32)``; by default the task's own metric and size.
    seed
        For what is random in a trial.

    Raises
    ------
    SettingError
        If a metric is unknown or there is none, or the space is of another model.
    """

    def __init__(
        self, task: Task, space: Space, metrics: Sequence[str | Evaluator] | None = None, *, seed: int = 0
    ) -> None:
        check_fits(task, space)
        check_seed(seed)
        metrics = [task.metric.name, "size"] if metrics is None else metrics
        fits = isinstance(metrics, list | tuple) and all(isinstance(m, str | Evaluator) for m in metrics)
        if not fits or not metrics:
            raise SettingError("metrics", metrics, "must be a list of names or metrics", "Write ['accuracy', 'size'].")
        known = {m.name: m for m in metrics if isinstance(m, Evaluator)}
        self.metrics = tuple(m if isinstance(m, str) else m.name for m in metrics)
        self._seed, self._bench = seed, Bench(task, space.sites, metrics_for(task, self.metrics, known), ())

    def __call__(self, recipe: Recipe, save: str | Path | None = None) -> dict[str, float]:
        """Return metric -> value, in each metric's unit, of a recipe; ``Recipe()`` is the original model.

        Parameters
        ----------
        save
            Where to write the model's file; `load` reads it.

        Raises
        ------
        SettingError
            If ``recipe`` is none.
        ModelError
            If the trial fails: the model can't be compressed so, or doesn't run any more.
        """
        if not isinstance(recipe, Recipe):
            raise SettingError("recipe", recipe, "must be a Recipe", "Write suggest(trial, space), or Recipe().")
        if save is not None and not isinstance(save, str | Path):
            raise SettingError("save", save, "must be a file's path")
        with _ONE_AT_A_TIME:
            done = self._bench.run(Job(0, recipe, self._seed))
        if done.result.status == "failed" or done.data is None:
            raise ModelError(f"recipe {recipe.digest} can't be tried: {done.result.error}")
        if save is not None:
            write_atomically(Path(save), done.data)
        return {name: done.result.value(name) for name in self.metrics}
