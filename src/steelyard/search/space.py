"""The space of a question: every legal replica (machine, engine, formats, degrees), and the limits it may run with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.cost.encode import start_up_bytes
from steelyard.cost.kv_pool import kv_pool
from steelyard.cost.memory import step_bytes
from steelyard.cost.step import Replica
from steelyard.deployment.engine_config import EngineConfig, engine_config
from steelyard.deployment.formats import compute_with, find_format
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import DoesNotFit, InputError
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine
from steelyard.search.demand import Demand
from steelyard.search.options import Formats, Integers, ReplicaOption
from steelyard.workload.protocol import Workload

__all__ = ["BUDGETS", "SEQUENCES", "formats_of", "limits_of", "replica_options", "with_limits"]

#: Token budgets of a step (``max_num_batched_tokens``) to choose from, besides the engine's own default.
BUDGETS = (1024, 2048, 4096, 8192, 16384)
#: Requests in a step (``max_num_seqs``) to choose from.
SEQUENCES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: Tensor- and pipeline-parallel degrees to choose from; context parallelism only for prompts so long.
TENSOR, PIPELINE, CONTEXT = (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8), (1, 2, 4)
LONG_PROMPT = 16384
#: Ranks that share experts (attention data parallelism), at most.
MAX_EXPERT_RANKS = 72
#: Devices of one replica at most: what published deployments of the largest models use per pool.
MAX_REPLICA_DEVICES = 144


def formats_of(model: Workload, machine: Machine, weights: Sequence[str], kv: Sequence[str]) -> list[Formats]:
    """Formats the question allows and the machine computes in (a cache format needs no arithmetic of its own).

    Of several formats those of narrow weights and activations only where the machine has the arithmetic; the only one
    named is widened there, as engines do.
    """
    allowed = []
    for name in weights or ("",):
        try:
            plan = Plan(weights=name).resolved(model, machine)
            _, computed = compute_with(machine, plan.format("weight"), plan.format("activation"))
        except InputError:
            continue
        asked = find_format(name) if name else None
        narrow = asked is not None and asked.bits < 16 and asked.activations == asked.name
        if asked is not None and narrow and len(weights) > 1 and asked.math and computed not in asked.math:
            continue
        allowed += [Formats(name, cache) for cache in kv or ("",)]
    return allowed


def replica_options(
    base: Replica,
    formats: Formats,
    demand: Demand,
    *,
    exact_weights: int | None = None,
    max_devices: int | None = None,
) -> Iterator[ReplicaOption]:
    """Every legal replica of a model on a machine that can hold the longest request.

    Args:
        base: model, one device of the machine, engine and expert popularity; its plan has the engine's name.
        formats: number formats.
        demand: mean prompt and longest request.
        exact_weights: bytes of the published weights, where they are known.
        max_devices: most devices; None = :data:`MAX_REPLICA_DEVICES`.
    """
    machine = base.cluster.machine
    config = engine_config(base.engine, machine, {}, base.model)
    top = min(max_devices or MAX_REPLICA_DEVICES, MAX_REPLICA_DEVICES)
    for plan in _plans(base, formats, demand, top):
        pricer = replace(base, plan=plan, cluster=cluster_of(machine, plan.devices))
        option = with_limits(
            pricer, config, demand.longest_tokens, exact_weights=None if formats.weights else exact_weights
        )
        if option is not None:
            yield option


def _plans(base: Replica, formats: Formats, demand: Demand, top: int) -> Iterator[Plan]:
    """Degrees that divide the model, inside the nodes that make sense, in a fixed order; those the engine has."""
    model, node = base.model, base.cluster.per_node
    for tp in (1,) if base.engine.splits_layers else TENSOR:
        for cp in CONTEXT if demand.mean_prompt_tokens >= LONG_PROMPT else (1,):
            for pp in PIPELINE:
                if tp * cp > node or tp * cp * pp > top:
                    continue
                for dp, ep in _expert_degrees(model, tp, top // (tp * cp * pp)) if model.experts else [(1, 1)]:
                    if dp > 1 and (pp > 1 or cp > 1):
                        continue
                    plan = replace(base.plan, **formats._asdict(), tp=tp, pp=pp, dp=dp, ep=ep, cp=cp)
                    try:
                        check_sharding(model, plan)
                    except InputError:
                        continue
                    yield plan.resolved(model, base.cluster.machine)


def _expert_degrees(model: Workload, tp: int, ranks: int) -> list[tuple[int, int]]:
    """``(dp, ep)``: experts cut like the rest, spread over the tensor ranks, or shared by data-parallel ranks."""
    degrees = [(1, 1)]
    if tp > 1:
        degrees.append((1, tp))
    dp = 2
    while dp <= ranks and dp * tp <= MAX_EXPERT_RANKS:
        degrees.append((dp, dp * tp))
        dp *= 2
    return [(dp, ep) for dp, ep in degrees if ep == 1 or model.experts % ep == 0]


def limits_of(config: EngineConfig, longest_tokens: int) -> tuple[Integers, Integers]:
    """Token budgets and request limits to choose from; engines without chunked prefill need whole prompts in a step."""
    budgets = sorted({*BUDGETS, config.max_num_batched_tokens})
    if not config.enable_chunked_prefill:
        budgets = [b for b in budgets if b >= longest_tokens] or [longest_tokens]
    return np.array(budgets, dtype=np.int64), np.array(SEQUENCES, dtype=np.int64)


def _step_bytes(pricer: Replica, budgets: Integers, tokens: Any, rows: Any) -> Any:
    """Working memory of an engine's start under each pair of limits, ``[c, s]`` B."""
    model, plan, engine = pricer.model, pricer.plan, pricer.engine
    work = np.array(step_bytes(model, plan, tokens, rows, engine))
    if engine.profiles_images and model.towers:
        for i, budget in enumerate(budgets.tolist()):
            towers, kept = start_up_bytes(model, plan, pricer.cluster.machine, budget)
            work[i] = np.maximum(work[i], towers) + kept
    return work


def with_limits(
    pricer: Replica,
    config: EngineConfig,
    longest_tokens: int,
    *,
    exact_weights: int | None = None,
    limits: tuple[Integers, Integers] | None = None,
) -> ReplicaOption | None:
    """A replica with its cache under every pair of limits; None when none leaves room for the longest request.

    Args:
        pricer: the replica.
        config: flags of its engine.
        longest_tokens: most tokens of a prompt with its output.
        exact_weights: bytes of the weights, where they are known.
        limits: token budgets and request limits; None = those of :func:`limits_of`.
    """
    model, plan, machine = pricer.model, pricer.plan, pricer.cluster.machine
    budgets, sequences = limits_of(config, longest_tokens) if limits is None else limits
    small = replace(config, max_num_batched_tokens=int(budgets[0]), max_num_seqs=int(sequences[0]))
    try:
        kv = kv_pool(
            model, plan, machine, pricer.engine, small, exact_weights=exact_weights, longest=int(longest_tokens)
        )
        seats = kv.sequences
        if kv.apart:
            most = replace(small, max_num_seqs=int(sequences[-1]))
            seats = kv_pool(model, plan, machine, pricer.engine, most, exact_weights=exact_weights).sequences
    except DoesNotFit:
        return None
    context = model.max_context or int(budgets[-1])
    c, s = np.meshgrid(np.minimum(budgets, context), sequences, indexing="ij")
    rows = np.minimum(s, c)
    work = _step_bytes(pricer, budgets, c, rows)
    more = pricer.engine.working_frac(config.gpu_memory_utilization) * (work - work[0, 0])
    blocks = np.floor(kv.blocks - more / kv.block_bytes)
    if kv.slots:  # no more requests than there are states for
        if pricer.engine.states == "ahead":
            blocks = np.floor(blocks - (s - kv.slots) * kv.slot_bytes / kv.block_bytes)
        blocks = np.where(s <= max(seats, sequences[0]), blocks, 0.0)
    needed = -(-min(longest_tokens, kv.token_cap) // kv.block_tokens) + kv.fixed_blocks
    tokens = np.asarray(np.where(blocks >= needed, blocks * kv.block_tokens, 0.0), dtype=np.float64)
    return ReplicaOption(pricer, config, budgets, sequences, tokens, kv) if tokens.any() else None
