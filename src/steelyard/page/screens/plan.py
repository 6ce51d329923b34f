"""Plan: the cheapest deployment that meets the SLOs, the fronts, the candidates, and what launches the winner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steelyard.page.candidates import HEADS, opened, rows_of
from steelyard.page.screen import Screen, Shown, Tell, fact, with_addresses
from steelyard.report.figures import figures_of
from steelyard.units import figure
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.search.answer import Answer, Candidate

__all__ = ["SCREEN"]

_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
#: Shares of a plan that are over when it says so.
_STAGES = (
    ("weighing", 0.05),
    ("playing the best with", 0.92),
    ("playing the best", 0.3),
    ("what the winner holds", 0.88),
    ("nearest changes", 0.6),
    ("mixed fleet", 0.95),
)
#: What is asked first.
_START = {"model": "llama-3.1-8b", "on": "h100_sxm", "rate": "10/s", "ttft": "p99:1s", "tpot": "p95:30ms"}
#: Files of the folder that the page itself is, or that are its twins.
_ELSEWHERE = ("report.html", "front.svg", "plan.json")


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The plan of one question."""
    import steelyard as sy
    from steelyard.report import plan as report

    answer = sy.plan(**words, tell=lambda said: tell(said, _share(said)))
    w, model = answer.winner, str(words["model"])
    near = answer.infeasible
    shown = w if w is not None else near.closest if near is not None else None
    view: dict[str, Any] = {
        "title": answer.question.model,
        "lines": report.question_lines(answer.question),
        "winner": None if w is None else _named(w),
        "closest": None if w is not None or shown is None else _named(shown),
        "why_nothing": "" if near is None else near.reason,
        "changes": [] if near is None else [_change(c) for c in near.nearest],
        "facts": [] if w is None else _facts(w),
        "times": [] if shown is None else _times(answer, shown),
        "statistics": _STATISTICS,
        "why": list(answer.why),
        "breaks_first": answer.breaks_first,
        "narrowing": answer.narrowing,
        "certainty": report.certainty_lines(answer),
        "heads": HEADS,
        "rows": rows_of(answer, model),
        "star": report.star(answer),
        "open": {} if shown is None else opened(answer, shown, model),
        "ways": _ways(answer),
        "fleet": _fleet(answer),
        "effort": report.effort(answer),
        "notes": {
            "assumed": answer.ledger.assumptions,
            "guessed": answer.ledger.guesses,
            "sources": answer.ledger.sources,
        },
    }
    drawn = [with_addresses(f.to_dict(), _addresses(answer, model)) for f in figures_of(answer)]
    return Shown(report.to_dict(answer), report.flat_rows(answer), drawn, view, _files(answer))


def _addresses(answer: Answer, model: str) -> dict[str, str]:
    """Where a click on a dot leads, by what the dot says."""
    from steelyard.report.figures.plan import candidate_words

    found = {}
    for c in (*([answer.winner] if answer.winner else []), *answer.runners_up, *answer.front, *answer.cost_front):
        if queries := opened(answer, c, model):
            found[candidate_words(c)] = f"/estimate?{queries['estimate']}"
    return found


def _named(c: Candidate) -> dict[str, str]:
    """A candidate in words."""
    from steelyard.report import plan as report

    return {
        "machines": report.machines_text(c) + "*" * report.unmeasured(c),
        "shape": c.shape,
        "how": report.formats(c),
        "limits": report.limits(c),
    }


def _facts(w: Candidate) -> list[dict[str, Any]]:
    """The figures of the strip."""
    spans = w.interval
    per = w.usd_per_million_tokens
    rent = "no price known" if per is None else f"{q(per, 'USD')} per million tokens"
    each = f"{figure(w.tokens_per_s_per_device)} tokens/s a device at most"
    chance = w.chance.get("all")
    found = [
        fact("usd_per_hour", "rent per hour", w.rent_usd_per_hour, "USD", rent),
        fact("ttft_s", "time to first token", w.ttft_s, "s", "at the SLO's percentile", spans.get("ttft_s")),
        fact("tpot_s", "time per token", w.tpot_s, "s", "at the SLO's percentile", spans.get("tpot_s")),
        fact("max_rate_per_s", "holds requests/s", w.max_rate_per_s, "1", each, spans.get("max_rate_per_s")),
        fact("watts", "power", w.watts, "W", "with hosts, mean"),
    ]
    if chance is not None:
        found.append(fact("chance", "chance to hold all", math.floor(1000 * chance) / 10, "%", "by the 80 % intervals"))
    return found


def _times(answer: Answer, c: Candidate) -> list[dict[str, Any]]:
    """Rows of the table of times."""
    from steelyard.report import plan as report

    return [
        {
            "label": label,
            "cells": cells,
            "span": span,
            "targets": [
                {"words": f"{t.label} {q(t.limit_s, 's')}", "good": good, "chance": report.verdict(c, t)}
                for t, good in targets
            ],
        }
        for label, cells, span, targets in report.expected(answer, c, _STATISTICS)
    ]


def _share(said: str) -> float:
    """How far a plan is by what it says it does; how many runs it will take is not known before they are over."""
    runs = said.partition(" runs simulated")
    if runs[1]:
        return 0.3 + 0.55 * int(runs[0]) / (int(runs[0]) + 20)
    return next((share for words, share in _STAGES if words in said), 0.0)


def _change(change: Any) -> dict[str, Any]:
    from steelyard.report import plan as report

    w = change.winner
    words = f"{report.machines_text(w)}, {w.shape}, {report.money(w)}"
    return {"text": change.text, "words": words, "arguments": {n: str(v) for n, v in change.arguments.items()}}


def _ways(answer: Answer) -> dict[str, Any] | None:
    """Devices of one's own against an API."""
    from steelyard.report import ways as report

    if answer.ways is None:
        return None
    return {"heads": report.HEADS, "rows": report.rows(answer.ways), "lines": report.lines(answer.ways)}


def _fleet(answer: Answer) -> list[str]:
    from steelyard.report.fleet import lines

    return [] if answer.fleet is None else lines(answer.fleet)


def _files(answer: Answer) -> dict[str, str]:
    """What launches the winner; none where no files are written for its engine."""
    from steelyard.errors import InputError
    from steelyard.report.plan_files import plan_files

    if answer.winner is None:
        return {}
    try:
        made = plan_files(answer)
    except InputError:
        return {}
    return {name: text for name, text in made.items() if name not in _ELSEWHERE}


SCREEN = Screen(
    name="plan",
    title="Plan",
    says="The cheapest deployment that meets the SLOs, with the files that launch it.",
    ask=ask,
    verb="plan",
    usual="model rate concurrency isl osl trace ttft tpot on objective engine budget max_gpus sure against",
    start=_START,
    long=True,
    examples=(
        (
            "Ten requests a second of an 8B model: how many H100?",
            _START,
        ),
        (
            "A 70B model: which of three GPUs is cheapest?",
            {
                "model": "llama-3.1-70b",
                "on": "h100_sxm,h200_sxm,b200_sxm",
                "rate": "4/s",
                "ttft": "p95:2s",
                "tpot": "p95:40ms",
            },
        ),
        (
            "64 users at once who wait for their answers",
            {"model": "qwen3-32b", "on": "h100_sxm", "concurrency": "64", "tpot": "p95:50ms"},
        ),
        (
            "GPUs of my own, or an API at 0.20 and 0.60 USD per million tokens?",
            {**_START, "against": "0.2/0.6"},
        ),
    ),
    brings=(
        (
            "front",
            "three fronts: speed against yield, rent against latency, rent against certainty",
        ),
        ("table", "every candidate with its times, its rent, and why it is not the winner"),
        ("spread", "times with their percentiles and intervals, and the chance that each SLO holds"),
        ("files", "the command and the files that launch the winner"),
    ),
)
