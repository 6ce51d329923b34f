"""The first layers of a network on a device at the edge, the others on the machine asked for (split computing).

The network is cut where one tensor alone passes, at or behind a share ``cut`` of its multiply-accumulates (0: before
the first layer, so that the input itself crosses). The head runs on ``edge`` with the runtime that is usual there, what
passes crosses the link in ``ratio`` of its bytes (a bottleneck that is trained, quantisation, a compressed image):

    t = t(head on edge) + ratio bytes / link + latency + t(tail)

Papers: BottleFit (arXiv:2201.02693), Neurosurgeon (ASPLOS 2017). Energy, memory and price are those of the machine
asked for, which is counted as if it held the whole network; the head's are not in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.net_effect import NetEffect
from steelyard.cost.net_kernels import NetKernels
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_price import price_net, reach_of
from steelyard.cost.net_terms import net_site
from steelyard.deployment.runtime import PRECISIONS, usual_runtime
from steelyard.errors import InputError, Problem
from steelyard.machine.catalogue import find_machine
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity
from steelyard.workload.op import Array
from steelyard.workload.tensor_counts import macs
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["NetworkSplit"]


@dataclass(frozen=True)
class NetworkSplit(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "network-split"
    layer: ClassVar[str] = "workflow"
    paper: ClassVar[Citation] = Citation(
        "BottleFit: learning compressed representations in deep neural networks for effective and efficient split "
        "computing",
        "arXiv:2201.02693",
    )
    effect: ClassVar[str] = "the first layers run at the edge, what they put out crosses a link, the rest runs here"
    costs: ClassVar[str] = "a device at the edge; accuracy where what crosses is compressed"
    first: ClassVar[str] = "edge"
    keys: ClassVar[dict[str, str]] = {"link": "rate_bytes_per_s", "latency": "latency_s"}

    edge: Annotated[str, "machine of the catalogue that runs the first layers"] = "jetson_nano"
    cut: Annotated[float, Quantity("1", "share of the multiply-accumulates there", ge=0, le=0.99)] = 0.1
    rate_bytes_per_s: Annotated[float, Quantity("B/s", "rate of the link", gt=0, le=1e15)] = 12.5e6
    latency_s: Annotated[float, Quantity("s", "of one way over the link", ge=0, le=1e3)] = 10e-3
    ratio: Annotated[float, Quantity("1", "of the bytes of what passes, what crosses", gt=0, le=1)] = 1.0

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: one network, not in training, and a known device."""
        if scenario.words.get("train") or len(scenario.phases) != 1:
            return [Problem(self.name, "of one network's inference: pipelines and training are not cut")]
        found = refused_by(self.name, lambda: find_machine(self.edge))
        if not found and _cut(scenario.phases[0].graph, self.cut) is None:
            found = [Problem(self.name, f"{scenario.name} has no place behind {self.cut:g} where one tensor passes")]
        return found

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`Technique`: the kernels of the tail; the head and the way as a wait."""
        graph, batch = scenario.phases[0].graph, np.atleast_1d(np.asarray(scenario.batch, dtype=np.float64))
        at, passes = _cut(graph, self.cut) or (0, 0)
        head, tail = replace(graph, nodes=graph.nodes[:at]), replace(graph, nodes=graph.nodes[at:])
        sizes = {"batch": batch} if "batch" in graph.symbols else {}
        sent = self.ratio * graph.elements(passes, {**graph.symbols, **sizes}) * scenario.precision.bits / 8
        waits = self._head_s(head, sizes, scenario) + self.latency_s + sent / self.rate_bytes_per_s

        def kernels(_: NetKernels) -> NetKernels:
            runtime, precision, layout = scenario.runtime, scenario.precision, scenario.layout
            reach = reach_of(runtime, scenario.cluster.machine, layout, precision=precision.name)
            return lower_net(tail, sizes, runtime, precision, layout, reach.block)

        def wait_s(_: NetKernels) -> Array:
            return np.asarray(waits, dtype=np.float64)

        return NetEffect(kernels=kernels, wait_s=wait_s)

    def _head_s(self, head: TensorGraph, sizes: Any, scenario: Any) -> Any:
        """Time of the first layers on their device, in the question's precision or in fp32 where it has none of it."""
        if not head.nodes:
            return 0.0
        machine, precision = find_machine(self.edge), scenario.precision
        try:
            net_site(machine, precision)
        except InputError:
            precision = PRECISIONS["fp32"]
        return price_net(head, sizes, machine, usual_runtime(machine), precision).time_s


def _cut(graph: TensorGraph, share: float) -> tuple[int, int] | None:
    """The first place behind a share of the work where one tensor alone passes: nodes before it, and the tensor."""
    last: dict[int, int] = {}
    for k, node in enumerate(graph.nodes):
        last |= {graph.storage(i): k for i in node.inputs}
    given = graph.inputs
    if not share:
        return (0, given[0]) if len(given) == 1 else None
    wanted, done = share * float(graph.macs()), 0.0
    alive = {i: i for i in given}
    for k, node in enumerate(graph.nodes):
        done += float(macs(graph, node, graph.symbols))
        alive |= {graph.storage(o): o for o in node.outputs}
        alive = {s: o for s, o in alive.items() if last.get(s, -1) > k}
        if done >= wanted and len(alive) == 1:
            return k + 1, next(iter(alive.values()))
    return None
