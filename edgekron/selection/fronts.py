"""Fronts: the candidates of every layer that are worth choosing among."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgekron.decomposition import decompose
from edgekron.eligibility import groups_of
from edgekron.factors import relative_error
from edgekron.network import LayerUse, layer_macs, structure_macs
from edgekron.parallel import in_parallel
from edgekron.plan.cost import Cpu
from edgekron.progress import Progress, silent
from edgekron.selection.candidates import (
    Candidates,
    Found,
    candidates,
    relative_errors,
    spectra_shapes,
    worth_polish,
)
from edgekron.selection.latency import PredictedLatency
from edgekron.selection.methods import Method, families, search
from edgekron.structure import Structure


def layer_candidates(
    eligible: Mapping[str, LayerUse],
    method: Method = "gkpd",
    max_factors: int = 3,
    progress: Progress = silent,
    *,
    timed_on: Cpu | None = None,
) -> dict[str, Candidates]:
    """The Pareto front of every layer. Errors are computed by one thread per core.

    Two factors are searched for the methods that have them, and for layers that have nothing else.
    timed_on: predict the latency of every candidate on it.
    """
    every = _others(eligible, method, max_factors, progress)
    others = _polished(eligible, every, progress)
    jobs = [
        (name, first)
        for name, use in eligible.items()
        if method in ("auto", "gkpd") or not others[name]
        for first in spectra_shapes(tuple(use.weight.shape), groups_of(use.module))
    ]
    spectra: dict[str, dict[tuple[int, ...], NDArray[np.float64]]] = {name: {} for name in eligible}
    jobs.sort(key=lambda job: -eligible[job[0]].weight.numel())
    results = in_parallel(lambda job: relative_errors(eligible[job[0]].weight, job[1]), jobs)
    for done, ((name, first), errors) in enumerate(zip(jobs, results, strict=True), 1):
        spectra[name][first] = errors
        progress("spectra", done, len(jobs))
    result = {}
    for done, (name, use) in enumerate(eligible.items(), 1):
        front = candidates(
            tuple(use.weight.shape),
            spectra[name],
            partial(structure_macs, use),
            layer_macs(use),
            others[name],
            PredictedLatency(use, timed_on) if timed_on else None,
        )
        unpolished = len(every[name]) - len(others[name])
        result[name] = replace(front, considered=front.considered + unpolished)
        progress("candidates", done, len(eligible))
    return result


def _others(
    eligible: Mapping[str, LayerUse], method: Method, max_factors: int, progress: Progress
) -> dict[str, list[Found]]:
    """Structures of more than two factors with fewer parameters and no more MACs, by layer."""
    jobs = [
        (name, structure)
        for name, use in eligible.items()
        for structure in families(tuple(use.weight.shape), method, max_factors, groups_of(use.module))
    ]

    def work(job: tuple[str, Structure]) -> list[Found]:
        use, (_, template) = eligible[job[0]], job
        weight, most = use.weight.detach(), layer_macs(use)

        def useful(structure: Structure) -> bool:
            return structure.parameters < weight.numel() and structure_macs(use, structure) <= most

        return search(weight, template, useful)

    found: dict[str, list[Found]] = {name: [] for name in eligible}
    for done, ((name, _), more) in enumerate(zip(jobs, in_parallel(work, jobs), strict=True), 1):
        found[name] += more
        progress("families", done, len(jobs))
    return found


def _polished(
    eligible: Mapping[str, LayerUse], every: Mapping[str, list[Found]], progress: Progress
) -> dict[str, list[Found]]:
    """The front of each pattern of each layer, with the errors that `decompose` really reaches.

    Only so are methods comparable: alternating least squares lowers the error of one more than of
    another. The front of a pattern does not depend on which others are searched beside it.
    """
    jobs = [
        (name, found.structure)
        for name, use in eligible.items()
        for pattern in sorted({each.structure.pattern for each in every[name]})
        for found in worth_polish(
            [each for each in every[name] if each.structure.pattern == pattern], partial(structure_macs, use)
        )
    ]

    def work(job: tuple[str, Structure]) -> float:
        weight = eligible[job[0]].weight.detach()
        return relative_error(weight, decompose(weight, job[1])) ** 2

    result: dict[str, list[Found]] = {name: [] for name in eligible}
    for done, ((name, structure), error) in enumerate(zip(jobs, in_parallel(work, jobs), strict=True), 1):
        result[name].append(Found(structure, error))
        progress("polish", done, len(jobs))
    return result
