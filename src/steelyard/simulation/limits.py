"""What held a simulation back, whether it met its SLOs, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.scenario.slo import Target, Verdict, judge
from steelyard.simulation.metrics import describe_histogram, ends, first_token_interval

if TYPE_CHECKING:
    from steelyard.simulation.result import PoolOutcome, Simulation

__all__ = ["CHEAP_STEPS", "Ends", "bottleneck", "ends_of", "judged", "limits", "per_replica", "sure", "verdicts"]

Ends = tuple["Simulation", "Simulation"]

#: A cache or a step this full binds.
FULL = 0.97
#: Share of the makespan with requests waiting from which the engine, and not the load, is the limit.
WAITED = 0.2
#: Steps up to which intervals are given unasked: two more runs of so many take about a second.
CHEAP_STEPS = 2_000_000


def ends_of(simulation: Simulation, asked: bool | None = None) -> Ends | None:
    """The two more runs that 80 % intervals need; ``asked=None``: only when they are cheap."""
    if simulation.replay is None or asked is False:
        return None
    if asked is None and simulation.totals["iterations"] > CHEAP_STEPS:
        return None
    return ends(simulation)


def verdicts(simulation: Simulation, targets: Sequence[Target]) -> list[Verdict]:
    """Each SLO beside what the completed requests saw."""
    records, done = simulation.records, np.asarray(simulation.records.completed)
    asked = {t.metric for t in targets} - {"itl_s"}
    values = {m: np.asarray(getattr(records, m), dtype=np.float64)[done] for m in asked}
    return [
        Verdict(t, gap_at(simulation, t.percentile)) if t.metric == "itl_s" else judge([t], values)[0] for t in targets
    ]


def gap_at(simulation: Simulation, percentile: float) -> float:
    """A percentile of the times between tokens of all requests together, NaN = their mean, s; NaN where there are none.

    Inside a bin of the histogram as if spread evenly.
    """
    found = describe_histogram(
        simulation.itl_edges_s, simulation.itl_counts, simulation.totals["itl_sum_s"], (percentile,)
    )
    value = found["mean" if math.isnan(percentile) else f"p{percentile:g}"]
    return math.nan if value is None else value


def judged(
    simulation: Simulation, targets: Sequence[Target], ends: Ends | None
) -> Iterator[tuple[Verdict, tuple[float, float] | None]]:
    """Each verdict and the 80 % interval of its value."""
    others = [] if ends is None else [verdicts(run, targets) for run in ends]
    for i, v in enumerate(verdicts(simulation, targets)):
        values = [v.value_s, *(found[i].value_s for found in others)]
        if not others or not np.isfinite(values).all():
            yield v, None
            continue
        low, high = min(values), max(values)
        if v.target.metric == "ttft_s" and low > 0.0:
            low, high = first_token_interval(v.value_s, low, high, simulation.limit_frac)
        yield v, (float(low), float(high))


def sure(verdict: Verdict, between: tuple[float, float] | None) -> bool | None:
    """Whether the verdict is the same all over the interval; None without one."""
    if between is None:
        return None
    return (between[1] <= verdict.target.limit_s) if verdict.met else (between[0] > verdict.target.limit_s)


def limits(simulation: Simulation) -> dict[str, float]:
    """What the engines were short of, as shares of the makespan (mean over replicas), largest first.

    Every logged step with requests waiting counts for what kept them out: ``kv`` (no room for a mean prompt),
    ``max_num_seqs`` (as many requests as allowed), ``compute`` (the step was at its token budget), else
    ``scheduling``. Steps with nobody waiting are ``serving``, time without a step is ``idle``.
    """
    it = simulation.iterations
    length = np.asarray(it.duration_s, dtype=np.float64)
    if not length.size:
        return {}
    at = np.asarray(it.replica)
    blocks, page, most_seqs, most_tokens = (
        per_replica(simulation, value)[at]
        for value in (
            lambda p: p.kv.blocks,
            lambda p: p.kv.block_tokens,
            lambda p: p.config.max_num_seqs,
            lambda p: p.config.max_num_batched_tokens,
        )
    )
    waiting = np.asarray(it.waiting) > 0
    prompt_blocks = float(simulation.trace.isl.mean()) / page
    full = blocks - np.asarray(it.kv_blocks) <= np.maximum((1 - FULL) * blocks, np.minimum(prompt_blocks, blocks / 2))
    seats = np.asarray(it.running) >= most_seqs
    tokens = np.asarray(it.prefill_tokens) + np.asarray(it.decode_tokens)
    budget = tokens >= FULL * most_tokens
    kinds = np.select([~waiting, full, seats, budget], [0, 1, 2, 3], 4)
    sums = np.bincount(kinds, weights=length, minlength=5)
    busy = 1.0 - float(simulation.totals["idle_frac"])
    shares = sums / sums.sum() * busy
    names = ("serving", "kv", "max_num_seqs", "compute", "scheduling")
    found = {name: float(share) for name, share in zip(names, shares, strict=True)} | {"idle": 1.0 - busy}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def per_replica(simulation: Simulation, value: Callable[[PoolOutcome], float]) -> NDArray[Any]:
    """``[replicas]``: a figure of each replica's pool, in the order they are numbered."""
    pools = simulation.pools
    return np.repeat(np.array([value(p) for p in pools]), [p.ranks for p in pools])


def bottleneck(shares: dict[str, float]) -> str:
    """What kept requests waiting longest, a key of :func:`limits`; ``arrivals`` when mostly nobody waited."""
    if not shares:
        return "arrivals"
    waited = {name: share for name, share in shares.items() if name not in ("serving", "idle")}
    name = max(waited, key=lambda k: waited[k])
    return name if sum(waited.values()) >= WAITED else "arrivals"
