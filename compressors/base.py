"""The Compressor contract. A technique is one file with one subclass and one `register` call."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from ..spaces.catalogue import DataNeed, register
from ..spaces.data import Batch
from ..spaces.errors import SettingError
from ..spaces.knob import Knob, Scalar
from ..spaces.recipe import Step
from ..spaces.seeding import seeded
from ..spaces.site import Site
from ..spaces.stage import Stage
from .cache import LayerCache
from .draft import Context, Draft
from .encoding import Codec, Coder, Encoding
from .forms import CodecForm, Form, UnstorableError, layer_facts

Params = dict[str, Scalar]
T = TypeVar("T")

__all__ = [
    "Compressor",
    "DataNeed",
    "LayerCompressor",
    "NumericCompressor",
    "Params",
    "apply_step",
    "register",
    "with_mask",
]


class Compressor(ABC):
    """One technique.

    Attributes
    ----------
    name
        In recipes, files and settings.
    stage
        When it acts; a site takes at most one technique of each stage.
    kinds
        The kinds of site it supports (see `Site.kind`).
    data_need
        What it needs besides the weights.
    traced_kinds
        Those of ``kinds`` at which it needs a model whose forward pass can be traced.
    forbids
        Techniques or stages (lower case) that can't share a site with it.
    summary
        One line for ``paretopress techniques``.
    paper
        Where it comes from.
    formats
        Number formats and coders it writes, so that files can be read.
    modules
        Own `nn.Module` classes it puts into models, so that files can name them. Their constructor arguments
        must be attributes of the same names.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    kinds: ClassVar[frozenset[str]]
    data_need: ClassVar[DataNeed] = DataNeed.NONE
    traced_kinds: ClassVar[frozenset[str]] = frozenset()
    forbids: ClassVar[frozenset[str]] = frozenset()
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    formats: ClassVar[tuple[type[Codec] | type[Coder], ...]] = ()
    modules: ClassVar[tuple[type[nn.Module], ...]] = ()

    def supports(self, site: Site) -> bool:
        """Whether it can be applied at the site."""
        return site.kind in self.kinds

    @abstractmethod
    def knobs(self, site: Site) -> tuple[Knob, ...]:
        """Return the parameters at a site, each listed from the gentlest value to the strongest."""

    @abstractmethod
    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        """Compress ``draft`` at ``site``, in place.

        ``params`` holds a value for every live knob. Anything raised fails this trial only.
        """

    def settle(
        self,
        draft: Draft,  # noqa: ARG002 - techniques that need it override this
        context: Context,  # noqa: ARG002 - as above
        calibration: Iterable[Batch],  # noqa: ARG002 - as above
    ) -> bool:
        """Do what has to wait for all steps of a recipe; return whether ``draft`` has changed.

        Is called once after the last step before recovery training, and again at the end, each time after batch-norm
        statistics were re-estimated. ``calibration`` gives the calibration batches as often as it is iterated.
        """
        return False

    def recall(
        self,
        context: Context,
        params: Params,
        content: Sequence[Tensor | None],
        make: Callable[[int], T],
        form: Form[T],
        *,
        facts: Any = None,
        code: Sequence[type] = (),
    ) -> T:
        """Return ``make(seed)``, or what it returned before for the same parameters and content.

        `NumericCompressor` and `LayerCompressor` do this by themselves; other techniques may, for what they compute
        from single tensors. The result must depend on nothing but the arguments, the technique and, where
        ``data_need`` says so, calibration data. What a technique that trains computes is never kept.

        Parameters
        ----------
        context
            With the cache.
        params
            The live knobs.
        content
            The tensors that the result depends on, e.g. the weight.
        make
            Is called with a seed that follows from the technique's name, ``params`` and the shapes, and with all
            generators at that seed: what is drawn at random doesn't depend on the recipe around it.
        form
            How the result is stored.
        facts
            What else it depends on, JSON-able.
        code
            Classes whose code it depends on, besides the technique's own.
        """
        shapes = [None if tensor is None else list(tensor.shape) for tensor in content]
        text = json.dumps([self.name, params, shapes], sort_keys=True)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

        def made() -> T:
            with seeded(seed):
                return make(seed)

        if self.data_need is DataNeed.TRAINING or not context.cache.active:
            return made()
        data = context.cache.data_digest(context.task) if self.data_need is DataNeed.CALIBRATION else ""
        settings = [self.name, vars(self), params, facts, data]
        return context.cache.recall((type(self), *code), settings, content, made, form)


class LayerCompressor(Compressor):
    """A technique that replaces one layer by another module (stage operator)."""

    stage = Stage.OPERATOR

    @abstractmethod
    def transform(self, layer: nn.Module, params: Params, context: Context) -> nn.Module:
        """Return the new module, or ``layer`` itself where replacing it would not save anything. Never mutates it.

        The result is kept and found again for an equal layer, so it may depend only on the layer, the parameters,
        and the data that ``data_need`` declares. ``context.seed`` follows from these, too, and not from the recipe.
        """

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        """Replace every member of the site that still exists."""
        for member in site.members:
            if draft.has(member):
                old = draft.module(member)
                new = self._transformed(old, params, context)
                if new is not old:
                    draft.replace_module(member, new)

    def _transformed(self, layer: nn.Module, params: Params, context: Context) -> nn.Module:
        try:
            facts, tensors = layer_facts(layer)
        except UnstorableError:
            facts, tensors, context = None, [], replace(context, cache=LayerCache.none())
        return self.recall(
            context,
            params,
            tensors,
            lambda seed: self.transform(layer, params, replace(context, seed=seed)),
            _NewLayer(context.cache.modules, layer),
            facts=facts,
            code=sorted({type(module) for module in layer.modules()}, key=lambda cls: cls.__qualname__),
        )


class _NewLayer:
    """The form of a module that is all new: one that shares tensors with the old layer would lose that."""

    def __init__(self, modules: Form[nn.Module], old: nn.Module) -> None:
        self._modules, self._old = modules, {id(tensor) for tensor in (*old.parameters(), *old.buffers())}

    def flatten(self, value: nn.Module) -> Any:
        if any(id(tensor) in self._old for tensor in (*value.parameters(), *value.buffers())):
            raise UnstorableError("a part of the old layer")
        return self._modules.flatten(value)

    def build(self, tree: Any) -> nn.Module:
        return self._modules.build(tree)


class NumericCompressor(Compressor):
    """A technique that stores the site's weights in another number format (stage numeric)."""

    stage = Stage.NUMERIC

    @abstractmethod
    def fit(self, weight: Tensor, mask: Tensor | None, axis: int, params: Params, seed: int) -> Codec:
        """Return the codec for one tensor.

        The result is kept and found again for an equal tensor, so it may depend only on these arguments.

        Parameters
        ----------
        weight
            fp32, two or more dimensions, already zero where masked.
        mask
            True where the weight is kept, or None.
        axis
            The dimension of the output channels.
        params
            The live knobs.
        seed
            For random initialisation; it follows from the technique's name, ``params`` and the shapes.
        """

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        """Fit a codec to every weight of the site and move the weight onto its grid."""
        for name in draft.weights(site):
            encoding = draft.encoding(name)
            weight = draft.parameter(name).detach()
            if encoding.mask is not None:
                weight = weight * encoding.mask
            fit = partial(self.fit, weight, encoding.mask, 0, params)
            codec = self.recall(context, params, (weight, encoding.mask), fit, CodecForm(self.formats))
            draft.store(name, replace(encoding, codec=codec))


def apply_step(technique: Compressor, draft: Draft, step: Step, context: Context) -> None:
    """Apply one step after checking its parameters against the technique's knobs.

    Raises
    ------
    SettingError
        If the site is unknown or unsupported, or a parameter is missing, unknown or out of range.
    """
    if step.site not in context.sites:
        raise SettingError("site", step.site, "is not in the model")
    site = context.sites[step.site]
    if not technique.supports(site):
        raise SettingError(f"technique at {site.name}", technique.name, f"does not support a site of kind {site.kind}")
    params: Params = {}
    given = step.options
    for knob in technique.knobs(site):
        if knob.alive(params):
            if knob.name not in given:
                raise SettingError(f"{step.site}: {technique.name}.{knob.name}", None, "is missing")
            knob.check(given[knob.name], f"{step.site}: {technique.name}.{knob.name}")
            params[knob.name] = given.pop(knob.name)
    if given:
        raise SettingError(f"{step.site}: {technique.name}", sorted(given), "are no parameters of the technique")
    with seeded(context.seed):
        technique.apply(draft, site, params, context)


def with_mask(encoding: Encoding, mask: Tensor) -> Encoding:
    """Return the encoding with a (further) mask."""
    joined = mask if encoding.mask is None else encoding.mask & mask
    return replace(encoding, mask=joined)
