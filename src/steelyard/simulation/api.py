"""``sy.simulate``: traffic in words, a serving engine in its own flags, a :class:`Simulation` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from steelyard.cost.moe import Router
from steelyard.errors import UnknownName, normalise
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
    for technique in scenario.techniques:
        if technique.plays:
            found: Simulation = technique.play(scenario, options)
            return found
    return run(prepare_scenario(scenario, options), started)


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
        {t.metric: t.limit_s for t in scenario.slo},
        Router(scenario.skew),
        scenario.usd_per_hour,
        words["generic"],
        words["stop_after_s"],
        transfer_overlap=words["transfer_overlap"],
        seen=scenario.seen,
        encode_s=words["encode_s"],
        watch=watch,
        techniques=scenario.techniques,
        anchor=words["anchor"],
    )
