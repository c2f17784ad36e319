"""Network: what one forward pass tells about the layers of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgekron.errors import UsageError
from edgekron.layers import KroneckerLayer, KroneckerLinear, explicit_padding
from edgekron.plan import Convolution, least_macs
from edgekron.structure import Structure

Inputs = tuple[Tensor, ...]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class LayerUse:
    """How often a layer with a weight runs, and on what.

    sizes: the spatial sizes of its inputs; outputs: output pixels (or rows, for a linear layer) of
    one image, summed over all calls.
    """

    module: nn.Module
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    outputs: int = 0


def as_inputs(example_inputs: Tensor | Inputs) -> Inputs:
    """`example_inputs` as a tuple of tensors."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise UsageError("example_inputs is a tensor or a tuple of tensors")
    return inputs


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode without gradients; every module's own mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def run_model(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """Outputs of the model in eval mode, as a tuple of tensors.

    Raises UsageError if the inputs do not fit the network.
    """
    with evaluating(model):
        try:
            outputs = model(*inputs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shapes = ", ".join("x".join(map(str, x.shape)) for x in inputs)
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"the network does not accept inputs of shape {shapes}: {reason}") from error
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    if not isinstance(outputs, tuple | list) or not all(isinstance(y, Tensor) for y in outputs):
        raise UsageError(
            f"the network must return a tensor or a tuple of tensors, got {type(outputs).__name__}"
        )
    return tuple(outputs)


def layer_uses(model: nn.Module, example_inputs: Tensor | Inputs) -> dict[str, LayerUse]:
    """Every convolution and linear layer by name, dense or compressed, with how it is used.

    A layer that the forward pass never reaches has no sizes. A module that stands at several places
    is listed once, under its first name.
    """
    inputs = as_inputs(example_inputs)
    uses: dict[str, LayerUse] = {}
    hooks = []
    batch = inputs[0].shape[0] if inputs[0].dim() else 1

    def record(use: LayerUse) -> Callable[[nn.Module, Any, Tensor], None]:
        linear = isinstance(use.module, nn.Linear | KroneckerLinear)

        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            use.sizes.append(() if linear else tuple(args[0].shape[2:]))
            use.outputs += output.numel() // output.shape[-1 if linear else 1] // batch

        return hook

    for name, module in model.named_modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear, KroneckerLayer)):
            uses[name] = LayerUse(module)
            hooks.append(module.register_forward_hook(record(uses[name])))
    try:
        run_model(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return uses


def layer_convolution(module: nn.Module, size: tuple[int, ...]) -> Convolution:
    """Geometry of a dense or compressed layer for inputs of this spatial size."""
    if isinstance(module, KroneckerLayer):
        return module.convolution(size)
    if isinstance(module, nn.Linear):
        return Convolution((), (), (), (), ())
    assert isinstance(module, _CONVOLUTIONS)
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    return Convolution(size, kernel, stride, explicit_padding(padding, kernel, stride, dilation), dilation)


def structure_macs(module: nn.Module, use: LayerUse, structure: Structure) -> int:
    """Multiplications for one image if the layer's weight had this structure."""
    if isinstance(module, nn.Linear | KroneckerLinear):
        return use.outputs * least_macs(structure, layer_convolution(module, ()))
    return sum(least_macs(structure, layer_convolution(module, size)) for size in use.sizes)


def layer_macs(use: LayerUse) -> int:
    """Multiplications of a layer for one image; a compressed layer in the cheapest factor order."""
    module = use.module
    if isinstance(module, KroneckerLayer):
        return structure_macs(module, use, module.structure)
    assert isinstance(module.weight, Tensor)
    return math.prod(module.weight.shape) * use.outputs


def parameters(model: nn.Module) -> int:
    """Numbers the model learns."""
    return sum(p.numel() for p in model.parameters())


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put `new` wherever `old` stands in the model; returns the model (`new` if it was the whole)."""
    if model is old:
        return new
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            model.set_submodule(name, new)
    return model
