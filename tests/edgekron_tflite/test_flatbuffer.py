"""Flatbuffers: metadata, names, operators and alignment; anything else than a TFLite file is an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekron.errors import UsageError
from edgekron.quiet import quiet
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.flatbuffer import get_metadata, pack, parse, rename, set_metadata
from tests.edgekron_tflite import foreign


def buffer_starts(data: bytes) -> list[int]:
    """Position in the file of every buffer that holds something."""
    model = schema.Model.GetRootAs(data, 0)
    buffers = [model.Buffers(k) for k in range(model.BuffersLength())]
    return [each._tab.Vector(each._tab.Offset(4)) for each in buffers if each.DataLength()]


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
@settings(max_examples=50)
def test_metadata_comes_back_from_aligned_buffers(texts: list[str]) -> None:
    model = parse(foreign.file())
    for k, text in enumerate(texts):
        set_metadata(model, f"entry {k}", text)
    data = pack(model)
    assert data[4:8] == b"TFL3"
    assert [get_metadata(parse(data), f"entry {k}") for k in range(len(texts))] == texts
    assert all(start % 16 == 0 for start in buffer_starts(data))
    assert len(buffer_starts(data)) == sum(bool(text) for text in texts)


def test_weights_are_aligned() -> None:
    model = parse(foreign.file())
    for size in (1, 5, 16, 33):
        buffer = schema.BufferT()
        buffer.data = np.arange(size, dtype=np.uint8)
        model.buffers.append(buffer)
    data = pack(model)
    assert len(buffer_starts(data)) == 4
    assert all(start % 16 == 0 for start in buffer_starts(data))
    assert [len(b.data) for b in parse(data).buffers[1:]] == [1, 5, 16, 33]


def test_buffers_behind_the_tree_are_read() -> None:
    """As ai-edge-quantizer writes them: the tree says where in the file they begin."""
    model, values = parse(foreign.file()), np.arange(40, dtype=np.uint8)
    outside, nothing = schema.BufferT(), schema.BufferT()
    outside.offset, outside.size, nothing.offset = 1 << 20, len(values), 1
    model.buffers += [outside, nothing]
    size = len(pack(model))
    outside.offset = size
    data = pack(model)
    assert len(data) == size
    *_, read, empty = parse(pack(parse(data + values.tobytes()))).buffers
    assert (bytes(read.data), read.offset, empty.data) == (values.tobytes(), 0, None)


def test_metadata_is_replaced_not_doubled() -> None:
    model = parse(foreign.file())
    set_metadata(model, "a", "first")
    set_metadata(model, "b", "other")
    set_metadata(model, "a", "second")
    again = parse(pack(model))
    assert [entry.name for entry in again.metadata] == [b"a", b"b"]
    assert (get_metadata(again, "a"), get_metadata(again, "b")) == ("second", "other")
    assert get_metadata(again, "c") is None


def test_a_file_without_metadata() -> None:
    model = parse(foreign.file())
    assert get_metadata(model, "edgekron") is None
    assert TfliteExporter().manifest(foreign.file()) is None


def test_new_names_of_tensors_and_signature_still_run() -> None:
    model = parse(foreign.file())
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs = [tensor_map("args_1", 1), tensor_map("args_0", 0)]
    signature.outputs = [tensor_map("out_0", 2), tensor_map("out_1", 3)]
    model.signatureDefs = [signature]
    rename(model, ("left", "right"), ("total", "rest"))
    with quiet():
        reader = Interpreter(model_content=pack(model))
    run = reader.get_signature_runner("serving_default")
    a, b = np.full((2, 3), 5, np.float32), np.full((2, 3), 2, np.float32)
    found = run(left=a, right=b)
    np.testing.assert_array_equal(found["total"], a + b)
    np.testing.assert_array_equal(found["rest"], a - b)
    assert [detail["name"] for detail in reader.get_input_details()] == ["left", "right"]
    assert [detail["name"] for detail in reader.get_output_details()] == ["total", "rest"]


def tensor_map(name: str, index: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name.encode(), index
    return made


@pytest.mark.parametrize("data", [b"", b"TFL3", b"Dear reader", b"\x08\x08\x12\x07pytorch", bytes(64)])
def test_what_is_no_tflite_file(data: bytes) -> None:
    for read in (TfliteExporter().manifest, TfliteExporter().operators):
        with pytest.raises(UsageError) as error:
            read(data)
        assert str(error.value) == "not a TFLite file"


MARKED = parse(foreign.file())
set_metadata(MARKED, "edgekron", "{}")
FILE = pack(MARKED)


@given(st.integers(8, len(FILE) - 1))
@settings(max_examples=60)
def test_a_truncated_file(end: int) -> None:
    with pytest.raises(UsageError) as error:
        TfliteExporter().manifest(FILE[:end])
    assert str(error.value) == "a damaged TFLite file"


@given(st.dictionaries(st.integers(8, len(FILE) - 1), st.integers(0, 255), min_size=1, max_size=8))
@settings(max_examples=200)
def test_wrong_bytes_are_read_or_refused_but_never_a_crash(changes: dict[int, int]) -> None:
    data = bytearray(FILE)
    for position, value in changes.items():
        data[position] = value

    def outcome(read: Any) -> str:
        try:
            return type(read(bytes(data))).__name__
        except UsageError as error:
            return str(error).partition(":")[0]

    damaged = {"a damaged TFLite file", "the manifest inside the file is damaged"}
    assert outcome(TfliteExporter().operators) in {"list", *damaged}
    assert outcome(TfliteExporter().manifest) in {"NoneType", *damaged}


def test_a_manifest_that_is_damaged() -> None:
    with pytest.raises(UsageError, match=r"^the manifest inside the file is damaged: 'schema'$"):
        TfliteExporter().manifest(FILE)
