"""Half: weights of a .tflite file in half precision, computed in float32 or, where it is allowed, in half.

Each becomes a float16 constant and a DEQUANTIZE to float32, which XNNPACK computes once, when it takes the
graph (tests/edgekron_tflite/test_half.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import quantizer

from edgekron.errors import UnsupportedError
from edgekron.quiet import quiet
from edgekron_tflite.flatbuffer import parse, set_metadata
from edgekron_tflite.operators import constant_operators

_RECIPE = [
    {
        "regex": ".*",
        "operation": "*",
        "algorithm_key": "float_casting",
        "op_config": {
            "weight_tensor_config": {
                "num_bits": 16,
                "symmetric": True,
                "granularity": "TENSORWISE",
                "dtype": "FLOAT",
            },
            "compute_precision": "FLOAT",
            "explicit_dequantize": True,
            "skip_checks": False,
            "min_weight_elements": 0,
        },
    }
]


def store_half(data: bytes) -> Any:
    """The file with every weight of a convolution or product in half, as the schema's object tree.

    Raises UnsupportedError if a weight is too large for it.
    """
    with quiet(), np.errstate(over="ignore"):
        quantized = quantizer.Quantizer(bytearray(data), _RECIPE).quantize()
    model = parse(bytes(quantized.quantized_model))
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            content = model.buffers[tensor.buffer].data
            if tensor.type != schema.TensorType.FLOAT16 or content is None:
                continue
            if not np.isfinite(np.asarray(content, np.uint8).view(np.float16)).all():
                raise UnsupportedError("a weight is too large for fp16, which ends at 65504: export in fp32")
    shorten_constants(model)
    return model


def allow_half(model: Any) -> None:
    """Let delegates compute in half, sums too: XNNPACK does on ARM from v8.2 on, other runtimes read past it.

    Key and value are those of TFLite's tools/optimize/reduced_precision_support.h; of its values, XNNPACK
    heeds the one only that allows sums in half, although "fp16accfp32" is legal.
    """
    set_metadata(model, "reduced_precision_support", "fp16accfp16")


def shorten_constants(model: Any) -> None:
    """Call constants, and what is dequantized of them, by numbers: names take hundreds of bytes each."""
    for graph in model.subgraphs:
        computed = [int(t) for operator in constant_operators(graph, model) for t in operator.outputs]
        for k, tensor in enumerate(graph.tensors):
            if (k in computed or model.buffers[tensor.buffer].data is not None) and k not in graph.outputs:
                tensor.name = f"constant_{k}".encode()
