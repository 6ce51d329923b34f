"""The space of a question: every legal replica (machine, engine, formats, degrees), and the limits it may run with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.kv_pool import KvPool, kv_pool
from steelyard.cost.memory import activation_bytes
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig, engine_config
from steelyard.deployment.formats import compute_with, find_format
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import DoesNotFit, InputError
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.machine.component import Machine
from steelyard.workload.catalogue import Model
from steelyard.workload.protocol import Workload

__all__ = ["BUDGETS", "SEQUENCES", "Formats", "Replica", "formats_of", "limits_of", "replicas_of"]

Floats = NDArray[np.float64]

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


@dataclass(frozen=True, slots=True)
class Formats:
    """Number formats of a replica; empty = as published or 16 bit."""

    weights: str = ""
    kv: str = ""


@dataclass(frozen=True, eq=False)
class Replica:
    """One engine on its devices, with the cache it has left under each pair of limits."""

    cluster: Cluster
    engine: Engine
    plan: Plan
    """Resolved."""
    config: EngineConfig
    """The engine's flags without the limits."""
    budgets: NDArray[np.int64]
    """``[c]`` token budgets of a step."""
    sequences: NDArray[np.int64]
    """``[s]`` requests at once."""
    tokens: Floats
    """``[c, s]`` tokens the cache of one rank holds under these limits; below one request's, 0."""
    pool: KvPool
    """At the smallest limits."""

    @property
    def devices(self) -> int:
        """Devices of the replica, all ranks."""
        return self.plan.devices

    @property
    def ranks(self) -> int:
        """Engines of the replica that requests are dealt out to (attention data parallelism)."""
        return self.plan.dp

    @property
    def shape(self) -> str:
        """``tp4 pp2``; ``tp1 dp8 ep8``."""
        plan = self.plan
        parts = [f"tp{plan.tp}"]
        parts += [
            f"{name}{value}"
            for name, value in (("pp", plan.pp), ("dp", plan.dp), ("ep", plan.ep), ("cp", plan.cp))
            if value > 1
        ]
        return " ".join(parts)

    def flags(self, budget: int, sequences: int) -> dict[str, int]:
        """Engine flags of a pair of limits."""
        return {"max_num_seqs": int(sequences), "max_num_batched_tokens": int(budget)}


def formats_of(model: Workload, machine: Machine, weights: Sequence[str], kv: Sequence[str]) -> list[Formats]:
    """Formats the question allows and the machine computes in (a cache format needs no arithmetic of its own)."""
    found = []
    for name in weights or ("",):
        try:
            plan = Plan(weights=name).resolved(model.native_weights)
            _, computed = compute_with(machine, plan.format("weight"), plan.format("activation"))
        except InputError:
            continue
        if name and find_format(name).bits < 16 and find_format(name).activations == find_format(name).name:
            wanted = find_format(name).math  # weights and activations narrow: only where the machine has the arithmetic
            if wanted and computed not in wanted:
                continue
        found += [Formats(name, cache) for cache in kv or ("",)]
    return found


def replicas_of(
    model: Model,
    machine: Machine,
    engine: Engine,
    formats: Formats,
    *,
    longest: int,
    isl: float,
    max_devices: int | None,
) -> Iterator[Replica]:
    """Every legal replica on a machine that can hold the longest request.

    Args:
        model: the model. machine, engine, formats: the choices already made.
        longest: most tokens of a prompt with its answer. isl: mean prompt, tokens.
        max_devices: devices at most.
    """
    transformer = model.transformer
    node = cluster_of(machine, 1).per_node
    config = engine_config(engine, machine, {})
    exact = model.weight_bytes if not formats.weights else None
    top = min(max_devices or MAX_REPLICA_DEVICES, MAX_REPLICA_DEVICES)
    for plan in _plans(transformer, formats, engine.name, node, isl, top):
        cluster = cluster_of(machine, plan.devices)
        found = _limited(transformer, plan, cluster, engine, config, exact, longest)
        if found is not None:
            yield found


def _plans(model: Workload, formats: Formats, engine: str, node: int, isl: float, top: int) -> Iterator[Plan]:
    """Degrees that divide the model, inside the nodes that make sense, in a fixed order."""
    for tp in TENSOR:
        for cp in CONTEXT if isl >= LONG_PROMPT else (1,):
            for pp in PIPELINE:
                if tp * cp > node or tp * cp * pp > top:
                    continue
                for dp, ep in _expert_degrees(model, tp, node, top // (tp * cp * pp)) if model.experts else [(1, 1)]:
                    if dp > 1 and (pp > 1 or cp > 1):
                        continue
                    plan = Plan(formats.weights, "", formats.kv, "", tp, pp, dp, ep, cp, engine)
                    try:
                        check_sharding(model, plan)
                    except InputError:
                        continue
                    yield plan.resolved(model.native_weights)


def _expert_degrees(model: Workload, tp: int, node: int, ranks: int) -> list[tuple[int, int]]:
    """``(dp, ep)``: experts cut like the rest, spread over the tensor ranks, or shared by data-parallel ranks."""
    found = [(1, 1)]
    if tp > 1:
        found.append((1, tp))
    dp = 2
    while dp <= ranks and dp * tp <= MAX_EXPERT_RANKS:
        found.append((dp, dp * tp))
        dp *= 2
    return [(dp, ep) for dp, ep in found if ep == 1 or model.experts % ep == 0]


def limits_of(model: Workload, config: EngineConfig, longest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token budgets and request limits to choose from; whole prompts must fit a step of an engine that cannot cut."""
    budgets = sorted({*BUDGETS, config.max_num_batched_tokens})
    if not config.enable_chunked_prefill:
        budgets = [b for b in budgets if b >= longest] or [longest]
    return np.array(budgets, dtype=np.int64), np.array(SEQUENCES, dtype=np.int64)


def _limited(
    model: Workload,
    plan: Plan,
    cluster: Cluster,
    engine: Engine,
    config: EngineConfig,
    exact: float | None,
    longest: int,
) -> Replica | None:
    """The replica with its cache under every pair of limits; None when no pair leaves room for the longest request."""
    from dataclasses import replace

    budgets, sequences = limits_of(model, config, longest)
    small = replace(config, max_num_batched_tokens=int(budgets[0]), max_num_seqs=int(sequences[0]))
    try:
        pool = kv_pool(model, plan, cluster.machine, engine, small, exact_weights=exact)
    except DoesNotFit:
        return None
    context = model.max_context or int(budgets[-1])
    c, s = np.meshgrid(np.minimum(budgets, context), sequences, indexing="ij")
    work = np.asarray(activation_bytes(model, plan, c, np.minimum(s, c)), dtype=np.float64)
    more = engine.working_frac(config.gpu_memory_utilization) * (work - work[0, 0])
    blocks = np.floor(pool.blocks - more / pool.block_bytes)
    needed = -(-min(longest, pool.token_cap) // pool.block_tokens) + pool.fixed_blocks
    tokens = np.where(blocks >= needed, blocks * pool.block_tokens, 0.0)
    if not tokens.any():
        return None
    return Replica(cluster, engine, plan, config, budgets, sequences, np.asarray(tokens, dtype=np.float64), pool)
