"""The page as a folder that opens from disk: screens as they start, and addresses that were asked for."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

from steelyard.errors import InputError, Problem, SteelyardError, raise_all, show
from steelyard.page.answers import Answers, Column, asked, column_of, json_text
from steelyard.page.pages import ASSETS, screen_page
from steelyard.page.problems import wrong_of
from steelyard.page.question import Question, read_question
from steelyard.page.screen import Screen, screen, screens
from steelyard.provenance import content_hash
from steelyard.report.figures import asset, has_library
from steelyard.writing import check_target, whole_file, write_text

__all__ = ["export_pages"]


def export_pages(folder: Path, addresses: Sequence[str] = ()) -> int:
    """Write every screen as it starts, and further addresses, each with its answers as JSON.

    Args:
        folder: made where it is not there; of files of the same names the new ones stay.
        addresses: ``estimate?model=llama-3.1-8b&on=h100_sxm``, or a whole address of the page.

    Returns:
        how many files were written.

    Raises:
        InputError: an address that is none, a question that is wrong, or a folder that cannot be written.
    """
    check_target(folder, "export", folder=True)
    questions: dict[str, Question] = {}
    for one in screens().values():
        if one.listed:
            questions[f"{one.name}.html"] = read_question(one, urlencode(one.start))
    for address in addresses:
        question = _question(address)
        questions[f"{question.screen.name}-{content_hash(question.query)[:8]}.html"] = question
    pages: dict[str, str] = {}
    for name, question in questions.items():
        first = name == f"{question.screen.name}.html"
        columns = [column_of(question, 0)] if first and _too_long(question.screen) else _answered(question)
        if not first:
            raise_all([Problem(wrong.field, wrong.message) for column in columns for wrong in column.problems])
        pages[name] = screen_page(question, columns, exported=True)
        for column in columns:
            if column.shown is not None:
                number = "" if column.number == 1 else f"-{column.number}"
                pages[f"{name.removesuffix('.html')}{number}.json"] = json_text(column.shown.document)
    pages["index.html"] = _index(questions)
    try:
        (folder / "assets").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {show(str(folder))}: {error.strerror}", field="export") from None
    for name, text in pages.items():
        write_text(folder / name, text, "export")
    files = {n: p for n, p in ASSETS.items() if n.endswith((".css", ".svg"))}
    files |= {n: asset(n) for n in ("figures.js", "figures.css", *(("echarts.js",) if has_library() else ()))}
    for name, path in files.items():
        with whole_file(folder / "assets" / name, "export") as made:
            made.write_bytes(path.read_bytes())
    return len(pages) + len(files)


def _question(address: str) -> Question:
    """The question of an address. Raises :class:`InputError`."""
    found = re.fullmatch(r"(?:https?://[^/]+)?/?(\w+)(?:\?(.*))?", address)
    if not found:
        raise InputError(f"expected SCREEN?FIELD=VALUE&..., got {show(address)}", field="page")
    return read_question(screen(found[1]), found[2] or "")


def _too_long(screen: Screen) -> bool:
    """Whether the first question of a screen takes minutes: it asks many others, or nothing is compiled here."""
    return screen.minutes or (screen.long and find_spec("numba") is None)


def _answered(question: Question) -> Sequence[Column]:
    """The columns of a question with their answers, or with what is wrong with them."""
    if not question.screen.long:
        return Answers().columns(question)
    try:
        return [column_of(question, 0).answered(asked(question))]
    except SteelyardError as error:
        return [column_of(question, 0).refused(wrong_of(error))]


def _index(questions: Mapping[str, Question]) -> str:
    """A page that lists the pages: the first is shown at once."""
    first = next(iter(questions))
    links = "".join(
        f'<li><a href="{html.escape(name)}">{html.escape(question.screen.title)}</a> '
        f"{html.escape(', '.join(f'{n} {v[-1]}' for n, v in question.columns[0].items()))}</li>"
        for name, question in questions.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Steelyard</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="assets/figures.css"><link rel="stylesheet" href="assets/page.css"></head>'
        f'<body><main class="alone"><h1>Steelyard</h1><p>Begin with <a href="{first}">{first}</a>.</p>'
        f"<ul>{links}</ul></main></body></html>\n"
    )
