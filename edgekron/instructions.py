"""Instructions: what one inference executes, where an emulator can count it and time means nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Instructions:
    """Instructions of one inference, after a first one that allocates.

    architecture: whose they are, for instance "aarch64 cortex-a53"; classes: how many of each class of
    kernels, the largest first; a class is named by what it does ("fmla", "sdot", "load", ..).
    """

    architecture: str
    total: int
    classes: Mapping[str, int]
