"""Figures for notebooks and files: static pictures, each with its sentence and its numbers."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from steelyard.errors import InputError, UnknownName
from steelyard.report.figures import figures_of
from steelyard.report.figures.figure import Figure
from steelyard.report.figures.svg import picture, svg_of
from steelyard.writing import write_text

__all__ = ["Pictures", "pictures_of", "shown"]

#: Figures under the report of a result in a notebook at most, and letters of one.
_FIRST, _LETTERS = 4, 150_000


class Pictures(tuple[Figure, ...]):
    """Figures of a result, drawn by a notebook without a network or a script."""

    __slots__ = ()

    @property
    def names(self) -> list[str]:
        """Of the figures."""
        return [f.name for f in self]

    def _repr_html_(self) -> str:
        return "".join(f"<figure style='margin:0 0 1.2em'>{svg_of(f)}</figure>" for f in self)

    def __repr__(self) -> str:
        return f"<Pictures: {', '.join(self.names)}>"

    def save(self, path: str | Path) -> None:
        """Write all in one SVG file. Raises :class:`InputError`: another ending, or it cannot be written."""
        if Path(path).suffix.lower() != ".svg":
            raise InputError(f"expected a file ending in .svg, got {str(path)!r}", field="path")
        write_text(path, picture(self), "path")

    def to_pandas(self) -> Any:
        """The numbers of each figure as a ``pandas.DataFrame``, by name. Raises :class:`InputError` without pandas."""
        try:
            import pandas
        except ImportError:
            raise InputError("to_pandas needs pandas: pip install 'steelyard[data]'", field="to_pandas") from None
        return {f.name: pandas.DataFrame(list(f.rows), columns=list(f.heads)) for f in self}


def pictures_of(result: Any, names: tuple[str, ...] = ()) -> Pictures:
    """Figures of a result by name; without one all.

    Raises:
        InputError: there is nothing to draw, or no figure of a name.
    """
    found = {f.name: f for f in figures_of(result)}
    if not found:
        raise InputError("nothing was found that could be drawn", field="plot")
    for name in names:
        if name not in found:
            raise UnknownName("figure", name, list(found))
    return Pictures(found[n] for n in names or found)


def shown(result: Any) -> str:
    """The first figures of a result for a notebook, below its report; empty where there are none or they are large."""
    drawn = [svg_of(f, 620) for f in figures_of(result)[:_FIRST]]
    small = [d for d in drawn if len(d) < _LETTERS]
    if not small:
        return ""
    return f"<details><summary>{escape('pictures')}</summary>{''.join(small)}</details>"
