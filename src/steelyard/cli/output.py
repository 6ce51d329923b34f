"""Where an answer goes, and in which form: a report for people, JSON, or CSV."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import option, switch
from steelyard.documents import is_folder
from steelyard.errors import InputError, Problem, escaped, raise_all
from steelyard.report.cells import Rows, csv_text
from steelyard.writing import check_target, write_text

__all__ = ["Output", "Paged", "Written", "say", "write"]


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """Form and place of the answer."""

    json: Annotated[bool, switch("--json", "print JSON in SI units")] = False
    csv: Annotated[bool, switch("--csv", "print one CSV row per scenario or entry")] = False
    out: Annotated[str, option("write to this file; .json and .csv choose the form", "--out")] = ""
    quiet: Annotated[bool, switch("--quiet", "no progress, no traceback of internal errors")] = False

    @property
    def form(self) -> str:
        """``json``, ``csv`` or ``text``. Raises :class:`InputError` when two are asked for."""
        if self.json and self.csv:
            raise InputError("choose one of --json and --csv", field="csv")
        if self.json or (not self.csv and self.out.lower().endswith(".json")):
            return "json"
        return "csv" if self.csv or self.out.lower().endswith(".csv") else "text"

    def check(self) -> None:
        """Refuse a form or file that cannot be, before any work is done. Raises :class:`InputError`."""
        _ = self.form
        if self.out:
            check_target(self.out, "out")


@Parameter(name="*")
@dataclass(frozen=True)
class Written:
    """Form and place of an answer that files can be made of."""

    out: Annotated[
        str, option("folder for the files that launch it, with the answer; a .json, .csv or .txt file", "--out")
    ] = ""
    force: Annotated[bool, switch("--force", "replace files of the same names in --out")] = False
    json: Annotated[bool, switch("--json", "print JSON in SI units")] = False
    csv: Annotated[bool, switch("--csv", "print one CSV row per candidate")] = False
    quiet: Annotated[bool, switch("--quiet", "no progress, no traceback of internal errors")] = False

    @property
    def folder(self) -> str:
        """The folder of ``--out``, empty when it names a file or nothing."""
        return "" if self.out.lower().endswith((".json", ".csv", ".txt")) and not is_folder(self.out) else self.out

    @property
    def output(self) -> Output:
        """Where the answer itself goes."""
        return Output(self.json, self.csv, "" if self.folder else self.out, self.quiet)

    def check(self) -> None:
        """Refuse what cannot be written, before any work. Raises :class:`InputError` with every problem."""
        raise_all(list(self.problems()))

    def problems(self) -> Iterator[Problem]:
        """What cannot be written, and why."""
        from steelyard.launch.folder import check_folder

        yield from problems_of(self.output.check)
        if self.folder:
            yield from problems_of(check_folder, self.folder, force=self.force)


@Parameter(name="*")
@dataclass(frozen=True)
class Paged:
    """An answer that is written as a page besides."""

    html: Annotated[str, option("page with the answer and its pictures")] = ""

    def check(self) -> None:
        """Refuse a file that cannot be, before any work is done. Raises :class:`InputError`."""
        from steelyard.report.records import check_path

        if self.html:
            check_path(self.html, (".html", ".htm"), "html")

    def write(self, result: Any) -> None:
        """Write the page, where one was asked for."""
        if self.html:
            from steelyard.report.result_page import write_page

            write_page(result, self.html)

    def refuse_many(self, count: int) -> None:
        """A page is of one answer. Raises :class:`InputError` where there are more."""
        if self.html and count != 1:
            raise InputError(f"a page shows one answer, these are {count:,}; give one machine and batch", field="html")


def problems_of(check: Callable[..., Any], *arguments: Any, **named: Any) -> list[Problem]:
    """What a check refuses."""
    try:
        check(*arguments, **named)
    except InputError as error:
        return list(error.problems)
    return []


def write(
    output: Output,
    *,
    data: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    text: Callable[[int | None], str],
    rows: Rows | Callable[[], Rows] | None = None,
) -> None:
    """Write an answer once, in the form asked for.

    Args:
        output: form and file.
        data: the JSON document, or what makes it.
        text: makes the report for a terminal of so many columns; ``None`` = no terminal.
        rows: flat rows or whole columns for CSV, or what makes them; absent = this answer has no CSV form.

    Raises:
        InputError: no CSV form, or the file cannot be written there.
        WriteError: the disk is full or fails.
    """
    if output.form == "json":
        document = data() if callable(data) else data
        content = json.dumps(document, indent=2, allow_nan=False) + "\n"
    elif output.form == "csv":
        if rows is None:
            raise InputError("this answer has no CSV form; use --json", field="csv")
        content = csv_text(rows() if callable(rows) else rows)
    else:
        tty = sys.stdout.isatty() and not output.out
        content = text(_columns(tty)).rstrip("\n") + "\n"
        content = _safe(content, colours=tty)
    if output.out:
        write_text(output.out, content, "out")
        return
    sys.stdout.write(content)
    sys.stdout.flush()


def say(text: str | Callable[[int | None], str]) -> None:
    """Print text, or what makes it for so many columns, to standard output: nothing in it steers the terminal."""
    tty = sys.stdout.isatty()
    made = text if isinstance(text, str) else text(_columns(tty))
    sys.stdout.write(_safe(made + "\n", colours=tty and not isinstance(text, str)))
    sys.stdout.flush()


def _columns(tty: bool) -> int | None:
    """Columns of the terminal, or as many as ``COLUMNS`` says; None = neither."""
    if not tty and not os.environ.get("COLUMNS"):
        return None
    import shutil

    return max(60, shutil.get_terminal_size((80, 24)).columns)


def _safe(text: str, *, colours: bool) -> str:
    """Nothing but text, line ends and our colours (none, where it is no terminal), in what the stream can write.

    Names come from files of anybody: a sequence that steers the terminal, or turns the order of what is read, is
    written as its number.
    """
    import re

    parts = re.split(r"(\x1b\[[0-9;]*m)", text)  # text and colours in turn
    parts[::2] = [escaped(part, keep="\n\t") for part in parts[::2]]
    text = "".join(parts if colours else parts[::2])
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
