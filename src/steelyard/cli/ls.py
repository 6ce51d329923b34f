"""``steelyard ls``: what the catalogues hold."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.output import Output, write
from steelyard.errors import bounded

_Kind = Annotated[
    str,
    Parameter(
        help="models, machines, formats, engines, networks, nodes, systems, prices, policies, techniques, recipes, "
        "nets (networks by name), pipelines, runtimes, frameworks, optimizers, failures (of training), oplists "
        "or hosted (prices of hosted models); without it these",
        show_default=False,
    ),
]
_Filter = Annotated[str, Parameter(name="filter", help="keep entries in which this text occurs")]


def ls(kind: _Kind = "", filter: _Filter = "", /, *, output: Output = Output()) -> None:  # noqa: A002, B008 - the user's word
    """List models, machines, formats, engines, networks, nodes, systems, prices, policies, techniques or others."""
    output.check()
    from steelyard.report import listing

    kind = kind or "kinds"
    rows = listing.rows(kind, filter)
    if kind == "models":
        from steelyard.workload.catalogue import broken_models

        for line in broken_models():
            print(bounded(f"not read: {line}"), file=sys.stderr)
    data = {"schema": "steelyard.list/1", "kind": kind, "rows": rows}
    write(output, data=data, text=lambda columns: listing.text(kind, rows, columns), rows=rows)
