"""Budgets: one structure for each layer, chosen for the whole network at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from torch import nn

from edgekron.errors import UsageError
from edgekron.network import LayerUse, layer_macs, parameters
from edgekron.plan.cost import Cpu
from edgekron.selection.candidates import Candidates
from edgekron.selection.knapsack import choose
from edgekron.selection.latency import layer_time, predicted_time
from edgekron.structure import Structure


def choose_structures(
    model: nn.Module,
    uses: Mapping[str, LayerUse],
    choices: Mapping[str, Candidates],
    budgets: Mapping[str, float],
    cpu: Cpu = "x86-64",
) -> dict[str, Structure]:
    """One structure for each layer that is worth compressing, for the whole network at once.

    choices: of each layer, see `layer_candidates`; budgets: of 'ratio', 'macs' and 'speedup', see `compress`.
    """
    eligible = {name: uses[name] for name in choices}
    costs: list[list[NDArray[Any]]] = []
    allowed: list[float] = []
    for name, asked in budgets.items():
        own: list[NDArray[Any]]
        match name:
            case "ratio":
                own, total = [choice.parameters for choice in choices.values()], float(parameters(model))
                ours = float(sum(use.weight.numel() for use in eligible.values()))
            case "macs":
                own, total = [choice.macs for choice in choices.values()], sum(map(layer_macs, uses.values()))
                ours = sum(map(layer_macs, eligible.values()))
            case _:
                own = [choice.times for choice in choices.values()]
                total, ours = (
                    sum(layer_time(use, cpu) for use in some.values()) for some in (uses, eligible)
                )
        fixed, least = total - ours, sum(float(each.min()) for each in own)
        if fixed + least > total / asked:
            best = math.floor(100 * total / (fixed + least)) / 100
            raise UsageError(f"{name}={asked:g} cannot be met: the best reachable {name} is {best:g}")
        costs.append(own)
        allowed.append(total / asked - fixed)
    if not choices:
        return {}
    errors = [choice.errors for choice in choices.values()]
    while picked := choose(errors, costs, allowed):
        rows = zip(choices.items(), picked, strict=True)
        found = {name: structure for (name, choice), k in rows if (structure := choice.structures[k])}
        if "speedup" not in budgets:
            return found
        # The times of the candidates are interpolated: what is missing is taken off the allowance.
        whole = sum(layer_time(use, cpu) for use in uses.values())
        now = sum(predicted_time(use, found.get(name), cpu) for name, use in uses.items())
        if now <= whole / budgets["speedup"]:
            return found
        allowed[list(budgets).index("speedup")] -= 1.1 * (now - whole / budgets["speedup"])
    wanted = " and ".join(f"{name}={asked:g}" for name, asked in budgets.items())
    raise UsageError(f"{wanted} cannot be met together; lower one of them")
