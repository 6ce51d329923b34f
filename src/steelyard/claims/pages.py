"""Pages of the scoreboard: a table per layer, published against predicted, misses explained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from steelyard.claims.board import Answers, scores, shown
from steelyard.claims.paper import Paper
from steelyard.claims.run import Found, row_of
from steelyard.claims.verdict import JUDGED, VERDICTS
from steelyard.writing import write_text

__all__ = ["write_pages"]


def write_pages(papers: Sequence[Paper], answers: Answers, folder: str) -> None:
    """Write ``index.md``, ``published.svg``, and a page per layer into a folder."""
    root = Path(folder)
    layers: dict[str, list[Paper]] = {}
    for paper in papers:
        layers.setdefault(paper.layer, []).append(paper)
    files = {"index.md": _index(layers, answers), "published.svg": _scatter(papers, answers)}
    files |= {f"{layer}.md": _layer(layer, some, answers) for layer, some in layers.items()}
    root.mkdir(parents=True, exist_ok=True)
    for name, words in files.items():
        write_text(root / name, words, "pages")


def _index(layers: Mapping[str, Sequence[Paper]], answers: Answers) -> str:
    every = [p for some in layers.values() for p in some]
    rows = [row_of(p, answers[p.id]) for p in every]
    lines = [
        "# Claims",
        "",
        "Written by `steelyard claims --pages docs/claims`. What papers claim, asked as ordinary questions.",
        "*Reproduced*: within 25 % (of a reduction what remains is judged), or inside the published range.",
        "*Direction*: on the same side of no change. *Missed*: neither; the page of its layer says why.",
        "",
        f"{len(every)} papers; {sum(r.runs for r in rows)} run.",
        "",
        "![Published against predicted](published.svg)",
        "",
        "## Score",
        "",
        "| can be checked | scenarios are from | claims run | published | reproduced | right in direction |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for s in scores([f for p in every for f in answers[p.id] if f.claim.n]):
        parts = [s["checkable"], s["setting"], s["run"], s["published"]]
        fractions = [s["reproduced_frac"], s["direction_frac"]]
        parts += ["" if x is None else f"{x:.0%}" for x in fractions]
        lines.append("| " + " | ".join(map(str, parts)) + " |")
    lines += ["", "## Layers", "", "| layer | papers | run | " + " | ".join(VERDICTS) + " |"]
    lines.append("| --- |" + " ---: |" * (2 + len(VERDICTS)))
    for layer, some in layers.items():
        here = [row_of(p, answers[p.id]) for p in some]
        counts = [sum(r.verdict == v for r in here) for v in VERDICTS]
        cells = [f"[{layer}]({layer}.md)", len(some), sum(r.runs for r in here), *counts]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    more = "Every mechanism has a page with its formula, parameters and papers: see the reference of techniques."
    return "\n".join([*lines, "", more, ""])


def _layer(layer: str, papers: Sequence[Paper], answers: Answers) -> str:
    lines = [f"# Claims: {layer}", "", "| paper | n | quantity | unit | published | predicted | 80 % | verdict |"]
    lines.append("| --- | ---: | --- | --- | ---: | ---: | --- | --- |")
    for paper in papers:
        for f in answers[paper.id] or ():
            c = f.claim
            ends = f"{shown(f.interval[0])} to {shown(f.interval[1])}" if f.interval else ""
            cells = [f"{paper.id} {paper.name}", c.n or "", c.quantity, c.unit, shown(c.published), shown(f.predicted)]
            lines.append("| " + " | ".join(str(x).replace("|", "/") for x in [*cells, ends, f.verdict]) + " |")
        if not answers[paper.id]:
            verdict = row_of(paper, ()).verdict
            lines.append(f"| {paper.id} {paper.name} |  |  |  |  |  |  | {verdict} |")
    lines += ["", "## Why", ""]
    for paper in papers:
        row = row_of(paper, answers[paper.id])
        told = [f"claim {f.claim.n}: {f.why}" for f in answers[paper.id] if f.why and f.claim.n]
        whys = [paper.why] if paper.why else []
        whys += told or ([row.why] if row.why and not whys else [])
        whys += [f"claim {f.claim.n} hangs on {one}" for f in answers[paper.id] for one in f.hangs_on]
        if whys or row.command:
            command = f" `{row.command}`" if row.command else ""
            lines.append(f"- **{paper.id} {paper.name}** ({row.verdict}): {'; '.join(whys) or paper.title}{command}")
    return "\n".join([*lines, ""])


def _scatter(papers: Sequence[Paper], answers: Answers) -> str:
    """Published against predicted in logs, for claims that are ratios; what is reduced is drawn as what remains."""
    from steelyard.report.figures.beside import scoreboard
    from steelyard.report.figures.svg import picture

    return picture([scoreboard(points(papers, answers))], width=720)


def points(papers: Sequence[Paper], answers: Answers) -> list[tuple[str, str, float, float, str]]:
    """Layer, words, published and predicted ratio and verdict of every claim that is one."""
    return [
        (
            paper.layer,
            f"{paper.id} {paper.name}: {f.claim.quantity}, {point[0]:.3g} published, {point[1]:.3g} predicted",
            *point,
            f.verdict,
        )
        for paper in papers
        for f in answers[paper.id]
        if (point := _point(f))
    ]


def _point(f: Found) -> tuple[float, float] | None:
    published, c = f.claim.published, f.claim
    if f.verdict not in JUDGED or not isinstance(published, int | float) or not isinstance(f.predicted, int | float):
        return None
    if c.form in ("ratio", "inverse") and c.factor == 1:
        pair = float(published), float(f.predicted)
    elif c.form == "reduction":
        parts = [1 - x * c.factor for x in (published, f.predicted)]
        pair = (1 / parts[0], 1 / parts[1]) if min(parts) > 0 else (0.0, 0.0)
    elif c.form == "gain":
        pair = 1 + published * c.factor, 1 + f.predicted * c.factor
    else:
        return None
    return pair if min(pair) > 0 and all(map(math.isfinite, pair)) else None
