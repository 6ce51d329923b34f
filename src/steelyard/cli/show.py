"""``steelyard show``: one catalogue entry, guesses marked."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.output import Output, write
from steelyard.report.entry import Kind

_Name = Annotated[
    str,
    Parameter(
        help="name, alias or path of a machine, model, format, engine, network, node, system, policy, technique, "
        "recipe or net"
    ),
]
_Kind = Annotated[Kind | None, Parameter(name="--kind", help="what the name means, when it means several things")]


def show(name: _Name, /, *, kind: _Kind = None, output: Output = Output()) -> None:  # noqa: B008 - frozen
    """Show one machine, model, format, engine, network, node, system, policy, technique, recipe or net."""
    output.check()
    from steelyard.report import entry

    found = entry.find(name, kind)
    write(output, data=lambda: entry.to_dict(found), text=lambda columns: entry.text(found, columns))
