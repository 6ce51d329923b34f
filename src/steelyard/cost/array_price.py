"""The kernels of a network on a chip of arrays: products by the best mapping of their loops, the rest by its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.cost.array_chip import Chip, chip_of, layers_of, mapped
from steelyard.cost.array_zeros import done_share, taken_share
from steelyard.cost.net_effect import DENSE, Density
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.cost.net_terms import limits
from steelyard.cost.site import Site
from steelyard.deployment.runtime import Precision
from steelyard.errors import InputError
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["ArrayPrice", "has_weights", "is_mapped", "on_array", "sees_image"]


@dataclass(frozen=True, eq=False)
class ArrayPrice:
    """Arrays ``[kernels, scenarios]``, in s and J."""

    chip: Chip
    kernel_s: Array
    kernel_j: Array
    """Of arithmetic and of every level."""
    busy_s: Array
    """Time in which multipliers of the array work, be it one."""
    macs: Array
    """Products that take a cycle."""
    arithmetic_j: Array
    """Of the energy, that of products."""


def is_mapped(name: str, node: Node) -> bool:
    """Whether a kernel of a class is a product of loops."""
    return name in (*PRODUCTS, "wide", "depthwise", "depthwise_large") and node.kind.group in ("product", "recurrent")


def sees_image(graph: TensorGraph, node: Node) -> bool:
    """Whether a product sees what the network is given, of which nothing is zero."""
    return graph.tensors[graph.storage(node.inputs[0])].role == "input"


def has_weights(graph: TensorGraph, node: Node) -> bool:
    """Whether a product is with weights, and not of two maps."""
    return len(node.inputs) > 1 and graph.tensors[graph.storage(node.inputs[1])].role == "weight"


def _density(graph: TensorGraph, node: Node, density: Density) -> Density:
    """What is not zero of a product; one of two maps has no weights."""
    weights = density.weights if has_weights(graph, node) else 1.0
    return Density(weights, 1.0 if sees_image(graph, node) else density.inputs, density.outputs)


def on_array(
    graph: TensorGraph,
    kernels: NetKernels,
    sizes: Mapping[str, Any],
    site: Site,
    precision: Precision,
    density: Density = DENSE,
) -> ArrayPrice:
    """Price the kernels of a forward pass.

    Args:
        graph: the network.
        kernels: what was lowered of it.
        sizes: values of its symbols, arrays over scenarios.
        site: the engine with its machine.
        precision: widths.
        density: what is not zero, of weights and of maps; what the network is given has no zeros.

    Raises:
        InputError: the machine is no array, or kernels have no op, as those of a training step.
    """
    if len(kernels.nodes) > len(kernels):
        raise InputError("loops are mapped of a network as it is: no technique that drops its kernels", field="runtime")
    chip = chip_of(site.machine, site.engine, site.compute, precision)
    given = {**graph.symbols, **sizes}
    work, traffic = limits(kernels, site)
    moved = kernels.bytes * site.machine.root.energy_j_per_byte
    kernel_s, busy_s = np.maximum(work, traffic), np.zeros(work.shape)
    kernel_j, macs = moved + kernels.flops / 2.0 * chip.multiply_j, np.zeros(work.shape)
    arithmetic_j = np.zeros(work.shape)
    for i, (name, node) in enumerate(zip(kernels.classes, kernels.nodes, strict=False)):
        if not is_mapped(name, node):
            continue
        kernel_s[i], kernel_j[i], busy_s[i] = 0.0, 0.0, 0.0
        own = _density(graph, node, density)
        for columns, count in layers_of(graph, node, given):
            rows = np.broadcast_arrays(*columns, np.zeros(work.shape[1]))[:-1]
            for j, layer in enumerate(zip(*rows, strict=True)):
                one = mapped(tuple(float(x) for x in layer), chip, density=own).times(count)
                kernel_s[i, j] += one.cycles / chip.engine.clock_hz
                busy_s[i, j] += one.busy / chip.engine.clock_hz
                kernel_j[i, j] += one.energy_j
                macs[i, j] += float(np.prod(layer[:8])) * count * taken_share(chip.engine, own)
                arithmetic_j[i, j] += float(np.prod(layer[:8])) * count * done_share(chip.engine, own) * chip.multiply_j
    return ArrayPrice(chip, kernel_s, kernel_j, busy_s, macs, arithmetic_j)
