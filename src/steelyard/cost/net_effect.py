"""What techniques change of the kernels of a network and of their energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steelyard.cost.net_kernels import NetKernels
from steelyard.workload.op import Array

__all__ = ["EXCHANGE_S", "NetEffect", "shared_items"]


@dataclass(frozen=True, slots=True)
class NetEffect:
    """A change of every pass of a network."""

    kernels: Callable[[NetKernels], NetKernels] | None = None
    """The kernels with it; None: as they are."""
    energy: Callable[[NetKernels], Array] | None = None
    """Energy of an operation over what the machine takes for it, ``[kernels, 1]``; None: 1."""
    wait_s: Callable[[NetKernels], Array] | None = None
    """Time of a pass beside its kernels, s ``[scenarios]``, from the kernels with all changes; None: none."""
    passes: float = 1.0
    """Passes in place of each one."""
    macs: float = 1.0
    """Multiply-accumulates over those of the graph."""
    weights: float = 1.0
    """Bytes of weights that are held over those of the graph."""


#: Wait of one exchange of all with all, s: launch, the slowest of the devices; and the share of the link it reaches.
#: Both read off ML.ENERGY's runs of diffusion on two to eight H100.
EXCHANGE_S, EXCHANGE_FRAC = 75e-6, 0.5
#: Exchanges around an attention: of queries, keys, values and what comes out.
EXCHANGES = 4


def shared_items(devices: int, bytes_per_s: float) -> NetEffect:
    """Tokens of every item shared by several devices, which exchange tokens for heads around attention (Ulysses).

    A device does one in ``devices`` of the operations and of the traffic of activations, and reads all weights. Around
    an attention ``(devices - 1) / devices`` of what it holds of queries, keys, values and output leaves it.

    Args:
        devices: that share one pass.
        bytes_per_s: of a device's link to the others, one way.
    """

    def kernels(given: NetKernels) -> NetKernels:
        return given.shared(devices)

    def wait_s(given: NetKernels) -> Array:
        of = given.index("attention")
        sent = (given.read + given.written)[of].sum(axis=0) * (devices - 1) / devices
        return np.asarray(sent / (EXCHANGE_FRAC * bytes_per_s) + EXCHANGES * EXCHANGE_S * of.sum(), dtype=np.float64)

    return NetEffect(kernels=kernels, wait_s=wait_s)
