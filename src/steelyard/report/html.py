"""Pages from the templates of this folder: complete in themselves, every value escaped, one stylesheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.report.figures import asset, has_library
from steelyard.writing import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Table", "environment", "rendered", "write_html"]

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page: headings, rows of text; the first ``left`` columns are words, the others numbers.

    ``words`` names a column of long words, which go left and break where there is no room.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    first_bold: bool = False
    words: str = ""


def environment(folder: Path, **more: Any) -> Environment:
    """Templates of a folder: every value is escaped, and one that is not given is an error.

    Args:
        folder: of the templates.
        more: options of an environment of Jinja beside these.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **more,
    )


@cache
def _environment() -> Environment:
    found = environment(TEMPLATES, keep_trailing_newline=True)
    found.globals |= {"asset": lambda name: asset(name).read_text(encoding="utf-8"), "has_library": has_library}
    found.filters["items_text"] = lambda table: [f"{name}: {text}" for name, text in table.items()]
    return found


def rendered(template: str, **values: Any) -> str:
    """A page as text.

    Args:
        template: file of the folder.
        values: what its variables stand for.
    """
    return _environment().get_template(template).render(**values)


def write_html(text: str, path: str | Path) -> None:
    """Write a page. Raises :class:`InputError` when the file cannot be written."""
    write_text(path, text, "html")
