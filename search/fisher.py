"""How much the loss cares for each weight and each channel: the diagonal of the empirical Fisher information.

One pass over calibration data with gradients serves every layer and every technique: to second order a change dW of
the weights raises the loss by ``1/2 sum F dW^2`` (LeCun et al., "Optimal Brain Damage", NIPS 1989; Fisher in place of
the Hessian: Theis et al., 2018, arXiv:1801.05787), and removing a channel by half the squared derivative by a factor on
it, which is the squared first-order Taylor term (Molchanov et al., CVPR 2019, arXiv:1906.10771). Channels that go
together pull together: of a set it is half the squared sum of their derivatives, see `Fisher.without`.

For class scores that is a rise of the cross-entropy, averaged over all positions that it counts; weights of classes
don't matter. Gradients of other losses have the unit of the loss squared, which
says nothing of damage (a thousand times the loss has a million times the information), so these only weigh the outputs:
damage is half the squared change of the outputs in units of their own variance, as if they were compared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compressors.distillation.losses import ignored, scores_classes
from ..spaces.data import Batch
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
        Parameter name -> expected squared gradient, shaped like the parameter. Those that no gradient reached are left
        out.
    channels
        Name of a group or of heads -> (passes, channels) derivatives by a factor on the channel, each of a few
        examples, in such a unit that their squares add up to expected ones. Left out as above.
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

    What no gradient passes (a part under `torch.no_grad`, a rounding in front of it) or only a NaN has no information.
    """
    model = copy.deepcopy(task.model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    everything = list(sites)
    named = {name for site in everything for name in site.weights}
    coupled = {site: [name for name, _, _ in _readers(model, site)] for site in everything if site.slices}
    wanted = {name: model.get_parameter(name) for name in (*named, *(n for names in coupled.values() for n in names))}
    totals = {name: _Total(torch.zeros_like(parameter)) for name, parameter in wanted.items()}
    pulls = {site.name: _Rows() for site in coupled}
    classes, softness = scores_classes(task.loss), temperature(task)
    by_loss = classes or _loss_works(task, model)
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for args, target in _micro(task, examples):
        try:
            with torch.enable_grad():
                output = model(*args)
                if classes:
                    pull, size = _drawn_pull(output.detach(), counted(task, output, target), softness, generator)
                elif by_loss:
                    pull = _loss_pull(task, output.detach(), target, generator)
                    size = float(pull.square().sum())
                else:
                    pull = torch.randn(output.shape, generator=generator).to(output.device)
                    size = float(pull.square().sum())
                grads = torch.autograd.grad(output, list(wanted.values()), pull, allow_unused=True)
        except RuntimeError:  # no gradient passes at all, as in inference mode
            break
        if not size or not math.isfinite(size):
            continue  # such as a batch of examples that the loss ignores
        seen += len(target)
        by_name = dict(zip(wanted, grads))
        for name, grad in by_name.items():
            totals[name].add(grad, size)
        for site in coupled:
            pulls[site.name].add(_by_channel(model, site, by_name), size)
    # A change of the outputs by their standard deviation is a damage of 1/2, whatever the size of the loss's gradients.
    unit = 1.0 if classes else _deviation(task) ** 2
    reached = {name for name, total in totals.items() if total.sum.any()}
    weights = {name: totals[name].sum / (totals[name].size * unit) for name in sorted(named & reached)}
    passed = [site.name for site, readers in coupled.items() if readers and reached.issuperset(readers)]
    channels = {name: torch.stack(pulls[name].rows) / (pulls[name].size * unit) ** 0.5 for name in passed}
    return Fisher(weights, channels, seen, by_loss)


@dataclass
class _Total:
    """Squared gradients of one weight, and the size of what pulled; without those that aren't finite."""

    sum: Tensor
    size: float = 0.0

    def add(self, grad: Tensor | None, size: float) -> None:
        if grad is None:  # not used by these examples
            self.size += size
        elif grad.isfinite().all():
            self.sum += grad.square()
            self.size += size


@dataclass
class _Rows:
    """Derivatives by a group's channels, and the size of what pulled; without those that aren't finite."""

    rows: list[Tensor] = field(default_factory=list)
    size: float = 0.0

    def add(self, row: Tensor, size: float) -> None:
        if row.isfinite().all():
            self.rows.append(row)
            self.size += size


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


def counted(task: Task, output: Tensor, target: Tensor) -> Tensor:
    """Return which positions (batch, ...) of class scores (batch, classes, ...) the task's cross-entropy counts."""
    shape = (output.shape[0], *output.shape[2:])
    if target.shape != shape or target.is_floating_point():
        return torch.ones(shape, dtype=torch.bool, device=output.device)
    return target.to(output.device) != ignored(task.loss)


def temperature(task: Task) -> float:
    """Return what class scores are divided by so that the original model is in doubt about its calibration examples.

    A model that is sure of all of them has a loss that is flat around its weights and steep further away, about which
    gradients say nothing. 1 for a loss other than cross-entropy, and for a model that is in doubt anyway.
    """
    if not scores_classes(task.loss):
        return 1.0
    outputs = []
    with torch.no_grad():
        for args, target in _micro(task, DOUBTED):
            output = task.model(*args)
            outputs.append(output.movedim(1, -1)[counted(task, output, target)])
    scores = torch.cat(outputs)
    softness = 1.0
    while softness < HOTTEST and float((1 - (scores / softness).softmax(1).square().sum(1)).mean()) < DOUBT:
        softness *= 1.1
    return softness


def _drawn_pull(output: Tensor, counts: Tensor, softness: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Return the gradient of the summed cross-entropy by class scores, at their temperature, for classes drawn as the
    scores say, so that gradients have mean zero; and how many positions count. NaN if scores aren't finite.
    """
    if not output.isfinite().all():
        return output, math.nan
    shares = (output / softness).movedim(1, -1).softmax(-1)
    drawn = torch.multinomial(shares.flatten(0, -2).cpu(), 1, generator=generator).reshape(shares.shape[:-1])
    pull = (shares - F.one_hot(drawn.to(shares.device), shares.shape[-1])) * counts[..., None] / softness
    return pull.movedim(-1, 1), float(counts.sum())


def _loss_pull(task: Task, output: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
    """Return the gradient of the loss by the outputs, each with a sign drawn at random: gradients have mean zero, and
    every output counts by itself. It is always taken on as many examples, so that a mean over them is as good as a sum.
    NaN if the loss isn't finite.
    """
    rows = torch.arange(_MICRO, device=output.device) % len(target)
    free = output[rows].requires_grad_()
    value = task.loss(free, target[rows])
    [pull] = torch.autograd.grad(value, free)
    signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
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
        outputs = torch.cat([task.model(*args).flatten() for args, _ in _micro(task, DOUBTED)])
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


def _by_channel(model: nn.Module, site: Site, grads: Mapping[str, Tensor | None]) -> Tensor:
    """Return the loss's derivative by a factor on each channel, (channels,)."""
    total = torch.zeros(site.shape[0])
    owner_of: dict[tuple[tuple[int, ...], ...], tuple[Tensor, Tensor]] = {}
    for name, dim, positions in _readers(model, site):
        grad = grads[name]
        if grad is None:
            continue
        if positions not in owner_of:
            owner_of[positions] = (
                torch.tensor([c for c, own in enumerate(positions) for _ in own]),
                torch.tensor([p for own in positions for p in own]),
            )
        owner, place = owner_of[positions]
        each = (grad * model.get_parameter(name).detach()).movedim(dim, 0).flatten(1).sum(1).cpu()
        total.index_add_(0, owner, each[place])
    return total
