"""Plans of steps that learn from scored answers: who answers and who trains, on every number of devices.

    in turns   all devices answer, then all train
    apart      a quarter, a half or three quarters answer for the next step while the others train

Of each the layout of training is the fastest that fits and the degree of answering the one that takes least, as
``train`` has them. Answers of the same devices are played once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from steelyard.deployment.failures import DAY_S
from steelyard.errors import DoesNotFit, InputError
from steelyard.machine.cluster import Cluster
from steelyard.scenario.fields import fields_of
from steelyard.scenario.training import TrainScenario, read_train_scenario
from steelyard.training.estimate import TrainEstimate
from steelyard.training.rollouts import Rollouts, answer_rewarded

__all__ = ["MOST_REWARDED", "TOKENS", "Way", "ways"]

#: Devices at most where nothing is said.
MOST_REWARDED = 256
#: Shares of the devices that answer, where others train.
_SHARES = (0.25, 0.5, 0.75)
#: Tokens of a run whose length was not given.
TOKENS = 1e12


@dataclass(frozen=True, eq=False, slots=True)
class Way:
    """A step on so many devices, weighed."""

    found: TrainEstimate
    days: float
    usd: float | None
    kwh: float

    @property
    def step_s(self) -> float:
        """Of the whole step."""
        assert self.found.rewarded is not None
        return self.found.rewarded.step_s


def ways(scenario: TrainScenario, words: Mapping[str, Any]) -> list[Way]:
    """Every way that fits, those of the same number of devices side by side.

    Args:
        scenario: the question on as many devices as are allowed.
        words: every field of the plan; ``stale`` 0 leaves out answers with weights a step old.
    """
    cluster, known = scenario.cluster, dict[Any, Rollouts]()
    own = {n: v for n, v in scenario.words.items() if n in fields_of("train") and n not in ("rollout_on", "stale")}
    found: list[Way] = []
    for count in _counts(cluster):
        whole = replace(cluster, count=count)
        turns = _weighed({**own, "on": whole}, known)
        found += turns
        if words["stale"] == 0 or scenario.rewarded is None or not scenario.rewarded.draws:
            continue
        for answering in _split(whole):
            parts = {"on": replace(cluster, count=count - answering), "rollout_on": replace(cluster, count=answering)}
            found += _weighed({**own, **parts, "stale": 1}, known)
    return found


def _counts(cluster: Cluster) -> list[int]:
    """Whole nodes, doubled, and all."""
    found, count = [], min(cluster.per_node, cluster.count)
    while count < cluster.count:
        found.append(count)
        count *= 2
    return [*found, cluster.count]


def _split(cluster: Cluster) -> list[int]:
    """Devices that answer: shares in whole nodes, of one node in devices."""
    unit = cluster.per_node if cluster.count >= 2 * cluster.per_node else 1
    shares = dict.fromkeys(round(cluster.count * share / unit) * unit for share in _SHARES)
    return [n for n in shares if 0 < n < cluster.count]


def _weighed(words: Mapping[str, Any], known: dict[Any, Rollouts]) -> list[Way]:
    """One way; none where it is not legal or does not fit."""
    try:
        found = answer_rewarded(read_train_scenario(words), known)
    except (InputError, DoesNotFit):
        return []
    done = found.rewarded
    if not found.fits or done is None:
        return []
    run = found.run
    if run is not None:
        usd = None if run.usd is None else run.usd["p50"]
        return [Way(found, run.days["p50"], usd, run.kwh["p50"])]
    times = TOKENS / done.tokens
    usd = None if done.usd is None else done.usd * times
    return [Way(found, done.step_s * times / DAY_S, usd, done.energy_j * times / 3.6e6)]
