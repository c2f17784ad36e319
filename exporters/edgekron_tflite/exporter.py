"""TFLite exporter: lowered network -> torch.export -> litert-torch -> checked bytes."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, assert_never, cast

os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")  # read at import

import litert_torch
import torch
from torch import nn

from edgekron.artifact import Manifest, to_layout
from edgekron.calibration import Calibration
from edgekron.choice import Choose, by_cost
from edgekron.errors import UnsupportedError, UsageError
from edgekron.exporter import Exported, ExportOptions, Exposed, Operator, needed, numbered
from edgekron.factors import Factors
from edgekron.layer_noise import LayerNoise
from edgekron.lower import lower
from edgekron.lowered import LoweredLayer
from edgekron.marks import float_operators
from edgekron.network import Inputs
from edgekron.plan import Layout, Plan
from edgekron.plan.cost import Arithmetic
from edgekron.plan.steps import AddBias, Convolve
from edgekron.precision import ARITHMETIC
from edgekron.quantization import prepare
from edgekron.quiet import quiet
from edgekron.wording import one_line
from edgekron_tflite.activations import TRANSPOSES
from edgekron_tflite.batch import FEWER, MORE, free_batch
from edgekron_tflite.delegation import MOST_CONCATENATED
from edgekron_tflite.exposure import expose
from edgekron_tflite.flatbuffer import get_metadata, pack, parse, rename, set_metadata
from edgekron_tflite.half import allow_half, store_half
from edgekron_tflite.operators import converted, operators
from edgekron_tflite.quanta import quanta
from edgekron_tflite.rewrite import rewrite
from edgekron_tflite.split import split

KEY = "edgekron"
_UNDELEGATED_INT8 = "tflite-runtime 2.14 on x86 gives no int8 operator to XNNPACK: export in fp16 for it"
"""Measured: a dense int8 ResNet-18 at 224x224 takes 29.5 ms there, in float 18.4."""


class TfliteExporter:
    """TFLite with builtin operators only, images channels-last by default."""

    format = "tflite"
    suffix = ".tflite"
    runtime = "litert"
    plan_layout: Layout = "nhwc"

    def accepts(self, plan: Plan) -> bool:
        """Whether litert-torch converts its transposed convolutions, and XNNPACK takes them.

        They cannot be dilated, and each group is an operator, whose outputs one CONCATENATION joins.
        """
        spreading = [
            step for step in plan.steps if isinstance(step, Convolve) and step.convolution.transposed
        ]
        return all(
            max(step.convolution.dilation) == 1 and step.groups <= MOST_CONCATENATED for step in spreading
        )

    def plans(self, layer: nn.Module) -> bool:
        """Whether a dense layer needs a plan: of CONV_3D and most transposed ones there is no fast form."""
        return isinstance(layer, nn.Conv3d | nn.ConvTranspose2d)

    def export(
        self,
        model: nn.Module,
        inputs: Inputs,
        options: ExportOptions,
        choose: Choose = by_cost,
        calibration: Calibration | None = None,
    ) -> Exported:
        """Convert the network; UnsupportedError if litert-torch cannot."""
        if options.at_load:
            raise UsageError("--guard size is for ONNX: no TFLite runtime multiplies constants when it loads")
        if options.opset is not None:
            raise UsageError("--opset is for ONNX; TFLite operators have versions of their own")
        layout: Layout = options.layout or "nhwc"
        lowered, plans = lower(
            model,
            inputs,
            layout=self.plan_layout,
            arithmetic=ARITHMETIC[options.precision],
            choose=choose,
            accept=self.accepts,
            planned=self.plans,
        )
        noise: tuple[LayerNoise, ...] = ()
        if options.precision == "int8":
            lowered, noise = prepare(lowered, inputs, needed(calibration), options)
        images = [k for k, x in enumerate(inputs) if x.dim() == 4]
        with torch.no_grad():
            results = lowered(*inputs)
        results = (results,) if isinstance(results, torch.Tensor) else tuple(results)
        image_results = [k for k, y in enumerate(results) if y.dim() == 4]
        names, outputs = numbered("input", len(inputs)), numbered("output", len(results))
        last = (images, image_results) if layout == "nhwc" else ([], [])

        def convert(network: nn.Module) -> tuple[Any, int]:
            if not options.dynamic_batch:
                return _convert(network, inputs, *last)
            tree, asked = _convert(network, _repeated(inputs, FEWER), *last)
            free_batch(tree, _convert(network, _repeated(inputs, MORE), *last)[0])
            return tree, asked

        tree, asked = convert(lowered)
        rename(tree, names, outputs)
        transposes = asked + sum(x.dim() == 5 for x in (*inputs, *results))  # clips keep PyTorch's layout
        transposes += sum(m.plan.permutes for m in lowered.modules() if isinstance(m, LoweredLayer))
        if layout == "nchw":
            transposes += len(images) + len(image_results)
        warnings = _check([op.name for op in operators(tree)], transposes)
        match options.precision:
            case "fp32":
                pass
            case "fp16":
                tree = store_half(pack(tree))
            case "fp16-compute":
                tree = store_half(pack(tree))
                allow_half(tree)
            case "int8":
                from edgekron_tflite.quantization import quantize  # slow to import

                data, batch = needed(calibration), options.batch(inputs)
                floats = float_operators(
                    lowered, noise, converted(tree), lambda marked: converted(convert(marked)[0])
                )
                samples = [
                    dict(zip(names, to_layout(run, layout), strict=True)) for run in data.batches(batch)
                ]
                tree = quantize(tree, samples, options.io, floats)
                warnings = (*warnings, _UNDELEGATED_INT8)
            case _:
                assert_never(options.precision)
        return Exported(pack(tree), layout, names, outputs, plans, warnings, noise=noise)

    def layers(self, plans: Sequence[Plan], arithmetic: Arithmetic = "fp32") -> list[bytes]:
        """Converted side by side, then taken apart.

        Images stay channels-last between all operators, so that a layer needs no neighbours.
        """
        branches = _Branches(plans).eval()
        inputs = branches.inputs()
        images = [k for k, x in enumerate(inputs) if x.dim() == 4]
        tree = _convert(branches, inputs, images, images)[0]
        if arithmetic == "int8":
            from edgekron_tflite.quantization import quantize_random  # slow to import

            tree = quantize_random(tree)
        return [pack(part) for part in split(tree)]

    def with_manifest(self, data: bytes, manifest: Manifest) -> bytes:
        """The same file with the manifest in its metadata."""
        tree = parse(data)
        set_metadata(tree, KEY, manifest.to_text())
        return pack(tree)

    def manifest(self, data: bytes) -> Manifest | None:
        """The manifest of a file; None if edgekron did not make it."""
        text = get_metadata(parse(data), KEY)
        return None if text is None else Manifest.from_text(text)

    def operators(self, data: bytes) -> list[Operator]:
        """The operators of all subgraphs."""
        return operators(parse(data))

    def expose(self, data: bytes, count: int) -> Iterator[Exposed]:
        """The outputs of the operators of the main graph."""
        return expose(parse(data), count)

    def quanta(self, data: bytes) -> tuple[float | None, ...]:
        """The scales of the outputs, or of what a DEQUANTIZE makes them of."""
        return quanta(parse(data))


class _Branches(nn.Module):
    """Layers side by side with random factors, each with an input and an output of its own."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=generator) - 0.5

        self._plans = tuple(plans)
        self.layers = nn.ModuleList()
        for plan in plans:
            structure = plan.structure
            values = tuple(random(*structure.value_shape(k)) for k in range(len(structure.factors)))
            bias = random(structure.weight_shape[0]) if _adds_bias(plan) else None
            self.layers.append(LoweredLayer(plan, Factors(structure, values), bias))

    def inputs(self) -> Inputs:
        """One for each layer."""
        return tuple(torch.zeros(1, _channels(plan), *plan.convolution.size) for plan in self._plans)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each layer on its own input."""
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def _adds_bias(plan: Plan) -> bool:
    return any(isinstance(step, AddBias) or (isinstance(step, Convolve) and step.bias) for step in plan.steps)


def _channels(plan: Plan) -> int:
    return plan.structure.weight_shape[1] * plan.convolution.groups


def _repeated(inputs: Inputs, batch: int) -> Inputs:
    """The first image of each input, so many times."""
    return tuple(torch.cat([x[:1]] * batch) for x in inputs)


def _convert(
    model: nn.Module, inputs: Inputs, images: list[int], image_results: list[int]
) -> tuple[Any, int]:
    """torch.export, our rewrites, litert-torch; the schema's object tree, and the transposes we added."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        try:
            rewritten = rewrite(torch.export.export(model, inputs).module())
            asked, network = rewritten.meta.get(TRANSPOSES, 0), cast(nn.Module, rewritten)
            if images or image_results:
                network = litert_torch.to_channel_last_io(network, args=images, outputs=image_results)
            samples = tuple(
                x.permute(0, 2, 3, 1).contiguous() if k in images else x for k, x in enumerate(inputs)
            )
            path = Path(folder) / "model.tflite"
            litert_torch.convert(network, samples).export(str(path))
            return parse(path.read_bytes()), asked
        except Exception as error:  # anything may come out of a converter
            raise UnsupportedError(f"litert-torch cannot convert this network: {one_line(error)}") from error


def _check(names: list[str], transposes: int) -> tuple[str, ...]:
    """Refuse operators that stock runtimes lack; warn of transposes that no plan asked for."""
    count = Counter(names)
    foreign = sorted(name for name in count if name.startswith(("STABLEHLO_", "CUSTOM")))
    if foreign:
        raise UnsupportedError(
            f"the network needs operators that stock TFLite runtimes do not have: {', '.join(foreign)}"
        )
    extra = count["TRANSPOSE"] - transposes
    if extra <= 0:
        return ()
    return (
        f"{extra} more TRANSPOSE than the plans need ({transposes}): the converter added them around "
        "operators that it cannot run channels-last",
    )
