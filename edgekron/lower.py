"""Lower: model -> the same model with every compressed layer replaced by its plan."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from edgekron.choice import Accept, Choose, Layer, by_cost
from edgekron.errors import UnsupportedError
from edgekron.layers import KroneckerLayer
from edgekron.lowered import LoweredBySize, LoweredLayer
from edgekron.network import Inputs, layer_uses, replace_module
from edgekron.plan import Layout, Plan


def compressed_layers(
    model: nn.Module, example_inputs: Tensor | Inputs, layout: Layout
) -> dict[str, tuple[Layer, ...]]:
    """Every compressed layer that runs: what to choose a plan for, once for each size of its inputs."""
    found = {}
    for name, use in layer_uses(model, example_inputs).items():
        module = use.module
        if isinstance(module, KroneckerLayer) and use.sizes:
            found[name] = tuple(
                Layer(module.structure, module.convolution(size), layout, module.bias is not None)
                for size in dict.fromkeys(use.sizes)
            )
    return found


def lower(
    model: nn.Module,
    example_inputs: Tensor | Inputs,
    *,
    layout: Layout,
    choose: Choose = by_cost,
    accept: Accept = lambda plan: True,
) -> tuple[nn.Module, dict[str, tuple[Plan, ...]]]:
    """A copy of the model for export, in eval mode, and the plans of each compressed layer.

    layout: of the runtime the file is for; choose: gives the plan of a layer for the sizes that the
    example inputs give it (see ``edgekron.choice``); accept: which plans the format can hold. Raises
    UnsupportedError for a layer that has none.
    """
    lowered = copy.deepcopy(model).eval()
    modules = dict(lowered.named_modules())
    plans: dict[str, tuple[Plan, ...]] = {}
    chosen: dict[Layer, Plan] = {}  # layers of a network repeat
    for name, layers in compressed_layers(model, example_inputs, layout).items():
        try:
            for layer in layers:
                if layer not in chosen:
                    chosen[layer] = choose(layer, accept).plan
        except LookupError as error:
            raise UnsupportedError(f"layer '{name}': {error}") from None
        plans[name] = tuple(chosen[layer] for layer in layers)
        module = modules[name]
        assert isinstance(module, KroneckerLayer)
        runs = [LoweredLayer(plan, module.values, module.bias) for plan in plans[name]]
        lowered = replace_module(lowered, module, runs[0] if len(runs) == 1 else LoweredBySize(runs))
    for parameter in lowered.parameters():
        parameter.requires_grad_(False)
    return lowered, plans
