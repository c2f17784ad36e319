"""What all tests share: one torch thread, no time limit per hypothesis example."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("edgekron", deadline=None)
settings.load_profile("edgekron")
