"""Small engines for the tests of the simulator: a kernel run without model or machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.cost.encode import Passes
from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step_table import Tables, constant_tables
from steelyard.deployment.engine import schedulers
from steelyard.deployment.engine_config import EngineConfig
from steelyard.scenario.scenario import Scenario
from steelyard.simulation.api import options_of, prepare_scenario
from steelyard.simulation.arrays import Member, Played, play, setup_of, setup_of_fleet
from steelyard.simulation.kernel.state import LINK
from steelyard.simulation.result import Simulation
from steelyard.simulation.run import run as compiled
from steelyard.traffic.trace import Trace


def from_python(part: Any) -> Any:
    """A way in from Python to a function that otherwise only compiled code calls."""
    import numba

    return numba.njit(error_model="numpy")(lambda *arguments: part(*arguments))


def config(scheduler: str = "vllm", **flags: Any) -> EngineConfig:
    """An engine with few limits."""
    rules = schedulers()[scheduler]
    given = {
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 256,
        "block_size": 16,
        "gpu_memory_utilization": 0.9,
        "enable_chunked_prefill": rules.chunked,
        "admission": rules.admission,
        "async_scheduling": False,
        **flags,
    }
    return EngineConfig("test", scheduler, **given)


def run(
    trace: Trace,
    engine: EngineConfig | None = None,
    *,
    blocks: int = 1 << 20,
    tables: Tables | None = None,
    policy: str = "fcfs",
    router: str = "round-robin",
    seed: int = 0,
    log: int = 1 << 16,
    **setup: Any,
) -> Played:
    """Play a trace; requests that could never fit are rejected."""
    engine = engine or config()
    pool = KvPool(blocks, engine.block_size, 1.0)
    x = setup_of(engine, pool, trace, policy=policy, router=router, log=log, **setup)
    rejected = -(-(trace.isl + trace.osl) // engine.block_size) > blocks
    return play(x, tables or constant_tables(0.01, 1e-5), trace, policy, router, seed, rejected, log)


def random_trace(rng: np.random.Generator, n: int, *, longest: int = 200, closed: bool = False) -> Trace:
    """Arrivals, prompts and answers at random; about one answer in eight is a single token."""
    isl, osl = rng.integers(1, longest, n), np.maximum(1, rng.integers(-longest // 8, longest, n))
    if closed:
        think = rng.exponential(0.05, n) * rng.integers(0, 2)
        clients = int(rng.integers(1, min(n, 20) + 1))
        return Trace(np.zeros(n), isl, osl, concurrency=clients, delay_s=think)
    return Trace(np.cumsum(rng.exponential(rng.choice([0.0, 0.05, 0.5]), n)), isl, osl)


def wires(pools: int, latency_s: float = 0.0, token_s: float = 0.0) -> Any:
    """Equal links between so many pools."""
    found = np.zeros((pools, pools), dtype=LINK)
    found["latency_s"], found["token_s"], found["token_bytes"] = latency_s, token_s, 1.0
    return found


def run_fleet(
    trace: Trace,
    members: Sequence[Member],
    *,
    tables: Tables | Sequence[Tables] | None = None,
    links: Any = None,
    policy: str = "fcfs",
    router: str = "round-robin",
    seed: int = 0,
    log: int = 1 << 16,
    encode_s: Any = None,
    **setup: Any,
) -> Played:
    """Play a trace on pools; requests that no stage could hold are rejected."""
    x = setup_of_fleet(members, trace, wires=links, policy=policy, router=router, log=log, **setup)
    total = trace.isl + trace.osl
    rejected = np.zeros(len(trace), dtype=bool)
    for stage in (("both", "prefill"), ("decode",)):
        limits = [m.longest for m in members if m.role in stage]
        if limits:
            rejected |= total > max(limits)
    prices = tables if tables is not None else constant_tables(0.01, 1e-5)
    each = [prices] * len(members) if isinstance(prices, Tables) else prices
    read = None if encode_s is None else Passes(encode_s)
    return play(x, each, trace, policy, router, seed, rejected, log, read=read)


def simulate(
    model: str,
    on: str,
    trace: Trace,
    *,
    slo: dict[str, float] | None = None,
    **words: Any,
) -> Simulation:
    """A trace through an engine, with limits as numbers; the other fields as for ``sy.simulate``."""
    scenario = Scenario.of("simulate", model, on, trace=trace, **words)
    given = options_of(scenario)
    return compiled(prepare_scenario(scenario, replace(given, slo=slo or given.slo)), 0.0)
