"""``sy.simulate``: traffic in words, a serving engine in its own flags, a :class:`Simulation` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steelyard.cost.interval import SYSTEM_SPREAD
from steelyard.cost.moe import Router
from steelyard.errors import UnknownName, normalise
from steelyard.scenario.recipes import find_recipe
from steelyard.scenario.scenario import Scenario, read_scenario
from steelyard.scenario.verbs import verb
from steelyard.scenario.words import Problems

if TYPE_CHECKING:
    from steelyard.simulation.prepared import Options, Prepared
    from steelyard.simulation.result import Simulation

__all__ = ["options_of", "prepare_scenario", "read_simulation", "run_scenario", "simulate"]


def read_simulation(words: Mapping[str, Any], problems: Problems | None = None) -> Scenario:
    """The scenario of a simulation from the words given.

    Args:
        words: fields of ``simulate`` and their values.
        problems: found by the caller before.

    Raises:
        InputError: every problem at once, ``problems`` among them.
    """
    problems = problems or Problems()
    problems.read(check_policy, words.get("policy"))
    return read_scenario("simulate", words, problems)


def check_policy(given: Any) -> None:
    """Refuse a name that no policy has; what a file or an object holds is found later. Raises :class:`InputError`."""
    from steelyard.simulation.policies import POLICIES

    if isinstance(given, str) and ".py" not in given:
        known = POLICIES.names()
        if not any(normalise(name) == normalise(given) for name in known):
            hint = "or FILE.py:CLASS of your own"
            raise UnknownName("policy", given, known, hint=hint)


@verb("simulate", read_simulation)
def simulate(scenario: Scenario) -> Simulation:
    """Send traffic through a serving engine and say what its users see.

    Returns:
        a :class:`~steelyard.simulation.result.Simulation`; the same arguments give the same records.

    Raises:
        InputError: every problem of the arguments at once, or of the trace's rows.
        DoesNotFit: weights and one block of cache do not fit.
    """
    return run_scenario(scenario)


def run_scenario(scenario: Scenario, watch: Callable[[Any], None] | None = None) -> Simulation:
    """Run a scenario of ``simulate``.

    Args:
        scenario: with its trace and pools.
        watch: called with the live counters before the first event.

    Raises:
        InputError, DoesNotFit: as for :func:`simulate`.
    """
    from steelyard.simulation.run import run

    started = time.perf_counter()
    options = options_of(scenario, watch)
    if scenario.words["capacity"]:
        return _at_capacity(scenario, options, started)
    for technique in scenario.techniques:
        if technique.plays:
            found: Simulation = technique.play(scenario, options)
            return found
    return run(prepare_scenario(scenario, options), started)


def _at_capacity(scenario: Scenario, options: Options, started: float) -> Simulation:
    """The run at the largest rate that holds the SLOs."""
    from steelyard.scenario.load import read_trace, with_load
    from steelyard.scenario.shown import with_shown
    from steelyard.simulation.capacity import at_rate, check_traffic, find_capacity, more_requests
    from steelyard.simulation.policies import ordered
    from steelyard.simulation.run import run
    from steelyard.traffic.arrivals import parse_rate

    trace = scenario.trace
    assert trace is not None
    check_traffic(trace, scenario.slo)
    asked = scenario.words["rate"] or (trace.origin.get("rate", "") if "peak" not in trace.origin else "")
    rate = parse_rate(asked) if asked and not scenario.words["peak"] else trace.sessions_per_s
    playing = next((t for t in scenario.techniques if t.plays), None)
    if playing is None:
        prepared = prepare_scenario(scenario, options)
        trace = prepared.trace

    def play(times: float, slower: float, promises: Mapping[str, tuple[float, int]]) -> Simulation:
        sent = at_rate(trace, times, rate)
        if playing is not None:
            found: Simulation = playing.play(replace(scenario, trace=sent), options)
            return found if slower == 1.0 or found.replay is None else found.replay(slower)
        order = ordered(options.policy, sent, options.slo)
        again = replace(prepared, trace=sent, policy=replace(order, rules=prepared.policy.rules))
        return run(again, started, slower, 0 if promises or slower != 1.0 else None, promises)

    capacity, found = find_capacity(play, trace, scenario.slo, rate)
    if (more := more_requests(found)) and capacity.rps:
        if scenario.words["requests"] is None and trace.origin and not scenario.words["trace"]:
            words = {**scenario.words, "requests": more}
            again = with_shown(read_trace(with_load(words, Problems())), scenario.seen, words["seed"])
            return _at_capacity(replace(scenario, trace=again, words=words), options, started)
        note = f"requests arrive for a short time beside what one takes: about {more:,} of them would tell more surely"
        found = replace(found, trace=replace(found.trace, notes=(*found.trace.notes, note)))
    return replace(found, capacity=capacity)


def prepare_scenario(scenario: Scenario, options: Options) -> Prepared:
    """A scenario of pools checked and compiled. Raises as :func:`simulate`."""
    from steelyard.simulation.prepared import prepare

    assert scenario.deployment is not None and scenario.trace is not None
    return prepare(scenario.deployment, scenario.trace, options, model=scenario.model, clusters=scenario.clusters)


def options_of(scenario: Scenario, watch: Callable[[Any], None] | None = None) -> Options:
    """How the pools of a scenario are played."""
    from steelyard.simulation.prepared import Options

    words = scenario.words
    return Options(
        words["policy"],
        words["seed"],
        {t.metric: t.limit_s for t in scenario.slo if t.metric != "itl_s"},
        Router(scenario.skew),
        scenario.usd_per_hour,
        words["generic"],
        words["stop_after_s"],
        transfer_overlap=words["transfer_overlap"],
        seen=scenario.seen,
        encode_s=words["encode_s"],
        encode_spread=words["encode_spread"],
        watch=watch,
        techniques=scenario.techniques,
        anchor=words["anchor"],
        system_spread=_system_spread(words["recipe"]),
    )


def _system_spread(recipe: str) -> float:
    """What a recipe leaves open of what no cost model explains."""
    return find_recipe(recipe).system_spread or SYSTEM_SPREAD if recipe else SYSTEM_SPREAD
