"""The pages as HTML: templates of this folder over questions and answers, every value escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard._version import __version__
from steelyard.page.answers import Column, figure_html
from steelyard.page.form import form_of, label_of
from steelyard.page.question import Question, fields_on
from steelyard.page.screen import screens
from steelyard.report.html import environment
from steelyard.report.paper import figure as figure_text
from steelyard.units import format_quantity

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["ASSETS", "error_page", "screen_page"]

#: What a message says to somebody at a command line.
_HINT = re.compile(r" \(`steelyard [^()]*\)$|; see `steelyard [^`]*`$")
TEMPLATES = Path(__file__).parent / "templates"
#: The files a browser may ask for, by name.
ASSETS = {path.name: path for path in sorted((Path(__file__).parent / "assets").iterdir()) if path.is_file()}


@cache
def _environment() -> Environment:
    found = environment(TEMPLATES)
    found.filters["q"] = _quantity
    found.filters["num"] = lambda value: "–" if value is None else figure_text(float(value))
    found.filters["pct"] = lambda share: "–" if share is None else f"{share:.0%}"
    found.filters["label"] = lambda name: _labels().get(name, name)
    found.filters["brief"] = lambda words: _HINT.sub("", words)
    found.globals["version"] = __version__
    return found


@cache
def _labels() -> dict[str, str]:
    """What the forms call each field."""
    return {name: label_of(entry) for screen in screens().values() for name, entry in fields_on(screen).items()}


def _quantity(value: float | None, unit: str, digits: int = 3) -> str:
    return "–" if value is None else format_quantity(float(value), unit, digits)


def screen_page(
    question: Question,
    columns: Sequence[Column],
    *,
    active: int = 1,
    job: Mapping[str, Any] | None = None,
    notices: Sequence[str] = (),
    exported: bool = False,
) -> str:
    """A whole page: navigation, form and answer.

    Args:
        question: what is asked.
        columns: its questions with their answers; of a long screen an answer may be missing.
        active: the column whose form is shown, from 1.
        job: what is known of a run of a long screen.
        notices: said above the answer.
        exported: a file of its own, without a server: no form.
    """
    at = min(max(active, 1), len(question.columns))
    return (
        _environment()
        .get_template("screen.html")
        .render(
            screens=screens().values(),
            screen=question.screen,
            question=question,
            columns=columns,
            together=_together(question, columns),
            active=at,
            form=[] if exported else form_of(question, at - 1),
            problems={p.field: p for p in columns[at - 1].problems},
            job=job,
            notices=notices,
            exported=exported,
            root="" if exported else "/",
        )
    )


def _together(question: Question, columns: Sequence[Column]) -> dict[str, str]:
    """Figures of all answers at once, as HTML by name; none where fewer than two are there."""
    shown = [c.shown for c in columns if c.shown is not None]
    if question.screen.together is None or len(shown) < 2:
        return {}
    return {one["name"]: figure_html(one) for one in question.screen.together(shown)}


def error_page(status: int, message: str, *, plain: bool = False) -> str:
    """A page that says what went wrong."""
    shown = () if plain else screens().values()
    page = _environment().get_template("error.html")
    return page.render(status=status, message=message, screens=shown, screen=None, exported=False, root="/")
