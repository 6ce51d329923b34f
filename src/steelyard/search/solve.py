"""From a question to the answer: space, prices, screen, finals, fronts, reasons."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.deployment.engine import default_engine, find_engine
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine
from steelyard.provenance import Ledger
from steelyard.search.answer import Answer, Candidate, Question
from steelyard.search.candidate_view import candidate_of
from steelyard.search.candidates import Block, Half, aggregated, half_of, pairs
from steelyard.search.demand import Demand
from steelyard.search.describe import breaking, reasons
from steelyard.search.finalists import RUNNERS, Search, finalists
from steelyard.search.front import cost_front, speed_front
from steelyard.search.objective import Limits, hourly, node_power_w, rent_of
from steelyard.search.prices import Classes, StepPrices, step_prices, with_hops
from steelyard.search.screen import Points, points_of, promise_of
from steelyard.search.space import Formats, Replica, formats_of, replicas_of
from steelyard.search.trial import Engines, Player
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import Model

__all__ = ["Group", "Screen", "limits_of", "screen", "solve"]

#: Stays of a request that the played traffic should last, below which the answer says that it did not.
STAYS = 3
#: Pools on different machines are paired only when so few machines are asked about.
MIXED_MACHINES = 3
#: Machines of which one replica alone costs so many times the cheapest deployment that the screen holds for sure (its
#: capacity reaches the need with so much to spare) are not weighed: they cannot win.
FAR, SURE = 1.5, 0.25


@dataclass(frozen=True, eq=False)
class Group:
    """Replicas of one machine, engine and formats, with their prices."""

    machine: Machine
    formats: Formats
    replicas: tuple[Replica, ...]
    prices: tuple[StepPrices, ...]
    made: dict[str, Points] = field(default_factory=dict)

    def points(self, demand: Demand, role: str) -> Points:
        """Operating points in a role, for the one demand of the question."""
        if role not in self.made:
            transfer: Any = 0.0
            if role == "decode":
                transfer = np.array([_transfer_s(r, demand) for r in self.replicas])
            self.made[role] = points_of(self.replicas, self.prices, demand, role, transfer)
        return self.made[role]


@dataclass(frozen=True, eq=False)
class Screen:
    """Everything weighed."""

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    candidates: int
    stages_s: Mapping[str, float]
    cpu_s: float
    notes: tuple[str, ...]


def _transfer_s(replica: Replica, demand: Demand) -> float:
    """Time to fetch the cache of a mean prompt between nodes, s."""
    cluster = replica.cluster
    rate = cluster.inter_bandwidth_bytes_per_s or cluster.peer_bandwidth_bytes_per_s
    size = replica.pool.block_bytes / replica.pool.block_tokens * demand.mean_isl
    return size / rate if rate > 0 else 0.0


def screen(
    model: Model, question: Question, demand: Demand, prices: Mapping[str, float], limits: Limits, engines: Engines
) -> Screen:
    """Weigh every candidate.

    Args:
        model, question, demand: what is asked. prices: USD per device and hour by machine. limits: of the question.
        engines: keeps the prices of steps for other questions about the same traffic.
    """
    started, cpu = time.perf_counter(), time.process_time()
    spaces, notes = _spaces(model, question, demand, prices, limits)
    space_s, price_s = time.perf_counter() - started, 0.0
    groups: list[Group] = []
    blocks: list[Block] = []
    halves: list[tuple[Group, Half, Half]] = []
    need = question.rate_per_s * (1.0 + question.headroom_frac)
    cheapest, left_out = math.inf, []
    for rent, machine, formats, replicas in spaces:
        if rent > FAR * cheapest:
            left_out.append(machine.name)
            continue
        began = time.perf_counter()
        group = Group(machine, formats, replicas, _priced(model, replicas, demand, question.skew, engines))
        price_s += time.perf_counter() - began
        found = _blocks(group, halves, question, demand, prices, limits)
        groups.append(group)
        blocks += found
        if question.objective == "cost":
            for block in found:
                sure = (block.capacity >= need * (1 + SURE)) & limits.keeps(
                    block.devices, block.usd_per_hour, block.watts
                )
                cheapest = min(cheapest, float(block.usd_per_hour[sure].min(initial=math.inf)))
    if left_out:
        names = ", ".join(dict.fromkeys(left_out))
        notes.append(f"not weighed, the smallest replica alone costs over {FAR:g} times the best found: {names}")
    stages = {"space": space_s, "prices": price_s, "screen": time.perf_counter() - started - space_s - price_s}
    return Screen(
        tuple(groups), tuple(blocks), sum(len(b) for b in blocks), stages, time.process_time() - cpu, tuple(notes)
    )


def _spaces(
    model: Model, question: Question, demand: Demand, prices: Mapping[str, float], limits: Limits
) -> tuple[list[tuple[float, Machine, Formats, tuple[Replica, ...]]], list[str]]:
    """``(rent of the smallest replica and its spares, machine, formats, replicas)``, cheapest first; and notes."""
    found: list[tuple[float, Machine, Formats, tuple[Replica, ...]]] = []
    notes: list[str] = []
    for name in question.machines:
        machine = find_machine(name)
        cluster = cluster_of(machine)
        if question.rack_w is not None and node_power_w(cluster) > question.rack_w:
            notes.append(f"{name}: a node draws {node_power_w(cluster):,.0f} W at full load, above the rack's limit")
            continue
        if question.objective == "cost" and math.isnan(prices[name]):
            notes.append(f"{name}: no price known; give usd_per_hour to include it")
            continue
        for engine in question.engines or (default_engine(machine).name,):
            for formats in formats_of(model.transformer, machine, question.weights, question.kv):
                replicas = tuple(
                    replicas_of(
                        model,
                        machine,
                        find_engine(engine),
                        formats,
                        longest=demand.longest,
                        isl=demand.mean_isl,
                        max_devices=_most_devices(limits, prices[name]),
                    )
                )
                if replicas:
                    rent = prices[name] * min(r.devices for r in replicas) * (1 + limits.spares)
                    found.append((rent, machine, formats, replicas))
    if question.objective == "cost":
        found.sort(key=lambda space: space[0])
    return found, notes


def _most_devices(limits: Limits, usd_per_hour: float) -> int | None:
    """Devices that the limits leave room for."""
    most = [limits.max_devices] if limits.max_devices is not None else []
    if limits.budget_usd_per_hour is not None and usd_per_hour > 0:
        most.append(int(limits.budget_usd_per_hour / usd_per_hour + 1e-9))
    return min(most) if most else None


def _priced(
    model: Model, replicas: Sequence[Replica], demand: Demand, skew: float, engines: Engines
) -> tuple[StepPrices, ...]:
    """Prices of replicas; stages of a pipeline have the kernels of the whole, priced once."""
    classes: dict[tuple[bool, ...], Classes] = {}
    found = []
    for replica in replicas:
        alone = replace(replica.plan, pp=1)
        key = (replica.cluster.machine.name, replica.engine.name, alone, tuple(replica.budgets.tolist()))
        if key not in engines.prices:
            engines.prices[key] = step_prices(model.transformer, replica, demand, skew, classes)
        found.append(with_hops(engines.prices[key], model.transformer, replica))
    return tuple(found)


def _blocks(
    group: Group,
    sides: list[tuple[Group, Half, Half]],
    question: Question,
    demand: Demand,
    prices: Mapping[str, float],
    limits: Limits,
) -> list[Block]:
    """Candidates of a group, alone and paired with those of the groups before it.

    Args:
        sides: pools for prompts and for answers of the groups before; those of this group are added.
    """
    promise = promise_of(question.targets)
    need = question.rate_per_s * (1.0 + question.headroom_frac)
    every = question.objective == "throughput"
    found: list[Block] = []

    def half(role: str) -> Half:
        rent = rent_of(group.replicas, prices)
        capped = replace(limits, max_devices=_most_devices(limits, prices[group.machine.name]))
        return half_of(group.points(demand, role), demand, promise, capped, rent, role, need, every=every)

    if "aggregated" in question.modes:
        found.append(aggregated(half("both")))
    if "disaggregated" in question.modes and demand.decodes >= 1.0:
        sides.append((group, half("prefill"), half("decode")))
        mixed = len(question.machines) <= MIXED_MACHINES
        mine = [(sides[-1], other) for other in sides] + [(other, sides[-1]) for other in sides[:-1]]
        for (a, prompts, _), (b, _, answers) in mine:
            same = a.replicas[0].engine is b.replicas[0].engine and a.formats == b.formats
            if same and (a.machine is b.machine or mixed):
                block = pairs(prompts, answers, limits)
                if block is not None:
                    found.append(block)
    return [b for b in found if len(b)]


def solve(
    model: Model,
    question: Question,
    trace: Trace,
    demand: Demand,
    inputs: Mapping[str, object],
    remedy: Callable[[Search, Screen, Player, Answer], Answer] | None = None,
    tell: Callable[[str], object] = str,
) -> Answer:
    """Answer a question.

    Args:
        model, question: what is asked. trace: the traffic at the question's rate. demand: the same in a few facts.
        inputs: arguments that ask it again. remedy: what to say when nothing fits. tell: hears what is being done.
    """
    cpu = time.process_time()
    ledger = Ledger()
    prices = {name: hourly(find_machine(name), question.usd_per_hour, ledger) for name in question.machines}
    limits = limits_of(question)
    engines = Engines(model, demand.longest, question.skew)
    tell("weighing every candidate")
    weighed = screen(model, question, demand, prices, limits, engines)
    tell(f"{weighed.candidates:,} candidates weighed, playing the best")
    began = time.perf_counter()
    player = Player(model, trace, question.rate_per_s, question.targets, question.skew, engines)
    need = question.rate_per_s * (1.0 + question.headroom_frac)
    finals = finalists(weighed.blocks, question, limits, need, player, tell=tell)
    shown: list[Candidate] = []
    for k, finalist in enumerate(finals.found[: 1 + RUNNERS]):
        largest, above = finalist.capacity, None
        if k == 0:
            tell("finding what the winner holds")
            guess = finalist.choice.capacity if math.isnan(largest) else largest
            largest, above = player.largest_rate(finalist.choice.parts, guess, need)
        breaks = above.breaks if above is not None else ""
        shown.append(candidate_of(finalist, question, limits, player, demand, largest, breaks, first=k == 0))
    stages = {**weighed.stages_s, "finalists": time.perf_counter() - began}
    _account(ledger, question, weighed, finals, trace)
    if shown and trace.duration_s < STAYS * shown[0].e2e_s:
        ledger.assume(
            f"the played traffic lasts {trace.duration_s:,.0f} s, less than {STAYS} stays of a request; more requests "
            "would show the steady state"
        )
    answer = Answer(
        question=question,
        candidates=weighed.candidates,
        screened_per_s=weighed.candidates / max(weighed.cpu_s, 1e-9),
        simulated=player.played,
        cpu_s=0.0,
        winner=shown[0] if shown else None,
        front=speed_front(weighed.groups, question, demand, limits, prices),
        cost_front=cost_front(weighed.blocks, question, demand, limits),
        runners_up=tuple(shown[1:]),
        infeasible=None,
        ledger=ledger,
        why=reasons(shown, question, weighed.candidates, player.played),
        breaks_first=breaking(shown[0], question) if shown else "",
        stages_s=stages,
        inputs=dict(inputs),
    )
    if not shown and remedy is not None:
        tell("nothing fits; looking for the nearest changes that would")
        answer = remedy(finals, weighed, player, answer)
    return replace(answer, cpu_s=time.process_time() - cpu)


def limits_of(question: Question) -> Limits:
    """The limits of a question."""
    return Limits(question.max_gpus, question.budget_usd_per_hour, question.max_w, question.spares)


def _account(ledger: Ledger, question: Question, weighed: Screen, finals: Search, trace: Trace) -> None:
    """Assumptions of the plan."""
    for machine in dict.fromkeys(g.machine.name for g in weighed.groups):
        found = find_machine(machine)
        for key, text in found.sources.items():
            ledger.cite(f"{machine} {key}", text)
        for path, reason in found.guess.items():
            ledger.guess(f"{machine}.{path}", reason)
    for note in (*weighed.notes, *trace.notes):
        ledger.assume(note)
    if finals.exhausted:
        ledger.assume("the runs of the simulator were used up before the order of the candidates was certain")
    if question.spares:
        ledger.assume(f"{question.spares} replicas of each pool may fail with the promise still held")
