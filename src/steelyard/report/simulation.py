"""A simulation as JSON (``steelyard.simulate/1``) and as a report for a terminal of 80 columns.

``ends`` in the arguments are the two more runs of :func:`steelyard.simulation.limits.ends_of`; with them every figure
has its 80 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.report.paper import Line, bullet, bullets, figure, grid, lines_table, render
from steelyard.report.paper import styled as _text
from steelyard.report.plain import plain
from steelyard.simulation.limits import bottleneck, judged, limits, sure
from steelyard.simulation.metrics import intervals
from steelyard.simulation.techniques import dynamics_of
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from rich.text import Text

    from steelyard.scenario.slo import Target
    from steelyard.simulation.limits import Ends
    from steelyard.simulation.result import PoolOutcome, Simulation

__all__ = [
    "METRICS",
    "flat",
    "heading",
    "interval",
    "lines",
    "parts",
    "served_by",
    "summary",
    "text",
    "to_dict",
    "verdict_lines",
]

#: Metrics in the order of the report, ``(key of the JSON, words)``.
METRICS = (
    ("ttft_s", "TTFT"),
    ("tpot_s", "TPOT"),
    ("itl_s", "ITL"),
    ("e2e_s", "end to end"),
    ("queue_s", "queued"),
)
_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
#: Requests from which on percentiles say more than the largest value does.
_MANY = 20
#: Columns of a terminal that hold every statistic.
_WIDE = 76
#: Notes shown before the rest is only counted.
_SHOWN = 6


def summary(simulation: Simulation) -> str:
    """One line for a Python prompt."""
    done, stopped = int(np.sum(simulation.records.completed)), f"; {simulation.stopped}" if simulation.stopped else ""
    asked = f"{len(simulation.records):,} requests, {done:,} completed"
    return f"<Simulation of {asked} in {simulation.makespan_s:,.1f} s{stopped}>"


def to_dict(simulation: Simulation, targets: Sequence[Target] = (), ends: Ends | None = None) -> dict[str, Any]:
    """The answer in the stable JSON form ``steelyard.simulate/1``: the summary, verdicts on SLOs, what limited."""
    document = dict(simulation.summary())
    document["intervals"] = None if ends is None else intervals(simulation, ends)
    document["verdicts"] = [
        {
            "metric": v.target.metric,
            "statistic": v.target.label,
            "limit_s": v.target.limit_s,
            "value_s": v.value_s,
            "interval_s": None if between is None else list(between),
            "met": v.met,
            "sure": sure(v, between),
        }
        for v, between in judged(simulation, targets, ends)
    ]
    document["limited_by"] = limits(simulation)
    document["bottleneck"] = bottleneck(document["limited_by"])
    if simulation.trace.origin:
        found = document["provenance"]
        document["provenance"] = {**found, "inputs": {**found["inputs"], "traffic": dict(simulation.trace.origin)}}
    document.setdefault("notes", [*simulation.trace.notes])
    if simulation.ledger is not None:
        document["assumptions"] = [*simulation.ledger.assumptions]
    document.setdefault("dropped_rows", [*simulation.trace.rejected])
    return plain(document)  # type: ignore[no-any-return]


def flat(simulation: Simulation, targets: Sequence[Target] = (), ends: Ends | None = None) -> dict[str, Any]:
    """The answer as one row, for CSV: nested keys joined by dots; an interval is ``.low`` and ``.high``."""
    row: dict[str, Any] = {}

    def put(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                put(f"{prefix}.{key}" if prefix else key, inner)
        elif prefix.startswith("intervals.") and value:
            row[f"{prefix}.low"], row[f"{prefix}.high"] = value
        elif not isinstance(value, list):
            row[prefix] = value

    document = to_dict(simulation, targets, ends)
    document.pop("provenance", None)
    put("", document)
    for verdict in document["verdicts"]:
        row[f"verdict.{verdict['metric']}.{verdict['statistic']}.met"] = verdict["met"]
    return row


SHORT_OF = {
    "serving": "serving everyone at once",
    "kv": "KV cache full",
    "max_num_seqs": "at max_num_seqs",
    "compute": "steps at the token budget",
    "scheduling": "requests waiting for the scheduler",
    "idle": "idle",
}
_LIMIT = {
    "kv": "the KV cache: no blocks left for those that wait",
    "max_num_seqs": "max_num_seqs: no seat left for those that wait",
    "compute": "compute: every step full to its token budget",
    "scheduling": "the scheduler: those that wait are not let in",
}


def text(
    simulation: Simulation, width: int | None = None, targets: Sequence[Target] = (), ends: Ends | None = None
) -> str:
    """The whole answer as text.

    Args:
        simulation: what to report.
        width: columns of the terminal; None = 80 columns without colour.
        targets: SLOs to judge.
        ends: the runs at the ends of the interval; None = no intervals.
    """
    return render(parts(simulation, targets, ends, width), width)


def parts(
    simulation: Simulation, targets: Sequence[Target] = (), ends: Ends | None = None, width: int | None = None
) -> list[Any]:
    """The report as renderables, from the title to the assumptions."""
    document = simulation.summary()
    between = None if ends is None else intervals(simulation, ends)
    found = [
        *_title(simulation),
        "",
        *_outcome(simulation, document),
        "",
        _percentiles(simulation, document, between, width),
        "",
    ]
    return [*found, lines_table(lines(simulation, document, targets, ends)), "", *_notes(simulation)]


def placed(pool: PoolOutcome, beside: str = "") -> str:
    """A pool in words: ``prompts: 2 x (tp 4) on NVIDIA H100``. ``beside``: role of the last pool."""
    p = pool.scenario.plan
    each = f"{pool.replicas} x ({p.shape})" if p.shape else f"{pool.replicas} x 1 device"
    part = ""
    if pool.compute_frac < 1.0:
        part, each = f"{pool.compute_frac:.0%} of ", f"({p.shape})" if p.shape else "the device"
    role = "attention, prompts and answers" if beside == "feed_forward" and pool.role == "both" else _ROLES[pool.role]
    return f"{role}: {part}{each} on {pool.scenario.cluster.machine.title}"


_ROLES = {
    "both": "prompts and answers",
    "prefill": "prompts",
    "decode": "answers",
    "encode": "encoders",
    "feed_forward": "feed-forward",
}


def _title_of(pool: PoolOutcome) -> str:
    return pool.scenario.cluster.machine.title


def _title(sim: Simulation) -> list[Any]:
    where, pools, about = heading(sim)
    head = _text((sim.scenario.transformer.name, "bold"), " on ", (where, "bold"))
    return [head, *(bullet(_text(x)) for x in pools), *(_text(x) for x in about)]


def heading(sim: Simulation) -> tuple[str, list[str], list[str]]:
    """The machines, one line per pool where there are several, and lines about the engine and the traffic."""
    s, p, t = sim.scenario, sim.scenario.plan, sim.trace
    policy = "" if sim.policy == "fcfs" else f", policy {sim.policy}"
    loop = f"{t.concurrency:,} at a time" if t.concurrency else _span(t.duration_s, t.rate_per_s)
    if t.after is not None:
        loop = f"begun over {q(t.duration_s, 's')}"
    sizes, pools = "", [placed(x, sim.pools[-1].role) for x in sim.pools] if len(sim.pools) > 1 else []
    if pools:
        names = dict.fromkeys(_title_of(x) for x in sim.pools)
        where = " and ".join(
            "".join((f"{n} x " if n > 1 or len(names) > 1 else "", name))
            for name in names
            for n in [round(sum(x.devices * x.compute_frac for x in sim.pools if _title_of(x) == name))]
        )
    else:
        scale = dynamics_of(sim.techniques).autoscale
        where = s.cluster.title
        copies = sim.pools[0].replicas
        fleet = f"{copies} replicas" if copies > 1 else ""
        if scale is not None and copies > 1:
            where, fleet = f"up to {where}", f"{scale.least} to {min(scale.most, copies)} replicas"
        sizes = "".join(f"{x}; " for x in (fleet, p.shape) if x)
    return (
        where,
        pools,
        [
            f"{served_by(sim)}{policy}; {sizes}weights {p.weights}, KV cache {p.kv}",
            f"traffic: {t.name}; {len(t):,} requests, {loop}, mean {t.isl.mean():,.0f} prompt + "
            f"{t.osl.mean():,.0f} generated tokens",
        ],
    )


def served_by(sim: Simulation) -> str:
    """The engine and how it schedules: ``llama.cpp, scheduled as vLLM v1: ...``; once where both have one name."""
    engine, rules = sim.scenario.engine.title, sim.config.rules.title
    return rules if rules.startswith(engine) else f"{engine}, scheduled as {rules}"


def _span(duration_s: float, rate_per_s: float) -> str:
    return f"{figure(rate_per_s)}/s over {q(duration_s, 's')}" if np.isfinite(rate_per_s) else "all at once"


def _outcome(sim: Simulation, document: dict[str, Any]) -> list[Text]:
    done, rejected, total = document["completed"], document["rejected"], len(sim.records)
    tone = "bold green" if done == total else "bold red"
    lines = [_text((f"{done:,} of {total:,} completed", tone), f" in {q(sim.makespan_s, 's')}")]
    if rejected:
        lines.append(_text((f"{rejected:,} rejected", "red"), " (longer than the model or than all of the KV cache)"))
    if total - done - rejected:
        lines.append(_text((f"{total - done - rejected:,} unfinished", "red")))
    if sim.stopped:
        lines.append(_text(("stopped: ", "bold red"), sim.stopped))
    return lines


def _percentiles(
    sim: Simulation,
    document: dict[str, Any],
    between: dict[str, dict[str, tuple[float, float]]] | None,
    width: int | None,
) -> Any:
    """A row per time: its mean with the 80 % interval, and percentiles, of few requests the largest value instead."""
    few = document["completed"] < _MANY
    narrow = width is not None and width < _WIDE
    names: tuple[str, ...] = ("mean", "p50", "most") if few else ("mean", "p50", "p99") if narrow else _STATISTICS
    found = {name: dict(document[name]) for name, _ in METRICS if not (few and name == "itl_s")}
    for name in found if few else ():
        values = np.asarray(getattr(sim.records, _RECORDED.get(name, name)))[np.asarray(sim.records.completed)]
        found[name]["most"] = float(np.nanmax(values)) if np.isfinite(values).any() else None
    cells = {name: ["-" if x.get(k) is None else seconds(x[k]) for k in names] for name, x in found.items()}
    for name, other in (("queue_s", [seconds(0.0)] * len(names)), ("itl_s", cells["tpot_s"])):
        if cells.get(name) == other:
            del cells[name]
    if all(len(set(row)) == 1 for row in cells.values()):
        names, cells = ("each",), {name: row[:1] for name, row in cells.items()}
    heads = [names[0], *(() if between is None else ("80 % interval",)), *names[1:]]
    table = grid("left", *("right",) * len(heads))
    table.add_row("", *(_text((x, "bold")) for x in heads))
    for name, label in METRICS:
        if name in cells:
            ends = () if between is None else (interval(*between[name]["mean"]) if "mean" in between[name] else "",)
            table.add_row(label, cells[name][0], *ends, *cells[name][1:])
    return table


#: Names of the times of a request, where the summary has another.
_RECORDED = {"queue_s": "queued_s"}


#: Differences of times in the simulation are no better than this, s.
_NOTHING_S = 1e-9


def seconds(value: float) -> str:
    """A time with its unit; rounding of the clock is 0."""
    return q(0.0 if abs(value) < _NOTHING_S else value, "s")


def interval(low: float, high: float, unit: str = "s") -> str:
    """An interval with two digits and one unit: ``0.95-1.2 s``."""
    if high < _NOTHING_S:
        return f"0 {unit}"
    end = q(high, unit, 2)
    number, _, word = end.partition(" ")
    ratio = high / float(number.replace(",", ""))
    begin = low / (3600.0 if word == "h" else 10.0 ** round(float(np.log10(ratio))))
    whole = len(str(int(begin))) if begin >= 1 else 0
    return f"{begin:,.{max(0, 2 - whole)}f}-{number} {word}".rstrip()


def lines(
    sim: Simulation, document: dict[str, Any], targets: Sequence[Target] = (), ends: Ends | None = None
) -> list[Line]:
    """What came out, a line each: throughput, verdicts on SLOs, batch and cache, techniques, energy and money.

    Args:
        sim: the run.
        document: its summary.
        targets: SLOs to judge.
        ends: the runs at the ends of the interval.
    """
    first = [Line(*pair) for pair in (*_holds(sim), *_served(document["throughput"], targets))]
    found = [
        _grouped(document),
        _ranked(document),
        _flows(document),
        _read(document),
        _used(sim),
        _beyond(sim, document.get("extras")),
        _paid(sim),
    ]
    return [*first, *verdict_lines(sim, targets, ends), *(Line(*pair) for pairs in found for pair in pairs)]


def _holds(sim: Simulation) -> Iterator[tuple[str, str]]:
    """The largest rate, where it was asked for."""
    found = sim.capacity
    if found is None:
        return
    why = {"queue": "the queue grows", "completion": "requests are left", "": "no limit was found"}
    beyond = why.get(found.missed, f"{found.missed} is missed")
    if not found.rps:
        yield "capacity", f"no rate holds the SLOs: {beyond} however few come; below, the lowest that was tried"
        return
    low, high = found.interval_rps
    words = f"{found.rps:.3g} {found.unit}/s ({low:.2g}-{high:.2g}); above it {beyond}"
    yield "capacity", words


def _served(t: dict[str, Any], targets: Sequence[Target]) -> Iterator[tuple[str, str]]:
    tokens = f"{figure(t['input_tokens_per_s'])} prompt + {figure(t['output_tokens_per_s'])} generated tokens/s"
    yield "throughput", f"{figure(t['requests_per_s'])} requests/s, {tokens}"
    if targets:
        good = t["goodput_requests_per_s"]
        share = good / t["requests_per_s"] if t["requests_per_s"] else 0.0
        yield "goodput", f"{figure(good)} requests/s within the limits ({share:.1%} of those completed)"


def verdict_lines(sim: Simulation, targets: Sequence[Target], ends: Ends | None) -> Iterator[Line]:
    """Whether each SLO is met, with the value, its interval and the limit."""
    for i, (v, between) in enumerate(judged(sim, targets, ends)):
        span = f" ({interval(*between)})" if between else ""
        doubt = "; could be " + ("missed" if v.met else "met") if sure(v, between) is False else ""
        text = f"{v.name} {q(v.value_s, 's')}{span}, limit {q(v.target.limit_s, 's')}"
        yield Line("" if i else "SLO", text, "met" if v.met else "missed", doubt)


def _used(sim: Simulation) -> Iterator[tuple[str, str]]:
    totals, first = sim.totals, sim.pool
    batch = f"{figure(totals['batch_mean'])} requests per step, at most {totals['batch_max']:,.0f}"
    yield "batch", f"{batch}; at most {totals['waiting_max']:,.0f} waiting"
    blocks = f"{first.blocks:,} blocks of {first.block_tokens} token{'s' * (first.block_tokens > 1)} per replica"
    if len(sim.pools) == 1:
        yield "KV cache", f"{blocks}; {totals['kv_mean_frac']:.0%} used on average, {totals['kv_max_frac']:.0%} at most"
        if states := first.states():
            most = f", at most {states['max_num_seqs']:,} requests at once" if states["max_num_seqs"] else ""
            yield "states", f"{states['slots']:,} of {q(states['slot_bytes'], 'B')} per replica{most}"
    for each in sim.pools if len(sim.pools) > 1 else ():
        attention = each.role == "both" and sim.pools[-1].role == "feed_forward"
        yield "attention" if attention else _ROLES[each.role].rpartition(" ")[2], _pool(each)
    if totals["cached_tokens"]:
        prompt = float(np.sum(sim.records.isl[np.asarray(sim.records.completed)]))
        yield "", f"{totals['cached_tokens'] / max(prompt, 1):.1%} of the prompt tokens found in the prefix cache"
    if totals["preemptions"]:
        yield "preemptions", f"{totals['preemptions']:,.0f}{_again(totals['dropped_tokens'])}"
    for pool in sim.pools:
        if changed := _changes(pool):
            yield "" if len(sim.pools) > 1 else "replicas", changed
    found = limits(sim)
    if not found:
        yield "limited by", "no step was made"
        return
    least = "clients: those of the closed loop never left one waiting for long" if sim.trace.concurrency else ""
    yield "limited by", _LIMIT.get(bottleneck(found), least or "arrivals: the engine keeps up with the load")
    shares = [f"{SHORT_OF[name]} {share:.0%}" for name, share in found.items() if share >= 0.005]
    yield "time spent", ", ".join(shares)


def _grouped(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Answers of several branches, per prompt."""
    groups = document.get("groups")
    if groups and groups["e2e_s"]["mean"] is not None:
        first, last = groups["ttft_s"], groups["e2e_s"]
        words = f"{groups['branches']} answers; first token of any after {seconds(first['mean'])} on average (p99 "
        words += f"{seconds(first['p99'])}), last token of all after {seconds(last['mean'])} "
        words += f"(p99 {seconds(last['p99'])})"
        yield "each prompt", words


def _ranked(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What requests of each priority see."""
    for k, own in enumerate(document.get("priorities", ())):
        if own["ttft_s"]["mean"] is not None:
            words = f"{own['priority']}: TTFT {seconds(own['ttft_s']['mean'])} on average (p99 "
            words += (
                f"{seconds(own['ttft_s']['p99'])}), {own['requests']:,} requests, {own['preemptions']:,} preemptions"
            )
            yield "" if k else "priority", words


def _flows(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Workflows: how long one takes, its tokens, what it costs."""
    flow = document.get("workflows")
    if not flow:
        return
    took = flow["completion_s"]
    if took["mean"] is None:
        yield "each workflow", f"none of {flow['count']:,} was completed"
        return
    left = f"; {flow['completed']:,} of {flow['count']:,} completed" if flow["completed"] < flow["count"] else ""
    words = f"completed after {seconds(took['mean'])} on average (p50 {seconds(took['p50'])}, "
    yield "each workflow", f"{words}p99 {seconds(took['p99'])}){left}"
    cached = f", {figure(flow['cached_tokens_each'])} of them cached" if flow["cached_tokens_each"] else ""
    asked = f"{figure(flow['input_tokens_each'])} prompt tokens{cached}"
    paid = "" if flow["usd_each"] is None else f"; {q(flow['usd_each'], 'USD')}"
    said = f"{figure(flow['output_tokens_each'])} generated"
    yield "", f"{flow['calls_each']:g} calls, {asked}, {said}{paid}, {q(flow['energy_j_each'], 'J')}"


def _read(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the images and sounds of a request take."""
    took = document.get("encode_s")
    if took is not None and took["mean"] is not None:
        mean, p99 = seconds(took["mean"]), seconds(took["p99"])
        yield "encoding", f"{mean} per request on average (p99 {p99}), before its prompt"


def _beyond(sim: Simulation, found: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What techniques did."""
    prompts = float(np.sum(sim.records.isl[np.asarray(sim.records.completed)]))
    for technique in sim.techniques:
        yield from technique.report({**(found or {}), "prompt_tokens": prompts})


def _changes(pool: PoolOutcome) -> str:
    """What happened to the replicas of a pool; empty when nothing did."""
    found = pool.to_dict()
    words = []
    if found["rented_replicas_mean"] < 0.999 * pool.replicas:
        words.append(f"{figure(found['rented_replicas_mean'])} of {pool.replicas} rented on average")
    if found["failures"]:
        words.append(f"{found['failures']:,} failed, {found['interrupted']:,} requests began anew")
    if found["migrations"]:
        words.append(f"{found['migrations']:,} requests moved")
    return "; ".join(words)


def _pool(pool: PoolOutcome) -> str:
    """What one of several pools did."""
    t = pool.totals
    if pool.role in ("encode", "feed_forward"):
        return f"busy {t['busy_frac']:.0%}"
    words = f"busy {t['busy_frac']:.0%}, {figure(t['batch_mean'])} requests per step; KV cache "
    words += f"{t['kv_mean_frac']:.0%} used on average, {t['kv_max_frac']:.0%} at most"
    if t["transfer_bytes"]:
        words += f"; each cache sent takes {q(t['transfer_s'] / t['transfers'], 's')}"
    return words


def _paid(sim: Simulation) -> Iterator[tuple[str, str]]:
    out = float(np.sum(sim.records.osl[np.asarray(sim.records.completed)]))
    per = f", {q(sim.energy_j / out, 'J')} per generated token" if out else ""
    watts = sim.energy_j / max(sim.makespan_s, 1e-12) / sim.devices
    yield "energy", f"{q(sim.energy_j, 'J')}{per} ({watts:,.0f} W per device)"
    if sim.usd is None:
        yield "money", "no price known; give one with --price"
    else:
        each = f", {q(sim.usd / out * 1e6, 'USD')} per million generated tokens" if out else ""
        yield "money", f"{q(sim.usd, 'USD')}{each} at {sim.usd_per_hour:,.2f} USD/h per device"
    rate = len(sim.records) / sim.wall_s if sim.wall_s else 0.0
    yield "simulated", f"{int(sim.totals['iterations']):,} steps in {q(sim.wall_s, 's')} ({figure(rate)} requests/s)"


def _again(tokens: float | None) -> str:
    return f", {tokens:,.0f} tokens computed again" if tokens else ""


def _notes(sim: Simulation) -> list[Any]:
    notes = [*sim.trace.notes, *sim.trace.rejected]
    more = [f"{len(notes) - _SHOWN:,} more; --json lists all"] if len(notes) > _SHOWN else []
    assumed = [] if sim.ledger is None else [x for x in sim.ledger.assumptions if x not in sim.trace.notes]
    return [*bullets("traffic", [*notes[:_SHOWN], *more]), *bullets("assumed", assumed)]
