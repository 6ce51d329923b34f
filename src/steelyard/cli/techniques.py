"""``steelyard techniques``: the techniques there are, by layer."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.help import option
from steelyard.cli.output import Output, write
from steelyard.errors import UnknownName


def techniques(
    filter: Annotated[str, Parameter(help="keep those in which this text occurs")] = "",  # noqa: A002 - the user's word
    /,
    *,
    layer: Annotated[str, option("those of this layer: serving, kvcache, decoding ...")] = "",
    output: Output = Output(),  # noqa: B008
) -> None:
    """List techniques: name, layer, what it changes, paper, where it applies. One of them: steelyard show NAME."""
    output.check()
    from steelyard.report import listing

    rows = listing.rows("techniques", filter)
    if layer:
        layers = sorted({row["layer"] for row in rows})
        if layer not in layers:
            raise UnknownName("layer", layer, layers, hint=f"one of {', '.join(layers)}")
        rows = [row for row in rows if row["layer"] == layer]
    data = {"schema": "steelyard.list/1", "kind": "techniques", "rows": rows}
    write(output, data=data, text=lambda columns: listing.text("techniques", rows, columns), rows=rows)
