"""The figures of answers: one table per verb, with what the JSON form, the results store and the reference pages say.

A line is ``path | type | unit | column | meaning``. Paths are those of the JSON answer, ``[]`` = each entry of a list.
A type that ends in ``?`` may be null, ``{}`` is an object with free keys, ``statistics`` an object of ``mean``,
``p50``, ``p90``, ``p95`` and ``p99``, each null when no request has the figure. The column is that of the store (``=``:
the path, ``*``: one for each statistic); an indented line goes on with the meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["STATISTICS", "Figure", "at_path", "figures_of"]

#: Statistics of a time over all requests.
STATISTICS = ("mean", "p50", "p90", "p95", "p99")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of an answer."""

    path: str
    type: str
    unit: str
    """``s``, ``B``, ``J``, ``W``, ``USD``, ``1/s``, ``1`` ...; empty where it says nothing."""
    columns: tuple[str, ...]
    """Columns of the store; the ends of an interval are two."""
    doc: str


def at_path(document: Any, path: str) -> Any:
    """What stands at a path of a JSON answer (``ttft_s.p99``, ``pools.0.devices``); None: nothing does."""
    for part in path.split("."):
        if isinstance(document, Mapping):
            document = document.get(part)
        elif isinstance(document, list) and part.isdigit() and int(part) < len(document):
            document = document[int(part)]
        else:
            return None
    return document


@cache
def figures_of(form: str) -> tuple[Figure, ...]:
    """The figures of ``estimate``, ``simulate``, ``plan``, or of a ``replay``."""
    found: list[Figure] = []
    for line in _TABLES[form].strip().splitlines():
        if line.startswith(" "):
            last = found.pop()
            found.append(Figure(last.path, last.type, last.unit, last.columns, f"{last.doc} {line.strip()}"))
            continue
        path, kind, unit, column, doc = (part.strip() for part in line.split(" | ", 4))
        names = tuple(path if c == "=" else c for c in column.split() if c != "-")
        if kind == "statistics":
            names = tuple(c.replace("*", cut) for c in names for cut in STATISTICS)
        found.append(Figure(path, kind, "" if unit == "-" else unit, names, doc))
    return tuple(found)


_TABLES = {
    "estimate": """
schema | string | - | - | always steelyard.estimate/2
model | string | - | - | name of the model
machine.name | string | - | - | catalogue name of the device
machine.title | string | - | - | full name of the device
machine.count | integer | - | - | devices
machine.per_node | integer | - | - | devices of one node
machine.nodes | integer | - | - | nodes used
machine.peer_network | string? | - | - | network inside a node
machine.inter_network | string? | - | - | network between nodes, when there are several
plan.weights | string | - | - | number format of the weights
plan.activations | string | - | - | number format of activations
plan.kv | string | - | - | number format of the KV cache
plan.communication | string | - | - | number format of collectives
plan.tp | integer | - | - | tensor-parallel degree
plan.pp | integer | - | - | pipeline-parallel degree
plan.dp | integer | - | - | data-parallel degree
plan.ep | integer | - | - | expert-parallel degree
plan.cp | integer | - | - | context-parallel degree
plan.devices | integer | - | - | devices used, tp x pp x dp x cp
engine | string | - | - | serving engine
batch | integer | - | - | requests in flight over the whole deployment
isl | integer | - | - | prompt tokens per request
osl | integer | - | - | generated tokens per request
skew | number | - | - | exponent of the power law of expert popularity
fits | boolean | - | = | whether everything fits the fullest device
memory_bytes.weights | number | B | memory_weights_bytes | weights on the fullest device, B
memory_bytes.kv_cache | number | B | memory_kv_cache_bytes | KV cache, B
memory_bytes.activations | number | B | memory_activations_bytes | activations of the largest step, B
memory_bytes.other | number | B | memory_other_bytes | libraries, buffers of communication, workspaces, B
memory_bytes.total | number | B | memory_total_bytes | all of these, B
memory_bytes.capacity | number | B | memory_capacity_bytes | what the engine may use of the device, B
memory_bytes.headroom | number | B | memory_headroom_bytes | capacity less total, negative when it does not fit, B
memory_parts_bytes.weights | {} | B | - | weights by part: attention, mlp, experts, embedding, head, vision tower ..., B
memory_parts_bytes.kv_cache | number | B | - | what the cache holds of tokens, B
memory_parts_bytes.state | number | B | - | recurrent state, which does not grow, B
memory_parts_bytes.activations | number | B | - | the largest step, B
memory_parts_bytes.libraries | number | B | - | libraries, buffers of communication, workspaces, B
memory_parts_bytes.headroom | number | B | - | as above
memory_parts_bytes.outside_the_share | {} | B | - | captured graphs, driver and context, memory left unused, B
engine_log | array | - | - | what the engine prints at start-up: name, value, unit (tokens, B, x = times, empty),
    and the 80 % interval where there is one; empty for an engine whose log is not known
largest_batch | integer | 1 | = | largest batch that fits at isl + osl tokens
largest_context | integer | 1 | = | largest context that fits at this batch, tokens
ttft_s | number | s | = | time to first token of the last prompt of the batch, s
interval.ttft_s | array | s | ttft_low_s ttft_high_s | 80 % interval, [low, high], s
ttft_single_s | number | s | = | time to first token of one request at an idle engine, s
tpot_s | number | s | = | time per decode step at the mean context, s
interval.tpot_s | array | s | tpot_low_s tpot_high_s | 80 % interval, [low, high], s
e2e_s | number | s | = | from arrival to the last token, s
interval.e2e_s | array | s | e2e_low_s e2e_high_s | 80 % interval, [low, high], s
tokens_per_s | number | 1/s | = | output tokens per second of the deployment
tokens_per_s_per_device | number | 1/s | = | the same per device
tokens_per_s_per_user | number | 1/s | = | 1 / tpot
energy_j.devices | number | J | energy_j | all devices, whole batch, J
energy_j.hosts | number | J | host_energy_j | all hosts, whole batch, J
energy_j_per_token | number | J | = | devices and hosts, J per output token
usd_per_device_hour | number? | USD/h | = | price used, USD per device and hour
usd_per_million_tokens | number? | USD | = | rent per million output tokens, USD; null without a price
price | string | - | = | class and date of the price
latency_s | number | s | - | of any workload: one pass or request from its start to its end, s
throughput_per_s | number | 1/s | - | items (requests, images) per second of the deployment
energy_j_per_item | number | J | - | devices and hosts, J per item
usd_per_million_items | number? | USD | - | rent per million items, USD; null without a price
peak_memory_bytes | number | B | - | most memory of the fullest device, B
macs | number | - | - | half of the arithmetic operations of one item
phases | array | - | - | name, repeats, time_s and limit_s of all repeats, and what bounds each
unknown_ops | array | - | - | ops of a network that are priced as traffic: op, count, bytes_frac
limit.ttft_s | number | s | limit_ttft_s | physical limit of the prefill, s
limit.tpot_s | number | s | limit_tpot_s | physical limit of a decode step, s
bound.prefill | string | - | bound_prefill | what bounds the prefill: compute, memory, network or overhead
bound.decode | string | - | bound_decode | what bounds a decode step
bound_shares.prefill | {} | - | - | share of the prefill by what bounds it
bound_shares.decode | {} | - | - | share of a decode step by what bounds it
parameters.total | integer | - | - | parameters of the model, its towers included
parameters.active | integer | - | - | parameters one token multiplies with
parameters.towers | {} | - | - | those of the encoders of images and sound, by name; only where there are any
structure | {} | - | - | only of a model whose type nobody described: parts (part, tensors, parameters, bytes, examples,
    priced_as), layer_bytes, not_understood_share
flops.prefill | number | - | - | operations of the prefill of the whole batch
flops.decode | number | - | - | operations of one decode step of the whole batch
assumptions | array | - | - | choices made for you, in words
sources | {} | - | - | what was used and where it is from
guesses | {} | - | - | figures used that nobody published, with the reason for each
remedy | {}? | - | - | the nearest change that fits, in words and as arguments; null when it fits
provenance.version | string | - | - | version of Steelyard
provenance.inputs | {} | - | - | arguments of steelyard.estimate that give this answer again
provenance.hash | string | - | - | hash of version and inputs
""",
    "simulate": """
schema | string | - | - | always steelyard.simulate/1
requests | integer | 1 | sent | requests of the trace
completed | integer | 1 | = | those that got their whole answer; all figures below are over these
rejected | integer | 1 | = | those longer than the model or than all of the KV cache
unfinished | integer | 1 | = | those left when the simulation was stopped
stopped | string | - | = | why it ended early; empty when it did not
makespan_s | number | s | = | from the first arrival to the end of the last step, s
ttft_s | statistics | s | ttft_*_s | arrival to first token, queueing included, s
tpot_s | statistics | s | tpot_*_s | (last - first token) / (osl - 1) of a request, s
itl_s | statistics | s | itl_*_s | single gaps between tokens, all requests together, s
e2e_s | statistics | s | e2e_*_s | arrival to last token, s
queue_s | statistics | s | queue_*_s | reaching the engine to the first step that works on the request, s
intervals | {}? | - | - | 80 % intervals, figure -> statistic -> [low, high] for the five above, `throughput`, `energy`,
    from two more runs with every step at the ends of its own interval; null when they were not asked for
throughput.requests_per_s | number | 1/s | requests_per_s | completed requests per second of makespan
throughput.input_tokens_per_s | number | 1/s | input_tokens_per_s | their prompt tokens per second
throughput.output_tokens_per_s | number | 1/s | output_tokens_per_s | their generated tokens per second
throughput.output_tokens_per_s_per_device | number | 1/s | output_tokens_per_s_per_device | the same per device
throughput.goodput_requests_per_s | number | 1/s | goodput_requests_per_s | completed within every limit of `slo`,
    per second
throughput.goodput_frac | number | 1 | goodput_frac | share of all requests that did
batch.mean | number | 1 | batch_mean | requests worked on in a step, mean over busy time
batch.max | number | 1 | batch_max | most in one step
in_system_mean | number | - | - | requests between arrival and last token, mean over the makespan
waiting_max | number | 1 | = | longest waiting queue of a replica
kv.blocks | integer | 1 | kv_blocks | KV blocks of one replica
kv.block_tokens | integer | - | - | tokens of a block
kv.mean_frac | number | 1 | kv_mean_frac | share of the blocks held, mean over busy time
kv.max_frac | number | 1 | kv_max_frac | largest share held
prefix_cache.hit_tokens | integer | - | - | prompt tokens not computed because their prefix was cached
prefix_cache.hit_frac | number | 1 | prefix_hit_frac | their share of all prompt tokens admitted, recomputed ones
    included
preemptions | integer | 1 | = | times a request lost its cache for want of blocks
idle_frac | number | 1 | = | share of the makespan without a step, mean over replicas
pools[].role | string | - | - | both, prefill, decode, encode or feed_forward
pools[].machine | string | - | - | catalogue name of its device
pools[].replicas | integer | - | - | copies
pools[].devices | integer | - | - | devices of all copies
pools[].compute_frac | number | - | - | share of their arithmetic; below 1 when two pools share devices (semi-PD)
pools[].plan | {} | - | - | tp, pp, dp, ep, cp of one copy
pools[].busy_frac | number | - | - | share of the makespan with a step, mean over schedulers
pools[].iterations | integer | - | - | its steps
pools[].prefill_tokens | integer | - | - | prompt tokens it computed, recomputed ones included
pools[].decode_tokens | integer | - | - | tokens its decodes computed
pools[].batch | {} | - | - | as above: mean, max
pools[].kv | {} | - | - | as above: blocks, block_tokens, mean_frac, max_frac; states, where the model has recurrent
    ones: slots (kept at once), slot_bytes of one on a device, max_num_seqs (requests that may run for them, null = no
    limit of theirs); engine_log: what each engine prints of its cache (memory_bytes, tokens, interval,
    max_concurrency, for_tokens; longest: where no request of that length fits; state_slots, max_num_seqs), null where
    it keeps none
pools[].memory_bytes | {}? | B | - | of a device: weights, working set of a step, both before_cache, and its
    kv_cache, B; null where a technique has pools of another kind, or nobody says what the encoders are
pools[].waiting_max | number | - | - | longest waiting queue of one of its replicas
pools[].preemptions | integer | - | - | as above
pools[].sent.requests | integer | - | - | caches it sent to another pool
pools[].sent.bytes | number | - | - | their size, B
pools[].sent.mean_s | number | - | - | from the request for one to its last byte, mean, s
pools[].energy_j | number | - | - | its devices, J
pools[].host_energy_j | number | - | - | their share of the hosts, J
pools[].usd | number? | - | - | its rent, USD; null without a price
pools[].rented_replicas_mean | number | - | - | copies rented, mean over the makespan; less than all when it scales
pools[].failures | integer | - | - | times one of its replicas went down
pools[].interrupted | integer | - | - | requests that ran there then and began anew
pools[].migrations | integer | - | - | running requests that moved to another of its replicas
encode_s | statistics | s | - | where requests show images or sounds: reading them, part of the time to first token, s
priorities[].priority | integer | - | - | where requests have priorities: which, smaller first
priorities[].requests | integer | - | - | that have it
priorities[].ttft_s | statistics | s | - | their time to first token, s
priorities[].tpot_s | statistics | s | - | their time per output token, s
priorities[].e2e_s | statistics | s | - | their time from arrival to last token, s
priorities[].preemptions | integer | - | - | times one of them gave way
extras.guessed_tokens | integer | - | - | guesses verified (speculation)
extras.accepted_tokens | integer | - | - | those that became tokens of answers
extras.accepted_frac | number? | - | - | their share; null when none was made
extras.tokens_per_step | number? | - | - | tokens that a decode adds to an answer per step; 1 without speculation
extras.loaded_tokens | integer | - | - | prompt tokens whose cache came from a lower level
extras.loaded_bytes | number | - | - | their cache on all devices of a replica, not compressed, B
extras.swapped_tokens | integer | - | - | tokens of requests that gave way whose cache went to the first level
extras.swapped_bytes | number | - | - | their cache, B
extras.adapter_loads | integer | - | - | times an adapter was brought to a replica
extras.adapter_waits | integer | - | - | times a request was passed over because every place for adapters was in use
extras.trained_tokens | integer | - | - | finetuning tokens that filled steps
extras.trained_tokens_per_s | number | - | - | the same per second of makespan
groups.branches | integer | - | - | answers or beams per prompt
groups.ttft_s | statistics | s | - | arrival of a prompt to its first token, s
groups.e2e_s | statistics | s | - | arrival of a prompt to the last token of all its answers, s
workflows.count | integer | - | - | only of a workflow file: workflows that were begun
workflows.completed | integer | - | - | those whose every call was answered; the figures below are per one of them
workflows.calls_each | number | - | - | calls of one
workflows.completion_s | statistics | s | - | its beginning to the last token of its last call, s
workflows.per_s | number | - | - | completed ones per second of makespan
workflows.input_tokens_each | number | - | - | prompt tokens of its calls together
workflows.output_tokens_each | number | - | - | generated tokens of its calls together
workflows.cached_tokens_each | number | - | - | of the prompt tokens, those found in the prefix cache
workflows.usd_each | number? | - | - | rent of all devices over the makespan for each, USD; null without a price
workflows.energy_j_each | number? | - | - | energy of all devices over the makespan for each, J
energy_j | number | J | = | all devices over the makespan, idle time included, J
host_energy_j | number | J | = | their share of the hosts over the makespan, J
energy_j_per_output_token | number? | J | = | devices, J per generated token
usd | number? | USD | = | rent of all devices over the makespan, USD; null without a price
usd_per_million_output_tokens | number? | USD | = | the same per million generated tokens, USD
slo | {} | - | - | limits that goodput counts: any of ttft_s, tpot_s, max_itl_s, e2e_s, s
capacity_rps | number? | 1/s | = | only with `capacity`: the largest rate at which every SLO holds and the queue does
    not grow, in the unit of `rate`; all other figures are at that rate. 0 where no rate holds
capacity.interval_rps | array | - | - | 80 % interval, [low, high]: the same with every step at the ends of its own
capacity.unit | string | - | - | requests, conversations or workflows
capacity.first_missed | string? | - | - | what the next higher rate misses: an SLO such as TTFT p99, queue or completion
capacity.runs | integer | - | - | simulations it took
verdicts[].metric | string | - | - | ttft_s, tpot_s, itl_s, max_itl_s or e2e_s
verdicts[].statistic | string | - | - | mean or a percentile such as p99
verdicts[].limit_s | number | - | - | the limit of the SLO, s
verdicts[].value_s | number? | - | - | what came out, s; null when no request has the figure
verdicts[].interval_s | array? | - | - | 80 % interval of the value, [low, high], s; null when not asked for
verdicts[].met | boolean | - | - | whether the value is within the limit
verdicts[].sure | boolean? | - | - | whether the whole interval says the same
limited_by | {} | - | - | shares of the makespan, largest first: serving (nobody waits), idle; and with requests
    waiting kv (no free blocks), max_num_seqs (no seat), compute (steps at the token budget), scheduling (none of
    these)
bottleneck | string | - | - | the largest of the last four; arrivals when requests waited less than a fifth of the
    time
simulation.iterations | integer | - | - | engine steps
simulation.wall_s | number | - | - | time the kernel took on this computer, s
simulation.build_s | number | - | - | time for checks and the step table, s
simulation.requests_per_s | number | - | - | requests simulated per second of wall_s
simulation.iterations_per_s | number | - | - | steps simulated per second of wall_s
notes | array | - | - | what was changed or assumed about the traffic, in words
assumptions | array | - | - | choices made for you, in words, the defaults first
dropped_rows | array | - | - | rows of the trace file that were left out, one line each
provenance.version | string | - | - | version of Steelyard
provenance.inputs | {} | - | - | everything that gives this answer again; `traffic` has the options of the load
provenance.hash | string | - | - | hash of version and inputs
""",
    "plan": """
feasible | boolean | - | = | whether any deployment meets the SLOs
machine | string | - | = | of the winner
devices | integer | 1 | = | of the winner
engine | string | - | = | of the winner
mode | string | - | = | one pool, or prompts and answers apart
shape | string | - | = | replicas and degrees
usd_per_hour | number | USD/h | = | rent of all devices
usd_per_million_tokens | number | USD | = | rent per million output tokens at the traffic
watts | number | W | = | devices and hosts at the traffic
ttft_s | number | s | = | at the percentile of the SLO
tpot_s | number | s | = | at the percentile of the SLO
e2e_s | number | s | = | at the percentile of the SLO
tokens_per_s_per_device | number | 1/s | = | output tokens per device at the largest rate
tokens_per_s_per_user | number | 1/s | = | output tokens one request sees
carbon_g_per_hour | number | 1 | = | carbon, g/h
max_rate_per_s | number | 1/s | = | most requests per second it holds
max_concurrency | integer? | 1 | = | most users who wait for their answers that it holds; null where a rate was asked
candidates | integer | 1 | = | deployments looked at
simulated | integer | 1 | = | deployments simulated
""",
    "replay": """
schema | string | - | - | always steelyard.compare/1
kind | string | - | - | replay
run | string | - | - | name of the measured run
format | string | - | - | what wrote the log
model | string | - | - | name of the model
on | string | - | - | machine and count
engine | string | - | - | serving engine
load | string | - | - | how the requests were sent, in words
requests | integer | - | - | requests of the log
completed | integer | - | - | those the simulation completed
measured_s | number? | - | - | first arrival to last token as measured, s; null when the log does not say
simulated_s | number | - | - | the same, simulated, s
ttft_s | {} | - | - | mean, p50, p90, p95, p99; each {measured, simulated, error_frac = simulated / measured - 1,
    interval_80, inside}, s
tpot_s | {} | - | - | the same for the time per output token
e2e_s | {} | - | - | the same from arrival to last token
throughput | {} | - | - | the same for requests_per_s, input_tokens_per_s, output_tokens_per_s
preemptions | integer | - | - | preemptions in the simulation
parting.where | string | - | - | agree, queueing, first_token, step_time, preemption or unknown
parting.text | string | - | - | the same in words
parting.parts_s | {} | - | - | measured less simulated end-to-end time per request, taken apart, s
notes | array | - | - | what was changed or assumed about the log, in words
provenance.version | string | - | - | version of Steelyard
provenance.inputs | {} | - | - | everything that gives the simulation again
provenance.hash | string | - | - | hash of version and inputs
""",
    "train": """
schema | string | - | - | always steelyard.train/1
model | string | - | - | name of the model
machine.name | string | - | - | catalogue name of the device
machine.title | string | - | - | full name of the device
machine.count | integer | - | - | devices
machine.per_node | integer | - | - | devices of one node
machine.nodes | integer | - | - | nodes used
plan | {} | - | - | the layout: degrees, zero, shard, schedule, mbs, gbs, seq, ring, offload, docs, task, micro_batches,
    sequence_parallel, recompute, precision, optimizer, devices
layout | string | - | = | the same in words: degrees above 1, micro-batch, ZeRO, what is computed again
fits | boolean | - | = | whether the fullest stage fits its devices
step_s.value | number | s | step_s | time of a step, s
step_s.low | number | s | step_low_s | 80 % interval
step_s.high | number | s | step_high_s | 80 % interval
tokens_per_step | number | 1 | = | tokens, or items of a network, of a step
tokens_per_s | number | 1/s | = | of all devices
tokens_per_s_per_device | number | 1/s | = | of one device
model_tflops_per_device | number | 1 | = | 1e12 operations of the model a second and device; computed again not counted
mfu_frac | number | 1 | = | operations of the model over what the devices could do
hfu_frac | number | 1 | = | the same with what is computed again
breakdown_s | {} | s | - | time of a step by part: gemm, attention, elementwise, head_loss, recompute, tp, cp, ep,
    pp_bubble, pp_send, dp, optimizer, host, offload
memory_bytes | array | B | - | of every stage: stage, layers, weights, gradients, optimizer, activations, logits,
    buffers, allocated, reserved, capacity, headroom
peak_stage | integer | - | - | the stage that holds most
peak_memory_bytes | number | B | = | what it reserves
techniques | array | - | - | techniques on the scenario, in words
energy_j_per_token | number | J | = | devices and hosts
usd_per_device_hour | number? | USD/h | = | price used
usd_per_trillion_tokens | number? | USD | = | rent; null without a price, and of what does not fit
run | {}? | - | - | of a run whose length was given and that fits, null else: the figures below, and tokens, ideal_days,
    mtbf_s, shares, checkpoint_interval_s, checkpoint_stall_s, checkpoint_bytes, checkpoints_kept_bytes,
    storage_bytes_per_s, failures
run.steps | number | 1 | steps | steps of the run
run.days | {} | d | days_p10 days days_p90 | days: p10, p50, p90 (so many percent of runs end by then)
run.usd | {}? | USD | usd_p10 usd usd_p90 | money, the same; null without a price
run.kwh | {} | kWh | kwh_p10 kwh kwh_p90 | electricity of devices and hosts, the same
run.kgco2 | {}? | kg | kgco2_p10 kgco2 kgco2_p90 | its carbon dioxide, the same; null without `carbon`
run.ettr_frac | number | 1 | ettr_frac | time of steps that end up in the model, of all
run.interruptions | number | 1 | interruptions | failures that are expected in the run
run.chance_by | number | 1 | chance_by | where a deadline was given: chance to keep it
run.chance_within_budget | number? | 1 | chance_within_budget | where a budget was given: chance to keep it
rl | {}? | - | - | of a task that learns from scored answers, the whole step (step_s above is an update): task, step_s
    and its ends, parts_s (rollout, switch, policy, reference, critic, reward, train, weights), updates, answers,
    tokens, output_tokens, tokens_per_s, devices, stale, idle_frac (train, rollout), energy_j, usd, rollouts (machine,
    engine, degrees, time_s, half_done_s, tokens, idle_frac, batch_mean, memory_frac, away_bytes)
rl.step_s.value | number | s | rl_step_s | time of the whole step, s
rl.tokens_per_s | number | 1/s | rl_tokens_per_s | prompts and answers over the step, of all devices
rl.usd | number? | USD | rl_usd | rent of a step; null without a price, and of what does not fit
across | string | - | - | how devices of several kinds work together: replicas, stages; empty: they are of one kind
kinds | array | - | - | of devices of several kinds, what each does in a step: machine, devices, plan, sequences,
    layers, busy_s, waits_s, energy_j, rent_usd_per_hour, capacity_bytes, peak_memory_bytes, memory_bytes of its
    stages (memory_bytes above is of the kind whose memory is fullest)
framework.name | string | - | - | what trains it
framework.version | string | - | - | its version
framework.facts | {} | - | - | what it does by itself, as used
limit.step_s | number | s | - | physical limit of a step
interval | {} | - | - | 80 % intervals, [low, high], by figure
assumptions | array | - | - | choices made for you, in words
sources | {} | - | - | what was used and where it is from
guesses | {} | - | - | figures used that nobody published, with the reason for each
provenance | {} | - | - | version, inputs and their hash
""",
}
