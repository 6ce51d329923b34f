"""Sending whole tables of loads through ``simulate``: one step table per deployment, one simulation per row.

A figure's interval is the one ``simulate`` shows: the same load with every step at either end of its own interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from steelyard.cost.interval import SYSTEM_SPREAD, stretched
from steelyard.cost.kv_pool import kv_pool
from steelyard.cost.moe import Router
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.engine_config import EngineConfig, engine_config, with_room
from steelyard.errors import InputError, SteelyardError
from steelyard.measurements.reader import Floats
from steelyard.simulation.draws import draw_of, draw_of_rate
from steelyard.simulation.metrics import ends, first_token_interval, power_interval
from steelyard.simulation.prepared import Options, Prepared, checked, prepare, too_long
from steelyard.simulation.result import Simulation
from steelyard.simulation.run import run
from steelyard.techniques._registry import read_flag
from steelyard.traffic.build import SHORTEST_ANSWER
from steelyard.traffic.trace import Trace
from steelyard_validation.readers._whole import Placed, Shown

__all__ = [
    "Load",
    "Outcome",
    "Played",
    "Service",
    "closed_trace",
    "column",
    "offline",
    "outcome",
    "played_all",
    "ranged",
    "shown",
]

#: A client of a closed loop sends its next request so long after the answer (Python's event loop under load), s.
THINK_S = 3e-3
#: Lengths of a closed loop are drawn with this seed.
SEED = 20
#: Blocks that hold any request.
MANY_BLOCKS = 1 << 20
#: Tokens of prompts that share a step of an offline run, for its physical limit.
PROMPT_TOKENS = 65536.0


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: ``clients`` that each wait for their answer, ``requests`` in all."""

    clients: int
    requests: int
    isl: int
    osl: int
    shortest_frac: float = 1.0
    """Lengths are uniform from this share of ``isl`` and ``osl`` up to them."""
    flags: tuple[tuple[str, Any], ...] = ()
    """Engine flags of the run."""
    think_s: float = THINK_S
    """Time of a client between an answer and its next request, s."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means over the completed requests of a run."""

    ttft_s: float = np.nan
    tpot_s: float = np.nan
    queue_s: float = np.nan
    """Of it waiting for the engine, beyond the request's own overhead."""
    running: float = np.nan
    """Mean sequences of a step."""
    e2e_s: float = np.nan
    full: bool = False
    """Requests waited because the cache was full."""
    ttft_median_s: float = np.nan
    tpot_median_s: float = np.nan
    itl_median_s: float = np.nan
    """Of all gaps between tokens."""
    tokens_per_s: float = np.nan
    """Output tokens per second of all devices."""
    energy_j_per_token: float = np.nan
    """Of the devices, per output token."""
    limit_frac: float = np.nan
    """Physical limit of the steps over their time."""
    draws: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """What another draw of the requests leaves open of figures, see :mod:`steelyard.simulation.draws`."""


def outcome(simulation: Simulation) -> Outcome:
    """Means of a simulation."""
    r, totals = simulation.records, simulation.totals
    tpot = r.tpot_s[np.isfinite(r.tpot_s)]
    return Outcome(
        ttft_s=float(r.ttft_s.mean()),
        tpot_s=float(tpot.mean()) if tpot.size else np.nan,
        queue_s=float(r.queued_s.mean()),
        running=float(totals["batch_mean"]),
        e2e_s=float(r.e2e_s.mean()),
        full=bool(totals["kv_max_frac"] > 0.97 and simulation.trace.concurrency != 1),
        ttft_median_s=float(np.median(r.ttft_s)),
        tpot_median_s=float(np.median(tpot)) if tpot.size else np.nan,
        itl_median_s=float(simulation.summary()["itl_s"]["p50"]),
        tokens_per_s=float(r.osl.sum()) / totals["makespan_s"],
        energy_j_per_token=float(totals["energy_j"] / r.osl.sum()),
        limit_frac=simulation.limit_frac,
        draws=_draws(simulation),
    )


def _draws(simulation: Simulation) -> dict[str, tuple[float, float]]:
    means = {name: draw_of(simulation, name, "mean") for name in ("ttft_s", "tpot_s", "e2e_s")}
    medians = {f"{name}_median_s": draw_of(simulation, f"{name}_s", "p50") for name in ("ttft", "tpot")}
    return means | medians | {"tokens_per_s": (draw_of_rate(simulation, "output_tokens_per_s"),) * 2}


def closed_trace(load: Load) -> Trace:
    """The requests of a load. Prompts and answers of one row are drawn alike for every deployment.

    Answers of a loop whose requests are all equal differ as those of ``simulate`` do.
    """
    rng = np.random.default_rng(SEED)

    def lengths(longest: int, shortest_frac: float) -> Any:
        shortest = max(1, int(longest * shortest_frac))
        return rng.integers(shortest, longest, load.requests, endpoint=True)

    equal = load.shortest_frac == 1.0 and 1 < load.clients < load.requests
    isl = lengths(load.isl, load.shortest_frac)
    osl = lengths(load.osl, SHORTEST_ANSWER if equal else load.shortest_frac)
    return Trace(
        arrived_at=np.zeros(load.requests),
        isl=isl,
        osl=osl,
        delay_s=np.full(load.requests, load.think_s),
        concurrency=min(load.clients, load.requests),
        name="closed loop",
    )


@dataclass(frozen=True, eq=False)
class Played:
    """A simulation and, where its interval is wanted, the two at the ends of it."""

    middle: Simulation
    ends: tuple[Simulation, ...] = ()

    @property
    def outcomes(self) -> list[Outcome]:
        """Of the simulation, then of both ends."""
        return [outcome(s) for s in (self.middle, *self.ends)]


@dataclass(frozen=True, eq=False)
class Service:
    """A deployment behind its engine's scheduler, ready to play any number of loads."""

    at: Placed
    max_context: int
    max_tokens: int
    """Largest token budget of a step among the loads."""
    max_sequences: int
    """Most sequences at once among the loads."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Flags of every load that the step times depend on."""
    speculate: str = ""
    """How tokens are guessed, as ``--speculate`` says it."""
    system_spread: float = SYSTEM_SPREAD
    """What no cost model explains, as the recipe of the rows has it."""

    @staticmethod
    def of(at: Placed, loads: Sequence[Load], system_spread: float = 0.0) -> Service:
        """The service whose tables cover the loads; ``system_spread``: as a recipe states it, 0 where it does not."""
        flagged = [(engine_config(at.engine, at.cluster.machine, dict(x.flags)), x) for x in loads]
        flagged = [(with_room(c, at.engine, dict(x.flags), x.isl), x) for c, x in flagged]
        return Service(
            at,
            max(x.isl + x.osl for x in loads),
            max(min(c.max_num_batched_tokens, x.clients * (x.isl + 1)) for c, x in flagged),
            max(min(c.max_num_seqs, max(x.clients, 2)) for c, x in flagged),
            {name: getattr(flagged[0][0], name) for name in ("graph_tokens", "launch_s", "sampling")},
            system_spread=system_spread or SYSTEM_SPREAD,
        )

    @staticmethod
    def for_traces(at: Placed, traces: Sequence[Trace], flags: Mapping[str, Any], speculate: str = "") -> Service:
        """The service for given traces."""
        config = engine_config(at.engine, at.cluster.machine, dict(flags))
        longest = max(int(np.max(x.isl + x.osl)) for x in traces)
        most = min(config.max_num_seqs, max(2, *(min(len(x), x.concurrency or len(x)) for x in traces)))
        return Service(at, longest, config.max_num_batched_tokens, most, dict(flags), speculate)

    @cached_property
    def prepared(self) -> Prepared:
        """The deployment with step tables that cover every load, prepared as ``simulate`` does."""
        at = self.at
        widest = {"max_num_seqs": self.max_sequences, "max_num_batched_tokens": self.max_tokens}
        widest["num_gpu_blocks_override"] = MANY_BLOCKS  # the cache is each load's own
        longest = Trace(arrived_at=np.zeros(1), isl=np.array([self.max_context - 1]), osl=np.array([1]))
        pool = Pool(at.cluster.machine.name, at.plan, 1, "both", {**self.flags, **widest})
        deployment = Deployment(at.transformer.name, (pool,))
        guessing = read_flag("speculate", self.speculate) if self.speculate else None
        options = Options(experts=Router(at.skew), log=1, techniques=(guessing,) if guessing else ())
        options = replace(options, system_spread=self.system_spread)
        return prepare(deployment, longest, options, model=at.model, clusters=[at.cluster], engine=at.engine)

    def flagged(self, flags: Mapping[str, Any]) -> EngineConfig:
        """The engine's flags with these over its defaults."""
        return engine_config(self.at.engine, self.at.cluster.machine, dict(flags), self.at.transformer)

    def asked(self, trace: Trace, flags: Mapping[str, Any]) -> Prepared:
        """The question of one load. Raises on what never fits."""
        at, known = self.at, self.prepared
        config = with_room(self.flagged(flags), at.engine, flags, int(trace.isl.max()))
        exact = at.exact_weight_bytes
        longest = int((trace.isl + trace.osl).max())
        kv = kv_pool(
            at.transformer, at.plan, at.cluster.machine, at.engine, config, exact_weights=exact, longest=longest
        )
        served = (replace(known.first, config=config, kv=kv),)
        rejected = too_long(trace, served)
        if rejected.any():
            raise InputError("a request is longer than the whole cache")
        order, _ = checked(known.options, known.deployment.router, trace)
        return replace(known, served=served, trace=trace, policy=order, rejected=rejected)

    def play(self, trace: Trace, flags: Mapping[str, Any], *, interval: bool = True) -> Played:
        """Simulate a load, and with ``interval`` both ends of what ``simulate`` shows. Raises on what never fits."""
        middle = run(self.asked(trace, flags), time.perf_counter())
        return Played(middle, ends(middle) if interval else ())

    def closed(self, load: Load, *, interval: bool = True) -> Played:
        """A closed loop."""
        return self.play(closed_trace(load), dict(load.flags), interval=interval)

    def all_closed(self, loads: Sequence[Load], *, interval: bool = True) -> list[list[Outcome]]:
        """Outcomes of each load (and of its ends); NaN for those that do not fit. Raises when none does."""
        return played_all(loads, lambda load: self.closed(load, interval=interval))


def played_all(loads: Sequence[Any], play: Callable[[Any], Played]) -> list[list[Outcome]]:
    """Outcomes of each load and of its ends; NaN for those that cannot be played. Raises when none can."""
    found: list[list[Outcome]] = []
    failed: SteelyardError | None = None
    for load in loads:
        try:
            found.append(play(load).outcomes)
        except SteelyardError as error:
            failed = error
            found.append([Outcome()] * 3)
    if failed is not None and all(np.isnan(x[0].e2e_s) for x in found):
        raise failed
    return found


def column(runs: Sequence[Sequence[Outcome]], name: str) -> Floats:
    """One figure of many loads, ``[n, 3]``: of the simulation and of its ends."""
    return np.asarray([[getattr(x, name) for x in run] for run in runs], dtype=np.float64)


def ranged(table: Floats, limit: Any, *, first_token: Any = None, draw: Any = None) -> Shown:
    """A figure ``[n, 3]`` with the interval of its ends, which holds it; without ends no interval.

    ``first_token``: of a time to first token, which has a spread of its own, the share of it that is physical.
    ``draw``: what another draw of the requests leaves open below and above, ``[n, 2]``.
    """
    sides = table if table.shape[1] > 1 else np.full_like(table, np.nan)
    value, low, high = table[:, 0], sides.min(axis=1), sides.max(axis=1)
    if first_token is not None:
        low, high = first_token_interval(value, low, high, first_token)
    if draw is not None:
        least = 0.0 if first_token is None else np.minimum(first_token * value, low)
        low, high = stretched(value, low, high, draw[:, 0], draw[:, 1], at_least=least)
    return Shown(value, low, high, limit)


def shown(runs: Sequence[Sequence[Outcome]], name: str, limit: Any) -> Shown:
    """One figure of many loads with the interval of its ends."""
    first_token = column(runs, "limit_frac")[:, 0] if name.startswith("ttft") else None
    draw = np.asarray([run[0].draws.get(name, (0.0, 0.0)) for run in runs], dtype=np.float64).reshape(-1, 2)
    found = ranged(column(runs, name), limit, first_token=first_token, draw=draw)
    if not name.startswith("energy"):
        return found
    low, high = power_interval(*found[:3])
    return found._replace(low=low, high=high)


def offline(at: Placed, loads: Sequence[Load], *, prompts: float = PROMPT_TOKENS) -> Shown:
    """Output tokens per second of requests that are all queued at the start, played to the last token.

    Args:
        at: the deployment.
        loads: the queues.
        prompts: tokens of prompts that share a step, in the physical limit; 0: decodes alone limit.
    """
    loads = [replace(x, flags=(*x.flags, ("api_server_count", 0))) for x in loads]
    service = Service.of(at, loads)
    runs = played_all(loads, service.closed)
    osl, isl = (np.asarray([getattr(x, n) for x in loads], dtype=np.float64) for n in ("osl", "isl"))
    running = np.maximum(1.0, np.floor(np.nan_to_num([run[0].running for run in runs], nan=1.0)))
    step = at.decode(running, isl + np.floor(osl / 2)).limit * osl
    if prompts:
        together = np.maximum(1.0, prompts // isl)
        step = step + running * at.prefill(together, isl).limit / together
    return shown(runs, "tokens_per_s", osl * running / step)
