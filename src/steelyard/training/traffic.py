"""What ranks exchange in a training step: tensor, context, expert, pipeline and data parallelism, in s and per rank.

Ranks lie in the order tensor, context, expert and data, pipeline, as Megatron places them: tensor parallelism has the
nearest neighbours, pipeline stages the farthest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from steelyard.cost.collective import EXCHANGES, CollectiveParameters, Fabric, collective_time_s, expert_exchange_time_s
from steelyard.cost.op_models import fabrics, link_parameters
from steelyard.deployment.train_plan import TrainPlan
from steelyard.machine.classes import family_named, stack_named
from steelyard.machine.cluster import Cluster

__all__ = ["Links"]


@dataclass(frozen=True, slots=True)
class Links:
    """The links of a cluster, and what a collective among some of its ranks takes."""

    cluster: Cluster
    inside: Fabric
    outside: Fabric | None
    parameters: CollectiveParameters
    spread: float
    source: str

    @classmethod
    def of(cls, cluster: Cluster) -> Links:
        """Those of a cluster."""
        inside, outside = fabrics(cluster)
        found = link_parameters(cluster, inside.kind)
        return cls(cluster, inside, outside, found.parameters, found.spread, found.source)

    def collective_s(self, operation: str, message_bytes: Any, devices: Any, stride: Any = 1) -> Any:
        """Time of a collective of ``devices`` ranks that lie ``stride`` apart; 0 for one rank, and for no bytes.

        Args:
            operation: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``send``.
            message_bytes: the whole tensor, see :mod:`steelyard.cost.collective`.
            devices, stride: ranks, and how far from one to the next; numbers, or arrays over layouts.
        """
        if np.ndim(devices) == np.ndim(stride) == 0:
            return self._among_s(operation, message_bytes, int(devices), int(stride))
        message, ranks, apart = np.broadcast_arrays(message_bytes, devices, stride)
        near = np.maximum(1, self.cluster.per_node // apart)
        time = np.zeros(message.shape)
        for together in np.unique(near):
            here = (near == together) & (ranks > 1)
            if np.any(here):
                time[here] = self._near_s(operation, message[here], ranks[here], int(together))
        return time

    def _among_s(self, operation: str, message_bytes: Any, devices: int, stride: int) -> Any:
        if devices <= 1:
            return np.zeros_like(np.asarray(message_bytes, dtype=np.float64))
        return self._near_s(operation, message_bytes, devices, max(1, self.cluster.per_node // stride))

    def _near_s(self, operation: str, message_bytes: Any, devices: Any, near: int) -> Any:
        """Of ranks of which ``near`` stand in a node together."""
        outside = self.outside if np.any(np.asarray(devices) > near) else None
        inside = self.inside
        if near == 1 and outside is not None:  # every rank is on a node of its own
            inside = outside
        time = collective_time_s(
            operation,
            message_bytes,
            devices,
            fabric=inside,
            parameters=self.parameters,
            inter=outside,
            devices_per_node=near,
        )
        return np.where(np.asarray(message_bytes) > 0.0, time, 0.0)

    def tensor_s(self, message_bytes: Any, plan: TrainPlan, block: str = "") -> tuple[Any, Any]:
        """Of a block's partial sums, forward and backward: with sequence parallelism gathered before and scattered
        after, and gathered once more for the gradient of what weights or adapters the block trains; else reduced once
        each way."""
        if plan.sequence_parallel:
            gather = self.collective_s("all_gather", message_bytes, plan.tp)
            scatter = self.collective_s("reduce_scatter", message_bytes, plan.tp)
            trained = not plan.frozen or plan.adapts(block)
            return gather + scatter, (2.0 if trained else 1.0) * gather + scatter
        whole = self.collective_s("all_reduce", message_bytes, plan.tp)
        return whole, whole

    def context_s(self, kv_bytes: Any, plan: TrainPlan) -> tuple[Any, Any]:
        """Keys and values passed around the ring of context-parallel ranks; backward with their gradients."""
        ranks = plan.around
        once = (ranks - 1) * self.collective_s(
            "send", kv_bytes, 2 if ranks > 1 else 1, plan.tp * max(1, self._far(plan))
        )
        if plan.packing is not None and ranks > 1:
            once = once * plan.packing.passed(plan.seq / plan.cp, ranks)
        return once, 2.0 * once

    def states_s(self, facts: dict[str, Any], plan: TrainPlan) -> tuple[Any, Any]:
        """States of a scan among context-parallel ranks: gathered by all at once, handed from rank to rank, or the keys
        and values that make them passed around; forward and backward."""
        if plan.states == "keys":
            return self.context_s(facts["carried_bytes"], plan)
        state, ranks = facts["state_bytes"], plan.cp
        if plan.states == "ring":
            once = (ranks - 1) * self.collective_s("send", state, 2, plan.tp * max(1, self._far(plan)))
        else:
            once = self.collective_s("all_gather", ranks * state, ranks, plan.tp)
        return once, once

    def heads_s(self, message_bytes: Any, plan: TrainPlan) -> Any:
        """Queries, keys, values and outputs of a rank to those that have the heads, and back (Ulysses); 0 in a ring."""
        return self.collective_s("all_to_all", message_bytes, plan.cp // plan.around, plan.tp)

    def _far(self, plan: TrainPlan) -> int:
        """1 where the ring lies inside a node, else what makes its slowest hop one between nodes."""
        return 1 if plan.tp * plan.cp <= self.cluster.per_node else self.cluster.per_node

    def experts_s(self, facts: dict[str, Any], plan: TrainPlan, bits: float) -> Any:
        """Tokens of a rank to their experts and back, both together."""
        if plan.ep == 1:
            return 0.0
        family = family_named(self.cluster.machine.family)
        direct = stack_named(self.cluster.machine.launch).expert_exchange and self.inside.switched
        near = max(1, self.cluster.per_node // plan.etp)
        outside = self.outside if plan.ep > near else None
        tokens, hidden, top_k = facts["tokens"], facts["hidden"], facts["top_k"]
        if direct and plan.framework.dispatcher in ("deepep", "hybridep"):
            ways: tuple[tuple[Literal["dispatch", "combine"], float], ...] = (("dispatch", bits), ("combine", 16.0))
            time: Any = 0.0
            for way, width in ways:
                time = time + expert_exchange_time_s(
                    way,
                    tokens,
                    hidden,
                    top_k,
                    facts["experts"],
                    plan.ep,
                    bits=width,
                    fabric=self.inside,
                    parameters=EXCHANGES[family.expert_exchange],
                    inter=outside,
                    devices_per_node=near,
                )
            return time
        if plan.framework.dispatcher == "allgather":
            whole = np.asarray(tokens) * hidden * plan.ep * 2.0
            return self.collective_s("all_gather", whole, plan.ep, plan.etp) + self.collective_s(
                "reduce_scatter", whole, plan.ep, plan.etp
            )
        message = np.asarray(tokens) * hidden * top_k
        return self.collective_s("all_to_all", message * bits / 8, plan.ep, plan.etp) + self.collective_s(
            "all_to_all", message * 2.0, plan.ep, plan.etp
        )
