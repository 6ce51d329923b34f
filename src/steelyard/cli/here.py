"""``steelyard here``: what can I run on this machine."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from steelyard.cli.fit import Question, Users, asked_of
from steelyard.cli.help import WISHES, group, option
from steelyard.cli.options import Wrong
from steelyard.cli.output import Output, write
from steelyard.errors import DoesNotFit, InputError


def here(
    *,
    question: Question = Question(),  # noqa: B008 - frozen
    context: Annotated[int, option("tokens one request must reach, prompt and answer", topic=WISHES)] = 0,
    users: Users = 1,
    min_tokens_per_s: Annotated[float, Parameter(help="least tokens/s of one user", group=group(WISHES))] = 5.0,
    top: Annotated[int, Parameter(help="most models of each part", group=group(WISHES))] = 15,
    output: Output = Output(),  # noqa: B008
    problems: Wrong,
) -> None:
    """What can I run on this machine: it is looked at (not measured, nothing is sent), and the models of the catalogue
    that fit and are quick enough are listed, the largest first.
    """
    problems.read(output.check)
    if top < 1:
        problems.read(_too_few, top)
    asked = asked_of(question, users, problems)
    problems.done()
    from steelyard.calibrate.detected import detect
    from steelyard.estimation.places import Wish, runs_on
    from steelyard.machine.cluster import cluster_of
    from steelyard.report import places as report
    from steelyard.report.paper import render

    wish = Wish(asked, context, None, min_tokens_per_s)
    wish.check()
    this = detect()
    found = [runs_on(cluster_of(machine, count), wish, top=top) for machine, count in this.machines]

    def data() -> dict[str, Any]:
        return {"schema": "steelyard.here/1", "here": this.to_dict(), "found": [report.to_dict(f) for f in found]}

    def text(columns: int | None) -> str:
        gib = f"{this.memory_bytes / 2**30:,.1f} GiB"
        head = [f"{this.host.title}, {this.host.cores} cores, {gib}; {this.host.system}"]
        head += [f"{card.title}" for card in this.cards] or ["no graphics card seen"]
        return "\n".join([render([*head, *this.notes], columns), "", *(report.text(f, columns) for f in found)])

    write(output, data=data, text=text, rows=lambda: [row for f in found for row in report.rows(f)])
    if not any(f.rows for f in found):
        raise DoesNotFit(
            f"no model of the catalogue fits and gives {min_tokens_per_s:g} tokens/s",
            change="a lower --min-tokens-per-s, a shorter --context, or narrower --weights",
        )


def _too_few(top: int) -> None:
    raise InputError(f"expected at least 1, got {top}", field="top")
