"""What techniques change of the kernels of a network and of their energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from steelyard.cost.net_kernels import NetKernels
from steelyard.workload.op import Array

__all__ = ["NetEffect"]


@dataclass(frozen=True, slots=True)
class NetEffect:
    """A change of every pass of a network."""

    kernels: Callable[[NetKernels], NetKernels] | None = None
    """The kernels with it; None: as they are."""
    energy: Callable[[NetKernels], Array] | None = None
    """Energy of an operation over what the machine takes for it, ``[kernels, 1]``; None: 1."""
    passes: float = 1.0
    """Passes in place of each one."""
