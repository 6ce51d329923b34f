"""A question about training on devices of several kinds: ``h100_sxm:64+a100_sxm:64``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from steelyard.deployment.recovery import parse_checkpoint, parse_recovery, parse_spares
from steelyard.deployment.train_plan import REWARDED
from steelyard.errors import InputError, Problem, show
from steelyard.machine.cluster import Mixed, with_network
from steelyard.scenario.fields import fields_of
from steelyard.scenario.run_limits import LENGTHS, OF_A_RUN, limits_of
from steelyard.scenario.training import TrainScenario, failures_of, length_of, read_train_scenario, sequences_of
from steelyard.scenario.words import Problems

__all__ = ["MixedTrainScenario", "read_mixed_training"]

#: Fields of the whole run, which no kind of device has alone.
_OF_THE_RUN = (
    *(*LENGTHS, *OF_A_RUN, "trainings", "checkpoint", "power_price"),
    *("gbs", "on", "across", "shares", "network"),
)
#: What is not priced on several kinds, and why.
_REFUSED: Mapping[str, str] = {
    "techniques": "techniques are not priced on devices of several kinds",
    "dp": "each kind has as many replicas as its devices make: leave dp out",
    "shard": "each kind cuts states over all of its own replicas: leave shard out",
    "power_limit_w": "devices of several kinds are held to a power by name: 'h100_sxm 500W:64+a100_sxm:64'",
    "sync_every": "kinds of devices exchange gradients every step",
}


@dataclass(frozen=True, eq=False)
class MixedTrainScenario(TrainScenario):
    """Training on devices of several kinds."""

    of: tuple[TrainScenario, ...] = ()
    """The same question for the devices of each kind alone; how much of a step is theirs is found."""
    shares: tuple[int, ...] | None = None
    """Sequences of a step that each kind takes; None: by speed."""

    @property
    def across(self) -> str:
        """``replicas``, ``stages``, or empty: the faster."""
        return str(self.words["across"])


def read_mixed_training(values: Mapping[str, Any], cluster: Mixed, problems: Problems) -> MixedTrainScenario:
    """The question that words ask.

    Args:
        values: every field of ``train`` with its value.
        cluster: the devices.
        problems: found so far.

    Raises:
        InputError: every problem at once.
    """
    known = fields_of("train")
    refused = [n for n in _REFUSED if values[n] not in (None, "", (), known[n].default)]
    problems.add([Problem(n, _REFUSED[n]) for n in refused])
    if values["task"] in REWARDED:
        problems.add([Problem("on", f"{values['task']} is not priced on devices of several kinds; name one")])
    if values["across"] == "stages" and values["shares"]:
        problems.add([Problem("shares", "stages share layers, by speed; only replicas take sequences")])
    problems.done()
    if values["network"]:
        with problems.collect():
            cluster = replace(cluster, of=tuple(with_network(kind, values["network"]) for kind in cluster.kinds))
    left_out = (*_OF_THE_RUN, "techniques", *(("pp",) if values["across"] == "stages" else ()))  # stages are of all
    own = {n: v for n, v in values.items() if n not in left_out and v != known[n].default}
    alone: list[TrainScenario] = []
    for kind in cluster.kinds:
        with problems.collect():
            alone.append(read_train_scenario({**own, "on": kind}))
    fails = problems.read(parse_recovery, values["failures"])
    checkpoint = problems.read(parse_checkpoint, values["checkpoint"])
    spares = problems.read(parse_spares, values["spares"], cluster.node_count)
    problems.read(limits_of, values)
    problems.done()
    assert fails is not None
    assert checkpoint is not None
    first = alone[0]
    sequences = problems.read(sequences_of, values["gbs"], first.plan.seq)
    tokens = problems.read(length_of, {**values, "seq": first.plan.seq})
    problems.done()
    gbs = sequences or sum(s.plan.gbs for s in alone)
    shares = _shares(values["shares"], gbs, len(alone))
    left = tuple(n for n in first.open if n != "gbs" or sequences is None)
    replicas = sum(s.plan.dp for s in alone)
    plan = replace(first.plan, gbs=gbs, dp=replicas, shard=replicas)
    failures, recovery = fails
    if spares is not None:
        recovery = replace(recovery, spares=spares)
    failures = failures_of(failures, tokens, values)
    return MixedTrainScenario(
        first.model, cluster, plan, values, left, tokens, failures, recovery, checkpoint, of=tuple(alone), shares=shares
    )


def _shares(text: str, gbs: int, kinds: int) -> tuple[int, ...] | None:
    """Sequences of each kind. Raises :class:`InputError`: they are not so many, or not all of a step."""
    if not text:
        return None
    if text.strip() == "equal":
        if gbs % kinds:
            near = max(1, round(gbs / kinds)) * kinds
            raise InputError(f"{gbs} sequences are not shared equally by {kinds} kinds; nearest is {near}", field="gbs")
        return (gbs // kinds,) * kinds
    parts = [p.strip() for p in text.split("/")]
    if len(parts) != kinds or not all(p.isdecimal() and 0 < int(p) < 10**9 for p in parts):
        words = f"expected equal, or the sequences of each of {kinds} kinds as {'/'.join(['128'] * kinds)}"
        raise InputError(f"{words}, got {show(text)}", field="shares")
    found = tuple(int(p) for p in parts)
    if sum(found) != gbs:
        raise InputError(f"{text} are {sum(found)} sequences, a step has {gbs} (gbs)", field="shares")
    return found
