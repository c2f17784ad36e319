"""A free batch: any number of images gives what torch gives; what cannot be freed is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn
from torch.nn import functional as F

from edgekron.errors import UnsupportedError
from edgekron.exporter import ExportOptions
from edgekron_tflite.batch import FEWER, MORE, free_batch
from edgekron_tflite.exporter import TfliteExporter
from tests.edgekron_tflite import foreign
from tests.edgekron_tflite.test_exporter import check_equal


class Everything(nn.Module):
    """Operators whose constants hold shapes; several inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(7, 5)
        self.head = nn.Linear(3 * 4 * 4, 2)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        small = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        part = x[:, 1:, 2:, :-1]
        sequence = x.flatten(2).transpose(1, 2)
        tokens = self.rows(y).reshape(-1, 5)
        groups = x.reshape(-1, 3, 2, 4, 8).mean(2)
        return small, part, sequence * 2, tokens, groups, self.head(x[:, :, ::2, ::2].flatten(1))


def test_reshapes_slices_and_pads() -> None:
    model = Everything().eval()
    x, y = torch.randn(6, 3, 8, 8), torch.randn(6, 4, 7)
    exported = TfliteExporter().export(model, (x[:1], y[:1]), ExportOptions(dynamic_batch=True))
    for batch in (1, 2, 3, 6, 1):
        check_equal(model, exported, x[:batch], y[:batch])


def test_the_batch_of_the_example_does_not_matter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    x = torch.randn(4, 3, 8, 8)
    one, four = (
        TfliteExporter().export(model, (each,), ExportOptions(dynamic_batch=True)) for each in (x[:1], x)
    )
    assert one.data == four.data
    check_equal(model, one, x)


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(x)
        return y


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a mean over the images": (lambda x: x / x.shape[0], "a constant of MUL depends on it"),
    "one after the other": (
        lambda x: torch.stack([x[k] * (k + 1) for k in range(x.shape[0])]),
        "other operators are needed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_the_number_of_images(name: str) -> None:
    function, why = REFUSED[name]
    with pytest.raises(UnsupportedError) as error:
        TfliteExporter().export(Apply(function), (torch.ones(1, 3),), ExportOptions(dynamic_batch=True))
    assert str(error.value) == (
        f"this network cannot take any number of images in TFLite: {why}; leave out --dynamic-batch"
    )


def with_constant(batch: int, builtin: int, values: list[int], options: Any) -> Any:
    """The foreign file, whose second operator takes its second input from a constant."""
    model = foreign.tree(batch=batch)
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.array(values, np.int32).view(np.uint8)
    tensor.name, tensor.shape, tensor.buffer = b"constant", np.array([len(values)], np.int32), 1
    model.buffers.append(buffer)
    model.subgraphs[0].tensors.append(tensor)
    model.operatorCodes[1] = foreign.code(builtin)
    operator = model.subgraphs[0].operators[1]
    operator.inputs = [0, 4] if builtin == schema.BuiltinOperator.RESHAPE else [0, 1, 4]
    operator.builtinOptions = options
    return model


def free(make: Callable[[int], Any]) -> Any:
    model = make(FEWER)
    free_batch(model, make(MORE))
    return model


def test_shapes_and_signatures() -> None:
    model = free(lambda batch: foreign.tree(batch=batch))
    for tensor in model.subgraphs[0].tensors:
        assert tensor.shape.tolist() == [1, 3]
        assert tensor.shapeSignature.tolist() == [-1, 3]


def test_a_reshape_keeps_everything_but_the_batch() -> None:
    code = schema.BuiltinOperator.RESHAPE
    model = free(lambda n: with_constant(n, code, [3, n, 1], schema.ReshapeOptionsT()))
    assert model.buffers[1].data.view(np.int32).tolist() == [3, -1, 1]
    assert model.subgraphs[0].operators[1].builtinOptions.newShape.tolist() == [3, -1, 1]
    assert model.subgraphs[0].tensors[4].shapeSignature is None

    def with_an_input_not_given(batch: int) -> Any:
        model = with_constant(batch, code, [3, batch, 1], schema.ReshapeOptionsT())
        model.subgraphs[0].operators[0].inputs = [0, 1, -1]
        return model

    assert free(with_an_input_not_given).buffers[1].data.view(np.int32).tolist() == [3, -1, 1]
    with pytest.raises(UnsupportedError, match="it stands on several axes of a reshape"):
        free(lambda n: with_constant(n, code, [n, 3 * n], schema.ReshapeOptionsT()))


def test_a_strided_slice_goes_to_the_end() -> None:
    code = schema.BuiltinOperator.STRIDED_SLICE
    model = free(lambda n: with_constant(n, code, [n, 3], schema.StridedSliceOptionsT()))
    assert model.subgraphs[0].operators[1].builtinOptions.endMask == 1
    with pytest.raises(UnsupportedError, match="a slice of the batch depends on it"):
        free(lambda n: with_constant(n, code, [n - 1, 3], schema.StridedSliceOptionsT()))


def test_shapes_that_are_no_multiple_of_the_batch() -> None:
    with pytest.raises(UnsupportedError) as error:
        free(lambda n: foreign.tree(batch=n + 1))
    assert str(error.value) == (
        "this network cannot take any number of images in TFLite: a shape is [12, 3] for 11 images, but "
        "[14, 3] for 13; leave out --dynamic-batch"
    )
