"""ONNX exporter: lowered network -> torch.onnx (dynamo) -> onnxsim -> checked bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

import onnx
import onnxsim
import torch
from onnx import checker, helper
from torch import nn

from edgekron import __version__
from edgekron.artifact import Manifest
from edgekron.calibration import Calibration
from edgekron.choice import Choose, by_cost
from edgekron.errors import UnsupportedError, UsageError
from edgekron.exporter import Exported, ExportOptions, Exposed, Operator, needed, numbered
from edgekron.layer_noise import LayerNoise
from edgekron.layers import KroneckerLayer
from edgekron.lower import lower
from edgekron.marks import float_operators
from edgekron.network import Inputs
from edgekron.plan import Layout, Plan
from edgekron.plan.cost import Arithmetic
from edgekron.precision import ARITHMETIC
from edgekron.quantization import prepare
from edgekron.quiet import quiet
from edgekron.wording import one_line
from edgekron_onnx.at_load import is_stored_dense, store_factors
from edgekron_onnx.exposure import expose
from edgekron_onnx.half import compute_half, store_half
from edgekron_onnx.nodes import layer_model, random_weights
from edgekron_onnx.operators import converted, operators
from edgekron_onnx.quanta import quanta

DEFAULT_OPSET = 18
"""With IR 8, what onnxruntime 1.14.0 and newer load (run there, on 1.15.0 and 1.31.1; 1.13.1 refuses it)."""
OLDEST_OPSET = 18
"""The oldest that torch.onnx's translations are written for."""
NEWEST_OPSET = 23
"""The newest that torch.onnx converts to; onnx itself knows more than the runtimes do."""
KEY = "edgekron"


class OnnxExporter:
    """Standard ONNX in the default operator domain, NCHW as in PyTorch."""

    format = "onnx"
    suffix = ".onnx"
    runtime = "onnxruntime"
    plan_layout: Layout = "nchw"

    def accepts(self, plan: Plan) -> bool:
        """ONNX holds them all."""
        return True

    def plans(self, layer: nn.Module) -> bool:
        """Whether a dense layer needs a plan: over three axes only pointwise convolutions are fast."""
        return isinstance(layer, nn.Conv3d) and max(layer.kernel_size) > 1

    def export(
        self,
        model: nn.Module,
        inputs: Inputs,
        options: ExportOptions,
        choose: Choose = by_cost,
        calibration: Calibration | None = None,
    ) -> Exported:
        """Convert the network; raises UsageError for an opset or layout that cannot be had."""
        opset = DEFAULT_OPSET if options.opset is None else options.opset
        if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            raise UsageError(f"--opset {opset}: this version exports {OLDEST_OPSET} to {NEWEST_OPSET}")
        if options.io != "float":
            raise UsageError("--io int8 is for TFLite; ONNX files take and give floats")
        if options.layout == "nhwc":
            raise UsageError("--layout nhwc is for TFLite; ONNX files keep PyTorch's nchw")
        lowered, plans = lower(
            model,
            inputs,
            layout=self.plan_layout,
            arithmetic=ARITHMETIC[options.precision],
            choose=choose,
            planned=self.plans,
        )
        noise: tuple[LayerNoise, ...] = ()
        if options.precision == "int8":
            lowered, noise = prepare(lowered, inputs, needed(calibration), options)
        names = numbered("input", len(inputs))
        with torch.no_grad():
            results = lowered(*inputs)
        count = 1 if isinstance(results, torch.Tensor) else len(results)
        outputs = numbered("output", count)

        def convert(network: nn.Module) -> onnx.ModelProto:
            return _convert(network, inputs, names, outputs, opset, options.dynamic_batch)

        proto = convert(lowered)
        stored = _at_load(proto, model, plans) if options.at_load else ()
        match options.precision:
            case "fp32":
                pass
            case "fp16":
                store_half(proto.graph)
            case "fp16-compute":
                proto = compute_half(proto)
            case "int8":
                from edgekron_onnx.quantization import quantize  # slow to import

                samples, batch = needed(calibration), options.batch(inputs)
                floats = float_operators(
                    lowered, noise, converted(proto), lambda marked: converted(convert(marked))
                )
                proto = quantize(proto, samples, batch, floats)
            case _:
                assert_never(options.precision)
        return Exported(_checked(proto, opset), "nchw", names, outputs, plans, at_load=stored, noise=noise)

    def layers(self, plans: Sequence[Plan], arithmetic: Arithmetic = "fp32") -> list[bytes]:
        """Written from the plans; a layer over two axes stands between two convolutions."""
        models = [
            layer_model(plan, *random_weights(plan), opset=DEFAULT_OPSET, between=plan.convolution.axes == 2)
            for plan in plans
        ]
        if arithmetic == "int8":
            from edgekron_onnx.quantization import quantize_layer  # slow to import

            models = [quantize_layer(model) for model in models]
        return [_serialized(model) for model in models]

    def with_manifest(self, data: bytes, manifest: Manifest) -> bytes:
        """The same file with the manifest in its metadata."""
        proto = onnx.load_model_from_string(data)
        helper.set_model_props(proto, {KEY: manifest.to_text()})
        return _serialized(proto)

    def manifest(self, data: bytes) -> Manifest | None:
        """The manifest of a file; None if edgekron did not make it."""
        texts = [prop.value for prop in _parse(data).metadata_props if prop.key == KEY]
        return Manifest.from_text(texts[0]) if texts else None

    def operators(self, data: bytes) -> list[Operator]:
        """The nodes of the graph."""
        return operators(_parse(data))

    def expose(self, data: bytes, count: int) -> Iterator[Exposed]:
        """The outputs of the nodes."""
        return expose(_parse(data), count)

    def quanta(self, data: bytes) -> tuple[float | None, ...]:
        """The scales of the DequantizeLinear that make the outputs."""
        return quanta(_parse(data))


def _at_load(
    proto: onnx.ModelProto, model: nn.Module, plans: Mapping[str, tuple[Plan, ...]]
) -> tuple[str, ...]:
    """Store what runs dense as factors; the layers for which that was possible."""
    modules, stored = dict(model.named_modules()), []
    for name, each in plans.items():
        layer = modules[name]
        assert isinstance(layer, KroneckerLayer)
        if all(map(is_stored_dense, each)) and store_factors(proto.graph, each[0], layer.values):
            stored.append(name)
    return tuple(stored)


def _convert(
    model: nn.Module,
    inputs: Inputs,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
    opset: int,
    dynamic_batch: bool,
) -> onnx.ModelProto:
    """torch.onnx and onnxsim."""
    batch = torch.export.Dim("batch", min=1)
    # A batch of one would be taken for a constant by torch.export: trace with two.
    traced = tuple(torch.cat([x, x]) for x in inputs) if dynamic_batch else inputs
    try:
        with quiet():
            program = torch.onnx.export(
                model,
                traced,
                dynamo=True,
                input_names=names,
                output_names=outputs,
                opset_version=opset,
                dynamic_shapes=tuple({0: batch} for _ in inputs) if dynamic_batch else None,
                verbose=False,
                optimize=True,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = _root_cause(error)
        raise UnsupportedError(f"torch.onnx cannot export this network: {reason}") from error
    assert program is not None
    try:
        with quiet():
            simplified, same = onnxsim.simplify(program.model_proto)
    except Exception as error:  # of C++, as a RuntimeError or something else
        raise UnsupportedError(f"onnxsim cannot simplify this network: {one_line(error)}") from error
    if not same:
        raise UnsupportedError("onnxsim changed the outputs of the network; please report this network")
    assert isinstance(simplified, onnx.ModelProto)
    return simplified


def _checked(proto: onnx.ModelProto, opset: int) -> bytes:
    """Set producer and versions; full check by onnx; only standard operators."""
    proto.producer_name, proto.producer_version = "edgekron", __version__
    proto.ir_version = helper.find_min_ir_version_for(list(proto.opset_import))
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # torch's stack traces name the exporting machine's folders
        node.ClearField("doc_string")
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        if hasattr(value, "metadata_props"):
            value.ClearField("metadata_props")
    proto.graph.ClearField("metadata_props")
    proto.ClearField("metadata_props")
    foreign = {f"{entry.domain}" for entry in proto.opset_import} - {"", "ai.onnx"}
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if foreign or versions != [opset] or proto.functions:
        raise UnsupportedError(
            f"the exported graph is not plain ONNX of opset {opset}: domains {sorted(foreign)}, "
            f"versions {versions}, {len(proto.functions)} functions"
        )
    checker.check_model(proto, full_check=True)
    return _serialized(proto)


def _serialized(proto: onnx.ModelProto) -> bytes:
    return bytes(proto.SerializeToString(deterministic=True))


def _parse(data: bytes) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own DecodeError, whose module depends on the version
        raise UsageError("not an ONNX file, or a damaged one") from error
    if not proto.graph.node:
        raise UsageError("not an ONNX file, or one without a graph")
    return proto


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
