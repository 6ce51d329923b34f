"""``steelyard plan``: the cheapest deployment that meets the SLOs, with the files to launch it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import option
from steelyard.cli.options import Wrong, options_of, words_of_options
from steelyard.cli.output import Paged, Written, write
from steelyard.cli.progress import status
from steelyard.errors import DoesNotFit, InputError, Problem
from steelyard.scenario.fields import field

if TYPE_CHECKING:
    from steelyard.search.answer import Answer

__all__ = ["plan"]

_Model = Annotated[str, Parameter(help=field("plan", "model").doc + " (not with --replay)", show_default=False)]
Question: Any = options_of("plan")


def plan(
    model: _Model = "",
    /,
    *,
    question: Question = Question(),  # noqa: B008 - frozen
    replay: Annotated[
        str | None, option("play a plan.toml or plan.json again and compare the numbers, instead of planning")
    ] = None,
    written: Written = Written(),  # noqa: B008 - frozen
    paged: Paged = Paged(),  # noqa: B008
    problems: Wrong,
) -> None:
    """Find the cheapest deployment that meets the SLOs, and write the files to launch it.

    Exit code 3 when nothing fits; the nearest changes that would are then named.
    """
    problems.read(written.check)
    problems.read(paged.check)
    if replay is not None:
        problems.add(
            [
                Problem(name, "--replay plays the plan as it is in the file; leave this out")
                for name in _beside(model, question, written, paged)
            ]
        )
        if not replay:
            problems.add([Problem("replay", "expected the path of a plan.toml or plan.json")])
        problems.done()
        _replay(replay, written)
        return
    from steelyard.search.api import plan_of, read_question

    words = words_of_options("plan", question, problems) | ({"model": model} if model else {})
    with status(written.quiet, "planning") as tell:
        answer = plan_of(read_question({**words, "tell": tell}, problems))
    _write(answer, written, paged)
    if answer.winner is None:
        assert answer.infeasible is not None
        nearest = "; or ".join(c.text for c in answer.infeasible.nearest)
        raise DoesNotFit(f"nothing fits: {answer.infeasible.reason}", change=nearest or "none found")


def _beside(model: str, question: Any, written: Written, paged: Paged) -> list[str]:
    """What was given that a replay has no use for."""
    asked = {f.name: getattr(question, f.name) != f.default for f in fields(question)}
    given = {
        "model": bool(model),
        **asked,
        "html": bool(paged.html),
        **{n: bool(getattr(written, n)) for n in ("out", "force")},
    }
    return [name for name, there in given.items() if there]


def _write(answer: Answer, written: Written, paged: Paged) -> None:
    from steelyard.report import plan as report

    if written.folder and answer.winner is not None:
        from steelyard.launch import write_folder
        from steelyard.report.plan_files import plan_files

        write_folder(written.folder, plan_files(answer), force=written.force)
    if paged.html:
        from steelyard.report.plan_page import write_page

        write_page(answer, paged.html)
    files = written.folder if answer.winner is not None else ""
    write(
        written.output,
        data=lambda: report.to_dict(answer),
        text=lambda columns: report.text(answer, columns, files=files),
        rows=lambda: report.flat_rows(answer),
    )


def _replay(path: str, written: Written) -> None:
    from steelyard.deployment.plan_file import read_deployment
    from steelyard.report import plan_replay as report
    from steelyard.simulation.replay_plan import replay_plan
    from steelyard.techniques._base import relabelled

    try:
        asked = read_deployment(path)
    except InputError as error:
        raise relabelled(error, "file", "replay") from None
    with status(written.quiet, "replaying"):
        found = replay_plan(asked)
    write(
        written.output,
        data=lambda: report.to_dict(asked, found),
        text=lambda columns: report.text(asked, found, columns),
        rows=lambda: report.rows(asked, found),
    )
