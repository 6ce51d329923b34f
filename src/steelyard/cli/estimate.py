"""``steelyard estimate``: what a model costs on a machine, or a table over several."""

from __future__ import annotations

import sys
from typing import Any

from steelyard.cli.options import Model, Outcome, answers, only, options_of
from steelyard.cli.output import Output, write
from steelyard.errors import DoesNotFit, raise_all

Question: Any = options_of("estimate")


def estimate(model: Model, /, *, question: Question, output: Output = Output()) -> None:  # noqa: B008 - frozen
    """Weigh a model on one or several machines.

    Lists and ranges (1,2,4 or 1-256*2 or 1-10+3) give a table.
    """
    output.check()
    outcomes = _priced(model, question, output.quiet)
    if len(outcomes) == 1:
        _one(outcomes, output)
    else:
        _table(outcomes, output)


def _priced(model: str, question: Question, quiet: bool) -> list[Outcome]:
    """Every outcome; a long sweep counts on a terminal."""
    counting = not quiet and sys.stderr.isatty()
    outcomes = []
    for outcome in answers(model, question):
        outcomes.append(outcome)
        if counting and len(outcomes) % 100 == 0:
            print(f"\r{len(outcomes):,} scenarios", end="", file=sys.stderr, flush=True)
    if counting and len(outcomes) >= 100:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return outcomes


def _one(outcomes: list[Outcome], output: Output) -> None:
    from steelyard.report.estimate import flat, to_dict

    found = only(outcomes)

    def text(columns: int | None) -> str:
        from steelyard.report.text import report

        return report(found, columns)

    write(output, data=lambda: to_dict(found), text=text, rows=lambda: [flat(found)])
    if not found.fits:
        from steelyard.estimation.infeasibility import nearest_change, shortfall

        change = nearest_change(found.scenario)
        raise DoesNotFit(f"does not fit: {shortfall(found.scenario)}", change=change.text if change else "none found")


def _table(outcomes: list[Outcome], output: Output) -> None:
    from steelyard.report import table

    if all(o.estimate is None for o in outcomes):
        seen = {(p.field, p.message): p for o in outcomes for p in o.problems}
        raise_all(list(seen.values()))
    cells = [(o.inputs, o.estimate, o.problems) for o in outcomes]
    write(
        output,
        data=lambda: table.to_dict(cells),
        text=lambda columns: table.text(cells, columns),
        rows=lambda: table.flat_rows(cells),
    )
    if not any(o.estimate is not None and o.estimate.fits for o in outcomes):
        from steelyard.estimation.infeasibility import nearest_change

        first = next(o.estimate for o in outcomes if o.estimate is not None)
        change = nearest_change(first.scenario)
        raise DoesNotFit("no scenario fits", change=f"{change.text} (for the first)" if change else "none found")
