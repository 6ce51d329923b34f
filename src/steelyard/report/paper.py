"""Writing for a terminal: rich where there is one, plain text of a fixed width elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["WIDTH", "bullet", "columns", "figure", "grid", "render"]

#: Width of a report that is not written to a terminal, in columns.
WIDTH = 80


def render(parts: Sequence[RenderableType], width: int | None, *, widest: int = 100) -> str:
    """The parts one under another as text.

    Args:
        parts: rich renderables or text.
        width: columns of the terminal; None = no terminal: no colour, ``widest`` columns.
        widest: columns never exceeded.
    """
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=min(width or widest, widest),
        force_terminal=width is not None,
        color_system="standard" if width is not None else None,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def grid(*justify: str, gap: int = 2) -> Table:
    """A table without lines; one ``left`` or ``right`` per column."""
    from rich.table import Table

    made = Table.grid(padding=(0, gap, 0, 0))
    for side in justify:
        made.add_column(justify=side)  # type: ignore[arg-type]
    return made


def columns(
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numeric: Sequence[str] = (),
    fold: Sequence[str] = (),
    *,
    gap: int = 2,
) -> Table:
    """A light table: a header, a line under it, and rows ``gap`` blanks apart.

    ``numeric`` columns go right, ``fold`` ones may wrap.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), header_style="bold", show_edge=False)
    for name in names:
        made.add_column(name, justify="right" if name in numeric else "left", no_wrap=name not in fold, overflow="fold")
    for row in rows:
        made.add_row(*(x if isinstance(x, Text) else Text(str(x)) for x in row))
    return made


def bullet(text: RenderableType) -> Table:
    """A point of a list, its further lines indented."""
    made = grid("left", "left", gap=1)
    made.add_row("  -", text)
    return made


def figure(value: float) -> str:
    """A rate with three significant digits: ``1,744``, ``97.4``, ``5.61``."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
