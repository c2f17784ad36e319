"""Lower: model -> the same model with every compressed layer replaced by its plan."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from edgekron.choice import Accept, Choose, Layer, by_cost, dense
from edgekron.errors import UnsupportedError
from edgekron.factors import Factors
from edgekron.layers import LAYERS, KroneckerLayer, dense_weight
from edgekron.lowered import LoweredBySize, LoweredLayer
from edgekron.network import Inputs, layer_uses, replace_module
from edgekron.plan import Layout, Plan
from edgekron.plan.cost import Arithmetic
from edgekron.structure import Structure


def compressed_layers(
    model: nn.Module, example_inputs: Tensor | Inputs, layout: Layout, arithmetic: Arithmetic = "fp32"
) -> dict[str, tuple[Layer, ...]]:
    """Every compressed layer that runs: what to choose a plan for, once for each size of its inputs."""
    found = {}
    for name, use in layer_uses(model, example_inputs).items():
        module = use.module
        if isinstance(module, KroneckerLayer) and use.sizes:
            found[name] = tuple(
                Layer(module.structure, module.convolution(size), layout, module.bias is not None, arithmetic)
                for size in dict.fromkeys(use.sizes)
            )
    return found


def lower(
    model: nn.Module,
    example_inputs: Tensor | Inputs,
    *,
    layout: Layout,
    arithmetic: Arithmetic = "fp32",
    choose: Choose = by_cost,
    accept: Accept = lambda plan: True,
    planned: Callable[[nn.Module], bool] = lambda layer: False,
) -> tuple[nn.Module, dict[str, tuple[Plan, ...]]]:
    """A copy of the model for export, in eval mode, and the plans of each compressed layer.

    layout: of the runtime the file is for; arithmetic: that the file is computed in; choose: gives the plan
    of a layer for the sizes that the example inputs give it (see ``edgekron.choice``); accept: which plans
    the format can hold; planned: which dense convolutions are run by a plan, too, as the format has no fast
    operator for them. Raises UnsupportedError for a layer that has none.
    """
    lowered = _as_factors(copy.deepcopy(model).eval(), planned)
    modules, compressed = dict(lowered.named_modules()), dict(model.named_modules())
    plans: dict[str, tuple[Plan, ...]] = {}
    chosen: dict[Layer, Plan] = {}  # layers of a network repeat
    for name, layers in compressed_layers(lowered, example_inputs, layout, arithmetic).items():
        is_compressed = isinstance(compressed[name], KroneckerLayer)
        try:
            for layer in layers:
                if layer not in chosen:
                    chosen[layer] = (choose if is_compressed else dense)(layer, accept).plan
        except LookupError as error:
            raise UnsupportedError(f"layer '{name}': {error}") from None
        module, own = modules[name], tuple(chosen[layer] for layer in layers)
        assert isinstance(module, KroneckerLayer)
        if is_compressed:
            plans[name] = own
        runs = [LoweredLayer(plan, module.values, module.bias) for plan in own]
        lowered = replace_module(lowered, module, runs[0] if len(runs) == 1 else LoweredBySize(runs))
    for parameter in lowered.parameters():
        parameter.requires_grad_(False)
    return lowered, plans


def _as_factors(model: nn.Module, planned: Callable[[nn.Module], bool]) -> nn.Module:
    """The model with such dense convolutions as layers of one factor, if a layer can be one."""
    for module in list(model.modules()):
        if type(module) not in LAYERS or not planned(module):
            continue
        weight = dense_weight(module).detach()
        factors = Factors(Structure.dense(tuple(weight.shape)), (weight,))
        try:
            layer = LAYERS[type(module)].from_factors(module, factors)
        except UnsupportedError:
            continue
        model = replace_module(model, module, layer.eval())
    return model
