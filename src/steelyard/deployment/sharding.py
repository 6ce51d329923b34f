"""Splitting ranks over devices. What must be communicated follows from which ranks were split.

* tensor parallelism splits query heads ``h``, key-value heads ``g``, feed-forward width ``f`` and vocabulary ``v``;
* expert parallelism splits experts ``e``;
* context parallelism splits the tokens of a prefill and the cached tokens ``l``;
* pipeline parallelism splits layers (``count``).

A split rank that an op reduces leaves partial sums, which an all-reduce must add; a split rank that survives to the
end of a block needs an all-gather.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.deployment.engine import engines
from steelyard.deployment.formats import find_format
from steelyard.deployment.plan import DEGREES, Plan
from steelyard.errors import Problem, raise_all
from steelyard.machine.cluster import Cluster
from steelyard.workload.op import Op, Size
from steelyard.workload.protocol import Workload

__all__ = ["SPLIT_BY_TP", "check_sharding", "fill_degrees", "shard", "split_ranks"]

#: Ranks that tensor parallelism splits.
SPLIT_BY_TP = ("h", "g", "f", "v")


def check_sharding(model: Workload, plan: Plan) -> None:
    """Refuse degrees that do not divide the model.

    Experts shared by data-parallel ranks need not divide: the places left over hold copies of busy experts
    (:func:`expert_places`).

    Raises:
        InputError: with every problem: heads or experts that do not divide, more stages than layers.
    """
    problems = []
    if plan.tp > 1:
        for heads in sorted({queries for queries, _ in model.head_groups}):
            if heads % plan.tp:
                valid = [d for d in range(1, heads + 1) if heads % d == 0 and d <= 1024]
                near = min(valid, key=lambda d: (abs(d - plan.tp), -d))
                problems.append(
                    Problem("tp", f"{plan.tp} does not divide the {heads} attention heads; nearest is {near}")
                )
        for kv in sorted({keys for _, keys in model.head_groups if keys}):
            if kv % plan.tp and plan.tp % kv:
                problems.append(
                    Problem("tp", f"{plan.tp} neither divides nor is a multiple of the {kv} key-value heads")
                )
    if plan.ep > 1:
        if not model.experts:
            problems.append(
                Problem("ep", f"{model.name} has no experts; expert parallelism needs a mixture of experts")
            )
        elif expert_places(model.experts, plan.ep) > (2 if plan.shares_experts else 1) * model.experts:
            valid = [d for d in range(1, model.experts + 1) if model.experts % d == 0]
            near = min(valid, key=lambda d: (abs(d - plan.ep), -d))
            problems.append(Problem("ep", f"{plan.ep} does not divide the {model.experts} experts; nearest is {near}"))
        if (plan.tp * plan.dp) % plan.ep:
            problems.append(Problem("ep", f"{plan.ep} does not divide tp x dp = {plan.tp * plan.dp}"))
    if plan.pp > model.depth:
        problems.append(Problem("pp", f"{plan.pp} stages for {model.depth} layers; at most {model.depth}"))
    raise_all(problems)


def expert_places(experts: int, ep: int) -> int:
    """Experts that ``ep`` devices hold together, each as many as any other.

    256 over 144 devices: 288, of which 32 are copies of busy ones (DeepSeek's deployment of its own models).
    """
    return -(-experts // ep) * ep


def split_ranks(op: Op, plan: Plan) -> Mapping[str, int]:
    """Ranks of ``op`` that the plan splits, with the degree."""
    ranks = set(op.ranks) | {part for parts in op.derived.values() for part, _ in parts}
    found: dict[str, int] = {}
    if op.block in ("embedding", "head") and plan.tp > 1 and _whole_ends(plan.engine):
        return found
    routed = "e" in ranks
    for rank in SPLIT_BY_TP:
        if rank in ranks and (op.block != "embedding" or op.name == "embedding"):
            degree = plan.tp
            if routed and rank == "f":
                shared = plan.dp if plan.shares_experts else 1
                degree = max(1, plan.tp * shared // plan.ep)
            if degree > 1:
                found[rank] = degree
    if routed and plan.ep > 1:
        found["e"] = plan.ep
    return found


def _whole_ends(engine: str) -> bool:
    """Whether an engine leaves what comes before and after the layers to one device."""
    known = engines().get(engine)
    return known is not None and known.whole_ends


def shard(op: Op, plan: Plan) -> Op:
    """The op as one device runs it: split ranks shrink, key-value heads are replicated when fewer than ``tp``."""
    split = split_ranks(op, plan)
    if not split and plan.cp == 1:
        return op
    sizes: dict[str, Size] = {}
    for rank, degree in split.items():
        if rank in op.sizes:
            size = op.sizes[rank]
            sizes[rank] = (
                np.maximum(1, np.ceil(np.asarray(size) / degree))
                if rank in ("g", "v", "f", "e")
                else np.asarray(size) / degree
            )
    if "g" in split and "q" in op.sizes:
        heads = np.asarray(op.sizes["g"]) * np.asarray(op.sizes["q"]) / split["g"]
        sizes["q"] = heads / np.asarray(sizes["g"])
    domain, visited = dict(op.domain), dict(op.visited)
    if "e" in split:
        domain = {g: np.asarray(x) / split["e"] if "e" in g else x for g, x in domain.items()}
        visited = {r: np.asarray(x) / split["e"] if r == "e" else x for r, x in visited.items()}
    if "v" in split and "v" in visited:
        visited["v"] = np.maximum(1, np.asarray(visited["v"]) / split["v"])
    if plan.cp > 1:
        for rank in ("t", "s"):
            if rank in op.sizes and op.block != "head" and np.max(np.asarray(op.sizes[rank])) > 1:
                sizes[rank] = np.ceil(np.asarray(op.sizes[rank]) / plan.cp)
        if {"s", "l"} <= set(op.sizes) and np.max(np.asarray(op.sizes["s"])) <= 1:  # a decode: its cache is shared out
            sizes["l"] = np.ceil(np.asarray(op.sizes["l"]) / plan.cp)
        domain = {g: np.asarray(x) / plan.cp for g, x in domain.items()}
        if "l" in visited:
            visited["l"] = np.ceil(np.asarray(visited["l"]) / plan.cp)
    return replace(op, sizes={**op.sizes, **sizes}, domain=domain, visited=visited)


#: Devices of one domain from which on nobody runs one replica on all of them.
RACK = 32
#: Share of the memory that the weights of a replica may take for it to be one of several.
_WEIGHTS_FRAC = 0.8


def _has_room(model: Workload, cluster: Cluster, devices: int) -> bool:
    """Whether so many devices hold the weights as published, and leave room for a cache."""
    stored = model.parameters() * find_format(model.native_weights).stored_bits / 8
    return stored <= _WEIGHTS_FRAC * devices * cluster.machine.usable_bytes


def _together(cluster: Cluster) -> int:
    """Devices that tensor parallelism spans: a node; of computers sold with a fast port for each other all of them."""
    whole = cluster.per_node == 1 and cluster.machine.kind == "soc" and cluster.machine.links("network")
    return RACK if whole else cluster.per_node


def fill_degrees(
    model: Workload, cluster: Cluster, given: Mapping[str, Any], *, splits_layers: bool = False
) -> dict[str, int]:
    """Every parallel degree: tensor parallel inside a node (and between computers that are sold to be joined, as two
    DGX Sparks are), pipeline across nodes, unless given, so that every device is used. Of a domain of :data:`RACK`
    devices and more, which no tensor parallel fills, replicas where one has room.

    Args:
        model: its heads and layers bound the degrees.
        cluster: the devices.
        given: the degrees given, None where not.
        splits_layers: the engine gives every device layers, one after the other, unless asked otherwise.
    """
    sizes = {name: given.get(name) for name in DEGREES}
    if cluster.unlike and not any(sizes[name] for name in DEGREES[:3]):
        sizes["pp"] = cluster.count
    tp, pp, dp = (sizes[name] for name in DEGREES[:3])
    ep, cp = (sizes[name] or 1 for name in DEGREES[3:])
    used = (tp or 1) * (pp or 1) * (dp or 1) * cp
    if cluster.count % used and used <= cluster.count:
        return dict(zip(DEGREES, (tp or 1, pp or 1, dp or 1, ep, cp), strict=True))
    rest = max(1, cluster.count // used)
    if tp is None:
        limit = 1 if splits_layers and cluster.machine.launch != "cpu" else min(rest, _together(cluster))
        heads = [queries for queries, _ in model.head_groups]
        tp = max((d for d in range(1, limit + 1) if rest % d == 0 and all(h % d == 0 for h in heads)), default=1)
        rest //= tp
    if pp is None and dp is None and RACK <= cluster.count <= cluster.per_node and _has_room(model, cluster, tp * cp):
        pp, dp = 1, rest
    elif pp is None and dp is None:
        pp, rest = (rest, 1) if rest <= model.depth else (1, rest)
    elif pp is None:
        pp = rest
    dp = dp or (rest if pp is not None else 1)
    return dict(zip(DEGREES, (tp, pp or 1, dp, ep, cp), strict=True))
