"""The largest rate at which a deployment holds its SLOs: the same requests sent faster and slower.

A rate is held when every request is answered, every SLO is met and the queue does not grow: with a limit of ten seconds
and a thousand requests an engine may keep its promise for as long as the test lasts and still fall behind.

Rates are tried in geometric steps until one is held and one is not, then halfway between the two (of the logarithm)
until they differ by :data:`RESOLUTION`. Lengths, order and relative gaps of the requests stay, so that a rate is all
that changes between two runs, and the answer is the same every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.interval import interval80
from steelyard.errors import InputError
from steelyard.scenario.slo import Target, may_miss
from steelyard.simulation.limits import verdicts
from steelyard.simulation.request_arrays import UNFINISHED
from steelyard.traffic.trace import Floats, Trace

if TYPE_CHECKING:
    from steelyard.simulation.result import Simulation

__all__ = ["GROWTH", "Capacity", "at_rate", "check_traffic", "find_capacity", "growth", "more_requests", "next_rate"]

#: How closely the largest rate is found, as a share; of those at the ends of its interval.
RESOLUTION, ROUGH = 0.01, 0.03
#: Rates tried at most for one of them.
MOST_RATES = 24
#: Growth of the wait for the first token from the first to the last quarter of the requests, as a share of the time in
#: which they arrive, above which the queue grows without end: at 1.07 times the rate that is served, the wait grows by
#: 0.75 (1 - 1 / 1.07) = 0.05 of that time.
GROWTH = 0.05
#: Requests arrive for at least so many times as long as one of them takes: until then the engine fills up. Where no
#: number was asked for, up to so many are sent.
FILLED, MOST_REQUESTS = 4.0, 20_000
#: Fewer requests show no queue. Latest arrival that is tried, s.
LEAST_REQUESTS, LATEST_S = 20, 1e9
#: What the kernel can be told to give a run up for.
_PROMISES = ("ttft_s", "tpot_s", "e2e_s")

#: A run of the traffic at so many times its rate, with every step so many times as long; given up when more requests
#: miss a limit (s) than may: ``play(times, slower, promises)``.
Play = Callable[[float, float, Mapping[str, tuple[float, int]]], "Simulation"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The largest rate at which every SLO holds."""

    rps: float
    """In the unit of ``--rate``: requests, conversations or workflows per second; 0 where no rate holds."""
    interval_rps: tuple[float, float]
    """80 % interval: the same with every step at the ends of its own."""
    unit: str
    """``requests``, ``conversations`` or ``workflows``."""
    missed: str
    """What the next higher rate misses: ``TTFT p99``, ``queue`` (it grows) or ``completion``; empty where none does."""
    runs: int
    """Simulations made."""

    def to_dict(self) -> dict[str, Any]:
        """Its part of the JSON."""
        return {
            "interval_rps": list(self.interval_rps),
            "unit": self.unit,
            "first_missed": self.missed or None,
            "runs": self.runs,
        }


def more_requests(run: Simulation) -> int:
    """How many requests would arrive for long enough at the rate of a run; 0 where those that do suffice."""
    took = np.asarray(run.records.finished_at) - np.asarray(run.trace.arrived_at)
    if run.trace.sessions_are == "conversation" or not np.isfinite(took).any():
        return 0
    short = FILLED * float(np.nanmean(took)) / max(run.trace.duration_s, 1e-9)
    needed = min(MOST_REQUESTS, math.ceil(len(run.trace) * short))
    return needed if needed > 1.2 * len(run.trace) else 0


def growth(wait_s: Floats, trace: Trace) -> float:
    """How much longer the last quarter of the requests wait than the first, as a share of the time they arrive in."""
    quarter = len(wait_s) // 4
    if not quarter or trace.duration_s <= 0:
        return 0.0
    return float(wait_s[-quarter:].mean() - wait_s[:quarter].mean()) / trace.duration_s


def check_traffic(trace: Trace, targets: Sequence[Target]) -> None:
    """Refuse a load without a rate, and a question without an SLO. Raises :class:`InputError`."""
    if not targets:
        raise InputError("say what must hold at it: --ttft p99:1s, --tpot p99:50ms, --itl p99:100ms", field="capacity")
    if trace.concurrency:
        words = "a rate is looked for, and clients who wait for answers have none: --rate instead of --concurrency"
        raise InputError(words, field="capacity")
    if len(trace) < LEAST_REQUESTS:
        raise InputError(
            f"at least {LEAST_REQUESTS} requests show what a rate does, got {len(trace)}", field="requests"
        )
    if not trace.duration_s > 0:
        words = "a rate is looked for, and these requests come all at once: give --rate 1/s, and more than one request"
        raise InputError(words, field="capacity")


def find_capacity(play: Play, trace: Trace, targets: Sequence[Target], rate: float) -> tuple[Capacity, Simulation]:
    """The largest rate that holds every SLO, and the run at it.

    Args:
        play: runs the traffic.
        trace: what is sent, with a rate of its own.
        targets: the SLOs.
        rate: of the trace, in the unit of the answer.

    Returns:
        The capacity, and the simulation at it; where no rate holds, at the lowest that was tried.

    Raises:
        InputError: no SLO, or no rate to change.
    """
    check_traffic(trace, targets)
    promises = _promises(targets, trace)
    made = 0

    def missed(slower: float, times: float) -> str:
        nonlocal made
        made += 1
        return _missed(play(times, slower, promises), targets)

    first = play(1.0, 1.0, {})
    if not np.any(first.records.completed):
        return Capacity(0.0, (0.0, 0.0), _unit(trace), "completion", 1), first
    # what it serves when all of them are there at once is the rate it cannot pass for long
    all_at_once = play(1e9, 1.0, {}) if _missed(first, targets) == "" else first
    served = float(np.sum(all_at_once.records.completed)) / max(all_at_once.makespan_s, 1e-9)
    guess = min(max(0.8 * served / trace.rate_per_s, 1e-6), 1e6)
    best, least, above = _largest(partial(missed, 1.0), guess, RESOLUTION, trace.duration_s / LATEST_S)
    found = play(best or least, 1.0, {})
    what = _missed(play(above, 1.0, {}), targets) if above else ""  # to the end: what it was given up for may be more
    ends = [best, best]
    for k, factor in enumerate(interval80(1.0, found.spread, at_least=found.limit_frac)):
        if best and found.spread > 0:
            ends[k] = _largest(
                partial(missed, float(factor)), best / float(factor), ROUGH, trace.duration_s / LATEST_S
            )[0]
    span = min(*ends, best) * rate, max(*ends, best) * rate
    return Capacity(best * rate, span, _unit(trace), what, made + 4), found


def _unit(trace: Trace) -> str:
    return trace.sessions_are + "s" if trace.sessions_are else "requests"


def _promises(targets: Sequence[Target], trace: Trace) -> dict[str, tuple[float, int]]:
    """The limit of each SLO the kernel knows and how many requests may miss it."""
    found = {}
    for target in targets:
        number = int((trace.osl > 1).sum()) if target.metric == "tpot_s" else len(trace)
        if target.metric in _PROMISES and number and not math.isnan(target.percentile):
            found[target.metric] = may_miss(target, number)
    return found


def _missed(run: Simulation, targets: Sequence[Target]) -> str:
    """What a run misses first; empty when it holds everything."""
    worst, name = 1.0, ""
    for verdict in verdicts(run, targets):
        ratio = verdict.value_s / verdict.target.limit_s
        if ratio > worst:
            worst, name = ratio, verdict.name
    done = np.asarray(run.records.completed)
    if name or run.stopped or not done.any():
        return name or ("completion" if not done.any() else "queue")
    if np.any(run.records.status == UNFINISHED):
        return "completion"
    waits = np.asarray(run.records.ttft_s)[done]
    return "queue" if growth(waits, run.trace) > GROWTH else ""


def _largest(
    missed: Callable[[float], str], guess: float, resolution: float, floor: float
) -> tuple[float, float, float]:
    """``(largest factor that holds, lowest tried, lowest that does not hold)``; 0 where there is none."""
    low, high, step, times = 0.0, math.inf, 1.15, guess
    lowest = guess
    for _ in range(MOST_RATES):
        lowest = min(lowest, times)
        if missed(times):
            high = times
        else:
            low = times
        if high <= low * (1 + resolution):
            break
        times, step = next_rate(low, high, step)
        if times < max(1e-4 * guess, floor) or times > 1e9 * guess:
            break  # requests that stand alone, or no limit
    return low, lowest, 0.0 if math.isinf(high) else high


def next_rate(low: float, high: float, step: float) -> tuple[float, float]:
    """The rate to try between one that holds and one that does not, and the step after it.

    Args:
        low: the largest that holds; 0 = none yet.
        high: the smallest that does not; infinity = none yet.
        step: how far to go, as a ratio, while one of them is missing.
    """
    if math.isinf(high):
        return low * step, step**1.5
    if low == 0.0:
        return high / step, step**1.7
    return math.sqrt(low * high), step


def at_rate(trace: Trace, times: float, rate: float) -> Trace:
    """The trace at so many times its rate, told as one that was asked for at that."""
    origin = dict(trace.origin)
    if "rate" in origin:
        origin = {k: v for k, v in origin.items() if k != "peak"} | {"rate": f"{times * rate:.6g}/s"}
    name = trace.name
    if (said := str(trace.origin.get("rate", ""))) and said in name:
        name = name.replace(said, f"{times * rate:.4g}/s", 1)
    return replace(trace.scaled(times), notes=trace.notes, name=name, origin=origin)
