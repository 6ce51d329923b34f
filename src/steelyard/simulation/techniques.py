"""Speculation, adapters, lower cache levels, early exit, finetuning and overlap together: from words to the kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step import Replica
from steelyard.cost.step_table import OVERLAPS, StepTable, Tables, build_step_table
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import Plan
from steelyard.errors import DoesNotFit, InputError, Problem, raise_all, suggest
from steelyard.machine.cluster import Cluster
from steelyard.simulation.kernel.methods import PAST_BINS, SEAT, TIER, Methods, no_methods
from steelyard.simulation.kernel.state import UNIT
from steelyard.techniques.adapters import Adapters, adapter_cost, draw_adapters, parse_adapters
from steelyard.techniques.early_exit import EarlyExit, parse_early_exit
from steelyard.techniques.finetune import Finetune, parse_finetune
from steelyard.techniques.speculate import METHODS, Speculation, draft_of, parse_speculation, with_draft
from steelyard.techniques.tiers import KINDS, Tier, parse_tiers, tier_arrays
from steelyard.traffic.trace import Trace
from steelyard.workload.protocol import Workload

__all__ = ["Extras", "Fitted", "fit", "kernel_methods", "levels_of", "read_extras", "with_adapters"]


@dataclass(frozen=True, slots=True)
class Extras:
    """What an engine does beyond scheduling; the default: nothing."""

    speculate: Speculation | None = None
    adapters: Adapters | None = None
    tiers: tuple[Tier, ...] = ()
    swap: bool = False
    """Requests that give way may leave their cache on the first level instead of losing it."""
    early_exit: EarlyExit | None = None
    finetune: Finetune | None = None
    overlap: str = ""
    """A name of :data:`~steelyard.cost.step_table.OVERLAPS`."""

    def __post_init__(self) -> None:
        problems = _unknown_overlap(self.overlap)
        if self.early_exit and self.speculate:
            problems.append(Problem("early_exit", "not together with speculation: verification needs all layers"))
        if self.swap and not self.tiers:
            problems.append(Problem("kv_tiers", "swap needs a level to swap to: cpu:200GB,swap"))
        raise_all(problems)

    def __bool__(self) -> bool:
        return self != Extras()

    @property
    def queries(self) -> tuple[int, int]:
        """Tokens per decode that steps may have, for the step table."""
        return self.speculate.queries if self.speculate else (1, 1)


def _unknown_overlap(name: str) -> list[Problem]:
    if name in OVERLAPS[:3]:
        return []
    near = suggest(name, OVERLAPS[1:3], 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(OVERLAPS[1:3])}"
    return [Problem("overlap", f"unknown overlap {name!r}{hint}")]


def read_extras(
    *,
    speculate: str = "",
    lora: str = "",
    kv_tiers: str = "",
    early_exit: str = "",
    finetune: str = "",
    overlap: str = "",
) -> Extras:
    """Read the words of each: see ``parse_speculation``, ``parse_adapters``, ``parse_tiers`` (and ``swap`` among its
    levels), ``parse_early_exit``, ``parse_finetune``; ``overlap``: ``nanoflow`` or ``tokenweave``.

    Raises:
        InputError: every problem at once.
    """
    problems = _unknown_overlap(overlap.strip().lower())
    found: dict[str, Any] = {"overlap": overlap.strip().lower()}
    levels = [p.strip() for p in kv_tiers.split(",") if p.strip()]
    if "swap" in levels:
        levels.remove("swap")
        found["swap"] = True
    readers = (
        ("speculate", parse_speculation, speculate),
        ("adapters", parse_adapters, lora),
        ("tiers", parse_tiers, ",".join(levels)),
        ("early_exit", parse_early_exit, early_exit),
        ("finetune", parse_finetune, finetune),
    )
    for name, read, text in readers:
        if text.strip():
            try:
                found[name] = read(text)
            except InputError as error:
                problems += error.problems or (Problem(name, str(error)),)
    raise_all(problems)
    return Extras(**found)


def with_adapters(trace: Trace, extras: Extras, seed: int = 0) -> Trace:
    """The trace with an adapter drawn for every request, unless it says them itself."""
    if extras.adapters is None or trace.adapter is not None:
        return trace
    drawn = draw_adapters(extras.adapters, len(trace), seed)
    return replace(trace, adapter=drawn.astype(np.int64))


@dataclass(frozen=True, eq=False)
class Fitted:
    """Extras on one pool: its tables, its record for the kernel, its smaller cache, what was assumed."""

    table: StepTable
    """The model's, that of its draft behind it."""
    record: Any
    kv: KvPool
    notes: tuple[str, ...] = ()
    guesses: Mapping[str, str] = field(default_factory=dict)


def fit(
    extras: Extras,
    model: Workload,
    plan: Plan,
    cluster: Cluster,
    engine: Engine,
    config: EngineConfig,
    kv: KvPool,
    *,
    max_context: int,
    skew: float = 0.0,
    seed: int = 0,
    trace: Trace | None = None,
) -> Fitted:
    """Price the extras on a pool.

    Args:
        extras: what is used. model, plan, cluster, engine, config, max_context, skew: as of
            :func:`~steelyard.cost.step_table.build_step_table`; ``plan`` is that of one replica.
        kv: the cache without them: drafts and resident adapters take their memory from it.
        seed: of the draws. trace: to check its adapters against.

    Raises:
        InputError: a draft or adapter the model cannot have. DoesNotFit: they leave no memory for the cache.
    """
    table = build_step_table(
        Replica(model, plan, cluster, engine, skew),
        config,
        max_context=max_context,
        queries=extras.queries,
        overlap=extras.overlap,
    )
    if extras.speculate is not None and config.rules.static:
        raise InputError("a static batch writes one token per step and sequence", field="speculate")
    tables, record, beside, per_token = table.tables, no_methods()[0], 0.0, 0.0
    notes: list[str] = []
    sources, guesses = dict(table.sources), {}
    record["seed"] = seed
    if extras.speculate is not None:
        s = extras.speculate
        draft = draft_of(s, model, plan)
        tables = with_draft(table, s, draft, cluster, engine, config, max_context=max_context)
        s.record(record, draft is not None)
        if draft is not None:
            beside, per_token = draft.weight_bytes, draft.kv_bytes_per_token
            notes.append(f"guesses by a {draft.note}; its passes are part of the step's graph")
        if s.assumed:
            guesses["speculation accept"] = f"{s.accept:g} per token: {METHODS[s.guesser].source}"
        words = f"{0 if s.adaptive else s.tokens}{f' to {s.tokens}' if s.adaptive else ''} guesses per step"
        notes.append(f"speculation: {words}, each right with probability {s.right:g} given those before it")
    if extras.adapters is not None:
        cost = adapter_cost(extras.adapters, model, plan, cluster)
        cost.record(record, extras.adapters.max_loras)
        beside += cost.bytes * extras.adapters.max_loras
        notes.append(
            f"{extras.adapters.count} adapters of rank {extras.adapters.rank}, {cost.bytes / 1e6:,.1f} MB each on a "
            f"device, {extras.adapters.max_loras} resident"
        )
        guesses["adapter kernels"] = "2.5 us per thin product and 60 % of bandwidth for gathered weights"
        if trace is not None and trace.adapter is not None and int(trace.adapter.max()) >= extras.adapters.count:
            message = f"the trace asks for adapter {int(trace.adapter.max())}, there are {extras.adapters.count}"
            raise InputError(message, field="lora")
    if extras.tiers:
        record["tiers"], record["swap"], record["plain"] = len(extras.tiers), int(extras.swap), 0
        for tier in extras.tiers:
            sources[f"cache level {tier.kind}"] = KINDS[tier.kind].source
        notes.append("levels of the cache: writes run behind the steps; a load waits for its link")
    if extras.early_exit is not None:
        extras.early_exit.record(record)
        notes.append("early exit: keys and values of skipped layers are filled in for free; quality is not predicted")
    if extras.finetune is not None:
        extras.finetune.record(record)
        notes.append(
            f"finetuning fills steps up to {extras.finetune.limit_s * 1e3:g} ms, two forward passes of work per token"
        )
    if extras.overlap:
        notes.append(f"kernels overlap as {extras.overlap} does, where that is faster than one after another")
    table = replace(table, tables=tables, sources=sources)
    return Fitted(table, record, smaller(kv, beside, per_token), tuple(notes), guesses)


def smaller(kv: KvPool, beside: float, per_token: float) -> KvPool:
    """The cache when ``beside`` bytes of a device go elsewhere and every token takes ``per_token`` bytes more.

    Raises:
        DoesNotFit: no block is left.
    """
    if kv.overridden or (beside == 0 and per_token == 0):
        return kv
    each = kv.block_bytes + per_token * kv.block_tokens
    blocks = math.floor((kv.blocks * kv.block_bytes - beside) / each)
    if blocks < 1 + kv.fixed_blocks:
        short = (1 + kv.fixed_blocks) * each - (kv.blocks * kv.block_bytes - beside)
        raise DoesNotFit(
            f"draft or adapters leave no memory for the KV cache: {short / 2**30:,.1f} GiB short on each device",
            change="a smaller draft, fewer resident adapters, more devices",
        )
    return replace(kv, blocks=blocks)


def levels_of(extras: Extras, pools: Sequence[tuple[Cluster, Plan, KvPool, int]], units: int) -> tuple[Any, Any, Any]:
    """The kernel's arrays of cache levels for pools of ``(cluster, plan of a replica, cache, replicas)``.

    A shared level is shared by the replicas of one pool.
    """
    tiers, rows, below = [], [], []
    begin = 0
    for cluster, plan, kv, replicas in pools:
        if kv.block_bytes <= 0:  # encoders
            rows.append(np.zeros((replicas, len(extras.tiers)), dtype=np.int64))
            continue
        own, where, held = tier_arrays(extras.tiers, cluster, plan, kv, replicas, units)
        tiers.append(own)
        rows.append(where + begin)
        below.append(held)
        begin += len(own)
    return np.concatenate(tiers), np.concatenate(rows), np.concatenate(below)


def kernel_methods(
    records: Sequence[Any],
    tables: Tables,
    trace: Trace,
    extras: Extras,
    *,
    replicas: int,
    units: int,
    levels: tuple[Any, Any, Any] | None = None,
) -> Methods:
    """The kernel's arrays.

    Args:
        records: of every pool. tables: data, and the layout ``[pool, table, 4]``.
        trace: its adapters. extras: whether there are any.
        replicas: of all pools. units: prefix units. levels: what ``levels_of`` made.
    """
    z = np.array(list(records)) if len(records) else no_methods()
    n = len(trace)
    seats = np.zeros((replicas, max(1, int(z["max_loras"].max()))), dtype=SEAT)
    seats["adapter"] = seats["stamp"] = -1
    count = extras.adapters.count if extras.adapters is not None else 1
    asked = np.full(1, -1, dtype=np.int32)
    if extras.adapters is not None and trace.adapter is not None:
        asked = trace.adapter.astype(np.int32)
    none = (np.zeros(1, dtype=TIER), np.zeros((replicas, 1), dtype=np.int64), np.zeros((1, 1), dtype=UNIT))
    tiers, rows, below = levels or none
    return Methods(
        z=z,
        data=tables.data,
        layout=tables.layout,
        adapter_of=asked,
        seats=seats,
        seat_of=np.full((replicas, count), -1, dtype=np.int32),
        seat_free=np.zeros(replicas),
        tiers=tiers,
        tier_rows=rows,
        below=below,
        swapped=np.zeros(n if extras.swap else 1, dtype=np.int32),
        past=np.zeros((1, 4, PAST_BINS)),
    )
