"""``sy.simulate``: traffic in words, a serving engine in its own flags, a :class:`Simulation` out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all
from steelyard.serve.slo import Target, parse_target

if TYPE_CHECKING:
    from steelyard.machine.cluster import Cluster
    from steelyard.machine.component import Machine
    from steelyard.serve.changes import Autoscale, Changes, Outage
    from steelyard.serve.policies import Policy
    from steelyard.serve.simulation import Simulation
    from steelyard.serve.traffic.lengths import Lengths
    from steelyard.serve.traffic.trace import Trace
    from steelyard.workload.catalogue import Model

__all__ = ["changes_of", "serve", "simulate", "targets_of"]


def simulate(
    model: str | Model,
    on: str | Cluster | Machine,
    *,
    trace: str | Path | Trace = "",
    rate: str | float = "",
    concurrency: int | None = None,
    workflow: str | Path = "",
    isl: str | int | Lengths = "",
    osl: str | int | Lengths = "",
    requests: int | None = None,
    duration: str | float = "",
    start: str | float = "",
    arrivals: str = "",
    burst: float | None = None,
    peak: str | float = "",
    turns: str | int | Lengths = "",
    think: str | float = "",
    system: int = 0,
    seed: int = 0,
    weights: str = "",
    activations: str = "",
    kv: str = "",
    communication: str = "",
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int = 1,
    cp: int = 1,
    engine: str = "",
    flags: Mapping[str, Any] | None = None,
    policy: str | type[Policy] | Policy = "fcfs",
    router: str = "round-robin",
    replicas: int = 1,
    disaggregate: str = "",
    transfer_overlap: float = 0.0,
    encode_s: float | None = None,
    mtbf: str | float = "",
    restart: str | float = "",
    outages: str | Sequence[Outage] = "",
    autoscale: str | Autoscale = "",
    migrate: bool = False,
    ttft: str = "",
    tpot: str = "",
    e2e: str = "",
    skew: float = 0.0,
    usd_per_hour: float | None = None,
    generic: bool = False,
    stop_after_s: float | None = None,
) -> Simulation:
    """Send traffic through a serving engine and say what its users see.

    Args:
        model, on, weights, activations, kv, communication, tp, pp, dp, ep, cp, skew, usd_per_hour, generic:
            as for :func:`steelyard.estimate`.
        trace: a file, a name (``azure_conv``) or a :class:`~steelyard.serve.traffic.Trace`.
        rate, concurrency, workflow, isl, osl, requests, duration, start, arrivals, burst, peak, turns, think, system:
            the traffic when there is no trace, or what is done to it: see :class:`~steelyard.serve.traffic.Traffic`.
        seed: fixes everything drawn.
        engine: ``vllm``, ``sglang``, ``trtllm``, ... or a scheduler alone: ``static``, ``orca``, ``tgi``, ``sarathi``.
        flags: the engine's own flags, by its own names.
        policy: order of the waiting queue: a name, ``FILE.py:CLASS`` (runs that file) or a class; see
            :mod:`steelyard.serve.policies._base`.
        router: which replica gets a request.
        replicas: copies of the deployment that ``on`` describes.
        disaggregate: pools for prompts and answers, ``1P:tp8,1D:tp8``, ``2P:tp4,1D:tp8dp2``, a machine of their own
            ``1P:tp8@h100_sxm``, encoders ``1E:tp1``; see :func:`steelyard.serve.ask.parse_pools`.
        transfer_overlap: share of a KV cache that is sent while its prompt is computed.
        encode_s: s of an encoder before each prompt, with a pool ``E``.
        mtbf, restart: mean time between failures of a replica (drawn), ``6h``, and until it serves again, ``3min``.
        outages: given ones, ``10min:0:down,15min:0:up``: time, replica, what.
        autoscale: ``1:8`` replicas of each pool, or ``1:8,target=16,interval=30s,start=2min``; ``replicas`` is then
            what there may be at most.
        migrate: running requests move to the replica with the most room instead of giving way (Llumnix).
        ttft, tpot, e2e: promises such as ``p99:1s``; goodput counts requests within all the limits.
        stop_after_s: simulated time after which to stop.

    Returns:
        a :class:`~steelyard.serve.simulation.Simulation`; the same arguments give the same records.

    Raises:
        InputError: every problem of the arguments at once, or of the trace's rows.
        DoesNotFit: weights and one block of cache do not fit.
    """
    from steelyard.serve.traffic.build import Traffic, traffic
    from steelyard.serve.traffic.trace import Trace

    targets = targets_of(ttft=ttft, tpot=tpot, e2e=e2e)
    ready = trace if isinstance(trace, Trace) else None
    asked = Traffic(
        "" if isinstance(trace, Trace) else trace, rate, concurrency, workflow, isl, osl, requests, duration, start,
        arrivals, burst, peak, turns, think, system, seed,
    )  # fmt: skip
    if ready is not None:
        unused = [f.name for f in dataclasses.fields(asked) if f.name != "seed" and getattr(asked, f.name) != f.default]
        raise_all(
            [Problem(name, "the trace given is sent as it is; change it with its own methods") for name in unused]
        )
    sent = traffic(asked) if ready is None else ready
    return serve(
        model, on, sent, targets, weights=weights, activations=activations, kv=kv, communication=communication, tp=tp,
        pp=pp, dp=dp, ep=ep, cp=cp, engine=engine, flags=flags, policy=policy, router=router, replicas=replicas,
        disaggregate=disaggregate, transfer_overlap=transfer_overlap, encode_s=encode_s,
        changes=changes_of(mtbf=mtbf, restart=restart, outages=outages, autoscale=autoscale, migrate=migrate),
        seed=seed, skew=skew, usd_per_hour=usd_per_hour, generic=generic, stop_after_s=stop_after_s,
    )  # fmt: skip


def targets_of(*, ttft: str = "", tpot: str = "", e2e: str = "") -> tuple[Target, ...]:
    """The promises given, in this order. Raises :class:`InputError` with every problem."""
    problems: list[Problem] = []
    found = []
    for metric, text in (("ttft_s", ttft), ("tpot_s", tpot), ("e2e_s", e2e)):
        if text:
            try:
                found.append(parse_target(text, metric))
            except InputError as error:
                problems += error.problems
    raise_all(problems)
    return tuple(found)


def serve(
    model: str | Model,
    on: str | Cluster | Machine,
    trace: Trace,
    targets: Sequence[Target] = (),
    *,
    weights: str = "",
    activations: str = "",
    kv: str = "",
    communication: str = "",
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int = 1,
    cp: int = 1,
    engine: str = "",
    flags: Mapping[str, Any] | None = None,
    policy: str | type[Policy] | Policy = "fcfs",
    router: str = "round-robin",
    replicas: int = 1,
    disaggregate: str = "",
    transfer_overlap: float = 0.0,
    encode_s: float | None = None,
    watch: Callable[[Any], None] | None = None,
    changes: Changes | None = None,
    seed: int = 0,
    skew: float = 0.0,
    usd_per_hour: float | None = None,
    generic: bool = False,
    stop_after_s: float | None = None,
) -> Simulation:
    """A trace through an engine, the arguments as for :func:`simulate`."""
    import time

    from steelyard.serve.ask import Shape, deployment_of
    from steelyard.serve.changes import Changes
    from steelyard.serve.run import Options, run

    started = time.perf_counter()
    name, scheduler = engine_and_scheduler(engine)
    given = dict(flags or {})
    if scheduler:
        given.setdefault("scheduler", scheduler)
    options = Options(
        policy, seed, {t.metric: t.limit_s for t in targets}, skew, usd_per_hour, generic, stop_after_s,
        transfer_overlap=transfer_overlap, encode_s=encode_s, watch=watch,
        changes=changes or Changes(),
    )  # fmt: skip
    shape = Shape(weights, activations, kv, communication, tp, pp, dp, ep, cp, name)
    prepared = deployment_of(
        model, on, shape, trace, options, router=router, flags=given, replicas=replicas, disaggregate=disaggregate
    )
    return run(prepared, started)


def changes_of(
    *, mtbf: str | float = "", restart: str | float = "", outages: str | Sequence[Outage] = "",
    autoscale: str | Autoscale = "", migrate: bool = False,
) -> Changes:  # fmt: skip
    """Failures, autoscaling and moving requests from words. Raises :class:`InputError`."""
    from steelyard.serve.changes import Changes, parse_autoscale, parse_outages
    from steelyard.units import parse_quantity

    times = {}
    for name, value in (("mtbf", mtbf), ("restart", restart)):
        if value != "":
            times[f"{name}_s"] = float(parse_quantity(value, "s", name) if isinstance(value, str) else value)
    return Changes(
        **times,
        outages=(parse_outages(outages) if outages else ()) if isinstance(outages, str) else tuple(outages),
        autoscale=(parse_autoscale(autoscale) if autoscale else None) if isinstance(autoscale, str) else autoscale,
        migrate=migrate,
    )


def engine_and_scheduler(name: str) -> tuple[str, str]:
    """``(engine, scheduler)``: an engine of the catalogue with its own scheduler, or a scheduler on the usual engine.

    Raises:
        UnknownName: neither.
    """
    from steelyard.plan.engine import engines, find_engine
    from steelyard.serve.engine import RULES

    if not name:
        return "", ""
    try:
        return find_engine(name).name, ""
    except UnknownName:
        for scheduler in RULES:
            if normalise(scheduler) == normalise(name):
                return "", scheduler
    raise UnknownName("engine", name, [*engines(), *RULES])
