"""Percentiles, goodput and time series of a simulation, from its arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from steelyard.serve.simulation import Records, Simulation

__all__ = ["PERCENTILES", "describe", "describe_histogram", "ends", "goodput", "intervals", "series", "summary"]

Floats = NDArray[np.float64]

#: Percentiles reported everywhere.
PERCENTILES = (50, 90, 95, 99)


def describe(values: Any) -> dict[str, float | None]:
    """Mean and percentiles (linear interpolation) of the finite values; all None when there is none."""
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    if not array.size:
        return {"mean": None, **{f"p{p}": None for p in PERCENTILES}}
    cuts = np.percentile(array, PERCENTILES)
    return {"mean": float(array.mean()), **{f"p{p}": float(c) for p, c in zip(PERCENTILES, cuts, strict=True)}}


def describe_histogram(edges: Floats, counts: Any, total: float) -> dict[str, float | None]:
    """Mean (exact, from ``total``) and percentiles (inside a bin, linear) of a histogram."""
    sums = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.float64))])
    if sums[-1] == 0:
        return {"mean": None, **{f"p{p}": None for p in PERCENTILES}}
    cuts = np.interp(np.array(PERCENTILES) / 100 * sums[-1], sums, edges)
    return {"mean": float(total / sums[-1]), **{f"p{p}": float(c) for p, c in zip(PERCENTILES, cuts, strict=True)}}


def goodput(records: Records, slo: dict[str, float] | Any) -> NDArray[np.bool_]:
    """Which requests completed within every limit given. Answers of one token have no time between tokens to miss."""
    good = records.completed.copy()
    for name, limit in slo.items():
        value = getattr(records, name)
        good &= ~(value > limit)
    return np.asarray(good)


def _extras(simulation: Simulation, span: float) -> dict[str, Any]:
    """What speculation, adapters, cache levels and finetuning did, and answers of several branches; {} without."""
    totals = simulation.totals
    found: dict[str, Any] = {}
    if "extras" in simulation.inputs:
        guessed = totals["guessed_tokens"]
        found["extras"] = {
            "guessed_tokens": int(guessed),
            "accepted_tokens": int(totals["accepted_tokens"]),
            "accepted_frac": totals["accepted_tokens"] / guessed if guessed else None,
            "loaded_tokens": int(totals["loaded_tokens"]),
            "swapped_tokens": int(totals["swapped_tokens"]),
            "adapter_loads": int(totals["adapter_loads"]),
            "trained_tokens": int(totals["trained_tokens"]),
            "trained_tokens_per_s": totals["trained_tokens"] / span,
        }
    if simulation.trace.branches > 1:
        from steelyard.serve.traffic.branches import group_times

        records, width = simulation.records, simulation.trace.branches
        times = group_times(width, records.arrived_at, records.ttft_s, records.e2e_s)
        found["groups"] = {"branches": width} | {name: describe(value) for name, value in times.items()}
    return found


def summary(simulation: Simulation) -> dict[str, Any]:
    """The JSON form ``steelyard.simulate/1`` (SI units)."""
    from steelyard.serve.run import provenance
    from steelyard.serve.simulation import COMPLETED, REJECTED, UNFINISHED

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
        "slo": dict(simulation.slo),
        "simulation": {
            "iterations": int(totals["iterations"]),
            "wall_s": simulation.wall_s,
            "build_s": simulation.build_s,
            "requests_per_s": len(records) / wall,
            "iterations_per_s": totals["iterations"] / wall,
        },
        "provenance": provenance(simulation),
    }


#: z of an 80 % central interval of a normal distribution.
Z80 = 1.2816


def ends(simulation: Simulation) -> tuple[Simulation, Simulation]:
    """The same load played twice more: every step at the low and at the high end of its own 80 % interval.

    Raises:
        ValueError: the simulation cannot be replayed (it was read from a file).
    """
    if simulation.replay is None:
        raise ValueError("this simulation cannot be replayed")
    low, high = (float(np.exp(z * Z80 * simulation.spread)) for z in (-1, 1))
    return simulation.replay(low), simulation.replay(high)


def intervals(
    simulation: Simulation, played: tuple[Simulation, Simulation] | None = None
) -> dict[str, dict[str, tuple[float, float]]]:
    """80 % intervals of mean and percentiles, from two more runs: every step at the ends of its own interval.

    Queues amplify: near saturation a step 10 % longer may multiply the time to first token, which no interval put
    around a single run would say.

    Args:
        simulation: of what.
        played: its :func:`ends`, when they are known already.

    Returns:
        ``ttft_s``, ``tpot_s``, ``itl_s``, ``e2e_s``, ``queue_s`` and ``throughput`` -> figure -> ``(low, high)``.

    Raises:
        ValueError: the simulation cannot be replayed (it was read from a file).
    """
    runs = [run.summary() for run in played or ends(simulation)]
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s", "throughput"):
        pairs = {name: (runs[0][metric][name], runs[1][metric][name]) for name in runs[0][metric]}
        found[metric] = {k: (min(v), max(v)) for k, v in pairs.items() if None not in v}
    return found


def series(simulation: Simulation, points: int = 200) -> dict[str, Floats]:
    """Means over ``points`` equal stretches of the makespan.

    Returns:
        ``at_s`` (middles, from the start of the trace), ``running``, ``waiting`` (requests), ``kv_frac``,
        ``prefill_tokens_per_s``, ``decode_tokens_per_s``, ``arrived_per_s`` and ``completed_per_s``; ``[points]`` each.
    """
    steps, records = simulation.iterations, simulation.records
    start = float(simulation.totals["first_arrival_s"])
    edges = start + np.linspace(0.0, max(simulation.makespan_s, 1e-9), points + 1)
    width = edges[1] - edges[0]
    middle = 0.5 * (edges[1:] + edges[:-1])
    cell = np.clip(((steps.start_s + 0.5 * steps.duration_s - start) / width).astype(np.int64), 0, points - 1)
    time = np.bincount(cell, steps.duration_s, points)
    lanes = sum(pool.ranks * pool.scenario.plan.pp for pool in simulation.pools if pool.role != "encode")

    def mean(values: Any) -> Floats:
        return np.asarray(np.bincount(cell, values * steps.duration_s, points) / np.maximum(time, 1e-30))

    def rate(values: Any) -> Floats:
        return np.asarray(np.bincount(cell, values, points) * steps.stride / width)

    arrived, ended = records.arrived_at[np.isfinite(records.arrived_at)], records.finished_at[records.completed]
    return {
        "at_s": middle,
        "running": mean(steps.running) * lanes,
        "waiting": mean(steps.waiting) * simulation.replicas,
        "kv_frac": mean(steps.kv_blocks / simulation.blocks[steps.replica]),
        "prefill_tokens_per_s": rate(steps.prefill_tokens),
        "decode_tokens_per_s": rate(steps.decode_tokens),
        "arrived_per_s": np.histogram(arrived, edges)[0] / width,
        "completed_per_s": np.histogram(ended, edges)[0] / width,
    }
