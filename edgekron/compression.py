"""Compress: model -> the same model with Kronecker layers, one structure chosen per layer."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekron.decomposition import Factors, decompose, kronecker_to_tensor, one_thread
from edgekron.errors import EdgekronError, StructureError, UnsupportedError, UsageError
from edgekron.layers import LAYERS, KroneckerLayer, dense_weight
from edgekron.network import (
    Inputs,
    LayerUse,
    layer_macs,
    layer_uses,
    parameters,
    replace_module,
    structure_macs,
)
from edgekron.plan import group_digits
from edgekron.plan.cost import Cpu
from edgekron.progress import Progress, silent
from edgekron.selection.candidates import (
    Candidates,
    Found,
    candidates,
    first_shapes,
    relative_errors,
    spectra_shapes,
    worth_polish,
)
from edgekron.selection.knapsack import choose
from edgekron.selection.latency import PredictedLatency, layer_time, predicted_time
from edgekron.selection.methods import Method, families, search
from edgekron.structure import Structure
from edgekron.table import table

Job = TypeVar("Job")
Result = TypeVar("Result")
_CHOSEN_DENSE = "no structure is worth its error within the budget"


@dataclass(frozen=True)
class LayerChoice:
    """What became of one layer: its structure, or why it was left as it was.

    relative_error: ‖W−Ŵ‖/‖W‖; parameters and macs: before and after; MACs for one image.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    structure: str | None
    reason: str | None
    relative_error: float
    parameters: tuple[int, int]
    macs: tuple[int, int]


@dataclass(frozen=True)
class Search:
    """What the structures were chosen among; what each method leaves out: `edgekron.selection.methods`.

    structures: how many of all layers were smaller than dense and no more work.
    """

    method: str
    max_factors: int
    structures: int

    def __str__(self) -> str:
        most = f", at most {self.max_factors} factors" if self.method in ("sekron", "auto") else ""
        return f"chosen among {self.structures:,} structures (method {self.method}{most})"


@dataclass(frozen=True)
class CompressionReport:
    """All layers, and the whole network before and after; its text is a table.

    search: None where the structures were given, and in reports of older versions; latency: predicted,
    ns, of all layers with a weight, where a speed-up was asked for.
    """

    layers: tuple[LayerChoice, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    search: Search | None = None
    latency: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        """Parameters before over after."""
        return _times(self.parameters)

    @property
    def macs_ratio(self) -> float:
        """MACs before over after."""
        return _times(self.macs)

    @property
    def speedup(self) -> float | None:
        """Predicted latency before over after."""
        return self.latency[0] / self.latency[1] if self.latency else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        own = {"ratio": self.ratio, "macs_ratio": self.macs_ratio, "speedup": self.speedup}
        return asdict(self) | own

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CompressionReport:
        """The report that `to_json` wrote."""
        pairs = ("shape", "parameters", "macs")
        layers = tuple(
            LayerChoice(**(row | {key: tuple(row[key]) for key in pairs})) for row in data["layers"]
        )
        search = Search(**data["search"]) if data.get("search") is not None else None
        latency = tuple(data["latency"]) if data.get("latency") is not None else None
        return CompressionReport(layers, tuple(data["parameters"]), tuple(data["macs"]), search, latency)

    def __str__(self) -> str:
        rows = [
            [
                layer.name,
                "x".join(map(str, layer.shape)),
                layer.structure or f"dense: {layer.reason}",
                "" if layer.reason else f"{layer.relative_error:.3f}",
                f"{_times(layer.parameters):.2f}x",
                f"{_times(layer.macs):.2f}x" if layer.macs[1] else "",
            ]
            for layer in self.layers
        ]
        head = ["layer", "weight", "structure", "error", "params", "MACs"]
        lines = [table(head, rows, left=3), *([str(self.search)] if self.search else [])]
        lines.append(
            f"parameters {self.parameters[0]:,} -> {self.parameters[1]:,} ({self.ratio:.2f}x), "
            f"MACs {self.macs[0]:,} -> {self.macs[1]:,} ({self.macs_ratio:.2f}x)"
        )
        if self.latency:
            before, after = (f"{ns / 1e6:,.2f} ms" for ns in self.latency)
            lines.append(f"latency of these layers, predicted: {before} -> {after} ({self.speedup:.2f}x)")
        return "\n".join(lines)


def _times(pair: tuple[int, int]) -> float:
    before, after = pair
    return before / after if after else 1.0


def compress(
    model: nn.Module,
    *,
    example_inputs: Tensor | Inputs,
    ratio: float | None = None,
    macs: float | None = None,
    speedup: float | None = None,
    cpu: Cpu = "x86-64",
    structures: Mapping[str, Structure | str] | None = None,
    method: Method = "gkpd",
    max_factors: int = 3,
    progress: Progress = silent,
) -> nn.Module:
    """A copy of the model whose convolutions and linear layers are Kronecker factors.

    ratio: parameters of the whole network before over after, at least; macs: the same for its
    multiplications; speedup: the same for the latency of its layers with a weight on one thread, as the
    cost models of onnxruntime and LiteRT on this cpu predict it, whichever is slower. method: 'gkpd' has all
    two-factor shapes and all ranks of every eligible layer as candidates; 'sekron' (up to max_factors
    factors), 'cp', 'tt', 'tr' and 'tucker' a bounded set that `edgekron.selection.methods` describes;
    'auto' has all of them. The dense layer itself always is one. For the whole network at once one is
    chosen per layer so that the summed squared relative error ``Σ ‖W−Ŵ‖²/‖W‖²`` is least. No candidate
    needs more MACs than the dense layer. structures: {layer name: structure} instead of a search; other
    layers stay dense. progress: called with (what, done, total).

    The result carries the choices as ``compression``, a CompressionReport; train it further if the
    errors are large. Raises UsageError if a budget is out of reach (and says the best that is not),
    UnsupportedError for a layer that is named in `structures` and cannot be compressed.
    """
    asked = {"ratio": ratio, "macs": macs, "speedup": speedup}
    budgets = {name: value for name, value in asked.items() if value is not None}
    if (structures is None) == (not budgets):
        raise UsageError("give either ratio=, macs= and/or speedup=, or structures=")
    if max_factors < 2:
        raise UsageError(f"max_factors must be at least 2, got {max_factors}")
    for name, value in budgets.items():
        if not (value >= 1 and math.isfinite(value)):
            raise UsageError(f"{name} must be at least 1, got {value}")
    timed_on = cpu if speedup is not None else None
    uses = layer_uses(model, example_inputs)
    reasons = {name: reason for name, use in uses.items() if (reason := ineligible(use))}
    searched = None
    if structures is not None:
        chosen = _given(uses, reasons, structures)
        reasons = {name: reasons.get(name, "not named in structures=") for name in uses if name not in chosen}
    else:
        eligible = {name: use for name, use in uses.items() if name not in reasons}
        choices = layer_candidates(eligible, method, max_factors, progress, timed_on=timed_on)
        searched = Search(method, max_factors, sum(choice.considered for choice in choices.values()))
        chosen = choose_structures(model, uses, choices, budgets, cpu)
        reasons |= {name: _CHOSEN_DENSE for name in eligible if name not in chosen}
    return _build(model, uses, chosen, reasons, searched, timed_on, progress)


def ineligible(use: LayerUse) -> str | None:
    """Why a layer cannot be compressed; None if it can."""
    module = use.module
    if isinstance(module, KroneckerLayer):
        return "already compressed"
    if type(module) not in LAYERS:
        return f"{type(module).__name__} is a subclass whose forward may differ"
    if reason := _unsupported_geometry(module):
        return reason
    if not use.sizes:
        return "not reached by the forward pass"
    if use.tied:
        return "it shares a parameter with another module"
    if not isinstance(module.weight, nn.Parameter):
        return "the weight is computed from other parameters (weight_norm, pruning)"
    if not torch.isfinite(module.weight).all():
        return "the weight holds NaN or infinity"
    size = module.weight.numel()
    firsts = map(math.prod, first_shapes(tuple(dense_weight(module).shape), groups_of(module)))
    if all(first + size // first >= size for first in firsts):
        return "no two-factor structure is smaller"
    return None


def _unsupported_geometry(module: nn.Module) -> str | None:
    if isinstance(module, nn.Linear):
        return None
    layer: Any = module
    if layer.padding_mode != "zeros":
        return f"padding_mode='{layer.padding_mode}', only 'zeros' is supported"
    if layer.groups > 1 and layer.groups == layer.in_channels:
        return f"depthwise convolution (groups={layer.groups})"
    if isinstance(module, nn.ConvTranspose2d):
        if layer.groups > 1:
            return f"grouped transposed convolution (groups={layer.groups})"
        if any(extra and extra >= s for extra, s in zip(layer.output_padding, layer.stride, strict=True)):
            return f"output_padding={layer.output_padding} is not below stride={layer.stride}"
    return None


def groups_of(layer: nn.Module) -> int:
    """Groups of a convolution; 1 for a linear layer."""
    return cast(int, getattr(layer, "groups", 1))


def _given(
    uses: Mapping[str, LayerUse], reasons: Mapping[str, str], structures: Mapping[str, Structure | str]
) -> dict[str, Structure]:
    """Check the structures that the caller names."""
    chosen = {}
    for name, value in structures.items():
        if name not in uses:
            raise UsageError(f"structures= names the layer '{name}', but the network has {', '.join(uses)}")
        if name in reasons:
            raise UnsupportedError(f"layer '{name}' cannot be compressed: {reasons[name]}")
        structure = Structure.parse(value) if isinstance(value, str) else value
        structure.require_shape(_weight(uses[name]).shape, f"weight of layer '{name}'")
        try:
            group_digits(structure, groups_of(uses[name].module))
        except StructureError as error:
            raise StructureError(f"layer '{name}': {error}") from None
        chosen[name] = structure
    return chosen


def choose_structures(
    model: nn.Module,
    uses: Mapping[str, LayerUse],
    choices: Mapping[str, Candidates],
    budgets: Mapping[str, float],
    cpu: Cpu = "x86-64",
) -> dict[str, Structure]:
    """One structure for each layer that is worth compressing, for the whole network at once.

    choices: what `layer_candidates` found; budgets: of 'ratio', 'macs' and 'speedup', see `compress`.
    """
    eligible = {name: uses[name] for name in choices}
    costs: list[list[NDArray[Any]]] = []
    allowed: list[float] = []
    for name, asked in budgets.items():
        own: list[NDArray[Any]]
        match name:
            case "ratio":
                own, total = [choice.parameters for choice in choices.values()], float(parameters(model))
                ours = float(sum(_weight(use).numel() for use in eligible.values()))
            case "macs":
                own, total = [choice.macs for choice in choices.values()], sum(map(layer_macs, uses.values()))
                ours = sum(map(layer_macs, eligible.values()))
            case _:
                own = [choice.times for choice in choices.values()]
                total, ours = (
                    sum(layer_time(use, cpu) for use in some.values()) for some in (uses, eligible)
                )
        fixed, least = total - ours, sum(float(each.min()) for each in own)
        if fixed + least > total / asked:
            best = math.floor(100 * total / (fixed + least)) / 100
            raise UsageError(f"{name}={asked:g} cannot be met: the best reachable {name} is {best:g}")
        costs.append(own)
        allowed.append(total / asked - fixed)
    if not choices:
        return {}
    errors = [choice.errors for choice in choices.values()]
    while picked := choose(errors, costs, allowed):
        rows = zip(choices.items(), picked, strict=True)
        found = {name: structure for (name, choice), k in rows if (structure := choice.structures[k])}
        if "speedup" not in budgets:
            return found
        # The times of the candidates are interpolated: what is missing is taken off the allowance.
        whole = sum(layer_time(use, cpu) for use in uses.values())
        now = sum(predicted_time(use, found.get(name), cpu) for name, use in uses.items())
        if now <= whole / budgets["speedup"]:
            return found
        allowed[list(budgets).index("speedup")] -= 1.1 * (now - whole / budgets["speedup"])
    wanted = " and ".join(f"{name}={asked:g}" for name, asked in budgets.items())
    raise UsageError(f"{wanted} cannot be met together; lower one of them")


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
        for first in spectra_shapes(tuple(_weight(use).shape), groups_of(use.module))
    ]
    spectra: dict[str, dict[tuple[int, ...], NDArray[np.float64]]] = {name: {} for name in eligible}
    jobs.sort(key=lambda job: -_weight(eligible[job[0]]).numel())
    results = _in_parallel(lambda job: relative_errors(_weight(eligible[job[0]]), job[1]), jobs)
    for done, ((name, first), errors) in enumerate(zip(jobs, results, strict=True), 1):
        spectra[name][first] = errors
        progress("spectra", done, len(jobs))
    result = {}
    for done, (name, use) in enumerate(eligible.items(), 1):
        front = candidates(
            tuple(_weight(use).shape),
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
        for structure in families(tuple(_weight(use).shape), method, max_factors, groups_of(use.module))
    ]

    def work(job: tuple[str, Structure]) -> list[Found]:
        use, (_, template) = eligible[job[0]], job
        weight, most = _weight(use).detach(), layer_macs(use)

        def useful(structure: Structure) -> bool:
            return structure.parameters < weight.numel() and structure_macs(use, structure) <= most

        return search(weight, template, useful)

    found: dict[str, list[Found]] = {name: [] for name in eligible}
    for done, ((name, _), more) in enumerate(zip(jobs, _in_parallel(work, jobs), strict=True), 1):
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
        weight = _weight(eligible[job[0]]).detach()
        difference = weight - kronecker_to_tensor(decompose(weight, job[1]))
        return float(difference.double().square().sum() / (weight.double().square().sum() or 1.0))

    result: dict[str, list[Found]] = {name: [] for name in eligible}
    for done, ((name, structure), error) in enumerate(zip(jobs, _in_parallel(work, jobs), strict=True), 1):
        result[name].append(Found(structure, error))
        progress("polish", done, len(jobs))
    return result


def _in_parallel(work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """Results in the order of the jobs; one worker per core, each with one torch thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with one_thread():
        workers = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield from workers.map(work, jobs)
        finally:
            workers.shutdown(cancel_futures=True)


def _build(
    model: nn.Module,
    uses: Mapping[str, LayerUse],
    chosen: Mapping[str, Structure],
    reasons: Mapping[str, str],
    searched: Search | None,
    timed_on: Cpu | None,
    progress: Progress,
) -> nn.Module:
    """Decompose the chosen layers in a copy of the model, and report."""
    before = parameters(model), sum(map(layer_macs, uses.values()))
    small = copy.deepcopy(model)
    modules = dict(small.named_modules())

    def factor(name: str) -> Factors:
        try:
            return decompose(_weight(uses[name]), chosen[name])
        except EdgekronError as error:
            raise type(error)(f"layer '{name}': {error}") from error

    factored = _in_parallel(factor, list(chosen))
    factors = {}
    for done, (name, values) in enumerate(zip(chosen, factored, strict=True), 1):
        factors[name] = values
        progress("decompose", done, len(chosen))
    layers = []
    for name, use in uses.items():
        weight, structure, error = _weight(use).detach(), chosen.get(name), 0.0
        own = after = _stored(use), layer_macs(use)
        if structure is not None:
            small = replace_module(small, modules[name], compressed_layer(modules[name], factors[name]))
            difference = weight - kronecker_to_tensor(factors[name])
            error = float(difference.norm() / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny))
            after = structure.parameters, structure_macs(use, structure)
        became = small.get_submodule(name)
        layers.append(
            LayerChoice(
                name,
                type(use.module).__name__,
                tuple(weight.shape),
                str(became.structure) if isinstance(became, KroneckerLayer) else None,
                reasons.get(name),
                error,
                (own[0], after[0]),
                (own[1], after[1]),
            )
        )
    saved = sum(layer.macs[0] - layer.macs[1] for layer in layers)
    latency = None
    if timed_on:
        then = sum(predicted_time(use, chosen.get(name), timed_on) for name, use in uses.items())
        latency = sum(layer_time(use, timed_on) for use in uses.values()), then
    small.compression = CompressionReport(  # type: ignore[assignment]
        tuple(layers),
        (before[0], parameters(small)),
        (before[1], before[1] - saved),
        searched,
        latency,
    )
    return small


def compressed_layer(dense: nn.Module, factors: Factors) -> KroneckerLayer:
    """The Kronecker layer of a dense one's geometry and bias, with these factors."""
    return LAYERS[type(dense)].from_factors(dense, factors)


def _stored(use: LayerUse) -> int:
    """Numbers that stand for the weight."""
    module = use.module
    return module.structure.parameters if isinstance(module, KroneckerLayer) else _weight(use).numel()


def _weight(use: LayerUse) -> Tensor:
    return dense_weight(use.module)
