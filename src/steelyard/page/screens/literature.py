"""Literature: what papers claim beside what comes out when it is asked; each scenario opens where it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from steelyard.errors import UnknownName
from steelyard.page.screen import Screen, Shown, Tell
from steelyard.scenario.fields import Field

if TYPE_CHECKING:
    from steelyard.claims.paper import Claim, Paper
    from steelyard.claims.run import Found

__all__ = ["SCREEN"]

#: Screens that open the scenario of a claim, by its verb.
_OPENS = {
    "estimate": "estimate",
    "simulate": "simulate",
    "plan": "plan",
    "train": "train",
    "plan_training": "train_plan",
}


def fields() -> Mapping[str, Field]:
    """Layer, papers and verdict."""
    from steelyard.claims.paper import papers
    from steelyard.claims.verdict import VERDICTS

    layers = tuple(sorted({p.layer for p in papers().values()}))
    return {
        "layer": Field("layer", "name", "papers of this layer", "", choices=layers, topic="Which claims"),
        "papers": Field("papers", "text", "papers by id or name, separated by commas", "", topic="Which claims"),
        "verdict": Field("verdict", "name", "claims of this verdict", "", choices=VERDICTS, topic="Which claims"),
    }


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The claims of the papers that are asked for, each asked of its verb."""
    from steelyard.claims import board
    from steelyard.claims.pages import points
    from steelyard.claims.paper import find_paper, papers
    from steelyard.claims.run import run
    from steelyard.report.figures.beside import scoreboard

    known = fields()
    for name in words:
        if name not in known:
            raise UnknownName("field", name, known)
    for name in ("layer", "verdict"):
        if words.get(name) and words[name] not in known[name].choices:
            raise UnknownName(name, str(words[name]), known[name].choices)
    named = [n.strip() for n in str(words.get("papers", "")).split(",") if n.strip()]
    every = papers()
    chosen = [find_paper(name) for name in dict.fromkeys(named) if not name.endswith(".toml")] or list(every.values())
    chosen = [p for p in chosen if not words.get("layer") or p.layer == words["layer"]]
    answers: dict[str, list[Found]] = {p.id: [] for p in chosen}
    runnable = [p for p in chosen if p.runs]
    for done, (paper, found) in enumerate(run(runnable), 1):
        answers[paper.id] = found
        tell(f"{done} of {len(runnable)} papers", done / max(len(runnable), 1))
    for paper, found in run([p for p in chosen if not p.runs]):
        answers[paper.id] = found
    document = board.to_dict(chosen, answers)
    drawn = points(chosen, answers)
    figures = [scoreboard(drawn).to_dict()] if drawn else []
    rows = [r for r in board.csv_rows(chosen, answers) if not words.get("verdict") or r["verdict"] == words["verdict"]]
    return Shown(document, rows, figures, _view(chosen, answers, document, str(words.get("verdict", ""))))


def _view(
    chosen: Sequence[Paper], answers: Mapping[str, Sequence[Found]], document: Mapping[str, Any], verdict: str
) -> dict[str, Any]:
    from steelyard.claims.board import shown

    listed = []
    for paper in chosen:
        for found in answers[paper.id]:
            if verdict and found.verdict != verdict:
                continue
            claim = found.claim
            listed.append(
                {
                    "id": paper.id,
                    "name": paper.name,
                    "layer": paper.layer,
                    "title": paper.title,
                    "quantity": claim.quantity,
                    "unit": claim.unit,
                    "published": shown(claim.published),
                    "predicted": shown(found.predicted),
                    "interval": [shown(v) for v in found.interval] if found.interval else [],
                    "verdict": found.verdict,
                    "why": found.why,
                    "opens": _opened(paper, claim),
                }
            )
    counts: dict[str, int] = {}
    for row in document["rows"]:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    return {
        "title": f"{len(chosen)} paper{'s' * (len(chosen) != 1)}",
        "counts": counts,
        "scores": [s for s in document["scores"] if s["setting"] == "all" and s["published"]],
        "claims": listed,
    }


def _opened(paper: Paper, claim: Claim) -> list[dict[str, str]]:
    """Addresses of the two scenarios of a claim, where a screen asks such a question."""
    found = []
    for role in ("baseline", "subject"):
        name = getattr(claim, role)
        if not name:
            continue
        verb, words = paper.scene(name)
        said = {n: text for n, v in words.items() if (text := _said(v)) is not None}
        if verb in _OPENS:
            found.append({"role": role, "address": f"{_OPENS[verb]}?{urlencode(said)}"})
    return found


def _said(value: Any) -> str | None:
    """A word as the query has it; None: it is no plain value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float) for v in value):
        return ",".join(str(v) for v in value)
    return None


SCREEN = Screen(
    name="literature",
    title="Literature",
    says="What papers claim, and what comes out when it is asked.",
    ask=ask,
    fields=fields,
    usual="layer papers verdict",
    start={"layer": "kvcache"},
    long=True,
    examples=(
        ("What papers on the KV cache claim", {"layer": "kvcache"}),
        ("What papers on decoding claim", {"layer": "decoding"}),
        ("What is missed, of all papers (minutes)", {"verdict": "missed"}),
    ),
    brings=(
        ("front", "published against predicted, each number a dot"),
        ("table", "each claim with its interval and verdict; its scenarios open in Estimate, Simulate or Train"),
    ),
    minutes=True,
)
