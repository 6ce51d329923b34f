"""A program: the workload lowered by the plan, as kernels one device runs, with what must be communicated.

Lowering derives everything from the ops: ops with the same ``fuse`` label become one kernel whose inner tensors stay
on chip; a split rank that is reduced leaves partial sums, so the block ends in an all-reduce; a split rank that
reaches the end of the head ends in an all-gather.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.kinds import Structure
from steelyard.cost.models import kinds
from steelyard.deployment.formats import Format, compute_with, find_format, widened, widest
from steelyard.deployment.mixtures import mixture_of
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import shard, split_ranks
from steelyard.errors import InputError
from steelyard.machine.component import Compute, Machine
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op, part_of

__all__ = ["Kernel", "Program", "apart", "lower"]

#: Blocks whose weights stay in 16 bits in quantised checkpoints, by the convention of the published ones.
_UNQUANTISED = ("embedding", "head", "norm")


def lower(graph: Graph, plan: Plan, machine: Machine) -> Program:
    """Lower a graph onto one device of the plan.

    Args:
        graph: the ops of one step of one replica.
        plan: a resolved plan (every format named).
        machine: decides what each product is really computed in.
    """
    kernels: list[Kernel] = []
    own = own_formats(graph, plan)
    for block, group in groupby(graph.ops, key=lambda op: (op.name.split(".")[0], op.block)):
        ops = list(group)
        kernels += _block(ops, plan, machine, block[1], own)
    tokens = next((op.size("t") for op in graph.ops if "t" in op.ranks), 0.0)
    return Program(graph.name, tuple(kernels), plan, tokens)


def _block(ops: list[Op], plan: Plan, machine: Machine, block: str, own: Mapping[str, str]) -> Iterator[Kernel]:
    stage = {"embedding": "first", "head": "last"}.get(block, "")
    shares = plan.shares_experts and block == "moe"
    routed = [op for op in ops if "e" in op.ranks]
    if shares and routed:
        yield _dispatch("dispatch", routed[0], plan)
    kernels: list[Kernel] = []
    for _, group in groupby(enumerate(ops), key=lambda x: (x[1].fuse if plan.fused else "") or x[0]):
        fused = [op for _, op in group]
        kernel = _kernel([shard(op, plan) for op in fused], plan, machine, block, stage, own)
        if kernel is not None:
            kernels.append(kernel)
        elif kernels:
            kernels[-1] = replace(kernels[-1], biased=True)
    yield from kernels
    if shares and routed:
        yield _dispatch("combine", routed[0], plan)
    partial = [op for op in ops if set(op.reduced) & set(split_ranks(op, plan)) and op.map != "sample"]
    if block == "embedding" and plan.tp > 1:
        partial = [op for op in ops if op.name == "embedding"]
    if partial and not (shares and all("e" in op.ranks for op in partial)):
        yield _reduction(partial[-1], plan, stage)
    gathered = [op for op in ops if set(op.output.ranks) & {"v"} & set(split_ranks(op, plan))]
    if gathered:
        op = gathered[-1]
        message = op.elements(op.output) * plan.format("communication").bits / 8
        yield _collective(f"{op.name}.all_gather", "all_gather", message, plan.tp, op, stage)


def _reduction(op: Op, plan: Plan, stage: str) -> Kernel:
    devices = plan.tp
    summed = "e" in op.ranks  # what the experts of a token made is added up before it leaves the device
    elements = np.asarray(op.size("t")) * op.size("d") if summed else op.elements(op.output)
    message = elements * plan.format("communication").bits / 8
    if plan.cp > 1:
        message = message / plan.cp
    return _collective(f"{op.name}.all_reduce", "all_reduce", message, devices, op, stage)


def _dispatch(name: str, op: Op, plan: Plan) -> Kernel:
    """All-to-all of routed tokens: a token crosses once to every rank that holds one of its experts.

    With ``k`` experts per token over ``n`` ranks a token meets ``n (1 - (1 - 1/n)^k)`` of them (uniform routing); each
    rank starts with ``tokens / n`` tokens.
    """
    pairs, tokens = np.asarray(next(iter(op.domain.values()))), np.asarray(op.size("t"))
    ranks = plan.ep * -np.expm1(pairs / tokens * np.log1p(-1.0 / plan.ep))
    bits = plan.format("activation").bits if name == "dispatch" else plan.format("communication").bits
    message = tokens / plan.ep * ranks * np.asarray(op.size("d")) * bits / 8
    kernel = _collective(f"{op.name}.{name}", "all_to_all", message, plan.ep, op, "")
    exchange = {
        "exchange": name,
        "tokens": tokens / plan.ep,
        "hidden": op.size("d"),
        "top_k": pairs / tokens,
        "experts": op.size("e"),
        "bits": bits,
    }
    return replace(kernel, features={**kernel.features, **exchange})


def _collective(name: str, operation: str, message: Any, devices: int, op: Op, stage: str) -> Kernel:
    features = {"operation": operation, "message_bytes": message, "devices": devices}
    return Kernel(name, "collective", _copies(op), (), features, 0.0, {}, block=op.block, stage=stage)


def apart(kernel: Kernel, ops: Iterable[Op], plan: Plan, machine: Machine) -> Iterator[Kernel]:
    """The ops of a fused kernel as kernels of their own, all between them through memory.

    Args:
        kernel: fused, on one device.
        ops: what it does, as one device has it.
        plan, machine: as of :func:`lower`.
    """
    for op in ops:
        made = _kernel([op], plan, machine, kernel.block, kernel.stage, {})
        if made is not None:
            yield replace(made, count=kernel.count)


def _copies(op: Op) -> Any:
    """How often an op runs in a step: its copies, those that no token needs on average left out."""
    return op.count * op.facts["runs"] if "runs" in op.facts else op.count


def own_formats(graph: Graph, plan: Plan) -> Mapping[str, str]:
    """Parts of the model (:func:`~steelyard.workload.op.part_of`) whose weights have a format of their own.

    As published, when the plan keeps the weights as published; as llama.cpp's quantiser chooses, when the plan asks for
    one of its mixtures; else none.
    """
    facts = graph.facts
    if "native_weights" in facts and plan.stores(str(facts["native_weights"])):
        own = dict(facts.get("native_formats", ()))
        return own or mixture_of(plan.weights, graph)
    return mixture_of(plan.weights, graph)


def weight_format(op: Op, plan: Plan, own: Mapping[str, str] | None = None) -> Format:
    """The format an op's weights are stored in: its part's own, 16 bit at the ends of a model, else the plan's."""
    for part in (part_of(op), op.block):
        if own and part in own:
            return find_format(own[part])
    fmt = plan.format("weight")
    if op.block in _UNQUANTISED and fmt.bits < 16 and not (fmt.gguf or fmt.whole):
        return plan.format("communication") if plan.format("communication").bits == 16 else find_format("bf16")
    return fmt


def _activations(plan: Plan, own: Mapping[str, str], block: str) -> Format:
    """What activations are in: as the plan says, or as own weights imply where the plan's are implied too."""
    asked, main = plan.format("activation"), plan.format("weight")
    if block not in own or asked.name != (main.activations or main.name):
        return asked
    fmt = find_format(own[block])
    return find_format(fmt.activations or fmt.base) if fmt.bits < 16 and not fmt.gguf else asked


def _bits(op: Op, plan: Plan, own: Mapping[str, str]) -> dict[str, float]:
    activation = max(16.0, plan.format("activation").stored_bits)  # between kernels activations are 16 bit
    return {
        "weight": weight_format(op, plan, own).stored_bits,
        "table": weight_format(op, plan, own).stored_bits,
        "activation": activation,
        "state": activation,
        "kv": plan.format("kv").stored_bits,
    }


def _kernel(
    ops: list[Op], plan: Plan, machine: Machine, block: str, stage: str, own: Mapping[str, str]
) -> Kernel | None:
    nothing_moves = len(ops) == 1 and all(t.bits == 0 for t in ops[0].tensors if t.role == "activation")
    if nothing_moves and "rate" not in ops[0].facts:
        return None  # a bias added in the epilogue of the product before it
    made = {op.output.name for op in ops[:-1]}
    traffic: dict[str, Any] = {"weight": 0.0, "kv": 0.0, "read": 0.0, "write": 0.0}
    flops: Any = 0.0
    for i, op in enumerate(ops):
        flops = flops + op.flops()
        bits = _bits(op, plan, own)
        for tensor in op.inputs:
            if i > 0 and tensor.name in made:
                continue
            width = tensor.bits if tensor.bits is not None else bits[tensor.role]
            key = {"weight": "weight", "table": "weight", "kv": "kv"}.get(tensor.role, "read")
            traffic[key] = traffic[key] + op.elements(tensor) * (width / 8)
        if i == len(ops) - 1 or op.output.role in ("kv", "state"):
            width = op.output.bits if op.output.bits is not None else bits[op.output.role]
            traffic["write"] = traffic["write"] + op.elements(op.output) * (width / 8)
    structure = Structure.of(ops)
    kind = kinds().of(structure)
    by_cache = kind.multiplies == "cache"
    weight = next((op for op in ops if any(t.role == "weight" for t in op.inputs)), None)
    weights = (
        weight_format(weight, plan, own) if weight is not None else plan.format("kv" if by_cache else "activation")
    )
    activations = _activations(plan, own, block)
    if weights.bits >= 16 or by_cache or any(b >= 16 for op in ops for n, b in op.bits.items() if n.startswith("w_")):
        activations = activations if activations.bits >= 16 else plan.format("communication")
        weights = activations if by_cache else weights
    engine: Compute
    if kind.engine == "vector":
        engine, compute = widest(machine)
    else:
        activations = widened(machine, activations)
        try:
            engine, compute = compute_with(machine, weights, activations)
        except InputError:
            if weights.name == plan.weights or not own:
                raise
            # a part that the checkpoint keeps wider than the machine's arithmetic, as a router in fp32
            engine, compute = compute_with(machine, activations, activations)
    return Kernel(
        name=ops[0].fuse or ops[0].name if len(ops) > 1 else ops[0].name,
        kind=kind.name,
        count=_copies(ops[0]),
        ops=tuple(ops),
        features={
            **kind.features(structure, plan),
            "act_bits": activations.stored_bits,
            "weight_bits": weights.stored_bits,
            "kv_bits": plan.format("kv").stored_bits,
        },
        flops=flops,
        traffic=traffic,
        compute=compute,
        engine=engine.name,
        block=block,
        stage=stage,
        weight_format=weights.base if weight is not None else "",
        weights_cold=kind.weights_cold,
    )
