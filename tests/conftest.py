"""What all tests share: one torch thread; the same hypothesis examples each time, without time limit; a
cache of timings of their own, and no environments.

EDGEKRON_CASES, the number of generated decompositions, draws new ones.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("edgekron", deadline=None, derandomize="EDGEKRON_CASES" not in os.environ)
settings.load_profile("edgekron")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test finds an empty cache and an empty root of environments; both are made on first use."""
    own = tmp_path_factory.getbasetemp() / "caches" / os.urandom(8).hex()
    monkeypatch.setenv("EDGEKRON_CACHE", str(own))
    monkeypatch.setenv("EDGEKRON_RUNTIMES", str(own / "runtimes"))
