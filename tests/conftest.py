"""What all tests share: one torch thread; the same hypothesis examples each time, without time limit.

EDGEKRON_CASES, the number of generated decompositions, draws new ones.
"""

from __future__ import annotations

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("edgekron", deadline=None, derandomize="EDGEKRON_CASES" not in os.environ)
settings.load_profile("edgekron")
