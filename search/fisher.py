"""How much the loss cares for each weight and each channel: the diagonal of the empirical Fisher information.

One pass over calibration data with gradients serves every layer and every technique: to second order a change dW of
the weights raises the loss by ``1/2 sum F dW^2`` (LeCun et al., "Optimal Brain Damage", NIPS 1989; Fisher in place of
the Hessian: Theis et al., 2018, arXiv:1801.05787), and removing a channel by half the squared derivative by a factor on
it, which is the squared first-order Taylor term (Molchanov et al., CVPR 2019, arXiv:1906.10771). Channels that go
together pull together: of a set it is half the squared sum of their derivatives, see `Fisher.without`.

For class scores that is a rise of the cross-entropy. Gradients of other losses have the unit of the loss squared, which
says nothing of damage (a thousand times the loss has a million times the information), so these only weigh the outputs:
damage is half the squared change of the outputs in units of their own variance, as if they were compared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compressors.distillation.losses import scores_classes
from ..spaces.data import Batch
from ..spaces.metric import IGNORED
from ..spaces.site import Site
from ..spaces.slicing import axes
from ..spaces.task import Task

#: Calibration examples that are looked at.
EXAMPLES = 512
#: How much doubt the original model should have, as 1 minus the sum of squared probabilities; examples that are asked
#: for it; and the highest temperature.
DOUBT, DOUBTED, HOTTEST = 0.3, 128, 100.0
#: Examples whose gradients are summed before they are squared.
_MICRO = 8


@dataclass(frozen=True)
class Fisher:
    """What `measure_fisher` found.

    Attributes
    ----------
    weights
        Parameter name -> expected squared gradient, shaped like the parameter.
    channels
        Name of a group or of heads -> (passes, channels) derivatives by a factor on the channel, each of a few
        examples, in such a unit that their squares add up to expected ones.
    examples
        On how many examples it rests.
    by_loss
        False if the outputs aren't class scores and the task's loss can't be evaluated on the calibration data, so
        that all outputs count alike.
    """

    weights: dict[str, Tensor]
    channels: dict[str, Tensor]
    examples: int
    by_loss: bool

    @classmethod
    def blank(cls, task: Task, sites: Iterable[Site]) -> Fisher:
        """Return one of zeros, to see how long effects take before any is measured."""
        everything = list(sites)
        weights = {name: torch.zeros_like(task.model.get_parameter(name)) for s in everything for name in s.weights}
        return cls(weights, {s.name: torch.zeros(1, s.shape[0]) for s in everything if s.slices}, 0, True)

    def without(self, name: str, lost: Tensor) -> float:
        """Return the predicted damage of removing channels (a mask of them) of a group.

        That is half the squared sum of their derivatives; where these cancel out, half the sum of the squares. On the
        groups of six networks what the outputs really do is 0.5 to 1.6 times as much (median of each network), and 0.7
        to 6.6 times as much as the sum of the squares alone.
        """
        pulls = self.channels[name][:, lost]
        return max(float(pulls.sum(1).square().sum()), float(pulls.square().sum())) / 2


def measure_fisher(task: Task, sites: Iterable[Site], examples: int = EXAMPLES) -> Fisher:
    """Return the Fisher information of the original model's weights and channels.

    Parameters
    ----------
    task
        Its model, its loss and its calibration data.
    sites
        Whose weights and channels.
    examples
        How many calibration examples are looked at, at most.

    The gradients of a few examples are squared together: their sum has the variance of the sum of their squares as
    long as single gradients are larger than their mean, and it costs as much less time.
    """
    model = copy.deepcopy(task.model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    everything = list(sites)
    named = {name: model.get_parameter(name) for site in everything for name in site.weights}
    coupled = [s for s in everything if s.slices]
    readers = {name: model.get_parameter(name) for site in coupled for name, _, _ in _readers(model, site)}
    wanted = {**named, **readers}
    weights = {name: torch.zeros_like(p) for name, p in named.items()}
    channels: dict[str, list[Tensor]] = {s.name: [] for s in coupled}
    classes, softness = scores_classes(task.loss), temperature(task)
    by_loss = classes or _loss_works(task, model)
    generator = torch.Generator().manual_seed(0)
    seen, size = 0, 0.0
    for args, target in _micro(task, examples):
        with torch.enable_grad():
            output = model(*args)
            if classes:
                pull = _drawn_pull(output.detach(), target, softness, generator)
            elif by_loss:
                pull = _loss_pull(task, output.detach(), target, generator)
            else:
                pull = torch.randn(output.shape, generator=generator).to(output.device)
            grads = torch.autograd.grad(output, list(wanted.values()), pull, allow_unused=True)
        by_name = {name: g for name, g in zip(wanted, grads) if g is not None}
        if not all(x.isfinite().all() for x in (pull, *by_name.values())):
            continue  # such as a batch of examples that the loss ignores
        seen += len(target)
        size += float(pull.square().sum())
        for name in weights.keys() & by_name.keys():
            weights[name] += by_name[name].square()
        for site in coupled:
            channels[site.name].append(_by_channel(model, site, by_name))
    # A change of the outputs by their standard deviation is a damage of 1/2, whatever the size of the loss's gradients.
    whole = max(seen, 1) if classes else max(size, torch.finfo(torch.float32).tiny) * _deviation(task) ** 2
    weights = {name: total / whole for name, total in weights.items()}
    pulls = {s.name: torch.stack(channels[s.name] or [torch.zeros(s.shape[0])]) / whole**0.5 for s in coupled}
    return Fisher(weights, pulls, seen, by_loss)


def _micro(task: Task, examples: int) -> Iterator[Batch]:
    seen = 0
    device = next((p.device for p in task.model.parameters()), torch.device("cpu"))
    for args, target in task.calibration:
        for start in range(0, len(target), _MICRO):
            here = slice(start, start + _MICRO)
            # Copies: a model may work on its input in place.
            part = tuple((a[here] if a.ndim and len(a) == len(target) else a).to(device, copy=True) for a in args)
            yield part, target[here].to(device)
            seen += len(target[here])
            if seen >= examples:
                return


def temperature(task: Task) -> float:
    """Return what class scores are divided by so that the original model is in doubt about its calibration examples.

    A model that is sure of all of them has a loss that is flat around its weights and steep further away, about which
    gradients say nothing. 1 for a loss other than cross-entropy, and for a model that is in doubt anyway.
    """
    if not scores_classes(task.loss):
        return 1.0
    with torch.no_grad():
        outputs = [task.model(*args).movedim(1, -1).flatten(0, -2) for args, _ in _micro(task, DOUBTED)]
    scores = torch.cat(outputs)
    softness = 1.0
    while softness < HOTTEST and float((1 - (scores / softness).softmax(1).square().sum(1)).mean()) < DOUBT:
        softness *= 1.1
    return softness


def _drawn_pull(output: Tensor, target: Tensor, softness: float, generator: torch.Generator) -> Tensor:
    """Return the gradient of the summed cross-entropy by class scores, at their temperature, for classes drawn as the
    scores say, so that gradients have mean zero. What the target ignores stays ignored; NaN if that is all.
    """
    scores = (output / softness).requires_grad_()
    shares = scores.detach().movedim(1, -1).softmax(-1)
    drawn = torch.multinomial(shares.flatten(0, -2).cpu(), 1, generator=generator).reshape(shares.shape[:-1]).to(target)
    if target.shape == drawn.shape and not target.is_floating_point():
        drawn = torch.where(target == IGNORED, target, drawn)
    value = F.cross_entropy(scores, drawn.long())
    [pull] = torch.autograd.grad(value, scores)
    return pull * len(target) / softness + (0 * value).detach()


def _loss_pull(task: Task, output: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
    """Return the gradient of the loss by the outputs, each example's with a sign drawn at random, so that gradients
    have mean zero. It is always taken on as many examples, so that a mean over them is as good as a sum. NaN if the
    loss isn't finite.
    """
    rows = torch.arange(_MICRO, device=output.device) % len(target)
    free = output[rows].requires_grad_()
    value = task.loss(free, target[rows])
    [pull] = torch.autograd.grad(value, free)
    signs = torch.randint(0, 2, (len(target), *[1] * (output.ndim - 1)), generator=generator) * 2 - 1
    return pull[: len(target)] * signs.to(pull) + (0 * value).detach()


def _loss_works(task: Task, model: nn.Module) -> bool:
    """Whether the loss has a gradient by the outputs; one that compares them with themselves has none."""
    args, target = next(_micro(task, 1))
    try:
        with torch.enable_grad():
            pull = _loss_pull(task, model(*args).detach(), target, torch.Generator())
        return bool(pull.isfinite().all() and pull.any())
    except Exception:
        return False


def _deviation(task: Task) -> float:
    """Return the standard deviation of the original model's outputs."""
    with torch.no_grad():
        outputs = torch.cat([task.model(*args) for args, _ in _micro(task, DOUBTED)])
    return max(float(outputs.std(correction=0)), torch.finfo(torch.float32).tiny)


def _readers(model: nn.Module, site: Site) -> Iterator[tuple[str, int, tuple[tuple[int, ...], ...]]]:
    """Yield the weights that a channel's value is multiplied with: name, dimension, positions of each channel.

    A channel whose readers' weights are zero is as good as removed. Where nothing reads it, its producers count.
    """
    for side in ("in", "out"):
        found = [s for s in site.slices if s.side == side]
        for part in found:
            dim = axes(model.get_submodule(part.module), side).get("weight")
            if dim is not None:
                yield f"{part.module}.weight", dim, part.positions
        if found:
            return


def _by_channel(model: nn.Module, site: Site, grads: dict[str, Tensor]) -> Tensor:
    """Return the loss's derivative by a factor on each channel, (channels,)."""
    total = torch.zeros(site.shape[0])
    owner_of: dict[tuple[tuple[int, ...], ...], tuple[Tensor, Tensor]] = {}
    for name, dim, positions in _readers(model, site):
        if name not in grads:
            continue
        if positions not in owner_of:
            owner_of[positions] = (
                torch.tensor([c for c, own in enumerate(positions) for _ in own]),
                torch.tensor([p for own in positions for p in own]),
            )
        owner, place = owner_of[positions]
        each = (grads[name] * model.get_parameter(name).detach()).movedim(dim, 0).flatten(1).sum(1).cpu()
        total.index_add_(0, owner, each[place])
    return total
