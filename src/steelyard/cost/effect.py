"""What techniques change of a step after it was lowered: its kernels, and their prices.

An :class:`Effect` is part of the :class:`~steelyard.cost.step.Replica` that prices steps, so that it acts wherever one
is priced: in estimates, in the step tables of the simulator, in the planner's screen. What can be said as another
model, plan, engine or machine is said so; an effect is for what none of them has a field for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.kernel import Kernel, Program

if TYPE_CHECKING:
    from steelyard.cost.step import Replica

__all__ = ["Effect", "at_time", "each_kernel", "scaled_cost", "shown_s", "total_s"]


class Effect:
    """Changes nothing; what inherits it is a frozen dataclass. Sizes may be arrays over steps."""

    def lowered(self, program: Program, replica: Replica) -> Program:
        """The kernels of a step, changed.

        Args:
            program: all or some kernels of a step, which is ``program.step``.
            replica: what prices it.
        """
        return program

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Their prices, changed; a time never falls below the limit it is given with.

        Args:
            cost: of the kernels of ``program``, of which there may be only some.
            program: as :meth:`lowered` left it.
            replica: what prices it; ``replica.plain`` prices without effects.
        """
        return cost


def each_kernel(program: Program, change: Callable[[Kernel], Kernel]) -> Program:
    """A program with every kernel changed."""
    return replace(program, kernels=tuple(map(change, program.kernels)))


def scaled_cost(cost: KernelCost, factor: Any) -> KernelCost:
    """The price of a kernel whose time is so many times as long; at least its limit."""
    return replace(cost, time_s=np.maximum(np.asarray(cost.time_s) * factor, cost.limit_s))


def at_time(cost: KernelCost, time_s: Any) -> KernelCost:
    """The price of a kernel with another time, which may be less than its limit: other work hides the rest."""
    return replace(cost, time_s=time_s, limit_s=np.minimum(cost.limit_s, time_s))


def shown_s(copying_s: Any, computing_s: Any, overlap: float) -> Any:
    """Of the time of copies, a share ``overlap`` of which runs beside what computes, what is not hidden; s."""
    return np.maximum(overlap * copying_s - computing_s, 0.0) + (1.0 - overlap) * copying_s


def total_s(kernels: Iterable[KernelCost]) -> Any:
    """Time of kernels one after another, s."""
    return sum((np.asarray(k.time_s) for k in kernels), np.zeros(()))
