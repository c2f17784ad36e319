"""Choice: which of its plans a compressed layer is executed by, and why.

``by_cost`` and ``dense`` decide here; a choice by measurement is made in ``edgekron.tune``. None of them
knows a runtime: whoever lowers a network is given one of them as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from edgekron.errors import UsageError
from edgekron.plan import Convolution, Layout, Plan, best_plan, best_plans, plans
from edgekron.plan.cost import MODELS, Arithmetic, Cpu
from edgekron.structure import Structure

PlanChoice = Literal["auto", "tuned", "dense"]
Guard = Literal["latency", "size", "off"]
Accept = Callable[[Plan], bool]
LIKELY = 8
"""Plans that are looked at before all are, as many as race for a layer."""


@dataclass(frozen=True)
class ChoiceOptions:
    """How plans are chosen; every field is an option of the command line too.

    plan: 'auto' by cost, 'tuned' by measurement, 'dense' for the dense form of every layer; guard: 'latency'
    exports a layer dense where that is faster, 'size' too, but stores its factors, which the runtime
    densifies at load; 'off' keeps all compressed; threads: to measure on; cpu: whose cost model 'auto' takes.
    """

    plan: PlanChoice = "auto"
    guard: Guard = "latency"
    threads: int = 1
    cpu: Cpu = "x86-64"

    def __post_init__(self) -> None:
        for name, kind in (("plan", PlanChoice), ("guard", Guard), ("cpu", Cpu)):
            given, known = getattr(self, name), get_args(kind)
            if given not in known:
                raise UsageError(f"{name}={given!r}: expected one of {', '.join(known)}")


@dataclass(frozen=True)
class Layer:
    """What a plan is chosen for: all that its latency depends on but the machine."""

    structure: Structure
    convolution: Convolution
    layout: Layout
    bias: bool
    arithmetic: Arithmetic = "fp32"

    @property
    def key(self) -> str:
        """Text that tells it from every other layer of the same arithmetic."""
        c = self.convolution
        parts = [str(self.structure), f"size {c.size}", f"stride {c.stride}", f"padding {c.padding}"]
        parts += [f"dilation {c.dilation}", f"groups {c.groups}"]
        if c.transposed:
            parts.append(f"transposed, output padding {c.output_padding}")
        return ", ".join([*parts, self.layout, "bias" if self.bias else "no bias"])


@dataclass(frozen=True)
class Choice:
    """A plan; why: if it is dense although the layer is compressed and nobody asked for it, else empty."""

    plan: Plan
    why: str = ""


Choose = Callable[[Layer, Accept], Choice]
"""Gives an acceptable plan of a layer; LookupError if there is none."""


def by_cost(layer: Layer, accept: Accept, *, guard: Guard = "latency", cpu: Cpu = "x86-64") -> Choice:
    """The plan of least cost; unless `guard` is off, the dense form may be it."""
    best = _best(layer, accept, cpu)
    if not best.is_dense:
        return Choice(best)
    compressed = compressed_plan(layer, accept, cpu)
    if compressed is None:
        return only_dense(layer, best)
    if guard == "off":
        return Choice(compressed)
    return Choice(best, f"{compressed.cost / best.cost:.2f}x the cost of dense")


def only_dense(layer: Layer, plan: Plan) -> Choice:
    """The dense form of a layer that has no other here; nothing to tell if the layer is one factor."""
    return Choice(plan, "no other form in this format" if len(layer.structure.factors) > 1 else "")


def dense(layer: Layer, accept: Accept) -> Choice:
    """The dense form."""
    return Choice(_best(layer, lambda plan: plan.is_dense and accept(plan)))


def recorded(texts: Collection[str]) -> Choose:
    """The plan that was chosen before: the one whose text is among these."""

    def choose(layer: Layer, accept: Accept) -> Choice:
        for plan in _likely_first(layer, accept):
            if str(plan) in texts:
                return Choice(plan)
        raise LookupError(f"none of its plans is recorded ({layer.key})")

    return choose


def _likely_first(layer: Layer, accept: Accept) -> Iterator[Plan]:
    """Every plan; first those of least cost, since to list all takes seconds for four factors."""
    about = (layer.structure, layer.convolution, layer.layout)
    for cpu in get_args(Cpu):
        model = MODELS[layer.arithmetic][cpu][layer.layout]
        yield from best_plans(*about, bias=layer.bias, accept=accept, model=model, count=LIKELY)
    yield from plans(*about, bias=layer.bias)


def compressed_plan(layer: Layer, accept: Accept, cpu: Cpu = "x86-64") -> Plan | None:
    """The plan of least cost that is not dense, if there is one."""
    try:
        return _best(layer, lambda plan: not plan.is_dense and accept(plan), cpu)
    except LookupError:
        return None


def _best(layer: Layer, accept: Accept, cpu: Cpu = "x86-64") -> Plan:
    model = MODELS[layer.arithmetic][cpu][layer.layout]
    return best_plan(
        layer.structure, layer.convolution, layer.layout, bias=layer.bias, accept=accept, model=model
    )
