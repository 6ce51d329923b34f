"""Memory on one device: weights, KV cache, activations, buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.host_memory import cache_share, host_shares
from steelyard.cost.kv_pages import pages_of
from steelyard.cost.program import own_formats, weight_format
from steelyard.deployment.engine import Engine, engines
from steelyard.deployment.offload import parse_offload
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import shard
from steelyard.machine.component import Machine
from steelyard.workload.kept import kept_by_layers
from steelyard.workload.op import Op, Size
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step
from steelyard.workload.tower import Tower

__all__ = [
    "MemoryUse",
    "host_blocks",
    "host_weight_bytes",
    "kv_bytes",
    "largest_that_fits",
    "memory_use",
    "step_bytes",
    "tower_notes",
    "towers_loaded",
    "weight_bytes",
    "weight_parts",
    "windowed_bytes",
]

#: Blocks of ops, and what people call the part of the model they are; others keep their name.
PARTS = {"moe": "experts", "norm": "norms"}
#: The part that layers are which attend to images.
CROSSING = "cross-attention"


@dataclass(frozen=True, eq=False)
class MemoryUse:
    """Bytes on the fullest device. Arrays over scenarios."""

    weights: Any
    kv_cache: Any
    activations: Any
    other: Any
    capacity: float
    """What the engine may use of the device."""
    host: Any = 0.0
    """In host memory, of all devices together: weights and the cache of layers computed there."""
    host_capacity: float = 0.0
    """Of the host; 0 where nothing lies there."""

    @property
    def total(self) -> Any:
        """Everything that must fit."""
        return self.weights + self.kv_cache + self.activations + self.other

    @property
    def headroom(self) -> Any:
        """Bytes left, negative when it does not fit."""
        return self.capacity - self.total

    @property
    def fits(self) -> Any:
        """Whether it fits."""
        return (np.asarray(self.headroom) >= 0) & (np.asarray(self.host) <= self.host_capacity)

    def to_dict(self) -> Mapping[str, Any]:
        """The parts by name, in bytes."""
        beside = {"host": self.host, "host_capacity": self.host_capacity} if self.host_capacity else {}
        return beside | {
            "weights": self.weights,
            "kv_cache": self.kv_cache,
            "activations": self.activations,
            "other": self.other,
            "total": self.total,
            "capacity": self.capacity,
        }


def weight_bytes(model: Workload, plan: Plan, exact: float | None = None, multiples: tuple[int, int] = (1, 1)) -> float:
    """Weight bytes of the fullest device (arguments as of :func:`weight_parts`)."""
    return sum(weight_parts(model, plan, exact, multiples).values())


def weight_parts(
    model: Workload, plan: Plan, exact: float | None = None, multiples: tuple[int, int] = (1, 1)
) -> dict[str, float]:
    """Weight bytes of the fullest device, by the part of the model.

    Args:
        model: the model.
        plan: a resolved plan.
        exact: total bytes of the real files, when a header was read; then only the shares are modelled.
        multiples: what the engine pads the hidden and the inner width of MXFP4 experts to multiples of.
    """
    return _weights(model, plan, exact, multiples)[0]


def host_weight_bytes(model: Workload, plan: Plan, exact: float | None = None) -> float:
    """Weight bytes in host memory, of all devices together. Arguments as of :func:`weight_bytes`."""
    return _weights(model, plan, exact, (1, 1))[1] if plan.offload else 0.0


def host_blocks(
    model: Workload, plan: Plan, host: Machine, block_tokens: int, exact: float | None = None
) -> int | None:
    """Blocks of a cache that lies in host memory, beside the weights there; None: it does not.

    Arguments as of :func:`weight_bytes`; ``host``: the processor and its memory, of one replica.
    """
    if not parse_offload(plan.offload).cache:
        return None
    whole = replace(plan, tp=1, pp=1, cp=1, offload="")
    each = float(kv_bytes(model, whole, 1, block_tokens, block_tokens)) * plan.dp
    left = host.usable_bytes - host_weight_bytes(model, plan, exact) * plan.dp
    return max(0, int(left // max(each, 1.0)))


def _weights(
    model: Workload, plan: Plan, exact: float | None, multiples: tuple[int, int]
) -> tuple[dict[str, float], float]:
    """Weight bytes of the fullest device by part, and those in host memory."""
    total, beside = 0.0, 0.0
    ends = {"embedding": 0.0, "head": 0.0}
    stage: dict[str, float] = {}
    graph = model.graph(Step.prefill(1, 1))
    own = own_formats(graph, plan)
    share = host_shares(graph, plan, model.depth)
    for op in (*graph, *graph.held):
        away = share(op)
        local = shard(op, plan)
        stored = weight_format(op, plan, own)
        bits, padding = stored.stored_bits, 1.0
        if stored.base == "mxfp4" and {"e", "d", "f"} <= set(op.ranks):
            padding = _padding(local, "d", multiples[0]) * _padding(local, "f", multiples[1])
        for tensor, mine in zip(op.inputs, local.inputs, strict=True):
            if tensor.role not in ("weight", "table"):
                continue
            width = tensor.bits if tensor.bits is not None else bits
            copies = float(np.asarray(op.count))
            whole = float(op.elements(tensor, visited=False)) * width / 8 * copies
            here = float(local.elements(mine, visited=False)) * width / 8 * copies * padding * (1.0 - away)
            if tensor.name in op.tied:
                # the head's copy of a tied embedding is stored once, unless the stages differ
                if plan.pp == 1:
                    continue
            else:
                total += whole
                beside += whole * away
            if op.block in ends:
                ends[op.block] += here
            else:
                part = CROSSING if op.name.startswith("image_layer") else PARTS.get(op.block, op.block or "other")
                stage[part] = stage.get(part, 0.0) + here
    if plan.pp > 1:
        layers_per_stage = -(-model.depth // plan.pp) / model.depth
        stage = {part: size * layers_per_stage for part, size in stage.items()}
        fuller = max(ends, key=lambda end: ends[end])
        ends = {fuller: ends[fuller]}
    parts = {**stage, **ends}
    towers: dict[str, float] = {}  # every stage holds them
    loaded = towers_loaded(model, plan)
    for tower in loaded:
        towers[tower.name] = towers.get(tower.name, 0.0) + tower.bytes_on(plan.tp)
    if exact is not None and total > 0:
        ratio = max(0.0, exact - sum(tower.bytes_on() for tower in loaded)) / total
        return {part: size * ratio for part, size in parts.items()} | towers, beside * ratio
    return {**parts, "other": parts.get("other", 0.0) + model.extra_parameters * 2.0} | towers, beside


def towers_loaded(model: Workload, plan: Plan) -> tuple[Tower, ...]:
    """The towers that are loaded with the language model: GGUF has them apart, there those asked for, but in Ollama."""
    engine = engines().get(plan.engine)
    apart = plan.format("weight").gguf and not (engine is not None and engine.towers_inside)
    return tuple(tower for tower in model.towers if tower.asked or not apart)


def tower_notes(model: Workload, plan: Plan) -> list[str]:
    """Remarks on the towers of a model: their size, and whether they are loaded."""
    loaded = towers_loaded(model, plan)
    notes = []
    for tower in model.towers:
        how = f"loaded in {tower.format}" if tower in loaded else "a GGUF file of its own (mmproj), not loaded"
        notes.append(f"{tower.name} {tower.parameters / 1e9:.3g} B, {how}")
    return notes


def _padding(op: Op, rank: str, multiple: int) -> float:
    """How much longer a rank is once it is a multiple."""
    size = float(np.max(op.size(rank)))
    return -(-size // multiple) * multiple / size


def kv_bytes(model: Workload, plan: Plan, batch: Size, context: Size, block_tokens: float = 1) -> Any:
    """KV-cache bytes of the fullest device for ``batch`` sequences (per replica) of ``context`` tokens.

    Heads are split over ``tp`` and replicated when there are fewer; a latent cache is not split; layers are split over
    ``pp``, tokens over ``cp``; contexts round up to whole blocks.
    """
    bits = plan.format("kv").stored_bits
    tokens = np.ceil(np.asarray(context, dtype=np.float64) / block_tokens) * block_tokens
    stages = -(-model.depth // plan.pp) / model.depth
    stages *= 1.0 - cache_share(plan, model.depth)
    state = model.state_bytes / plan.tp * stages
    cache = model.kv_elements(tokens, plan.tp) * bits / 8 * stages / plan.cp
    return (cache + state) * np.asarray(batch, dtype=np.float64)


def memory_use(
    model: Workload,
    plan: Plan,
    machine: Machine,
    engine: Engine,
    batch: Size,
    context: Size,
    *,
    step_tokens: Size | None = None,
    exact_weights: float | None = None,
    weights: float | None = None,
    host: Machine | None = None,
) -> MemoryUse:
    """What a replica of the plan needs on its fullest device.

    Args:
        model: the model.
        plan: a resolved plan.
        machine: the device.
        engine: sets the usable share, the block size and the workspace.
        batch: sequences held by one replica at once.
        context: tokens each of them may reach.
        step_tokens: tokens of the largest step; default: the engine's limit or the whole prefill if smaller.
        exact_weights: bytes of the real weight files.
        weights: weight bytes of the fullest device, when they are known already.
        host: beside the devices, where weights lie in its memory.
    """
    tokens = (
        step_tokens
        if step_tokens is not None
        else np.minimum(engine.max_batched_tokens, np.asarray(batch) * np.asarray(context))
    )
    beside: Any = 0.0
    if host is not None:
        whole = replace(plan, tp=1, pp=1, cp=1, offload="")
        there = kv_bytes(model, whole, batch, context, engine.block_tokens) * cache_share(plan, model.depth)
        beside = (host_weight_bytes(model, plan, exact_weights) + there) * plan.dp
    return MemoryUse(
        weights=weight_bytes(model, plan, exact_weights, engine.multiples(machine)) if weights is None else weights,
        kv_cache=_held(model, plan, engine, batch, context),
        activations=step_bytes(model, plan, tokens, batch, engine),
        other=engine.beside_bytes(machine, plan.tp),
        capacity=engine.memory_frac * machine.usable_bytes,
        host=beside,
        host_capacity=0.0 if host is None else host.usable_bytes,
    )


def _held(model: Workload, plan: Plan, engine: Engine, batch: Size, context: Size) -> Any:
    """Bytes of the cache of ``batch`` sequences; where states take pages whole blocks of them and of attention."""
    if engine.grouped_pages and model.state_bytes and not plan.offload:
        pages = pages_of(model, plan, int(engine.block_tokens))
        if pages is not None and not model.window:
            blocks = pages.state_groups + sum(
                count * np.ceil(np.asarray(context, dtype=np.float64) / tokens)
                for _, count, tokens in pages.groups
                if tokens
            )
            return blocks * pages.block_bytes * np.asarray(batch, dtype=np.float64)
    each = windowed_bytes(model, plan, engine)
    if each:
        blocks = np.ceil(np.asarray(context, dtype=np.float64) / engine.block_tokens)
        state = kv_bytes(model, plan, 1, 0)
        return (blocks * engine.block_tokens * each + state) * np.asarray(batch, dtype=np.float64)
    return kv_bytes(model, plan, batch, context, engine.block_tokens)


def windowed_bytes(model: Workload, plan: Plan, engine: Engine) -> float:
    """Bytes of a token on one device where layers with a window keep a share of all tokens; 0: they keep the window."""
    share = engine.windows_keep(model.model_type)
    if not share or not model.window or not kept_by_layers(model):
        return 0.0
    far = 2**22
    whole = float(kv_bytes(model, plan, 1, 2) - kv_bytes(model, plan, 1, 1))
    others = float(kv_bytes(model, plan, 1, 2 * far) - kv_bytes(model, plan, 1, far)) / far
    return others + (share if others else 1.0) * (whole - others)


def largest_that_fits(fits: Callable[[NDArray[np.int64]], Any], top: int, n: int) -> NDArray[np.int64]:
    """The largest whole numbers up to ``top`` that fit, ``[n]``, by bisection; 0 where not even 1 does.

    Args:
        fits: whether each of ``n`` candidates fits; what does not fit does not fit with a larger number either.
        top: the largest number tried.
        n: how many.
    """
    low, high = np.zeros(n, dtype=np.int64), np.full(n, top, dtype=np.int64)
    low = np.where(fits(high), high, low)
    while (high - low > 1).any():
        middle = (low + high) // 2
        held = np.asarray(fits(middle)) | (low == high)
        low, high = np.where(held, middle, low), np.where(held, high, middle)
    return low


def activation_bytes(
    model: Workload, plan: Plan, tokens: Size, rows: Size, logit_bytes: float = 4.0, partial_sums: float = 0.0
) -> Any:
    """Working set of the largest step of inference: its widest pair of tensors alive at once, or the sampling after it.

    ``max(tokens (3 d + widest) 2 B, rows vocab logit_bytes)``: beside the widest tensors live the residual stream, what
    enters the block and what leaves it; layers reuse the same buffers, and sampling theirs.

    Args:
        model, plan: what runs.
        tokens: of the step.
        rows: whose scores are kept: of sequences a token is chosen for, or all tokens of the step.
        logit_bytes: of each score while it is: in fp32, with what the engine's sampling keeps beside.
        partial_sums: copies of a product's outputs with 4-bit weights that are added afterwards.
    """
    each = max(2.0, plan.format("activation").bits / 8)
    scores = np.asarray(rows, dtype=np.float64) * model.vocab * logit_bytes if model.head else 0.0
    alive = 3 * model.hidden + model.widest_elements(plan.tp)
    if partial_sums and plan.format("weight").base == "int4":
        alive = alive + partial_sums * _widest_product(model, plan)
    return np.maximum(np.asarray(tokens, dtype=np.float64) / plan.cp * alive * each, scores)


def step_bytes(model: Workload, plan: Plan, tokens: Size, rows: Size, engine: Engine) -> Any:
    """Working set of a step of an engine that chooses a token for each of ``rows``; see :func:`activation_bytes`."""
    scored = tokens if engine.whole_logits else rows
    return activation_bytes(model, plan, tokens, scored, engine.logit_bytes, engine.partial_sums)


def _widest_product(model: Workload, plan: Plan) -> float:
    """Outputs per token of the widest product of a layer on one device, experts whole."""
    widest = 0.0
    for op in model.graph(Step.prefill(1, 1)):
        if op.block not in ("embedding", "head") and "weight" in {x.role for x in op.inputs}:
            here = op if op.block in PARTS and "e" in op.ranks else shard(op, plan)
            ranks = [rank for rank in here.output.ranks if rank not in ("t", "b", "s", "e")]
            widest = max(widest, float(np.prod([np.max(here.size(rank)) for rank in ranks])))
    return widest
