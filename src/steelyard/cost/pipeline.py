"""What crosses a pipeline-stage boundary."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.cost.collective import Fabric, collective_time_s
from steelyard.cost.op_models import link_parameters
from steelyard.deployment.plan import Plan
from steelyard.machine.cluster import Cluster
from steelyard.workload.op import Size
from steelyard.workload.protocol import Workload

__all__ = ["boundary"]


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
