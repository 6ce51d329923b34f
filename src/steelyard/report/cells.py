"""Rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Rows", "csv_text"]

#: One mapping per row, or one list per column.
Rows = Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]


def csv_text(rows: Rows) -> str:
    """Rows as CSV, in which no cell is a formula of a spreadsheet."""
    buffer = io.StringIO()
    if isinstance(rows, Mapping):
        lines = csv.writer(buffer, lineterminator="\n")
        lines.writerow(rows)
        lines.writerows([_cell(v) for v in row] for row in zip(*rows.values(), strict=True))
        return buffer.getvalue()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that begins like one has a quote before it."""
    if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r"):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value
