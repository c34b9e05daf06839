"""A run that has nothing left to do: its front is there, and measuring it again would only take time."""

from __future__ import annotations

from ..spaces.errors import RunError
from .facts import limits_of
from .front import Front
from .plan import Plan
from .record import Book
from .saved import FRONT, damaged, load_front

#: What is said of it, with the number of its trials and of those that were asked for.
ALL_DONE = "{} of {} trials are done; give --trials (in Python: budget=) for more"


def finished_front(plan: Plan, book: Book, tested: bool) -> Front | None:
    """Return the front of a run that has all its trials; None if there is work to do.

    There is, where the front was never written, its files are gone or damaged, it was sought under other limits or
    lacks figures, or trials are to be run again.

    Parameters
    ----------
    plan
        Of the session that would go on.
    book
        What is recorded of the run.
    tested
        Whether there are test data.
    """
    wanted, trials = plan.budget.trials, len(book.results)
    if wanted is None or trials < wanted or not (plan.folder / FRONT).is_file() or book.unfinished:
        return None
    if plan.retry != "unfinished" and any(r.status == "failed" for r, _ in book.results):
        return None
    try:
        front, about = load_front(plan.folder)
    except RunError:  # damaged: it is written again
        return None
    models = (front.baseline, *front)
    kept = all(model.path is not None and not damaged(model, plan.folder) for model in models)
    if not kept or about.get("trials") != trials or about.get("constraints") != limits_of(plan):
        return None
    asked = {metric.name for metric in plan.columns} <= set(about.get("columns", ()))
    return front if asked and (front.split == "test") == tested else None
