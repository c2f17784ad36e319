"""Flatbuffer: names and metadata in a .tflite file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekron.errors import UsageError

IDENTIFIER = b"TFL3"
_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def parse(data: bytes) -> Any:
    """The model as the schema's object tree; UsageError if the bytes are no TFLite file."""
    if data[4:8] != IDENTIFIER:
        raise UsageError("not a TFLite file")
    with damage():
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        for buffer in model.buffers:
            if buffer.offset > 1:  # behind the tree, as some writers put it; 1 stands for nothing
                buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0
        return model


@contextmanager
def damage() -> Iterator[None]:
    """Bytes may say anything: offsets out of the file, indices out of a list, texts that are none."""
    try:
        yield
    except (struct.error, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UsageError("a damaged TFLite file") from error


def code_names(model: Any) -> list[str]:
    """The names that the operators' codes stand for."""
    names = []
    for code in model.operatorCodes:
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        custom = code.customCode.decode() if code.customCode else None
        names.append(f"CUSTOM:{custom}" if custom else _NAMES.get(builtin, f"BUILTIN_{builtin}"))
    return names


def get_metadata(model: Any, name: str) -> str | None:
    """The text in the metadata buffer of this name."""
    with damage():
        for entry in model.metadata or []:
            if entry.name == name.encode():
                data = model.buffers[entry.buffer].data
                return bytes(data).decode() if data is not None else ""
        return None


def set_metadata(model: Any, name: str, text: str) -> None:
    """Add a metadata buffer, or replace the one of this name."""
    data = np.frombuffer(text.encode(), np.uint8)
    for entry in model.metadata or []:
        if entry.name == name.encode():
            model.buffers[entry.buffer].data = data
            return
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = data
    entry.name, entry.buffer = name.encode(), len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Puts byte vectors on 16 bytes, as the schema's force_align asks of buffers and Python ignores."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        return super().StartVector(elemSize, numElems, max(alignment, 16) if elemSize == 1 else alignment)


def pack(model: Any) -> bytes:
    """The object tree as the bytes of a file."""
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def rename(model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Give the inputs and outputs of the main graph and its signature these names."""
    graph = model.subgraphs[0]
    for indices, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for index, name in zip(indices, names, strict=True):
            graph.tensors[index].name = name.encode()
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == 0:
            for maps, tensors, names in (
                (signature.inputs, graph.inputs, inputs),
                (signature.outputs, graph.outputs, outputs),
            ):
                by_tensor = dict(zip((int(t) for t in tensors), names, strict=True))
                for each in maps:
                    each.name = by_tensor[each.tensorIndex].encode()
