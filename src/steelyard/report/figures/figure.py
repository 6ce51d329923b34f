"""A figure of a result: one sentence, the picture as an option of ECharts, and the same numbers as a table.

Pages, reports and notebooks show the same figures. ``figures.js`` draws every ``<figure data-figure=NAME>`` whose data
lies in ``<script type="application/json" id="figure-NAME">``; without the chart library the sentence and the table
remain.

An option is plain JSON. Four things in it are ours: a colour ``--c0`` is that colour of the stylesheet, a formatter
``{"unit": "s"}`` writes numbers in that unit, ``words`` of a point is what it says under the pointer and ``open`` the
address that a click on it opens; ``height`` is that of the picture in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Final

from steelyard.report.plain import plain

__all__ = ["LIBRARY", "Figure", "asset", "has_library", "markup"]

_ASSETS: Final = Path(__file__).parent.parent / "assets"
#: The chart library, which is fetched when the package is built.
LIBRARY: Final = "echarts.js"


def asset(name: str) -> Path:
    """Path of a file of the pages: ``echarts.js`` (which may be missing), ``figures.js``, ``figures.css``.

    Raises:
        KeyError: there is no such file by design.
    """
    if name not in (LIBRARY, "echarts.LICENSE.txt", "figures.js", "figures.css", "libraries.toml"):
        raise KeyError(name)
    return _ASSETS / name


@cache
def has_library() -> bool:
    """Whether the chart library was there when the package was built."""
    return asset(LIBRARY).is_file()


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Args:
        name: of ids and file names: ``latency``.
        title: above it.
        says: one plain sentence with the numbers: caption and text for screen readers.
        option: an option of ECharts, JSON only.
        heads, rows: the same numbers as a table, in SI units.
    """

    name: str
    title: str
    says: str
    option: dict[str, Any]
    heads: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The figure as JSON; nothing that is not finite."""
        return {
            "name": self.name,
            "title": self.title,
            "says": self.says,
            "option": plain(self.option),
            "heads": list(self.heads),
            "rows": [plain(list(row)) for row in self.rows],
        }

    def __html__(self) -> str:
        """The element that ``figures.js`` fills, with its data: caption, table of the numbers, no inline script."""
        return markup(self.to_dict())


#: Rows of the table under a figure at most; its CSV file has all.
SHOWN: Final = 200


def markup(figure: Mapping[str, Any]) -> str:
    """A figure, as :meth:`Figure.to_dict` makes it, as HTML."""
    data = json.dumps(figure, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    name = escape(figure["name"])
    height = int(figure["option"].get("height", 240))
    return (
        f'<figure class="figure" data-figure="{name}" data-height="{height}">'
        f'<figcaption><b class="title">{escape(figure["title"])}</b> <span class="says">{escape(figure["says"])}</span>'
        f'</figcaption>{_table(figure)}</figure>\n<script type="application/json" id="figure-{name}">{data}</script>'
    )


def _table(figure: Mapping[str, Any]) -> str:
    """The numbers, folded; what is text in the first row is on the left."""
    heads, rows = figure["heads"], figure["rows"]
    words = [isinstance(x, str) for x in rows[0]] if rows else [False] * len(heads)
    head = "".join(_cell("th", h, w) for h, w in zip(heads, words, strict=True))
    lines = (
        "<tr>" + "".join(_cell("td", _shown(x), w) for x, w in zip(row, words, strict=True)) + "</tr>"
        for row in rows[:SHOWN]
    )
    rest = len(rows) - SHOWN
    more = f"<p>{rest:,} more rows in the CSV file</p>" if rest > 0 else ""
    return (
        f'<details class="twin"><summary>numbers</summary><div class="wide" tabindex="0" role="region" '
        f'aria-label="{escape(figure["title"])}: numbers"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{more}</details>"
    )


def _cell(tag: str, text: str, words: bool) -> str:
    kind = ' class="t"' if words else ""
    scope = ' scope="col"' if tag == "th" else ""
    return f"<{tag}{kind}{scope}>{escape(text)}</{tag}>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.5g}" if abs(value) < 1e6 else f"{value:.5g}"
    return str(value)
