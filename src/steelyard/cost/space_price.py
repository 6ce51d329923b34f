"""What every choice of a searched space costs, so that any number of architectures is one product of matrices.

The architectures that choose alike everywhere (nine of FBNet, five of NAS-Bench-201) are lowered and priced as any
network; what their kernels cost, by the module they lie in, is the cost of the choice there. Exact where a runtime
joins no ops across modules and keeps widths; a few per cent off where it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.net_cycles import Held
from steelyard.cost.net_price import NetPrice
from steelyard.workload.networks.search_space import Space
from steelyard.workload.tensor_counts import macs
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["SpacePrices", "part_of", "price_space"]

Floats = NDArray[np.float64]
#: What adds up over kernels and over ops.
_KERNELS = ("kernel_s", "limit_s", "kernel_j", "host_s")
_OPS = ("macs", "parameters", "entropy", "depth", "activations")


@dataclass(frozen=True, eq=False)
class SpacePrices:
    """Sums over what every architecture shares, and of every choice, by what is summed."""

    space: Space
    shared: Mapping[str, float]
    choices: Mapping[str, Floats]
    """``[features]``."""
    peaks: Mapping[str, tuple[float, Floats]] = field(default_factory=dict)
    """Of what the largest counts, and not the sum: of all architectures, and of every choice; none: not known."""

    def peak_bytes(self, counts: Floats) -> Floats | None:
        """Memory that an architecture needs at once: its largest tensors and buffers, and what is kept of all of it."""
        if not self.peaks:
            return None
        taken = counts > 0
        most = [np.maximum(shared, np.where(taken, each, 0.0).max(axis=1)) for shared, each in self.peaks.values()]
        return np.asarray(sum(most) + self["held"](counts), dtype=np.float64)

    def __getitem__(self, name: str) -> Callable[[Floats], Floats]:
        """What makes sums of counts ``[n, features]``."""
        return lambda counts: np.asarray(self.shared[name] + counts @ self.choices[name], dtype=np.float64)


def price_space(
    space: Space,
    graph_of: Callable[[Sequence[int]], TensorGraph],
    price: Callable[[TensorGraph], NetPrice] | None,
    held: Callable[[TensorGraph], Held] | None = None,
) -> SpacePrices:
    """Sums of every choice.

    Args:
        space: the space.
        graph_of: the network of an architecture.
        price: prices a network for one scenario; None: multiply-accumulates and parameters alone.
        held: memory of a network by module, where it is planned; peaks of modules that several choices share are not
            known.
    """
    if any(len(part.groups) > 1 for part in space.parts):
        held = None
    names = (*_OPS, *((*_KERNELS, "step_s") if price else ()), *(("held",) if held else ()))
    most = {name: np.zeros(len(space.features) + 1) for name in (("tensors", "buffers") if held else ())}
    shared: dict[str, list[float]] = {name: [] for name in names}
    found = {name: np.zeros(len(space.features)) for name in names}
    for code in space.probes():
        graph = graph_of(code)
        parts = list(_of_ops(graph))
        if price:
            parts += _of_kernels(price(graph))
        row = np.array([code])
        at = [int(part.groups[0].features(row)[0]) for part in space.parts]
        if held:
            memory = held(graph)
            parts.append(("held", [*memory.modules, ""], [*memory.own, memory.fixed]))
            for name, modules, sizes in (
                ("tensors", memory.steps, memory.tensors),
                ("buffers", memory.modules, memory.buffers),
            ):
                places = [[*at, -1][part_of(space, module)] for module in modules]
                np.maximum.at(most[name], places, sizes)
        for name, modules, values in parts:
            sums = np.zeros(len(at) + 1)
            np.add.at(sums, [part_of(space, module) for module in modules], values)
            shared[name].append(float(sums[-1]))
            for part, feature, total in zip(space.parts, at, sums, strict=False):
                found[name][feature] = total / len(part.groups)
    peaks = {name: (float(values[-1]), values[:-1]) for name, values in most.items()}
    return SpacePrices(space, {name: float(np.mean(values)) for name, values in shared.items()}, found, peaks)


def part_of(space: Space, module: str) -> int:
    """The part that a module's kernels belong to; -1: shared by all."""
    name = module + "."
    return next((i for i, part in enumerate(space.parts) if name.startswith(part.module)), -1)


def _of_ops(graph: TensorGraph) -> Iterable[tuple[str, list[str], Any]]:
    """Of every node: multiply-accumulates of one item, log of the inputs of an output, whether it is a product, its
    outputs, and parameters."""
    sizes = {**graph.symbols, "batch": 1}
    modules = [node.name for node in graph.nodes]
    products = [float(np.max(macs(graph, node, sizes))) for node in graph.nodes]
    yield "macs", modules, products
    outputs = [float(np.max(graph.elements(node.outputs[0], sizes))) for node in graph.nodes]
    yield "entropy", modules, [math.log(max(m / o, 1.0)) if m else 0.0 for m, o in zip(products, outputs, strict=True)]
    yield "depth", modules, [float(m > 0) for m in products]
    yield "activations", modules, [o if m else 0.0 for m, o in zip(products, outputs, strict=True)]
    weights = [
        sum(float(graph.elements(i, sizes)) for i in node.inputs if graph.tensors[i].role == "weight")
        for node in graph.nodes
    ]
    yield "parameters", modules, weights


def _of_kernels(priced: NetPrice) -> list[tuple[str, list[str], Any]]:
    """Times, limits, energies and host times of a network's kernels; the time of a pass itself is shared by all."""
    modules = list(priced.kernels.names)
    host = np.full(len(modules), float(priced.host_s[0]) / max(len(modules), 1))
    arrays = (priced.kernel_s, priced.limit_s, np.broadcast_to(priced.kernel_j, priced.kernel_s.shape))
    columns = (*(array[:, 0] for array in arrays), host)
    found = [(name, modules, values) for name, values in zip(_KERNELS, columns, strict=True)]
    return [*found, ("step_s", [""], [priced.step_s])]
