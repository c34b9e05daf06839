"""For all tests."""

from __future__ import annotations

import os

import torch

# The models here are tiny: threads only make them wait for each other, the more so on a busy machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Results of an earlier test run, or of another version of the code, must not reach this one.
os.environ["PARETOPRESS_CACHE"] = "off"
