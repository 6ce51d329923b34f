"""``simulate``: a trace of requests through a serving engine, step by step.

``Trace x (Workload, Machine, Plan, Engine) -> StepTable -> kernel -> Simulation``. Every time is in s and starts where
the trace starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.cost.kv_pool import KvPool, engine_prints
from steelyard.deployment.engine_config import EngineConfig
from steelyard.errors import InputError

if TYPE_CHECKING:
    from steelyard.cost.money import HourlyPrice
    from steelyard.deployment.deployment import Deployment
    from steelyard.provenance import Ledger
    from steelyard.scenario.scenario import Scenario
    from steelyard.simulation.capacity import Capacity
    from steelyard.simulation.prepared import Options
    from steelyard.techniques._base import Technique
    from steelyard.traffic.trace import Trace
    from steelyard.workload.catalogue import Model

__all__ = [
    "COMPLETED",
    "REJECTED",
    "UNFINISHED",
    "Iterations",
    "PoolOutcome",
    "Records",
    "Simulation",
    "simulate_deployment",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Values of ``Records.status``.
COMPLETED, REJECTED, UNFINISHED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Records:
    """One entry per request, in the order of the trace. Times that never came are NaN."""

    arrived_at: Floats
    """s from the start of the trace, as sent by the client."""
    trace: Trace
    """What was sent, the lengths of each request."""
    queued_s: Floats
    """From reaching the engine to the first step that works on it."""
    ttft_s: Floats
    tpot_s: Floats
    """``(last token - first token) / (osl - 1)``; NaN for answers of one token."""
    e2e_s: Floats
    max_itl_s: Floats
    """Longest time between two tokens of the answer; NaN for answers of one token."""
    preemptions: NDArray[Any]
    cached_tokens: NDArray[Any]
    """Prompt tokens found in the prefix cache when it was first admitted."""
    replica: NDArray[Any]
    """Replica that served it, -1 when none did."""
    status: NDArray[Any]
    """0 completed, 1 rejected, 2 unfinished (the simulation stopped first)."""
    answered_by: NDArray[Any]
    """Replica that wrote the answer; another than ``replica`` where prompts and answers have pools of their own."""

    def __len__(self) -> int:
        return len(self.trace)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One mapping per request, as ``pandas.DataFrame(records)`` takes them; a time that never came is NaN."""
        columns = import_module("steelyard.report.records").columns_of(self)
        lists = [values.tolist() for values in columns.values()]
        return (dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True))

    @property
    def isl(self) -> NDArray[Any]:
        """Prompt tokens of each request."""
        return self.trace.isl

    @property
    def osl(self) -> NDArray[Any]:
        """Output tokens of each request."""
        return self.trace.osl

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Which requests got their whole answer."""
        return np.asarray(self.status == COMPLETED)

    @property
    def finished_at(self) -> Floats:
        """s from the start of the trace; NaN when it never finished."""
        return self.arrived_at + self.e2e_s


@dataclass(frozen=True, eq=False)
class Iterations:
    """Engine steps in order of their start. When ``stride`` > 1 only every so many-th step was kept."""

    start_s: Floats
    duration_s: Floats
    replica: NDArray[Any]
    batch: NDArray[Any]
    """Requests worked on in the step."""
    prefill_tokens: NDArray[Any]
    decode_tokens: NDArray[Any]
    kv_blocks: NDArray[Any]
    """Blocks held by requests during the step (a cached prefix nobody uses counts as free)."""
    running: NDArray[Any]
    waiting: NDArray[Any]
    stride: int = 1

    def __len__(self) -> int:
        return len(self.start_s)


@dataclass(frozen=True, eq=False)
class PoolOutcome:
    """What one pool of the deployment did."""

    role: str
    scenario: Scenario
    """Its cluster holds the devices of all replicas, its plan those of one."""
    config: EngineConfig
    kv: KvPool
    """Blocks of one replica (of one data-parallel rank)."""
    replicas: int
    ranks: int
    """Schedulers: replicas and their data-parallel ranks."""
    devices: int
    memory_bytes: Mapping[str, float] | None
    """Of a device: ``weights``, ``working`` set of a step, both ``before_cache``, and ``kv_cache``; None: unknown."""
    price: HourlyPrice
    """Rent of one device."""
    totals: Mapping[str, float]
    """Counters as of ``Simulation.totals`` (but ``in_system_mean``), and ``device_s`` (devices times the time they were
    rented), ``energy_j``, ``host_energy_j``, ``busy_frac``."""
    compute_frac: float = 1.0
    """Share of its devices' arithmetic; the rest is another pool's."""

    @property
    def usd(self) -> float | None:
        """Rent of its devices."""
        price = self.price.usd_per_hour
        return None if price is None else price * self.totals["device_s"] / 3600

    def _prints(self) -> Mapping[str, Any] | None:
        """What each engine prints of its cache at start-up; None where it keeps none."""
        s = self.scenario
        if self.role == "encode" or not self.kv.block_bytes or s.cluster.unlike:
            return None
        exact = s.exact_weight_bytes
        return engine_prints(
            s.transformer, s.plan, s.cluster.machine, s.engine, self.config, exact_weights=exact
        ).to_dict()

    @property
    def machine(self) -> str:
        """The device's name; of several kinds in one replica all of them."""
        cluster = self.scenario.cluster
        return str(cluster) if cluster.unlike else cluster.machine.name

    def to_dict(self) -> dict[str, Any]:
        """Its entry in the summary (SI units)."""
        plan, totals = self.scenario.plan, self.totals
        return {
            "role": self.role,
            "machine": self.machine,
            "replicas": self.replicas,
            "devices": self.devices,
            "compute_frac": self.compute_frac,
            "plan": plan.degrees,
            "busy_frac": totals["busy_frac"],
            "iterations": int(totals["iterations"]),
            "prefill_tokens": int(totals["prefill_tokens"]),
            "decode_tokens": int(totals["decode_tokens"]),
            "batch": {"mean": totals["batch_mean"], "max": totals["batch_max"]},
            "kv": {
                "blocks": self.kv.blocks,
                "block_tokens": self.kv.block_tokens,
                **({"states": self.kv.states()} if self.kv.slots else {}),
                "mean_frac": totals["kv_mean_frac"],
                "max_frac": totals["kv_max_frac"],
                "engine_log": self._prints(),
            },
            "memory_bytes": None if self.memory_bytes is None else dict(self.memory_bytes),
            "waiting_max": totals["waiting_max"],
            "preemptions": int(totals["preemptions"]),
            "sent": {
                "requests": int(totals["transfers"]),
                "bytes": totals["transfer_bytes"],
                "mean_s": totals["transfer_s"] / max(1.0, totals["transfers"]),
            },
            "energy_j": totals["energy_j"],
            "host_energy_j": totals["host_energy_j"],
            "usd": self.usd,
            "rented_replicas_mean": totals["rented_s"] / max(totals["makespan_s"], 1e-30) / plan.dp,
            "failures": int(totals["failures"]),
            "interrupted": int(totals["interrupted"]),
            "migrations": int(totals["migrations"]),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Result):
    """What happened: records, steps, totals. ``summary()`` is the JSON form ``steelyard.simulate/1``."""

    scenario: Scenario
    """Model, cluster, plan and engine of the first pool (``batch``, ``isl``, ``osl`` describe the trace's means)."""
    trace: Trace
    config: EngineConfig
    """The engine's flags as they were used, in the first pool."""
    pool: KvPool
    """KV blocks of one replica of the first pool."""
    policy: str
    router: str
    replicas: int
    """Schedulers of all pools: replicas and their data-parallel ranks, numbered pool after pool."""
    records: Records
    iterations: Iterations
    totals: Mapping[str, float]
    """Exact counters of the kernel: ``iterations``, ``preemptions``, ``prefill_tokens``, ``decode_tokens``,
    ``cached_tokens``, ``makespan_s``, ``busy_s``, ``energy_j``, ``batch_mean``, ``batch_max``,
    ``kv_mean_frac``, ``kv_max_frac``, ``waiting_max``, ``in_system_mean``."""
    itl_edges_s: Floats
    itl_counts: Integers
    """Histogram of the times between tokens of a request, over all tokens."""
    stopped: str
    """Why the simulation ended early; empty when every request was served or rejected."""
    wall_s: float
    """Wall time of the kernel (build of the step table and compilation apart)."""
    build_s: float
    slo: Mapping[str, float] = field(default_factory=dict)
    """Limits that goodput counts: ``ttft_s``, ``tpot_s``, ``max_itl_s``, ``e2e_s``; all that are given must hold."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What is needed to run it again."""
    ledger: Ledger | None = None
    spread: float = 0.0
    """Standard deviation of log(true / predicted) of a step."""
    limit_frac: float = 0.0
    """Physical limit of a step over its time: no step of the interval is faster."""
    replay: Callable[[float], Simulation] | None = None
    """The same run with every step so many times as long."""
    deployment: Deployment | None = None
    """What was deployed."""
    pools: tuple[PoolOutcome, ...] = ()
    """What each pool of it did."""
    techniques: tuple[Technique, ...] = ()
    """What was put on it."""
    capacity: Capacity | None = None
    """The largest rate that holds the SLOs, where it was asked for: the run is at that rate."""
    encode_s: Floats | None = None
    """``[n]`` s that the images and sounds of each request took; None: they show none."""

    @property
    def devices(self) -> int:
        """Devices used."""
        return round(sum(p.devices * p.compute_frac for p in self.pools))

    @property
    def blocks(self) -> Integers:
        """``[replicas]`` cache blocks of each."""
        return np.repeat([p.kv.blocks for p in self.pools], [p.ranks for p in self.pools])

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the end of the last step."""
        return float(self.totals["makespan_s"])

    @property
    def energy_j(self) -> float:
        """All devices over the makespan: steps, and idle power between them."""
        return float(self.totals["energy_j"])

    @property
    def usd_per_hour(self) -> float | None:
        """Rent per device and hour, the mean of all devices; None when one of the prices is unknown."""
        prices = [p.price.usd_per_hour for p in self.pools]
        if None in prices:
            return None
        rents = (p.devices * (usd or 0.0) for p, usd in zip(self.pools, prices, strict=True))
        return sum(rents) / sum(p.devices for p in self.pools)

    @property
    def usd(self) -> float | None:
        """Rent of all devices while they were up; None when one of the prices is unknown."""
        rents = [p.usd for p in self.pools]
        return None if None in rents else float(sum(r or 0.0 for r in rents))

    def summary(self) -> dict[str, Any]:
        """Percentiles, throughput, goodput, batch, cache, energy, money (SI units), ready for JSON."""
        from steelyard.simulation.metrics import summary

        return summary(self)

    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """80 % intervals of what ``summary`` says, see :func:`steelyard.simulation.metrics.intervals`."""
        from steelyard.simulation.metrics import intervals

        return intervals(self)

    def series(self, points: int = 200) -> dict[str, Floats]:
        """Time averages over equal stretches of the makespan, see :func:`steelyard.simulation.metrics.series`."""
        from steelyard.simulation.metrics import series

        return series(self, points)


def simulate_deployment(
    deployment: Deployment, trace: Trace, options: Options | None = None, *, model: Model | None = None
) -> Simulation:
    """Send a trace through a deployment: pools of engines on machines of one or several kinds.

    Requests go to the replicas of the roles ``both`` and ``prefill`` by the deployment's router. A prompt that ends in
    a ``prefill`` replica gives its first token and keeps its cache there; the least-loaded ``decode`` replica pulls
    the cache when it has blocks for it, over a link that carries one request at a time, and writes the answer.

    Args:
        deployment: pools, each with its machine, plan, engine flags and role.
        trace: arrivals and lengths.
        options: how it is played; default: :class:`steelyard.simulation.prepared.Options` as it is.
        model: the model, loaded; None = ``deployment.model`` by name.

    Returns:
        a :class:`Simulation` with what each pool did in ``pools``.

    Raises:
        InputError, DoesNotFit: as for :func:`steelyard.simulate`.
    """
    from steelyard.simulation.prepared import Options, prepare
    from steelyard.simulation.run import run
    from steelyard.techniques._registry import read_flag, read_techniques

    started = time.perf_counter()
    options = options or Options()
    ways = {pool.speculate for pool in deployment.pools if pool.role != "prefill"} - {""}
    if len(ways) > 1:
        raise InputError("expected one way to speculate for all pools", field="pools")
    if ways and not any(t.slot == "speculation" for t in options.techniques):
        put = (*options.techniques, read_flag("speculate", ways.pop()))
        options = replace(options, techniques=read_techniques({"techniques": put}))
    return run(prepare(deployment, trace, options, model=model), started)
