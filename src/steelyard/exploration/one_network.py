"""One network on one device, its layers by name, and its kernels priced for many sizes or precisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import static_power_w
from steelyard.cost.net_kernels import is_product
from steelyard.cost.net_price import NetPrice, drawn_frac, log_spread, price_net, reach_of
from steelyard.deployment.runtime import Precision
from steelyard.errors import InputError
from steelyard.machine.catalogue import account
from steelyard.provenance import Ledger
from steelyard.scenario.network import NetScenario, asks_net, read_net_scenario
from steelyard.scenario.words import Problems
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["OneNetwork", "named", "one_network"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OneNetwork:
    """A network on a device."""

    scenario: NetScenario
    graph: TensorGraph
    layers: tuple[Node, ...]
    """Products with weights of their own."""
    names: tuple[str, ...]
    """Of the layers, each once: that of the module, with a number where it has several."""

    @property
    def spread(self) -> float:
        """Standard deviation of log(true / predicted) of times."""
        s = self.scenario
        reach = reach_of(s.runtime, s.cluster.machine, s.layout, False, s.precision.name)
        return log_spread(reach, s.cluster.machine)

    def ledger(self) -> Ledger:
        """Sources of the machine, and how it is run."""
        found, s = Ledger(), self.scenario
        account(s.cluster.machine, found)
        found.assume(f"runtime {s.runtime.name}: {s.runtime.title}, {s.precision.name}")
        return found

    def price(self, sizes: Mapping[str, Any] | None = None, precision: Precision | None = None) -> NetPrice:
        """Priced with some sizes set, in a precision. Raises :class:`InputError`: the machine has none for it."""
        s = self.scenario
        given = {"batch": np.array([float(s.batch)]), **(sizes or {})}
        machine, runtime = s.cluster.machine, s.runtime
        return price_net(self.graph, given, machine, runtime, precision or s.precision, s.layout, effects=s.effects)

    def layer_of(self, priced: NetPrice) -> NDArray[np.int64]:
        """The layer of every kernel; -1: of none."""
        place = {id(node): i for i, node in enumerate(self.layers)}
        nodes = priced.kernels.nodes
        return np.array(
            [place.get(id(nodes[i]), -1) if i < len(nodes) else -1 for i in range(len(priced.kernels))], dtype=np.int64
        )

    def energy_of(self, priced: NetPrice) -> tuple[NDArray[np.float64], float]:
        """Energy of every kernel of one pass, J, and the power that the device draws while none runs, W.

        Where the whole pass would draw more than the rated power, all kernels draw less by one factor, so that their
        sum and the waiting are the energy of an estimate.
        """
        each = np.broadcast_to(priced.kernel_j, priced.kernel_s.shape)[:, 0]
        return each * self.drawn_frac(priced), static_power_w(self.scenario.cluster.machine)

    def drawn_frac(self, priced: NetPrice) -> float:
        """That factor (:func:`steelyard.cost.net_price.drawn_frac`)."""
        busy_j = np.broadcast_to(priced.kernel_j, priced.kernel_s.shape).sum(axis=0)
        machine = self.scenario.cluster.machine
        return float(drawn_frac(busy_j, priced.kernel_s.sum(axis=0), priced.time_s, machine)[0])

    def weights(self, node: Node) -> float:
        """Elements of the weights of a layer."""
        owned = {self.graph.storage(i) for i in node.inputs}
        return float(
            sum(self.graph.elements(i, self.graph.symbols) for i in owned if self.graph.tensors[i].role == "weight")
        )


def one_network(model: Any, on: str, words: Mapping[str, Any]) -> OneNetwork:
    """The network and the device that words mean. Raises :class:`InputError`: none, several, or of another kind."""
    if not asks_net({"model": model}):
        raise InputError(
            f"expected a network, such as resnet50, timm:NAME or model.onnx, got {str(model)[:80]!r}", field="model"
        )
    scenario = read_net_scenario({"model": model, "on": on, **words}, Problems())
    if len(scenario.phases) != 1 or scenario.phases[0].repeats != 1:
        raise InputError("it is a pipeline: ask for its networks one by one", field="model")
    graph = scenario.phases[0].graph
    weights = {i for i, t in enumerate(graph.tensors) if t.role == "weight"}
    layers = tuple(n for n in graph.nodes if is_product(n) and any(graph.storage(i) in weights for i in n.inputs))
    return OneNetwork(scenario, graph, layers, named([n.name or n.op for n in layers]))


def named(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once: those that several have with their number."""
    total, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if total[name] == 1 else f"{name}#{seen[name]}")
    return tuple(found)
