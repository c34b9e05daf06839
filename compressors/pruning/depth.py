"""Leaves out whole residual blocks."""

from __future__ import annotations

from ...spaces.blocks import PassThrough
from ...spaces.knob import Knob
from ...spaces.site import Site
from ...spaces.stage import Stage
from ..base import Compressor, Params, register
from ..draft import Context, Draft

__all__ = ["Depth", "PassThrough"]


class Depth(Compressor):
    """Replaces a residual block by the identity, which its shortcut is (Veit et al., "Residual Networks Behave Like
    Ensembles of Relatively Shallow Networks", NeurIPS 2016, arXiv:1605.06431; trained for it: Huang et al., "Deep
    Networks with Stochastic Depth", ECCV 2016, arXiv:1603.09382).
    """

    name = "depth"
    stage = Stage.TOPOLOGY
    kinds = frozenset({"block"})
    summary = "leaves out a residual block; fewer layers, faster everywhere"
    paper = "Veit et al., 2016, arXiv:1605.06431"
    modules = (PassThrough,)

    def knobs(self, site: Site) -> tuple[Knob, ...]:  # noqa: ARG002 - a block goes or stays
        """Return nothing: a block goes or stays."""
        return ()

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:  # noqa: ARG002 - no choice
        """Put a `PassThrough` in the place of the block."""
        draft.replace_module(site.members[0], PassThrough())


register(Depth())
