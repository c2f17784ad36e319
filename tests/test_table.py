"""Tables: columns that line up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgekron.table import table

cells = st.text("abc1,.", min_size=1, max_size=9)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(tables, st.integers(0, 4))
def test_every_cell_stands_under_its_header(lines: list[list[str]], left: int) -> None:
    header, *rows = lines
    text = table(header, rows, left=left).split("\n")
    assert len(text) == len(lines)
    start = 0
    for column in range(len(header)):
        width = max(len(line[column]) for line in lines)
        for line, cell in zip(text, (line[column] for line in lines), strict=True):
            shown = line[start : start + width]
            assert shown.strip() == cell
            assert shown.startswith(cell) if column < left else shown.endswith(cell)
        start += width + 2


def test_lines_do_not_end_in_spaces() -> None:
    assert table(["a", "b"], [["long cell", "x"], ["y", ""]], left=2) == "a          b\nlong cell  x\ny"


def test_a_table_without_rows_is_its_header() -> None:
    assert table(["layer", "MACs"], []) == "layer  MACs"
