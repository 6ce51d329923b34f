"""Asking the serving simulator about whole tables: one step table per deployment, one run of the kernel per row.

Method: ``docs/methods/whole_models.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from steelyard.cost.kv_pool import KvPool, kv_pool
from steelyard.cost.step import Replica
from steelyard.cost.step_table import StepTable, build_step_table
from steelyard.deployment.engine_config import EngineConfig, engine_config
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError, SteelyardError
from steelyard.measurements.reader import Floats
from steelyard.simulation.kernel.state import TOTALS
from steelyard.simulation.run import play, setup_of
from steelyard.traffic.trace import Trace
from steelyard_validation.readers._whole import Deployment

__all__ = ["Load", "Outcome", "Service", "closed_trace"]

#: A client of a closed loop sends its next request so long after the answer (Python's event loop under load), s.
THINK_S = 3e-3
#: Lengths of a closed loop are drawn with this seed.
SEED = 20


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: ``clients`` that each wait for their answer, ``requests`` in all."""

    clients: int
    requests: int
    isl: int
    osl: int
    shortest_frac: float = 1.0
    """Lengths are uniform from this share of ``isl`` and ``osl`` up to them."""
    flags: tuple[tuple[str, Any], ...] = ()
    """Engine flags of the run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means over the completed requests of a run."""

    ttft_s: float
    tpot_s: float
    queue_s: float
    """Of it waiting for the engine, beyond the request's own overhead."""
    running: float
    """Mean sequences of a step."""
    e2e_s: float
    full: bool
    """Requests waited because the cache was full."""
    ttft_median_s: float = float("nan")
    tpot_median_s: float = float("nan")


#: Of a load that does not fit.
NOTHING = Outcome(np.nan, np.nan, np.nan, np.nan, np.nan, False)


def closed_trace(load: Load) -> Trace:
    """The requests of a load. Prompts and answers of one row are drawn alike for every deployment."""
    rng = np.random.default_rng(SEED)

    def lengths(longest: int) -> Any:
        shortest = max(1, int(longest * load.shortest_frac))
        return rng.integers(shortest, longest, load.requests, endpoint=True)

    isl, osl = lengths(load.isl), lengths(load.osl)
    zero = np.zeros(load.requests)
    return Trace(
        arrived_at=zero,
        isl=isl,
        osl=osl,
        delay_s=np.full(load.requests, THINK_S),
        concurrency=min(load.clients, load.requests),
        name="closed loop",
    )


@dataclass(frozen=True, eq=False)
class Service:
    """A deployment behind its engine's scheduler, ready to play any number of loads."""

    at: Deployment
    max_context: int
    max_tokens: int
    """Largest token budget of a step among the loads."""
    max_sequences: int
    """Most sequences at once among the loads."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Flags of every load that the step times depend on."""

    @staticmethod
    def of(at: Deployment, loads: list[Load]) -> Service:
        """The service whose tables cover the loads."""
        flagged = [(engine_config(at.engine, at.cluster.machine, dict(x.flags)), x) for x in loads]
        return Service(
            at,
            max(x.isl + x.osl for x in loads),
            max(min(c.max_num_batched_tokens, x.clients * (x.isl + 1)) for c, x in flagged),
            max(min(c.max_num_seqs, max(x.clients, 2)) for c, x in flagged),
            {"graph_tokens": flagged[0][0].graph_tokens, "launch_s": flagged[0][0].launch_s},
        )

    @staticmethod
    def for_trace(at: Deployment, trace: Trace, flags: Mapping[str, Any]) -> Service:
        """The service for one trace."""
        config = engine_config(at.engine, at.cluster.machine, dict(flags))
        longest = int(np.max(trace.isl + trace.osl))
        most = min(config.max_num_seqs, max(len(trace), 2))
        return Service(at, longest, config.max_num_batched_tokens, most, dict(flags))

    @cached_property
    def table(self) -> StepTable:
        """Step times."""
        at = self.at
        config = replace(
            engine_config(at.engine, at.cluster.machine, dict(self.flags)),
            max_num_seqs=self.max_sequences,
            max_num_batched_tokens=self.max_tokens,
        )
        return build_step_table(
            Replica(at.transformer, at.plan, at.cluster, at.engine, at.skew), config, max_context=self.max_context
        )

    def flagged(self, flags: Mapping[str, Any]) -> EngineConfig:
        """The engine's flags with these over its defaults."""
        return engine_config(self.at.engine, self.at.cluster.machine, dict(flags))

    def pool(self, config: EngineConfig) -> KvPool:
        """The cache of one replica. Raises :class:`~steelyard.errors.DoesNotFit`."""
        at = self.at
        exact = at.model.weight_bytes
        if at.plan.weights != Plan().resolved(at.transformer.native_weights).weights:
            exact = None
        return kv_pool(at.transformer, at.plan, at.cluster.machine, at.engine, config, exact_weights=exact)

    def play(self, trace: Trace, config: EngineConfig, tables: Any = None) -> Any:
        """Run the kernel: packed arrays of requests, and the totals by name. Raises on what never fits."""
        at, pool = self.at, self.pool(config)
        blocks = -(-np.minimum(trace.isl + trace.osl, pool.token_cap) // pool.block_tokens) + pool.fixed_blocks
        rejected = np.asarray(blocks > pool.blocks)
        if rejected.any():
            raise InputError("a request is longer than the whole cache")
        setup = setup_of(
            config,
            pool,
            trace,
            replicas=at.plan.dp,
            lanes=at.plan.pp,
            router="round-robin",
            request_s=at.engine.request_s,
            log=1,
        )
        played = play(
            setup, self.table.tables if tables is None else tables, trace, "fcfs", "round-robin", 0, rejected, 1 << 10
        )
        assert set(played.totals) == set(TOTALS)
        return played

    def closed(self, load: Load, tables: Any = None) -> Outcome:
        """Means of a closed loop."""
        config = self.flagged(dict(load.flags))
        trace = closed_trace(load)
        played = self.play(trace, config, tables)
        q = played.requests
        answered = q["last_at"] - q["first_at"]
        more = trace.osl > 1
        ttft = q["first_at"] - q["arrived_at"]
        queue = np.maximum(q["scheduled_at"] - q["arrived_at"] - self.at.engine.request_s, 0.0)
        totals = played.totals
        room = self.pool(config)
        tpot = answered[more] / (trace.osl[more] - 1) if more.any() else np.full(1, np.nan)
        return Outcome(
            ttft_s=float(ttft.mean()),
            tpot_s=float(tpot.mean()),
            queue_s=float(queue.mean()),
            running=float(totals["batch_s"] / max(totals["busy_s"], 1e-30)),
            e2e_s=float((q["last_at"] - q["arrived_at"]).mean()),
            full=bool(totals["kv_max"] > 0.97 * room.blocks and load.clients > 1),
            ttft_median_s=float(np.median(ttft)),
            tpot_median_s=float(np.median(tpot)),
        )

    def all_closed(self, loads: list[Load]) -> list[Outcome]:
        """:meth:`closed` of each load; NaN for those that do not fit. Raises when none does."""
        found: list[Outcome | SteelyardError] = []
        for load in loads:
            try:
                found.append(self.closed(load))
            except SteelyardError as error:
                found.append(error)
        failed = next((x for x in found if isinstance(x, SteelyardError)), None)
        if failed and all(isinstance(x, SteelyardError) for x in found):
            raise failed
        return [NOTHING if isinstance(x, SteelyardError) else x for x in found]


def batch(outcomes: list[Outcome], name: str) -> Floats:
    """One figure of many outcomes."""
    return np.asarray([getattr(x, name) for x in outcomes], dtype=np.float64)
