"""The scoreboard: rows of claims for people and for ``steelyard.claims/1``, scores, and pages of documentation."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steelyard.claims.paper import Paper
from steelyard.claims.run import Found, Row, row_of
from steelyard.claims.verdict import JUDGED, VERDICTS, Number
from steelyard.units import figure as rounded

__all__ = ["SCHEMA", "csv_rows", "explanation", "text", "to_dict"]

SCHEMA = "steelyard.claims/1"
#: Most lines about claims that cannot be asked.
_MOST_MISSING = 10
Answers = Mapping[str, Sequence[Found]]


def to_dict(papers: Sequence[Paper], answers: Answers) -> dict[str, Any]:
    """``steelyard.claims/1``: claims with a number, rows of all papers, and scores."""
    claims = [f for p in papers for f in answers[p.id] if f.claim.n]
    return {
        "schema": SCHEMA,
        "claims": [f.to_dict() for f in claims],
        "rows": [row_of(p, answers[p.id]).to_dict() for p in papers],
        "scores": scores(claims),
    }


def scores(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Verdicts of the claims that run, by how checkable they are and by where their scenarios are from."""
    rows = []
    ran = [f for f in found if f.predicted is not None and f.verdict in JUDGED]
    settings = ("", "artifact", "abstract", "representative")
    for checkable in ("yes", "partly", "no"):
        for setting in settings:
            some = [f for f in ran if f.claim.checkable == checkable]
            some = [f for f in some if not setting or (f.claim.setting or f.paper.setting) == setting]
            known = [f for f in some if f.claim.published is not None]
            if not some:
                continue
            count = {v: sum(f.verdict == v for f in known) for v in JUDGED}
            right = count["reproduced"] + count["direction"]
            n = len(known)
            rows.append(
                {"checkable": checkable, "setting": setting or "all", "run": len(some), "published": n}
                | {"reproduced_frac": count["reproduced"] / n if n else None}
                | {"direction_frac": right / n if n else None}
            )
    return rows


def csv_rows(papers: Sequence[Paper], answers: Answers) -> list[dict[str, Any]]:
    """A row per claim."""
    rows = []
    for paper in papers:
        for found in answers[paper.id]:
            row = {**found.to_dict(), "name": paper.name, "layer": paper.layer}
            rows.append({k: shown(v) if isinstance(v, list) else v for k, v in row.items()})
    return rows


def shown(value: Number | None) -> str:
    """A number of a claim, a range or a list of them."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(shown(v) for v in value)
    return rounded(float(value)) if isinstance(value, int | float) and math.isfinite(value) else str(value)


def text(papers: Sequence[Paper], answers: Answers, width: int | None = None) -> str:
    """The scoreboard for a terminal."""
    from steelyard.report.paper import columns, render

    heads = ["paper", "n", "name", "quantity", "unit", "published", "predicted", "80 %", "verdict", "s"]
    cells = []
    for paper in papers:
        for f in answers[paper.id] or [Found(paper, _none(paper), verdict=row_of(paper, []).verdict)]:
            ends = f"{shown(f.interval[0])}-{shown(f.interval[1])}" if f.interval else ""
            seconds = f"{f.seconds:.1f}" if f.claim.runs else ""
            claim = [f.claim.quantity, f.claim.unit, shown(f.claim.published), shown(f.predicted), ends]
            cells.append([paper.id, str(f.claim.n or ""), paper.name, *claim, f.verdict, seconds])
    table = columns(heads, cells, ["n", "published", "predicted", "s"], ("name", "quantity", "unit", "published"))
    return render([table, "", *_summary(papers, answers)], width, piped=140)


def _none(paper: Paper) -> Any:
    from steelyard.claims.paper import Claim

    return Claim(0, "", "", "none")


def _summary(papers: Sequence[Paper], answers: Answers) -> list[str]:
    rows = [row_of(p, answers[p.id]) for p in papers]
    lines = [f"{len(papers)} paper{'s' * (len(papers) != 1)}, {sum(r.runs for r in rows)} run; {_counted(rows)}"]
    missing = [f"{p.id} {f.claim.n}: {f.why}" for p in papers for f in answers[p.id] if f.claim.runs and _unasked(f)]
    lines += missing[:_MOST_MISSING]
    lines += [f"{p.id} {f.claim.n} hangs on {one}" for p in papers for f in answers[p.id] for one in f.hangs_on]
    for score in scores([f for p in papers for f in answers[p.id] if f.claim.n]):
        if score["setting"] == "all" and score["published"]:
            lines.append(
                f"claims that can be checked ({score['checkable']}): {score['published']} run, "
                f"{score['reproduced_frac']:.0%} reproduced, {score['direction_frac']:.0%} right in direction"
            )
    return lines


def _unasked(found: Found) -> bool:
    return found.predicted is None and not found.claim.verdict


def _counted(rows: Iterable[Row]) -> str:
    verdicts = [r.verdict for r in rows]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in VERDICTS if v in verdicts)


def _copyable(command: str, columns: int) -> str:
    """A command line over several lines that a shell reads as one."""
    lines = ["  "]
    for word in map(shlex.quote, shlex.split(command)):
        if len(lines[-1]) + len(word) + 3 > columns and lines[-1].strip():
            lines.append("     ")
        lines[-1] += word if not lines[-1].strip() and len(lines) == 1 else f" {word}"
    return " \\\n".join(lines)


def explanation(paper: Paper, found: Sequence[Found], width: int | None = None) -> str:
    """Everything of one paper: scenarios as commands, every claim with its figures, what it hangs on, why."""
    from steelyard.claims.ask import command
    from steelyard.report.paper import WIDTH, render

    lines: list[Any] = [f"{paper.id} {paper.name}: {paper.title}" + (f" ({paper.source})" if paper.source else "")]
    lines.append(f"layer {paper.layer}; scenarios are {paper.setting}" + (f"; {paper.why}" if paper.why else ""))
    if paper.techniques:
        lines.append(f"techniques: {', '.join(paper.techniques)}")
    for name, scene in paper.scenario.items():
        lines += [
            "",
            f"{name}:" + (f" {scene.about}" if scene.about else ""),
            _copyable(command(*paper.scene(name)), width or WIDTH),
        ]
    for f in found:
        claim = f.claim
        pair = f"{claim.form} of {claim.figure}, {claim.subject}" + (
            f" against {claim.baseline}" if claim.baseline else ""
        )
        swept = "".join(f"; {claim.pick} over {n} {', '.join(map(str, v))}" for n, v in claim.sweep.items())
        lines += ["", f"claim {claim.n}: {claim.quantity}" if claim.n else claim.quantity]
        lines += [f"  {claim.of}"] if claim.of else []
        lines += [f"  {pair}{swept}"] if claim.runs else []
        ends = f", 80 % {shown(f.interval[0])} to {shown(f.interval[1])}" if f.interval else ""
        published = shown(claim.published) or "not known here"
        lines.append(f"  published {published} {claim.unit}, predicted {shown(f.predicted) or 'nothing'}{ends}")
        lines.append(f"  {f.verdict}" + (f": {f.why}" if f.why else ""))
        lines += [f"  hangs on {one}" for one in f.hangs_on]
    return render(lines, width)
