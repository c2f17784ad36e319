"""Manifests survive being written; damaged ones are refused; layouts go there and back."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekron.artifact import (
    SCHEMA,
    LayerRecord,
    Manifest,
    PlanRecord,
    StepRecord,
    TensorInfo,
    checksum,
    from_layout,
    to_layout,
)
from edgekron.errors import UsageError

texts = st.text(max_size=8)
counts = st.integers(0, 10**12)
shapes = st.lists(st.integers(-1, 999), max_size=4).map(tuple)
infos = st.builds(TensorInfo, texts, shapes, st.sampled_from(["float32", "int8"]))
steps = st.builds(StepRecord, texts, counts, counts, counts)
plans = st.builds(PlanRecord, texts, st.lists(steps, max_size=3).map(tuple))
records = st.builds(LayerRecord, texts, st.lists(plans, max_size=2).map(tuple))
manifests = st.builds(
    Manifest,
    texts,
    st.sampled_from(["nchw", "nhwc"]),
    st.lists(infos, max_size=2).map(tuple),
    st.lists(texts, max_size=2).map(tuple),
    st.tuples(counts, counts),
    st.tuples(counts, counts),
    layers=st.dictionaries(texts, records),
    options=st.dictionaries(texts, st.none() | st.booleans() | texts),
    factory=st.none() | texts,
    source_sha256=st.none() | texts,
    parity=st.none() | st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False)),
    float_layers=st.lists(texts, max_size=2).map(tuple),
    version=texts,
)


@given(manifests)
def test_a_manifest_comes_back(manifest: Manifest) -> None:
    assert Manifest.from_text(manifest.to_text()) == manifest
    assert json.loads(manifest.to_text())["ratio"] == round(manifest.ratio, 4)


def manifest() -> Manifest:
    return Manifest("onnx", "nchw", (TensorInfo("x", (1, 3), "float32"),), ("y",), (10, 4), (100, 50))


def test_the_ratio() -> None:
    assert manifest().ratio == 2.5
    assert Manifest("onnx", "nchw", (), (), (0, 0), (0, 0)).ratio == 1.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "list indices must be integers"),
        ("{}", "'schema'"),
        ('{"schema": "1"}', "'>' not supported"),
        (f'{{"schema": {SCHEMA}}}', "'ratio'"),
        (manifest().to_text().replace('"format"', '"formed"'), "unexpected keyword argument 'formed'"),
        (manifest().to_text().replace('"inputs": [', '"inputs": [1, '), "'int' object is not subscriptable"),
        (manifest().to_text().replace('"parameters": [10, 4]', '"parameters": 10'), "not iterable"),
    ],
)
def test_a_damaged_manifest(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        Manifest.from_text(text)
    assert str(error.value).startswith("the manifest inside the file is damaged: ")
    assert reason in str(error.value)


def test_a_manifest_of_another_version() -> None:
    for other, repair in ((SCHEMA + 1, "update edgekron"), (SCHEMA - 1, "export the network again")):
        with pytest.raises(UsageError) as error:
            Manifest.from_text(manifest().to_text().replace(f'"schema": {SCHEMA}', f'"schema": {other}'))
        assert str(error.value) == (
            f"the manifest has schema {other}, this edgekron reads {SCHEMA}: {repair}"
        )


def test_layouts() -> None:
    image, row = np.arange(24.0).reshape(1, 2, 3, 4), np.arange(3)
    last = to_layout([image, row], "nhwc")
    assert last[0].shape == (1, 3, 4, 2)
    assert last[0][0, 2, 1, 1] == image[0, 1, 2, 1]
    assert last[0].flags.c_contiguous
    np.testing.assert_array_equal(last[1], row)
    back = from_layout(last, "nhwc")
    np.testing.assert_array_equal(back[0], image)
    assert back[0].flags.c_contiguous
    for same in (to_layout([image], "nchw"), from_layout([image], "nchw")):
        assert same[0] is image


def test_checksum() -> None:
    assert checksum(b"abc") == hashlib.sha256(b"abc").hexdigest()
