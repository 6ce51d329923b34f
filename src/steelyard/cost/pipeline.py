"""What crosses a pipeline-stage boundary, and how pieces of one prompt follow each other through the stages."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from steelyard.cost.collective import Fabric, collective_time_s
from steelyard.cost.op_models import link_parameters
from steelyard.deployment.engine import Engine
from steelyard.deployment.plan import Plan
from steelyard.machine.cluster import Cluster
from steelyard.workload.op import Size
from steelyard.workload.protocol import Workload

__all__ = ["boundary", "pieces_frac"]

PIECES_IN_FLIGHT: Final = 4
"""Pieces of a prompt that llama.cpp has on the way through the stages at once (``GGML_SCHED_MAX_COPIES``)."""


def boundary(model: Workload, plan: Plan, cluster: Cluster, tokens: Size) -> Any:
    """Time to hand the hidden states of ``tokens`` tokens to the next stage, in s; 0 without pipeline parallelism.

    Each of the ``tp`` ranks sends its share over the slowest link a boundary crosses: between nodes when the stages
    do not fit one node.
    """
    if plan.pp == 1:
        return 0.0
    across = plan.replica_devices > cluster.per_node
    link = cluster.inter if across and cluster.inter is not None else cluster.peer
    bandwidth = cluster.inter_bandwidth_bytes_per_s if across else cluster.peer_bandwidth_bytes_per_s
    if link is None:
        return 0.0
    message = np.asarray(tokens, dtype=np.float64) * model.hidden * plan.format("communication").bits / 8 / plan.tp
    found = link_parameters(cluster, link.kind)
    fabric = Fabric(link.name, max(bandwidth, 1.0), link.latency_s, link.switched, link.multicast)
    return collective_time_s("send", message, 2, fabric=fabric, parameters=found.parameters)


def pieces_frac(engine: Engine, plan: Plan, depth: float, tokens: Size) -> Any:
    """Time of a step of ``tokens`` tokens relative to its stages one after another.

    An engine that gives every device layers cuts the step into micro-batches, which follow each other: the first
    passes all stages, each further one takes the turn of the slowest stage (the output head counts as a layer), or of
    the pieces that may be on their way. Of infinitely many layers it is the least: equal shares, all on their way. 1
    with one stage, one piece, or another engine.
    """
    if plan.pp == 1 or not (engine.splits_layers and engine.micro_batch_tokens):
        return 1.0
    first = 1.0 / np.maximum(1.0, np.asarray(tokens, dtype=np.float64) / engine.micro_batch_tokens)
    if np.isinf(depth):
        turn = 1.0 / plan.pp
    else:
        turn = max(min(1.0, -(-(depth + 1) // plan.pp) / depth), 1.0 / PIECES_IN_FLIGHT)
    return first + (1.0 - first) * turn
