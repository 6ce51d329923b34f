"""Percentiles, goodput and time series of a simulation, from its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.interval import FIRST_TOKEN_SPREAD, POWER_SPREAD, interval80, stretched, widened
from steelyard.provenance import record_of
from steelyard.simulation.draws import draw_of, draw_of_rate

if TYPE_CHECKING:
    from steelyard.simulation.result import Records, Simulation

__all__ = [
    "PERCENTILES",
    "describe",
    "describe_histogram",
    "ends",
    "goodput",
    "intervals",
    "series",
    "summary",
]

Floats = NDArray[np.float64]

#: Percentiles reported everywhere.
PERCENTILES = (50, 90, 95, 99)
#: Most different priorities that are told apart.
MOST_PRIORITIES = 16


def describe(values: Any) -> dict[str, float | None]:
    """Mean and percentiles (linear interpolation) of the finite values; all None when there is none."""
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    if not array.size:
        return {"mean": None, **{f"p{p}": None for p in PERCENTILES}}
    cuts = np.percentile(array, PERCENTILES)
    return {"mean": float(array.mean()), **{f"p{p}": float(c) for p, c in zip(PERCENTILES, cuts, strict=True)}}


def describe_histogram(
    edges: Floats, counts: Any, total: float, percentiles: Sequence[float] = PERCENTILES
) -> dict[str, float | None]:
    """Mean (exact, from ``total``) and percentiles (inside a bin, linear) of a histogram."""
    sums = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.float64))])
    if sums[-1] == 0:
        return {"mean": None, **{f"p{p:g}": None for p in percentiles}}
    cuts = np.interp(np.array(percentiles) / 100 * sums[-1], sums, edges)
    cuts[cuts <= edges[1]] = 0.0  # the first bin holds what is shorter than the clock: tokens that came together
    return {"mean": float(total / sums[-1]), **{f"p{p:g}": float(c) for p, c in zip(percentiles, cuts, strict=True)}}


def goodput(records: Records, slo: dict[str, float] | Any) -> NDArray[np.bool_]:
    """Which requests completed within every limit given. Answers of one token have no time between tokens to miss."""
    good = records.completed.copy()
    for name, limit in slo.items():
        value = getattr(records, name)
        good &= ~(value > limit)
    return np.asarray(good)


def _tokens_per_step(simulation: Simulation) -> float | None:
    """Tokens that a decode adds to an answer per step: ``1 + accepted guesses / decodes``."""
    records = simulation.records
    written = float(np.sum(np.maximum(records.osl[records.completed] - 1, 0), dtype=np.float64))
    steps = written - float(simulation.totals["accepted_tokens"])
    return written / steps if written > 0 and steps > 0 else None


def _bytes_of(simulation: Simulation, name: str) -> float:
    """Cache of the tokens that a counter of every pool counts, on all devices of a replica."""
    return float(
        sum(
            p.totals.get(name, 0.0) * p.kv.block_bytes / p.kv.block_tokens * p.scenario.plan.replica_devices
            for p in simulation.pools
        )
    )


def _extras(simulation: Simulation, span: float) -> dict[str, Any]:
    """What speculation, adapters, cache levels and finetuning did, and answers of several branches; {} without."""
    totals = simulation.totals
    found: dict[str, Any] = {}
    if any(t.in_steps for t in simulation.techniques):
        guessed = totals["guessed_tokens"]
        found["extras"] = {
            "guessed_tokens": int(guessed),
            "accepted_tokens": int(totals["accepted_tokens"]),
            "accepted_frac": totals["accepted_tokens"] / guessed if guessed else None,
            "tokens_per_step": _tokens_per_step(simulation),
            "loaded_tokens": int(totals["loaded_tokens"]),
            "loaded_bytes": _bytes_of(simulation, "loaded_tokens"),
            "swapped_tokens": int(totals["swapped_tokens"]),
            "swapped_bytes": _bytes_of(simulation, "swapped_tokens"),
            "adapter_loads": int(totals["adapter_loads"]),
            "adapter_waits": int(totals["adapter_waits"]),
            "trained_tokens": int(totals["trained_tokens"]),
            "trained_tokens_per_s": totals["trained_tokens"] / span,
        }
    if simulation.trace.branches > 1:
        from steelyard.traffic.branches import group_times

        records, width = simulation.records, simulation.trace.branches
        times = group_times(width, records.arrived_at, records.ttft_s, records.e2e_s)
        found["groups"] = {"branches": width} | {name: describe(value) for name, value in times.items()}
    return found


def _workflow_times(simulation: Simulation) -> tuple[Floats, NDArray[Any]]:
    """``[workflows]`` s from the beginning of each to the last token of its last call, and ``[n]`` which one it is of.

    NaN where a call was not answered.
    """
    records, trace = simulation.records, simulation.trace
    assert trace.session is not None
    _, which = np.unique(trace.session, return_inverse=True)
    ended = np.full(int(which.max()) + 1, -np.inf)
    begun = np.full(len(ended), np.inf)
    np.maximum.at(ended, which, records.finished_at)  # a NaN stays
    np.minimum.at(begun, which, trace.arrived_at)
    return ended - begun, which


def _workflows(simulation: Simulation) -> dict[str, Any]:
    """What each workflow took: time, tokens, rent and energy of those that were completed; {} without workflows."""
    if simulation.trace.sessions_are != "workflow":
        return {}
    records, (times, which) = simulation.records, _workflow_times(simulation)
    whole, done = int(np.sum(np.isfinite(times))), np.isfinite(times)[which]
    each, usd = max(whole, 1), simulation.usd
    tokens = {"input": records.isl[done], "output": records.osl[done], "cached": records.cached_tokens[done]}
    found = {
        "count": len(times),
        "completed": whole,
        "calls_each": len(records) / len(times),
        "completion_s": describe(times),
        "per_s": whole / max(simulation.makespan_s, 1e-30),
        **{f"{name}_tokens_each": float(np.sum(n, dtype=np.float64)) / each for name, n in tokens.items()},
        "usd_each": usd / whole if usd is not None and whole else None,
        "energy_j_each": simulation.energy_j / whole if whole else None,
    }
    return {"workflows": found}


def summary(simulation: Simulation) -> dict[str, Any]:
    """The JSON form ``steelyard.simulate/1`` (SI units)."""
    from steelyard.simulation.result import COMPLETED, REJECTED, UNFINISHED

    records, totals = simulation.records, simulation.totals
    done = records.completed
    span = max(simulation.makespan_s, 1e-30)
    asked = int(np.sum(records.isl[done], dtype=np.int64))
    answered = int(np.sum(records.osl[done], dtype=np.int64))
    good = int(np.sum(goodput(records, simulation.slo)))
    usd, wall = simulation.usd, max(simulation.wall_s, 1e-30)
    counts = {
        name: int(np.sum(records.status == code))
        for name, code in (("completed", COMPLETED), ("rejected", REJECTED), ("unfinished", UNFINISHED))
    }
    return {
        "schema": "steelyard.simulate/1",
        "requests": len(records),
        **counts,
        "stopped": simulation.stopped,
        "makespan_s": simulation.makespan_s,
        "ttft_s": describe(records.ttft_s[done]),
        "tpot_s": describe(records.tpot_s[done]),
        "itl_s": describe_histogram(simulation.itl_edges_s, simulation.itl_counts, totals["itl_sum_s"]),
        "e2e_s": describe(records.e2e_s[done]),
        "queue_s": describe(records.queued_s[done]),
        "throughput": {
            "requests_per_s": counts["completed"] / span,
            "input_tokens_per_s": asked / span,
            "output_tokens_per_s": answered / span,
            "output_tokens_per_s_per_device": answered / span / simulation.devices,
            "goodput_requests_per_s": good / span,
            "goodput_frac": good / max(1, len(records)),
        },
        "batch": {"mean": totals["batch_mean"], "max": totals["batch_max"]},
        "in_system_mean": totals["in_system_mean"],
        "waiting_max": totals["waiting_max"],
        "kv": {
            "blocks": simulation.pool.blocks,
            "block_tokens": simulation.pool.block_tokens,
            "mean_frac": totals["kv_mean_frac"],
            "max_frac": totals["kv_max_frac"],
        },
        "prefix_cache": {
            "hit_tokens": int(totals["cached_tokens"]),
            "hit_frac": totals["cached_tokens"] / max(1.0, totals["cached_tokens"] + totals["prefill_tokens"]),
        },
        "preemptions": int(totals["preemptions"]),
        "idle_frac": totals["idle_frac"],
        "pools": [pool.to_dict() for pool in simulation.pools],
        "energy_j": simulation.energy_j,
        "host_energy_j": totals["host_energy_j"],
        "energy_j_per_output_token": simulation.energy_j / answered if answered else None,
        "usd": usd,
        "usd_per_million_output_tokens": usd / answered * 1e6 if usd is not None and answered else None,
        **_extras(simulation, span),
        **_workflows(simulation),
        **({} if simulation.encode_s is None else {"encode_s": describe(simulation.encode_s[done])}),
        **_by_priority(simulation, done),
        "slo": dict(simulation.slo),
        **({} if simulation.capacity is None else {"capacity_rps": simulation.capacity.rps}),
        **({} if simulation.capacity is None else {"capacity": simulation.capacity.to_dict()}),
        "simulation": {
            "iterations": int(totals["iterations"]),
            "wall_s": simulation.wall_s,
            "build_s": simulation.build_s,
            "requests_per_s": len(records) / wall,
            "iterations_per_s": totals["iterations"] / wall,
        },
        "provenance": record_of(simulation.inputs),
    }


def _by_priority(simulation: Simulation, done: Any) -> dict[str, Any]:
    """What requests of each priority see, where the trace has priorities."""
    given, records = simulation.trace.priority, simulation.records
    if given is None or len(names := np.unique(given)) > MOST_PRIORITIES:
        return {}
    found = []
    for name in names.tolist():
        own = np.asarray(given == name)
        times = {f: describe(np.asarray(getattr(records, f))[own & done]) for f in ("ttft_s", "tpot_s", "e2e_s")}
        preempted = int(np.asarray(records.preemptions)[own].sum())
        found.append({"priority": name, "requests": int(own.sum()), **times, "preemptions": preempted})
    return {"priorities": found}


def ends(simulation: Simulation) -> tuple[Simulation, Simulation]:
    """The same load played twice more: every step at the low and at the high end of its own 80 % interval.

    Raises:
        ValueError: the simulation cannot be replayed (it was read from a file).
    """
    if simulation.replay is None:
        raise ValueError("this simulation cannot be replayed")
    low, high = interval80(1.0, simulation.spread, at_least=simulation.limit_frac)
    return simulation.replay(float(low)), simulation.replay(float(high))


def intervals(
    simulation: Simulation, played: tuple[Simulation, Simulation] | None = None
) -> dict[str, dict[str, tuple[float, float]]]:
    """80 % intervals of mean and percentiles, from two more runs: every step at the ends of its own interval.

    Times to first token have a further spread (:data:`~steelyard.cost.interval.FIRST_TOKEN_SPREAD`), and figures of
    requests that were drawn what another draw might have shown (:mod:`steelyard.simulation.draws`).
    Queues amplify: near saturation a step 10 % longer may multiply the time to first token, which no interval put
    around a single run would say.

    Args:
        simulation: of what.
        played: its :func:`ends`, when they are known already.

    Returns:
        ``ttft_s``, ``tpot_s``, ``itl_s``, ``e2e_s``, ``queue_s``, ``throughput`` and ``energy`` -> figure ->
        ``(low, high)``; of workflows ``workflows``, the time to complete one.

    Raises:
        ValueError: the simulation cannot be replayed (it was read from a file).
    """
    runs = [run.summary() for run in (*(played or ends(simulation)), simulation)]
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s", "throughput"):
        pairs = {name: [run[metric][name] for run in runs] for name in runs[0][metric]}
        found[metric] = {k: (min(v), max(v)) for k, v in pairs.items() if None not in v}
    if "workflows" in runs[0]:
        times = [run["workflows"]["completion_s"] for run in runs]
        pairs = {name: [t[name] for t in times] for name in times[0]}
        found["workflows"] = {k: (min(v), max(v)) for k, v in pairs.items() if None not in v}
    for name, (low, high) in found["ttft_s"].items():
        if low > 0.0:
            value, surer = runs[2]["ttft_s"][name], simulation.config.moved.first_spread
            first = first_token_interval(value, low, high, simulation.limit_frac, surer)
            found["ttft_s"][name] = float(first[0]), float(first[1])
    for metric in ("ttft_s", "tpot_s", "e2e_s", "queue_s"):
        limit = 0.0 if metric == "queue_s" else simulation.limit_frac
        for name, between in found[metric].items():
            draw = draw_of(simulation, metric, name)
            found[metric][name] = _other_draw(runs[2][metric][name], between, draw, limit)
    for name, between in found["throughput"].items():
        if name != "goodput_frac":
            share = draw_of_rate(simulation, name.removesuffix("_per_device").removeprefix("goodput_"))
            found["throughput"][name] = _other_draw(runs[2]["throughput"][name], between, (share, share))
    per_token = [run["energy_j_per_output_token"] for run in runs]
    if all(per_token):
        low, high = power_interval(per_token[2], min(per_token), max(per_token))
        found["energy"] = {"energy_j_per_output_token": (float(low), float(high))}
    return found


def _other_draw(
    value: float, between: tuple[float, float], draw: tuple[float, float], limit_frac: float = 0.0
) -> tuple[float, float]:
    """An interval that holds what another draw of the requests might have shown too, above the physical limit."""
    if between[0] <= 0.0 or draw == (0.0, 0.0):
        return between
    low, high = stretched(value, *between, *draw, at_least=min(limit_frac * value, between[0]))
    return float(low), float(high)


def power_interval(value: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """The interval of a power or an energy from that of the steps (:data:`~steelyard.cost.interval.POWER_SPREAD`)."""
    return widened(value, low, high, POWER_SPREAD)


def first_token_interval(value: Any, low: Any, high: Any, limit_frac: Any, surer: float = 1.0) -> tuple[Any, Any]:
    """The interval of a time to first token from that of the steps; ``limit_frac`` of the time is physical.

    ``surer``: its further spread over the usual one, where a measured run is known.
    """
    return widened(value, low, high, FIRST_TOKEN_SPREAD * surer, at_least=np.minimum(limit_frac * value, low))


def series(simulation: Simulation, points: int = 200) -> dict[str, Floats]:
    """Time averages over equal stretches of the makespan, summed over replicas; time without a step counts as zero.

    Exact when every step was kept; when the log was thinned, a kept step stands for those left out behind it.

    Returns:
        ``at_s`` (middles, from the start of the trace), ``running``, ``waiting`` (requests), ``kv_frac`` (of all
        blocks), ``batch`` (requests in the steps of all replicas), ``prefill_tokens_per_s``, ``decode_tokens_per_s``,
        ``arrived_per_s`` and ``completed_per_s``; ``[points]`` each.
    """
    steps, records = simulation.iterations, simulation.records
    first = float(simulation.totals["first_arrival_s"])
    edges = first + np.linspace(0.0, max(simulation.makespan_s, 1e-9), points + 1)
    start, length = np.asarray(steps.start_s, dtype=np.float64), np.asarray(steps.duration_s, dtype=np.float64)
    ranks = [pool.ranks for pool in simulation.pools]
    # every lane of a pipeline logs the same queue and cache
    at_once = [pool.scenario.engine.lanes(pool.scenario.plan.pp) for pool in simulation.pools]
    lanes = np.repeat(at_once, ranks)[np.asarray(steps.replica)]
    blocks = float(sum(0 if p.role == "encode" else p.kv.blocks * p.ranks for p in simulation.pools))
    values = {
        "running": np.asarray(steps.running, dtype=np.float64),
        "waiting": np.asarray(steps.waiting) / lanes,
        "kv_frac": np.asarray(steps.kv_blocks) / (blocks * lanes),
        "batch": np.asarray(steps.batch, dtype=np.float64),
        "prefill_tokens_per_s": np.asarray(steps.prefill_tokens) / np.maximum(length, 1e-12),
        "decode_tokens_per_s": np.asarray(steps.decode_tokens) / np.maximum(length, 1e-12),
    }
    arrived, ended = records.arrived_at[np.isfinite(records.arrived_at)], records.finished_at[records.completed]
    return {
        "at_s": 0.5 * (edges[1:] + edges[:-1]),
        **{name: _averages(start, length * steps.stride, value, edges) for name, value in values.items()},
        "arrived_per_s": np.histogram(arrived, edges)[0] / np.diff(edges),
        "completed_per_s": np.histogram(ended, edges)[0] / np.diff(edges),
    }


def _averages(start: Floats, length: Floats, value: Floats, edges: Floats) -> Floats:
    """Mean over each stretch of the sum of ``value`` over all ``[start, start + length)`` that cover a moment."""
    if not start.size:
        return np.zeros(len(edges) - 1)
    time, change = np.concatenate([start, start + length]), np.concatenate([value, -value])
    order = np.argsort(time, kind="stable")
    time, level = time[order], np.cumsum(change[order])
    area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(time))])
    return np.asarray(np.diff(np.interp(edges, time, area)) / np.diff(edges))
