"""What commands print: columns for a person at a terminal, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import click

from jobserver import payload

in_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def pretty(value: object) -> str:
    """Return a value as JSON on several lines."""
    return json.dumps(payload.loads(payload.dumps(value)), indent=2, ensure_ascii=False)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return lines whose columns line up, numbers to the right; the last column is not padded."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    is_number = [bool(cells) and all(_is_number(row[n]) for row in cells) for n in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, [head, *cells]))


def _is_number(cell: str) -> bool:
    return cell.isdecimal() or cell == "-"
