"""The torch form of a plan, step by step: after each of them stands what numpy says."""

from __future__ import annotations

import pytest

from edgekron.lowered import execute, execute_steps, step_weights
from edgekron.plan import Layout, dense_plan
from tests.execution import LAYOUTS
from tests.kinds import KINDS, some_plans_of, structure
from tests.samples import Branch, check_states


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_state_is_that_of_the_plan(kind: str, layout: Layout) -> None:
    dense = dense_plan(structure("tt", kind), KINDS[kind][1], layout, bias=True)
    for plan in (*some_plans_of(kind, layout), dense):
        branch = Branch(plan, bias=True)
        weights = step_weights(plan, branch.factors)
        states = list(execute_steps(plan, weights, branch.own_input, branch.bias_values))
        check_states(plan, branch.expected_states(), [state.numpy() for state in states])
        assert execute(plan, weights, branch.own_input, branch.bias_values).equal(states[-1])
