"""What changes while a deployment serves: replicas that fail, come and go with the load; requests that move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.errors import Problem

__all__ = ["Autoscale", "Dynamics", "Outage"]


@dataclass(frozen=True, slots=True)
class Autoscale:
    """The number of replicas of each pool follows its load: ``ceil(requests in it / target)``, within limits.

    A new replica serves ``start_s`` later and is paid from the moment it is requested; one too many takes no new
    requests, ends those it has, and is given back.
    """

    least: int
    most: int
    target: float = 32.0
    """Requests per replica (a guess; an engine's own limit is ``max_num_seqs``)."""
    interval_s: float = 15.0
    """Between two looks; Kubernetes' horizontal pod autoscaler looks every 15 s."""
    start_s: float = 120.0
    """Until a new replica serves: a container, the weights, the captured graphs (a guess)."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A replica goes down or comes up at a time."""

    at_s: float
    replica: int
    """Counted over all pools, in their order."""
    up: bool = False

    def __str__(self) -> str:
        return f"{self.at_s:g}s:{self.replica}:{'up' if self.up else 'down'}"


@dataclass(frozen=True, slots=True)
class Dynamics:
    """Nothing by default."""

    mtbf_s: float = 0.0
    """Mean time between failures of a replica, drawn exponentially; 0 = none fails by chance."""
    restart_s: float = 180.0
    """Until a failed replica serves again (a guess)."""
    outages: Sequence[Outage] = ()
    autoscale: Autoscale | None = None
    migrate: bool = False
    """Running requests move to the replica of their pool with the most room instead of being preempted (Llumnix)."""

    def problems(self, replicas: int, together: int) -> list[Problem]:
        """What cannot be, of a deployment of so many replicas, at most so many ``together`` in one pool."""
        found = [
            Problem(name, f"expected a time of at least 0, got {value}")
            for name, value in (("mtbf", self.mtbf_s), ("restart", self.restart_s))
            if not 0 <= value < float("inf")
        ]
        for outage in self.outages:
            if not 0 <= outage.replica < replicas:
                message = f"expected a replica from 0 to {replicas - 1}, got {outage.replica}"
                found.append(Problem("outages", message))
            if not 0 <= outage.at_s < float("inf"):
                found.append(Problem("outages", f"expected a time of at least 0, got {outage.at_s}"))
        if self.migrate and together < 2:
            message = "requests move between the replicas of a pool: expected at least 2 replicas in one, got 1"
            found.append(Problem("migrate", message))
        a = self.autoscale
        if a is not None and not (0 <= a.least <= a.most and a.most >= 1):
            found.append(Problem("autoscale", f"expected LEAST:MOST with 0 <= LEAST <= MOST, got {a.least}:{a.most}"))
        if a is not None and not (a.target > 0 and a.interval_s > 0 and a.start_s >= 0):
            found.append(Problem("autoscale", "expected a target and an interval above 0 and a start of at least 0"))
        return found

    @property
    def any(self) -> bool:
        """Whether anything changes."""
        return self.mtbf_s > 0 or bool(self.outages) or self.autoscale is not None or self.migrate
