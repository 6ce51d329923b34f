"""What changes while a deployment serves: replicas that fail, come and go with the load; requests that move."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.errors import InputError, Problem
from steelyard.units import parse_quantity

__all__ = ["Autoscale", "Changes", "Outage", "parse_autoscale", "parse_outages"]


@dataclass(frozen=True, slots=True)
class Autoscale:
    """The number of replicas of each pool follows its load: ``ceil(requests in it / target)``, within limits.

    A new replica serves ``start_s`` later and is paid from the moment it is asked for; one too many takes no new
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


@dataclass(frozen=True, slots=True)
class Changes:
    """Nothing by default."""

    mtbf_s: float = 0.0
    """Mean time between failures of a replica, drawn exponentially; 0 = none fails by chance."""
    restart_s: float = 180.0
    """Until a failed replica serves again (a guess)."""
    outages: Sequence[Outage] = ()
    autoscale: Autoscale | None = None
    migrate: bool = False
    """Running requests move to the replica of their pool with the most room instead of giving way (Llumnix)."""

    def problems(self, replicas: int) -> list[Problem]:
        """What cannot be, of a deployment of so many replicas."""
        found = [
            Problem(name, f"expected a time of at least 0, got {value}")
            for name, value in (("mtbf", self.mtbf_s), ("restart", self.restart_s))
            if not 0 <= value < float("inf")
        ]
        for outage in self.outages:
            if not 0 <= outage.replica < replicas:
                words = f"expected a replica from 0 to {replicas - 1}, got {outage.replica}"
                found.append(Problem("outages", words))
            if not 0 <= outage.at_s < float("inf"):
                found.append(Problem("outages", f"expected a time of at least 0, got {outage.at_s}"))
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


def parse_autoscale(text: str) -> Autoscale:
    """Read ``1:8``, with more words after it: ``1:8,target=16,interval=30s,start=2min``.

    Raises:
        InputError: it cannot be read.
    """
    head, *words = (part.strip() for part in text.split(","))
    found = re.fullmatch(r"(\d+):(\d+)", head)
    if not found:
        raise InputError(f"expected LEAST:MOST such as 1:8, got {head!r}", field="autoscale")
    values = {}
    for word in words:
        name, _, value = word.partition("=")
        field = {"target": "target", "interval": "interval_s", "start": "start_s"}.get(name.strip())
        if field is None:
            raise InputError(f"expected target=, interval= or start=, got {word!r}", field="autoscale")
        values[field] = float(parse_quantity(value, "1" if field == "target" else "s", "autoscale"))
    return Autoscale(int(found[1]), int(found[2]), **values)


def parse_outages(text: str) -> tuple[Outage, ...]:
    """Read ``10min:0:down,15min:0:up``: time, replica, what.

    Raises:
        InputError: it cannot be read.
    """
    outages = []
    for part in text.split(","):
        words = [word.strip() for word in part.split(":")]
        if len(words) != 3 or not words[1].isdigit() or words[2] not in ("up", "down"):
            raise InputError(f"expected TIME:REPLICA:down or :up, got {part.strip()!r}", field="outages")
        outages.append(Outage(float(parse_quantity(words[0], "s", "outages")), int(words[1]), words[2] == "up"))
    return tuple(outages)
