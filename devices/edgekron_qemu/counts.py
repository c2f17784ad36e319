"""Counts: what the plug-in of qemu wrote at two marks, as instructions of what happened between them."""

from __future__ import annotations

import json

from edgekron.instructions import Instructions


def between_marks(text: str, architecture: str) -> Instructions:
    """The difference of two lines of counts; ValueError for anything else.

    >>> lines = '{"load": 1, "fmla": 2, "other": 3}\\n{"load": 5, "fmla": 9, "other": 3}\\n'
    >>> between_marks(lines, "aarch64 cortex-a53")
    Instructions(architecture='aarch64 cortex-a53', total=11, classes={'fmla': 7, 'load': 4})
    """
    before, after = map(json.loads, text.splitlines())
    classes = {name: after[name] - count for name, count in before.items() if after[name] != count}
    ordered = dict(sorted(classes.items(), key=lambda each: -each[1]))
    return Instructions(architecture, sum(classes.values()), ordered)
