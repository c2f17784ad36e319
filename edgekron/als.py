"""Alternating least squares: polish for every structure, solver for label patterns without a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edgekron.contraction import Contraction, contraction, letters
from edgekron.errors import UnsupportedError, UsageError
from edgekron.factors import Factors, rearrange
from edgekron.progress import Progress, silent
from edgekron.structure import Structure

RIDGE = 1e-12
"""Part of the diagonal of the normal equations that makes singular ones solvable; see `Update`."""

WIDEST = 16384
"""Unknowns of one system of normal equations: 2 GiB."""

DIVERGED = 1e4
"""Σ‖term‖² over ‖T‖² at which sweeps end: the terms cancel each other to a hundredth, which float32,
in which a network runs, can just bear (relative error 1e-5). CP and rings do that without end where
they approach a tensor of lower rank than any near it (de Silva and Lim, 2008)."""

_EXACT = 1e-15
"""Squared relative error that float64 cannot tell from zero."""


@dataclass(frozen=True)
class Group:
    """Factors that stay connected to each other when factor k is taken out, seen from factor k.

    labels: those of factor k that the group carries; width: product of their sizes; members: the
    factors; gram: plans ``Σ_i E[labels, i] E[labels', i]`` of their product E, i over their entries.
    """

    labels: tuple[str, ...]
    width: int
    members: tuple[int, ...]
    gram: Contraction


@dataclass(frozen=True)
class Update:
    """How factor k becomes the least-squares solution, given the others.

    The normal equations are ``G A_k = T·E``, with E the product of the other factors, G its Gram
    matrix over the labels of factor k. Factors that are connected only through factor k contribute
    a Kronecker factor of G each (for TT: the train on the left and the one on the right), so each is
    solved on its own and G is never formed; nor is E, a Khatri-Rao product of the size of T and more.

    The ridge acts on the *step* from the present values: minimising ``‖T − E A‖² + λ ‖A − A_now‖²``
    never increases the error, whatever λ is.
    """

    target: Contraction
    others: tuple[int, ...]
    order: tuple[int, ...]
    groups: tuple[Group, ...]
    size: int

    @property
    def macs(self) -> int:
        """Multiplications, those of the solver included (ten w³ for the eigenvectors of w unknowns)."""
        cubes = 10 if sum(g.width > 1 for g in self.groups) > 1 else 1
        solves = sum(cubes * g.width**3 + 3 * g.width * self.size for g in self.groups)
        return self.target.macs + sum(g.gram.macs for g in self.groups) + solves

    def __call__(self, tensor: Tensor, values: Sequence[Tensor], index: int) -> tuple[Tensor, float]:
        """New values of factor `index` and ``‖T − T̂‖² − ‖T‖²``."""
        grams = [g.gram(*(values[k] for k in g.members for _ in range(2))) for g in self.groups]
        widths = [g.width for g in self.groups]
        squares = [gram.reshape(width, width) for gram, width in zip(grams, widths, strict=True)]
        grouped = values[index].permute(*self.order, -1)
        now = grouped.reshape(*widths, -1)
        target = self.target(tensor, *(values[k] for k in self.others)).permute(*self.order, -1)
        right = target.reshape(now.shape)
        now = now + _solve(squares, right - _each(squares, torch.matmul, now))
        change = now * (_each(squares, torch.matmul, now) - 2 * right)
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return now.reshape(grouped.shape).permute(*back, -1).contiguous(), float(change.sum())


@dataclass(frozen=True)
class Sweep:
    """One update of every factor of a structure in turn."""

    structure: Structure

    @cached_property
    def updates(self) -> tuple[Update, ...]:
        """One for each factor."""
        return tuple(_update(self.structure, k) for k in range(len(self.structure.factors)))

    @cached_property
    def product(self) -> Contraction:
        """Plans T̂ from the values of all factors."""
        terms, modes, sizes, _ = _indices(self.structure)
        return contraction(tuple(terms), "".join(modes), sizes)

    @cached_property
    def terms(self) -> Contraction:
        """Plans ``Σ ‖term‖²`` over all values of the labels, from the squared norms of the entries."""
        terms, _, sizes, _ = _indices(self.structure)
        return contraction(tuple(term[:-1] for term in terms), "", sizes)

    def amplitude(self, values: Sequence[Tensor]) -> float:
        """``Σ ‖term‖²``: far above ``‖T̂‖²`` where terms cancel each other."""
        return float(self.terms(*(value.square().sum(-1) for value in values)))

    @property
    def macs(self) -> int:
        """Multiplications of one sweep."""
        return sum(update.macs for update in self.updates)

    @property
    def width(self) -> int:
        """Unknowns of the largest normal equations."""
        return max(group.width for update in self.updates for group in update.groups)

    def __call__(self, tensor: Tensor, values: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        """New values and their squared error, to rounding of ``‖T‖²``."""
        new = list(values)
        change = 0.0
        for index, update in enumerate(self.updates):
            new[index], change = update(tensor, new, index)
        return new, max(0.0, float(tensor.square().sum()) + change)

    def squared_error(self, tensor: Tensor, values: Sequence[Tensor]) -> float:
        """``‖T − T̂‖²`` by forming T̂."""
        return float((tensor - self.product(*values)).square().sum())


def sweeps(
    tensor: Tensor, structure: Structure, values: Sequence[Tensor]
) -> Iterator[tuple[list[Tensor], float]]:
    """Values and squared error after one sweep, two sweeps, and so on without end.

    tensor: (|A_1|..|A_S|), float64; values: (label sizes.., |A_k|) of each factor.
    """
    sweep, now = Sweep(structure), list(values)
    while True:
        now, error = sweep(tensor, now)
        yield now, error


def alternate(
    tensor: Tensor,
    structure: Structure,
    start: Sequence[Tensor],
    *,
    iterations: int,
    tolerance: float,
    progress: Progress = silent,
) -> list[Tensor]:
    """The values after at most that many sweeps, never worse than the start.

    tensor: (|A_1|..|A_S|), float64; start: (label sizes.., |A_k|) of each factor; tolerance: stop when
    a sweep lowers the squared error by less than this part of it; it also stops before the terms
    diverge (`DIVERGED`). Raises UnsupportedError for normal equations of more than `WIDEST` unknowns.
    """
    sweep = Sweep(structure)
    if iterations and sweep.width > WIDEST:
        raise UnsupportedError(
            f"{structure}: alternating least squares would need normal equations of {sweep.width} unknowns, "
            f"at most {WIDEST} are possible: lower the ranks"
        )
    before, norm = sweep.squared_error(tensor, start), float(tensor.square().sum())
    found, last = list(start), before
    for done in range(1, iterations + 1):
        if last <= _EXACT * norm:
            break
        after, error = sweep(tensor, found)
        progress("alternating least squares", done, iterations)
        if done > 1 and sweep.amplitude(after) > max(DIVERGED * norm, sweep.amplitude(found)):
            break
        found = after
        if last - error <= tolerance * last:
            break
        last = error
    return found if sweep.squared_error(tensor, found) <= before else list(start)


def polish(
    weight: Tensor,
    factors: Factors,
    *,
    iterations: int = 100,
    tolerance: float = 1e-6,
    progress: Progress = silent,
) -> Factors:
    """Factors of the same structure, at least as near to the weight, by alternating least squares.

    weight: (F, C, K_1..K_d); factors: where to start, for instance `embedding.as_sekron` of others;
    iterations: sweeps at most; tolerance: stop when a sweep lowers ``‖W − Ŵ‖²`` by less than this
    part of it. Deterministic. In float64, returned in the type of the factors. Raises UsageError for
    NaN or infinity.
    """
    structure = factors.structure
    structure.require_shape(weight.shape)
    if not all(torch.isfinite(value).all() for value in (weight, *factors.tensors)):
        raise UsageError(f"{structure}: the weight or a factor holds NaN or infinity")
    tensor = rearrange(weight.detach().to("cpu", torch.float64), [f.shape for f in structure.factors])
    start = [flat(structure, k, t.detach().to("cpu", torch.float64)) for k, t in enumerate(factors.tensors)]
    found = alternate(tensor, structure, start, iterations=iterations, tolerance=tolerance, progress=progress)
    tensors = (v.reshape(t.shape).to(t) for v, t in zip(found, factors.tensors, strict=True))
    return Factors(structure, tuple(tensors))


def random_start(structure: Structure, seed: int) -> list[Tensor]:
    """Standard normal values (label sizes.., |A_k|) of every factor, float64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        flat(structure, k, torch.randn(structure.value_shape(k), generator=generator, dtype=torch.float64))
        for k in range(len(structure.factors))
    ]


def flat(structure: Structure, index: int, value: Tensor) -> Tensor:
    """The values of one factor with all its entries in one last mode: (label sizes.., |A_k|)."""
    labels = structure.factors[index].labels
    return value.reshape(*(structure.sizes[label] for label in labels), -1)


def _indices(structure: Structure) -> tuple[list[str], str, tuple[tuple[str, int], ...], dict[str, str]]:
    """Einsum terms of the factors, the index of each mode, all extents, the index of each label."""
    names = letters(2 * len(structure.ranks) + len(structure.factors))
    modes = "".join(names[: len(structure.factors)])
    of = dict(zip(structure.sizes, names[len(modes) :], strict=False))
    terms = [
        "".join(of[x] for x in f.labels) + mode for f, mode in zip(structure.factors, modes, strict=True)
    ]
    sizes = [*zip(modes, structure.entries, strict=True), *((of[x], n) for x, n in structure.ranks)]
    return terms, modes, tuple(sizes), of


def _update(structure: Structure, index: int) -> Update:
    """Plan the update of one factor."""
    terms, modes, sizes, of = _indices(structure)
    names = letters(2 * len(structure.ranks) + len(modes))
    primed = dict(zip(of.values(), names[len(modes) + len(of) :], strict=True))
    extents = (*sizes, *((primed[x], n) for x, n in sizes if x in primed))
    others = tuple(k for k in range(len(modes)) if k != index)
    own = structure.factors[index].labels
    groups = []
    for members in _components(structure, others):
        held = tuple(x for x in own if any(x in structure.factors[k].labels for k in members))
        pairs = [t for k in members for t in (terms[k], "".join(primed.get(x, x) for x in terms[k]))]
        output = "".join(of[x] for x in held) + "".join(primed[of[x]] for x in held)
        width = math.prod(structure.sizes[label] for label in held)
        groups.append(Group(held, width, members, contraction(tuple(pairs), output, extents)))
    target = contraction((modes, *(terms[k] for k in others)), terms[index], extents)
    order = tuple(own.index(label) for group in groups for label in group.labels)
    return Update(target, others, order, tuple(groups), math.prod(structure.value_shape(index)))


def _components(structure: Structure, among: Sequence[int]) -> list[tuple[int, ...]]:
    """Sets of factors that labels connect, without the factors that are not among them."""
    found: list[set[int]] = [{k} for k in among]
    for where in structure.carriers.values():
        joined = [group for group in found if group & set(where)]
        found = [group for group in found if group not in joined]
        if joined:
            found.append(set().union(*joined))
    return sorted(tuple(sorted(group)) for group in found)


def _each(matrices: Sequence[Tensor], apply: Callable[[Tensor, Tensor], Tensor], value: Tensor) -> Tensor:
    """Apply one matrix (n, n) along every axis of a tensor (n_1.., entries) but the last."""
    for axis, matrix in enumerate(matrices):
        moved = value.movedim(axis, 0)
        value = apply(matrix, moved.flatten(1)).reshape(moved.shape).movedim(0, axis)
    return value


def _solve(grams: Sequence[Tensor], right: Tensor) -> Tensor:
    """``(⊗ G_c + ridge)⁻¹`` applied to a tensor (n_1.., entries); the ridge is `RIDGE` of the diagonal.

    One G by Cholesky. Several by eigenvectors, where the ridge can be added to the *products* of the
    eigenvalues: a ridge on each would divide what is null in all of them, rounding, by `RIDGE` to the
    power of their number (values of 10^13 were seen).
    """
    scales = [_safe(gram.diagonal().sqrt()) for gram in grams]
    grams = [gram / scale / scale.unsqueeze(1) for gram, scale in zip(grams, scales, strict=True)]
    right = _each(scales, _divide, right)
    if sum(len(gram) > 1 for gram in grams) < 2:
        right = _each([_cholesky(gram) for gram in grams], _substitute, right)
    else:
        values, vectors = zip(*(torch.linalg.eigh(gram) for gram in grams), strict=True)
        right = _each([basis.mT for basis in vectors], torch.matmul, right)
        weights = torch.ones(1, dtype=right.dtype)
        for eigenvalues in values:
            weights = weights.unsqueeze(-1) * eigenvalues.clamp(min=0)
        right = _each(vectors, torch.matmul, right / (weights.reshape(*right.shape[:-1], 1) + RIDGE))
    return _each(scales, _divide, right)


def _safe(scale: Tensor) -> Tensor:
    """One instead of zero."""
    return torch.where(scale > 0, scale, 1.0)


def _divide(scale: Tensor, right: Tensor) -> Tensor:
    return right / scale.unsqueeze(1)


def _substitute(triangle: Tensor, right: Tensor) -> Tensor:
    solution: Tensor = torch.cholesky_solve(right, triangle)
    return solution


def _cholesky(gram: Tensor) -> Tensor:
    """Cholesky factor of a positive semidefinite matrix plus the smallest ridge that allows one."""
    triangle: Tensor
    ridge = RIDGE
    while True:
        lifted = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
        triangle, failed = torch.linalg.cholesky_ex(lifted)
        if not failed or ridge > 1:  # a ridge that large is not enough for NaN only
            return triangle
        ridge *= 100
