"""Finalists: candidates in the order of the best they could be, played until nothing left could be better.

The screen's capacity may be short of the simulator's by its margin, no more; a candidate whose capacity with the margin
is below the need is never played. The rest come in the order of the objective (the rent is known exactly, other
objectives with their own margin), so that the first one that holds the promise is the best, and the search ends when
the next could not beat what was found. A replica that fails teaches: its largest rate is found and corrects the
screen for the same replica at other counts and limits.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.search.answer import Question
from steelyard.search.candidates import Block, Choice, Part
from steelyard.search.objective import Limits, values
from steelyard.search.space import Replica
from steelyard.search.trial import CLOSE, Outcome, Player

__all__ = ["Finalist", "Search", "finalists", "queue_of"]

#: Candidates of a block that are looked at, at most.
LOOKED_AT = 3000
#: Runs of the simulator at most.
RUNS = 400
#: Runners-up that are played besides the winner.
RUNNERS = 2
#: Rents that are so near are the same: the simpler deployment is preferred.
NEAR = 0.02
#: One pool.
SIMPLEST = (1, 1)
#: Failures of a pool after which it is measured how far the screen is off.
MEASURED = 3
#: How closely a corrected capacity is known: limits and counts change it further.
CORRECTED = 1.08
#: How closely the largest rate of a pool that failed is found: what it holds may be more by as much.
ROUGHLY = 0.06
#: How far the screen's latency may be above, and its power above, the simulator's.
LATENCY_MARGIN, POWER_MARGIN = 1.15, 1.05


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that was played and holds every promise."""

    choice: Choice
    outcome: Outcome
    value: float
    """Of the objective, less is better, from the run."""
    usd_per_hour: float
    watts: float
    """Hosts and spares included."""
    capacity: float
    """Largest rate, where it was needed; NaN otherwise."""


@dataclass(frozen=True, eq=False)
class Search:
    """What the finals found, best first, and the nearest miss when there is none."""

    found: tuple[Finalist, ...]
    closest: Choice | None
    closest_outcome: Outcome | None
    exhausted: bool
    """The runs ran out before the order was certain."""


def queue_of(
    block: Block, number: int, question: Question, limits: Limits, need: float
) -> Iterator[tuple[float, float, int, int]]:
    """``(best value it could have, -capacity, number of the block, place)`` of candidates that may hold, best first."""
    limit = question.objective
    optimistic = block.capacity * (1.0 + block.margin)
    good = (optimistic >= need) & limits.keeps(block.devices, block.usd_per_hour, block.watts / POWER_MARGIN)
    if limit == "cost":
        good &= ~np.isnan(block.usd_per_hour)
    places = np.flatnonzero(good)
    if not places.size:
        return
    latency = latency_of(block.ttft_s, block.tpot_s, question)
    value = values(limit, block.usd_per_hour, block.watts, optimistic, latency, question.carbon_g_per_kwh)[places]
    if limit in ("energy", "carbon"):
        value = value / POWER_MARGIN
    elif limit == "latency":
        value = value / LATENCY_MARGIN
    if places.size > LOOKED_AT:
        near = np.argpartition(value, LOOKED_AT)[:LOOKED_AT]
        last = value[near].max()
        near = np.flatnonzero(value <= last)  # all equal ones
        places, value = places[near], value[near]
    order = np.lexsort((places, -block.capacity[places], value))
    for i in order:
        yield float(value[i]), -float(block.capacity[places[i]]), number, int(places[i])


def latency_of(ttft_s: Any, tpot_s: Any, question: Question) -> Any:
    """What the objective ``latency`` makes small: the time of a whole request at the promised percentiles."""
    return ttft_s + max(question.osl - 1.0, 0.0) * tpot_s


def finalists(
    blocks: Sequence[Block],
    question: Question,
    limits: Limits,
    need: float,
    player: Player,
    *,
    runners: int = RUNNERS,
    runs: int = RUNS,
    tell: Callable[[str], object] = str,
) -> Search:
    """Play candidates until the order of the best is certain.

    Args:
        blocks: all candidates. question, limits: what is asked. need: requests/s to hold, headroom included.
        player: plays them. runners: candidates to find besides the best. runs: of the simulator at most.
        tell: hears how far it is.
    """
    begun = player.played
    merged = heapq.merge(*(queue_of(block, b, question, limits, need) for b, block in enumerate(blocks)))
    known = _Known(player, need, blames=question.objective != "throughput")
    found: list[Finalist] = []
    closest: tuple[float, Choice, Outcome] | None = None
    exhausted = False
    for value, _, b, place in merged:
        if _done(found, value, question, runners):
            break
        if player.played - begun >= runs:
            exhausted = True
            break
        choice = blocks[b].choice(place, value)
        if not _wanted(found, choice, value, question, runners):
            continue
        if question.objective == "throughput" and len(found) > runners:
            # rates are found to CLOSE: what does not hold so much more than the best is no better
            known.need = max(need, (1 + CLOSE) * max(f.capacity for f in found))
        if not known.may_hold(choice):
            continue
        tell(f"{player.played - begun} runs played")
        result = _tried(choice, blocks[b], place, question, limits, known.need, player)
        if isinstance(result, Finalist):
            found.append(result)
            continue
        known.failed(choice, result)
        if closest is None or result.worst < closest[0]:
            closest = (result.worst, choice, result)
    return Search(
        tuple(_ordered(found, question)), closest[1] if closest else None, closest[2] if closest else None, exhausted
    )


def _wanted(found: Sequence[Finalist], choice: Choice, value: float, question: Question, runners: int) -> bool:
    """Whether a choice is worth playing: of a family of its own, and a runner-up or simpler than the best."""
    if any(f.choice.family == choice.family for f in found):
        return False
    if len(found) <= runners:
        return True
    best = min(found, key=lambda f: f.value)
    return _better(value, best.value) or (question.objective == "cost" and choice.parts_like < best.choice.parts_like)


def _ordered(found: Sequence[Finalist], question: Question) -> list[Finalist]:
    """Best first; of those whose rent is within :data:`NEAR` of the lowest, the simplest is the best."""
    order = sorted(found, key=lambda f: (f.value, f.outcome.worst))
    if question.objective == "cost" and order:
        near = [f for f in order if f.value <= order[0].value * (1 + NEAR)]
        first = min(near, key=lambda f: f.choice.parts_like)  # the cheapest of the simplest
        order.remove(first)
        order.insert(0, first)
    return order


@dataclass(frozen=True, eq=False)
class _Bad:
    """A pool that broke a promise at the need."""

    choice: Choice
    part: Part
    breaks: str
    """Which."""

    def covers(self, part: Part) -> bool:
        """Whether a pool of the same replica fails as surely: no more of them with the same limits, or far less."""
        bad = self.part
        if part.capacity * CORRECTED < bad.capacity:
            return True
        if part.count > bad.count or part.capacity > bad.capacity * (1 + 1e-6):
            return False
        slower = self.breaks == "tpot" and part.sequences > bad.sequences  # more at once takes no less time per token
        return part.budget == bad.budget and (part.sequences == bad.sequences or slower)


class _Known:
    """What runs have taught about pools: which fail, and how far the screen is off.

    ``blames``: a pool that failed rules out others like it whatever they are paired with. Not at the largest rate a
    deployment holds: so near the limit the pool it is paired with decides.
    """

    def __init__(self, player: Player, need: float, *, blames: bool) -> None:
        self.player, self.need, self.blames = player, need, blames
        self.factors: dict[tuple[str, Replica], float] = {}
        self.bad: dict[tuple[str, Replica], list[_Bad]] = {}
        self.tried: set[tuple[Any, ...]] = set()

    def may_hold(self, choice: Choice) -> bool:
        """Whether every pool may hold the need. A pool that failed several times is measured first."""
        if _key(choice) in self.tried:
            return False
        for part in choice.parts:
            name = (part.role, part.replica)
            failures = self.bad.get(name, [])
            if self.blames and any(bad.covers(part) for bad in failures):
                return False
            if len(failures) >= MEASURED and name not in self.factors:
                self.factors[name] = self._factor(failures[-1])
            factor = 1.0 + part.margin
            if name in self.factors:
                factor = min(factor, self.factors[name] * CORRECTED * (1 + ROUGHLY))
            if part.capacity * factor < self.need:
                return False
        return True

    def _factor(self, bad: _Bad) -> float:
        """What a pool holds over what the screen says; inf when another pool gives way first."""
        guess = min(self.need / 1.1, bad.choice.capacity)
        largest, above = self.player.largest_rate(bad.choice.parts, guess, close=ROUGHLY)
        if above is None or _blamed(bad.choice, above) is not bad.part:
            return math.inf
        return max(largest, 1e-9) / bad.part.capacity

    def failed(self, choice: Choice, outcome: Outcome) -> None:
        """A choice broke a promise."""
        self.tried.add(_key(choice))
        part = _blamed(choice, outcome)
        if part is not None and math.isfinite(outcome.worst):
            self.bad.setdefault((part.role, part.replica), []).append(_Bad(choice, part, outcome.breaks))


def _blamed(choice: Choice, outcome: Outcome) -> Part | None:
    """The pool that broke a promise; None when it cannot be told.

    Times per token are the business of the pool for answers. Times to first token are that of the pool for prompts,
    unless the other was full and may have held them up: then it is the weaker by the screen.
    """
    if len(choice.parts) == 1:
        return choice.parts[0]
    if outcome.breaks == "tpot":
        return choice.parts[-1]
    if outcome.breaks == "ttft" and not outcome.full:
        return choice.parts[0]
    least = min(p.capacity for p in choice.parts)
    weak = [p for p in choice.parts if p.capacity <= least * 1.05]
    return weak[0] if len(weak) == 1 else None


def _key(choice: Choice) -> tuple[Any, ...]:
    """Choices that differ in the requests allowed at once only are alike."""
    return (*choice.family, *choice.counts, *(p.budget for p in choice.parts))


def _better(value: float, best: float) -> bool:
    return value < best * (1 - 1e-9 if best > 0 else 1 + 1e-9)


def _done(found: Sequence[Finalist], value: float, question: Question, runners: int) -> bool:
    """Whether nothing from here on can change the winner, and there are runners-up enough."""
    if len(found) <= runners:
        return False
    best = min(found, key=lambda f: f.value)
    if question.objective == "cost" and best.choice.parts_like > SIMPLEST:
        return value > best.value * (1 + NEAR)
    return not _better(value, best.value)


def _tried(
    choice: Choice, block: Block, place: int, question: Question, limits: Limits, need: float, player: Player
) -> Finalist | Outcome:
    """A finalist, or what went wrong."""
    if question.objective == "throughput":
        return _fastest(choice, block, place, question, limits, need, player)
    outcome = player.play(choice.parts, need)
    if not outcome.meets:
        return outcome
    choice = _fewer(choice, question, need, player)
    rate = question.rate_per_s
    outcome = player.play(choice.parts, rate)
    if not outcome.meets:
        return outcome
    return finalist_of(choice, block, place, outcome, question, limits)


def _fastest(
    choice: Choice, block: Block, place: int, question: Question, limits: Limits, need: float, player: Player
) -> Finalist | Outcome:
    """A finalist at the largest rate it holds, or what went wrong at the least rate that is of interest."""
    least = player.play(choice.parts, need) if need > question.rate_per_s else None
    if least is not None and not least.meets:
        return least
    largest, _ = player.largest_rate(choice.parts, choice.capacity, need if least is not None else 0.0)
    outcome = player.play(choice.parts, max(largest, need))
    if not outcome.meets:
        return outcome
    return finalist_of(choice, block, place, outcome, question, limits)


def finalist_of(
    choice: Choice, block: Block, place: int, outcome: Outcome, question: Question, limits: Limits
) -> Finalist | Outcome:
    """Rent, power and value of a candidate that holds the promise."""
    devices = sum((p.count + limits.spares) * p.replica.devices for p in choice.parts)
    usd = float(block.usd_per_hour[place])
    if devices != int(block.devices[place]):  # one pool with fewer replicas than the step of counts it stands for
        usd *= devices / float(block.devices[place])
    hosts = sum(
        (p.count + limits.spares) * p.replica.devices * p.replica.cluster.host_w / p.replica.cluster.per_node
        for p in choice.parts
    )
    spare_w = sum(limits.spares * p.replica.devices * p.replica.cluster.machine.idle_w for p in choice.parts)
    watts = outcome.watts + hosts + spare_w
    if limits.max_w is not None and watts > limits.max_w:
        return replace(outcome, meets=False, breaks="power", worst=watts / limits.max_w)
    capacity = outcome.rate_per_s if question.objective == "throughput" else math.nan
    latency = latency_of(outcome.values["ttft_s"], outcome.values["tpot_s"], question)
    value = float(values(question.objective, usd, watts, capacity, latency, question.carbon_g_per_kwh))
    return Finalist(choice, outcome, value, usd, watts, capacity)


def _fewer(choice: Choice, question: Question, need: float, player: Player) -> Choice:
    """Counts above those listed one by one come in steps: the fewest replicas of the step that hold, by bisection."""
    if len(choice.parts) > 1 or choice.parts[0].count <= 32 or question.objective != "cost":
        return choice
    part: Part = choice.parts[0]
    low, high = math.floor(part.count / 1.06), part.count
    while high - low > 1:
        middle = (low + high) // 2
        if player.play([replace(part, count=middle)], need).meets:
            high = middle
        else:
            low = middle
    return replace(choice, parts=(replace(part, count=high),))
