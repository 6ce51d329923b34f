"""``steelyard train``: what a training step and a run of them cost."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import option, switch
from steelyard.cli.options import Model, Wrong, options_of, words_of_options
from steelyard.cli.output import Output, write
from steelyard.documents import is_folder
from steelyard.errors import DoesNotFit, InputError, Problem, raise_all

Question: Any = options_of("train")


@Parameter(name="*")
@dataclass(frozen=True)
class Written:
    """Form and place of the answer."""

    json: Annotated[bool, switch("--json", "print JSON in SI units")] = False
    csv: Annotated[bool, switch("--csv", "print one CSV row per scenario or entry")] = False
    out: Annotated[
        str, option("folder for the files that launch it; a file (.json and .csv choose the form)", "--out")
    ] = ""
    force: Annotated[bool, switch("--force", "replace files of the same names in a folder of --out")] = False
    quiet: Annotated[bool, switch("--quiet", "no progress, no traceback of internal errors")] = False

    @property
    def folder(self) -> str:
        """The folder of ``--out`` (a name without an ending), empty when it names a file or nothing."""
        named = self.out.endswith(("/", "\\")) or (self.out and not PurePath(self.out).suffix)
        return self.out if named or (self.out and is_folder(self.out)) else ""

    @property
    def output(self) -> Output:
        """Where the answer itself goes."""
        return Output(self.json, self.csv, "" if self.folder else self.out, self.quiet)

    def check(self) -> None:
        """Refuse what cannot be written, before any work. Raises :class:`InputError`."""
        from steelyard.launch.folder import check_folder

        self.output.check()
        if self.folder:
            check_folder(self.folder, force=self.force)


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """What else is written."""

    svg: Annotated[str, option("picture of the pipeline, of when runs end and of what checkpoints cost (.svg)")] = ""
    perfetto: Annotated[str, option("Chrome trace of a step, a track a stage (.json), for ui.perfetto.dev")] = ""

    def check(self) -> None:
        """Refuse files that cannot be, before any work. Raises :class:`InputError` with every problem."""
        from steelyard.report.records import check_path

        problems: list[Problem] = []
        for name, endings in (("svg", (".svg",)), ("perfetto", ())):
            path = getattr(self, name)
            if path:
                try:
                    check_path(path, endings, name)
                except InputError as error:
                    problems += error.problems
        raise_all(problems)


def train(
    model: Model,
    /,
    *,
    question: Question,
    files: Files = Files(),
    written: Written = Written(),
    problems: Wrong,
) -> None:
    """Weigh training: the time of a step, memory of every stage, energy and money, and the run with its failures.

    Degrees that are not given are chosen: the fastest layout that fits.
    """
    from steelyard.report import train as report
    from steelyard.scenario.training import read_train_scenario
    from steelyard.training.estimate import answer_train

    problems.read(written.check)
    problems.read(files.check)
    given = {f.name: getattr(question, f.name) for f in fields(question)}
    words = {"model": model, **words_of_options("train", question, problems)}
    words = {n: v for n, v in words.items() if n == "model" or given.get(n) not in (None, "")}
    found = answer_train(read_train_scenario(words, problems))
    if written.folder:
        from steelyard.launch import write_folder

        write_folder(written.folder, report.files(found), force=written.force)
    write(
        written.output,
        data=lambda: report.to_dict(found),
        text=lambda columns: report.report(found, columns),
        rows=lambda: [report.flat(found)],
    )
    if files.svg:
        from steelyard.report.train_picture import write_pictures

        write_pictures(found, files.svg)
    if files.perfetto:
        from steelyard.report.train_picture import write_trace

        left = write_trace(found, files.perfetto)
        if left and not written.quiet:
            print(f"{files.perfetto} {left}", file=sys.stderr)
    if not found.fits:
        raise DoesNotFit(f"does not fit: {report.shortfall(found)}", change=report.remedy(found))
