"""Network: what one forward pass tells about the layers of a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekron.errors import UsageError
from edgekron.layers import LAYERS, KroneckerLayer, KroneckerLinear, dense_weight, explicit_padding
from edgekron.plan import Convolution, least_macs
from edgekron.structure import Structure

Inputs = tuple[Tensor, ...]


@dataclass
class LayerUse:
    """How often a layer with a weight runs for one image, and on what.

    sizes: how many inputs of each spatial size it gets; for a linear layer, how many rows of size
    (). tied: it shares a parameter with another module.
    """

    module: nn.Module
    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    tied: bool = False

    @property
    def weight(self) -> Tensor:
        """What the layer multiplies with, shape (F, C, K_1..K_d)."""
        return dense_weight(self.module)


def as_inputs(example_inputs: Tensor | Inputs) -> Inputs:
    """`example_inputs` as a tuple of tensors."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    if not isinstance(inputs, tuple | list) or not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise UsageError("example_inputs is a tensor or a tuple of tensors")
    return tuple(inputs)


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
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
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
    is listed once, under its first name. The first axis of the first input counts the images.
    """
    inputs = as_inputs(example_inputs)
    uses: dict[str, LayerUse] = {}
    hooks = []
    batch = inputs[0].shape[0] if inputs[0].dim() else 1

    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))

    def record(use: LayerUse) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Any], None]:
        linear = isinstance(use.module, nn.Linear | KroneckerLinear)
        axes = 0 if linear else len(cast("tuple[int, ...]", use.module.kernel_size))

        def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Any) -> None:
            shape = (*args, *kwargs.values())[0].shape  # (lead.., C, size..)
            channel = len(shape) - axes - 1
            use.sizes[tuple(shape[channel + 1 :])] += math.prod(shape[:channel])

        return hook

    for name, module in model.named_modules():
        if has_weight(module):
            uses[name] = LayerUse(module, tied=any(owners[id(p)] > 1 for p in module.parameters()))
            hooks.append(module.register_forward_hook(record(uses[name]), with_kwargs=True))
    try:
        run_model(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for use in uses.values():
        use.sizes = Counter({size: -(-count // batch) for size, count in use.sizes.items()})
    return uses


def has_weight(module: nn.Module) -> bool:
    """Whether a module is a convolution or linear layer, dense or compressed."""
    return isinstance(module, (KroneckerLayer, *LAYERS))


def layer_convolution(module: nn.Module, size: tuple[int, ...]) -> Convolution:
    """Geometry of a dense or compressed layer for inputs of this spatial size."""
    if isinstance(module, KroneckerLayer):
        return module.convolution(size)
    if isinstance(module, nn.Linear):
        return Convolution((), (), (), (), ())
    layer: Any = module
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    pads = explicit_padding(layer.padding, kernel, stride, dilation)
    transposed = isinstance(module, nn.ConvTranspose2d)
    return Convolution(size, kernel, stride, pads, dilation, layer.groups, transposed, layer.output_padding)


def structure_macs(use: LayerUse, structure: Structure) -> int:
    """Multiplications for one image if the layer's weight had this structure."""
    return sum(
        count * least_macs(structure, layer_convolution(use.module, size))
        for size, count in use.sizes.items()
    )


def layer_macs(use: LayerUse) -> int:
    """Multiplications of a layer for one image; a compressed layer in the cheapest factor order."""
    module = use.module
    if isinstance(module, KroneckerLayer):
        return structure_macs(use, module.structure)
    return dense_macs(use)


def dense_macs(use: LayerUse) -> int:
    """Multiplications for one image with the dense weight."""
    module = use.module
    shape = (
        module.structure.weight_shape if isinstance(module, KroneckerLayer) else dense_weight(module).shape
    )
    return structure_macs(use, Structure.dense(shape))


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
