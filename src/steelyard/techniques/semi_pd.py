"""Prompts and answers side by side on shares of the same devices (semi-PD, arXiv:2504.19867).

The multiprocessors are divided: prompts have a share ``s`` of them, answers ``1 - s``, and each side steps on its own.
Weights and cache are there once, so nothing travels. A side is priced as a device with its share of the arithmetic and
of the inner caches, and of the memory bandwidth with what it can reach and the other leaves it:

    bandwidth = min(1, share / SATURATING_FRAC, max(1/2, 1 - what the other side reads and writes in a usual step))

Two sides that both want all of it have half each; all together never have more than the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.step import Replica
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.dynamics import Dynamics
from steelyard.deployment.engine import Engine, default_engine, find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.deployment.plan import Plan
from steelyard.errors import DoesNotFit, InputError, Problem
from steelyard.machine.cluster import Cluster
from steelyard.machine.component import Machine
from steelyard.simulation.prepared import Options, Prepared, Served, prepare, too_long
from steelyard.simulation.result import Simulation
from steelyard.simulation.run import run
from steelyard.techniques._base import Citation, Technique, effects_of, engine_of
from steelyard.traffic.trace import Trace
from steelyard.units import Quantity, parse_quantity
from steelyard.workload.catalogue import Model
from steelyard.workload.transformer import Step

__all__ = ["SATURATING_FRAC", "SemiPd", "bandwidth_fracs", "share_of", "simulate_semi"]

#: Share of the multiprocessors that saturates the memory (guess; memory-bound kernels on H100 and A100 lose little
#: until about half of them are taken away).
SATURATING_FRAC = 0.5
#: Decoding requests of the usual step that the prompts compete with.
TYPICAL_BATCH = 32
#: Steps' worth of prompt tokens that the prompts' part of the cache holds at least.
PROMPT_STEPS = 2


@dataclass(frozen=True)
class SemiPd(Technique):
    """How the devices are divided."""

    name: ClassVar[str] = "semi-pd"
    layer: ClassVar[str] = "parallel"
    paper: ClassVar[Citation] = Citation(
        "semi-PD: towards efficient LLM serving via phase-wise disaggregated computation and unified storage",
        "arXiv:2504.19867",
    )
    effect: ClassVar[str] = "prompts and outputs step side by side on shares of the same devices; nothing travels"
    serving: ClassVar[bool] = True
    plays: ClassVar[bool] = True
    slot: ClassVar[str] = "deployment"
    first: ClassVar[str] = "prefill"
    keys: ClassVar[Mapping[str, str]] = {"prefill": "prefill_frac"}
    refuses: ClassVar[tuple[str, ...]] = ("replicas", "transfer_overlap", "encode_s")

    prefill_frac: Annotated[
        float, Quantity("1", "share of the multiprocessors that computes prompts, above 0 and below 1")
    ]

    @classmethod
    def from_flag(cls, text: str, label: str) -> SemiPd | None:
        """Read ``semi:0.6`` or ``semi:60%``; None when the text is not about that."""
        head, _, rest = (part.strip() for part in text.partition(":"))
        if head.lower() not in ("semi", "semi-pd", "semipd"):
            return None
        if not rest:
            raise InputError("expected the share of the prompts: semi:0.6", field=label)
        try:
            return cls(parse_quantity(rest, "1", label))
        except InputError as error:
            if error.field == cls.name:
                raise InputError(error.message, field=label) from None
            raise InputError(f"expected a share such as semi:0.6, got {rest!r}", field=label) from None

    def problems(self) -> list[Problem]:
        """No share left for outputs."""
        if 0 < self.prefill_frac < 1:
            return []
        message = f"expected a share above 0 and below 1 for the prompts, got {self.prefill_frac:g}"
        return [Problem(self.name, message)]

    @property
    def shares(self) -> tuple[float, float]:
        """Of the arithmetic: prompts, answers."""
        return self.prefill_frac, 1.0 - self.prefill_frac

    def conflict(self, other: Technique) -> str:
        """Replicas that come and go."""
        moves = other.dynamics(Dynamics()).any
        return "shares of a device are simulated without failures, autoscaling or migration" if moves else ""

    def play(self, scenario: Any, options: Any) -> Simulation:
        """The simulation of one replica whose devices are divided."""
        deployment, pool = scenario.deployment, scenario.deployment.pools[0]
        return simulate_semi(
            scenario.model,
            deployment.model,
            scenario.cluster,
            self,
            scenario.trace,
            options,
            plan=pool.plan,
            flags=pool.flags,
            router=deployment.router,
        )


def share_of(machine: Machine, compute_frac: float, bandwidth_frac: float) -> Machine:
    """A device with a share of a machine's arithmetic, inner caches and power, and a share of its memory bandwidth.

    Capacity and links stay whole: weights and cache are there once, and the messages of answers are short.
    """
    compute = tuple(
        replace(
            c,
            units=c.units * compute_frac,
            peak={k: v * compute_frac for k, v in c.peak.items()},
            sparse_peak={k: v * compute_frac for k, v in c.sparse_peak.items()},
        )
        for c in machine.compute
    )
    memory = tuple(
        replace(
            m,
            bandwidth_bytes_per_s=m.bandwidth_bytes_per_s * (compute_frac if m.inside else bandwidth_frac),
            write_bandwidth_bytes_per_s=m.write_bandwidth_bytes_per_s * (compute_frac if m.inside else bandwidth_frac),
        )
        for m in machine.memory
    )
    return replace(
        machine,
        compute=compute,
        memory=memory,
        tdp_w=machine.tdp_w * compute_frac,
        idle_w=machine.idle_w * compute_frac,
    )


def bandwidth_fracs(
    semi: SemiPd, replica: Replica, *, chunk: float, batch: float, context: float
) -> tuple[float, float]:
    """Shares of the memory bandwidth of prompts and answers.

    Args:
        semi: the division.
        replica: of the whole devices.
        chunk: prompt tokens of a usual step.
        batch, context: decodes of a usual step and their mean context.
    """
    steps, cluster = (Step(1, chunk, chunk, 1), Step(batch, 1, context, batch)), replica.cluster
    reach, use = [], []
    for share, step in zip(semi.shares, steps, strict=True):
        most = min(1.0, share / SATURATING_FRAC)
        alone = replace(cluster, machine=share_of(cluster.machine, share, most))
        cost = replace(replica, cluster=alone).price(step).cost
        moving = float(sum(np.sum(np.asarray(k.memory_s)) for k in cost.kernels))
        taken = float(sum(np.sum(np.asarray(k.time_s)) for k in cost.kernels))
        reach.append(most)
        use.append(most * moving / max(taken, 1e-30))
    return min(reach[0], max(0.5, 1.0 - use[1])), min(reach[1], max(0.5, 1.0 - use[0]))


def simulate_semi(
    model: Model,
    name: str,
    cluster: Cluster,
    semi: SemiPd,
    trace: Trace,
    options: Options,
    *,
    plan: Plan,
    flags: Mapping[str, Any] | None = None,
    router: str = "round-robin",
) -> Simulation:
    """Send a trace through one replica whose devices are divided between prompts and answers.

    The one cache is divided as well: what the longest request or two steps of prompts need (half of it where prefixes
    are kept) is for prompts until their answers begin, the rest for answers. A common pool would hold no less.

    Args:
        model: loaded; name: what to call it. cluster: the devices. semi: their division. trace: arrivals and lengths.
        options: see :class:`steelyard.simulation.prepared.Options`. plan: of the replica. flags: of the engine.
        router: as everywhere; there is one replica.

    Returns:
        a simulation with two pools, ``prefill`` and ``decode``, whose ``compute_frac`` add up to 1.

    Raises:
        InputError: several replicas, failures, or whatever
            :func:`steelyard.simulation.result.simulate_deployment` refuses. DoesNotFit: no room for both.
    """
    started = time.perf_counter()
    if plan.dp > 1:
        raise InputError("shares of a device are simulated for one replica: leave out dp", field="disaggregate")
    given = dict(flags or {})
    machine = cluster.machine
    roles = ("prefill", "decode")
    pools = tuple(Pool(machine.name, plan, 1, role, given, description=machine) for role in roles)
    engine, resolved, budget = _engine_of(model, cluster, plan, given)
    engine = engine_of(options.techniques, engine, machine)
    isl, osl = float(trace.isl.mean()), float(trace.osl.mean())
    bandwidth = bandwidth_fracs(
        semi,
        Replica(
            model.transformer,
            resolved,
            cluster,
            engine,
            float(options.experts.skew),
            effects=effects_of(options.techniques),
        ),
        chunk=max(1, round(min(budget, isl))),
        batch=TYPICAL_BATCH,
        context=max(1, round(isl + 0.5 * osl)),
    )
    parts = tuple(
        replace(cluster, machine=share_of(cluster.machine, share, part), host_w=cluster.host_w * share)
        for share, part in zip(semi.shares, bandwidth, strict=True)
    )
    prepared = prepare(Deployment(name, pools, router), trace, options, model=model, clusters=parts)
    prepared = _one_cache(prepared, semi, bandwidth, cluster)
    return _whole(run(prepared, started), semi, bandwidth, cluster)


def _engine_of(model: Model, cluster: Cluster, plan: Plan, flags: Mapping[str, Any]) -> tuple[Engine, Plan, int]:
    """``(engine, resolved plan, tokens of a step)``."""
    engine = find_engine(plan.engine) if plan.engine else default_engine(cluster.machine)
    config = engine_config(engine, cluster.machine, flags)
    return engine, plan.resolved(model.transformer, cluster.machine), config.max_num_batched_tokens


def _one_cache(prepared: Prepared, semi: SemiPd, bandwidth: tuple[float, float], cluster: Cluster) -> Prepared:
    """The blocks of the devices divided between the two sides, and caches that stay where they are."""
    prompts, answers = prepared.served
    trace, kv = prepared.trace, min((s.kv for s in prepared.served), key=lambda k: k.blocks)
    longest = int(np.max((trace.isl + trace.osl)[~prepared.rejected], initial=1))
    need = math.ceil(max(longest, PROMPT_STEPS * prompts.config.max_num_batched_tokens) / kv.block_tokens)
    prefixes = trace.prefix_hashes is not None and prompts.config.enable_prefix_caching
    half = kv.blocks // 2
    first = half if prefixes else min(half, need + 1 + kv.fixed_blocks)
    if first < 1 + kv.fixed_blocks:
        raise DoesNotFit(f"{kv.blocks} cache blocks cannot be divided", change="more devices")

    def holding(served: Served, blocks: int) -> Served:
        engine = replace(served.scenario.engine, relays_first=False)  # one server answers
        return replace(served, kv=replace(kv, blocks=blocks), scenario=replace(served.scenario, engine=engine))

    served = (holding(prompts, first), holding(answers, kv.blocks - first))
    inputs = {
        **prepared.inputs,
        "on": str(cluster),
        "kv_blocks": kv.blocks,
        "semi_pd": {"prefill_frac": semi.prefill_frac, "bandwidth_fracs": list(bandwidth), "prompt_blocks": first},
    }
    return replace(
        prepared, served=served, wires=np.zeros_like(prepared.wires), rejected=too_long(trace, served), inputs=inputs
    )


def _whole(found: Simulation, semi: SemiPd, bandwidth: tuple[float, float], cluster: Cluster) -> Simulation:
    """Devices, rent and words of a run that two pools share."""
    pools = tuple(
        replace(
            pool,
            compute_frac=share,
            scenario=replace(pool.scenario, cluster=cluster),
            totals={**pool.totals, "device_s": pool.totals["device_s"] * share},
        )
        for pool, share in zip(found.pools, semi.shares, strict=True)
    )
    if found.ledger is not None:
        first, second = (p.kv.blocks for p in pools)
        found.ledger.assume(
            f"prompts have {semi.prefill_frac:.0%} of the multiprocessors and {bandwidth[0]:.0%} of the memory "
            f"bandwidth, answers {semi.shares[1]:.0%} and {bandwidth[1]:.0%}, whether the other side works or not"
        )
        found.ledger.assume(f"one cache of {first + second:,} blocks, {first:,} of them for prompts; nothing travels")
        words = f"a share of {SATURATING_FRAC:.0%} of the multiprocessors saturates the memory"
        found.ledger.guess("bandwidth of a share", words)
    again = found.replay
    replay = None if again is None else partial(_again, again, semi, bandwidth, cluster)
    return replace(
        found, pools=pools, scenario=replace(found.scenario, cluster=cluster), replay=replay, ledger=found.ledger
    )


def _again(replay: Any, semi: SemiPd, bandwidth: tuple[float, float], cluster: Cluster, factor: float) -> Simulation:
    return _whole(replay(factor), semi, bandwidth, cluster)
