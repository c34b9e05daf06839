"""Recovery training with knowledge distillation: the compressed model is trained on, towards the original.

The student learns *in its compressed form*. A quantised weight trains through its number format, a shared one
through its centroids, a pruned one stays zero, and the result is stored in the format that it had before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ...spaces.data import Batch, nan_in, to_device
from ...spaces.errors import DataError, ModelError
from ...spaces.knob import Knob
from ...spaces.site import Site
from ...spaces.stage import Stage
from ...spaces.task import Task
from ..base import Compressor, DataNeed, Params, register
from ..draft import Checkpoint, Context, Draft
from ..encoding import Float32, Trainable
from .losses import teacher_loss
from .state import Feed, Training

#: Gradients are scaled down to this Euclidean norm: a freshly damaged model gives steep ones at first.
CLIP_NORM = 1.0


class Student:
    """A draft in training: every compressed weight in the trainable form of its codec, all else as it is.

    Parameters
    ----------
    draft
        Its model is put into training mode. Parameters that the user froze (``requires_grad=False``) stay
        frozen unless they were pruned or quantised.

    Raises
    ------
    ModelError
        If nothing in it can train.
    """

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.forms: dict[str, Trainable] = {}
        replaced: set[int] = set()
        for name, encoding in draft.encodings.items():
            if encoding.mask is not None or not isinstance(encoding.codec, Float32):
                replaced.add(id(draft.parameter(name)))
                self.forms[name] = encoding.codec.trainable(self.masked(name, _start(draft, name)))
        self.parameters = [p for p in draft.model.parameters() if p.requires_grad and id(p) not in replaced]
        self.parameters += [p for form in self.forms.values() for p in form.parameters()]
        if not self.parameters:
            raise ModelError(
                "model: every parameter has requires_grad=False, so recovery training can change nothing. "
                "Unfreeze the layers to train, or leave out the technique 'distillation'."
            )
        draft.model.train()

    def masked(self, name: str, weight: Tensor) -> Tensor:
        """Return the weight with exact zeros where its mask has them; no gradient reaches those places."""
        mask = self.draft.encoding(name).mask
        return weight if mask is None else weight.masked_fill(~mask, 0.0)

    def __call__(self, args: tuple[Tensor, ...]) -> Tensor:
        """Return the model's outputs on one batch, from the weights as they would be stored."""
        for module in self.draft.model.modules():
            if isinstance(module, _BatchNorm):
                module.train(len(args[0]) > 1)  # one example has no variance to normalise by
        dense = {name: self.masked(name, form()) for name, form in self.forms.items()}
        out: Tensor = functional_call(self.draft.model, dense, args)
        return out

    @torch.no_grad()
    def stored(self, args: tuple[Tensor, ...]) -> Tensor:
        """Return the outputs on one batch of the model as it would be stored now: in eval mode, changing nothing."""
        modes = [(module, module.training) for module in self.draft.model.modules()]
        self.draft.model.eval()
        try:
            dense = {name: self.masked(name, form()) for name, form in self.forms.items()}
            out: Tensor = functional_call(self.draft.model, dense, args)
            return out
        finally:
            for module, mode in modes:
                module.training = mode

    def finish(self) -> None:
        """Write what was learnt back into the draft, in eval mode and on each codec's grid."""
        for name, form in self.forms.items():
            weight, codec = form.finish()
            self.draft.restore_codec(name, self.masked(name, weight), codec)
        self.draft.model.eval()


class Distillation(Compressor):
    """Train the compressed model on its training data, towards targets and teacher (Hinton et al., 2015).

    The loss is ``(1 - weight) * task.loss + weight * teacher's``, the latter on softened class probabilities
    for a cross-entropy task and on raw outputs for any other. The teacher is the original model. Adam takes
    the steps, its learning rate falling to zero along half a cosine (Loshchilov & Hutter, 2017), with
    gradients clipped to norm 1.
    """

    name = "distillation"
    stage = Stage.RECOVERY
    kinds = frozenset({"model"})
    data_need = DataNeed.TRAINING
    summary = "train the compressed model with the original as its teacher"
    paper = "Hinton et al., 2015, arXiv:1503.02531"

    def knobs(self, site: Site) -> tuple[Knob, ...]:  # noqa: ARG002 - the same for every model
        """Return optimiser steps, initial learning rate, temperature, and the teacher's share of the loss."""
        return (
            Knob("steps", (25, 50, 100, 200, 400), bounds=(1, 1_000_000)),
            Knob("learning_rate", (1e-4, 3e-4, 1e-3, 3e-3), bounds=(1e-7, 1.0)),
            Knob("temperature", (1.0, 2.0, 4.0, 8.0), bounds=(0.1, 100.0)),
            Knob("weight", (0.0, 0.5, 0.9, 1.0), bounds=(0.0, 1.0)),
        )

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:  # noqa: ARG002 - there is one model
        """Train the draft.

        Raises
        ------
        DataError
            If the task has no training data.
        ModelError
            If no parameter can train.
        RuntimeError
            If the loss is not finite at some step.
        """
        task = context.task
        if task.train is None:
            raise DataError(
                "train data: the technique 'distillation' needs it, but the task has none. "
                "Give Task(train=...), or leave the technique out."
            )
        student = Student(draft)
        steps, rate = int(params["steps"]), float(params["learning_rate"])
        optimiser = torch.optim.Adam(student.parameters, lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        training = Training(student.forms, draft.model, optimiser, schedule, Feed(task.train, steps))
        training.resume(context.saves.load(self.name))
        for step, batch in training.feed:
            loss = _loss(student, task, batch, float(params["temperature"]), float(params["weight"]))
            if not math.isfinite(loss.item()):
                if held := nan_in(*batch):
                    raise RuntimeError(f"recovery training: the batch of step {step} holds NaN in its {held}")
                raise RuntimeError(
                    f"recovery training: the loss is {loss.item()} at step {step} of {steps} "
                    f"with learning_rate = {rate:g}"
                )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters, CLIP_NORM)
            optimiser.step()
            schedule.step()
            context.checkpoint(Checkpoint(step, steps, len(batch[1]), student.stored))
            if step < steps and context.saves.due():
                context.saves.save(self.name, *training.state())
        student.finish()


def _start(draft: Draft, name: str) -> Tensor:
    # From the weight before rounding, so that it needn't cross half a step of its grid to change at all;
    # unless the technique chose other values than the nearest ones.
    weight = draft.parameter(name).detach()
    latent = draft.latents.get(name, weight)
    return latent if torch.equal(draft.encoding(name).project(latent), weight) else weight


def _loss(student: Student, task: Task, batch: Batch, temperature: float, weight: float) -> Tensor:
    device = student.parameters[0].device
    args, target = to_device(batch, device)
    out = student(args)
    total = torch.zeros((), device=device)
    if weight < 1.0:
        total = total + (1.0 - weight) * task.loss(out, target)
    if weight > 0.0:
        with torch.no_grad():
            teacher = task.model(*to_device(batch, device)[0])
        total = total + weight * teacher_loss(out, teacher, temperature, task.loss)
    return total


register(Distillation())
