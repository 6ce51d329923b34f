"""Steps that are more than a model's layers once, compiled: guessing, leaving early, adapters, finetuning beside.

``record``: one record of :data:`steelyard.simulation.kernel.methods.METHOD`. ``data``, ``layout``: tables of the model,
those of its draft behind them. The other arguments as of :func:`steelyard.cost.step_eval.device_cost`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.cost.step_eval import ROWS, _line, device_cost, launches_s, step_cost, verify_cost, whole_cost
from steelyard.simulation.kernel.lora_slots import adapter_of, count_adapter
from steelyard.simulation.kernel.state import State, Tech

__all__ = ["accepted_guesses", "choose_guesses", "guess_cost", "price_step", "price_worker", "queries_for"]

#: A draft works once per guess, once for all of them, or not at all.
EACH, ONCE, FREE = 1, 2, 3
#: Halvings of the search for the finetuning tokens that still fit.
HALVINGS = 12


@njit_inner
def queries_for(record: Any, guesses: int) -> int:
    """New tokens per decode of a step with so many guesses."""
    if guesses == 0:
        return 1
    return int(record.nodes + 1 if record.nodes > 0 else guesses + 1)


@njit_inner
def guess_cost(
    record: Any,
    data: Any,
    layout: Any,
    guesses: int,
    decodes: float,
    context: float,
    chunks: float,
    new: float,
    pairs: float,
) -> tuple[float, float]:
    """``(time, energy)`` of the draft in a step: its passes over the decodes, the first one with the prompts too."""
    base = record.draft_row
    if base == 0:
        return 0.0, 0.0
    if record.reads_prompts == 0:
        chunks, new, pairs = 0.0, 0.0, 0.0
    time, energy = 0.0, 0.0
    passes = guesses if record.guess == EACH else min(guesses, 1)
    if decodes == 0 or passes == 0:
        if chunks > 0:
            time, energy = device_cost(data, layout, base, new, 0.0, 0.0, 0.0, wide(1), chunks, new, pairs)
            time, energy = whole_cost(data, layout, base, time, energy, new, chunks, chunks)
        return time, energy
    block = max(record.block, 1)
    rows = decodes * block
    time, energy = device_cost(data, layout, base, rows + new, rows, decodes, context, block, chunks, new, pairs)
    time, energy = whole_cost(data, layout, base, time, energy, rows + new, decodes + chunks, chunks)
    if passes > 1:
        more, more_j = device_cost(data, layout, base, decodes, decodes, decodes, context, wide(1), 0.0, 0.0, 0.0)
        more, more_j = whole_cost(data, layout, base, more, more_j, decodes, decodes, 0.0)
        time += (passes - 1) * more
        energy += (passes - 1) * more_j
    return time, energy


@njit_inner
def expected_tokens(record: Any, guesses: int) -> float:
    """Expected tokens per sequence of a step."""
    if record.log_accept >= 0.0:
        return guesses + 1.0
    return (1.0 - math.exp(record.log_accept * (guesses + 1))) / (1.0 - math.exp(record.log_accept))


@njit_inner
def choose_guesses(record: Any, data: Any, layout: Any, decodes: float, context: float, most: int) -> int:
    """Guesses per sequence for a step of so many decodes: those with the most expected tokens per second."""
    apart()
    if record.guess == 0 or decodes == 0:
        return 0
    if record.fewest == record.most:
        return int(record.most) if record.most <= most else 0
    best, fastest = 0, 0.0
    for guesses in range(record.fewest, min(record.most, most) + 1):
        time = verify_cost(
            data, layout, wide(0), decodes, decodes, context, queries_for(record, guesses), 0.0, 0.0, 0.0
        )[0]
        time += guess_cost(record, data, layout, guesses, decodes, context, 0.0, 0.0, 0.0)[0]
        time += record.verify_s if guesses > 0 else 0.0
        rate = expected_tokens(record, guesses) / time
        if rate > fastest:
            best, fastest = guesses, rate
    return best


@njit_inner
def uniform(seed: int, request: int, token: int) -> float:
    """A number in (0, 1) that depends on its arguments alone (two rounds of splitmix64)."""
    x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(request) * np.uint64(0xD1B54A32D192ED03)
    x += np.uint64(token) * np.uint64(0x8CB92BA72F3D8DD7)
    for _ in range(2):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (float(x >> np.uint64(11)) + 0.5) * 2.0**-53


@njit_inner
def accepted_guesses(record: Any, request: int, token: int, guesses: int) -> int:
    """How many guesses are right: ``floor(log u / log a)``, at most all of them."""
    if guesses == 0 or record.log_accept >= 0.0:
        return guesses
    draw = math.log(uniform(record.seed, request, token)) / record.log_accept  # 0 when nothing is ever right
    return int(min(draw, float(guesses)))


@njit_inner
def _exiting(
    record: Any, data: Any, layout: Any, decodes: float, context: float, chunks: float, new: float, pairs: float
) -> tuple[float, float]:
    """``(time, energy)`` of the kernels of a step whose decodes may leave at ramps; prompts go through all layers.

    Ramps cut the layers into equal sections. Of the decodes a share ``(1 - exit)^j`` is still in the model at section
    ``j``. Without rebatching a section runs for all while any of them is; with it, for those that are left.
    """
    time, energy = 0.0, 0.0
    sections = record.ramps + 1
    alive = 1.0
    for j in range(sections):
        count, often = decodes, 1.0
        if record.rebatch:
            count = decodes * alive
            if count < 1.0:
                often, count = count, 1.0
        else:
            often = 1.0 - (1.0 - alive) ** decodes
        seen = context * count / decodes
        with_s, with_j = device_cost(data, layout, wide(0), count + new, 0.0, count, seen, wide(1), chunks, new, pairs)
        time += often * with_s / sections
        energy += often * with_j / sections
        if often < 1.0 and chunks > 0:
            without_s, without_j = device_cost(data, layout, wide(0), new, 0.0, 0.0, 0.0, wide(1), chunks, new, pairs)
            time += (1.0 - often) * without_s / sections
            energy += (1.0 - often) * without_j / sections
        if record.ramp_rows and j > 0:
            head_s, head_j = _line(data, layout, wide(ROWS), count)
            time += often * head_s
            energy += often * head_j
        alive *= 1.0 - record.exit_frac
    head_s, head_j = _line(data, layout, wide(ROWS), decodes + chunks)
    return time + head_s, energy + head_j


@njit_inner
def price_step(
    record: Any,
    data: Any,
    layout: Any,
    guesses: int,
    decodes: float,
    context: float,
    chunks: float,
    new: float,
    pairs: float,
    adapters: int,
    adapted: float,
    budget: float,
) -> tuple[float, float, float]:
    """``(time, energy of one device, finetuning tokens)`` of a step.

    ``adapters``: distinct ones among its requests, which have ``adapted`` new tokens; ``budget``: tokens the step has
    left.
    """
    apart()
    rows = decodes + chunks
    queries = queries_for(record, guesses)
    tokens = decodes * queries + new
    if record.ramps > 0 and decodes > 0:
        time, energy = _exiting(record, data, layout, decodes, context, chunks, new, pairs)
        time, energy = whole_cost(data, layout, wide(0), time, energy, tokens, rows, chunks)
    elif queries > 1:
        time, energy = verify_cost(data, layout, wide(0), rows, decodes, context, queries, chunks, new, pairs)
        time += record.verify_s
    else:
        time, energy = step_cost(data, layout, tokens, rows, decodes, context, chunks, new, pairs)
    if record.guess > 0:
        more, more_j = guess_cost(record, data, layout, guesses, decodes, context, chunks, new, pairs)
        time += more
        energy += more_j
    if adapters > 0:
        time += record.lora_step_s + record.lora_each_s * adapters + record.lora_token_s * adapted
        time = max(time, launches_s(data, layout, wide(0), tokens, chunks, record.lora_launch_s))
    trained = 0.0
    if record.limit_s > time and budget >= 1.0:
        low, high, best, best_j = 0.0, budget, time, energy
        for _ in range(HALVINGS):
            more_tokens = 0.5 * (low + high)
            work = more_tokens * record.train_work
            both, both_j = _beside(data, layout, record, work, decodes, context, queries, chunks, new, pairs, time)
            if both <= record.limit_s:
                low, best, best_j = more_tokens, both, both_j
            else:
                high = more_tokens
        trained = math.floor(low)
        time, energy = best, max(best_j, energy)
    return time, energy, trained


@njit_inner
def _beside(
    data: Any,
    layout: Any,
    record: Any,
    work: float,
    decodes: float,
    context: float,
    queries: int,
    chunks: float,
    new: float,
    pairs: float,
    alone: float,
) -> tuple[float, float]:
    """``(time, energy)`` of a step with ``work`` further prompt tokens of finetuning sequences."""
    sequences = max(1.0, work / record.train_context)
    more = work * min(record.train_context, work) * 0.5
    logits = decodes * queries + chunks + work / record.train_work
    time, energy = device_cost(
        data,
        layout,
        wide(0),
        decodes * queries + new + work,
        logits,
        decodes,
        context,
        queries,
        chunks + sequences,
        new + work,
        pairs + more,
    )
    time, energy = whole_cost(
        data, layout, wide(0), time, energy, decodes * queries + new + work, decodes + chunks, chunks + sequences
    )
    return max(time, alone), energy


@njit_inner
def price_worker(
    state: State, tech: Tech, cfg: Any, worker: int, decodes: int, context: float, chunks: int, new: int, pairs: float
) -> tuple[float, float]:
    """``(time, energy of one device)`` of the step a worker has chosen, where it is more than a model's layers once."""
    apart()
    replica = state.workers[worker].replica
    k = state.replicas[replica].pool
    record = tech.records[k]
    guesses = state.workers[worker].guesses if record.guess > 0 and decodes > 0 else 0
    queries = queries_for(record, guesses)
    adapters, adapted = wide(0), 0.0
    if record.max_loras > 0:
        stamp = int(state.totals[k].iterations)
        for j in range(state.workers[worker].count):
            slot = state.slots[worker, j]
            if slot.step_tokens > 0:
                adapter = adapter_of(tech, slot.request)
                if adapter >= 0:
                    adapters += count_adapter(tech, replica, adapter, stamp)
                    adapted += slot.step_tokens
    time, energy, trained = price_step(
        record,
        state.data,
        state.layout[k],
        guesses,
        float(decodes),
        context + decodes * (queries - 1.0),
        float(chunks),
        float(new),
        pairs,
        adapters,
        adapted,
        float(cfg.max_tokens - new - decodes * queries),
    )
    state.totals[k].guessed_tokens += guesses * decodes
    state.totals[k].trained_tokens += trained
    return time, energy
