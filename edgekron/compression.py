"""Compress: model -> the same model with Kronecker layers, one structure chosen per layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

from torch import Tensor, nn

from edgekron.compression_report import CompressionReport, LayerChoice, Search
from edgekron.decomposition import decompose
from edgekron.eligibility import groups_of, ineligible
from edgekron.errors import EdgekronError, StructureError, UnsupportedError, UsageError
from edgekron.factors import Factors, relative_error
from edgekron.layers import LAYERS, KroneckerLayer
from edgekron.network import (
    Inputs,
    LayerUse,
    layer_macs,
    layer_uses,
    parameters,
    replace_module,
    structure_macs,
)
from edgekron.parallel import in_parallel
from edgekron.plan import group_digits
from edgekron.plan.cost import Cpu
from edgekron.progress import Progress, silent
from edgekron.selection.budgets import choose_structures
from edgekron.selection.fronts import layer_candidates
from edgekron.selection.latency import layer_time, predicted_time
from edgekron.selection.methods import Method
from edgekron.structure import Structure

_CHOSEN_DENSE = "no structure is worth its error within the budget"


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
        structure.require_shape(uses[name].weight.shape, f"weight of layer '{name}'")
        try:
            group_digits(structure, groups_of(uses[name].module))
        except StructureError as error:
            raise StructureError(f"layer '{name}': {error}") from None
        chosen[name] = structure
    return chosen


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
            return decompose(uses[name].weight, chosen[name])
        except EdgekronError as error:
            raise type(error)(f"layer '{name}': {error}") from error

    factored = in_parallel(factor, list(chosen))
    factors = {}
    for done, (name, values) in enumerate(zip(chosen, factored, strict=True), 1):
        factors[name] = values
        progress("decompose", done, len(chosen))
    layers = []
    for name, use in uses.items():
        weight, structure, error = use.weight.detach(), chosen.get(name), 0.0
        own = after = _stored(use), layer_macs(use)
        if structure is not None:
            small = replace_module(small, modules[name], compressed_layer(modules[name], factors[name]))
            error = relative_error(weight, factors[name])
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
    return module.structure.parameters if isinstance(module, KroneckerLayer) else use.weight.numel()
