"""Quantization: a .tflite file in int8, weights and activations, by ai-edge-quantizer.

Weights are symmetric with a scale for each output channel, activations have a zero point, as the TFLite
quantization specification has it. Ranges are the smallest and largest values met: the moving average that is
ai-edge-quantizer's default cuts the largest logits off (14 dB for the bundled network, against 32).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
from ai_edge_quantizer.utils import qsv_utils, tfl_flatbuffer_utils

from edgekron.artifact import Array
from edgekron.errors import UnsupportedError
from edgekron.precision import Ends
from edgekron.quiet import quiet
from edgekron.wording import one_line
from edgekron_tflite.flatbuffer import pack, parse
from edgekron_tflite.half import shorten_constants

_FLOAT_ENDS = [
    {"regex": ".*", "operation": operation, "algorithm_key": "no_quantize"}
    for operation in ("INPUT", "OUTPUT")
]


def quantize(
    model: Any, samples: Sequence[Mapping[str, Array]], ends: Ends, floats: Collection[int] = ()
) -> Any:
    """A network in int8; both are object trees of the schema.

    samples: inputs of the file by name; ends: the numbers it takes and gives; floats: which operators of its
    main graph stay in float. Raises UnsupportedError if ai-edge-quantizer cannot quantize it.
    """
    data = pack(model)
    rules = recipe.static_wi8_ai8() + (_FLOAT_ENDS if ends == "float" else [])
    rules += [_stays_float(model, place) for place in floats]
    try:
        with quiet():
            [signature] = Interpreter(model_content=data).get_signature_list()
            manager = recipe_manager.RecipeManager()
            manager.load_quantization_recipe(rules)
            ranges = calibrator.Calibrator(data, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
            ranges.calibrate({signature: samples}, manager)
            result = quantizer.Quantizer(bytearray(data), rules).quantize(ranges.get_model_qsvs())
            model = parse(bytes(result.quantized_model))
    except Exception as error:  # anything may come out of a converter
        raise UnsupportedError(
            f"ai-edge-quantizer cannot quantize this network: {one_line(error)}"
        ) from error
    shorten_constants(model)
    return model


def quantize_random(model: Any) -> Any:
    """A file in int8 at its ends, too, with ranges of random inputs; model as for `quantize`."""
    generator, graph = np.random.default_rng(0), model.subgraphs[0]
    [signature] = model.signatureDefs
    sample = {
        each.name.decode(): generator.standard_normal(graph.tensors[each.tensorIndex].shape).astype(
            np.float32
        )
        for each in signature.inputs
    }
    return quantize(model, [sample], "int8")


def _stays_float(model: Any, place: int) -> dict[str, str]:
    """The rule for one operator, which ai-edge-quantizer knows by what it gives."""
    graph = model.subgraphs[0]
    operator = graph.operators[place]
    scope = tfl_flatbuffer_utils.get_op_scope(operator, graph.tensors)
    code = model.operatorCodes[operator.opcodeIndex]
    name = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME.get(
        max(code.builtinCode, code.deprecatedBuiltinCode), "*"
    )
    return {"regex": f"^{re.escape(scope)}$", "operation": name, "algorithm_key": "no_quantize"}
