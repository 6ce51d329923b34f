"""Advise: every published technique tried on a scenario, ranked by what it gains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steelyard.page.screen import Screen, Shown, Tell
from steelyard.page.screens.simulate import SCREEN as SIMULATE

__all__ = ["SCREEN"]

#: Combinations that are shown, and techniques that do not apply.
_SHOWN, _REFUSED = 40, 40


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The ranking of techniques alone and of pairs of the best."""
    from steelyard.report import advise as report
    from steelyard.search.advise import OBJECTIVES, advise_words

    def watch(done: int, of: int) -> None:
        tell(f"{done} of {of} combinations", done / max(of, 1))

    tell("trying techniques", None)
    found = advise_words(words, watch=watch)
    ranked = [t for t in found.ranked if t.gain > 1.005]
    view = {
        "title": "Techniques",
        "words": OBJECTIVES[found.objective].words,
        "ranked": [
            {
                "name": " + ".join(t.names),
                "gain": t.gain if math.isfinite(t.gain) else None,
                "interval": [*t.interval] if t.interval and all(map(math.isfinite, t.interval)) else [],
                "figures": {n: v if math.isfinite(v) else None for n, v in t.figures.items()},
                "costs": "; ".join(t.costs),
            }
            for t in ranked[:_SHOWN]
        ],
        "tried": sum(len(t.names) == 1 for t in found.ranked),
        "pairs": sum(len(t.names) > 1 for t in found.ranked),
        "same": sum(0.995 <= t.gain <= 1.005 and len(t.names) == 1 for t in found.ranked),
        "worse": [f"{t.names[0]} ({t.gain:.2f})" for t in found.ranked if t.gain < 0.995 and len(t.names) == 1],
        "refused": [{"name": t.names[0], "why": t.refused} for t in found.refused[:_REFUSED]],
    }
    return Shown(found.to_dict(), report.rows(found), (), view)


SCREEN = Screen(
    name="advise",
    title="Advise",
    says="Every published technique that applies, tried on your scenario, ranked by what it gains.",
    ask=ask,
    verb="simulate",
    command="advise",
    function="advise",
    usual=SIMULATE.usual,
    start=SIMULATE.start,
    long=True,
    examples=SIMULATE.examples[:2],
    brings=(
        ("table", "techniques and pairs of them by what they gain, with the interval and what they cost"),
        ("lines", "those that change nothing, make it worse or do not apply, and why"),
    ),
    minutes=True,
)
