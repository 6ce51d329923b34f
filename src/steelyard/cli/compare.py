"""``steelyard compare``: two machines, two models or two saved estimates side by side."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.output import Output, write
from steelyard.report.entry import Kind

_One = Annotated[str, Parameter(help="name of a machine or model, or a saved estimate (--json --out FILE)")]
_Kind = Annotated[Kind | None, Parameter(name="--kind", help="what the names mean, when they mean several things")]


def compare(a: _One, b: _One, /, *, kind: _Kind = None, output: Output = Output()) -> None:  # noqa: B008 - frozen
    """Put two machines, two models or two saved estimates side by side."""
    output.check()
    from steelyard.report import compare as report

    found = report.compare(a, b, kind)
    write(output, data=lambda: report.to_dict(found), text=lambda columns: report.text(found, columns), rows=found.rows)
