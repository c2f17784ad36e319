"""Lower: model -> the same model with every compressed layer replaced by its plan."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from edgekron.errors import UnsupportedError
from edgekron.layers import KroneckerLayer
from edgekron.lowered import LoweredBySize, LoweredLayer
from edgekron.network import Inputs, layer_uses, replace_module
from edgekron.plan import Layout, Plan, best_plan

PlanChoice = Literal["auto", "dense"]


def lower(
    model: nn.Module,
    example_inputs: Tensor | Inputs,
    *,
    layout: Layout,
    plan: PlanChoice = "auto",
    accept: Callable[[Plan], bool] = lambda plan: True,
) -> tuple[nn.Module, dict[str, tuple[Plan, ...]]]:
    """A copy of the model for export, in eval mode, and the plans of each compressed layer.

    layout: of the runtime the file is for; plan: 'auto' takes the plan of least cost for the sizes
    that the example inputs give each layer, 'dense' densifies every layer; accept: which plans the
    format can hold. Raises UnsupportedError for a layer that has none.
    """
    if plan == "dense":
        accept = operator.attrgetter("is_dense")
    uses = layer_uses(model, example_inputs)
    lowered = copy.deepcopy(model).eval()
    modules = dict(lowered.named_modules())
    plans: dict[str, tuple[Plan, ...]] = {}
    for name, use in uses.items():
        layer = modules[name]
        if not isinstance(layer, KroneckerLayer) or not use.sizes:
            continue
        try:
            plans[name] = tuple(
                best_plan(
                    layer.structure,
                    layer.convolution(size),
                    layout,
                    bias=layer.bias is not None,
                    accept=accept,
                )
                for size in dict.fromkeys(use.sizes)
            )
        except LookupError as error:
            raise UnsupportedError(f"layer '{name}': {error}") from None
        runs = [LoweredLayer(each, layer.values, layer.bias) for each in plans[name]]
        lowered = replace_module(lowered, layer, runs[0] if len(runs) == 1 else LoweredBySize(runs))
    for parameter in lowered.parameters():
        parameter.requires_grad_(False)
    return lowered, plans
