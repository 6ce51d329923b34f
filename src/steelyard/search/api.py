"""``sy.plan``: a model, machines, traffic and SLOs in words; the best deployment out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from steelyard.cost.money import Purchase
from steelyard.deployment.anchor import find_anchor
from steelyard.deployment.engine import engines as known_engines
from steelyard.deployment.engine import find_engine
from steelyard.deployment.formats import find_format
from steelyard.documents import is_file
from steelyard.errors import InputError, Problem, UnknownName, normalise, show
from steelyard.machine.catalogue import find_machine, find_whole, is_catalogued, machine_called, machine_names, price_of
from steelyard.machine.classes import kinds
from steelyard.machine.cluster import Cluster, are_unlike, asks_again, count_last
from steelyard.machine.component import Machine
from steelyard.machine.loader import is_machine_text
from steelyard.machine.network import System
from steelyard.provenance import Ledger
from steelyard.scenario.fields import GROUPS, PRICE, fields_of
from steelyard.scenario.scenario import read_model
from steelyard.scenario.shown import read_shown, with_shown
from steelyard.scenario.slo import Target, parse_targets
from steelyard.scenario.verbs import verb
from steelyard.scenario.words import Problems, read_value, read_words
from steelyard.search.against import check_against
from steelyard.search.answer import MODES, OBJECTIVES, Answer, Question
from steelyard.search.chance import read_chance
from steelyard.search.sent import endless, traffic_of
from steelyard.search.solve import solve
from steelyard.search.speculation import read_ways, speculated
from steelyard.search.task import PlanTask, task_of
from steelyard.search.techniques import changed, told
from steelyard.search.ways import read_rule, ways_of
from steelyard.traffic.build import ISL, OSL, Traffic
from steelyard.traffic.trace import LENGTHS, Trace
from steelyard.units import parse_quantity
from steelyard.workload.protocol import not_served
from steelyard.workload.reading import loaded_for

__all__ = ["Planning", "check_word", "plan", "plan_of", "read_question"]

#: Formats that ``weights="any"`` and ``kv="any"`` mean beside the published and the 16-bit ones.
ANY_WEIGHTS, ANY_KV = ("", "fp8", "nvfp4"), ("", "fp8")


@dataclass(frozen=True, eq=False)
class Planning:
    """A question to the planner with what is loaded for it."""

    task: PlanTask
    """The question with its model, traffic and prices."""
    ledger: Ledger
    """Where the prices are from."""
    words: Mapping[str, Any]
    """Every field with its value."""


def read_question(words: Mapping[str, Any], problems: Problems | None = None) -> Planning:
    """The question to the planner that words ask.

    Args:
        words: fields of ``plan`` and their values.
        problems: found by the caller before.

    Raises:
        InputError: every problem at once.
    """
    problems = problems or Problems()
    w = read_words("plan", words, problems)
    problems.read(find_anchor, w["anchor"])
    if w["against"] and isinstance(w["model"], str):
        problems.read(check_against, w["against"], w["model"])
    problems.read(read_rule, w["scale_to_zero"])
    targets = problems.read(parse_targets, w) or ()
    objective = _named("objective", w["objective"], OBJECTIVES, problems)
    modes = MODES if w["mode"] in ("any", "") else tuple(_named("mode", m, MODES, problems) for m in _list(w["mode"]))
    closed = w["concurrency"] is not None or (isinstance(w["trace"], Trace) and w["trace"].concurrency > 0)
    if modes == MODES and (closed or not targets):  # pools apart keep times, of which nothing is promised
        modes = MODES[:1]
    usd = w[PRICE]
    described, w["max_gpus"] = _machines(w["on"], w["max_gpus"], usd, problems)
    machines = tuple(described)
    servers = _engines(w["engine"], problems)
    every = "any" if w["formats"] == "any" else ""
    allowed_weights = _formats("weights", w["weights"] or every, ANY_WEIGHTS, problems)
    allowed_kv = _formats("kv", w["kv"] or every, ANY_KV, problems)
    max_usd, max_w, rack_w, headroom = (
        problems.read(_quantity, w[name], unit, name)
        for name, unit in (("budget", "USD/h"), ("max_power", "W"), ("rack_power", "W"), ("headroom", "1"))
    )
    sure = problems.read(read_chance, w["sure"])
    wrong = {"rate", "trace", "concurrency"} & {p.field for p in problems.found}  # said, if not so that it can be read
    free = (objective == "throughput" or bool(wrong)) and w["rate"] == "" and not w["trace"] and not closed
    problems.add(list(_consistent(w, objective, targets, free, max_usd is None and max_w is None)))
    problems.add(list(_of_users(w, objective, modes)) if closed else [])
    ways = problems.read(read_ways, w["speculate"], servers, objective) or ()
    model = None if w["model"] is None else problems.read(read_model, w["model"], w["generic"])
    load = {name: w[name] for name in _LOAD} | ({"rate": 1.0} if free or endless(w["rate"]) else {})
    sent = problems.read(traffic_of, w["trace"], load, w["seed"], w["requests"])
    if model is not None and (why := not_served(model.transformer)):
        problems.add([Problem("model", why)])
    seen = None if model is None else problems.read(read_shown, "plan", w, model)
    problems.done()
    assert model is not None and sent is not None and sure is not None
    if seen:
        model = replace(model, transformer=loaded_for(model.transformer, seen))
        sent = with_shown(sent, seen, w["seed"])
    for technique in w["techniques"]:
        sent = technique.trace(sent, w["seed"])
    asked = _asked(described)
    model, described, allowed_weights = changed(model, described, w, allowed_weights)
    transformer = model.transformer
    poisson = not w["trace"] and w["arrivals"] in ("", "poisson")
    longest = int((sent.isl + sent.osl).max())
    if transformer.max_context and longest > transformer.max_context:
        message = f"isl + osl = {longest} tokens exceeds the model's {transformer.max_context}"
        raise InputError(f"{message}, so that what a plan starts would refuse it; estimate prices it", field="isl")
    if not sent.concurrency and not math.isfinite(sent.rate_per_s):
        message = "all requests arrive at once: name a rate, or a concurrency for so many users who wait for answers"
        raise InputError(message, field="trace")
    given = dict.fromkeys(machines, usd) if isinstance(usd, float) else {}
    if isinstance(usd, Mapping):
        given = _prices(usd, described)
    inputs = {name: w[name] for name in _INPUTS} | {
        "model": w["model"] if isinstance(w["model"], str) else transformer.name,
        "on": asked,
        "trace": w["trace"].name if isinstance(w["trace"], Trace) else str(w["trace"]),
        "engine": ",".join(servers),
        "mode": ",".join(modes),
        "weights": ",".join(_list(w["weights"])),
        "kv": ",".join(_list(w["kv"])),
        PRICE: given or None,
    }
    inputs |= ({"mix": True} if w["mix"] else {}) | ({"speculate": ";".join(ways)} if ways else {})
    inputs |= {name: w[name] for name in _SAID if w[name] != fields_of("plan")[name].default}
    inputs |= {"techniques": [str(t) for t in w["techniques"]]} if w["techniques"] else {}
    question = Question(
        model=inputs["model"],
        machines=machines,
        targets=targets,
        rate_per_s=math.nan if sent.concurrency else sent.rate_per_s,
        concurrency=sent.concurrency or None,
        prompt_tokens=float(sent.isl.mean()),
        output_tokens=float(sent.osl.mean()),
        traffic=dict(sent.origin),
        objective=objective,
        max_gpus=w["max_gpus"],
        budget_usd_per_hour=max_usd,
        max_w=max_w,
        rack_w=rack_w,
        engines=servers,
        modes=modes,
        weights=allowed_weights,
        kv=allowed_kv,
        headroom_frac=headroom or 0.0,
        spares=w["spares"],
        device_prices=given,
        speculate=ways,
        purchase=Purchase(w["years"], w["power_price"]),
        carbon_g_per_kwh=w["carbon"],
        requests=len(sent),
        sure=sure,
        seen=seen or (),
        inputs=inputs,
        techniques=w["techniques"],
        descriptions=described,
    )
    ledger = Ledger()
    for assumed in _assumed(question, w):
        ledger.assume(assumed)
    task = task_of(model, question, sent, dispersion=1.0 if poisson else None, ledger=ledger)
    if objective == "cost" and all(math.isnan(task.device_prices[name]) for name in machines):
        why = f"no price is known of {', '.join(machines)}: give NAME=USD per device and hour, as {machines[0]}=2.5"
        raise InputError(why, field=PRICE)
    return Planning(task, ledger, w)


def check_word(name: str, value: str) -> None:
    """Refuse a value of one field that no question could have. Raises :class:`InputError` with every problem."""
    problems = Problems()
    units = {"budget": "USD/h", "max_power": "W", "rack_power": "W", "headroom": "1"}
    if name == "on":
        _machines(value, None, None, problems)
    elif name == "mode":
        for mode in _list(value) if value != "any" else ():
            _named("mode", mode, MODES, problems)
    elif name == "engine":
        _engines(value, problems)
    elif name in ("weights", "kv"):
        _formats(name, value, (), problems)
    elif name == "speculate":
        problems.read(read_ways, value, (), "cost")
    elif name == "sure":
        problems.read(read_chance, value)
    elif name in units:
        problems.read(_quantity, value, units[name], name)
    problems.done()


#: Fields about the traffic that is drawn.
_LOAD = tuple(
    f.name for f in fields(Traffic) if f.name in fields_of("plan") and f.name not in ("trace", "seed", "requests")
)
#: Fields that an answer repeats where they were given.
_SAID = (
    *("concurrency", "system", "recipe", "anchor", "against", "scale_to_zero", "years", "power_price"),
    *GROUPS["shown"],
)
#: Fields that an answer repeats, whatever was given.
_INPUTS = tuple(n for n in fields_of("plan") if n not in ("mix", "techniques", "speculate", "remedies", "tell", *_SAID))


def _consistent(
    w: Mapping[str, Any], objective: str, targets: tuple[Target, ...], free: bool, unbounded: bool
) -> Iterator[Problem]:
    """Fields that make no sense together."""
    if w["formats"] not in ("", "any"):
        yield Problem("formats", f"expected any or nothing, got {w['formats']!r}; name formats with weights, kv")
    if objective == "carbon" and w["carbon"] is None:
        yield Problem("carbon", "the objective carbon needs the intensity of the electricity: g CO2 per kWh")
    if objective in ("throughput", "latency") and unbounded and w["max_gpus"] is None:
        yield Problem("max_gpus", f"the objective {objective} needs a limit: max_gpus, budget or max_power")
    if w["mix"] and objective not in ("cost", "energy", "carbon"):
        yield Problem("mix", f"a mixed fleet is chosen by cost, energy or carbon, not by {objective}")
    for name in ("mix", "speculate") if not targets else ():
        if w[name]:
            yield Problem(name, "needs an SLO to be planned for: ttft p99:1s, tpot p95:50ms or e2e p95:20s")
    if w["rate"] == "" and not w["trace"] and w["concurrency"] is None and not free:
        yield Problem("rate", "how many requests per second, such as 10/s, or a trace, or users at once (concurrency)")
    if endless(w["rate"]):
        yield Problem("rate", "a plan needs a finite rate such as 10/s; for so many users at once name a concurrency")
    if w["requests"] is not None and w["requests"] < 100:
        yield Problem("requests", f"percentiles need at least 100, got {w['requests']}")


def _of_users(w: Mapping[str, Any], objective: str, modes: tuple[str, ...]) -> Iterator[Problem]:
    """What is not planned for users who wait for their answers."""
    if modes != MODES[:1]:
        yield Problem("mode", "for users who wait for their answers only aggregated pools are planned")
    if objective == "throughput":
        yield Problem("objective", "the users set the throughput; plan their number by cost, energy or latency")
    for name in ("mix", "speculate"):
        if w[name]:
            yield Problem(name, "planned for a rate, not for users who wait for their answers")


def _assumed(question: Question, w: Mapping[str, Any]) -> Iterator[str]:
    """What was not asked and matters most."""
    usual = [f"{n} {d}" for n, d in zip(LENGTHS, (ISL, OSL), strict=True) if w[n] == "" and not w["trace"]]
    if usual:
        yield f"defaults: {', '.join(usual)}"
    yield from told(question.techniques)
    if anchor := find_anchor(w["anchor"]):
        yield f"anchor {anchor.name} ({anchor.title}) moves the times of engines and machines it shares"
    if question.concurrency is not None:
        yield (
            f"{question.concurrency:,} users begin at the same moment, as clients of a benchmark do, and each sends "
            f"the next request when the last is answered; {question.requests:,} requests are played"
        )
    if not question.targets:
        yield "no SLO: users may wait long; name one for times that are kept (--ttft p99:1s --tpot p95:50ms)"
        if question.modes == MODES[:1] and question.concurrency is None:
            yield "no SLO: one pool; prompts and answers apart keep times and are planned with --mode disaggregated"


@verb("plan", read_question)
def plan(planning: Planning) -> Answer:
    """The best deployment of a model for traffic under SLOs, and why.

    Every legal candidate is weighed by an analytic screen; the best are played request by request until nothing left
    could be better (docs/methods/planner.md). With ``speculate`` the best deployments are played with each way as well,
    and it is used where it saves rent. ``mix`` finds the best fleet of unlike machines as well, requests routed by
    their length (docs/methods/fleet.md): ``fleet`` of the answer.

    Returns:
        an :class:`~steelyard.search.answer.Answer`; equal arguments give equal answers.

    Raises:
        InputError: every problem of the arguments at once.
    """
    return plan_of(planning)


def plan_of(planning: Planning) -> Answer:
    """The planner's answer to a question that was read. Raises :class:`InputError`."""
    from steelyard.cost.jit import need_numba

    need_numba("plan")
    words, task = planning.words, planning.task
    tell = words["tell"] or str
    answer = solve(task, planning.ledger, remedies=words["remedies"], progress=tell)
    if task.question.speculate:
        tell("playing the best with speculative decoding")
        began = time.process_time()
        answer = speculated(answer, task)
        answer = replace(answer, cpu_s=answer.cpu_s + time.process_time() - began)
    if answer.winner is not None and (words["against"] or words["scale_to_zero"]):
        price = check_against(words["against"], task.question.model)
        answer = replace(answer, ways=ways_of(task, answer.winner, price, read_rule(words["scale_to_zero"])))
    if words["mix"]:
        from steelyard.search.fleet import plan_fleet

        tell("planning a mixed fleet")
        fleet = plan_fleet(task)
        answer = replace(answer, fleet=fleet, cpu_s=answer.cpu_s + fleet.cpu_s)
    return answer


def _quantity(value: str | float | None, unit: str, name: str) -> float | None:
    """A limit above 0, or a share of at least 0; None when nothing was said. Raises :class:`InputError`."""
    if value is None or value == "":
        return None
    share = unit == "1"
    found = _parsed(value, unit, name) if isinstance(value, str) else parse_quantity(value, unit, name)
    if not (math.isfinite(found) and (found > 0 or (share and found == 0))):
        raise InputError(f"expected {'at least' if share else 'above'} 0, got {value}", field=name)
    if share and 1 < found <= 1e3 and "%" not in str(value):
        raise InputError(f"expected a share such as 0.2 or 20%, got {value}; did you mean {found:g}%?", field=name)
    most = 1e3 if share else 1e12
    if found > most:
        raise InputError(f"expected at most {most:,.0f}{'' if share else f' {unit}'}, got {found:.3g}", field=name)
    return found


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
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(p, str) for p in parts):
        raise InputError(f"expected names, got {show(value)}")
    return tuple(p.strip() for p in parts if p.strip())


def _named(field: str, value: str, known: Sequence[str], problems: Problems) -> str:
    for name in known:
        if normalise(name) == normalise(value):
            return name
    problems.add([Problem(field, str(UnknownName(field, value, known)))])
    return known[0]


def _machines(
    on: str | Sequence[str] | Machine | Cluster,
    most: int | None,
    prices: float | Mapping[str, float] | None,
    problems: Problems,
) -> tuple[dict[str, Machine], int | None]:
    """The machines by name, and the most devices: ``h100_sxm:8`` alone means at most 8 of it."""
    names = _places(on)
    if names == ("any",):
        priced = set(prices) if isinstance(prices, Mapping) else set()
        found = [n for n in machine_names() if n in priced or price_of(n) is not None]
        every = {n: find_machine(n) for n in found}
        return {n: m for n, m in every.items() if kinds()[m.kind].serves}, most
    if not names:
        problems.add([Problem("on", "name a machine or several, such as h100_sxm,l40s, or any")])
    described: dict[str, Machine] = {}
    for name in names:
        if are_unlike(name):
            words = "plans are of equal devices; estimate and simulate answer cards of several kinds in one replica"
            problems.add([Problem("on", f"{words}, got {show(str(name))}")])
            continue
        if not isinstance(name, str):
            if isinstance(name, Cluster) and name.count > 1:
                most = name.count if most is None else min(most, name.count)
            _described(described, name.machine if isinstance(name, Cluster) else name, problems)
            continue
        name = count_last(name)
        machine, colon, count = name.rpartition(":") if name.rpartition(":")[2].isdecimal() else (name, "", "")
        if colon and (len(names) > 1 or most is not None or int(count) < 1):
            words = "a count is the most devices of the only machine; with others or max_gpus name machines alone"
            problems.add([Problem("on", f"{words}, got {name!r:.80}")])
        whole = None if is_catalogued(machine) or is_file(machine) else _whole(machine)
        if whole is not None:
            machine = whole.machine
            count = str(whole.devices * int(count or 1)) if len(names) == 1 and most is None else count
        most = int(count) if count else most
        try:
            _described(described, machine_called(machine), problems)
        except InputError as error:
            problems.add(
                [Problem("on", p.message if p.field in ("machine", "file", "") else str(p)) for p in error.problems]
            )
    return described, most


def _prices(usd: Mapping[str, Any], described: Mapping[str, Machine]) -> dict[str, float]:
    """The price of each machine by its name. Raises :class:`InputError` with every problem."""
    field, problems, found = fields_of("plan")[PRICE], Problems(), {}
    for name, value in usd.items():
        with problems.collect():
            try:
                known = name if name in described else find_machine(name).name
            except InputError as error:
                raise InputError(error.message, field=PRICE) from None
            if known not in described:
                words = f"{known} is none of the machines asked for: {', '.join(described)}"
                raise InputError(words, field=PRICE)
            found[known] = float(read_value(replace(field, also=""), value))
    problems.done()
    return found


def _whole(name: str) -> System | None:
    """The system of this name, whose devices are the most of a plan."""
    try:
        return find_whole(name)
    except UnknownName:
        return None


def _places(on: Any) -> tuple[Any, ...]:
    """The parts of ``on``: names, paths, a description in TOML, or objects."""
    if isinstance(on, str):
        return (on,) if is_machine_text(on) or is_file(on) else _list(on)
    if isinstance(on, Machine | Cluster):
        return (on,)
    if not isinstance(on, list | tuple):
        raise InputError(f"expected names of machines, a path or a description, got {show(on)}", field="on")
    return tuple(part for one in on for part in _places(one))


def _described(found: dict[str, Machine], machine: Machine, problems: Problems) -> None:
    """Add a machine; two of one name must be the same."""
    if found.setdefault(machine.name, machine) != machine:
        words = f"two different machines are called {machine.name!r}; give the one of your own another name"
        problems.add([Problem("on", words)])


def _asked(described: Mapping[str, Machine]) -> str:
    """What asks for the same machines again: names of the catalogue, paths, or descriptions in TOML."""
    told = [asks_again(Cluster(machine)) for machine in described.values()]
    return ",".join(told)


def _engines(engine: str | Sequence[str], problems: Problems) -> tuple[str, ...]:
    names = _list(engine)
    if names == ("any",):
        return tuple(e.name for e in known_engines().values() if e.compared)
    found = []
    for name in names:
        try:
            found.append(find_engine(name).name)
        except InputError as error:
            problems.add([Problem("engine", error.message)])
    return tuple(dict.fromkeys(found))


def _formats(field: str, value: str | Sequence[str], every: Sequence[str], problems: Problems) -> tuple[str, ...]:
    names = tuple(name for name in _list(value) if normalise(name) != "auto")
    if names == ("any",):
        return tuple(every)
    found = []
    for name in names:
        try:
            found.append("" if normalise(name) == "published" else find_format(name).name)
        except InputError as error:
            problems.add([Problem(field, error.message)])
    return tuple(dict.fromkeys(found))
