"""``steelyard advise``: which published techniques would help on a scenario of one's own."""

from __future__ import annotations

from typing import Annotated, Any

from steelyard.cli.help import option, switch
from steelyard.cli.options import Model, Wrong, options_of, processes, words_of_options
from steelyard.cli.output import Output, write
from steelyard.cli.progress import status
from steelyard.errors import UnknownName

Question: Any = options_of("simulate")


def advise(
    model: Model,
    /,
    *,
    question: Question,
    objective: Annotated[
        str,
        option(
            "capacity, goodput, throughput, ttft, tpot, e2e, cost or energy; by itself: what the scenario is about",
            topic="Techniques",
        ),
    ] = "",
    only: Annotated[
        str, option("techniques to try, separated by semicolons (A; B; A + B), in place of all", topic="Techniques")
    ] = "",
    no_pairs: Annotated[bool, switch("--no-pairs", "do not try the best two by two")] = False,
    jobs: Annotated[int, option("processes; 0: as many as there are cores")] = 0,
    output: Output = Output(),  # noqa: B008
    problems: Wrong,
) -> None:
    """Try every published technique that applies on your scenario, and pairs of the best, ranked by what they gain."""
    problems.read(output.check)
    from steelyard.report import advise as report
    from steelyard.search.advise import OBJECTIVES, advise_words

    words = words_of_options("simulate", question, problems)
    if objective and objective not in OBJECTIVES:
        problems.read(_refuse, objective, list(OBJECTIVES))
    workers = processes(jobs)
    problems.done()
    with status(output.quiet, "trying techniques") as say:
        found = advise_words(
            {**words, "model": model},
            objective,
            only=[x.strip() for x in only.split(";") if x.strip()],
            pairs=not no_pairs,
            jobs=workers,
            watch=lambda done, of: say(f"{done} of {of} combinations"),
        )
    write(
        output,
        data=found.to_dict,
        text=lambda columns: report.text(found, columns),
        rows=lambda: report.rows(found),
    )


def _refuse(objective: str, known: list[str]) -> None:
    raise UnknownName("objective", objective, known)
