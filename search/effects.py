"""What one step does when it is applied alone: the exact change of each layer's bytes, MACs and bits, and the damage.

Damage is a predicted rise of the loss, or a change of outputs that are no class scores (see `fisher`). Where the
changed layer is equivalent to a dense one it is half the Fisher information times the squared change of the weights,
and for removed channels half the squared sum of their derivatives: no forward pass. Where neither holds (a removed
block, a nonlinear replacement, a layer that no gradient reaches) the outputs are compared on a small batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..compressors.base import Compressor, apply_step
from ..compressors.cache import LayerCache
from ..compressors.draft import Context, Draft
from ..compressors.equivalent import alone, dense_weights
from ..evaluators.macs import macs_by_module
from ..evaluators.structure import structure
from ..spaces.catalogue import technique
from ..spaces.choices import Setting
from ..spaces.errors import ModelError, PressError
from ..spaces.recipe import Step
from ..spaces.site import LAYER_KINDS, Site
from ..spaces.stage import Stage
from ..spaces.task import Task
from .calls import name_of
from .file_length import FileLengths
from .fisher import Fisher
from .footprint import Packer, module_bytes, shares_left
from .layers import ModuleForm
from .outputs import Outputs

#: Changes when what is measured changes, so that effects on disk are measured anew.
VERSION = 11
#: See `Effect.work`.
ON_INTEGERS, ON_FOUR_BITS = " on integers", " on 4 bits"
#: Weights from which on a runtime may compute with 4 bits as they are; with fewer it is never faster.
LARGE = 1 << 16
#: Large changes do more damage than their second-order term says: exp(3 x relative change) times as much, by a fit to
#: 180 changes of a ResNet-20's layers by rounding, zeroing and factors, whose outputs were compared. Re-estimated
#: batch norm gives some of that back.
BEYOND = 2.5


@dataclass(frozen=True)
class Request:
    """Settings of one site to be measured."""

    site: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Unit:
    """A module of the original model without its children: bytes of its tensors and MACs of one example."""

    bytes: int
    macs: int


@dataclass(frozen=True)
class Effect:
    """One setting applied alone.

    Attributes
    ----------
    damage
        Predicted rise of the loss (see `Fisher` for losses other than cross-entropy), 0 or more.
    method
        "fisher", "channels" (their derivatives), "outputs" (compared on a batch) or "" (changes no output).
    shares
        Path of a layer -> what is left of its bytes, its MACs and its bits. Layers that aren't named are untouched.
    saved
        Bytes by which the (coded) file is shorter than the original's, to the byte; negative where it is longer.
    error
        Why the step can't be applied, or "".
    passing
        Whether that may be otherwise the next time (memory was short, a worker was killed): it isn't kept on disk.
    change
        Where the damage is by Fisher information: the length of the weights' change, as a share of their own.
    work
        A digest of what the changed modules compute, weights apart: settings that have the same one take the same
        time. "" where it is what the original computes, as with masks and number formats. It ends with `ON_INTEGERS`
        where a deployed layer runs on integer kernels, and with `ON_FOUR_BITS` where it may compute with such weights.
    """

    damage: float = 0.0
    method: str = ""
    shares: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    saved: int = 0
    error: str = ""
    change: float = 0.0
    work: str = ""
    passing: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        shares = {k: [round(x, 12) for x in v] for k, v in self.shares.items()}
        return {k: v for k, v in vars(self).items() if k != "passing"} | {"shares": shares}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Effect:
        """Read what `to_json` wrote."""
        shares = {str(k): (float(a), float(b), float(c)) for k, (a, b, c) in data["shares"].items()}
        damage, change = float(data["damage"]), float(data["change"])
        saved, error = int(data["saved"]), str(data["error"])
        return cls(damage, str(data["method"]), shares, saved, error, change, str(data["work"]))


#: Measures requests, wherever: yields the place of each and its effects, in any order.
Surveyor = Callable[[Sequence[Request], Fisher], Iterator[tuple[int, list[Effect]]]]


class Survey:
    """Measures effects on one task.

    Parameters
    ----------
    task
        The original model, its calibration data and its loss.
    sites
        All sites by name.
    coder
        The step of the container technique that files will be written with, if the space offers one: bytes are
        counted with it.
    """

    def __init__(self, task: Task, sites: Mapping[str, Site], coder: Step | None) -> None:
        self.task, self.sites, self.coder = task, dict(sites), coder
        # What techniques compute for layers is found again by trials, which read the same folder.
        self._context = Context(task, self.sites, 0, LayerCache(modules=ModuleForm()))
        self.outputs = Outputs(task)
        self._pack = Packer()
        self._lengths = FileLengths(self._context, coder, self._pack)
        self._structures: dict[int, Hashable] = {}
        self._roundings: dict[frozenset[str], float] = {}

    @cached_property
    def units(self) -> dict[str, Unit]:
        """Path -> figures of every module that holds tensors or multiplies; they add up to the model's."""
        counts, _ = macs_by_module(self.task.model, self.task.example)
        sizes = module_bytes(Draft(self.task.model), dict(self.task.model.named_modules()))
        return {path: Unit(size, counts.get(path, 0)) for path, size in sizes.items() if size or counts.get(path)}

    @cached_property
    def _inputs(self) -> dict[str, tuple[Tensor, ...]]:
        """Path of a layer -> the positional inputs of its first call, on the example."""
        found: dict[str, tuple[Tensor, ...]] = {}
        model = copy.deepcopy(self.task.model).eval()
        paths = {m for s in self.sites.values() if s.kind in LAYER_KINDS for m in s.members}

        def remember(path: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
                if path not in found and args and all(isinstance(a, Tensor) for a in args):
                    found[path] = tuple(a.detach().clone() for a in args)

            return hook

        handles = [model.get_submodule(p).register_forward_pre_hook(remember(p)) for p in sorted(paths)]
        with torch.no_grad():
            model(*(x.clone() for x in self.task.example))
        for handle in handles:
            handle.remove()
        return found

    def effects(self, request: Request, fisher: Fisher) -> list[Effect]:
        """Return the effect of each setting that is asked for."""
        return [self.effect(request.site, setting, fisher) for setting in request.settings]

    def effect(self, site_name: str, setting: Setting, fisher: Fisher) -> Effect:
        """Return what a setting does at a site. Whatever goes wrong is the effect's error."""
        self._pack.forget()
        entry, site = technique(setting.technique), self.sites[site_name]
        if entry.stage in (Stage.CONTAINER, Stage.RECOVERY) or not isinstance(entry, Compressor):
            return Effect()
        try:
            if self.is_layers(entry, site):
                found = self._of_layer(entry, site, setting, fisher)
            else:
                found = self._of_model(entry, site, setting, fisher)
            return found if math.isfinite(found.damage) else Effect(error="the outputs are not finite")
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
            passing = not isinstance(error, PressError | ValueError | TypeError | LookupError)
            return Effect(error=f"{type(error).__name__}: {reason[:200]}", passing=passing)

    @staticmethod
    def is_layers(entry: Compressor, site: Site) -> bool:
        """Whether a technique changes nothing but single layers at a site, each by itself."""
        return site.kind in LAYER_KINDS and entry.stage in (Stage.OPERATOR, Stage.MASK, Stage.NUMERIC)

    def applied(self, site_name: str, setting: Setting) -> tuple[Draft, bool]:
        """Return a draft after a setting, and whether nothing but the site's layers counts in it.

        Raises
        ------
        ValueError, RuntimeError, PressError
            If the step can't be applied.
        """
        entry, site = compressor(setting.technique), self.sites[site_name]
        if self.is_layers(entry, site):
            return self._alone(entry, site, setting), True
        draft = Draft.of(self.task.model)
        apply_step(entry, draft, setting.step(site_name), self._context)
        return draft, False

    def divergence(self, *steps: Step) -> float:
        """Return how far steps together really move the outputs, in the unit of `Effect.damage`; 0 for no steps.

        Raises
        ------
        ValueError, RuntimeError, PressError
            If a step can't be applied.
        """
        draft = Draft.of(self.task.model)
        for step in steps:
            apply_step(compressor(step.technique), draft, step, self._context)
        return self.outputs.divergence(self._settled(draft, *(compressor(step.technique) for step in steps)))

    # --- one layer -----------------------------------------------------------------------------------------

    def _of_layer(self, entry: Compressor, site: Site, setting: Setting, fisher: Fisher) -> Effect:
        draft = self._alone(entry, site, setting)
        work = self._work(setting, *((self.task.model.get_submodule(m), draft.module(m)) for m in site.members))
        work += ON_INTEGERS if draft.integer else ON_FOUR_BITS if self._on_four_bits(draft, site) else ""
        macs = self._macs(draft, site) if entry.stage is Stage.OPERATOR else 1.0
        bits = self._bits(draft, site)
        dense = dense_weights(draft, site, self.task.model)
        self._code(draft)
        before = sum(self.units[m].bytes for m in site.members if m in self.units)
        modules = {m: draft.module(m) for m in site.members}
        after = sum(module_bytes(draft, modules, nested=True, pack=self._pack).values())
        shares = dict.fromkeys(site.members, (after / max(before, 1), macs, bits))
        saved = self._saved(draft, entry, setting, site)
        if dense is None or not dense.keys() <= fisher.weights.keys():
            whole = Draft.of(self.task.model)
            apply_step(entry, whole, setting.step(site.name), self._context)
            return Effect(self.outputs.divergence(self._settled(whole, entry)), "outputs", shares, saved, work=work)
        damage, change = _quadratic(dense, self.task.model, fisher)
        damage = damage * math.exp(BEYOND * change) + self._of_rounding(entry, frozenset(draft.integer))
        return Effect(damage, "fisher", shares, saved, change=change, work=work)

    def _saved(self, draft: Draft, entry: Compressor, setting: Setting, site: Site) -> int:
        """Return how many bytes a step saves, given the draft after it and after the coder."""
        step, lengths = setting.step(site.name), self._lengths
        if type(draft.model) is nn.Module and self.is_layers(entry, site):  # the layers alone
            return lengths.original - lengths.of_layers(draft, site, entry, step)
        return lengths.original - lengths.of_model(draft, entry, step)

    def _settled(self, draft: Draft, *entries: Compressor) -> nn.Module:
        """Return a draft's model after all that techniques leave for the end."""
        for entry in dict.fromkeys(entries):
            entry.settle(draft, self._context, self.outputs.sample)
        return draft.model

    def _of_rounding(self, entry: Compressor, layers: frozenset[str]) -> float:
        """Return what it does that layers run on integers, their weights being as they are."""
        if not layers:
            return 0.0
        if layers not in self._roundings:
            draft = replace(Draft.of(self.task.model), integer=set(layers))
            self._roundings[layers] = self.outputs.distance(self._settled(draft, entry))
        return self._roundings[layers]

    def _alone(self, entry: Compressor, site: Site, setting: Setting) -> Draft:
        """Return a draft after the step: of the site alone, or of the model if the technique looks at the rest."""
        try:
            draft = alone(self.task.model, site)
            apply_step(entry, draft, setting.step(site.name), self._context)
        except Exception:
            draft = Draft.of(self.task.model)
            apply_step(entry, draft, setting.step(site.name), self._context)
        return draft

    def _code(self, draft: Draft) -> None:
        """Let the coder have its say, as for a file."""
        if self.coder is not None:
            apply_step(compressor(self.coder.technique), draft, self.coder, self._context)

    @staticmethod
    def _on_four_bits(draft: Draft, site: Site) -> bool:
        weights = {n: draft.model.get_parameter(n) for n in draft.weights(site)} if site.kind == "linear" else {}
        return any(draft.encoding(n).codec.bits == 4 and w.numel() >= LARGE for n, w in weights.items())

    @staticmethod
    def _bits(draft: Draft, site: Site) -> float:
        """Return the nominal bits of a site's weights, times those of its inputs, as a share of 32 x 32."""
        bits = [draft.encoding(name).codec.bits for name in draft.weights(site)]
        return max(bits, default=32) / 32 * (8 / 32 if draft.integer else 1)

    def _macs(self, draft: Draft, site: Site) -> float:
        """Return what is left of the MACs of a site's layers, run on the inputs that they have in the model."""
        before = after = 0
        for member in site.members:
            if member not in self._inputs:
                continue
            inputs, old = self._inputs[member], self.task.model.get_submodule(member)
            after += sum(macs_by_module(draft.module(member), inputs)[0].values())
            try:
                before += sum(macs_by_module(old, inputs)[0].values())
            except ModelError:  # it runs only within the model
                before += self.units[member].macs
        return after / before if before else 1.0

    # --- several layers ------------------------------------------------------------------------------------

    def _of_model(self, entry: Compressor, site: Site, setting: Setting, fisher: Fisher) -> Effect:
        draft, _ = self.applied(site.name, setting)
        lost = self._lost(draft, site)
        work = self._work(setting, (self.task.model, draft.model))
        shares = self._shares(draft)
        if entry.stage is Stage.STRUCTURE and site.name in fisher.channels and lost.any():
            damage, method = fisher.without(site.name, lost), "channels"
        else:
            damage, method = self.outputs.divergence(draft.model), "outputs"
        return Effect(damage, method, shares, self._saved(draft, entry, setting, site), work=work)

    def _work(self, setting: Setting, *pairs: tuple[nn.Module, nn.Module]) -> str:
        """Return the digest of what modules compute after a setting: pairs of the original's and what it became."""
        after = tuple(structure(new, ()) for _, new in pairs)
        if None in after:  # it can't be compared
            return str(setting)
        for old, _ in pairs:
            if id(old) not in self._structures:
                self._structures[id(old)] = structure(old, ())
        return "" if tuple(self._structures[id(old)] for old, _ in pairs) == after else name_of(after)

    def _shares(self, draft: Draft) -> dict[str, tuple[float, float, float]]:
        """Return what is left of each module that changed."""
        counts, _ = macs_by_module(draft.model, self.task.example)
        if draft.encodings:
            self._code(draft)
        sizes = module_bytes(draft, dict(draft.model.named_modules()), pack=self._pack)
        size = shares_left({path: unit.bytes for path, unit in self.units.items()}, sizes)
        macs = shares_left({path: unit.macs for path, unit in self.units.items()}, counts)
        bits = {name.rpartition(".")[0]: e.codec.bits / 32 for name, e in draft.encodings.items()}
        shares = {path: (size[path], macs[path], bits.get(path, 1.0)) for path in self.units}
        return {path: share for path, share in shares.items() if share != (1.0, 1.0, 1.0)}

    @staticmethod
    def _lost(draft: Draft, site: Site) -> Tensor:
        """Return which of a group's channels are gone, (channels,)."""
        lost = torch.zeros(site.shape[0] if site.slices else 0, dtype=torch.bool)
        for member in site.slices:
            kept = draft.kept.get((member.module, member.side))
            if kept is not None:
                here = set(kept.tolist())
                lost[[c for c, own in enumerate(member.positions) if own and not here & set(own)]] = True
        return lost


def compressor(name: str) -> Compressor:
    """Return the technique of a name."""
    entry = technique(name)
    assert isinstance(entry, Compressor)
    return entry


def _quadratic(dense: Mapping[str, Tensor], original: nn.Module, fisher: Fisher) -> tuple[float, float]:
    """Return half the Fisher information times the squared change, and the change's length relative to the weights'."""
    damage = changed = whole = 0.0
    for name, weight in dense.items():
        before = original.get_parameter(name).detach()
        square = (weight - before).square()
        damage += float((fisher.weights[name] * square).sum()) / 2
        changed += float(square.sum())
        whole += float(before.square().sum())
    return damage, math.sqrt(changed / whole) if whole else 0.0
