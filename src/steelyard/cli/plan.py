"""``steelyard plan``: the cheapest deployment that meets the SLOs, with the files to launch it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import option, switch
from steelyard.cli.options import Wrong, options_of, words_of_options
from steelyard.cli.output import Output, write
from steelyard.cli.progress import status
from steelyard.documents import is_folder
from steelyard.errors import DoesNotFit, InputError, Problem, raise_all
from steelyard.scenario.fields import field

if TYPE_CHECKING:
    from steelyard.search.answer import Answer

__all__ = ["plan"]

_Model = Annotated[str, Parameter(help=field("plan", "model").doc + " (not with --replay)", show_default=False)]
Question: Any = options_of("plan")


@Parameter(name="*")
@dataclass(frozen=True)
class Written:
    """Form and place of the answer."""

    out: Annotated[
        str, option("folder for the launch files, plan.json, plan.toml and report.html; a .json or .csv file")
    ] = ""
    force: Annotated[bool, switch("--force", "replace files of the same names in --out")] = False
    html: Annotated[str, option("page with the answer and its pictures")] = ""
    json: Annotated[bool, switch("--json", "print JSON in SI units")] = False
    csv: Annotated[bool, switch("--csv", "print one CSV row per candidate")] = False
    quiet: Annotated[bool, switch("--quiet", "no progress, no traceback of internal errors")] = False

    @property
    def folder(self) -> str:
        """The folder of ``--out``, empty when it names a file or nothing."""
        return "" if self.out.lower().endswith((".json", ".csv")) and not is_folder(self.out) else self.out

    @property
    def output(self) -> Output:
        """Where the answer itself goes."""
        return Output(self.json, self.csv, "" if self.folder else self.out, self.quiet)

    def check(self) -> None:
        """Refuse what cannot be written, before any work. Raises :class:`InputError` with every problem."""
        from steelyard.launch.folder import check_folder
        from steelyard.report.records import check_path

        problems: list[Problem] = []

        def tried(check: Any, *arguments: Any, **named: Any) -> None:
            try:
                check(*arguments, **named)
            except InputError as error:
                problems.extend(error.problems)

        tried(self.output.check)
        if self.folder:
            tried(check_folder, self.folder, force=self.force)
        if self.html:
            tried(check_path, self.html, (".html", ".htm"), "html")
        raise_all(problems)


def plan(
    model: _Model = "",
    /,
    *,
    question: Question = Question(),  # noqa: B008 - frozen
    replay: Annotated[
        str | None, option("play a plan.toml or plan.json again and compare the numbers, instead of planning")
    ] = None,
    written: Written = Written(),
    problems: Wrong,
) -> None:
    """Find the cheapest deployment that meets the SLOs, and write the files to launch it.

    Exit code 3 when nothing fits; the nearest changes that would are then named.
    """
    problems.read(written.check)
    if replay is not None:
        problems.add(
            [
                Problem(name, "--replay plays the plan as it is in the file; leave this out")
                for name in _beside(model, question, written)
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
    _write(answer, written)
    if answer.winner is None:
        assert answer.infeasible is not None
        nearest = "; or ".join(c.text for c in answer.infeasible.nearest)
        raise DoesNotFit(f"nothing fits: {answer.infeasible.reason}", change=nearest or "none found")


def _beside(model: str, question: Any, written: Written) -> list[str]:
    """What was given that a replay has no use for."""
    asked = {f.name: getattr(question, f.name) != f.default for f in fields(question)}
    given = {"model": bool(model), **asked, **{n: bool(getattr(written, n)) for n in ("out", "html", "force")}}
    return [name for name, there in given.items() if there]


def _write(answer: Answer, written: Written) -> None:
    from steelyard.report import plan as report

    if written.folder and answer.winner is not None:
        from steelyard.launch import write_folder
        from steelyard.report.plan_files import plan_files

        write_folder(written.folder, plan_files(answer), force=written.force)
    if written.html:
        from steelyard.report.plan_page import write_page

        write_page(answer, written.html)
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
