"""A search of networks with chips: as JSON (``steelyard.search/1``), CSV rows, and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.report import chip as chips
from steelyard.report.paper import bullets, columns, figure, named, render, spread, styled
from steelyard.report.plain import plain

if TYPE_CHECKING:
    from steelyard.exploration.codesign import Codesign, Pair

__all__ = ["assumed", "count", "parts", "report", "rows", "score_name", "summary", "to_dict"]

#: Pairs of the front that a report shows.
_SHOWN = 12


def score_name(found: Codesign) -> str:
    """What the score is called; of several formats with tables of their own: ``score``."""
    names = {s.name for s in found.scores.values()}
    return names.pop() if len(names) == 1 else "score"


def _pair(found: Codesign, pair: Pair) -> dict[str, Any]:
    return {"network": f"{found.networks.prefix}:{pair.architecture}", "score": pair.score, **chips.point(pair.chip)}


def to_dict(found: Codesign) -> dict[str, Any]:
    """The answer in the form ``steelyard.search/1``: SI units, nothing that is not finite."""
    limits = {n: found.words[n] for n in ("area_m2", "power_w", "latency_s") if np.isfinite(found.words[n])}
    scores = {n: {"name": s.name, "meaning": s.title, "proxy": s.proxy} for n, s in found.scores.items()}
    return plain(  # type: ignore[no-any-return]
        {
            "schema": chips.SCHEMA,
            "kind": "codesign",
            "space": found.space.name,
            "networks": found.networks.name,
            "base": found.space.base.name,
            "precisions": list(found.space.formats),
            "fields": list(found.space.fields),
            "workloads": list(found.names),
            "score": scores,
            "batch": found.words["batch"],
            "context": found.words["context"],
            "limits": limits,
            **chips.mixed(found),
            "chips": found.chips,
            "pairs": found.pairs,
            "tried": found.tried,
            "feasible": found.feasible,
            "how": found.how,
            "exact": found.exact,
            "ended": found.ended,
            "front_size": found.front_size,
            "front": [_pair(found, p) for p in found.front],
            "best": {name: _pair(found, p) for name, p in found.best.items()},
            "history": [{"tried": n, "hypervolume_frac": v} for n, v in found.history],
            "assumptions": assumed(found),
            "provenance": dict(found.provenance),
        }
    )


def rows(found: Codesign) -> list[dict[str, Any]]:
    """The front as rows of text and numbers."""
    made = []
    for pair in found.front:
        network = {"network": f"{found.networks.prefix}:{pair.architecture}", "score": pair.score}
        made.append({**network, **chips.row_of(found.space.fields, found.names, pair.chip)})
    return made


def summary(found: Codesign) -> str:
    """One line for a Python prompt."""
    words = f"{found.front_size:,} on the front, {found.how}"
    return f"<Codesign of {found.networks.name} on {found.space.name}: {found.tried:,} pairs tried, {words}>"


def report(found: Codesign, width: int | None = None) -> str:
    """The whole answer as text."""
    return render(parts(found), width)


def assumed(found: Codesign) -> list[str]:
    """What was assumed."""
    proxies = sorted({f"{s.name} is a proxy, {s.title}: it is no accuracy" for s in found.scores.values() if s.proxy})
    alike = len(found.space.formats) > 1 and len({id(s) for s in found.scores.values()}) == 1
    said = ["a network costs the sum of its choices, each mapped once on every chip", *chips.priced(found)]
    said += chips.assumed_of(found)
    return [*proxies, *(["a network scores alike in every number format"] if alike else []), *said]


def count(found: Codesign) -> str:
    """How many pairs there are."""
    return f"{found.pairs:,.0f}" if found.pairs < 1e9 else f"{found.pairs:.2g}"


def parts(found: Codesign) -> list[Any]:
    """The report as renderables."""
    how = "exact, every pair" if found.exact else f"{found.how}, {found.ended}"
    head = [score_name(found), *chips.heads(found)]
    some = spread(found.front, _SHOWN)
    of = f", {len(some)} of {found.front_size:,} shown" if len(some) < found.front_size else ""
    every = [*some, *found.best.values()]
    legend = chips.Legend(found, [p.chip for p in every])
    numbers: dict[str, int] = {}
    for pair in every:
        numbers.setdefault(pair.architecture, len(numbers) + 1)

    def cells(pair: Pair) -> list[str]:
        shown = [figure(pair.score), *chips.cells(found, pair.chip)]
        return [f"{numbers[pair.architecture]}", legend.number(pair.chip), *shown]

    numeric = ["network", "chip", *head]
    asked = f"batch {found.words['batch']:,}, {', '.join(found.space.formats)}"
    return [
        styled((found.networks.title, "bold"), " on chips of ", (found.space.name, "bold")),
        styled(f"{count(found)} pairs, {found.tried:,} tried{chips.kept(found)}; {how}; {asked}"),
        "",
        styled((f"{chips.front_words(found, 'score')}{of}", "bold")),
        columns(numeric, [cells(p) for p in some], numeric=numeric),
        "",
        columns(["best", *numeric], [[name, *cells(p)] for name, p in found.best.items()], numeric=numeric),
        "",
        *named("networks", numbers),
        "",
        *legend.lines(),
        *bullets("assumed", assumed(found)),
    ]
