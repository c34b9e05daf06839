"""A space for a model that nobody has looked at: every technique at every layer that supports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .catalogue import DataNeed, Technique, technique, techniques
from .errors import SettingError, nearest
from .knob import Knob
from .site import MODEL, Site, select
from .sites import find_sites
from .space import Decision, Option, Space
from .tracing import untraceable

if TYPE_CHECKING:
    from .task import Task

#: What is searched only where it is asked for, by name or preset, and where the latency of deployed files is: nothing
#: else gains from integer kernels.
ASKED_FOR = frozenset({"int8"})
DEPLOYED = "deployed"
#: Named sets of techniques. "full" is everything else that is installed, and "deployed" all there is.
PRESETS: dict[str, tuple[str, ...]] = {
    "quantize": ("integer", "codebook", "entropy"),
    "prune": ("channels", "depth", "magnitude", "entropy", "distillation"),
    "low-rank": ("svd", "integer", "entropy", "distillation"),
    "deep-compression": ("magnitude", "codebook", "entropy", "distillation"),
    "fast": ("channels", "depth", "svd", "int8", "distillation"),
}

Settings = Mapping[str, Any]
Techniques = str | Iterable[str] | Mapping[str, Settings | None]


def preset(name: str) -> tuple[str, ...]:
    """Return the techniques of a preset, or raise SettingError with the nearest known one."""
    if name == "full":
        return tuple(known for known in techniques() if known not in ASKED_FOR)
    if name == DEPLOYED:
        return tuple(techniques())
    if name not in PRESETS:
        raise SettingError("preset", name, "is unknown", nearest(name, [*PRESETS, "full", DEPLOYED]))
    return PRESETS[name]


def _chosen(wanted: Techniques | None) -> dict[str, Settings]:
    if wanted is None:
        return {name: {} for name in preset("full")}
    if isinstance(wanted, str):
        known = wanted in techniques()
        return {wanted: {}} if known else {name: {} for name in preset(wanted)}
    chosen: dict[str, Settings]
    if isinstance(wanted, Mapping):
        chosen = {str(name): dict(settings or {}) for name, settings in wanted.items()}
    else:
        chosen = {str(name): {} for name in wanted}
    if not chosen:
        raise SettingError("techniques", [], "names no technique", f"Known: {', '.join(techniques())}.")
    for name in chosen:
        technique(name)
    return chosen


def build_space(task: Task, wanted: Techniques | None = None, layers: str | Iterable[str] = "*") -> Space:
    """Return the space of a task; see `Space.from_task`."""
    explicit = wanted is not None and not isinstance(wanted, str)
    chosen = _chosen(wanted)
    sites, notes = find_sites(task.model, task.example)
    globs = [layers] if isinstance(layers, str) else list(layers)
    selected = {s.name for s in select(sites, globs)} | {MODEL}
    remarks = list(notes)
    offers: list[tuple[Site, Technique, tuple[Knob, ...]]] = []
    reason = untraceable(task.model, len(task.example))
    for name, settings in chosen.items():
        entry = technique(name)
        missing = _untrainable(task) if entry.data_need is DataNeed.TRAINING else None
        if missing and explicit:
            raise SettingError("techniques", name, *missing)
        if missing:
            remarks.append(f"{name} is not offered: {missing[0]}.")
            continue
        own = settings.get("layers", "*")
        own_globs = [own] if isinstance(own, str) else list(own)
        allowed = {s.name for s in select(sites, own_globs, f"techniques.{name}.layers")} | {MODEL}
        here = [s for s in sites if s.name in selected & allowed and entry.supports(s)]
        if reason and (lost := [s.name for s in here if s.kind in entry.traced_kinds]):
            remarks.append(f"{name} is not offered at {_few(lost)}: the forward pass can't be traced ({reason}).")
            here = [s for s in here if s.name not in lost]
        if not here and explicit:
            remarks.append(f"{name} is not offered: no selected layer supports it.")
        offers += [(site, entry, _knobs(entry, site, settings)) for site in here]
        _check_names(entry, sites, settings)
    return _assemble(sites, offers, remarks)


def _few(names: Sequence[str]) -> str:
    """Return names for a sentence: three at most."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _untrainable(task: Task) -> tuple[str, str] | None:
    """Return why nothing can be trained and what to do, or None."""
    if task.train is None:
        return "it needs training data, and the task has none", "Give Task train=."
    if not any(p.requires_grad for p in task.model.parameters()):
        return "it trains, and every parameter of the model has requires_grad=False", "Unfreeze the layers to train."
    return None


def _knobs(entry: Technique, site: Site, settings: Settings) -> tuple[Knob, ...]:
    knobs = []
    for knob in entry.knobs(site):
        if knob.name in settings:
            knobs.append(_set(knob, f"techniques.{entry.name}.{knob.name}", settings[knob.name]))
        else:
            knobs.append(knob)
    return tuple(knobs)


def _set(knob: Knob, setting: str, given: Any) -> Knob:
    """Return the knob over what a user gave: a value, a list, or {low, high, step}."""
    if isinstance(given, Mapping):
        unknown = set(given) - {"low", "high", "step"}
        if unknown or not {"low", "high", "step"} <= set(given):
            raise SettingError(setting, dict(given), "must have exactly low, high and step")
        whole = all(isinstance(given[k], int) for k in ("low", "high", "step"))
        make = Knob.integers if whole else Knob.floats
        given = make(setting, given["low"], given["high"], given["step"]).values
    values: Sequence[Any] = given if isinstance(given, list | tuple) else [given]
    return knob.with_values(setting, list(values))


def _check_names(entry: Technique, sites: Sequence[Site], settings: Settings) -> None:
    known = {k.name for s in sites if entry.supports(s) for k in entry.knobs(s)}
    for name in settings:
        if known and name != "layers" and name not in known:
            raise SettingError(
                f"techniques.{entry.name}", name, "is no setting of it", nearest(name, {*known, "layers"})
            )


def _assemble(
    sites: Sequence[Site], offers: Iterable[tuple[Site, Technique, tuple[Knob, ...]]], notes: Sequence[str]
) -> Space:
    grouped: dict[tuple[str, Any], list[Option]] = {}
    for site, entry, knobs in offers:
        grouped.setdefault((site.name, entry.stage), []).append(Option(entry.name, knobs, entry.forbids))
    decisions = [Decision(name, stage, tuple(options)) for (name, stage), options in grouped.items()]
    return Space(sites, decisions, notes)


def by_hand(task: Task, choices: Mapping[str, Techniques]) -> Space:
    """Return a space from layer glob -> techniques; see `Space.by_hand`."""
    sites, notes = find_sites(task.model, task.example)
    found: dict[tuple[str, str], tuple[Site, Technique, tuple[Knob, ...]]] = {}
    reason = untraceable(task.model, len(task.example))
    for glob, wanted in choices.items():
        here = [s for s in sites if s.kind == "model"] if glob == MODEL else list(select(sites, [glob], "layers"))
        for name, settings in _chosen(wanted).items():
            entry = technique(name)
            supported = [s for s in here if entry.supports(s)]
            _check_names(entry, sites, settings)
            if reason and any(s.kind in entry.traced_kinds for s in supported):
                rule = f"needs a forward pass that can be traced ({reason})"
                raise SettingError(f"technique for {glob}", name, rule, "Leave it out there.")
            if not supported:
                kinds = sorted({s.kind for s in here})
                raise SettingError(f"technique for {glob}", name, f"supports none of these layers ({', '.join(kinds)})")
            for site in supported:
                found[site.name, name] = (site, entry, _knobs(entry, site, settings))
    return _assemble(sites, found.values(), notes)
