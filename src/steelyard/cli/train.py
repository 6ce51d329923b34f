"""``steelyard train``: what a training step and a run of them cost."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import option
from steelyard.cli.options import Model, Wrong, options_of, words_of_options
from steelyard.cli.output import Paged, Written, problems_of, write
from steelyard.errors import DoesNotFit, raise_all

Question: Any = options_of("train")


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """What else is written."""

    svg: Annotated[str, option("the pictures in one file (.svg)")] = ""
    perfetto: Annotated[str, option("Chrome trace (.json) of a step, two tracks a stage: passes, traffic")] = ""

    def check(self) -> None:
        """Refuse files that cannot be, before any work. Raises :class:`InputError` with every problem."""
        from steelyard.report.records import check_path

        named = (("svg", self.svg, (".svg",)), ("perfetto", self.perfetto, ()))
        raise_all([p for name, path, ends in named if path for p in problems_of(check_path, path, ends, name)])


def train(
    model: Model,
    /,
    *,
    question: Question,
    files: Files = Files(),
    written: Written = Written(),  # noqa: B008 - frozen
    paged: Paged = Paged(),  # noqa: B008
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
    problems.read(paged.check)
    words = {"model": model, **words_of_options("train", question, problems)}
    found = answer_train(read_train_scenario(words, problems))
    if written.folder:
        from steelyard.launch import write_folder

        write_folder(written.folder, report.files(found), force=written.force)
    paged.write(found)
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
