"""Batch: free the batch of a file, by comparing what the converter makes of two numbers of images.

litert-torch's own dynamic shapes reach it as a nonsense number: reshapes and pads are refused, slices
come out wrong (0.10). A file made for a fixed batch nearly takes any: the interpreter derives all
shapes from those of the inputs. Only constants that say a shape, and differ between the two files,
have to be told to do so as well. The converter stores equal constants once, so a shape that happens to equal
another constant for one of the two numbers looks like another network, which is refused: hence two primes
that extents are seldom multiples of.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgekron.errors import UnsupportedError
from edgekron_tflite.flatbuffer import code_names

FEWER, MORE = 11, 13
"""Images."""
_SHAPE_INPUTS = {("RESHAPE", 1), ("SLICE", 2), ("STRIDED_SLICE", 2)}


def free_batch(model: Any, other: Any) -> None:
    """Let a model that was converted for FEWER images take any number; `other` is the same for MORE.

    Raises UnsupportedError if they differ in more than shapes.
    """
    if [_wiring(graph) for graph in model.subgraphs] != [_wiring(graph) for graph in other.subgraphs]:
        _refuse("other operators are needed")
    pairs = [(_bytes(one), _bytes(twin)) for one, twin in zip(model.buffers, other.buffers, strict=True)]
    changed = {index: pair for index, pair in enumerate(pairs) if not np.array_equal(*pair)}
    names = code_names(model)
    for graph, twin in zip(model.subgraphs, other.subgraphs, strict=True):
        for operator in graph.operators:
            for position, index in enumerate(operator.inputs):
                buffer = graph.tensors[index].buffer
                if index < 0 or buffer not in changed:  # -1: an optional input that is not given
                    continue
                name = names[operator.opcodeIndex]
                if (name, position) not in _SHAPE_INPUTS:
                    _refuse(f"a constant of {name} depends on it")
                extents = [np.asarray(each.tensors[operator.inputs[0]].shape) for each in (graph, twin)]
                wanted = [each.view(np.int32) for each in changed[buffer]]
                _free_constant(name, operator.builtinOptions, model.buffers[buffer], wanted, extents)
    for graph, twin in zip(model.subgraphs, other.subgraphs, strict=True):
        for tensor, peer in zip(graph.tensors, twin.tensors, strict=True):
            if tensor.shape is not None:
                _free_tensor(tensor, peer)


def _free_constant(
    name: str, options: Any, buffer: Any, wanted: list[NDArray[np.int32]], extents: list[NDArray[np.int32]]
) -> None:
    """Replace what a shape says of the batch by 'whatever is there'."""
    fewer, more = wanted
    (axes,) = np.nonzero(fewer != more)
    if name == "RESHAPE":
        if len(axes) > 1:
            _refuse("it stands on several axes of a reshape")
        free = np.where(fewer != more, -1, fewer).astype(np.int32)
        buffer.data = free.view(np.uint8)
        if options is not None:
            options.newShape = free
        return
    if any((given[axes] != there[axes]).any() for given, there in zip(wanted, extents, strict=True)):
        _refuse("a slice of the batch depends on it")
    if name == "STRIDED_SLICE":  # the same constant may serve others: leave it, and say 'to the end'
        options.endMask |= sum(1 << int(axis) for axis in axes)
    else:
        buffer.data = np.where(fewer != more, -1, fewer).astype(np.int32).view(np.uint8)


def _free_tensor(tensor: Any, peer: Any) -> None:
    fewer, more = np.asarray(tensor.shape), np.asarray(peer.shape)
    free = fewer != more
    if (fewer[free] * MORE != more[free] * FEWER).any():
        _refuse(f"a shape is {fewer.tolist()} for {FEWER} images, but {more.tolist()} for {MORE}")
    if free.any():
        tensor.shape = np.where(free, fewer // FEWER, fewer).astype(np.int32)
        tensor.shapeSignature = np.where(free, -1, fewer).astype(np.int32)


def _wiring(graph: Any) -> list[tuple[int, list[int], list[int]]]:
    return [(op.opcodeIndex, list(op.inputs), list(op.outputs)) for op in graph.operators]


def _bytes(buffer: Any) -> NDArray[np.uint8]:
    return np.asarray([] if buffer.data is None else buffer.data, np.uint8)


def _refuse(why: str) -> NoReturn:
    raise UnsupportedError(
        f"this network cannot take any number of images in TFLite: {why}; leave out --dynamic-batch"
    )
