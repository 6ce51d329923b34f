"""``steelyard estimate``: what a model costs on a machine, or a table over several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cli.network import estimate_net, of_network
from steelyard.cli.options import Model, Wrong, answers, only, options_of
from steelyard.cli.output import Output, Paged, write
from steelyard.cli.ranges import Block, csv_columns
from steelyard.errors import DoesNotFit, raise_all

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate

Question: Any = options_of("estimate")


def estimate(
    model: Model,
    /,
    *,
    question: Question,
    output: Output = Output(),  # noqa: B008 - frozen
    paged: Paged = Paged(),  # noqa: B008
    problems: Wrong,
) -> None:
    """Weigh a model on one or several machines.

    Lists and ranges (1,2,4 or 1-256*2 or 1-10+3) give a table.
    """
    problems.read(output.check)
    problems.read(paged.check)
    if of_network(model):
        estimate_net(model, question, output, paged, problems)
        return
    blocks = answers(model, question, problems)
    count = sum(len(block) for block in blocks)
    paged.refuse_many(count)
    if count == 1:
        _one(only(blocks), output, paged)
    else:
        _table(blocks, output)


def _one(found: Estimate, output: Output, paged: Paged) -> None:
    from steelyard.report.estimate import flat, to_dict

    def text(columns: int | None) -> str:
        from steelyard.report.text import report

        return report(found, columns)

    paged.write(found)
    write(output, data=lambda: to_dict(found), text=text, rows=lambda: [flat(found)])
    if not found.fits:
        from steelyard.estimation.infeasibility import remedy, shortfall

        raise DoesNotFit(f"does not fit: {shortfall(found.scenario)}", change=remedy(found.scenario))


def _table(blocks: list[Block], output: Output) -> None:
    from steelyard.report import table

    if all(estimates is None for block in blocks for estimates, _ in block.answers):
        seen = {(p.field, p.message): p for block in blocks for _, rows in block.answers for row in rows for p in row}
        raise_all(list(seen.values()))

    def cells() -> list[Any]:
        return [(o.inputs, o.estimate, o.problems) for block in blocks for o in block.outcomes()]

    write(
        output,
        data=lambda: table.to_dict(cells()),
        text=lambda columns: table.text(cells(), columns),
        rows=lambda: csv_columns(blocks),
    )
    found = [estimates for block in blocks for estimates, _ in block.answers if estimates is not None]
    if not any(np.any(estimates.memory.fits) for estimates in found):
        from steelyard.estimation.infeasibility import nearest_change

        change = nearest_change(next(o.estimate for o in blocks[0].outcomes() if o.estimate is not None).scenario)
        raise DoesNotFit("no scenario fits", change=f"{change.text} (for the first)" if change else "none found")
