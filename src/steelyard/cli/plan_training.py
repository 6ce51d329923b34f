"""``steelyard plan --train``: machines, number of devices and layout of a training run."""

from __future__ import annotations

from typing import Any

from steelyard.cli.options import Model, Wrong, options_of, words_of_options
from steelyard.cli.output import Paged, Written, write
from steelyard.cli.progress import status
from steelyard.errors import DoesNotFit

__all__ = ["plan_training"]

Question: Any = options_of("plan_training")


def plan_training(
    model: Model,
    /,
    *,
    question: Question,
    written: Written = Written(),  # noqa: B008 - frozen
    paged: Paged = Paged(),  # noqa: B008
    problems: Wrong,
) -> None:
    """Find the machines, their number and the layout of a training run that ends in time and in budget.

    Exit code 3 when nothing does; what comes nearest is then named.
    """
    from steelyard.report import train_plan as report
    from steelyard.scenario.verbs import words_of
    from steelyard.search.training import plan_of_training, read_train_question

    problems.read(written.check)
    problems.read(paged.check)
    words = {"model": model, **words_of_options("plan_training", question, problems)}
    with status(written.quiet, "planning") as tell:
        asked = read_train_question(words_of("plan_training", (), {**words, "tell": tell}), problems)
        answer = plan_of_training(asked)
    if written.folder and answer.winner is not None:
        from steelyard.launch import write_folder

        write_folder(written.folder, report.files(answer), force=written.force)
    paged.write(answer)
    write(
        written.output,
        data=lambda: report.to_dict(answer),
        text=lambda columns: report.report(answer, columns),
        rows=lambda: report.flat_rows(answer),
    )
    if answer.winner is None:
        raise DoesNotFit(f"no plan: {answer.reason}", change=report.nearest(answer))
