"""How searches write their answers: in each form, and also where nothing keeps the limits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from steelyard.cli.output import Output, Paged
from steelyard.errors import DoesNotFit

__all__ = ["answered", "searched", "told"]

Progress = Callable[[int, int], object]


def searched(
    kind: str, output: Output, page: Paged, search: Callable[[Progress], Any], counts: str = "programs"
) -> None:
    """Search, and write what was found.

    Args:
        kind: of the search, ``bits``.
        output: form and file of the answer.
        page: the page of it.
        search: is given what is called with steps done and all.
        counts: what these steps are.

    Raises:
        DoesNotFit: nothing keeps the limits; the JSON form says so too.
    """
    from steelyard.cli.progress import counted

    output.check()
    page.check()
    with told(kind, output), counted(counts, quiet=output.quiet) as progress:
        found = search(progress)
    answered(found, output, page)


def answered(found: Any, output: Output, page: Paged) -> None:
    """Write what was found, and its page."""
    from steelyard.cli.output import write
    from steelyard.report.paper import render
    from steelyard.report.results import forms_of

    forms = forms_of(found)
    page.write(found)
    write(
        output,
        data=lambda: forms.to_dict(found),
        text=lambda columns: render(forms.parts(found), columns),
        rows=lambda: forms.rows(found),
    )


class told:  # noqa: N801 - a context manager
    """Where nothing keeps the limits, ``--json`` says why and what would; the error goes on to the exit code 3."""

    def __init__(self, kind: str, output: Output) -> None:
        self.kind, self.output = kind, output

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, DoesNotFit) or self.output.form != "json":
            return
        document = {
            "schema": "steelyard.search/1",
            "kind": self.kind,
            "fits": False,
            "reason": str(error).partition("; nearest change")[0],
            "change": error.change,
            "front": [],
        }
        text = json.dumps(document, indent=2) + "\n"
        if self.output.out:
            from steelyard.writing import write_text

            write_text(self.output.out, text, "out")
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
