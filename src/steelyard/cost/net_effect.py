"""What techniques change of the kernels of a network and of their energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from steelyard.cost.net_kernels import NetKernels
from steelyard.workload.op import Array
from steelyard.workload.shared_tokens import SharedTokens

__all__ = ["DENSE", "PAIR_FRAC", "Density", "NetEffect", "shared_items"]


class Density(NamedTuple):
    """Shares of the values of a layer that are not zero."""

    weights: float = 1.0
    inputs: float = 1.0
    outputs: float = 1.0


#: Nothing is zero.
DENSE = Density()


@dataclass(frozen=True, slots=True)
class NetEffect:
    """A change of every pass of a network."""

    kernels: Callable[[NetKernels], NetKernels] | None = None
    """The kernels with it; None: as they are."""
    energy: Callable[[NetKernels], Array] | None = None
    """Energy of an operation over what the machine takes for it, ``[kernels, 1]``; None: 1."""
    wait_s: Callable[[NetKernels], Array] | None = None
    """Time of a pass beside its kernels, s ``[scenarios]``, from the kernels with all changes; None: none."""
    exchange_s: Callable[[NetKernels], Array] | None = None
    """Time of exchanges between devices, s ``[scenarios]``, in which no kernel runs; None: none."""
    launches: int = 0
    """Launches of the host beside those of the kernels."""
    passes: float = 1.0
    """Passes in place of each one."""
    macs: float = 1.0
    """Multiply-accumulates over those of the graph."""
    weights: float = 1.0
    """Bytes of weights that are held over those of the graph."""
    density: Density = DENSE
    """What is not zero: of weights, and of maps between layers, where an array does something with it."""


#: What a pair of devices moves of a link's bytes per second where each sends to one or to each of the others: NCCL's
#: point-to-point messages use some of its channels. Fitted with the launches below to ML.ENERGY's runs of diffusion by
#: xDiT on two to eight H100 (NVLink's 450 GB/s); fitted without a pipeline they are 8 % off on it at the median.
PAIR_FRAC = 0.17
#: Launches of an exchange of tokens for heads, with its two copies; of a step of a ring, with its :data:`MERGE`; and
#: of a convolution that needs rows of its neighbours.
SWAP_LAUNCHES, TURN_LAUNCHES, BORDER_LAUNCHES = 6, 10, 31
#: Traffic of the kernels that merge what a step of a ring found, in numbers of 32 bits per element: cast, difference,
#: product with the shares of the sums, difference.
MERGE = (1.5, 3.0, 2.0, 3.0)


def shared_items(shared: SharedTokens, items: Any, bytes_per_s: float) -> NetEffect:
    """What exchanges of devices that share the tokens of an item add to a run.

    With ``e`` bytes of queries on a device: four exchanges of tokens for heads around an attention (of queries, keys,
    values and answers) send ``e / heads`` to each of the others at once, between two copies; each of the ``ring - 1``
    steps of a ring sends ``2 e`` to one device, and merges.

    Args:
        shared: what they exchange.
        items: of the batch, ``[scenarios]``.
        bytes_per_s: of a device's link to the others, one way.
    """
    sent = 2.0 * shared.elements * np.atleast_1d(np.asarray(items, dtype=np.float64))
    swaps = 4 * shared.attentions if shared.heads > 1 else 0
    turns = shared.ring - 1
    pair = PAIR_FRAC * bytes_per_s

    def kernels(given: NetKernels) -> NetKernels:
        rows = [("copy", sent, sent)] * (2 * swaps)
        for numbers in MERGE:
            rows += [("pointwise", 2.0 * sent * numbers, np.zeros_like(sent))] * (shared.attentions * turns)
        return given.more(rows)

    def exchange_s(given: NetKernels) -> Array:
        swap = np.maximum(sent / shared.heads / pair, sent * (shared.heads - 1) / shared.heads / bytes_per_s)
        return np.asarray(swaps * swap + shared.attentions * turns * 2.0 * sent / pair, dtype=np.float64)

    launches = swaps * (SWAP_LAUNCHES - 2) + shared.attentions * turns * (TURN_LAUNCHES - len(MERGE))
    return NetEffect(kernels, exchange_s=exchange_s, launches=launches + shared.borders * BORDER_LAUNCHES)
