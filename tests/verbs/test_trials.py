"""Trials: random inputs by seed, arrays of the user, and the layout of both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekron.artifact import Array, TensorInfo
from edgekron.calibration import Calibration
from edgekron.errors import UsageError
from edgekron.verbs.trials import (
    Trial,
    calibration_trials,
    file_trial,
    named_trial,
    reference_outputs,
    seeded_trials,
    session_outputs,
    torch_layout,
    worst_run,
)

IMAGE = TensorInfo("image", (2, 3, 4, 5), "float32")
MASK = TensorInfo("mask", (2, 7), "int64")
FREE = TensorInfo("image", (-1, 3, 4, 5), "float32")


def test_the_layout_of_torch() -> None:
    last = (TensorInfo("image", (2, 4, 5, 3), "float32"), MASK)
    assert torch_layout(last, "nhwc") == (IMAGE, MASK)
    assert torch_layout((IMAGE, MASK), "nchw") == (IMAGE, MASK)


def test_seeded_values_are_normal_different_and_the_same_again() -> None:
    trials = seeded_trials([IMAGE, MASK])
    assert [trial.name for trial in trials] == ["seed 0", "seed 1", "seed 2"]
    values = np.stack([trial.inputs[0] for trial in trials])
    assert values.dtype == np.float32
    assert values.shape == (3, 2, 3, 4, 5)
    assert abs(values.mean()) < 0.2 and abs(values.std() - 1) < 0.2
    assert len(np.unique(values)) == values.size
    assert {*np.unique([trial.inputs[1] for trial in trials])} == {0, 1}
    again = seeded_trials([IMAGE, MASK])
    assert all(np.array_equal(a.inputs[0], b.inputs[0]) for a, b in zip(trials, again, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "bool"])
def test_seeded_values_have_the_type_of_the_input(dtype: str) -> None:
    [trial] = seeded_trials([TensorInfo("x", (4,), dtype)], seeds=1)
    assert trial.inputs[0].dtype == dtype


def test_a_free_batch_is_tried_as_one_and_four() -> None:
    trials = seeded_trials([FREE], seeds=2)
    assert [(trial.name, len(trial.inputs[0])) for trial in trials] == [
        ("seed 0, batch 1", 1),
        ("seed 1, batch 1", 1),
        ("seed 0, batch 4", 4),
        ("seed 1, batch 4", 4),
    ]


def test_named_arrays_in_the_order_of_the_network() -> None:
    arrays = {"mask": np.ones((2, 7), np.int32), "image": np.full(IMAGE.shape, 0.5)}
    trial = named_trial("mine", arrays, [IMAGE, MASK])
    assert trial.name == "mine"
    assert [(x.dtype.name, x.shape) for x in trial.inputs] == [("float32", IMAGE.shape), ("int64", (2, 7))]
    assert (trial.inputs[0] == 0.5).all()


def test_the_name_of_a_single_array_is_free() -> None:
    trial = named_trial("mine", {"arr_0": np.zeros(IMAGE.shape)}, [IMAGE])
    assert trial.inputs[0].shape == IMAGE.shape


@pytest.mark.parametrize("batch", [1, 3])
def test_a_free_batch_takes_any_array(batch: int) -> None:
    assert named_trial("mine", {"x": np.zeros((batch, 3, 4, 5))}, [FREE]).inputs[0].shape[0] == batch


REFUSED: dict[str, tuple[dict[str, Array], Sequence[TensorInfo], str]] = {
    "a name too few": (
        {"image": np.zeros(IMAGE.shape)},
        [IMAGE, MASK],
        "mine holds ['image'], the network takes ['image', 'mask']",
    ),
    "another name": (
        {"image": np.zeros(IMAGE.shape), "mash": np.zeros((2, 7))},
        [IMAGE, MASK],
        "mine holds ['image', 'mash'], the network takes ['image', 'mask']",
    ),
    "nothing": ({}, [IMAGE], "mine holds [], the network takes ['image']"),
    "channels last": (
        {"x": np.zeros((2, 4, 5, 3))},
        [IMAGE],
        "mine: 'image' has shape 2x4x5x3, the network takes 2x3x4x5 (PyTorch's layout)",
    ),
    "an axis too few": (
        {"x": np.zeros((3, 4, 5))},
        [FREE],
        "mine: 'image' has shape 3x4x5, the network takes Nx3x4x5 (PyTorch's layout)",
    ),
    "numbers with a fraction": (
        {"x": np.zeros((2, 7))},
        [MASK],
        "mine: 'mask' is of type float64, the network takes int64",
    ),
    "texts": (
        {"x": np.full(IMAGE.shape, "a")},
        [IMAGE],
        "mine: 'image' is of type <U1, the network takes float32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_do_not_fit(name: str) -> None:
    arrays, infos, message = REFUSED[name]
    with pytest.raises(UsageError) as error:
        named_trial("mine", arrays, infos)
    assert str(error.value) == message


def test_arrays_of_a_file(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", image=np.ones(IMAGE.shape))
    trial = file_trial(tmp_path / "x.npz", [IMAGE])
    assert (trial.name, trial.inputs[0].sum()) == ("x.npz", 120)


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def test_a_pickled_array_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "trapped"), "w")

    np.savez(tmp_path / "x.npz", image=np.array([Trap()], dtype=object))
    with pytest.raises(UsageError) as error:
        file_trial(tmp_path / "x.npz", [IMAGE])
    assert str(error.value).startswith(f"{tmp_path}/x.npz: not a readable .npz file of plain arrays: ")
    assert "allow_pickle=False" in str(error.value)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [b"", b"words", npy(), b"PK\x03\x04 no zip"])
def test_what_is_no_npz_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.npz(: not a readable| is not an) \.npz file"):
        file_trial(tmp_path / "x.npz", [IMAGE])
    with pytest.raises(UsageError) as error:
        file_trial(tmp_path / "none.npz", [IMAGE])
    assert str(error.value) == f"no such file: {tmp_path}/none.npz"


def test_a_truncated_npz_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.ones(IMAGE.shape))
    data = (tmp_path / "x.npz").read_bytes()
    for end in range(4, len(data), 100):
        (tmp_path / "x.npz").write_bytes(data[:end])
        with pytest.raises(UsageError, match=r"not a readable \.npz file of plain arrays"):
            file_trial(tmp_path / "x.npz", [IMAGE])


class Doubling:
    """A session that gives twice what it gets, as it gets it, from a buffer that it uses again."""

    inputs: tuple[TensorInfo, ...] = (IMAGE,)

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []
        self.buffer: Array = np.empty(0)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.seen.append(inputs[0].shape)
        if self.buffer.shape != inputs[0].shape:
            self.buffer = np.empty_like(inputs[0])
        np.multiply(inputs[0], 2, out=self.buffer)
        return [self.buffer]


@pytest.mark.parametrize(("layout", "shape"), [("nchw", (2, 3, 4, 5)), ("nhwc", (2, 4, 5, 3))])
def test_a_session_gets_and_gives_its_own_layout(layout: str, shape: tuple[int, ...]) -> None:
    session, trials = Doubling(), seeded_trials([IMAGE])
    outputs = session_outputs(session, trials, layout)
    assert session.seen == [shape] * 3
    for trial, [y] in zip(trials, outputs, strict=True):
        np.testing.assert_array_equal(y, 2 * trial.inputs[0])


def test_reference_outputs_are_of_eval_mode_without_gradients() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout, self.linear = nn.Dropout(0.9), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.dropout(x), self.linear(x)

    model, x = Two().train(), np.ones((2, 3), np.float32)
    [[same, linear]] = reference_outputs(model, [Trial("x", (x,))])
    np.testing.assert_array_equal(same, x)
    np.testing.assert_allclose(linear, model.linear(torch.from_numpy(x)).detach().numpy())
    assert model.training


def test_calibration_data_run_in_the_batches_of_the_file() -> None:
    values = np.arange(6, dtype=np.float32).reshape(6, 1)
    fixed = calibration_trials(Calibration("x", (values,)), (TensorInfo("input", (2, 1), "float32"),))
    assert [(trial.name, trial.batch, len(list(trial.runs()))) for trial in fixed] == [
        ("6 samples of x", 2, 3)
    ]
    free = calibration_trials(Calibration("x", (values,)), (TensorInfo("input", (-1, 1), "float32"),))
    assert [(trial.name, [len(run[0]) for run in trial.runs()]) for trial in free] == [
        ("6 samples of x, batch 1", [1] * 6),
        ("4 samples of x, batch 4", [4]),
    ]


def test_the_worst_run_of_a_trial() -> None:
    values = np.arange(6, dtype=np.float32).reshape(6, 1)
    trial = Trial("x", (values,), batch=2)
    given = values.copy()
    given[3] += 1
    shown = worst_run(trial, [values], [given])
    assert (shown.name, shown.inputs[0].tolist()) == ("x, run 2", [[2], [3]])
    assert (shown.expected[0].tolist(), shown.given[0].tolist()) == ([[2], [3]], [[2], [4]])
    given[1] = np.nan
    assert worst_run(trial, [values], [given]).name == "x, run 1"
    assert worst_run(trial, [values], [np.ones((6, 2), np.float32)]).name == "x, run 1"
