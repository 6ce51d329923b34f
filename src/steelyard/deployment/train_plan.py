"""How a model is trained: how it is spread over devices, what is computed again, formats, and who does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steelyard.deployment.frameworks import Framework
from steelyard.deployment.optimizers import Optimizer
from steelyard.deployment.packing import Packing
from steelyard.deployment.plan import Plan
from steelyard.errors import Problem
from steelyard.workload.protocol import Workload

__all__ = [
    "AWAY",
    "BESIDE",
    "CHOSEN",
    "LOSSES",
    "MODULES",
    "OF_MODELS",
    "OF_REWARDED",
    "PRECISIONS",
    "RECOMPUTE",
    "REWARDED",
    "SPLITTING",
    "TASKS",
    "Exchange",
    "TrainPlan",
    "batches_run",
    "degree_problems",
    "divisors",
    "layout_problems",
    "stages_run",
    "unoffered",
]

#: What may be computed again in the backward pass, beside ``none``, ``selective`` and ``full``.
MODULES = ("core_attn", "attn", "mla_up_proj", "norm", "act", "mlp", "moe", "shared_experts", "half")
RECOMPUTE = ("none", "selective", "full", *MODULES)
#: Formats that products are computed in.
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "fp8_block", "mxfp8", "nvfp4", "mxfp4", "int8")
TASKS = ("pretrain", "sft", "lora", "qlora", "grpo", "ppo", "dpo")
#: Tasks whose steps score answers, and most of them draw the answers first.
REWARDED = ("grpo", "ppo", "dpo")
#: Degrees that split the model; with replicas and the size of micro-batches those that are chosen where not given.
SPLITTING = ("tp", "pp")
CHOSEN = (*SPLITTING, "dp", "mbs")
#: Degrees beside them, which are one where tp and pp are given and they are not.
BESIDE = ("vp", "cp", "ep")
#: How scores over the vocabulary become a loss: all at once, or with the head in one kernel over parts of the tokens.
LOSSES = ("whole", "fused")
#: What may lie in the host's memory.
AWAY = ("optimizer", "parameters", "activations")
#: What only tasks that learn from scored answers have.
OF_REWARDED = (
    *("prompts", "group", "isl", "osl", "rollout_on", "rollout_tp", "rollout_engine", "stale", "reward"),
    *("reference", "passes"),
)
#: What only language models have.
OF_MODELS = (
    *(*SPLITTING, *BESIDE, "etp", "recompute", "rank", "task", "shard", "schedule", "seq", "sync_every"),
    *("docs", "ring", "offload", "host", "loss", *OF_REWARDED),
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """How gradients go between data-parallel replicas."""

    traffic: float = 1.0
    """Bytes sent over those of gradients as they are."""
    gathered: bool = False
    """They cannot be added up on the way: every replica receives those of all others."""
    bytes: float = 0.0
    """That are read and written of a parameter to code and decode them."""
    behind: bool = False
    """They travel behind the work of the next round of steps, whatever the framework hides."""
    round_s: float = 0.0
    """That a round waits beside them, for links that are no part of the cluster."""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """One way to train, every choice made. ``devices = tp x pp x cp x dp``; experts reuse the tp, cp and dp ranks."""

    framework: Framework
    optimizer: Optimizer
    precision: str
    tp: int = 1
    pp: int = 1
    vp: int = 1
    """Chunks of layers a stage has."""
    cp: int = 1
    ep: int = 1
    etp: int = 1
    """Tensor-parallel degree of experts."""
    dp: int = 1
    zero: int = 1
    """Stage of ZeRO: 1 shards the optimizer, 2 gradients as well, 3 parameters as well (FSDP)."""
    shard: int = 1
    """Data-parallel ranks over which ZeRO cuts; those beyond hold copies (HSDP)."""
    schedule: str = "1f1b"
    mbs: int = 1
    """Sequences of a micro-batch."""
    gbs: int = 1
    """Sequences of a step."""
    seq: int = 4096
    recompute: tuple[str, ...] = ()
    """Modules that are computed again."""
    recompute_layers: int = 0
    """Of the layers of every chunk of a stage, those computed again whole; 0: what ``recompute`` says, of all."""
    loss: str = "whole"
    """Of :data:`LOSSES`."""
    task: str = "pretrain"
    rank: int = 16
    """Of adapters."""
    sync_every: int = 1
    """Steps between two exchanges among data-parallel replicas."""
    exchange: Exchange = Exchange()
    """How gradients go between data-parallel replicas."""
    packing: Packing | None = None
    """Documents in a sequence; None: one of its length."""
    ring: int = 0
    """Of the context-parallel ranks, those that pass keys and values around, the others exchange heads; 0: all."""
    states: str = "gather"
    """How context-parallel ranks share states of scans: ``gather``, ``ring`` (one after the other), ``keys`` (what
    makes them goes around)."""
    offload: tuple[str, ...] = ()
    """What lies elsewhere, of :data:`AWAY`, with ``:nvme`` where on drives."""
    references: float = 0
    """Frozen copies of the model that lie beside it, in 16 bits, cut as its weights; of a teacher its size."""
    critics: int = 0
    """Trained models of the same size that lie beside it."""

    @property
    def devices(self) -> int:
        """Devices used."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step on each model replica."""
        return max(1, self.gbs // (self.mbs * self.dp))

    def away(self, what: str) -> str:
        """Where something of :data:`AWAY` lies: ``host``, ``nvme``, or empty: on the device."""
        for name in self.offload:
            if name.partition(":")[0] == what:
                return name.partition(":")[2] or "host"
        return ""

    @property
    def outside_bytes(self) -> float:
        """Of a device's memory, what lies outside the allocator."""
        return float(self.framework.outside_bytes(self.devices))

    @property
    def around(self) -> int:
        """Context-parallel ranks that pass keys and values around; the others exchange heads."""
        return self.ring or self.cp

    @property
    def frozen(self) -> bool:
        """Whether the model's own weights stay as they are."""
        return self.task in ("lora", "qlora")

    def adapts(self, block: str, last: bool = False) -> bool:
        """Whether products of a block have adapters, or its last one."""
        where = self.framework.adapted
        return self.frozen and (where == "all" or (block == "attention" and not (last and where == "qkv")))

    @property
    def sequence_parallel(self) -> bool:
        """Whether what tensor parallelism does not split is split along tokens."""
        return self.tp > 1 and self.framework.sequence_parallel

    @property
    def wide_bytes(self) -> float:
        """Bytes of an activation between kernels."""
        return 4.0 if self.precision in ("fp32", "tf32") else 2.0

    @property
    def again(self) -> str:
        """What is computed again, as ``--recompute`` reads it."""
        return f"full:{self.recompute_layers}" if self.recompute_layers else ",".join(self.recompute) or "none"

    @property
    def lowering(self) -> Plan:
        """Degrees as the sharding rules of ops read them: all but experts, which are shared out by their tokens."""
        return Plan(weights="bf16", activations="bf16", kv="bf16", communication="bf16", tp=self.tp)

    @property
    def shape(self) -> str:
        """The degrees above one."""
        named = {n: getattr(self, n) for n in ("tp", "pp", "vp", "cp", "ep", "dp")}
        return ", ".join(f"{n} {d}" for n, d in named.items() if d > 1) or "one device"

    @property
    def spread(self) -> str:
        """The degrees above one, with how states and attention are cut over them."""
        heads = self.cp // self.around
        shared = f" ({heads} exchange heads)" if heads > 1 else ""
        over = f" over {self.shard} of {self.dp} replicas" if self.zero and self.shard < self.dp else ""
        return f"{self.shape}{shared}; zero {self.zero}{over}"

    def to_dict(self) -> dict[str, Any]:
        """The plan by its names in answers."""
        names = (
            "tp",
            "pp",
            "vp",
            "cp",
            "ep",
            "etp",
            "dp",
            "zero",
            "shard",
            "schedule",
            "mbs",
            "gbs",
            "seq",
            "task",
            "sync_every",
        )
        found = {n: getattr(self, n) for n in names}
        return {
            **found,
            "micro_batches": self.micro_batches,
            "ring": self.around,
            "offload": ",".join(self.offload),
            "docs": "" if self.packing is None else self.packing.text,
            "sequence_parallel": self.sequence_parallel,
            "recompute": self.again.split(","),
            "loss": self.loss,
            "precision": self.precision,
            "optimizer": self.optimizer.name,
            "devices": self.devices,
        }


def stages_run(schedule: str, pp: Any) -> Any:
    """Whether a schedule runs on so many stages: two directions need pairs of them, gradients put off several."""
    if schedule in ("1f1b", "gpipe", "interleaved"):
        return pp >= 1
    return (pp > 1) & (pp % (2 if schedule in ("dualpipe", "chimera") else 1) == 0)


def batches_run(schedule: str, pp: Any, micro_batches: Any) -> Any:
    """Whether a schedule has enough micro-batches on so many stages, and pairs of them where it has two directions."""
    pairs = micro_batches % (2 if schedule in ("dualpipe", "chimera") else 1) == 0
    return pairs & (micro_batches >= (2 * pp if schedule.startswith("dualpipe") else 1))


def unoffered(plan: TrainPlan) -> Iterator[str]:
    """What of a plan its framework does not offer, in words; the search tries none of it."""
    framework, title = plan.framework, plan.framework.title
    if plan.zero not in (framework.zero, *framework.zeros):
        yield f"{title} has no ZeRO {plan.zero}"
    elif framework.zero_alone and plan.zero >= 2 and plan.pp > 1:
        yield f"{title} has ZeRO {plan.zero} without pipeline stages alone"
    elif plan.tp > 1 and plan.zero > framework.zero_beside_tp:
        yield f"{title} has no ZeRO {plan.zero} beside tensor parallelism, but {framework.zero_beside_tp}"
    if plan.cp > 1:
        kind = "ring" if plan.around == plan.cp else "heads" if plan.around == 1 else "mixed"
        words = {"ring": "rings of context ranks", "heads": "context ranks that exchange heads"}
        if not framework.context:
            yield f"{title} has no context parallelism"
        elif kind not in framework.context:
            yield f"{title} has no {words.get(kind, 'rings of ranks that exchange heads')}"
    kept = {tuple(sorted(text.split(","))) for text in framework.offloads}
    away = tuple(sorted(name.partition(":")[0] for name in plan.offload))
    if away and away not in kept:
        yield f"{title} does not move {' and '.join(away)} to the host's memory"
    words = {"tp": "tensor parallelism", "pp": "pipeline stages", "ep": "expert parallelism"}
    for name in framework.lacks({name: getattr(plan, name) for name in words}):
        yield f"{title} has no {words[name]}"


def divisors(number: int, most: int) -> list[int]:
    """Those of a number, up to ``most``."""
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def degree_problems(plan: TrainPlan, model: Workload) -> Iterator[Problem]:
    """What is wrong with single degrees, whatever the others are: they do not divide the model."""
    for queries, keys in model.head_groups:
        if queries % plan.tp:
            near = divisors(queries, plan.tp)[-1]
            yield Problem("tp", f"{plan.tp} does not divide the {queries} attention heads; nearest is {near}")
            break
        if keys and keys % plan.tp and plan.tp % keys:
            yield Problem("tp", f"{plan.tp} neither divides nor is a multiple of the {keys} key-value heads")
            break
    most = model.depth + 2  # embedding and head may have chunks of their own
    if plan.pp * plan.vp > most:
        yield Problem("pp", f"pp {plan.pp} x vp {plan.vp} chunks for {model.depth} layers; at most {most}")
    chunk = -(-model.depth // (plan.pp * plan.vp))
    if plan.recompute_layers > chunk:
        yield Problem("recompute", f"{plan.again}, and a chunk has {chunk} layers at most; nearest is full")
    if plan.ep > 1 and not model.experts:
        yield Problem("ep", f"{model.name} has no experts")
    elif plan.ep > 1 and model.experts % plan.ep:
        near = divisors(model.experts, plan.ep)[-1]
        yield Problem("ep", f"{plan.ep} does not divide the {model.experts} experts; nearest is {near}")
    if plan.seq % max(1, 2 * plan.cp if plan.cp > 1 else 1):
        yield Problem("cp", f"{plan.seq} tokens are no multiple of 2 x cp {plan.cp}")


def layout_problems(plan: TrainPlan, model: Workload, devices: int) -> Iterator[Problem]:
    """What is wrong with a layout: degrees that do not divide the model, the devices or the batch."""
    if plan.devices != devices:
        given = f"tp {plan.tp} x pp {plan.pp} x cp {plan.cp} x dp {plan.dp} = {plan.devices}"
        yield Problem("dp", f"{given} devices, --on has {devices}")
    yield from degree_problems(plan, model)
    if plan.vp > 1 and plan.pp == 1:
        yield Problem("vp", "chunks are of pipeline stages: give --pp above 1")
    if not stages_run(plan.schedule, plan.pp):
        several = "several" if stages_run(plan.schedule, 3) else "an even number of"
        yield Problem("schedule", f"{plan.schedule} is of {several} pipeline stages, not {plan.pp}: give --pp")
    if (plan.tp * plan.cp * plan.dp) % (plan.ep * plan.etp):
        yield Problem(
            "ep", f"ep {plan.ep} x etp {plan.etp} does not divide tp x cp x dp = {plan.tp * plan.cp * plan.dp}"
        )
    if plan.gbs % (plan.mbs * plan.dp):
        at_once = plan.mbs * plan.dp
        near = max(at_once, round(plan.gbs / at_once) * at_once)
        yield Problem("gbs", f"{plan.gbs} is no multiple of mbs {plan.mbs} x dp {plan.dp}; nearest is {near}")
    elif stages_run(plan.schedule, plan.pp) and not batches_run(plan.schedule, plan.pp, plan.micro_batches):
        most = 2 * max(plan.pp, plan.micro_batches) + 2
        fit = [m for m in range(1, most) if batches_run(plan.schedule, plan.pp, m)]
        near = min(fit, key=lambda m: abs(m - plan.micro_batches)) * plan.mbs * plan.dp
        said = f"{plan.micro_batches} micro-batches of a replica are too few or no pairs for {plan.schedule}"
        yield Problem("gbs", f"{said} on {plan.pp} stages; nearest is {near}")
    if plan.cp % plan.around:
        near = divisors(plan.cp, plan.around)[-1]
        yield Problem("ring", f"{plan.around} does not divide cp {plan.cp}; nearest is {near}")
    elif plan.around < plan.cp:
        others = plan.cp // plan.around
        for queries, _ in model.head_groups:
            if queries % (plan.tp * others):
                yield Problem("ring", f"{others} ranks exchange heads, of which a rank has {queries // plan.tp}")
                break
    if plan.dp % plan.shard:
        yield Problem("shard", f"{plan.shard} does not divide dp {plan.dp}")
