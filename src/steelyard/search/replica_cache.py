"""Screen prices, step tables and caches of the replicas of one model and traffic: made once, whatever the SLOs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.cost.encode import Encoder
from steelyard.cost.interval import with_system
from steelyard.cost.kv_pool import KvPool, kv_pool, seated
from steelyard.cost.step_table import StepTable, build_step_table, staged
from steelyard.deployment.engine_config import EngineConfig
from steelyard.errors import DoesNotFit
from steelyard.machine.cluster import cluster_of
from steelyard.search.options import PoolOption, ReplicaOption
from steelyard.search.prices import StepPrices
from steelyard.workload.transformer import Step

__all__ = ["ReplicaCache"]

#: Limits for which step tables are built at least, so that few are built twice.
BUDGET, SEQUENCES = 8192, 256


@dataclass(eq=False)
class ReplicaCache:
    """What was computed for replicas. Stages of a pipeline have the kernels of the whole and share its figures."""

    prices: dict[Any, StepPrices] = field(default_factory=dict)
    """Of the screen."""
    encoders: dict[Any, Encoder] = field(default_factory=dict)
    """What reads the images of requests."""
    _spreads: dict[Any, float] = field(default_factory=dict)
    _bases: dict[Any, tuple[int, int, StepTable]] = field(default_factory=dict)
    _tables: dict[Any, StepTable] = field(default_factory=dict)
    _caches: dict[Any, tuple[EngineConfig, KvPool] | None] = field(default_factory=dict)

    @staticmethod
    def key(replica: ReplicaOption) -> tuple[Any, ...]:
        """What replicas share that differ in their pipeline only."""
        return replica.machine, replica.engine.name, replace(replica.plan, pp=1)

    def spread(self, replica: ReplicaOption, context: int) -> float:
        """Spread of a step's time, of a step that decodes: what its step table will have, near enough for a screen."""
        name = self.key(replica)
        if name not in self._spreads:
            plan = replace(replica.plan, pp=1)
            pricer = replace(replica.pricer, plan=plan, cluster=cluster_of(replica.cluster.machine, plan.devices))
            cost = pricer.price(Step.decode(32, max(1, context // 2)), absorb=True).cost
            self._spreads[name] = float(with_system(cost.log_spread())) * replica.engine.moved.step_spread
        return self._spreads[name]

    def table(self, pool: PoolOption, max_context: int) -> StepTable:
        """Step times of a replica of the pool, up to the pool's limits at least."""
        r, name = pool.replica, self.key(pool.replica)
        known = self._bases.get(name)
        if known is None or known[0] < pool.budget or known[1] < pool.sequences:
            budget, sequences = max(pool.budget, BUDGET), max(pool.sequences, SEQUENCES)
            if known is not None:
                budget, sequences = max(budget, known[0]), max(sequences, known[1])
            config = replace(r.config, max_num_batched_tokens=budget, max_num_seqs=sequences)
            plan = replace(r.plan, pp=1)
            pricer = replace(r.pricer, plan=plan, cluster=cluster_of(r.cluster.machine, plan.devices))
            table = build_step_table(pricer, config, max_context=max_context)
            self._bases[name] = (budget, sequences, table)
            self._tables = {k: t for k, t in self._tables.items() if k[0] != name}
        key = (name, r.plan.pp)
        if key not in self._tables:
            budget, sequences, base = self._bases[name]
            if np.any(r.pricer.pieces_frac(budget) < 1.0):  # pieces of a prompt in every stage at once
                config = replace(r.config, max_num_batched_tokens=budget, max_num_seqs=sequences)
                self._tables[key] = build_step_table(r.pricer, config, max_context=max_context)
            else:
                self._tables[key] = staged(base, r.pricer)
        return self._tables[key]

    def cache(self, pool: PoolOption, exact_weights: int | None, longest: int) -> tuple[EngineConfig, KvPool] | None:
        """Flags and KV cache of a replica of the pool; None when nothing is left for the cache.

        Args:
            pool: the pool.
            exact_weights: bytes of the published weights, where they are known.
            longest: tokens of the longest request.
        """
        r = pool.replica
        key = (r.machine, r.engine.name, r.plan, pool.budget, pool.sequences)
        if key not in self._caches:
            config = replace(r.config, max_num_batched_tokens=pool.budget, max_num_seqs=pool.sequences)
            model = r.pricer.model
            exact = exact_weights if r.plan.stores(model.native_weights) else None
            try:
                kv = kv_pool(model, r.plan, r.cluster.machine, r.engine, config, exact_weights=exact, longest=longest)
                self._caches[key] = seated(config, kv), kv
            except DoesNotFit:
                self._caches[key] = None
        return self._caches[key]
