"""Choice: a plan is found again by its text."""

from __future__ import annotations

import pytest

from edgekron.choice import Layer, recorded
from edgekron.plan import Layout, plans
from edgekron.structure import Structure
from tests.kinds import geometry


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_plan_is_found_again(layout: Layout) -> None:
    structure = Structure.parse("2x2x3x1[a] * 4x2x1x3[a,b] * 2x4x1x1[b]; a=3, b=2")
    layer = Layer(structure, geometry((6, 7), (3, 3), stride=(2, 1)), layout, bias=True)
    every = list(plans(structure, layer.convolution, layout, bias=True))
    assert len({str(plan) for plan in every}) > 20
    for plan in every[:: len(every) // 4]:
        found = recorded({str(plan), "another layer's"})(layer, lambda _: True).plan
        assert str(found) == str(plan)


def test_a_plan_that_is_none_of_the_layer() -> None:
    structure = Structure.parse("2x2x3x1[r] * 4x2x1x3[r]; r=3")
    layer = Layer(structure, geometry((6, 7), (3, 3)), "nchw", bias=True)
    with pytest.raises(LookupError, match=r"^none of its plans is recorded \(2x2x3x1\[r\] \* "):
        recorded({"view 2x2"})(layer, lambda _: True)
