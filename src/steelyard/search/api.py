"""``advise``: a model, machines, traffic and promises in words; the best deployment out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steelyard.deployment.engine import engines as known_engines
from steelyard.deployment.engine import find_engine
from steelyard.deployment.formats import find_format
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all
from steelyard.machine.catalogue import find_machine, machine_names, price_of
from steelyard.scenario.slo import Target, parse_target
from steelyard.search.answer import MODES, OBJECTIVES, Answer, Question
from steelyard.search.demand import demand_of
from steelyard.search.relaxations import remedied
from steelyard.search.solve import solve
from steelyard.search.speculation import read_ways, speculated
from steelyard.traffic.build import Traffic, traffic
from steelyard.traffic.trace import Trace
from steelyard.units import parse_quantity
from steelyard.workload.catalogue import Model, load_model

__all__ = ["SERVERS", "advise"]

#: Engines that ``engine="any"`` means.
SERVERS = ("vllm", "sglang", "trtllm")
#: Formats that ``weights="any"`` and ``kv="any"`` mean beside the published and the 16-bit ones.
ANY_WEIGHTS, ANY_KV = ("", "fp8", "nvfp4"), ("", "fp8")
#: Kinds of machines that ``on="any"`` means: those a price is known for.
SERVING_KINDS = ("gpu", "tpu", "asic")
#: Requests of the played traffic: at least so many, and so many seconds for each token of an answer (a request of a
#: service near its limits stays some 50 ms for each: five stays).
REQUESTS, SECONDS_PER_TOKEN = 2000, 0.25
#: Requests of the played traffic at most.
MOST_REQUESTS = 200_000


def advise(
    model: str | Model,
    on: str | Sequence[str] = "any",
    *,
    rate: str | float = "",
    isl: str | int = "",
    osl: str | int = "",
    trace: str | Path | Trace = "",
    arrivals: str = "",
    peak: str | float = "",
    ttft: str = "",
    tpot: str = "",
    e2e: str = "",
    objective: str = "cost",
    max_gpus: int | None = None,
    budget: str | float | None = None,
    max_power: str | float | None = None,
    rack_power: str | float | None = None,
    engine: str | Sequence[str] = "",
    mode: str | Sequence[str] = "any",
    formats: str = "",
    weights: str | Sequence[str] = "",
    kv: str | Sequence[str] = "",
    headroom: str | float = 0.0,
    spares: int = 0,
    usd_per_hour: float | Mapping[str, float] | None = None,
    carbon: float | None = None,
    skew: float = 0.0,
    seed: int = 0,
    requests: int | None = None,
    generic: bool = False,
    remedies: bool = True,
    speculate: str | Sequence[str] = "",
    mix: bool = False,
    tell: Callable[[str], object] = str,
) -> Answer:
    """The best deployment of a model for traffic under promises, and why.

    Every legal candidate is weighed by an analytic screen; the best are played request by request until nothing left
    could be better (docs/methods/planner.md).

    Args:
        model: catalogue name, alias, local HF folder or config, or a loaded model.
        on: machines that may be used, ``h100_sxm,h200_sxm``, or ``any``: all servers a price is known for.
        rate: requests per second, ``10/s``; may be left out with a trace or for the objective ``throughput``.
        isl, osl: prompt and answer tokens, a number or a distribution (``lognormal:600``).
        trace: a file, a name (``azure_conv``) or a trace: arrivals and lengths; with ``rate`` its lengths alone.
        arrivals: shape of the arrivals at ``rate``; default: Poisson.
        peak: factor on the rate, ``3x``.
        ttft, tpot, e2e: promises such as ``p99:1s`` or ``p95:50ms``.
        objective: ``cost``, ``energy``, ``carbon``, ``throughput`` or ``latency``.
        max_gpus: devices at most. budget: rent at most, ``40usd/h``. max_power: of the deployment, ``20kW``.
        rack_power: of a full node at rated power, ``10kW``: machines above it are left out.
        engine: engines that may be used; empty = the usual one of each machine, ``any`` = all of :data:`SERVERS`.
        mode: ``aggregated``, ``disaggregated`` or ``any``.
        formats: ``any`` = ``weights`` and ``kv`` any; empty = as published, nothing changes the model's accuracy.
        weights, kv: formats that may be used beside nothing else; empty = as published and 16 bit; ``any``.
        headroom: the deployment must hold this much more than the rate, ``0.2`` or ``20%``.
        spares: replicas of each pool that may fail with the promise held (N+1 is 1).
        usd_per_hour: price per device and hour, one for all or by machine.
        carbon: g CO2 per kWh; needed by the objective ``carbon``.
        skew: exponent of the power law of expert popularity. seed: fixes the arrivals.
        requests: requests of the played traffic; default: enough for the percentile and for five stays.
        generic: read an unknown model type as a plain decoder.
        remedies: when nothing fits, look for the nearest changes that would (each is planned again).
        speculate: ways to decode speculatively that may be used, ``draft:llama-3.2-1b,k=4,accept=0.7;ngram:k=3``: the
            best deployments without it are played with it, and it is used where it saves rent (vllm, objective cost).
        mix: find the best fleet of unlike machines as well, requests routed by their length (docs/methods/fleet.md);
            it is ``fleet`` of the answer.
        tell: is called with what is being done, in words.

    Returns:
        an :class:`~steelyard.search.answer.Answer`; equal arguments give equal answers.

    Raises:
        InputError: every problem of the arguments at once.
    """
    problems: list[Problem] = []

    def quantity(value: str | float | None, unit: str, name: str, zero: bool = False) -> float | None:
        if value is None or value == "":
            return None
        try:
            found = float(value) if isinstance(value, int | float) else _parsed(value, unit, name)
        except InputError as error:
            problems.extend(error.problems)
            return None
        if not (math.isfinite(found) and (found > 0 or (zero and found == 0))):
            problems.append(Problem(name, f"expected {'at least' if zero else 'above'} 0, got {value}"))
            return None
        return found

    targets: list[Target] = []
    for metric, text in (("ttft_s", ttft), ("tpot_s", tpot), ("e2e_s", e2e)):
        if text:
            try:
                targets.append(parse_target(text, metric))
            except InputError as error:
                problems += error.problems
    objective = _named("objective", objective, OBJECTIVES, problems)
    modes = MODES if mode in ("any", "") else tuple(_named("mode", m, MODES, problems) for m in _list(mode))
    machines = _machines(on, usd_per_hour, problems)
    servers = _engines(engine, problems)
    allowed_weights = _formats("weights", weights or ("any" if formats == "any" else ""), ANY_WEIGHTS, problems)
    allowed_kv = _formats("kv", kv or ("any" if formats == "any" else ""), ANY_KV, problems)
    if formats not in ("", "any"):
        problems.append(Problem("formats", f"expected any or nothing, got {formats!r}; name formats with weights, kv"))
    max_usd = quantity(budget, "USD/h", "budget")
    max_w, rack_w = quantity(max_power, "W", "max_power"), quantity(rack_power, "W", "rack_power")
    more = quantity(headroom, "1", "headroom", zero=True) or 0.0
    if max_gpus is not None and max_gpus < 1:
        problems.append(Problem("max_gpus", f"expected at least 1, got {max_gpus}"))
    if spares < 0:
        problems.append(Problem("spares", f"expected at least 0, got {spares}"))
    if objective == "carbon" and carbon is None:
        problems.append(Problem("carbon", "the objective carbon needs the intensity of the electricity: g CO2 per kWh"))
    unbounded = max_gpus is None and max_usd is None and max_w is None
    if objective in ("throughput", "latency") and unbounded:
        problems.append(Problem("max_gpus", f"the objective {objective} needs a limit: max_gpus, budget or max_power"))
    if mix and objective not in ("cost", "energy", "carbon"):
        problems.append(Problem("mix", f"a mixed fleet is chosen by cost, energy or carbon, not by {objective}"))
    if not targets:
        problems.append(Problem("ttft", "say what is promised: ttft='p99:1s', tpot='p95:50ms' or e2e='p95:20s'"))
    free = objective == "throughput" and rate == "" and not trace
    if rate == "" and not trace and not free:
        problems.append(Problem("rate", "how many requests per second, such as 10/s, or a trace"))
    if requests is not None and requests < 100:
        problems.append(Problem("requests", f"percentiles need at least 100, got {requests}"))
    ways: tuple[str, ...] = ()
    try:
        ways = read_ways(speculate, servers, objective)
    except InputError as error:
        problems += error.problems
    raise_all(problems)

    loaded = model if isinstance(model, Model) else load_model(model, generic=generic)
    if not loaded.transformer.causal:
        raise InputError(f"{loaded.transformer.name} does not generate: nothing to serve", field="model")
    asked = {"rate": 1.0 if free else rate, "isl": isl, "osl": osl, "arrivals": arrivals, "peak": peak}
    sent = _traffic(trace, asked, seed, requests)
    rate_per_s = sent.rate_per_s
    demand = demand_of(sent, rate_per_s, dispersion=1.0 if not trace and arrivals in ("", "poisson") else None)
    if loaded.transformer.max_context and demand.longest > loaded.transformer.max_context:
        words = f"isl + osl = {demand.longest} tokens exceeds the model's {loaded.transformer.max_context}"
        raise InputError(words, field="isl")
    given = (
        {m: float(usd_per_hour) for m in machines}
        if isinstance(usd_per_hour, int | float)
        else {find_machine(k).name: float(v) for k, v in (usd_per_hour or {}).items()}
    )
    question = Question(
        model=model if isinstance(model, str) else loaded.transformer.name,
        machines=machines,
        targets=tuple(targets),
        rate_per_s=rate_per_s,
        isl=float(sent.isl.mean()),
        osl=demand.mean_osl,
        traffic=dict(sent.origin),
        objective=objective,
        max_gpus=max_gpus,
        budget_usd_per_hour=max_usd,
        max_w=max_w,
        rack_w=rack_w,
        engines=servers,
        modes=modes,
        weights=allowed_weights,
        kv=allowed_kv,
        headroom_frac=more,
        spares=spares,
        usd_per_hour=given,
        speculate=ways,
        carbon_g_per_kwh=carbon,
        skew=skew,
        seed=seed,
        requests=len(sent),
    )
    inputs = {
        "model": question.model,
        "on": ",".join(machines),
        "rate": rate,
        "isl": isl,
        "osl": osl,
        "trace": trace.name if isinstance(trace, Trace) else str(trace),
        "arrivals": arrivals,
        "peak": peak,
        "ttft": ttft,
        "tpot": tpot,
        "e2e": e2e,
        "objective": objective,
        "max_gpus": max_gpus,
        "budget": budget,
        "max_power": max_power,
        "rack_power": rack_power,
        "engine": ",".join(servers),
        "mode": ",".join(modes),
        "formats": formats,
        "weights": ",".join(_list(weights)),
        "kv": ",".join(_list(kv)),
        "headroom": headroom,
        "spares": spares,
        "usd_per_hour": given or None,
        "carbon": carbon,
        "skew": skew,
        "seed": seed,
        "requests": requests,
        "generic": generic,
        **({"mix": True} if mix else {}),
        **({"speculate": ";".join(ways)} if ways else {}),
    }
    remedy = remedied(loaded, sent, demand) if remedies else None
    answer = solve(loaded, question, sent, demand, inputs, remedy, tell)
    if ways:
        tell("playing the best with speculative decoding")
        began = time.process_time()
        answer = speculated(answer, ways, loaded, sent)
        answer = replace(answer, cpu_s=answer.cpu_s + time.process_time() - began)
    if mix:
        from steelyard.search.fleet import plan_fleet

        tell("planning a mixed fleet")
        fleet = plan_fleet(question, sent, model=loaded, generic=generic)
        answer = replace(answer, fleet=fleet, cpu_s=answer.cpu_s + fleet.cpu_s)
    return answer


def _parsed(text: str, unit: str, name: str) -> float:
    """``40usd/h``, ``20kW``, ``20%``."""
    bare = text.strip()
    if unit == "USD/h":
        lowered = bare.lower().replace(" ", "").removeprefix("$")
        return parse_quantity(lowered.removesuffix("/h").removesuffix("usd"), "1", name)
    if unit == "1" and bare.endswith("%"):
        return parse_quantity(bare[:-1], "1", name) / 100
    return parse_quantity(bare, unit, name)


def _list(value: str | Sequence[str]) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(p.strip() for p in parts if p.strip())


def _named(field: str, value: str, known: Sequence[str], problems: list[Problem]) -> str:
    for name in known:
        if normalise(name) == normalise(value):
            return name
    problems.append(Problem(field, str(UnknownName(field, value, known))))
    return known[0]


def _machines(
    on: str | Sequence[str], usd_per_hour: float | Mapping[str, float] | None, problems: list[Problem]
) -> tuple[str, ...]:
    names = _list(on)
    if names == ("any",):
        priced = set(usd_per_hour) if isinstance(usd_per_hour, Mapping) else set()
        found = [n for n in machine_names() if n in priced or price_of(n) is not None]
        return tuple(n for n in found if find_machine(n).kind in SERVING_KINDS)
    if not names:
        problems.append(Problem("on", "name a machine or several, such as h100_sxm,l40s, or any"))
    found = []
    for name in names:
        try:
            found.append(find_machine(name).name)
        except InputError as error:
            problems += error.at("on").problems
    return tuple(dict.fromkeys(found))


def _engines(engine: str | Sequence[str], problems: list[Problem]) -> tuple[str, ...]:
    names = _list(engine)
    if names == ("any",):
        return SERVERS
    found = []
    for name in names:
        try:
            found.append(find_engine(name).name)
        except UnknownName:
            problems.append(Problem("engine", str(UnknownName("engine", name, known_engines()))))
    return tuple(dict.fromkeys(found))


def _formats(field: str, value: str | Sequence[str], every: Sequence[str], problems: list[Problem]) -> tuple[str, ...]:
    names = _list(value)
    if names == ("any",):
        return tuple(every)
    found = []
    for name in names:
        try:
            found.append("" if normalise(name) == "published" else find_format(name).name)
        except InputError as error:
            problems += error.at(field).problems
    return tuple(dict.fromkeys(found))


def _traffic(trace: str | Path | Trace, asked: Mapping[str, Any], seed: int, requests: int | None) -> Trace:
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
        if number is None and asked["rate"] != "" and not trace:
            probe = traffic(Traffic(**{**given, "requests": 500, "seed": seed}))
            number = int(max(REQUESTS, probe.rate_per_s * SECONDS_PER_TOKEN * float(probe.osl.mean())))
        if number is not None:
            given["requests"] = min(number, MOST_REQUESTS)
        found = traffic(Traffic(trace=trace, seed=seed, **given))
    if found.concurrency:
        raise InputError("a plan needs arrivals; a closed loop has none", field="trace")
    if not trace and asked["rate"] != "":  # the rate asked for, not that of the draw
        wanted = _factor(asked["peak"]) * _rate(asked["rate"]) if asked["peak"] != "" else _rate(asked["rate"])
        found = replace(found.scaled(wanted / found.rate_per_s), notes=found.notes)
    return found


def _rate(value: str | float) -> float:
    from steelyard.traffic.arrivals import parse_rate

    return parse_rate(value)


def _factor(value: str | float) -> float:
    return parse_quantity(str(value).strip().removesuffix("x"), "1", "peak")
