"""Removes whole channels, neurons or attention heads, the ones with the smallest weights first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...spaces.knob import Knob
from ...spaces.site import Site, Slice
from ...spaces.slicing import axes, keep, remaining, settle, width
from ...spaces.stage import Stage
from ..base import Compressor, Params, register
from ..draft import Context, Draft

_RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)


def kept_count(total: int, ratio: float, round_to: int = 1) -> int:
    """Return how many of ``total`` channels stay: the multiple of ``round_to`` nearest to (1 - ratio) * total.

    At least one multiple stays, and never more than there are: a group narrower than the multiple is left whole.
    """
    multiples = int(total * (1.0 - ratio) / round_to + 0.5)
    return min(total, max(1, multiples) * round_to)


class Channels(Compressor):
    """Structured pruning of coupled channels and of heads.

    Channels are ranked by the norm of everything that produces, scales or reads them, each tensor divided by its
    mean so that a layer counts as much as any other (Li et al., "Pruning Filters for Efficient ConvNets", ICLR
    2017, arXiv:1608.08710; coupled as in Fang et al., "DepGraph", CVPR 2023, arXiv:2301.12900). Heads are removed
    like Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019, arXiv:1905.10650, ranked by
    weight. What remains is a smaller dense model.
    """

    name = "channels"
    stage = Stage.STRUCTURE
    kinds = frozenset({"group", "heads"})
    summary = "removes coupled channels, neurons or attention heads; the model becomes smaller and faster"
    paper = "Fang et al., 2023, arXiv:2301.12900"

    def supports(self, site: Site) -> bool:
        """Whether there are at least two channels or heads to choose from."""
        return super().supports(site) and site.shape[0] >= 2

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        """Return ratio, and for channels also criterion and round_to.

        ``ratio`` is the share that goes, offered where it makes a difference. ``criterion`` is the norm that ranks.
        ``round_to`` keeps widths to a multiple that hardware likes; by default 8 from 64 channels on, and not
        searched, because it only moves the ratio.
        """
        total = site.shape[0]
        multiple = 8 if site.kind == "group" and total >= 64 else 1
        # Several ratios may leave the same number: the one that says it best stands for them.
        best: dict[int, float] = {}
        for ratio in _RATIOS:
            count = kept_count(total, ratio, multiple)
            gap = abs(1 - count / total - ratio)
            if count < total and (count not in best or gap < abs(1 - count / total - best[count])):
                best[count] = ratio
        knobs = [Knob("ratio", tuple(sorted(best.values())), bounds=(0.0, 0.95))]
        if site.kind == "group":
            knobs += [
                Knob("criterion", ("l2", "l1"), ordered=False),
                Knob("round_to", (multiple,), ordered=False, bounds=(1, 64)),
            ]
        return tuple(knobs)

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:  # noqa: ARG002 - the contract
        """Cut the weakest channels out of every module of the site that still exists."""
        slices = [s for s in site.slices if draft.has(s.module)]
        if not slices:
            return
        count = kept_count(site.shape[0], float(params["ratio"]), int(params.get("round_to", 1)))
        scores = importance(draft, slices, str(params.get("criterion", "l2")))
        weakest = scores.argsort(stable=True)[: len(scores) - count].tolist()
        for member in slices:
            module = draft.module(member.module)
            here = _here(draft, member, module)
            lost = [position for channel in weakest for position in member.positions[channel]]
            index = remaining(here, lost)
            if len(index) < len(here):
                keep(module, member.side, index)
                draft.kept[member.module, member.side] = here[index]
                settle(draft.model, member.module)


def importance(draft: Draft, slices: list[Slice], criterion: str) -> Tensor:
    """Return the rank of every channel of a group, (channels,) in fp64; a larger value is worth more.

    Parameters
    ----------
    draft
        Modules that other groups may already have cut.
    slices
        What each module would lose.
    criterion
        "l2" or "l1": the norm over a channel's part of each weight tensor.
    """
    total = torch.zeros(len(slices[0].positions), dtype=torch.float64)
    for member in slices:
        module = draft.module(member.module)
        dim = axes(module, member.side).get("weight")
        if dim is None or isinstance(module, nn.PReLU):
            continue  # a slope or a norm without weights says nothing about what its channel is worth
        weight = module.get_parameter("weight").detach().double().cpu().movedim(dim, 0)
        weight = weight.reshape(len(weight), -1)
        powers = weight.square().sum(1) if criterion == "l2" else weight.abs().sum(1)
        # Where each of the group's positions is now, and whose it is.
        owner = torch.tensor([c for c, own in enumerate(member.positions) for _ in own])
        original = torch.tensor([p for own in member.positions for p in own])
        place = torch.searchsorted(_here(draft, member, module), original)
        norm = torch.zeros_like(total).index_add_(0, owner, powers[place])
        norm = norm.sqrt() if criterion == "l2" else norm
        total += norm / norm.mean().clamp(min=torch.finfo(torch.float64).tiny)
    return total


def _here(draft: Draft, member: Slice, module: nn.Module) -> Tensor:
    """Return which original positions a side of a module still has, ascending."""
    known = draft.kept.get((member.module, member.side))
    return known if known is not None else torch.arange(width(module, member.side))


register(Channels())
