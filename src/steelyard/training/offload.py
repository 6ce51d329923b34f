"""What of a training step lies in the memory of the host, or on its drives, and what the copies take beside the work.

    parameters     a layer's part comes over the link before its forward and its backward pass
    activations    what a layer keeps goes out behind its forward pass and comes back before its backward pass
    optimizer      gradients go out behind the backward pass; the host updates, and weights come back behind that

A layer waits for what is longer than its work. The update takes ``bytes / (UPDATE_FRAC memory of the host)``, a node's
shared by its devices; drives take what is read and written at ``NVME_BYTES_PER_S`` of a node. Papers: ZeRO-Offload
(arXiv:2101.06840), ZeRO-Infinity (arXiv:2104.07857).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from steelyard.cost.host_memory import LINK_FRAC
from steelyard.deployment.train_plan import TrainPlan
from steelyard.machine.cluster import Cluster
from steelyard.machine.host import find_host, usual_host

__all__ = ["NVME_BYTES_PER_S", "UPDATE_FRAC", "HostRates", "host_rates", "link_rate"]

#: Of the host's bandwidth, what an update on all its cores sustains (guess: 0.6 to 0.8 of streams).
UPDATE_FRAC = 0.7
#: Of the memory of a server with several devices where none is named, bytes (guess: DGX A100, H100 and B200 have 2 TB).
SERVER_BYTES = 2e12
#: Of the drives of a node together, reading or writing (guess: eight drives of some 3 GB/s).
NVME_BYTES_PER_S = 25e9


@dataclass(frozen=True, slots=True)
class HostRates:
    """Of one device, bytes a second."""

    link: float
    """To the host's memory."""
    update: float
    """That the host's memory gives an update, of each device of the node."""
    drives: float
    capacity_bytes: float
    """Of the host's memory, of each device of the node."""

    def copy(self, place: str) -> float:
        """To and from a place, ``host`` or ``nvme``."""
        return min(self.link, self.drives) if place == "nvme" else self.link

    def layer_waits(self, kind: Any, plan: TrainPlan, cut: Any, cut_experts: Any) -> tuple[Any, Any]:
        """What a layer waits for copies, forward and backward, beside its work.

        Args:
            kind: the layer.
            plan: with what lies elsewhere.
            cut, cut_experts: ranks that hold a part of its weights each, and of its experts'.
        """
        forward: Any = 0.0
        backward: Any = 0.0
        if place := plan.away("parameters"):
            held = np.asarray(kind.weights) / cut + np.asarray(kind.expert_weights) / cut_experts
            forward = forward + 2.0 * held / self.copy(place)
            backward = backward + 2.0 * held / self.copy(place)
        if place := plan.away("activations"):
            forward = forward + np.asarray(kind.kept_bytes) / self.copy(place)
            backward = backward + np.asarray(kind.kept_bytes) / self.copy(place)
        return np.maximum(0.0, forward - kind.forward_s()), np.maximum(0.0, backward - kind.backward_s())

    def update_s(self, local: Any, plan: TrainPlan, backward_s: Any) -> Any:
        """Of ``local`` parameters of a device: gradients that backward passes did not hide, and the update."""
        place, optimizer = plan.away("optimizer"), plan.optimizer
        sent = np.maximum(0.0, 2.0 * local / self.link - backward_s)
        spent = local * optimizer.update_bytes(2.0, 2.0) / self.update
        if place == "nvme":
            moved = 2.0 * (optimizer.state_bytes + optimizer.master_bytes)
            spent = np.maximum(spent, local * moved / self.drives)
        return sent + np.maximum(spent, 2.0 * local / self.link)


@cache
def _host(name: str) -> Any:
    return find_host(name)


def link_rate(cluster: Cluster) -> float:
    """Bytes a second between a device and its host; of their memory where they share one."""
    links = cluster.machine.links("host")
    rate = links[0].bandwidth_bytes_per_s if links else cluster.machine.root.bandwidth_bytes_per_s
    return LINK_FRAC * rate


def host_rates(cluster: Cluster) -> HostRates:
    """Those of a cluster's devices. Raises :class:`InputError`: its memory is the host's own."""
    host = cluster.host or _host(usual_host(cluster.machine))
    shared = max(1.0, float(min(cluster.per_node, cluster.count)))
    if "c2c" in cluster.machine.links("host")[0].network:
        shared = 1.0  # a processor for every one or two devices
    memory = host.root
    return HostRates(
        link_rate(cluster),
        UPDATE_FRAC * memory.bandwidth_bytes_per_s / shared,
        NVME_BYTES_PER_S / shared,
        (SERVER_BYTES if cluster.host is None and shared > 1 and cluster.machine.node else memory.capacity_bytes)
        / shared,
    )
