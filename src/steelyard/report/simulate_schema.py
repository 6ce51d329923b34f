"""The fields of ``steelyard.simulate/1`` and of a replay in ``steelyard.compare/1``: one table for docs and tests."""

from __future__ import annotations

__all__ = ["REPLAY", "SIMULATE"]

#: ``path -> (type, meaning with unit)`` as in :mod:`steelyard.report.schema`; ``statistics`` is an object of ``mean``,
#: ``p50``, ``p90``, ``p95`` and ``p99``, each a number, or null when no request has the figure. ``[]`` in a path: each
#: entry of a list.
SIMULATE: dict[str, tuple[str, str]] = {
    "schema": ("string", "always steelyard.simulate/1"),
    "requests": ("integer", "requests of the trace"),
    "completed": ("integer", "those that got their whole answer; all figures below are over these"),
    "rejected": ("integer", "those longer than the model or than all of the KV cache"),
    "unfinished": ("integer", "those left when the simulation was stopped"),
    "stopped": ("string", "why it ended early; empty when it did not"),
    "makespan_s": ("number", "from the first arrival to the end of the last step, s"),
    "ttft_s": ("statistics", "arrival to first token, queueing included, s"),
    "tpot_s": ("statistics", "(last - first token) / (osl - 1) of a request, s"),
    "itl_s": ("statistics", "single gaps between tokens, all requests together, s"),
    "e2e_s": ("statistics", "arrival to last token, s"),
    "queue_s": ("statistics", "reaching the engine to the first step that works on the request, s"),
    "intervals": (
        "{}?",
        "80 % intervals, figure -> statistic -> [low, high] for the five above and `throughput`, from two more runs "
        "with every step at the ends of its own interval; null when they were not asked for",
    ),
    "throughput.requests_per_s": ("number", "completed requests per second of makespan"),
    "throughput.input_tokens_per_s": ("number", "their prompt tokens per second"),
    "throughput.output_tokens_per_s": ("number", "their generated tokens per second"),
    "throughput.output_tokens_per_s_per_device": ("number", "the same per device"),
    "throughput.goodput_requests_per_s": ("number", "completed within every limit of `slo`, per second"),
    "throughput.goodput_frac": ("number", "share of all requests that did"),
    "batch.mean": ("number", "requests worked on in a step, mean over busy time"),
    "batch.max": ("number", "most in one step"),
    "in_system_mean": ("number", "requests between arrival and last token, mean over the makespan"),
    "waiting_max": ("number", "longest waiting queue of a replica"),
    "kv.blocks": ("integer", "KV blocks of one replica"),
    "kv.block_tokens": ("integer", "tokens of a block"),
    "kv.mean_frac": ("number", "share of the blocks held, mean over busy time"),
    "kv.max_frac": ("number", "largest share held"),
    "prefix_cache.hit_tokens": ("integer", "prompt tokens not computed because their prefix was cached"),
    "prefix_cache.hit_frac": ("number", "their share of all prompt tokens admitted, recomputed ones included"),
    "preemptions": ("integer", "times a request lost its cache for want of blocks"),
    "idle_frac": ("number", "share of the makespan without a step, mean over replicas"),
    "energy_j": ("number", "all devices over the makespan, idle time included, J"),
    "host_energy_j": ("number", "their share of the hosts over the makespan, J"),
    "energy_j_per_output_token": ("number?", "devices, J per generated token"),
    "usd": ("number?", "rent of all devices over the makespan, USD; null without a price"),
    "usd_per_million_output_tokens": ("number?", "the same per million generated tokens, USD"),
    "slo": ("{}", "limits that goodput counts: any of ttft_s, tpot_s, e2e_s, s"),
    "verdicts[].metric": ("string", "ttft_s, tpot_s or e2e_s"),
    "verdicts[].statistic": ("string", "mean or a percentile such as p99"),
    "verdicts[].limit_s": ("number", "what was promised, s"),
    "verdicts[].value_s": ("number?", "what came out, s; null when no request has the figure"),
    "verdicts[].interval_s": ("array?", "80 % interval of the value, [low, high], s; null when not asked for"),
    "verdicts[].met": ("boolean", "whether the value is within the limit"),
    "verdicts[].sure": ("boolean?", "whether the whole interval says the same"),
    "limited_by": (
        "{}",
        "shares of the makespan, largest first: serving (nobody waits), idle; and with requests waiting kv (no free "
        "blocks), max_num_seqs (no seat), compute (steps at the token budget), scheduling (none of these)",
    ),
    "bottleneck": (
        "string",
        "the largest of the last four; arrivals when requests waited less than a fifth of the time",
    ),
    "simulation.iterations": ("integer", "engine steps"),
    "simulation.wall_s": ("number", "time the kernel took on this computer, s"),
    "simulation.build_s": ("number", "time for checks and the step table, s"),
    "simulation.requests_per_s": ("number", "requests simulated per second of wall_s"),
    "simulation.iterations_per_s": ("number", "steps simulated per second of wall_s"),
    "notes": ("array", "what was changed or assumed about the traffic, in words"),
    "dropped_rows": ("array", "rows of the trace file that were left out, one line each"),
    "provenance.version": ("string", "version of Steelyard"),
    "provenance.inputs": ("{}", "everything that gives this answer again; `traffic` has the options of the load"),
    "provenance.hash": ("string", "hash of version and inputs"),
}

#: What a figure of a replay is: ``measured`` and ``simulated``.
_FIGURE = "each {measured, simulated, error_frac = simulated / measured - 1, interval_80, inside}"

REPLAY: dict[str, tuple[str, str]] = {
    "schema": ("string", "always steelyard.compare/1"),
    "kind": ("string", "replay"),
    "run": ("string", "name of the measured run"),
    "format": ("string", "what wrote the log"),
    "model": ("string", "name of the model"),
    "on": ("string", "machine and count"),
    "engine": ("string", "serving engine"),
    "load": ("string", "how the requests were sent, in words"),
    "requests": ("integer", "requests of the log"),
    "completed": ("integer", "those the simulation completed"),
    "measured_s": ("number?", "first arrival to last token as measured, s; null when the log does not say"),
    "simulated_s": ("number", "the same, simulated, s"),
    "ttft_s": ("{}", f"mean, p50, p90, p95, p99; {_FIGURE}, s"),
    "tpot_s": ("{}", "the same for the time per output token"),
    "e2e_s": ("{}", "the same from arrival to last token"),
    "throughput": ("{}", "the same for requests_per_s, input_tokens_per_s, output_tokens_per_s"),
    "preemptions": ("integer", "preemptions in the simulation"),
    "parting.where": ("string", "agree, queueing, first_token, step_time, preemption or unknown"),
    "parting.text": ("string", "the same in words"),
    "parting.parts_s": ("{}", "measured less simulated end-to-end time per request, taken apart, s"),
    "notes": ("array", "what was changed or assumed about the log, in words"),
    "provenance.version": ("string", "version of Steelyard"),
    "provenance.inputs": ("{}", "everything that gives the simulation again"),
    "provenance.hash": ("string", "hash of version and inputs"),
}
