"""What a careful engineer would ask about a deployment: was its machine measured, would anybody build it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steelyard.cost.interval import FIRST_TOKEN_SPREAD, SYSTEM_SPREAD
from steelyard.cost.parameters import calibration_table
from steelyard.machine.component import Machine
from steelyard.search.options import PoolOption

__all__ = ["NEVER_MEASURED", "NOBODY_BUILDS", "doubts", "narrowing"]

#: Cards without a server that is sold with them that anybody puts together: eight nodes of eight.
MOST_CARDS = 64
#: How the doubt about a machine begins whose kernels were not measured.
NEVER_MEASURED = "never calibrated"
#: How the doubt about a fleet begins that nobody would put together.
NOBODY_BUILDS = "nobody builds it"


def calibrated(machine: Machine) -> bool:
    """Whether kernels of the machine itself were measured."""
    return any(calibration_table(machine.name, op) for op in ("gemm", "attention"))


def doubts(pools: Sequence[PoolOption], devices: int) -> tuple[str, ...]:
    """What speaks against a deployment beside its figures, one remark each.

    Args:
        pools: its pools.
        devices: all of its devices, spares included.
    """
    return tuple(dict.fromkeys(_doubts(pools, devices)))


def _doubts(pools: Sequence[PoolOption], devices: int) -> Iterator[str]:
    for pool in pools:
        cluster = pool.replica.cluster
        machine = cluster.machine
        if not calibrated(machine):
            yield f"{NEVER_MEASURED}: {machine.name}, its kernels are borrowed from measurements of others"
        if machine.node:
            continue
        if devices > MOST_CARDS:
            yield f"{NOBODY_BUILDS}: {devices:,} {machine.name}, a card no server is sold with"
        across = len(pools) > 1 and devices > cluster.per_node
        if (across or pool.replica.devices > cluster.per_node) and not machine.links("network"):
            network = cluster.inter.title or cluster.inter.name if cluster.inter else "a network"
            yield f"needs a network between nodes that {machine.name} does not come with; {network} is assumed"


def narrowing(machines: str, spread: float, first_token: bool) -> str:
    """The measurement that would narrow the interval most.

    Args:
        machines: names.
        spread: of the log of a step's time, the system's own included.
        first_token: whether a time to first token is what is least sure.
    """
    kernels = max(spread**2 - SYSTEM_SPREAD**2, 0.0) ** 0.5
    if first_token and kernels < FIRST_TOKEN_SPREAD:
        what, share = "the wait for the first token: the engine and its front end", FIRST_TOKEN_SPREAD
    elif kernels > SYSTEM_SPREAD:
        what, share = "its kernels", kernels
    else:
        what, share = "the software and the clocks of the system", SYSTEM_SPREAD
    how = "steelyard calibrate --from or --samples" if what == "its kernels" else "steelyard calibrate --engine"
    return f"least sure is {what} (a factor of {2.718281828**share:.2f}): measure {machines} with {how}"
