"""Alternating least squares against numpy's; balance; what decompose promises for any labels."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekron import als
from edgekron.als import DIVERGED, Sweep, alternate, flat, polish, random_start, sweeps
from edgekron.balance import balance
from edgekron.contraction import contraction
from edgekron.decomposition import decompose
from edgekron.errors import StructureError, UnsupportedError, UsageError
from edgekron.factors import Factors, kronecker_to_tensor, rearrange
from edgekron.structure import Structure
from tests.families import cases, factors_of, squared_error, weights, within_bounds
from tests.strategies import Array, structures

ANY: Any = structures(counts=(2, 3, 3, 4))


def with_weight(drawn: Any) -> Any:
    return drawn.flatmap(lambda s: st.tuples(st.just(s), weights(s)))


def tensor_of(structure: Structure, weight: torch.Tensor) -> torch.Tensor:
    return rearrange(weight, [factor.shape for factor in structure.factors])


def product_of(structure: Structure, values: list[torch.Tensor]) -> Array:
    """T̂ by numpy.einsum with one index per label and mode."""
    labels = {label: k for k, label in enumerate(structure.sizes)}
    arguments: list[Any] = []
    for k, (factor, value) in enumerate(zip(structure.factors, values, strict=True)):
        arguments += [value.numpy(), [*(labels[label] for label in factor.labels), len(labels) + k]]
    return np.asarray(np.einsum(*arguments, [len(labels) + k for k in range(len(values))]))


@given(with_weight(ANY), st.integers(0, 99))
@cases(200)
def test_no_sweep_raises_the_error(drawn: Any, seed: int) -> None:
    structure, weight = drawn
    tensor, start = tensor_of(structure, weight), random_start(structure, seed)
    norm = float(tensor.square().sum())
    last = float(((tensor.numpy() - product_of(structure, start)) ** 2).sum())
    for values, error in islice(sweeps(tensor, structure, start), 8):
        measured = float(((tensor.numpy() - product_of(structure, values)) ** 2).sum())
        terms = float((product_of(structure, [value.abs() for value in values]) ** 2).sum())
        floor = 1e-13 * (norm + last + terms)  # of rounding; terms may cancel each other
        assert error == pytest.approx(measured, rel=1e-9, abs=floor)
        assert measured <= last * (1 + 1e-9) + floor
        last = measured


@given(with_weight(ANY), st.integers(0, 99))
@cases(60)
def test_the_amplitude_is_the_sum_over_all_terms(drawn: Any, seed: int) -> None:
    structure, _ = drawn
    values = random_start(structure, seed)
    expected = 0.0
    for place in np.ndindex(*structure.sizes.values()):
        at = dict(zip(structure.sizes, place, strict=True))
        norms = [
            float(value[tuple(at[label] for label in factor.labels)].square().sum())
            for factor, value in zip(structure.factors, values, strict=True)
        ]
        expected += math.prod(norms)
    assert Sweep(structure).amplitude(values) == pytest.approx(expected, rel=1e-10)


def test_terms_that_diverge_end_the_sweeps() -> None:
    """x⊗x⊗y + x⊗y⊗x + y⊗x⊗x has rank 3 and CPs of rank 2 as near as you like, of ever larger terms."""
    x, y = torch.eye(2, dtype=torch.float64)
    tensor = sum(torch.einsum("i,j,k->ijk", *vectors) for vectors in ((x, x, y), (x, y, x), (y, x, x)))
    assert isinstance(tensor, torch.Tensor)
    structure = Structure.parse("2x1[r] * 1x2[r] * 2x1[r]; r=2")
    start = random_start(structure, 0)
    found = alternate(tensor, structure, start, iterations=5000, tolerance=0)
    sweep = Sweep(structure)
    assert sweep.amplitude(found) <= DIVERGED * float(tensor.square().sum())
    assert sweep.squared_error(tensor, found) < 0.05 * float(tensor.square().sum())
    unchecked, _ = next(islice(sweeps(tensor, structure, start), 5000, None))
    assert sweep.amplitude(unchecked) > sweep.amplitude(found)


@given(with_weight(ANY), st.integers(0, 99))
@cases(100)
def test_every_update_is_the_least_squares_solution(drawn: Any, seed: int) -> None:
    structure, weight = drawn
    tensor, values = tensor_of(structure, weight), random_start(structure, seed)
    for index, update in enumerate(Sweep(structure).updates):
        values[index], change = update(tensor, values, index)
        # The product of the others as a matrix, one column for each entry of the labels, by unit vectors.
        labels = values[index].shape[:-1]
        columns = []
        for place in np.ndindex(*labels):
            unit = torch.zeros(*labels, 1, dtype=torch.float64)
            unit[place] = 1
            others = list(values)
            others[index] = unit
            columns.append(product_of(structure, others).reshape(-1))
        matrix = np.stack(columns, 1)
        target = tensor.movedim(index, -1).reshape(-1, tensor.shape[index]).numpy()
        # With numpy's own cutoff directions of σ = 1e-16, rounding, would count as a fit.
        best, *_ = np.linalg.lstsq(matrix, target, rcond=1e-7)
        least = float(((matrix @ best - target) ** 2).sum())
        norm = float(tensor.square().sum())
        found = values[index].reshape(-1, tensor.shape[index]).numpy()
        assert float(((matrix @ found - target) ** 2).sum()) == pytest.approx(
            least, rel=1e-6, abs=1e-8 * norm + 1e-12
        )
        assert change + norm == pytest.approx(least, rel=1e-6, abs=1e-8 * norm + 1e-12)


@given(with_weight(ANY), st.integers(0, 99))
@cases(150)
def test_polish_is_at_least_as_good_as_its_start(drawn: Any, seed: int) -> None:
    structure, weight = drawn
    start = factors_of(structure, seed)
    for factors in (start, polish(weight, start, iterations=10)):
        better = polish(weight, factors, iterations=10)
        assert squared_error(weight, better) <= squared_error(weight, factors) * (1 + 1e-12)


@given(with_weight(ANY.map(within_bounds)))
@cases(200)
def test_decompose_takes_any_labels(drawn: Any) -> None:
    structure, weight = drawn
    found = decompose(weight, structure, iterations=10)
    assert found.structure == structure
    error, whole = squared_error(weight, found), float(weight.square().sum())
    assert error <= whole * (1 + 1e-12)
    for label, where in structure.carriers.items():
        axes = [structure.factors[k].labels.index(label) for k in where]
        norms = np.array(
            [
                found.tensors[k].movedim(axis, 0).reshape(structure.sizes[label], -1).norm(dim=1).numpy()
                for k, axis in zip(where, axes, strict=True)
            ]
        )
        largest = float(norms.max())
        np.testing.assert_allclose(norms, np.broadcast_to(norms[0], norms.shape), atol=1e-6 * largest)
    sizes = [float(tensor.norm()) for tensor in found.tensors]
    assert max(sizes) <= min(sizes) * (1 + 1e-6) + 1e-9


def test_nested_svds_of_a_small_tensor_are_improved_by_some_percent() -> None:
    """Design, section 3: 18.363 -> 18.223 on a random 4x4x3 tensor."""
    gains = []
    for seed in range(10):
        weight = torch.from_numpy(np.random.default_rng(seed).standard_normal((4, 4, 3)))
        structure = Structure.sekron(Structure.classical_shapes((4, 4, 3)), [2, 1])
        nested, best = (squared_error(weight, decompose(weight, structure, polish=p)) for p in (False, True))
        assert best <= nested
        gains.append(best / nested)
    assert sum(gain < 0.995 for gain in gains) >= 5, gains


@pytest.mark.parametrize(
    "text",
    [
        "4x2[a,b] * 2x3[a,b] * 3x2[a]; a=2, b=2",
        "4x2[a] * 2x3[a,b] * 3x2[a,b,c] * 2x2[c]; a=2, b=2, c=2",
        "4x2[a,c] * 2x3[a,b] * 3x2[b,c] * 2x2[a]; a=2, b=2, c=2",
        "4x3 * 2x3 * 3x2",
        "4x3[a] * 2x3[a] * 3x2[b] * 2x2[b]; a=2, b=2",
    ],
)
def test_a_weight_of_the_structure_is_found_from_some_seed(text: str) -> None:
    structure = Structure.parse(text)
    assert structure.pattern == "other"
    weight = kronecker_to_tensor(factors_of(structure, 5))
    whole = float(weight.square().sum())
    errors = [
        squared_error(weight, decompose(weight, structure, seed=seed, iterations=300)) for seed in range(4)
    ]
    assert min(errors) < 1e-6 * whole, errors


def test_a_factor_of_two_parts_is_solved_part_by_part() -> None:
    update = Sweep(Structure.tt([(9, 1), (1, 2), (9, 1)], [8, 7])).updates[1]
    assert [(group.members, group.labels, group.width) for group in update.groups] == [
        ((0,), ("a1",), 8),
        ((2,), ("a2",), 7),
    ]
    ring = Sweep(Structure.tr([(9, 1), (1, 2), (9, 1)], [2, 3, 4]))
    assert [[group.width for group in update.groups] for update in ring.updates] == [[6], [12], [8]]
    assert ring.width == 12
    apart = Sweep(Structure.parse("2x2 * 2x2[a] * 2x2[a] * 2x2; a=3"))
    assert [group.members for group in apart.updates[0].groups] == [(1, 2), (3,)]


def test_what_is_null_on_both_sides_of_a_factor_stays_small() -> None:
    """Found by 10,000 cases: a ridge on each part of G let rounding grow to 10^13 in the third factor."""
    structure = Structure.parse("1x2[r] * 1x2[r,n] * 1x1[n,c] * 1x1[c]; r=1, n=3, c=2")
    tensor = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 2, 1, 1)))
    for values, error in islice(sweeps(tensor, structure, random_start(structure, 0)), 20):
        assert max(float(value.norm()) for value in values) < 10
        measured = float(((tensor.numpy() - product_of(structure, values)) ** 2).sum())
        assert error == pytest.approx(measured, rel=1e-12)


def test_it_stops() -> None:
    structure = Structure.cp([(6, 1), (5, 1), (4, 1)], 4)
    tensor = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 5, 4)))
    start = random_start(structure, 0)

    def count(**options: Any) -> int:
        calls: list[tuple[str, int, int]] = []
        alternate(tensor, structure, start, progress=lambda *call: calls.append(call), **options)
        assert [call[1] for call in calls] == list(range(1, len(calls) + 1))
        assert all(call[0] == "alternating least squares" for call in calls)
        assert all(call[2] == options["iterations"] for call in calls)
        return len(calls)

    assert count(iterations=7, tolerance=0.0) == 7
    assert count(iterations=500, tolerance=1e-3) < count(iterations=500, tolerance=1e-5) < 500
    assert count(iterations=0, tolerance=0.0) == 0
    fitted = alternate(tensor, structure, start, iterations=500, tolerance=1e-9)
    exact = Sweep(structure).product(*fitted)
    assert alternate(exact, structure, fitted, iterations=5, tolerance=0.0) == fitted


def test_polish_keeps_type_and_refuses_other_shapes() -> None:
    structure = Structure.tt([(4, 2), (2, 3), (3, 2)], [2, 2])
    weight = torch.randn(24, 12)
    factors = Factors(structure, tuple(value.float() for value in factors_of(structure).tensors))
    better = polish(weight, factors)
    assert {value.dtype for value in better.tensors} == {torch.float32}
    assert squared_error(weight, better) < squared_error(weight, factors)
    with pytest.raises(StructureError, match="but the weight is 24x13"):
        polish(torch.randn(24, 13), factors)
    with pytest.raises(UsageError, match="the weight or a factor holds NaN or infinity"):
        polish(torch.full((24, 12), math.nan), factors)


def test_normal_equations_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(als, "WIDEST", 5)
    structure = Structure.tr([(4, 1), (4, 1), (3, 1)], [2, 3, 2])
    with pytest.raises(UnsupportedError) as error:
        polish(torch.randn(48, 1), factors_of(structure))
    assert str(error.value) == (
        f"{structure}: alternating least squares would need normal equations of 6 unknowns, at most 5 are "
        "possible: lower the ranks"
    )


@given(ANY, st.integers(0, 99))
@cases(100)
def test_balance_changes_norms_only(structure: Structure, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [flat(structure, k, value) for k, value in enumerate(factors_of(structure, seed).tensors)]
    values = [value * 10.0 ** rng.integers(-6, 6) for value in values]
    if seed % 3 == 0 and structure.ranks:  # a dead slice, in one factor only
        label, where = next(iter(structure.carriers.items()))
        values[where[0]].select(structure.factors[where[0]].labels.index(label), 0).zero_()
    found = balance(structure, values)
    product = product_of(structure, values)
    np.testing.assert_allclose(
        product_of(structure, found), product, rtol=1e-9, atol=1e-10 * np.abs(product).max()
    )
    norms = [float(value.norm()) for value in found]
    assert max(norms) == pytest.approx(min(norms), rel=1e-6, abs=1e-200)
    assert sum(norm**2 for norm in norms) <= sum(float(v.square().sum()) for v in values) * (1 + 1e-9)


def test_balance_equals_the_norms_of_every_slice() -> None:
    structure = Structure.sekron([(4, 1), (3, 1), (5, 1), (2, 1)], [3, 2, 2])
    values = [flat(structure, k, value) for k, value in enumerate(factors_of(structure).tensors)]
    values[1][0, 1] *= 1e5
    values[2][:, :, 1] = 0  # r3 = 1 contributes nothing
    found = balance(structure, values)
    assert found[3][:, :, 1].count_nonzero() == 0
    for axis, label in enumerate(["r1", "r2", "r3"]):
        where = structure.carriers[label]
        norms = [found[k].movedim(axis, 0).flatten(1).norm(dim=1) for k in where]
        for other in norms[1:]:
            torch.testing.assert_close(other, norms[0], rtol=1e-9, atol=1e-12)


@given(st.data())
@cases(100)
def test_contractions_are_einsums(data: Any) -> None:
    names = "abcdef"[: data.draw(st.integers(1, 6))]
    sizes = {name: data.draw(st.integers(1, 3)) for name in names}
    terms = data.draw(
        st.lists(st.lists(st.sampled_from(names), unique=True).map("".join), min_size=1, max_size=7)
    )
    used = sorted(set().union(*terms))
    output = "".join(data.draw(st.lists(st.sampled_from(used), unique=True)) if used else [])
    rng = np.random.default_rng(0)
    values = [rng.standard_normal([sizes[name] for name in term]) for term in terms]
    plan = contraction(tuple(terms), output, tuple(sizes.items()))
    expected = np.einsum(",".join(terms) + "->" + output, *values)
    found = plan(*map(torch.from_numpy, map(np.asarray, values)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)
    assert 0 < plan.macs <= len(terms) * math.prod(sizes.values())


SMALL = [
    "4x2[r] * 2x3[r] * 3x2[r]; r=2",
    "4x2[a] * 2x3[a,b] * 3x2[a,b]; a=2, b=2",
    "4x2[a] * 2x3[a,b] * 3x2[b]; a=2, b=2",
]
SMALL += [
    "4x2[a,b] * 2x3[b,c] * 3x2[c,a]; a=2, b=2, c=2",
    "4x2[a] * 2x3[b] * 3x2[a,b]; a=2, b=2",
    "4x2 * 2x3 * 3x2",
]
SMALL += ["4x2[a,b] * 2x3[a] * 3x2[a,b]; a=2, b=2"]


@pytest.mark.parametrize("polished", [False, True])
@pytest.mark.parametrize("text", SMALL)
def test_degenerate_weights(text: str, polished: bool) -> None:
    structure = Structure.parse(text)
    zero = decompose(torch.zeros(24, 12), structure, polish=polished)
    assert all(value.count_nonzero() == 0 for value in zero.tensors)
    for value in (math.nan, math.inf):
        weight = torch.ones(24, 12)
        weight[3, 4] = value
        with pytest.raises(UsageError, match="the weight holds NaN or infinity"):
            decompose(weight, structure, polish=polished)
    ones = torch.ones(24, 12, dtype=torch.float64)
    assert squared_error(ones, decompose(ones, structure, polish=polished)) < 1e-12
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found = decompose(torch.randn(24, 12).to(dtype), structure, polish=polished)
        assert {value.dtype for value in found.tensors} == {dtype}


@pytest.mark.parametrize("scale", [2.0**-500, 1e-30, 1e30, 2.0**500])
@pytest.mark.parametrize("text", SMALL)
def test_the_scale_of_the_weight_does_not_count(text: str, scale: float) -> None:
    structure = Structure.parse(text)
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal((24, 12)))
    plain, scaled = decompose(weight, structure), decompose(weight * scale, structure)
    expected = kronecker_to_tensor(plain)
    torch.testing.assert_close(kronecker_to_tensor(scaled) / scale, expected, rtol=1e-4, atol=1e-4)
    norms = [float(value.norm()) for value in scaled.tensors]
    assert max(norms) == pytest.approx(min(norms), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "4x2[a] * 2x3[a,b] * 3x2[a,b]; a=9, b=2",
            "rank a=9 is above its bound 8, given |A_k| = 8, 6, 6 and the",
        ),
        ("4x2[a] * 2x3[a,b] * 3x2[a,b]; a=2, b=7", "rank b=7 is above its bound 6"),
        ("4x2[a] * 2x3[a,b] * 3x2[b]; a=8, b=7", "rank b=7 is above its bound 6"),
        ("4x2[a] * 2x3[a,b] * 3x2[b]; a=7, b=1", "rank a=7 is above its bound 6"),
        ("4x2[r] * 2x3[r] * 3x2[r]; r=37", "rank r=37 is above its bound 36"),
        ("4x2[a] * 2x3[b] * 3x2[a,b]; a=2, b=7", "rank b=7 is above its bound 6"),
        ("4x2[a,b] * 2x3[b,c] * 3x2[c,a]; a=2, b=13, c=2", "rank b=13 is above its bound 12"),
        (
            "4x2[r] * 2x3[r] * 3x1[r]; r=1",
            "the product of the factor shapes is 24x6, but the weight is 24x12",
        ),
    ],
)
def test_what_cannot_be_decomposed(text: str, message: str) -> None:
    with pytest.raises(StructureError) as error:
        decompose(torch.randn(24, 12), Structure.parse(text))
    assert str(error.value).startswith(f"{Structure.parse(text)}: {message}")


def test_iterations_are_at_least_one() -> None:
    with pytest.raises(UsageError, match="iterations must be at least 1, got 0; polish=False for none"):
        decompose(torch.randn(4, 4), Structure.gkpd((2, 2), (2, 2), 1), iterations=0)
