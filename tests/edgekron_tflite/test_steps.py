"""The TFLite form of a plan, step by step: after the operators of each of them stands what numpy says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from torch import Tensor, nn

from edgekron.exporter import ExportOptions
from edgekron.lowered import execute_steps, step_weights
from edgekron_tflite.exporter import TfliteExporter
from edgekron_tflite.runtime import LiteRuntime
from tests.kinds import KINDS, PATTERNS, some_plans_of
from tests.samples import Branch, check_states

EXPORTER = TfliteExporter()


class States(nn.Module):
    """Layers side by side, each with an input of its own, that give what stands after every step."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        super().__init__()
        self._branches = tuple(branches)
        self._weights = [step_weights(branch.plan, branch.factors) for branch in branches]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._states(inputs))

    def _states(self, inputs: Sequence[Tensor]) -> Iterator[Tensor]:
        for branch, weights, x in zip(self._branches, self._weights, inputs, strict=True):
            yield from execute_steps(branch.plan, weights, x, branch.bias_values)


def some_branches() -> list[Branch]:
    """A plan of each kind of layer, of one pattern after the other: a conversion of all takes minutes."""
    branches = []
    for k, kind in enumerate(KINDS):
        turn, pattern = divmod(k, len(PATTERNS))
        found = some_plans_of(kind, "nhwc", EXPORTER.accepts)  # two of each pattern
        branches.append(Branch(next(islice(found, 2 * pattern + turn, None)), bias=True))
    return branches


def test_every_state_is_that_of_the_plan(tmp_path: Path) -> None:
    branches = some_branches()
    inputs = tuple(branch.own_input for branch in branches)
    # The plans are channels-last already: `nchw` leaves inputs and outputs as they are.
    exported = EXPORTER.export(States(branches).eval(), inputs, ExportOptions(layout="nchw"))
    path = tmp_path / "states.tflite"
    path.write_bytes(exported.data)
    found = iter(LiteRuntime().open(path).run([x.numpy() for x in inputs]))
    for branch in branches:
        expected = branch.expected_states()
        check_states(branch.plan, expected, [next(found) for _ in expected])
    assert next(found, None) is None
