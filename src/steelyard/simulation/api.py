"""``sy.simulate``: traffic in words, a serving engine in its own flags, a :class:`Simulation` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steelyard.deployment.plan import DEGREES
from steelyard.errors import InputError, Problem
from steelyard.scenario.fields import fields_of
from steelyard.scenario.scenario import Scenario, read_scenario
from steelyard.scenario.verbs import verb
from steelyard.scenario.words import Problems
from steelyard.units import parse_quantity

if TYPE_CHECKING:
    from steelyard.simulation.deployments.semi_pd import SemiPD
    from steelyard.simulation.deployments.split_ffn import SplitFFN
    from steelyard.simulation.result import Simulation
    from steelyard.simulation.run import Options, Prepared
    from steelyard.simulation.techniques import Extras
    from steelyard.techniques.changes import Changes

__all__ = ["options_of", "prepare_scenario", "read_simulation", "run_scenario", "simulate"]

#: Stands for the machine of ``on`` where a side names none.
HERE = "--on"
#: Fields about techniques that act while requests run.
_EXTRAS = ("speculate", "lora", "kv_tiers", "early_exit", "finetune", "overlap")


def read_simulation(words: Mapping[str, Any], problems: Problems | None = None) -> Scenario:
    """The scenario of a simulation from the words given.

    Args:
        words: fields of ``simulate`` and their values.
        problems: found by the caller before.

    Raises:
        InputError: every problem at once, ``problems`` among them.
    """
    problems = problems or Problems()
    given = dict(words)
    problems.read(_changes_of, given)
    problems.read(_extras_of, given)
    apart = problems.read(_apart, given.get("disaggregate", ""))
    if apart is None:
        return read_scenario("simulate", given, problems)
    unusable = {name: given.get(name) for name in ("replicas", "transfer_overlap", "encode_s")}
    if not hasattr(apart, "prefill_frac"):  # the sides have degrees of their own
        unusable |= {name: given.get(name) for name in DEGREES}
    fields = fields_of("simulate")
    refused = [name for name, value in unusable.items() if value not in (None, fields[name].default)]
    problems.add([Problem(name, "not together with these devices: leave it out") for name in refused])
    scenario = read_scenario("simulate", {**given, "disaggregate": ""}, problems)
    return replace(scenario, words={**scenario.words, "disaggregate": given["disaggregate"]})


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
    apart = _apart(scenario.words["disaggregate"])
    if apart is not None:
        return _run_apart(scenario, options, apart)
    return run(prepare_scenario(scenario, options), started)


def prepare_scenario(scenario: Scenario, options: Options) -> Prepared:
    """A scenario of pools checked and compiled. Raises as :func:`simulate`."""
    from steelyard.simulation.run import prepare

    assert scenario.deployment is not None and scenario.trace is not None
    return prepare(scenario.deployment, scenario.trace, options, model=scenario.model, clusters=scenario.clusters)


def options_of(scenario: Scenario, watch: Callable[[Any], None] | None = None) -> Options:
    """How the pools of a scenario are played."""
    from steelyard.simulation.run import Options

    words = scenario.words
    return Options(
        words["policy"],
        words["seed"],
        {t.metric: t.limit_s for t in scenario.slo},
        scenario.skew,
        scenario.usd_per_hour,
        words["generic"],
        words["stop_after_s"],
        transfer_overlap=words["transfer_overlap"],
        encode_s=words["encode_s"],
        watch=watch,
        changes=_changes_of(words),
        extras=_extras_of(words),
    )


def _extras_of(words: Mapping[str, Any]) -> Extras:
    """What the engine does beyond scheduling. Raises :class:`InputError`."""
    from steelyard.simulation.techniques import Extras, read_extras

    given = {name: words.get(name, "") for name in _EXTRAS}
    return read_extras(**given) if any(given.values()) else Extras()


def _changes_of(words: Mapping[str, Any]) -> Changes:
    """Failures, autoscaling and moving requests. Raises :class:`InputError` with every problem."""
    from steelyard.techniques.changes import Changes, parse_autoscale, parse_outages

    problems = Problems()
    found: dict[str, Any] = {"migrate": words.get("migrate", False)}
    for name in ("mtbf", "restart"):
        value = words.get(name, "")
        if value != "":
            found[f"{name}_s"] = problems.read(parse_quantity, value, "s", name)
    outages, autoscale = words.get("outages", ""), words.get("autoscale", "")
    if outages != "":
        found["outages"] = problems.read(parse_outages, outages) if isinstance(outages, str) else tuple(outages)
    if autoscale != "":
        found["autoscale"] = problems.read(parse_autoscale, autoscale) if isinstance(autoscale, str) else autoscale
    problems.done()
    return Changes(**found)


def _apart(text: str) -> SemiPD | SplitFFN | None:
    """Devices of one replica that do not all do the same; None for pools. Raises :class:`InputError`."""
    from steelyard.scenario.parse import read_pools
    from steelyard.simulation.deployments.semi_pd import parse_semi
    from steelyard.simulation.deployments.split_ffn import parse_split

    if not text:
        return None
    apart = parse_semi(text) or parse_split(text, HERE)
    if apart is None:
        read_pools(text)
    return apart


def _run_apart(scenario: Scenario, options: Options, apart: SemiPD | SplitFFN) -> Simulation:
    """Run a scenario on one replica whose devices do not all do the same."""
    from steelyard.simulation.deployments.semi_pd import SemiPD, simulate_semi
    from steelyard.simulation.deployments.split_ffn import simulate_split

    assert scenario.deployment is not None and scenario.trace is not None
    deployment, trace, cluster = scenario.deployment, scenario.trace, scenario.cluster
    pool = deployment.pools[0]
    serving: dict[str, Any] = {"plan": pool.plan, "flags": pool.flags, "router": deployment.router}
    if isinstance(apart, SemiPD):
        return simulate_semi(scenario.model, deployment.model, cluster, apart, trace, options, **serving)
    if options.changes.any:
        raise InputError("not together with these devices: leave it out", field="changes")
    used = sum(side.count for side in (apart.attention, apart.feed_forward) if side.machine == HERE)
    if used not in (0, cluster.count):
        raise InputError(f"the sides use {used} devices, but {cluster} has {cluster.count}", field="disaggregate")
    on = scenario.asked[1] or cluster.machine.name
    name, colon, count = on.rpartition(":")
    here = name.strip() if colon and count.strip().isdigit() else on.strip()
    attention, feed_forward = (
        replace(side, machine=here) if side.machine == HERE else side for side in (apart.attention, apart.feed_forward)
    )
    there = replace(apart, attention=attention, feed_forward=feed_forward)
    return simulate_split(scenario.model, there, trace, options, **serving)
