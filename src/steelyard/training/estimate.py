"""What a training step costs: time, memory of every stage, throughput, energy and money, with an interval.

``Model x Machine x TrainPlan -> kernels of a rank -> layers -> stages -> step``; see :mod:`steelyard.training.step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard._display import Result
from steelyard.cost.energy import TRANSPORT_J_PER_BYTE, energy_per_op_j, idle_power_w, static_power_w
from steelyard.cost.money import hourly_price
from steelyard.cost.site import Site
from steelyard.deployment.train_plan import BESIDE, CHOSEN, SPLITTING, TrainPlan, unoffered
from steelyard.interval import Z80, interval80
from steelyard.machine.catalogue import account
from steelyard.machine.cluster import Cluster, asks_again
from steelyard.machine.host import usual_host
from steelyard.provenance import Ledger, record_of
from steelyard.scenario.fields import PRICE, fields_of
from steelyard.scenario.mixed_training import MixedTrainScenario
from steelyard.scenario.net_training import NetTrainScenario
from steelyard.scenario.training import TrainScenario, read_train_scenario
from steelyard.scenario.verbs import verb
from steelyard.techniques._base import Technique
from steelyard.training.chosen import laid_out
from steelyard.training.layers import StepParts, parts_of
from steelyard.training.memory import PARTS, memory_of
from steelyard.training.offload import NVME_BYTES_PER_S, host_rates
from steelyard.training.run import Job, Prices, Run, run_of
from steelyard.training.sites import sites_of
from steelyard.training.step import StepCost, layers_on, step_of
from steelyard.training.stragglers import slowest_factor
from steelyard.training.traffic import Links
from steelyard.training.work import Sites, work_of
from steelyard.workload.model import Model
from steelyard.workload.protocol import ends_hard
from steelyard.workload.step import Step

if TYPE_CHECKING:
    from steelyard.training.mixed import KindShare
    from steelyard.training.remedies import Remedy
    from steelyard.training.rollouts import RewardedCost

__all__ = [
    "StageHeld",
    "TrainEstimate",
    "account_of",
    "account_of_run",
    "answer_train",
    "checkpoint_bytes_of",
    "ends_of",
    "energy_of_step",
    "memory_interval",
    "one",
    "priced_parts",
    "run_of_scenario",
    "spread_of",
    "train",
    "with_run",
]


@dataclass(frozen=True, slots=True)
class StageHeld:
    """The memory of a stage at its fullest, bytes."""

    parts: Mapping[str, float]
    allocated_bytes: float
    reserved_bytes: float
    layers: float
    host_bytes: float = 0.0
    """In the host's memory."""


@dataclass(frozen=True, eq=False, repr=False)
class TrainEstimate(Result):
    """The answer for one layout. Times in s, energy in J, money in USD, memory in bytes."""

    scenario: TrainScenario
    step_s: float
    breakdown_s: Mapping[str, float]
    tokens_per_step: float
    flops: float
    """Operations of the model in a step, forward and backward."""
    again_flops: float
    """Operations that were computed again."""
    peak_ops_per_s: float
    """Of all devices in the precision of the products."""
    stages: tuple[StageHeld, ...]
    capacity_bytes: float
    energy_j: float
    """Of a step, devices and hosts."""
    usd_per_device_hour: float | None
    price_note: str
    interval: Mapping[str, tuple[float, float]]
    limit_s: float
    cost: StepCost | None
    """With times of a stage; None of networks."""
    ledger: Ledger = field(default_factory=Ledger)
    run: Run | None = None
    """Of so many tokens, with failures; None where no length was given, or the layout does not fit."""
    host_capacity_bytes: float = float("inf")
    """Of the host's memory, of each device that moves something there."""
    rewarded: RewardedCost | None = None
    """The step of a task that learns from scored answers, of which ``step_s`` is an update."""
    across: str = ""
    """How devices of several kinds work together: ``replicas``, ``stages``; empty: they are of one."""
    kinds: tuple[KindShare, ...] = ()
    """What the devices of each kind do then; ``stages`` are those of the kind whose memory is fullest."""

    @property
    def tokens_per_s(self) -> float:
        """Of all devices."""
        return self.tokens_per_step / self.step_s

    @property
    def tokens_per_s_per_device(self) -> float:
        """Of one device."""
        return self.tokens_per_s / self.scenario.cluster.count

    @property
    def model_tflops_per_device(self) -> float:
        """Operations of the model, 1e12 a second and device; what is computed again is not counted."""
        return self.flops / self.step_s / self.scenario.cluster.count / 1e12

    @property
    def mfu_frac(self) -> float:
        """Operations of the model over what all devices could do."""
        return self.flops / self.step_s / self.peak_ops_per_s

    @property
    def hfu_frac(self) -> float:
        """The same with what is computed again."""
        return (self.flops + self.again_flops) / self.step_s / self.peak_ops_per_s

    @property
    def peak_stage(self) -> int:
        """The stage that holds most."""
        return max(range(len(self.stages)), key=lambda i: self.stages[i].reserved_bytes)

    @property
    def fits(self) -> bool:
        """Whether the fullest stage fits its devices, and what was moved to the host its memory."""
        away = max(stage.host_bytes for stage in self.stages)
        return self.stages[self.peak_stage].reserved_bytes <= self.capacity_bytes and away <= self.host_capacity_bytes

    @cached_property
    def would_fit(self) -> tuple[Remedy, ...]:
        """Changes that fit, each with its answer, where this does not; what changes least first."""
        if self.fits or self.kinds:
            return ()
        from steelyard.training.remedies import remedies

        return remedies(self)

    @property
    def energy_j_per_token(self) -> float:
        """Devices and hosts."""
        return self.energy_j / self.tokens_per_step

    @property
    def usd_per_trillion_tokens(self) -> float | None:
        """Rent; None without a price, and of what does not fit."""
        if self.usd_per_device_hour is None or not self.fits:
            return None
        return self.usd_per_device_hour * self.scenario.cluster.count / 3600 / self.tokens_per_s * 1e12


def priced_parts(
    model: Model,
    plan: TrainPlan,
    cluster: Cluster,
    sites: Sites,
    links: Links,
    techniques: Sequence[Technique] = (),
) -> StepParts:
    """What a micro-batch takes under a plan."""
    size = np.asarray(plan.mbs, dtype=np.float64)
    tokens = size * plan.seq
    step = Step.prefill(size, float(plan.seq), logits=tokens)
    graph = model.transformer.graph(step)
    works = work_of(graph, plan, cluster, sites)
    parts = parts_of(works, plan, links, model.transformer.hidden, tokens)
    for technique in techniques:
        parts = technique.training_parts(parts, plan)
    return parts


@verb("train", read_train_scenario)
def train(scenario: TrainScenario) -> TrainEstimate:
    """Weigh a training step, and the run where its length is given.

    Returns:
        a :class:`TrainEstimate`.

    Raises:
        InputError: every problem of the arguments at once.
    """
    return answer_train(scenario)


def answer_train(scenario: TrainScenario) -> TrainEstimate:
    """Weigh one layout; what was left open is chosen first."""
    if isinstance(scenario, NetTrainScenario):
        from steelyard.training.networks import answer_net_train

        return answer_net_train(scenario)
    if isinstance(scenario, MixedTrainScenario):
        from steelyard.training.mixed import answer_mixed

        return answer_mixed(scenario)
    if scenario.rewarded is not None:
        from steelyard.training.rollouts import answer_rewarded

        return answer_rewarded(scenario)
    cluster, model = scenario.cluster, scenario.model
    sites, links = sites_of(cluster, scenario.plan.precision), Links.of(cluster)
    if scenario.searched and model.transformer.depth:
        scenario = laid_out(scenario)
    plan = scenario.plan
    parts = priced_parts(model, plan, cluster, sites, links, techniques=scenario.words.get("techniques") or ())
    cost = step_of(parts, plan, links, sites.products, sites.vector)
    held = [memory_of(parts, plan, i) for i in range(plan.pp)]
    step, limit = one(cost.step_s), one(cost.limit_s)
    ledger = Ledger()
    account_of(scenario, parts, links, ledger)
    low, high = ends_of(step, spread_of(plan, parts, cost, step), limit)
    tokens = float(plan.gbs * plan.seq)
    energy = energy_of_step(cost, step, cluster, sites.products)
    hourly = hourly_price(cluster.machine, scenario.words.get(PRICE), ledger, cluster.system)
    stages = tuple(
        StageHeld(
            {name: one(s.parts[name]) for name in PARTS},
            one(s.allocated_bytes),
            one(s.reserved_bytes),
            one(sum(layers_on(parts, plan.pp, plan.vp, i))),
            one(s.host_bytes),
        )
        for i, s in enumerate(held)
    )
    devices = cluster.count
    found = TrainEstimate(
        scenario=scenario,
        step_s=step,
        breakdown_s={name: one(x) for name, x in cost.breakdown_s.items()},
        tokens_per_step=tokens,
        flops=one(cost.flops) * devices,
        again_flops=one(cost.again_flops) * devices,
        peak_ops_per_s=sites.products.peak_ops_per_s * devices,
        stages=stages,
        capacity_bytes=cluster.machine.root.capacity_bytes,
        energy_j=energy,
        usd_per_device_hour=hourly.usd_per_hour,
        price_note=hourly.note,
        interval={
            "step_s": (low, high),
            "tokens_per_s": (tokens / high, tokens / low),
            "tokens_per_s_per_device": (tokens / high / devices, tokens / low / devices),
            "energy_j_per_token": (energy * low / step / tokens, energy * high / step / tokens),
            "peak_memory_bytes": memory_interval(stages, plan),
        },
        limit_s=limit,
        cost=cost,
        ledger=ledger,
        host_capacity_bytes=host_rates(cluster).capacity_bytes if plan.offload else float("inf"),
    )
    return with_run(found)


def with_run(found: TrainEstimate) -> TrainEstimate:
    """The answer with its run, where a length was given and the layout fits: what does not run costs nothing."""
    s = found.scenario
    if s.tokens is None or not found.fits:
        return found
    step = (found.step_s, *found.interval["step_s"])
    watts = found.energy_j / found.step_s
    account_of_run(s, found.ledger)
    return replace(found, run=run_of_scenario(s, step, found.tokens_per_step, watts, found.usd_per_device_hour))


#: Spread of the time of what was not told: how a release moves routed rows to their experts, and whether layers with
#: experts are captured graphs. Trainings whose recipe is known are closer by so much than by their columns alone.
UNTOLD_SPREAD = 0.5


def spread_of(plan: TrainPlan, parts: StepParts, cost: StepCost, step_s: float) -> float:
    """Of the logarithm of a step: the framework's own, that of the kernels, and that of facts that were not told."""
    framework = plan.framework
    untold: Any = 0.0
    if any(kind.experts for kind in parts.layers):
        if "dispatcher" in framework.guess:
            moved = sum((kind.count * kind.moved for kind in parts.layers), np.float64(0.0))
            untold = untold + one(moved) * plan.micro_batches / plan.pp
        if "graph" in framework.guess:
            untold = untold + one(cost.breakdown_s["host"])
    own = np.hypot(np.log(framework.spread) / Z80, parts.spread)
    return float(np.hypot(own, UNTOLD_SPREAD * min(untold / step_s, 1.0)))


def checkpoint_bytes_of(scenario: TrainScenario) -> float:
    """Weights and states of the optimizer, one copy; of adapters, which are a part in a hundred and less (guess)."""
    optimizer = scenario.plan.optimizer
    elements = scenario.parameters * (0.01 if scenario.plan.frozen else 1.0)
    return elements * (2.0 + optimizer.state_bytes + optimizer.master_bytes)


def run_of_scenario(
    scenario: TrainScenario, step: tuple[float, float, float], tokens: float, watts: float, usd: float | None
) -> Run:
    """The run of a scenario whose length was given."""
    plan, cluster, words = scenario.plan, scenario.cluster, scenario.words
    assert scenario.tokens is not None
    nodes, jitter = int(cluster.node_count), words["jitter"]
    job = Job(
        cluster.count,
        nodes,
        checkpoint_bytes_of(scenario),
        plan.dp,
        writers=cluster.count if plan.zero else cluster.count // plan.dp,
        slower=float(slowest_factor(nodes, jitter)) if jitter else 1.0,
    )
    idle_w = sum(idle_power_w(kind.machine) * kind.count for kind in cluster.kinds) + cluster.hosts_w
    prices = Prices(usd, words["power_price"], watts, idle_w, words["carbon"])
    return run_of(
        step,
        job,
        tokens=scenario.tokens,
        tokens_per_step=tokens,
        trainings=words["trainings"],
        failures=scenario.failures,
        recovery=scenario.recovery,
        checkpoint=scenario.checkpoint,
        prices=prices,
        seed=words["seed"],
    )


def one(value: Any) -> float:
    """The number of an array over one scenario."""
    return float(np.ravel(np.asarray(value, dtype=np.float64))[0])


def memory_interval(stages: tuple[StageHeld, ...], plan: TrainPlan) -> tuple[float, float]:
    """Ends of the interval of the fullest stage, bytes."""
    most = max(s.reserved_bytes for s in stages)
    return most / plan.framework.memory_spread, most * plan.framework.memory_spread


def energy_of_step(cost: StepCost, step: float, cluster: Cluster, site: Site) -> float:
    """Of a step: what devices draw whatever they do, operations, bytes of elementwise work, and the hosts; a device
    draws its rated power at most."""
    machine = cluster.machine
    root = machine.root
    operations = (one(cost.flops) + one(cost.again_flops)) * energy_per_op_j(site)
    passing = one(cost.breakdown_s["elementwise"]) + one(cost.breakdown_s["optimizer"])
    moved = passing * root.bandwidth_bytes_per_s * (root.energy_j_per_byte + TRANSPORT_J_PER_BYTE)
    drawn = min(static_power_w(machine) * step + operations + moved, machine.most_w * step)
    return drawn * cluster.count + cluster.hosts_w * step


def account_of(scenario: TrainScenario, parts: StepParts, links: Links, ledger: Ledger) -> None:
    """What was used and assumed."""
    plan, cluster = scenario.plan, scenario.cluster
    account(cluster.machine, ledger)
    ledger.cite(f"model {scenario.model.name}", scenario.model.source)
    ledger.cite(f"framework {plan.framework.called}", plan.framework.source)
    for source in parts.sources:
        ledger.cite("training kernels", source)
    for note in (*scenario.workload.notes, *cluster.remarks):
        ledger.assume(note)
    if not scenario.words.get("framework"):
        ledger.assume(f"framework {plan.framework.called} (--framework)")
    left = [name for name in scenario.open if name != "gbs"]
    if set(left) - {"dp"}:
        chosen = ", ".join(f"{name} {getattr(plan, name)}" for name in left)
        named = {"zero": plan.zero, "shard": plan.shard, "loss": plan.loss, "offload": ",".join(plan.offload)}
        beside = [f"{n} {v}" for n, v in named.items() if n not in scenario.given and v not in ("", "whole")]
        chosen = ", ".join([chosen, f"computed again {plan.again}", *beside])
        ledger.assume(f"the fastest layout that fits: {chosen}")
    made_for = scenario.workload.max_context
    if scenario.words.get("seq") is None and plan.seq == made_for:
        ledger.assume(f"sequences of {plan.seq} tokens, which the model was made for (--seq)")
    elif ends_hard(scenario.workload) and plan.seq > made_for:
        ledger.assume(f"a table of {plan.seq} positions, where {scenario.model.name} has {made_for}")
    if plan.packing is not None and plan.packing.grouped and plan.cp > 1:
        share = plan.packing.passed(plan.seq / plan.cp, plan.cp)
        ledger.assume(f"groups by length pass around {share:.1%} of what one group of {plan.cp} ranks would")
    if "gbs" in scenario.open:
        ledger.assume(f"a step of {plan.gbs} sequences (--gbs)")
    if plan.offload:
        host = cluster.host.name if cluster.host else usual_host(cluster.machine)
        room = host_rates(cluster).capacity_bytes / 2**30
        where = f"of which a device has {room:,.0f} GiB (--host)"
        ledger.assume(f"{', '.join(plan.offload)} in the memory of a {host} for each node, {where}")
        if any(n.endswith(":nvme") for n in plan.offload):
            ledger.assume(f"drives of a node read and write {NVME_BYTES_PER_S / 1e9:g} GB/s")
    for text in unoffered(plan):
        ledger.assume(f"{text}: priced as if it had")
    if plan.framework.zero_alone and plan.zero >= 2:
        told = (
            f"published for 8 to 128 devices in one domain of links alone, in {plan.framework.zero_doubt:g} times the"
        )
        ledger.assume(f"ZeRO {plan.zero} of {plan.framework.title}: {told} time that is answered")
    if plan.framework.guess:
        ledger.assume(f"of {plan.framework.called} nobody published {', '.join(plan.framework.guess)}: guessed (--set)")


def ends_of(step_s: float, spread: float, limit_s: float) -> tuple[float, float]:
    """Ends of the 80 % interval of a step."""
    low, high = interval80(step_s, spread, at_least=limit_s)
    return float(low), float(high)


def account_of_run(scenario: TrainScenario, ledger: Ledger) -> None:
    """What was used and assumed of a run."""
    ledger.cite("failures", scenario.failures.source)
    if not scenario.words.get("failures"):
        ledger.assume(f"failures of {scenario.failures.source} (--failures)")
    if scenario.failures.rates:
        after = scenario.recovery
        times = f"noticed after {after.detect_s:g} s, mended {after.restart_s:g} s later"
        ledger.assume(f"a failure is {times} (--failures detect=, restart=)")


def provenance_of(scenario: TrainScenario) -> dict[str, Any]:
    """What is needed to run the same question again: version, inputs and their hash."""
    known = fields_of("train")
    inputs: dict[str, Any] = {
        name: value
        for name, value in scenario.words.items()
        if name in known and value != known[name].default and isinstance(value, str | int | float | bool)
    }
    plan, words = scenario.plan, scenario.words
    batch = ("gbs",) if scenario.rewarded is None else ()
    inputs = {**inputs, **{name: getattr(plan, name) for name in (*CHOSEN, *BESIDE, *batch)}}
    inputs["model"] = (
        words["model"] if isinstance(words.get("model"), str) else scenario.model.asked or scenario.model.name
    )
    inputs["on"] = asks_again(scenario.cluster)
    if techniques := words.get("techniques"):
        inputs["techniques"] = [str(t) for t in techniques]
    if isinstance(scenario, MixedTrainScenario):  # what was left open is chosen for each kind
        inputs = {n: v for n, v in inputs.items() if n not in (*CHOSEN, *BESIDE) or n in scenario.given}
    elif isinstance(scenario, NetTrainScenario):
        inputs = {n: v for n, v in inputs.items() if n not in (*SPLITTING, "dp", *BESIDE)}
    else:
        inputs |= {"recompute": plan.again, "loss": plan.loss, "zero": plan.zero, "shard": plan.shard}
        inputs |= {"ring": plan.around, "offload": ",".join(plan.offload) or "none"}
    return record_of(inputs)
