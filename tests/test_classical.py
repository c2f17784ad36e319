"""CP, TT, TR and Tucker against tensorly: its reconstructions, its decompositions, its limits."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorly.decomposition import (
    parafac,
    partial_tucker,
    tensor_ring,
    tensor_train,
)

from edgekron.classical import classical_values
from edgekron.decomposition import decompose
from edgekron.factors import Factors, kronecker_to_tensor, rearrange
from edgekron.patterns import Pattern
from edgekron.structure import Structure
from tests.families import cases, factors_of, members, squared_error, weights, within_bounds
from tests.strategies import Array

CLASSICAL: list[Pattern] = ["cp", "tt", "tr", "tucker"]


@st.composite
def classical_structures(draw: st.DrawFn) -> Structure:
    """One of the four on the classical shapes, in the order of labels of its constructor."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=3, max_size=5)))
    shapes = Structure.classical_shapes(shape)
    ranks = [draw(st.integers(1, 4)) for _ in shape]
    build = {
        "cp": lambda: Structure.cp(shapes, 2 * ranks[0]),
        "tt": lambda: Structure.tt(shapes, ranks[1:]),
        "tr": lambda: Structure.tr(shapes, ranks),
        "tucker": lambda: Structure.tucker(shapes, ranks, (1,) * len(shape)),
        "tucker2": lambda: Structure.tucker(shapes[:2], ranks[:2], (1, 1, *shape[2:])),
    }
    return within_bounds(build[draw(st.sampled_from(list(build)))]())


def by_tensorly(factors: Factors) -> Array:
    """The weight of factors on classical shapes, made by tensorly on numpy."""
    structure = factors.structure
    values = [
        value.double().numpy().reshape(*(structure.sizes[label] for label in factor.labels), -1)
        for factor, value in zip(structure.factors, factors.tensors, strict=True)
    ]
    with tensorly.backend_context("numpy"):
        if structure.pattern == "cp":
            return np.asarray(tensorly.cp_to_tensor((None, [v.T for v in values])))
        if structure.pattern == "tt" and "a1" in structure.sizes:
            middle = [v.transpose(0, 2, 1) for v in values[1:-1]]
            return np.asarray(tensorly.tt_to_tensor([values[0].T[None], *middle, values[-1][:, :, None]]))
        if structure.pattern == "tr":
            return np.asarray(tensorly.tr_to_tensor([v.transpose(0, 2, 1) for v in values]))
        core = values[-1].reshape(values[-1].shape[:-1] + structure.factors[-1].shape)
        if len(structure.factors) > len(structure.weight_shape):
            core = core.reshape(values[-1].shape[:-1])
            return np.asarray(tensorly.tucker_to_tensor((core, [v.T for v in values[:-1]])))
        core = values[-1].reshape(*values[-1].shape[:-1], *structure.weight_shape[2:])
        return np.asarray(tensorly.tenalg.multi_mode_dot(core, [v.T for v in values[:2]], modes=[0, 1]))


@given(classical_structures().flatmap(lambda s: st.tuples(st.just(s), weights(s))), st.booleans())
@cases(250)
def test_tensorly_makes_the_same_weight_of_the_factors(drawn: Any, polish: bool) -> None:
    structure, weight = drawn
    factors = decompose(weight, structure, polish=polish, iterations=5)
    expected = by_tensorly(factors)
    # Terms of tensor rings may be large and cancel: rounding is relative to the terms, not to the sum.
    terms = Factors(factors.structure, tuple(value.abs() for value in factors.tensors))
    scale = float(by_tensorly(terms).max()) + 1e-300
    np.testing.assert_allclose(kronecker_to_tensor(factors).numpy(), expected, atol=1e-12 * scale, rtol=0)
    np.testing.assert_allclose(
        kronecker_to_tensor(factors_of(structure)).numpy(), by_tensorly(factors_of(structure)), atol=1e-10
    )


def random_weight(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).standard_normal(shape))


def test_unpolished_factors_are_those_of_tensorly() -> None:
    weight = random_weight(8, 6, 3, 3)
    array, shapes = weight.numpy(), Structure.classical_shapes(weight.shape)
    with tensorly.backend_context("numpy"):
        (core, matrices), _ = partial_tucker(array, [3, 2], modes=[0, 1], n_iter_max=0)
        expected = {
            Structure.tt(shapes, [4, 5, 2]): tensorly.tt_to_tensor(tensor_train(array, [1, 4, 5, 2, 1])),
            Structure.tr(shapes, [2, 3, 4, 2]): tensorly.tr_to_tensor(tensor_ring(array, [2, 3, 4, 2, 2])),
            Structure.tucker(shapes[:2], [3, 2], (1, 1, 3, 3)): tensorly.tenalg.multi_mode_dot(
                core, matrices, modes=[0, 1]
            ),
            Structure.cp(shapes, 3): tensorly.cp_to_tensor(
                parafac(array, 3, n_iter_max=10, tol=0, random_state=0)
            ),
        }
    for structure, tensor in expected.items():
        found = kronecker_to_tensor(
            decompose(weight, structure, polish=False, iterations=10, tolerance=0.0)
        ).numpy()
        error = np.linalg.norm(tensor - array)
        assert np.linalg.norm(found - array) == pytest.approx(error, rel=1e-6), structure
        if structure.pattern != "tr":  # a singular vector may change its sign between U and V
            np.testing.assert_allclose(found, tensor, atol=1e-6)


@pytest.mark.parametrize("name", CLASSICAL)
def test_polished_factors_are_at_least_as_good_as_those_of_tensorly(name: Pattern) -> None:
    @given(members([name], counts=(3, 4)).flatmap(lambda s: st.tuples(st.just(s), weights(s))))
    @cases(60)
    def check(drawn: Any) -> None:
        structure, weight = drawn
        tensor = rearrange(weight, [factor.shape for factor in structure.factors])
        rounds = 5 if name == "tucker" else 0
        values = classical_values(tensor, structure, iterations=rounds, tolerance=1e-6, seed=0)
        best = float(weight.square().sum())  # what factors of zeros reach
        if values is not None and tensor.any():
            shapes = (structure.value_shape(k) for k in range(len(values)))
            pairs = zip(values, shapes, strict=True)
            start = Factors(structure, tuple(value.reshape(shape) for value, shape in pairs))
            best = min(best, squared_error(weight, start))
        found = squared_error(weight, decompose(weight, structure, iterations=20))
        assert found <= best * (1 + 1e-9) + 1e-12 * float(weight.square().sum())

    check()


@pytest.mark.parametrize(
    "text",
    [
        "4x1[a,b] * 4x1[b,c] * 3x1[c,a]; a=3, b=3, c=3",  # no factor has room for a·b: TR-SVD cannot begin
        "2x1[a,b] * 2x1[b,c] * 9x1[c,d] * 1x2[d,a]; a=2, b=2, c=3, d=4",  # begins at the third factor
        "2x1[a,b] * 3x1[b,c] * 8x1[c,a]; a=4, b=4, c=2",  # begins at the last factor, 2 of 4 rows are missing
        "4x1[r] * 4x1[r] * 3x1[r]; r=9",  # above every |A_k|
        "4x1[r] * 4x1[r] * 1x1[r] * 3x1[r]; r=7",
    ],
)
def test_ranks_that_tensorly_cannot_reach(text: str) -> None:
    structure = Structure.parse(text)
    weight = random_weight(*structure.weight_shape)
    whole = float(weight.square().sum())
    fixed, free = (squared_error(weight, decompose(weight, structure, polish=p)) for p in (False, True))
    assert free <= fixed * (1 + 1e-9)
    assert free < 0.5 * whole
    if structure.pattern == "cp":
        assert free < 0.02 * whole
    if "a=3" in text:
        assert free < 1e-6 * whole


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_cp_of_more_terms_than_the_weight_has(rank: int) -> None:
    structure = Structure.cp([(4, 1), (4, 1), (3, 1)], rank)
    weight = kronecker_to_tensor(factors_of(structure.resize({"r": 1})))
    for target in (weight, torch.eye(48)[:, :1].double(), torch.ones(48, 1).double()):
        for polish in (False, True):
            found = squared_error(target, decompose(target, structure, polish=polish))
            assert found <= 1e-12 * float(target.square().sum())


def test_the_same_seed_gives_the_same_factors() -> None:
    weight = random_weight(4, 4, 3)
    for structure in (
        Structure.cp(Structure.classical_shapes((4, 4, 3)), 6),
        Structure.tr(Structure.classical_shapes((4, 4, 3)), [3, 3, 3]),
        Structure.parse("4x1x1[a,b] * 1x4x1[a] * 1x1x3[b,a]; a=2, b=2"),
    ):
        first, second, other = (
            decompose(weight, structure, seed=seed, iterations=5, polish=True) for seed in (3, 3, 4)
        )
        assert all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(first.tensors, other.tensors, strict=True))


def test_tensorly_is_silent_and_keeps_its_backend(capfd: pytest.CaptureFixture[str]) -> None:
    before = tensorly.get_backend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for structure in (
            Structure.cp(Structure.classical_shapes((4, 4, 1)), 4),
            Structure.tt(Structure.classical_shapes((4, 4, 3)), [4, 3]),
            Structure.tr(Structure.classical_shapes((4, 4, 3)), [2, 2, 2]),
            Structure.tucker(Structure.classical_shapes((4, 4, 3)), [4, 4, 3], (1, 1, 1)),
        ):
            for polish in (False, True):
                decompose(random_weight(*structure.weight_shape), structure, polish=polish)
    assert capfd.readouterr() == ("", "")
    assert tensorly.get_backend() == before == "numpy"


def test_tensorly_is_loaded_on_first_use_only() -> None:
    program = (
        "import sys, torch, edgekron, edgekron.decomposition as d\n"
        "d.decompose(torch.randn(4, 4), edgekron.Structure.gkpd((2, 2), (2, 2), 2))\n"
        "assert 'tensorly' not in sys.modules\n"
        "shapes = edgekron.Structure.classical_shapes((4, 4, 2))\n"
        "d.decompose(torch.randn(4, 4, 2), edgekron.Structure.cp(shapes, 2))\n"
        "assert 'tensorly' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_only_four_patterns_are_tensorlys() -> None:
    structure = Structure.sekron([(2, 1), (2, 1), (2, 1)], [1, 1])
    with pytest.raises(ValueError, match="tensorly has no decomposition for the pattern sekron"):
        classical_values(random_weight(2, 2, 2), structure, iterations=1, tolerance=0.0, seed=0)
