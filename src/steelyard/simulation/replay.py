"""A measured benchmark beside the simulation of the same load, and where the two part.

The log of a benchmark client gives lengths, arrivals and measured times. The same requests go through the simulator,
and request by request the difference of the end-to-end times is taken apart: waiting in the queue, the first token
itself, the steps of decoding, and what slows a few answers only (preemptions for want of KV cache).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard._display import Result
from steelyard.errors import InputError
from steelyard.simulation.metrics import describe
from steelyard.traffic.arrivals import MAX_REQUESTS
from steelyard.traffic.offline import ONE_BATCH
from steelyard.traffic.readers import READERS, Recorded, find_file, read_recorded
from steelyard.traffic.trace import Floats, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from steelyard.simulation.result import Simulation
    from steelyard.traffic.lengths import Lengths

__all__ = [
    "METRICS",
    "Figure",
    "Log",
    "Replay",
    "figures",
    "is_log",
    "parting",
    "parts",
    "read_log",
    "replay",
    "said_by",
]

#: Times compared, in order.
METRICS = ("ttft_s", "tpot_s", "e2e_s")
#: Rates compared, in order.
RATES = ("requests_per_s", "input_tokens_per_s", "output_tokens_per_s")
#: Errors up to this count as agreement.
AGREE_FRAC = 0.05
#: A load is a closed loop when, from the first arrival to the last, this share of the most requests ever in flight is
#: in flight on average. A queue that grows or an open loop stays far below.
_FULL = 0.95
#: Requests that are all sent at once are in flight together for at least this share of the run.
_FEW = 0.25
#: A request whose wait is below this share of its time to first token did not queue.
_UNQUEUED = 0.1
#: Queueing and decoding that differ in opposite ways, the smaller at least this share of the larger, have one cause.
_TRADED = 0.25
#: Percentile of TTFT that a queue has hardly touched.
_FLOOR = 5
#: An answer whose decoding is slowed beyond this factor of the usual one was held up by something else than its steps.
_HELD_UP = 1.5


@dataclass(frozen=True, eq=False)
class Log:
    """A measured benchmark, its requests in order of arrival.

    Args:
        recorded: lengths and measured times.
        trace: the same requests, as they are sent to the simulator.
        load: how they are sent, in words.
        duration_s: from the first arrival to the last token; None = the log does not say.
    """

    recorded: Recorded
    trace: Trace
    load: str
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: measured, simulated, and the simulation's 80 % interval. None = not known.

    ``metric`` is ``ttft_s``, ``tpot_s``, ``e2e_s`` (``statistic``: mean, p50, ...) or ``throughput`` (a rate).
    """

    metric: str
    statistic: str
    measured: float | None
    simulated: float | None
    low: float | None = None
    high: float | None = None

    @property
    def error_frac(self) -> float | None:
        """``simulated / measured - 1``."""
        if self.measured is None or self.simulated is None or not self.measured > 0:
            return None
        return self.simulated / self.measured - 1.0

    @property
    def inside(self) -> bool | None:
        """Whether the measurement lies in the interval (to a billionth)."""
        if self.measured is None or self.low is None or self.high is None:
            return None
        return self.low * (1 - 1e-9) <= self.measured <= self.high * (1 + 1e-9)


@dataclass(frozen=True, eq=False, repr=False)
class Replay(Result):
    """A measured run beside its simulation."""

    log: Log
    simulation: Simulation
    figures: tuple[Figure, ...]
    parts_s: Mapping[str, float]
    """Measured less simulated end-to-end time per request, taken apart: see :func:`parts`."""
    where: str
    """``agree``, ``queueing``, ``first_token``, ``step_time``, ``preemption`` or ``unknown``."""
    words: str


def is_log(source: str) -> bool:
    """Whether a file looks like the log of a benchmark. Never raises."""
    from steelyard.traffic.readers import _head

    try:
        head = _head(find_file(source)[0])
    except InputError:
        return False
    return any(READERS.get(n).recognises(head) for n in _LOGS)


def read_log(
    source: str,
    *,
    rate: str = "",
    concurrency: int | None = None,
    seed: int = 0,
    lengths: Mapping[str, Lengths] | None = None,
) -> Log:
    """The log of a benchmark and its load.

    Args:
        source: file of a benchmark's client (:data:`_LOGS`), or records with measured times; ``FILE#2`` is a second
            benchmark in it.
        rate, concurrency: how the requests were sent, where the log does not say or is not to be believed.
        seed: of arrivals and lengths that are drawn.
        lengths: ``isl``, ``osl``, of a log that does not hold them.

    Raises:
        InputError: no such file, no measured times or rate, or nothing says how the requests were sent.
    """
    found = read_recorded(source, lengths=lengths, seed=seed)
    if all(getattr(found, m) is None for m in METRICS) and not found.summary and not found.said.get("duration"):
        words = f"{found.name} has no measured times (TTFT, TPOT or end to end) to compare with"
        raise InputError(f"{words}; `steelyard simulate --trace` plays it", field="run")
    if rate and concurrency is not None:
        raise InputError("choose one of --rate and --concurrency", field="concurrency")
    if concurrency is not None and concurrency < 1:
        raise InputError(f"expected at least 1, got {concurrency}", field="concurrency")
    if ONE_BATCH in found.said:
        found = _batch(found, concurrency)
    if found.arrived_at is not None:
        found = found.rows(np.argsort(found.arrived_at, kind="stable"))
    trace, load = _load(found, rate, concurrency, seed, found.said.get("request_rate"))
    return Log(found, trace, load, _duration(found, found.said.get("duration")))


def _batch(found: Recorded, size: int | None) -> Recorded:
    """The requests of one batch, all of them. Raises :class:`InputError` where nothing says how many."""
    n = size or found.said[ONE_BATCH]
    if not n:
        words = f"{found.name} does not say how many requests its batch had; give --batch"
        raise InputError(words, field="concurrency")
    if n > MAX_REQUESTS:
        raise InputError(f"expected at most {MAX_REQUESTS:,}, got {n:,}", field="concurrency")
    return replace(found.rows(np.zeros(n, dtype=np.int64)), notes=(f"one batch of {n:,}",))


#: Readers of logs of benchmarks; of these, those whose concurrency is the number of clients and no upper limit.
_LOGS = ("vllm", "bench_text", "genai_perf", "raw_profile", "aiperf", "guidellm", "llmperf", "offline", "steelyard")
_CLIENTS = ("raw_profile", "llmperf")
#: Clients that send everything at once unless they are told a rate (``--request-rate inf`` is their default).
_ALL_AT_ONCE = ("vllm", "bench_text")
#: Engines by how the names that logs give a backend begin.
_BACKENDS = (("sglang", "sglang"), ("vllm", "vllm"), ("tensorrt", "trtllm"), ("trt", "trtllm"))


def said_by(log: Log, words: Mapping[str, Any]) -> tuple[Log, dict[str, Any]]:
    """The question completed by what the log says of itself: its model, and its engine where none was named.

    Returns:
        the log, whose ``load`` names what was taken from it, and the completed words.
    """
    found, taken = dict(words), []
    model, backend = log.recorded.said.get("model"), str(log.recorded.said.get("engine") or "").lower()
    if not found.get("model") and isinstance(model, str) and model:
        found["model"] = model
        taken.append(f"model {model}")
    engine = next((name for begins, name in _BACKENDS if backend.startswith(begins)), "")
    if not found.get("engine") and engine:
        found["engine"] = engine
        taken.append(f"engine {engine}")
    if not taken:
        return log, found
    return replace(log, load=f"{log.load}; {' and '.join(taken)} from the log"), found


def _load(log: Recorded, rate: str, concurrency: int | None, seed: int, logged: Any) -> tuple[Trace, str]:
    n = len(log)
    at_once = np.zeros(n)
    if rate.strip().lower() == "inf" or (ONE_BATCH in log.said and not rate):
        return log.sent_at(at_once), "all at once"
    if rate:
        return _paced(log, rate, seed)
    limit = concurrency or (log.concurrency if log.reader in _CLIENTS else 0) or _in_flight(log)
    if limit:
        given = "" if concurrency else ", as the log shows"
        return log.sent_at(at_once).closed_loop(limit), f"closed loop of {limit:,} requests in flight{given}"
    if log.arrived_at is not None:
        return log.trace(), "the arrivals of the log"
    if log.concurrency:
        return log.sent_at(at_once).closed_loop(log.concurrency), f"closed loop of {log.concurrency:,}, as the log says"
    with suppress(TypeError, ValueError):  # printed, or in JSON
        logged = float(logged)
    if logged == float("inf"):
        return log.sent_at(at_once), "all at once, as the log says"
    if isinstance(logged, int | float) and logged > 0:
        trace, words = _paced(log, f"{logged}/s", seed)
        return trace, f"{words}: the log has a rate and no arrivals"
    if log.reader == "genai_perf" and (most := _mean_in_flight(log)):
        limit = max(1, round(most))
        return log.sent_at(at_once).closed_loop(limit), f"closed loop of {limit:,}: so many were in flight on average"
    if log.reader in _ALL_AT_ONCE:
        held, most = n / (_duration(log, log.said.get("duration")) or np.inf), _mean_in_flight(log)
        if most is not None and most < _FEW * n:
            trace, words = _paced(log, f"{held}/s", seed)
            return trace, f"{words}: the log names no rate, and {most:.2g} requests were in flight on average"
        return log.sent_at(at_once), "all at once, as these clients send where the log names no rate"
    return log.trace(), ""  # raises: says what to give


def _mean_in_flight(log: Recorded) -> float | None:
    """Requests in flight on average, ``n mean(e2e) / duration``; None where the log does not say."""
    duration = _duration(log, log.said.get("duration"))

    def mean(name: str) -> float:
        values = getattr(log, name)
        return float(np.nanmean(values)) if values is not None else log.summary.get(name, {}).get("mean", np.nan)

    e2e = mean("e2e_s")
    e2e = e2e if np.isfinite(e2e) else mean("ttft_s") + mean("tpot_s") * float(np.mean(log.osl) - 1)
    return len(log) * e2e / duration if duration and np.isfinite(e2e) else None


def _paced(log: Recorded, rate: str, seed: int) -> tuple[Trace, str]:
    """The requests at a rate: the arrivals of the log, or drawn ones, stretched to end after exactly ``n / rate``.

    Clients stretch what they draw in the same way (vLLM's since 2025).
    """
    from steelyard.traffic.arrivals import parse_arrivals, parse_rate

    n, per_s = len(log), parse_rate(rate)
    arrivals = parse_arrivals("", per_s, None)
    at, words = arrivals.draw(n, np.random.default_rng(seed)), f"{arrivals}, drawn"
    if log.arrived_at is not None and np.ptp(log.arrived_at) > 0:
        at, words = log.arrived_at - log.arrived_at.min(), f"the arrivals of the log stretched to {per_s:g}/s"
    return log.sent_at(at * (n / per_s / float(at[-1])) if at[-1] > 0 else at), words


def _in_flight(log: Recorded) -> int:
    """Requests always in flight when the load was a closed loop, else 0."""
    at, e2e = log.arrived_at, log.e2e_s
    if at is None or e2e is None or not np.isfinite(e2e).all():
        return 0
    span = float(at[-1] - at[0])
    edges = np.concatenate([at + e2e, at])
    change = np.repeat([-1, 1], len(at))
    order = np.lexsort((change, edges))  # one that ends makes room for one that begins at the same time
    most = int(np.cumsum(change[order]).max())
    if span <= 0 or len(at) <= most:
        return 0
    mean = float(np.sum(np.minimum(at + e2e, at[-1]) - at)) / span
    most = min(most, log.concurrency) if log.concurrency else most
    return most if mean >= _FULL * most else 0


def _duration(log: Recorded, logged: Any) -> float | None:
    if log.arrived_at is not None and log.e2e_s is not None and np.isfinite(log.e2e_s).any():
        return float(np.nanmax(log.arrived_at + log.e2e_s) - log.arrived_at.min())
    return float(logged) if isinstance(logged, int | float) and logged > 0 else None


def replay(log: Log, run: Callable[[Trace], Simulation]) -> Replay:
    """Send a log's load through the simulator and set the two side by side.

    Args:
        log: what was measured.
        run: sends a trace through the engine in question.
    """
    simulation = run(log.trace)
    found = figures(log, simulation)
    pieces = parts(log.recorded, simulation)
    where, words = parting(found, pieces, log, simulation)
    return Replay(log, simulation, found, pieces, where, words)


def figures(log: Log, simulation: Simulation) -> tuple[Figure, ...]:
    """Mean and percentiles of each time, and rates; measured over all requests of the log, simulated over completed."""
    summary, ends = simulation.summary(), simulation.intervals()
    found = []
    for metric in METRICS:
        values = getattr(log.recorded, metric)
        measured = describe([] if values is None else values)
        told = {} if values is not None else log.recorded.summary.get(metric, {})
        for name, each in measured.items():
            value = told.get(name, each)
            found.append(Figure(metric, name, value, summary[metric][name], *ends[metric].get(name, (None, None))))
    r, span = log.recorded, log.duration_s
    counts = (len(r), int(np.sum(r.isl)), int(np.sum(r.osl)))
    for name, count in zip(RATES, counts, strict=True):
        rate = count / span if span else None
        found.append(
            Figure("throughput", name, rate, summary["throughput"][name], *ends["throughput"].get(name, (None, None)))
        )
    return tuple(found)


def parts(log: Recorded, simulation: Simulation) -> dict[str, float]:
    """The mean difference of the end-to-end times, measured less simulated, per request and in s.

    ``first_token``: ``(r - 1) * mean(simulated TTFT without the wait)``, ``r`` the ratio of the measured to the
    simulated 5th percentile of TTFT, over the requests that did not wait in the simulation (more of them may have
    waited in truth, hence the low percentile). ``queueing``: the rest of the TTFT. Where the log has measured waits,
    these decide. ``preemption``: what answers held up (1.5 times slower per token than the usual ratio, or preempted)
    differ beyond the usual ratio, the median. ``step_time``: the rest of decoding.

    Returns:
        only the parts that can be told; they add up to the difference of the requests that have both times.
    """
    sim = simulation.records
    done = np.asarray(sim.completed)
    found: dict[str, float] = {}
    if log.ttft_s is not None:
        both = done & np.isfinite(log.ttft_s) & np.isfinite(sim.ttft_s)
        if both.any():
            found |= _first(log, simulation, both)
    if log.tpot_s is not None:
        both = done & np.isfinite(log.tpot_s) & np.isfinite(sim.tpot_s) & (sim.tpot_s > 0)
        if both.any():
            found |= _decode(log.tpot_s[both], sim.tpot_s[both], sim.osl[both] - 1, sim.preemptions[both] > 0, len(log))
    return found


def _first(log: Recorded, simulation: Simulation, both: Any) -> dict[str, float]:
    sim = simulation.records
    assert log.ttft_s is not None
    measured, simulated = log.ttft_s[both], np.asarray(sim.ttft_s[both])
    queued = np.nan_to_num(sim.queued_s[both])
    total = float(np.mean(measured - simulated))
    if log.queued_s is not None and np.isfinite(log.queued_s[both]).all():
        wait = float(np.mean(log.queued_s[both] - queued))
        return {"queueing": wait, "first_token": total - wait}
    alone = queued < _UNQUEUED * simulated
    if not alone.any():
        return {"queueing": total, "first_token": 0.0}
    floor = [float(np.percentile(x[alone], _FLOOR)) for x in (measured, simulated)]
    ratio = floor[0] / max(floor[1], 1e-12)
    first = (ratio - 1.0) * float(np.mean(simulated - queued))
    return {"queueing": total - first, "first_token": first}


def _decode(measured: Floats, simulated: Floats, gaps: Any, preempted: Any, n: int) -> dict[str, float]:
    ratio = measured / simulated
    usual = float(np.median(ratio[~preempted] if not preempted.all() else ratio))
    base = np.median(simulated)
    held = preempted | (ratio > _HELD_UP * usual) | ((ratio < usual / _HELD_UP) & (simulated > _HELD_UP * base))
    difference = (measured - simulated) * gaps
    beyond = float(np.sum(np.where(held, (measured - usual * simulated) * gaps, 0.0))) / n
    return {"step_time": float(np.sum(difference)) / n - beyond, "preemption": beyond}


_WORDS = {
    "queueing": "waiting in the queue",
    "first_token": "the first token itself (prefill and request overhead, not the wait)",
    "step_time": "the time of a decoding step",
    "preemption": "answers held up on the way, as preemptions for want of KV cache do",
}


def parting(
    found: tuple[Figure, ...], pieces: Mapping[str, float], log: Log, simulation: Simulation
) -> tuple[str, str]:
    """Where measurement and simulation part: a key and one or two sentences with the numbers."""
    known = {(f.metric, f.statistic): f for f in found if f.error_frac is not None}
    means = [f for f in known.values() if f.statistic in ("mean", "p50", "p90", "p95")] or list(known.values())
    if not means:
        return "unknown", "Nothing is both measured and simulated."
    worst = max(means, key=lambda f: abs(f.error_frac or 0.0))
    named = f"{_title(worst)} {worst.error_frac:+,.1%}"
    left = len(simulation.records) - int(np.sum(simulation.records.completed))
    lost = f" {left:,} requests of the log were not completed in the simulation." if left else ""
    if abs(worst.error_frac or 0.0) <= AGREE_FRAC:
        return "agree", f"They agree within {AGREE_FRAC:.0%} up to p95; the largest error is that of {named}.{lost}"
    if not pieces:
        return "unknown", f"They differ most in {named}; the log has no times that say where.{lost}"
    where = _largest(pieces, known, log)
    gap = pieces[where]
    e2e = known.get(("e2e_s", "mean"))
    of = abs(gap) / e2e.measured if e2e and e2e.measured else 0.0
    share = f" ({of:.0%} of the measured end-to-end time)" if 0 < of <= 1 else ""
    text = (
        f"They part in {_WORDS[where]}: {_seconds(abs(gap))} per request {'more' if gap > 0 else 'less'} measured than "
        f"simulated{share}; the largest error is that of {named}."
    )
    return where, f"{text}{_because(where, gap, pieces, known, simulation)}{lost}"


def _largest(pieces: Mapping[str, float], known: Mapping[tuple[str, str], Figure], log: Log) -> str:
    """The largest part; of those before the first token when only that differs enough to matter."""
    whole = known.get(("e2e_s", "mean"))
    where = max(pieces, key=lambda k: abs(pieces[k]))
    if where == "step_time" and _traded(pieces):
        return "queueing"
    small = whole is not None and whole.measured and abs(pieces[where]) <= AGREE_FRAC * whole.measured
    ttft = known.get(("ttft_s", "mean"))
    first = {k: v for k, v in pieces.items() if k in ("queueing", "first_token")}
    if small and first and ttft is not None and abs(ttft.error_frac or 0.0) > AGREE_FRAC:
        return max(first, key=lambda k: abs(first[k]))
    return where


def _traded(pieces: Mapping[str, float]) -> bool:
    """Whether longer queues go with faster steps or the reverse: other numbers of requests ran at once."""
    queue, step = pieces.get("queueing", 0.0), pieces.get("step_time", 0.0)
    return queue * step < 0 and min(abs(queue), abs(step)) > _TRADED * max(abs(queue), abs(step))


def _because(
    where: str,
    gap: float,
    pieces: Mapping[str, float],
    known: Mapping[tuple[str, str], Figure],
    simulation: Simulation,
) -> str:
    """A second sentence: what the part hangs on."""
    tpot = known.get(("tpot_s", "p50"))
    count = int(simulation.totals["preemptions"])
    if where == "queueing" and _traded(pieces):
        few = "fewer" if gap > 0 else "more"
        return (
            f" Decoding took {_seconds(abs(pieces['step_time']))} {'less' if gap > 0 else 'more'}: the measured engine "
            f"ran {few} requests at once, so compare max_num_seqs (here {simulation.config.max_num_seqs:,}) and the "
            "size of the KV cache."
        )
    if where == "queueing":
        if tpot is not None and abs(tpot.error_frac or 0.0) > AGREE_FRAC and (tpot.error_frac or 0.0) * gap < 0:
            return f" Steps differ too (median TPOT {tpot.error_frac:+,.1%}), and queues amplify that."
        if tpot is not None and abs(tpot.error_frac or 0.0) > AGREE_FRAC:
            return f" The median TPOT is {tpot.error_frac:+,.1%} off in the other direction."
        return " The steps themselves agree, so look at the arrivals, max_num_seqs and the size of the KV cache."
    if where == "step_time" and tpot is not None:
        queue = pieces.get("queueing", 0.0)
        also = f"; queueing adds {_seconds(abs(queue))}" if queue * gap > 0 and abs(queue) > 0.1 * abs(gap) else ""
        return f" The median time per token is {tpot.error_frac:+,.1%} off{also}."
    if where == "preemption":
        blocks = f"the {simulation.pool.blocks:,} assumed here"
        return f" The simulation preempted {count:,} times; compare the KV blocks the engine reports with {blocks}."
    return ""


def _title(figure: Figure) -> str:
    if figure.metric == "throughput":
        return figure.statistic.replace("_per_s", "/s").replace("_", " ")
    return f"{figure.statistic} {figure.metric.removesuffix('_s').upper()}"


def _seconds(value: float) -> str:
    from steelyard.units import format_quantity

    return format_quantity(value, "s")
