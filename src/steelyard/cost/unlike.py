"""Devices of several kinds in one replica: layers in proportion to memory, one device after the other.

T = sum over devices of share x T_device, and a hop between each and the next. Several batches are in flight, and the
slowest stage sets their pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from steelyard.cost.cost import FIGURES, KernelCost
from steelyard.cost.kernel import Elsewhere, Program
from steelyard.cost.program import lower
from steelyard.machine.cluster import Cluster
from steelyard.workload.graph import Graph

__all__ = ["joined", "shared_out"]


def shared_out(program: Program, graph: Graph, cluster: Cluster) -> Program:
    """A program whose kernels say what of them runs on the devices after the first.

    The embedding is on the first device, what follows the last layer on the last.
    """
    others = cluster.shares[1:]
    lowered = [{k.name: k for k in lower(graph, program.plan, machine).kernels} for machine, _ in others]
    kernels = []
    for kernel in program.kernels:
        if "." in kernel.name:
            shares = [share for _, share in others]
        else:
            shares = [0.0] * (len(others) - 1) + [0.0 if kernel.stage == "first" else 1.0]
        elsewhere = tuple(
            Elsewhere(share, machine, found[kernel.name])
            for share, (machine, _), found in zip(shares, others, lowered, strict=True)
            if share and kernel.name in found and kernel.kind != "collective"
        )
        kernels.append(replace(kernel, elsewhere=elsewhere))
    return replace(program, kernels=tuple(kernels))


def joined(here: KernelCost, there: Sequence[KernelCost]) -> KernelCost:
    """The price of a kernel over all devices: of the first, and of the others by their shares."""
    parts = here.kernel.elsewhere
    rest = 1.0 - sum(part.share for part in parts)
    shares = [(rest, here), *((part.share, cost) for part, cost in zip(parts, there, strict=True))]
    figures: dict[str, Any] = {n: sum(share * getattr(cost, n) for share, cost in shares) for n in FIGURES}
    spread = max(cost.spread for share, cost in shares if share > 1e-9)
    return replace(here, **figures, spread=spread)
