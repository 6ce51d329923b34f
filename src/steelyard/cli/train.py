"""``steelyard train``: what a training step and a run of them cost."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from steelyard.cli.options import Model, Wrong, options_of, words_of_options
from steelyard.cli.output import Output, write
from steelyard.errors import DoesNotFit

Question: Any = options_of("train")


def train(
    model: Model,
    /,
    *,
    question: Question,
    output: Output = Output(),  # noqa: B008 - frozen
    problems: Wrong,
) -> None:
    """Weigh training: the time of a step, memory of every stage, energy and money, and the run with its failures.

    Degrees that are not given are chosen: the fastest layout that fits.
    """
    from steelyard.report import train as report
    from steelyard.scenario.training import read_train_scenario
    from steelyard.training.estimate import answer_train

    problems.read(output.check)
    given = {f.name: getattr(question, f.name) for f in fields(question)}
    words = {"model": model, **words_of_options("train", question, problems)}
    words = {n: v for n, v in words.items() if n == "model" or given.get(n) not in (None, "")}
    found = answer_train(read_train_scenario(words, problems))
    write(
        output,
        data=lambda: report.to_dict(found),
        text=lambda columns: report.report(found, columns),
        rows=lambda: [report.flat(found)],
    )
    if not found.fits:
        raise DoesNotFit(f"does not fit: {report.shortfall(found)}", change=report.remedy(found))
