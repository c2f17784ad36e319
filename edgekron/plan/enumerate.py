"""Enumerate: every plan of a layer in a layout, from its contractions.

For every way to densify runs of adjacent factors and every order of what remains, each contraction
becomes one operator in one of a few forms:

* ``nchw`` convolution: batch indices folded into N, contracted indices adjacent as channels;
* ``nchw`` matrix product: a pointwise contraction of adjacent indices wherever they stand, with
  everything behind them as columns, so that no transpose is needed;
* ``nhwc`` width-folded convolution: (N, H, W, b·c) is (N, H, W·b, c) byte for byte, so a batch index
  b runs along the width with dilation and padding times b (needs stride 1 there);
* ``nhwc`` batch-folded convolution.

Of three axes, the first is time. A factor with extent in time alone sees height and width as one axis, and
one without any takes time as batch; one with extent in both does so, too, after its kernel positions in
time have been unfolded into channels: runtimes have no fast convolution over three axes.

A transpose is emitted only where the indices do not stand as the form needs them. Indices of extent
1 do not exist here, so separable factors turn into plain convolutions by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from typing import TypeVar

from edgekron.plan.contraction import (
    Contraction,
    contractions,
    index_sizes,
    input_indices,
    rank_indices,
)
from edgekron.plan.convolution import Convolution
from edgekron.plan.cost import MODELS, CostModel, moves_one_axis
from edgekron.plan.steps import AddBias, Convolve, Layout, MatMul, Permute, Plan, Step, Unfold, View, Weight
from edgekron.structure import Structure

Groups = Sequence[Sequence[str]]
T = TypeVar("T")
_TAP = "tap"
"""Index of the kernel's positions in time, where they stand among the channels."""
PADDINGS = (4, 8, 16, 32)


def plans(
    structure: Structure,
    convolution: Convolution,
    layout: Layout,
    *,
    bias: bool = False,
    model: CostModel | None = None,
) -> Iterator[Plan]:
    """Every plan of the layer, in a fixed order; all compute the same function.

    model: of the runtime that gives each plan its cost; by default the one for x86-64 of the layout.
    """
    layer = _Layer(structure, convolution, layout, bias, model or MODELS["fp32"]["x86-64"][layout])
    for order in _orders(layer):
        yield from order.plans(limit=lambda: math.inf)


def best_plan(
    structure: Structure,
    convolution: Convolution,
    layout: Layout,
    *,
    bias: bool = False,
    accept: Callable[[Plan], bool] = lambda plan: True,
    model: CostModel | None = None,
) -> Plan:
    """The acceptable plan of least cost, the first of them where several are equal; else LookupError.

    Branch and bound: orders of few multiplications first, and what costs more than the best plans so
    far, the products still to come included, is not pursued.
    """
    return best_plans(structure, convolution, layout, bias=bias, accept=accept, model=model, count=1)[0]


def best_plans(
    structure: Structure,
    convolution: Convolution,
    layout: Layout,
    *,
    bias: bool = False,
    accept: Callable[[Plan], bool] = lambda plan: True,
    model: CostModel | None = None,
    count: int,
) -> list[Plan]:
    """That many acceptable plans of least cost, the best first; LookupError if there is none.

    Of plans with the same steps only the first is listed. Fewer, where the layer has fewer.
    """
    layer = _Layer(structure, convolution, layout, bias, model or MODELS["fp32"]["x86-64"][layout])
    return _best(_orders(layer), layer, accept, count)


def dense_plan(
    structure: Structure,
    convolution: Convolution,
    layout: Layout,
    *,
    bias: bool = False,
    model: CostModel | None = None,
) -> Plan:
    """The plan that densifies all factors first and runs the layer's own convolution."""
    layer = _Layer(structure, convolution, layout, bias, model or MODELS["fp32"]["x86-64"][layout])
    orders = (order for order in _orders(layer) if len(order.merges) == 1)
    return _best(orders, layer, lambda plan: True, 1)[0]


def _best(orders: Iterable[_Order], layer: _Layer, accept: Callable[[Plan], bool], count: int) -> list[Plan]:
    best: dict[object, Plan] = {}

    def limit() -> float:
        return max(plan.cost for plan in best.values()) if len(best) == count else math.inf

    for order in sorted(orders, key=lambda order: order.least):
        for plan in order.plans(limit):
            if plan.cost >= limit() or not accept(plan):
                continue
            best.setdefault((plan.merges, plan.ranks, plan.steps), plan)
            if len(best) > count:
                del best[max(best, key=lambda key: best[key].cost)]
    if not best:
        raise LookupError(f"{layer.structure} has no plan in {layer.layout} that the format can hold")
    return sorted(best.values(), key=lambda plan: plan.cost)


@dataclass(frozen=True)
class _Layer:
    """What is planned, for which runtime."""

    structure: Structure
    convolution: Convolution
    layout: Layout
    bias: bool
    model: CostModel


@dataclass(frozen=True)
class _Order:
    """The factors that are left after merging and padding, in one order of execution."""

    layer: _Layer
    merges: tuple[tuple[int, ...], ...]
    merged: Structure
    steps: tuple[Contraction, ...]

    @property
    def least(self) -> float:
        """A cost that no plan of this order is below."""
        return sum(self.layer.model.least(step.macs) for step in self.steps)

    def plans(self, limit: Callable[[], float]) -> Iterator[Plan]:
        """All arrangements that cost less than limit(), which may sink meanwhile."""
        start = _start(self.merged, self.layer)
        for end in _arrange(start, self.steps, self.least, limit):
            end = end.finish(len(self.merged.factors), self.layer.bias)
            yield Plan(
                self.layer.structure,
                self.layer.convolution,
                self.layer.layout,
                self.merges,
                self.merged.ranks,
                end.steps,
                macs=sum(step.macs for step in self.steps),
                moved=end.moved,
                cost=end.cost,
            )


def _orders(layer: _Layer) -> Iterator[_Order]:
    """All ways to merge neighbours and to pad the ranks, and all orders of what is left."""
    for merges in _runs(len(layer.structure.factors)):
        for merged in _paddings(layer.structure.merge(merges), layer.model.lanes):
            for order in permutations(range(len(merges))):
                yield _Order(layer, merges, merged, contractions(merged, layer.convolution, order))


def _paddings(structure: Structure, lanes: int) -> Iterator[Structure]:
    """The structure, and the same with every rank a multiple of each of PADDINGS, where that may pay."""
    seen = set()
    for multiple in (1, *PADDINGS):
        ranks = tuple((label, math.ceil(size / multiple) * multiple) for label, size in structure.ranks)
        may_pay = all(
            wide <= max(2 * size, lanes) for (_, wide), (_, size) in zip(ranks, structure.ranks, strict=True)
        )
        if ranks not in seen and may_pay:
            seen.add(ranks)
            yield structure.resize(dict(ranks))


def _runs(count: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """All partitions of 0..count-1 into runs of neighbours, the finest first."""
    for cuts in reversed(range(2 ** (count - 1))):
        runs: list[list[int]] = [[0]]
        for k in range(1, count):
            if cuts >> (k - 1) & 1:
                runs.append([k])
            else:
                runs[-1].append(k)
        yield tuple(map(tuple, runs))


@dataclass(frozen=True)
class _Partial:
    """Steps so far, and how the state stands in memory: index names from slowest to fastest."""

    structure: Structure
    layout: Layout
    model: CostModel
    sizes: dict[str, int]
    order: tuple[str, ...]
    shape: tuple[int, ...]
    blocked: bool
    steps: tuple[Step, ...] = ()
    moved: int = 0
    cost: float = 0.0

    @property
    def spatial(self) -> tuple[str, ...]:
        return tuple(x for x in self.order if x.startswith("axis"))

    @property
    def elements(self) -> int:
        """Elements of the state for one image."""
        return math.prod(self.sizes[x] for x in self.order if x != "n")

    def extent(self, names: Sequence[str]) -> int:
        return -1 if "n" in names else math.prod(self.sizes[x] for x in names)

    def view(self, groups: Groups) -> _Partial:
        """The same memory seen with one extent per group of indices."""
        shape = tuple(map(self.extent, groups))
        if shape == self.shape:
            return self
        kept = self.steps[:-1] if self.steps and isinstance(self.steps[-1], View) else self.steps
        return replace(self.reorder(False), shape=shape, steps=(*kept, View(shape)))

    def reorder(self, blocked: bool) -> _Partial:
        """The same state with its channels in blocks, or not, as the runtime keeps them."""
        if blocked == self.blocked or not self.model.blocks:
            return self
        own = self.model.reordering(self.shape[1], self.elements)
        return replace(self, blocked=blocked, cost=self.cost + own)

    def permute(self, order: tuple[str, ...]) -> _Partial:
        """The same state in another order: by one transpose, or by two where that is cheaper."""
        if order == self.order:
            return self
        runs = _runs_kept(self.order, order)
        ways = [self._transpose(order)]
        if not moves_one_axis(_axes(runs, order)):
            middles = {_flat(moved) for moved in _moves(runs)} - {self.order, order}
            ways += [self._transpose(middle)._transpose(order) for middle in sorted(middles)]
        return min(ways, key=lambda way: way.cost)

    def _transpose(self, order: tuple[str, ...]) -> _Partial:
        """One transpose of as few axes as possible."""
        runs = _runs_kept(self.order, order)
        axes = _axes(runs, order)
        elements, block = self.elements, math.prod(self.sizes[x] for x in runs[-1] if x != "n")
        seen = self.view(runs).reorder(False)
        return replace(
            seen,
            order=order,
            shape=tuple(seen.shape[axis] for axis in axes),
            steps=(*seen.steps, Permute(axes)),
            moved=seen.moved + elements,
            cost=seen.cost + self.model.permute(axes, elements, block=block, layout=self.layout),
        )

    def unfold(self, groups: Groups, window: Convolution) -> _Partial:
        """A window along the second group: its positions as a new index before the channels."""
        onto = len(groups) - (2 if self.layout == "nchw" else 1)
        seen = self.view(groups).reorder(False)
        order = [*_flat(groups[:onto]), _TAP, *_flat(groups[onto:])]
        sizes = {**self.sizes, _TAP: window.kernel[0], groups[1][0]: window.out[0]}
        after = replace(seen, sizes=sizes, order=tuple(order))
        step = Unfold(1, onto, window)
        shape = tuple(
            after.extent((_TAP, *group)) if k == onto else after.extent(group)
            for k, group in enumerate(groups)
        )
        cost = seen.cost + self.model.unfold(step, self.elements, after.elements)
        return replace(after, shape=shape, steps=(*seen.steps, step), cost=cost)

    def apply(
        self, step: Convolve | MatMul, done: Contraction, order: tuple[str, ...], groups: Groups
    ) -> _Partial:
        """The state after an operator that leaves it in the given order and grouping."""
        out = {f"axis{k}": n for k, n in enumerate(done.convolution.out)}
        match step:
            case MatMul():
                ready, blocked = self.reorder(False), False
            case Convolve():
                ready, blocked = self.reorder(self.model.takes_blocks(step)), self.model.is_blocked(step)
        after = replace(ready, sizes={**self.sizes, **out}, order=order, blocked=blocked)
        shape = tuple(map(after.extent, groups))
        if isinstance(step, MatMul):
            own = self.model.matmul(step, shape[-1], self.elements, after.elements)
        else:
            own = self.model.convolve(step, self.elements, after.elements)
        return replace(after, shape=shape, steps=(*self.steps, step), cost=after.cost + own)

    def weight(
        self, done: Contraction, rows: Sequence[str], columns: Sequence[str], kernel: tuple[int, ...]
    ) -> Weight:
        """A factor with its indices in this order, its kernel last, as (rows, columns, *kernel)."""
        factor = self.structure.factors[done.factor]
        value = [*rank_indices(factor), *(f"{kind}{done.factor}" for kind in "gfc")]
        own = factor.shape[2:]
        if _TAP in columns:
            value, own = [*value, _TAP], own[1:]
        wanted = [*rows, *columns]
        rest = [x for x in value if x not in wanted]  # of extent 1
        axes = [value.index(x) for x in (*rest, *wanted)]
        spatial = range(len(value), len(value) + len(own))
        extents = (math.prod(self.sizes[x] for x in rows), math.prod(self.sizes[x] for x in columns))
        view = (*(self.sizes[x] for x in value), *own)
        return Weight(done.factor, view, (*axes, *spatial), (*extents, *kernel), done.flips)

    def finish(self, factors: int, bias: bool) -> _Partial:
        """Bring the output digits into their order and add the bias."""
        made = tuple(x for k in range(factors) for x in (f"g{k}", f"f{k}") if self.sizes[x] > 1)
        nchw = self.layout == "nchw"
        spatial = tuple(sorted(self.spatial))
        order = ("n", *made, *spatial) if nchw else ("n", *spatial, *made)
        axes = [(x,) for x in spatial]
        end = self.permute(order)
        end = end.view([("n",), made, *axes] if nchw else [("n",), *axes, made])
        if not bias:
            return end.leave()
        last = self.steps[-1]
        ordered = tuple(x for x in self.order if x in made) == made
        if ordered and isinstance(last, Convolve) and last.weight.shape[0] == end.extent(made):
            views = end.steps[len(self.steps) :]
            return replace(end, steps=(*self.steps[:-1], replace(last, bias=True), *views)).leave()
        shape = (end.extent(made), *(1 for _ in self.spatial)) if nchw else (end.extent(made),)
        own = self.model.add(end.elements)
        return replace(end, steps=(*end.steps, AddBias(shape)), cost=end.cost + own).leave()

    def leave(self) -> _Partial:
        """The state as the next layer wants it."""
        return self.reorder(True) if len(self.spatial) == 2 else self


def _runs_kept(before: tuple[str, ...], after: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What stays together between two orders, in the first of them."""
    follows = set(pairwise(after))
    runs: list[list[str]] = []
    for name in before:
        if runs and (runs[-1][-1], name) in follows:
            runs[-1].append(name)
        else:
            runs.append([name])
    return [tuple(run) for run in runs]


def _axes(runs: Sequence[tuple[str, ...]], order: tuple[str, ...]) -> tuple[int, ...]:
    """The permutation of the runs that gives the order."""
    heads = [run[0] for run in runs]
    return tuple(heads.index(name) for name in order if name in heads)


def _moves(runs: Sequence[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """All orders of the runs that differ by one run that stands elsewhere."""
    for source in range(len(runs)):
        rest = [*runs[:source], *runs[source + 1 :]]
        for target in range(len(runs)):
            yield [*rest[:target], runs[source], *rest[target:]]


def _start(structure: Structure, layer: _Layer) -> _Partial:
    """The input: (N, C, size..) or (N, size.., C)."""
    convolution, layout = layer.convolution, layer.layout
    sizes = index_sizes(structure, convolution.groups)
    spatial = tuple(f"axis{k}" for k in range(convolution.axes))
    sizes.update(zip(spatial, convolution.size, strict=True))
    channels = tuple(input_indices(sizes, len(structure.factors)))
    total = structure.weight_shape[1] * convolution.groups
    if layout == "nchw":
        order, shape = ("n", *channels, *spatial), (-1, total, *convolution.size)
    else:
        order, shape = ("n", *spatial, *channels), (-1, *convolution.size, total)
    blocked = layer.model.blocks and convolution.axes == 2
    return _Partial(structure, layout, layer.model, sizes, order, shape, blocked)


def _arrange(
    state: _Partial, rest: Sequence[Contraction], least: float, limit: Callable[[], float]
) -> Iterator[_Partial]:
    """All ways to execute the remaining contractions, whose products cost `least` or more."""
    if state.cost + least >= limit():
        return
    if not rest:
        yield state
        return
    later = least - state.model.least(rest[0].macs)
    for created in permutations(rest[0].created):
        for after in _forms(state, rest[0], created):
            yield from _arrange(after, rest[1:], later, limit)


def _forms(state: _Partial, step: Contraction, created: tuple[str, ...]) -> Iterator[_Partial]:
    """The operators that perform one contraction on the state as it stands."""
    inner = [x for x in state.order if x != "n" and x not in state.spatial]
    batch = tuple(x for x in inner if x in step.batch)
    groups = tuple(x for x in inner if x in step.groups)
    contracted = tuple(x for x in inner if x in step.contracted)

    def convolve(lead: Sequence[str], axes: Groups, geometry: Convolution) -> _Partial:
        """Convolution with these indices as batch and as spatial axes."""
        nchw = state.layout == "nchw"
        channels, image = (*groups, *contracted), [_flat(axes)]
        before = [lead, channels, *axes] if nchw else [lead, *axes, channels]
        after = [lead, (*groups, *created), *axes] if nchw else [lead, *axes, (*groups, *created)]
        ready, columns = state.permute(_flat(before)), contracted
        if _axes_apart(step.convolution) == (False, False):
            own = [groups, contracted] if groups else [contracted]
            apart = [*own, *image] if nchw else [*image, *own]
            ready = ready.unfold([lead[:-1], lead[-1:], *apart], _plane(step.convolution, (0,)))
            columns = (_TAP, *contracted)
            channels = (*groups, *columns)
            before = [lead, channels, *axes] if nchw else [lead, *axes, channels]
        ready = ready.view(before)
        weight = ready.weight(step, (*groups, *created), columns, geometry.kernel)
        operator = Convolve(weight, geometry, math.prod(state.sizes[x] for x in groups))
        return ready.apply(operator, step, _flat(after), after)

    if step.convolution.is_pointwise and not groups:
        yield from _matmuls(state, step, created, batch, contracted)
    if not state.spatial and not groups:
        return
    for lead, axes, geometry in _planes(step.convolution):
        if state.layout == "nchw":
            yield convolve(("n", *batch, *lead), axes, geometry)
            continue
        if batch:
            yield convolve((*batch, "n", *lead), axes, geometry)
        if not batch or (geometry.stride[-1] == 1 and not geometry.transposed):
            wide = [*axes[:-1], (*axes[-1], *batch)]
            times = math.prod(state.sizes[x] for x in batch)
            yield convolve(("n", *lead), wide, _fold_width(geometry, times))


def _planes(geometry: Convolution) -> Iterator[tuple[tuple[str, ...], Groups, Convolution]]:
    """The convolution as one over two axes: (axes folded into the batch, the two axes, geometry).

    One axis gets a second of extent 1.
    """
    names = [(f"axis{k}",) for k in range(geometry.axes)]
    match geometry.axes:
        case 0:
            yield (), [(), ()], _plane(geometry, (), ())
        case 1:
            yield (), [(), *names], _plane(geometry, (), (0,))
        case 2:
            yield (), names, geometry
        case _:
            still, flat = _axes_apart(geometry)
            if flat:
                yield (), [names[0], (*names[1], *names[2])], _plane(geometry, (0,), (1, 2))
            if still or not flat:
                yield names[0], names[1:], _plane(geometry, (1,), (2,))


def _axes_apart(geometry: Convolution) -> tuple[bool, ...]:
    """Of three axes: whether there is nothing to do in time, and nothing in space."""
    if geometry.axes < 3:
        return ()
    return geometry.is_pointwise_on(0), geometry.is_pointwise_on(1) and geometry.is_pointwise_on(2)


def _plane(geometry: Convolution, *axes: tuple[int, ...]) -> Convolution:
    """The convolution over other axes, each a product of axes of which one at most is not pointwise."""

    def pick(values: Sequence[T], neutral: T) -> tuple[T, ...]:
        found = []
        for group in axes:
            real = [k for k in group if not geometry.is_pointwise_on(k)]
            found.append(values[real[0]] if real else neutral)
        return tuple(found)

    return Convolution(
        size=tuple(math.prod(geometry.size[k] for k in group) for group in axes),
        kernel=pick(geometry.kernel, 1),
        stride=pick(geometry.stride, 1),
        padding=pick(geometry.padding, (0, 0)),
        dilation=pick(geometry.dilation, 1),
        transposed=geometry.transposed,
        output_padding=pick(geometry.output_padding, 0),
    )


def _matmuls(
    state: _Partial,
    step: Contraction,
    created: tuple[str, ...],
    batch: tuple[str, ...],
    contracted: tuple[str, ...],
) -> Iterator[_Partial]:
    """A pointwise contraction as ``x @ W`` (linear layers) or, in nchw, as ``W @ x``."""
    if not state.spatial:
        ready = state.permute(("n", *batch, *contracted)).view([("n", *batch), contracted])
        operator = MatMul(ready.weight(step, contracted, created, ()), "right")
        after = [("n", *batch), created]
        yield ready.apply(operator, step, _flat(after), after)
    first = state.order.index(contracted[0]) if contracted else 0
    end = first + len(contracted)
    behind = [x for x in state.order[end:] if x not in state.spatial]
    if state.layout == "nchw" and contracted and behind and state.order[first:end] == contracted:
        before = [state.order[:first], contracted, state.order[end:]]
        ready = state.view(before)
        operator = MatMul(ready.weight(step, created, contracted, ()), "left")
        after = [before[0], created, before[2]]
        yield ready.apply(operator, step, _flat(after), after)


def _fold_width(convolution: Convolution, batch: int) -> Convolution:
    """The convolution on a view whose last axis holds `batch` interleaved images."""
    before, after = convolution.padding[-1]
    return replace(
        convolution,
        size=(*convolution.size[:-1], convolution.size[-1] * batch),
        padding=(*convolution.padding[:-1], (before * batch, after * batch)),
        dilation=(
            *convolution.dilation[:-1],
            convolution.dilation[-1] * batch if convolution.kernel[-1] > 1 else 1,
        ),
    )


def _flat(groups: Groups) -> tuple[str, ...]:
    return tuple(x for group in groups for x in group)
