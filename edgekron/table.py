"""Table: rows of text aligned in columns; what every report prints."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns aligned under their header: the first `left` to the left, the others to the right.

    >>> print(table(["layer", "MACs"], [["conv1", "1,024"], ["fc", "64"]]))
    layer   MACs
    conv1  1,024
    fc        64
    """
    lines = [header, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
