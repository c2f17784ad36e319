"""Report: the rows of a run as report.json and as one page, report.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from edgekron import __version__
from edgekron.host import machine
from edgekron.table import table
from runtime_tests.matrix import FULL, Case
from runtime_tests.record import Row, fingerprint

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 2em }
th, td { border: 1px solid #ccc; padding: .25em .6em; text-align: right; font-variant-numeric: tabular-nums }
th { background: #f4f4f4 } th.name, td.name { text-align: left }
.passed { background: #e6f4e6 } .failed { background: #f8d7d7; font-weight: bold }
.none { color: #999; text-align: center }
li { margin-bottom: .3em }
"""


_OVERVIEW = ("network", "precision", "weights", "cells passed", "lowering", "runtime", "parity", "SQNR")


def overview(rows: Sequence[Row]) -> list[list[str]]:
    """For each network and precision: weights, cells passed, and the worst errors and SQNR of them."""
    known = {str(case): (case.network, case.precision) for case in FULL}
    lines = []
    for kind in dict.fromkeys(known[row.case] for row in rows):
        own = [row for row in rows if known[row.case] == kind]
        passed = [row for row in own if row.passed]
        errors = [
            [value for row in passed if (value := getattr(row, name)) is not None]
            for name in ("lowering", "runtime_error", "parity")
        ]
        levels = [row.sqnr for row in passed if row.sqnr is not None]
        lines.append(
            [
                *kind,
                "trained" if own[0].trained else "random",
                f"{len(passed)} of {len(own)}",
                *(f"{max(values):.1e}" if values else "-" for values in errors),
                f"{min(levels):.1f} dB" if levels else "-",
            ]
        )
    return lines


def write(rows: Sequence[Row], cases: Sequence[Case], folder: Path) -> str:
    """Write both files, of all that was recorded; the summary in one line. cases: all that were asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {str(case): case for case in FULL}
    done = {row.case for row in rows} & set(map(str, cases))
    failed = [row for row in rows if not row.passed]
    summary = (
        f"{len(rows) - len(failed)} of {len(rows)} cells passed; "
        f"{len(done)} of {len(cases)} artifacts were made"
    )
    facts = {"edgekron": __version__, "fingerprint": fingerprint(), **machine()}
    data = {"machine": facts, "summary": summary, "cells": [asdict(row) for row in rows]}
    (folder / "report.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    page = [f"<!doctype html><meta charset=utf-8><title>edgekron parity</title><style>{_STYLE}</style>"]
    page += [f"<h1>Parity</h1><p>{escape(summary)}.", "<p>", escape(", ".join(map(str, facts.values())))]
    page += [
        "<p>Each cell is the largest error of the artifact against PyTorch, as a part of the range of the "
        "output, in int8 the SQNR. Allowed are 1e-5 in fp32, 2e-3 in fp16, and 30 dB in int8.",
        "<table><tr>",
        *(f"<th class=name>{head}" for head in _OVERVIEW),
        *("<tr>" + "".join(f"<td class=name>{cell}" for cell in line) for line in overview(rows)),
        "</table>",
    ]
    if failed:
        reasons = (f"<li><b>{escape(r.case)}</b> on {escape(r.runtime)}: {escape(why(r))}" for r in failed)
        page += ["<h2>Failed</h2><ul>", *reasons, "</ul>"]
    page += [_networks(rows, known)]
    (folder / "report.html").write_text("\n".join(page), encoding="utf-8")
    return summary


def as_text(rows: Sequence[Row]) -> str:
    """The overview for a terminal."""
    return table(_OVERVIEW, overview(rows), left=3)


def why(row: Row) -> str:
    """What failed, in a sentence."""
    if row.error:
        return row.error
    level = "" if row.sqnr is None else f", SQNR {row.sqnr:.1f} dB"
    return "; ".join(row.complaints) or f"parity {row.parity:.1e} of the range{level}"


def _networks(rows: Sequence[Row], known: dict[str, Case]) -> str:
    """A table for each network: structures by formats, precisions, batches and runtimes."""
    parts = []
    for network in dict.fromkeys(known[row.case].network for row in rows):
        own = [(known[row.case], row) for row in rows if known[row.case].network == network]
        columns = sorted({_column(case, row) for case, row in own})
        head = "".join(f"<th>{c[1]}<br>{c[0]}, {c[2]}, batch {c[3]}" for c in columns)
        weights = "trained" if own[0][1].trained else "random"
        parts += [f"<h2>{network}</h2><p>{weights} weights<table><tr><th class=name>structure"]
        parts += [f"<th>approximation<th>lowering{head}"]
        for structure in dict.fromkeys(case.structure for case, _ in own):
            same = [(case, row) for case, row in own if case.structure == structure]
            line = {_column(case, row): row for case, row in same}
            parts += [f"<tr><td class=name>{structure}"]
            for name in ("approximation", "lowering"):
                values = [value for _, row in same if (value := getattr(row, name)) is not None]
                parts += [f"<td>{max(values):.1e}" if values else "<td class=none>-"]
            parts += [_cell(line.get(column), column[2]) for column in columns]
        parts += ["</table>"]
    return "".join(parts)


def _column(case: Case, row: Row) -> tuple[str, str, str, str]:
    return case.format, row.runtime, case.precision, case.batch


def _cell(row: Row | None, precision: str) -> str:
    if row is None:
        return "<td class=none>-"
    if row.passed and row.error:
        return f'<td class="none" title="{escape(row.error)}">not supported'
    text = "error" if row.error or row.parity is None else f"{row.parity:.1e}"
    if precision == "int8" and row.sqnr is not None:
        text = f"{row.sqnr:.1f} dB"
    kind, note = ("passed", row.version) if row.passed else ("failed", why(row))
    return f'<td class="{kind}" title="{escape(note)}">{text}'
