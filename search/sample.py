"""A few weights of one layer, on which techniques are applied together."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import nn
from torch.nn.utils import skip_init

from ..compressors.base import apply_step
from ..compressors.draft import Context, Draft
from ..compressors.packing import pack_tensor, packed_bytes
from ..spaces.choices import Setting
from ..spaces.site import Site
from .effects import Survey, compressor

#: How many weights.
SAMPLE = 4096


class Sample:
    """A few rows of one layer's weight, on which techniques are applied together to see what bytes they leave.

    Parameters
    ----------
    survey
        For its coder.
    site
        The layer.
    """

    def __init__(self, survey: Survey, site: Site) -> None:
        self._survey = survey
        weight = survey.task.model.get_parameter(site.weights[0]).detach()
        matrix = weight.flatten(1)[:, :SAMPLE]
        self._weight = matrix[: max(1, SAMPLE // matrix.shape[1])].clone()

    def bytes(self, *settings: Setting) -> int:
        """Return the bytes of the sample after these settings; one that can't be applied to it counts as nothing."""
        rows, columns = self._weight.shape
        layer = skip_init(nn.Linear, columns, rows, bias=False)
        with torch.no_grad():
            layer.weight.copy_(self._weight)
        site = Site("sample", "linear", ("sample",), ("sample.weight",), (rows, columns))
        draft = Draft(nn.ModuleDict({"sample": layer}).eval())
        context = Context(self._survey.task, {**self._survey.sites, "sample": site}, 0)
        steps = [s.step("sample") for s in settings if s.technique]
        for step in (*steps, *([self._survey.coder] if self._survey.coder else [])):
            entry = compressor(step.technique)
            if entry.supports(context.sites[step.site]):
                with suppress(Exception):  # such as a technique that looks at the rest of the model
                    apply_step(entry, draft, step, context)
        return packed_bytes(*pack_tensor(draft.parameter("sample.weight").detach(), draft.encoding("sample.weight")))
