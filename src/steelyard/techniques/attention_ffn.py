"""Attention and feed-forward on devices of their own (Step-3, arXiv:2507.19427; Lamina, arXiv:2405.01814).

Every layer the activations of a micro-batch go from the attention devices to the feed-forward devices and back, while
the other micro-batches are worked on. With ``a``, ``f`` the time of one micro-batch on either side over all layers and
``c`` that of its way in one direction:

    step = max(m max(a, f, c), a + f + 2 c) + (m - 1) max(a, f, c) / layers + head + engine

The cache, the projections around attention and the head are on the attention devices; norms, feed-forward and experts
on the others. Each token crosses once on its way there (experts of several ranks get it by multicast); what the devices
of a node made of it is added up there, each keeping a part (reduce-scatter), and one sum of every node comes back.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.effect import Effect, each_kernel
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.kv_pool import KvPool, kv_pool
from steelyard.cost.memory import weight_bytes
from steelyard.cost.money import hourly_price
from steelyard.cost.step import Replica
from steelyard.cost.step_table import (
    CONSTANTS,
    OVERLAPS,
    KernelClasses,
    StepTable,
    Tables,
    build_step_table,
    constant_tables,
    grid,
    pack,
)
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.dynamics import Dynamics
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import DEGREES, Plan
from steelyard.errors import DoesNotFit, InputError, Problem
from steelyard.machine.cluster import Cluster, asks_again, parse_cluster
from steelyard.simulation.prepared import Options, Served, prepare
from steelyard.simulation.result import Simulation
from steelyard.simulation.run import run
from steelyard.techniques._base import Citation, Technique
from steelyard.traffic.trace import Trace
from steelyard.units import Quantity
from steelyard.workload.catalogue import Model, load_model
from steelyard.workload.transformer import Step, Transformer, transformer_of

__all__ = [
    "AttentionFfn",
    "Side",
    "attention_part",
    "feed_forward_part",
    "simulate_split",
    "split_pool",
    "split_table",
]

#: Micro-batches in flight: three hide the way of one behind the work on the others (Step-3, section 4).
MICRO_BATCHES = 3
#: Time of a step of prompts on devices that are not played, s.
ELSEWHERE_S = 1e-6
#: Place of the constants among the tables.
CONSTANTS_ROW = 6
#: What is meant as one side; groups, side, devices of a group, machine.
_MEANT = re.compile(r"^\d*[AF](?::|@|$)", re.IGNORECASE)
_SIDE = re.compile(r"^(\d*)([AF]):(?:tp)?(\d+)(?:@(.+))?$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Side:
    """The devices of one side: ``copies`` groups of ``devices`` of a machine."""

    machine: str
    devices: int
    copies: int = 1

    @property
    def count(self) -> int:
        """Devices of all groups."""
        return self.copies * self.devices


@dataclass(frozen=True)
class AttentionFfn(Technique):
    """Attention devices and feed-forward devices that serve together as one replica."""

    name: ClassVar[str] = "attention-ffn"
    layer: ClassVar[str] = "parallel"
    paper: ClassVar[Citation] = Citation(
        "Step-3 is large yet affordable: model-system co-design for cost-effective decoding", "arXiv:2507.19427"
    )
    effect: ClassVar[str] = "attention and feed-forward on devices of their own; micro-batches go back and forth"
    serving: ClassVar[bool] = True
    plays: ClassVar[bool] = True
    slot: ClassVar[str] = "deployment"
    first: ClassVar[str] = "sides"
    refuses: ClassVar[tuple[str, ...]] = ("replicas", "transfer_overlap", "encode_s", *DEGREES)

    sides: Annotated[
        tuple[str, ...], "GROUPS A or F:DEVICES[@MACHINE], 1A:8@h20 and 1F:8@h800; without a machine, devices of --on"
    ]
    micro_batches: Annotated[int, Quantity("1", "parts of a step in flight", ge=1, le=1000)] = MICRO_BATCHES
    answers_only: Annotated[bool, "prompts come with their caches from devices that are not played"] = False
    keys: ClassVar[Mapping[str, str]] = {"answers": "answers_only"}

    @classmethod
    def from_flag(cls, text: str, label: str) -> AttentionFfn | None:
        """Read ``1A:8@h20,1F:8@h800``; None when the text names no such sides."""
        return cls.read(text, label) if any(_MEANT.match(part.strip()) for part in text.split(",")) else None

    def problems(self) -> list[Problem]:
        """A side that is missing, twice or cannot be read."""
        found: list[str] = []
        problems = []
        for text in self.sides:
            match = _SIDE.match(text)
            if not match:
                message = f"expected attention and feed-forward devices such as 1A:8@h20,1F:8@h800, got {text!r}"
                problems.append(Problem(self.name, message))
                continue
            side = match[2].upper()
            if side in found:
                problems.append(Problem(self.name, f"{side} is there twice"))
            if int(match[1] or 1) * int(match[3]) < 1:
                problems.append(Problem(self.name, "expected at least one device on each side"))
            if side == "F" and int(match[1] or 1) != 1:
                problems.append(Problem(self.name, "expected one group of feed-forward devices (1F)"))
            found.append(side)
        if not problems and set(found) != {"A", "F"}:
            problems.append(Problem(self.name, "expected attention and feed-forward devices: 1A:8@h20,1F:8@h800"))
        return problems

    def _side(self, letter: str) -> Side:
        match = next(m for m in map(_SIDE.match, self.sides) if m and m[2].upper() == letter)
        return Side((match[4] or "").strip(), int(match[3]), int(match[1] or 1))

    @property
    def attention(self) -> Side:
        """Groups that split heads over their devices; each group has its own sequences."""
        return self._side("A")

    @property
    def feed_forward(self) -> Side:
        """One group; its devices split the width, or the experts when there are any."""
        return self._side("F")

    @property
    def devices(self) -> int:
        """All of them."""
        return self.attention.count + self.feed_forward.count

    def conflict(self, other: Technique) -> str:
        """What acts while requests run."""
        acts = other.in_kernel or other.dynamics(Dynamics()).any
        return "attention and feed-forward apart are simulated without it" if acts else ""

    def on(self, cluster: Cluster, machine: str) -> AttentionFfn:
        """With ``machine`` on sides that name none.

        Args:
            cluster: the devices that these sides must use up.
            machine: the text for one of them.

        Raises:
            InputError: they do not.
        """
        used = sum(s.count for s in (self.attention, self.feed_forward) if not s.machine)
        if used not in (0, cluster.count):
            raise InputError(f"the sides use {used} devices, but {cluster} has {cluster.count}", field="disaggregate")
        alone = [x.removesuffix(f"@{cluster.machine.name}") for x in self.sides]  # also where it is named
        return replace(self, sides=tuple(x if "@" in x else f"{x}@{machine}" for x in alone))

    def play(self, scenario: Any, options: Any) -> Simulation:
        """The simulation of attention groups that share feed-forward devices."""
        deployment, pool = scenario.deployment, scenario.deployment.pools[0]
        there = self.on(scenario.cluster, asks_again(Cluster(scenario.cluster.machine)))
        return simulate_split(
            scenario.model,
            there,
            scenario.trace,
            options,
            plan=pool.plan,
            flags=pool.flags,
            router=deployment.router,
        )


@dataclass(frozen=True)
class SumsSent(Effect):
    """What feed-forward devices made is added up within a node and sent as it is, not gathered again or elsewhere."""

    node: int

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Reductions over a node that leave each device its part."""
        return each_kernel(program, self._sent)

    def _sent(self, kernel: Kernel) -> Kernel:
        if kernel.kind != "collective" or kernel.features["operation"] != "all_reduce" or kernel.stage:
            return kernel
        return replace(kernel, features={**kernel.features, "operation": "reduce_scatter", "devices": self.node})


def attention_part(model: Transformer) -> Transformer:
    """The model without feed-forward blocks."""
    layers = tuple(replace(layer, feed_forward=None, norms=min(layer.norms, 1)) for layer in model.layers)
    return replace(model, layers=layers, extra_parameters=0)


def feed_forward_part(model: Transformer) -> Transformer:
    """The model's feed-forward blocks alone."""
    layers = tuple(replace(layer, attention=None, mixer=None, norms=max(0, layer.norms - 1)) for layer in model.layers)
    return replace(model, layers=layers, head=False, final_norm=False, extra_parameters=0, towers=())


def plans_of(split: AttentionFfn, plan: Plan, model: Transformer) -> tuple[Plan, Plan]:
    """``(attention, feed-forward)`` plans with the formats of a resolved plan."""
    devices = split.feed_forward.devices
    spread = devices if model.experts and model.experts % devices == 0 else 1
    return plan.over(split.attention.devices), plan.over(devices, spread)


def clusters_of(split: AttentionFfn) -> tuple[Cluster, Cluster]:
    """Devices of both sides."""
    sides = (split.attention, split.feed_forward)
    return parse_cluster(f"{sides[0].machine}:{sides[0].count}"), parse_cluster(f"{sides[1].machine}:{sides[1].count}")


def split_pool(split: AttentionFfn, model: Transformer, plan: Plan, engine: Engine, config: EngineConfig) -> KvPool:
    """The cache of one attention group beside its share of the weights.

    Raises:
        DoesNotFit: no block is left, or the feed-forward weights do not fit their devices.
    """
    own, other = plans_of(split, plan, model)
    attention, feed_forward = clusters_of(split)
    rest = feed_forward_part(model)
    need = weight_bytes(rest, other)
    have = (
        feed_forward.machine.root.capacity_bytes * config.gpu_memory_utilization - feed_forward.machine.reserved_bytes
    )
    if need > have:
        raise DoesNotFit(
            f"the feed-forward weights of {model.name} need {need / 2**30:,.1f} GiB on each "
            f"{feed_forward.machine.name}, {have / 2**30:,.1f} GiB are there",
            change="more feed-forward devices",
        )
    return kv_pool(attention_part(model), own, attention.machine, engine, config)


def split_table(
    split: AttentionFfn, model: Transformer, whole: Replica, config: EngineConfig, *, max_context: int
) -> StepTable:
    """Prices of the steps of one attention group: it shares the feed-forward devices with the other groups.

    Args:
        split: the devices.
        model: both kinds of layers.
        whole: formats of the plan, engine and skew; its degrees and devices are not used.
        config, max_context: as of :func:`~steelyard.cost.step_table.build_step_table`.

    Returns:
        a table whose energies are the mean over all devices.
    """
    own, other = plans_of(split, whole.plan, model)
    attention, feed_forward = clusters_of(split)
    parts, groups = split.micro_batches, split.attention.copies
    front = replace(whole, model=attention_part(model), plan=own, cluster=attention)
    base = build_step_table(front, config, max_context=max_context)
    rows = [_row(base.tables, k) for k in range(len(base.tables.layout))]
    tokens = grid(base.max_tokens)
    share = split.attention.count / split.devices
    each = np.maximum(tokens / parts, 1.0)
    token, token_j, _ = KernelClasses(front).token(each)
    present = tokens > 0
    node = int(min(feed_forward.machine.devices_per_node, split.feed_forward.devices))
    back = replace(whole, model=feed_forward_part(model), plan=other, cluster=feed_forward)
    back = replace(back, effects=(*back.effects, SumsSent(node)))
    rest = KernelClasses(back)
    # the groups meet at the feed-forward devices: their micro-batches of one turn are worked on together
    together = np.maximum(tokens * groups / parts, 1.0)
    names = frozenset(k.name for k in back.lower(Step(4, 2, 64, 3), True).kernels if k.name.startswith("layer"))
    cost = rest.priced(Step(together, 1, 1, 1), True, "token", names)
    fed, fed_j = rest.sums(cost, tokens)
    nic = min(
        attention.inter_bandwidth_bytes_per_s * split.attention.devices,
        feed_forward.inter_bandwidth_bytes_per_s * split.feed_forward.devices / groups,
    )
    sums = math.ceil(split.feed_forward.devices / node)  # one of every node of the feed-forward devices comes back
    latency = max((x.inter.latency_s for x in (attention, feed_forward) if x.inter is not None), default=0.0)
    constants = np.array(rows[CONSTANTS_ROW][0], dtype=np.float64)
    values = {
        "weave": float(OVERLAPS.index("split")),
        "parts": float(parts),
        "hop_s": latency,
        "hop_token_s": sums * model.hidden * whole.plan.format("communication").bits / 8 / max(nic, 1.0),
        "layers": float(model.depth),
        "static_w": constants[CONSTANTS.index("static_w")] * share + cost.static_w * (1 - share),
        "cap_w": constants[CONSTANTS.index("cap_w")] * share + cost.cap_w * (1 - share),
    }
    for name, value in values.items():
        constants[CONSTANTS.index(name)] = value
    sequence = [(times, power * share) for times, power in (rows[4], rows[5], rows[7])]
    tables = pack(
        (token * present, token_j * present * parts * share),
        (rows[1][0], rows[1][1] * share),
        (rows[2][0] / parts, rows[2][1] * share),
        (rows[3][0] / parts, rows[3][1] * share),
        sequence[0],
        sequence[1],
        constants,
        sequence[2],
        (fed * present, fed_j * present * parts / groups * (1 - share)),
    )
    sources = {**base.sources, **{f"{k.model} model": k.source for k in cost.kernels}}
    return StepTable(
        tables, base.max_tokens, base.max_sequences, base.max_context, base.spread, base.limit_frac, sources
    )


def _row(tables: Tables, row: int) -> tuple[Any, Any]:
    """One table and its second array."""
    start, *extents = tables.layout[row].tolist()
    shape = tuple(e for e in extents if e)
    size = int(np.prod(shape)) if shape else 0
    first = tables.data[start : start + size].reshape(shape or (0,))
    if row == CONSTANTS_ROW:
        return first, first
    second = tables.data[start + size : start + 2 * size].reshape(shape or (0,))
    return first, second


def simulate_split(
    model: str | Model,
    split: AttentionFfn,
    trace: Trace,
    options: Options | None = None,
    *,
    plan: Plan | None = None,
    flags: Mapping[str, Any] | None = None,
    router: str = "round-robin",
) -> Simulation:
    """Send a trace through attention groups that share feed-forward devices.

    Args:
        model: name or loaded. split: the devices. trace: arrivals and lengths.
        options: see :class:`steelyard.simulation.prepared.Options`; nothing of ``extras``.
        plan: formats and engine; its degrees are those of the attention groups in any case.
        flags: of the engine. router: which attention group gets a request.

    Returns:
        a simulation with two pools: attention groups (role ``both``) and the feed-forward devices (``feed_forward``).

    Raises:
        InputError, DoesNotFit: as for :func:`steelyard.simulation.result.simulate_deployment`.
    """
    started = time.perf_counter()
    options = options or Options()
    loaded = model if isinstance(model, Model) else load_model(model, generic=options.generic)
    whole = transformer_of(loaded.transformer, "attention and feed-forward apart")
    side = split.attention
    own = (plan or Plan()).over(side.devices)
    pools = tuple(
        Pool(side.machine, own, side.copies, role, dict(flags or {}))
        for role in (("prefill", "decode") if split.answers_only else ("both",))
    )
    part = replace(loaded, transformer=attention_part(whole), weight_bytes=None)
    prepared = prepare(Deployment(loaded.name, pools, router), trace, options, model=part)
    served = prepared.served[-1]
    resolved = own.resolved(whole)
    split_pool(split, whole, resolved, served.scenario.engine, served.config)  # the other side must fit too
    assert served.table is not None
    table = split_table(
        split,
        whole,
        replace(served.scenario.replica, plan=resolved),
        served.config,
        max_context=served.table.max_context,
    )
    before = tuple(_at_once(x) for x in prepared.served[:-1])
    parts = (*before, replace(served, table=table))
    found = run(replace(prepared, served=parts, wires=np.zeros_like(prepared.wires)), started)
    other_plan = plans_of(split, resolved, whole)[1]
    return _both_sides(split, loaded, other_plan, found)


def _at_once(served: Served) -> Served:
    """A pool whose steps take no time worth the name."""
    assert served.table is not None
    return replace(served, table=replace(served.table, tables=constant_tables(ELSEWHERE_S)))


def _both_sides(split: AttentionFfn, model: Model, plan: Plan, found: Simulation) -> Simulation:
    """The feed-forward devices (``plan``) put beside the attention groups that were simulated."""
    side, other = split.attention, split.feed_forward
    first, ledger = found.pools[-1], found.ledger
    assert ledger is not None
    if split.answers_only:
        ledger.assume("prompts come with their caches from devices that are not counted")
    ledger.assume(
        f"{split.micro_batches} micro-batches between attention and feed-forward devices; each token crosses once"
    )
    scenario = replace(found.scenario, model=model, cluster=clusters_of(split)[1], plan=plan)
    cluster = scenario.cluster
    price = hourly_price(cluster.machine, scenario.usd_per_hour, ledger, cluster.system)
    if price.usd_per_hour is not None:
        ledger.cite("price, feed-forward", price.note)
    span, busy = found.makespan_s, first.totals["busy_s"] / side.copies
    machine = scenario.cluster.machine
    energy = first.totals["step_energy_j"] * other.count / side.copies + machine.idle_w * other.count * (span - busy)
    hosts = scenario.cluster.host_share_w * other.count * span
    second = replace(
        first,
        role="feed_forward",
        scenario=scenario,
        replicas=1,
        ranks=0,
        devices=other.count,
        price=price,
        totals={
            **dict.fromkeys(first.totals, 0.0),
            "device_s": other.count * span,
            "energy_j": energy,
            "host_energy_j": hosts,
            "busy_frac": min(1.0, busy / max(span, 1e-30)),
            "makespan_s": span,
            "rented_s": span,
        },
    )
    elsewhere = found.pools[:-1]
    sums = {
        name: found.totals[name] + second.totals[name] - sum(p.totals[name] for p in elsewhere)
        for name in ("energy_j", "host_energy_j")
    }
    again = found.replay
    return replace(
        found,
        scenario=replace(found.scenario, model=model),
        pools=(*(replace(p, devices=0, totals=dict.fromkeys(p.totals, 0.0)) for p in elsewhere), first, second),
        totals={**found.totals, **sums},
        replay=None if again is None else partial(_again, again, split, model, plan),
    )


def _again(replay: Any, split: AttentionFfn, model: Model, plan: Plan, factor: float) -> Simulation:
    return _both_sides(split, model, plan, replay(factor))
