"""The traffic that a plan is made for: a trace as it is, or arrivals drawn for long enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from steelyard.errors import InputError
from steelyard.search.trial import LEAST_REQUESTS
from steelyard.traffic.arrivals import parse_rate
from steelyard.traffic.build import REQUESTS_PER_CLIENT, Traffic, traffic
from steelyard.traffic.trace import Trace
from steelyard.units import parse_quantity

__all__ = ["endless", "traffic_of"]

#: Requests of the played traffic: at least so many, and so many seconds for each token of an answer (a request of a
#: service near its limits stays some 50 ms for each: five stays).
REQUESTS, SECONDS_PER_TOKEN = 2000, 0.25
#: Requests of the played traffic at most.
MOST_REQUESTS = 200_000


def traffic_of(trace: str | Path | Trace, asked: Mapping[str, Any], seed: int, requests: int | None) -> Trace:
    """The traffic to play: a trace as it is, or arrivals drawn for long enough."""
    if isinstance(trace, Trace):
        found = trace
        if asked["peak"] != "":
            found = found.scaled(_factor(asked["peak"]))
        if asked["rate"] != "":
            found = found.scaled(traffic(Traffic(rate=asked["rate"], requests=2)).rate_per_s / found.rate_per_s)
    else:
        given = {k: v for k, v in asked.items() if v != ""}
        number = requests
        if number is None and asked["concurrency"] is not None:
            number = min(max(LEAST_REQUESTS, REQUESTS_PER_CLIENT * asked["concurrency"]), MOST_REQUESTS)
        if number is None and asked["rate"] != "" and not trace:
            probe = traffic(Traffic(**{**given, "requests": 500, "seed": seed}))
            number = int(min(max(REQUESTS, probe.rate_per_s * SECONDS_PER_TOKEN * probe.osl.mean()), MOST_REQUESTS))
        if number is not None:
            given["requests"] = min(number, MOST_REQUESTS)
        found = traffic(Traffic(trace=trace, seed=seed, **given))
    if not trace and asked["rate"] != "":  # the rate asked for, not that of the draw
        wanted = parse_rate(asked["rate"]) * (_factor(asked["peak"]) if asked["peak"] != "" else 1.0)
        found = replace(found.scaled(wanted / found.rate_per_s), notes=found.notes)
    return found


def endless(rate: str | float) -> bool:
    """Whether a rate is ``inf``: all requests at once."""
    with suppress(InputError):
        return rate != "" and math.isinf(parse_rate(rate))
    return False


def _factor(value: str | float) -> float:
    return parse_quantity(str(value).strip().removesuffix("x"), "1", "peak")
