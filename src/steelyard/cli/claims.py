"""``steelyard claims``: what papers claim, and what comes out when it is asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from steelyard.cli.help import option, switch
from steelyard.cli.options import processes
from steelyard.cli.output import Output, write
from steelyard.cli.progress import status
from steelyard.errors import InputError, Problem, UnknownName, bounded, raise_all

if TYPE_CHECKING:
    from steelyard.claims.run import Found


def claims(
    *papers: Annotated[str, Parameter(help="papers by id or name (S014, sarathi-serve), or claim files (mine.toml)")],
    layer: Annotated[str, option("papers of this layer only: serving, kvcache, moe ...")] = "",
    explain: Annotated[bool, switch("--explain", "scenarios, figures and assumptions of each paper")] = False,
    sensitivity: Annotated[bool, switch("--sensitivity", "which assumption each verdict hangs on")] = False,
    fresh: Annotated[bool, switch("--fresh", "ask again what was asked before")] = False,
    jobs: Annotated[int, option("processes; 0: as many as there are cores")] = 0,
    pages: Annotated[str, option("write the scoreboard's pages into this folder")] = "",
    output: Output = Output(),  # noqa: B008
) -> None:
    """Check what papers claim: published, predicted, interval, verdict.

    Every claim is a pair of ordinary questions that you can ask yourself: --explain prints them as commands.
    """
    output.check()
    workers = processes(jobs)
    from steelyard.claims import board
    from steelyard.claims.paper import broken_papers, find_paper
    from steelyard.claims.paper import papers as every
    from steelyard.claims.run import run

    asked = [find_paper(name) for name in papers]
    chosen = asked or list(every().values())
    if layer:
        layers = sorted({p.layer for p in every().values()})
        if layer not in layers:
            raise UnknownName("layer", layer, layers, hint=f"one of {', '.join(layers)}")
        others = sorted({p.layer for p in chosen})
        chosen = [p for p in chosen if p.layer == layer]
        if not chosen:
            raise InputError(f"none of the papers asked for is of {layer}, but of {', '.join(others)}", field="layer")
    ids = [p.id for p in chosen]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise InputError(f"{', '.join(twice)} asked for twice", field="papers")
    for line in broken_papers():
        print(bounded(f"not read: {line}"), file=sys.stderr)
    answers: dict[str, list[Found]] = {p.id: [] for p in chosen}
    with status(output.quiet, f"asking the claims of {len(chosen)} papers") as say:
        runnable = [p for p in chosen if p.runs]
        for done, (paper, found) in enumerate(
            run(runnable, workers, sensitivity or (explain and len(chosen) <= 3), fresh), 1
        ):
            answers[paper.id] = found
            say(f"{done} of {len(runnable)} papers")
        for paper, found in run([p for p in chosen if not p.runs]):
            answers[paper.id] = found
    if pages:
        from steelyard.claims.pages import write_pages

        write_pages(chosen, answers, pages)

    def told(columns: int | None) -> str:
        if explain:
            return "\n".join(board.explanation(p, answers[p.id], columns) for p in chosen)
        return board.text(chosen, answers, columns)

    write(
        output,
        data=lambda: board.to_dict(chosen, answers),
        text=told,
        rows=lambda: board.csv_rows(chosen, answers),
    )
    raise_all(
        [x for name, p in zip(papers, asked, strict=True) if p.id in answers for x in _wrong(name, answers[p.id])]
    )


def _wrong(name: str, found: list[Found]) -> Iterator[Problem]:
    """What the verbs refused of a claim file of the user's; a paper of the catalogues says it on the scoreboard."""
    from steelyard.claims.paper import is_claim_file

    if is_claim_file(name):
        yield from (Problem(f"{name}: claim {f.claim.n}", f.why) for f in found if f.refused)
