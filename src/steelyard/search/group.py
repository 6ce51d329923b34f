"""Replicas of one machine, engine and formats with their step prices, and the screen over all groups of a question."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from steelyard.cost.step import Replica
from steelyard.deployment.anchor import anchored, find_anchor
from steelyard.deployment.engine_choice import check_engine, engine_for
from steelyard.deployment.engine_host import on_host
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine
from steelyard.search.candidates import CandidateTable, PoolOptions, one_pool, pairs, pool_options
from steelyard.search.demand import Demand
from steelyard.search.options import Formats, ReplicaOption
from steelyard.search.prices import Classes, StepPrices, step_prices, with_hops
from steelyard.search.screen import OperatingPoints, operating_points
from steelyard.search.space import formats_of, replica_options
from steelyard.search.task import PlanTask, node_power_w
from steelyard.techniques._base import effects_of, engine_of
from steelyard.workload.protocol import encoder_type

__all__ = ["Group", "Screen", "Space", "groups_of", "screen"]

#: Pools on different machines are paired only when so few machines are allowed.
MACHINES_PAIRED = 3
#: Machines of which one replica alone costs so many times the cheapest deployment that the screen holds for sure (its
#: capacity exceeds the required rate by the second share) are left out: they cannot win.
FAR, SURE = 1.5, 0.25


@dataclass(frozen=True, eq=False)
class Group:
    """Replicas of one machine, engine and formats."""

    machine: Machine
    formats: Formats
    replicas: tuple[ReplicaOption, ...]
    prices: tuple[StepPrices, ...] = ()
    """Of each replica's steps."""
    _points: dict[str, OperatingPoints] = field(default_factory=dict)

    def priced(self, task: PlanTask) -> Group:
        """The same with prices; stages of a pipeline have the kernels of the whole, priced once."""
        if self.prices:
            return self
        classes: dict[tuple[bool, ...], Classes] = {}
        prices = []
        for replica in self.replicas:
            key = (*task.cache.key(replica), tuple(replica.budgets.tolist()))
            if key not in task.cache.prices:
                task.cache.prices[key] = step_prices(replica, task.demand, classes, task.encode(replica))
            prices.append(with_hops(task.cache.prices[key], replica))
        return replace(self, prices=tuple(prices))

    def points(self, demand: Demand, role: str) -> OperatingPoints:
        """Operating points in a role, for the one demand of the question."""
        if role not in self._points:
            transfer_s = np.array([_transfer_s(r, demand) if role == "decode" else 0.0 for r in self.replicas])
            self._points[role] = operating_points(self.replicas, self.prices, demand, role, transfer_s)
        return self._points[role]

    def pairs_with(self, other: Group, *, across_machines: bool) -> bool:
        """Whether one may prefill for the other: equal engines and formats, and equal machines unless across."""
        same = self.replicas[0].engine is other.replicas[0].engine and self.formats == other.formats
        return same and (across_machines or self.machine is other.machine)


@dataclass(frozen=True, eq=False)
class Space:
    """Every replica of a question, whatever chance it asks for."""

    groups: list[Group]
    """The cheapest first when rent is what counts; a screen puts priced ones in their place."""
    notes: tuple[str, ...]
    time_s: float
    cpu_s: float

    @classmethod
    def of(cls, task: PlanTask) -> Space:
        """The space of a question."""
        started, cpu, notes = time.perf_counter(), time.process_time(), list[str]()
        groups = list(groups_of(task, notes))
        if task.question.objective == "cost":
            groups.sort(key=lambda g: _least_rent(task, g))
        return cls(groups, tuple(notes), time.perf_counter() - started, time.process_time() - cpu)


def _least_rent(task: PlanTask, group: Group) -> float:
    """USD/h of the smallest replica of a group and its spares."""
    return task.device_prices[group.machine.name] * min(r.devices for r in group.replicas) * (1 + task.question.spares)


@dataclass(frozen=True, eq=False)
class Screen:
    """Every candidate, screened."""

    groups: tuple[Group, ...]
    tables: tuple[CandidateTable, ...]
    stages_s: Mapping[str, float]
    """Wall time of ``space``, ``prices`` and ``screen``."""
    cpu_s: float
    notes: tuple[str, ...]

    @property
    def candidates(self) -> int:
        """Candidates of all tables."""
        return sum(len(t) for t in self.tables)


def _transfer_s(replica: ReplicaOption, demand: Demand) -> float:
    """Time to fetch the cache of a mean prompt between nodes, s."""
    cluster = replica.cluster
    rate = cluster.inter_bandwidth_bytes_per_s or cluster.peer_bandwidth_bytes_per_s
    size = replica.kv.block_bytes / replica.kv.block_tokens * demand.mean_prompt_tokens
    return size / rate if rate > 0 else 0.0


def groups_of(task: PlanTask, notes: list[str]) -> Iterator[Group]:
    """The replicas of every machine, engine and formats of a question, without prices.

    Args:
        task: the question.
        notes: takes up which machines were left out, and why.
    """
    question, model = task.question, task.model.transformer
    anchor = find_anchor(question.inputs.get("anchor", ""))
    for name in question.machines:
        machine = question.machine(name)
        cluster = cluster_of(machine, 1)
        if question.rack_w is not None and node_power_w(cluster) > question.rack_w:
            notes.append(f"{name}: a node draws {node_power_w(cluster):,.0f} W at full load, above the rack's limit")
            continue
        if question.objective == "cost" and math.isnan(task.device_prices[name]):
            notes.append(f"{name}: no price known; left out unless one is given: --price {name}=USD")
            continue
        for named in question.engines or ("",):
            for formats in formats_of(model, machine, question.weights, question.kv):
                files = "" if formats.weights else task.model.engine
                encoder, method = encoder_type(model), task.model.method
                engine = engine_for(
                    machine, named, formats.weights, files, model.native_weights, encoder=encoder, method=method
                )
                formats = formats._replace(weights=engine.means.get(formats.weights, formats.weights))
                try:
                    check_engine(
                        engine,
                        machine,
                        formats.weights or model.native_weights,
                        formats.kv,
                        files,
                        encoder=encoder,
                        method="" if formats.weights else method,
                        named=bool(named),
                    )
                except InputError as error:
                    if (note := f"{name}: {error.problems[0].message}") not in notes:
                        notes.append(note)
                    continue
                engine = anchored(on_host(engine, machine), anchor, machine, model.name)
                engine = engine_of(question.techniques, engine, machine)
                effects = effects_of(question.techniques)
                base = Replica(model, Plan(engine=engine.name), cluster, engine, question.skew, effects=effects)
                options = replica_options(
                    base,
                    formats,
                    task.demand,
                    exact_weights=task.model.weight_bytes,
                    max_devices=task.max_devices(name),
                )
                replicas = tuple(options)
                if replicas:
                    yield Group(machine, formats, replicas)


def screen(task: PlanTask, space: Space | None = None) -> Screen:
    """Compute the capacity, rent and power of every candidate of a question.

    Args:
        task: the question.
        space: its replicas, where they are known; what is priced here stays priced in it.
    """
    question, space = task.question, space or Space.of(task)
    started, cpu, price_s = time.perf_counter(), time.process_time(), 0.0
    screened: list[Group] = []
    tables: list[CandidateTable] = []
    pools: list[tuple[Group, PoolOptions, PoolOptions]] = []
    cheapest, left_out = math.inf, []
    for i, unpriced in enumerate(space.groups):
        if _least_rent(task, unpriced) > FAR * cheapest:
            left_out.append(unpriced.machine.name)
            continue
        began = time.perf_counter()
        space.groups[i] = group = unpriced.priced(task)
        price_s += time.perf_counter() - began
        added = _tables(task, group, pools)
        screened.append(group)
        tables += added
        if question.objective == "cost":
            for table in added:
                sure = table.capacity >= question.required_load * (1 + SURE)
                sure &= question.allows(table.devices, table.rent_usd_per_hour, table.watts)
                cheapest = min(cheapest, float(table.rent_usd_per_hour[sure].min(initial=math.inf)))
    notes = list(space.notes)
    if "disaggregated" in question.modes and not task.demand.decodes and len(question.modes) == 1:
        notes.append("an answer of one token comes with its prompt: pools of their own for answers have nothing to do")
    if left_out:
        names = ", ".join(dict.fromkeys(left_out))
        notes.append(f"not weighed, the smallest replica alone costs over {FAR:g} times the best found: {names}")
    stages = {"space": space.time_s, "prices": price_s, "screen": time.perf_counter() - started - price_s}
    return Screen(tuple(screened), tuple(tables), stages, space.cpu_s + time.process_time() - cpu, tuple(notes))


def _tables(task: PlanTask, group: Group, pools: list[tuple[Group, PoolOptions, PoolOptions]]) -> list[CandidateTable]:
    """Candidates of a group, alone and paired with those of the groups before it.

    Args:
        task: the question.
        group: the group.
        pools: prefill and decode pools of the groups before; those of this group are added.
    """
    question, demand = task.question, task.demand
    tables: list[CandidateTable] = []
    if "aggregated" in question.modes:
        tables.append(one_pool(pool_options(task, group.points(demand, "both"), "both")))
    if "disaggregated" in question.modes and demand.decodes > 0.0:
        prefill, decode = (pool_options(task, group.points(demand, role), role) for role in ("prefill", "decode"))
        pools.append((group, prefill, decode))
        across = len(question.machines) <= MACHINES_PAIRED
        tables += [pairs(prefill, x) for other, _, x in pools if group.pairs_with(other, across_machines=across)]
        tables += [pairs(x, decode) for other, x, _ in pools[:-1] if group.pairs_with(other, across_machines=across)]
    return [t for t in tables if len(t)]
