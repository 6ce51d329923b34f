"""Writing for a terminal: rich where there is one, plain text of a fixed width elsewhere."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard.units import figure, format_quantity

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "PREFIXED",
    "TIMES",
    "WIDTH",
    "Line",
    "Unbroken",
    "bullet",
    "bullets",
    "columns",
    "figure",
    "fitting",
    "grid",
    "html",
    "indented",
    "kept",
    "left_out",
    "lines_table",
    "named",
    "needed",
    "render",
    "shares_table",
    "span",
    "spare_text",
    "spread",
    "styled",
    "words_of",
]

#: Units that are written with prefixes.
PREFIXED = ("s", "B", "J", "W", "USD", "USD/h")
#: Heads of the rows of an answer's times.
TIMES = ("", "predicted", "80% interval", "limit", "bound by")
#: Width of a report that is not written to a terminal, in columns.
WIDTH = 80
#: Columns that a column of words keeps, wrapped, before others are left out.
_LEAST = 16
_BLANK_END = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$")
#: A letter of nobody's, which stands between a number and its unit so that no line breaks there.
_KEPT = "\ue000"
_NUMBER_AND_UNIT = re.compile(
    r"(?<=\d) (?=(?:%|(?:[kMGTPEmµnp]|[KMGT]i)?(?:B|s|J|W|USD|FLOP|OP)(?:/s|/h)?|h|min|tokens?|requests?)(?!\w))"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report: what it is about and what there is to say.

    Args:
        label: at its beginning; empty = belongs to the line above.
        text: plain words and numbers.
        verdict: ``met`` or ``missed``, before the text.
        doubt: said behind it.
    """

    label: str
    text: str
    verdict: str = ""
    doubt: str = ""

    @property
    def good(self) -> bool:
        """Whether the verdict is that a limit is met."""
        return self.verdict == "met"


class Unbroken(str):
    """A line that goes on beyond the width: a name to be copied."""

    __slots__ = ()


def render(parts: Sequence[RenderableType], width: int | None, *, piped: int = WIDTH) -> str:
    """The parts one under another as text, as wide as the terminal.

    Args:
        parts: rich renderables or text.
        width: columns of the terminal; None = no terminal: no colour, ``piped`` columns. No colour either where
            ``NO_COLOR`` is set or ``TERM`` is ``dumb``.
        piped: columns where there is no terminal.
    """
    from rich.console import Console

    buffer = io.StringIO()
    colours = width is not None and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")
    console = Console(
        file=buffer,
        width=width or piped,
        force_terminal=colours,
        color_system="standard" if colours else None,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(_whole(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, Unbroken))
    return "\n".join(_BLANK_END.sub(r"\1", line) for line in buffer.getvalue().replace(_KEPT, " ").splitlines())


def _whole(text: str) -> str:
    """Text in which no line breaks between a number and its unit."""
    return _NUMBER_AND_UNIT.sub(_KEPT, text)


def words_of(part: str | Text) -> str:
    """The words of a part, as they are read."""
    return part if isinstance(part, str) else part.plain.replace(_KEPT, " ")


def html(parts: Iterable[RenderableType], widest: int = 100) -> str:
    """The parts as HTML that stands alone, for notebooks: the same words as on a terminal, styles inside."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=widest, record=True, markup=False, highlight=False, emoji=False)
    for part in parts:
        console.print(_whole(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, Unbroken))
    made = console.export_html(inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>')
    return made.replace(_KEPT, " ")


def styled(*pieces: tuple[str, str] | str) -> Text:
    """Text of pieces, each plain or with its style."""
    from rich.text import Text

    return Text.assemble(*(_whole(p) if isinstance(p, str) else (_whole(p[0]), p[1]) for p in pieces))


def fitting(fits: bool, used_bytes: float, capacity_bytes: float, where: str = "") -> Text:
    """Whether something fits a device's memory, what it takes of it, and what is to spare or short."""
    used, capacity = (format_quantity(x, "B") for x in (used_bytes, capacity_bytes))
    words = f"  {used} of {capacity}{where}, {spare_text(capacity_bytes - used_bytes)}"
    return styled(("fits", "bold green") if fits else ("does not fit", "bold red"), words)


def spare_text(spare_bytes: float) -> str:
    """``12.3 GiB to spare``, or of less than nothing ``12.3 GiB short``."""
    return f"{format_quantity(abs(spare_bytes), 'B')} {'to spare' if spare_bytes >= 0 else 'short'}"


def indented(text: RenderableType, by: int = 6) -> RenderableType:
    """Text every line of which begins after so many blanks."""
    from rich.padding import Padding

    return Padding(text, (0, 0, 0, by), expand=False)


def lines_table(lines: Iterable[Line], *, at_least: int = 0) -> Table:
    """Labels on the left, in a column of ``at_least`` so many letters, texts on the right."""
    made = grid("left", "left")
    made.columns[0].min_width = at_least or None
    for line in lines:
        tone = "bold green" if line.good else "bold red"
        verdict = f"{line.verdict}  " if line.verdict else ""
        made.add_row(line.label, styled((verdict, tone), line.text, (line.doubt, "yellow")))
    return made


def grid(*justify: str, gap: int = 2) -> Table:
    """A table without lines; one ``left`` or ``right`` per column."""
    from rich.table import Table

    made = Table.grid(padding=(0, gap, 0, 0))
    for side in justify:
        made.add_column(justify=side, no_wrap=side == "right", overflow="fold")  # type: ignore[arg-type]
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
        made.add_row(*(x if isinstance(x, Text) else Text(_whole(str(x))) for x in row))
    return made


def shares_table(parts_s: Mapping[str, float], names: Mapping[str, str], whole_s: float, share: str) -> Table:
    """Parts of a time, the largest first, each with its share; what would show as 0.0 % is left out.

    Args:
        parts_s: of each part, s.
        names: what each is called.
        whole_s: the time they are parts of, s.
        share: head of the column of shares.
    """
    rows = [
        [names[part], format_quantity(time, "s"), f"{time / whole_s:.1%}"]
        for part, time in sorted(parts_s.items(), key=lambda item: -item[1])
        if time / whole_s >= 0.0005
    ]
    return columns(["part", "time", share], rows, numeric=["time", share])


def kept(
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    width: int | None,
    drop: Sequence[str],
    *,
    fold: Sequence[str] = (),
    gap: int = 2,
) -> list[int]:
    """The columns of a table that a terminal has room for: no cell is cut off.

    Args:
        names, rows, fold, gap: as for :func:`columns`.
        width: of the terminal; None = all columns.
        drop: columns to leave out, the first ones first.

    Returns:
        indices of ``names``.
    """
    found = list(range(len(names)))
    for name in drop:
        if (
            width is None
            or needed([names[i] for i in found], [[r[i] for i in found] for r in rows], fold, gap) <= width
        ):
            break
        found = [i for i in found if names[i] != name]
    return found


def needed(names: Sequence[str], rows: Sequence[Sequence[Any]], fold: Sequence[str] = (), gap: int = 2) -> int:
    """The width below which cells of a table would be cut off."""
    sizes = [max(len(str(cell)) for cell in column) for column in zip(names, *rows, strict=True)]
    sizes = [min(size, _LEAST) if name in fold else size for name, size in zip(names, sizes, strict=True)]
    return sum(sizes) + gap * (len(sizes) - 1)


def left_out(names: Sequence[str], found: Sequence[int]) -> list[str]:
    """A line that says which columns :func:`kept` left out; none where it left out nothing."""
    missing = [name for i, name in enumerate(names) if i not in found]
    return [f"no room for {', '.join(missing)}: a wider terminal, --csv and --json have all"] if missing else []


def bullet(text: RenderableType) -> Table:
    """A point of a list, its further lines indented."""
    made = grid("left", "left", gap=1)
    made.add_row("  -", text)
    return made


def bullets(title: str, texts: Iterable[str]) -> list[RenderableType]:
    """A heading and its points; nothing without a point."""
    points: list[RenderableType] = [bullet(styled(text)) for text in texts]
    return [styled((title, "bold")), *points] if points else []


def named(title: str, names: Iterable[str]) -> list[RenderableType]:
    """A heading and names by their numbers, as the rows of a table above have them; nothing without a name."""
    lines: list[RenderableType] = [Unbroken(f"{f'{i}.':>5} {name}") for i, name in enumerate(names, 1)]
    return [styled((title, "bold")), *lines] if lines else []


def span(low: float, high: float) -> str:
    """Two times, the unit once when both have it: ``496 - 806 ms``."""
    first, last = format_quantity(low, "s"), format_quantity(high, "s")
    return f"{first.removesuffix(' ' + last.rpartition(' ')[2])} - {last}"


def spread(rows: Sequence[Any], most: int) -> Sequence[Any]:
    """At most so many of the rows, evenly, with the first and the last."""
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]
