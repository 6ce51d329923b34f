"""A whole training run as text: days, money, energy, what failures take, the chance to keep a deadline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steelyard.deployment.failures import DAY_S
from steelyard.report.paper import Line, grid, lines_table, styled
from steelyard.scenario.run_limits import limits_of
from steelyard.training.columns import chances
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.training.estimate import TrainEstimate
    from steelyard.training.run import Run

__all__ = ["HEADS", "count", "lines", "parts", "rows"]

#: Shares of time beside the effective one, in words.
_SHARES: Mapping[str, str] = {
    "lost": "steps done again",
    "down": "noticing failures and starting again",
    "saving": "saving checkpoints",
    "waiting": "waiting for nodes",
    "silent": "steps done again for wrong numbers",
}


def parts(found: TrainEstimate) -> list[Any]:
    """The run as renderables; none where no length was given."""
    run = found.run
    if run is None:
        return []
    table = grid("left", "right", "right", "right")
    table.add_row(*(styled((x, "bold")) for x in HEADS))
    for row in rows(run):
        table.add_row(*row)
    return ["", table, "", lines_table(list(lines(found, run)))]


#: Heads of :func:`rows`.
HEADS = ("run", "10 %", "50 %", "90 % end by")


def rows(run: Run) -> list[list[str]]:
    """Days, money, energy and carbon by which ten, fifty and ninety percent of runs end."""
    sums: list[tuple[str, Mapping[str, float] | None, float]] = [
        ("days", run.days, 1.0),
        ("USD", run.usd, 1.0),
        ("MWh", run.kwh, 1e-3),
        ("t CO2", run.kgco2, 1e-3),
    ]
    return [
        [name, *(_figure(values[p] * factor) for p in ("p10", "p50", "p90"))]
        for name, values, factor in sums
        if values is not None
    ]


def lines(found: TrainEstimate, run: Run) -> Any:
    """What the run is made of, and its chances."""
    shares = {words: float(getattr(run.shares, f"{name}_frac")) for name, words in _SHARES.items()}
    lost = ", ".join(f"{share:.1%} {words}" for words, share in shares.items() if share >= 0.0005)
    name = "tokens" if found.scenario.plan.seq > 1 else "items"
    yield Line(name, f"{count(run.tokens)} in {run.steps:,.0f} steps, {run.ideal_days:,.1f} days without failures")
    yield Line("effective", f"{run.ettr_frac:.1%} of the time{f'; {lost}' if lost else ''}")
    mtbf = float(run.shares.mtbf_s)
    if math.isfinite(mtbf):
        yield Line("failures", f"{run.interruptions:,.0f} interruptions, one every {q(mtbf, 's')} of running")
    if math.isfinite(run.checkpoint_interval_s):
        size, rate = q(run.checkpoint_bytes, "B"), q(run.storage_bytes_per_s, "B/s")
        yield Line("checkpoints", f"{size} every {q(run.checkpoint_interval_s, 's')}: {rate} to storage on average")
    kept, limits = chances(found), limits_of(found.scenario.words)
    if "chance_by" in kept:
        yield Line("deadline", f"{kept['chance_by']:.0%} of runs end within {(limits.by_s or 0) / DAY_S:,.1f} days")
    if "chance_within_budget" in kept:
        share = kept["chance_within_budget"]
        words = "no price is known to" if share is None else f"{share:.0%} of runs"
        yield Line("budget", f"{words} cost at most {_figure(limits.budget_usd or 0)} USD")


def count(value: float) -> str:
    """``15.6T``, ``300B``, ``4M``: tokens in words of ten to the power of three."""
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.4g}{letter}"
    return f"{value:,.0f}"


def _figure(value: float) -> str:
    for factor, word in ((1e9, "billion"), (1e6, "million")):
        if value >= 10 * factor:
            return f"{value / factor:,.1f} {word}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
