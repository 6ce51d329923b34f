"""From what a user asks for to a trace: a file, a rate, a number of clients, conversations or a workflow."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from steelyard.errors import InputError, Problem, raise_all, show
from steelyard.traffic.arrivals import MAX_REQUESTS, Arrivals, parse_arrivals, parse_rate
from steelyard.traffic.lengths import Lengths, parse_lengths
from steelyard.traffic.readers import read_recorded
from steelyard.traffic.sessions import common_prefix, conversations, read_workflow, workflows
from steelyard.traffic.trace import LENGTHS, Floats, Trace
from steelyard.units import parse_quantity

__all__ = ["ISL", "OSL", "REQUESTS", "REQUESTS_PER_CLIENT", "SHORTEST_ANSWER", "Traffic", "traffic"]

#: Prompt and answer when nothing is said, as ``estimate`` has them.
ISL, OSL = "1024", "256"
#: Requests when neither a number nor a duration is given; in a closed loop, per client (InferenceX's choice).
REQUESTS, REQUESTS_PER_CLIENT = 1000, 10
#: Answers of clients whose requests are all stated equal are drawn from this share of the length up to it. A
#: simulation's steps are exact: clients with equal requests would send them together for the whole run, which measured
#: loops do not show (docs/methods/serving.md).
SHORTEST_ANSWER = 0.96


@dataclass(frozen=True)
class Traffic:
    """What a user may say about traffic, as text or numbers; empty or None = not said. See :func:`traffic`."""

    trace: str | Path = ""
    rate: str | float = ""
    concurrency: int | None = None
    workflow: str | Path = ""
    isl: str | int | Lengths = ""
    osl: str | int | Lengths = ""
    requests: int | None = None
    duration: str | float = ""
    start: str | float = ""
    arrivals: str = ""
    burst: float | None = None
    peak: str | float = ""
    turns: str | int | Lengths = ""
    think: str | float = ""
    system: int = 0
    priorities: str = ""
    seed: int = 0


def traffic(asked: Traffic) -> Trace:
    """The trace that was asked for.

    Args:
        asked: ``trace`` (a file or a name) replays it; with ``rate`` or ``concurrency`` only its lengths are used.
            ``rate`` sends requests by ``arrivals``, all at once where it is ``inf``; ``concurrency`` keeps so many
            clients busy, each thinking ``think`` between answers; ``turns`` makes conversations, begun at ``rate``;
            ``workflow`` is a file of calls, begun at ``rate``. ``requests`` and ``duration`` end it, ``start`` cuts the
            beginning off a file, ``peak`` multiplies the rate, ``seed`` fixes everything drawn. ``system`` tokens begin
            every prompt. ``priorities`` are drawn by their shares.

    Raises:
        InputError: all problems of the options at once; what the files have wrong.
    """
    problems: list[Problem] = []
    said = _Said(asked, problems)
    _consistent(asked, said, problems)
    raise_all(problems)
    rng = np.random.default_rng(asked.seed)
    if asked.workflow:
        made = _workflow(asked, said, rng)
    elif asked.turns != "":
        made = _conversations(asked, said, rng)
    elif asked.trace:
        made = _file(asked, said, rng)
    else:
        made = _drawn(asked, said, rng)
    if said.peak != 1.0:
        made = made.scaled(said.peak)
    if said.priorities:
        drawn = np.random.default_rng([asked.seed, 2]).choice(len(said.priorities), len(made), p=said.priorities)
        made = replace(made, priority=drawn)
    return replace(made, origin=_origin(asked))


def _origin(asked: Traffic) -> dict[str, str | int | float]:
    """The options that were given, as text and numbers; the seed always."""
    given = {f.name: getattr(asked, f.name) for f in fields(asked)}
    kept = {k: v for k, v in given.items() if v not in ("", None) and (v or k != "system")}
    return {k: v if isinstance(v, int | float) else str(v) for k, v in kept.items()}


def _shares(given: str) -> tuple[float, ...]:
    """Shares of the requests by priority, which sum up to one. Raises :class:`InputError`."""
    shares = tuple(parse_quantity(x, "1", "priorities") for x in given.split(",") if x.strip())
    if any(not share >= 0 for share in shares) or not 0.99 < sum(shares or (1.0,)) < 1.01:
        words = f"expected shares of 0, 1, ... that sum up to 1, such as 0.2,0.8, got {show(given)}"
        raise InputError(words, field="priorities")
    return tuple(share / sum(shares) for share in shares)


class _Said:
    """The options read, every problem collected."""

    def __init__(self, a: Traffic, problems: list[Problem]) -> None:
        def tried(read: object, *arguments: object) -> object:
            try:
                return read(*arguments)  # type: ignore[operator]
            except InputError as error:
                problems.extend(error.problems)
                return None

        def seconds(value: str | float, name: str, zero: bool = True) -> float:
            if value == "":
                return math.nan
            found = tried(parse_quantity, value, "s", name)
            if not isinstance(found, float):
                return math.nan
            if not (math.isfinite(found) and (found >= 0 if zero else found > 0)):
                words = "of at least" if zero else "above"
                problems.append(Problem(name, f"expected a time {words} 0 s, got {value}"))
            return found

        self.isl = tried(parse_lengths, a.isl if a.isl != "" else ISL, "isl")
        self.osl = tried(parse_lengths, a.osl if a.osl != "" else OSL, "osl")
        self.turns = tried(parse_lengths, a.turns if a.turns != "" else 1, "turns")
        self.priorities: tuple[float, ...] = tried(_shares, a.priorities) or ()  # type: ignore[assignment]
        self.duration_s = seconds(a.duration, "duration", zero=False)
        self.start_s = seconds(a.start, "start")
        self.think_s = seconds(a.think, "think")
        self.peak = 1.0
        if a.peak != "":
            found = tried(parse_quantity, str(a.peak).strip().removesuffix("x"), "1", "peak")
            self.peak = found if isinstance(found, float) else 1.0
            if not (math.isfinite(self.peak) and self.peak > 0):
                problems.append(Problem("peak", f"expected a factor above 0 such as 3x, got {a.peak}"))
                self.peak = 1.0
        self.arrivals: Arrivals | None = None
        if a.rate != "":
            rate = tried(parse_rate, a.rate)
            if isinstance(rate, float):
                self.arrivals = tried(parse_arrivals, a.arrivals, rate, a.burst)  # type: ignore[assignment]

    def starts(self, n: int | None, rng: np.random.Generator, most: int = MAX_REQUESTS) -> Floats:
        """Arrival times until the duration, or ``n`` of them."""
        assert self.arrivals is not None
        if n is None and math.isfinite(self.duration_s):
            return self.arrivals.draw_until(self.duration_s, rng)
        times = self.arrivals.draw(min(n or REQUESTS, most), rng)
        if math.isfinite(self.duration_s):
            times = times[times < self.duration_s]
            if not times.size:
                raise InputError(f"no request arrives in {self.duration_s:g} s", field="duration")
        return times


def _consistent(a: Traffic, said: _Said, problems: list[Problem]) -> None:
    """Options that make no sense together."""

    def refuse(field: str, when: bool, words: str) -> None:
        if when:
            problems.append(Problem(field, words))

    sources = [bool(a.trace), a.rate != "", a.concurrency is not None, bool(a.workflow)]
    refuse("rate", not any(sources), "say what is sent: --rate 4/s, --trace FILE, --concurrency 64 or --workflow FILE")
    refuse("concurrency", a.rate != "" and a.concurrency is not None, "choose one of --rate and --concurrency")
    refuse("workflow", bool(a.workflow and a.trace), "choose one of --trace and --workflow")
    refuse("rate", bool(a.workflow) and a.rate == "", "how many workflows begin per second: --rate 0.5/s")
    refuse("rate", a.turns != "" and a.rate == "", "how many conversations begin per second: --rate 2/s")
    refuse(
        "turns",
        a.turns != "" and bool(a.trace or a.workflow),
        "conversations are drawn; leave --trace or --workflow out",
    )
    for name in LENGTHS:
        refuse(
            name,
            getattr(a, name) != "" and bool(a.workflow),
            "lengths come from the workflow; leave one of the two out",
        )
    for name in ("arrivals", "burst"):
        given = getattr(a, name) not in ("", None)
        refuse(name, given and a.rate == "", "the shape of arrivals needs --rate")
    closed = a.concurrency is not None
    refuse("concurrency", closed and (a.concurrency or 0) < 1, f"expected at least 1, got {a.concurrency}")
    refuse("priorities", bool(a.priorities and a.workflow), "calls of a workflow have none; leave one of the two out")
    refuse("duration", closed and a.duration != "", "a closed loop ends after --requests")
    refuse("peak", closed and a.peak != "", "a closed loop has no arrival rate to scale; change --concurrency")
    endless = said.arrivals is not None and math.isinf(said.arrivals.rate_per_s)
    refuse("peak", endless and a.peak != "", "at the rate inf all arrive at once, with no rate to scale; leave it out")
    refuse(
        "start", a.start != "" and (not a.trace or closed or a.rate != ""), "only the replay of a trace can start later"
    )
    refuse("think", a.think != "" and not (closed or a.turns != ""), "thinking needs --concurrency or --turns")
    refuse("system", bool(a.system and (a.trace or a.workflow)), "prompts come from the file; leave one of the two out")
    refuse(
        "requests",
        a.requests is not None and not 1 <= a.requests <= MAX_REQUESTS,
        f"expected 1 to {MAX_REQUESTS:,}, got {a.requests}",
    )
    refuse("seed", a.seed < 0, f"expected at least 0, got {a.seed}")


def _drawn(a: Traffic, said: _Said, rng: np.random.Generator) -> Trace:
    assert isinstance(said.isl, Lengths) and isinstance(said.osl, Lengths)
    if a.concurrency is not None:
        n = a.requests or REQUESTS_PER_CLIENT * a.concurrency
        at = np.zeros(n)
        name = f"{a.concurrency} clients"
    else:
        at = said.starts(a.requests, rng)
        n, name = len(at), str(said.arrivals)
    prompts, answers = said.isl.draw(n, rng) + a.system, said.osl.draw(n, rng)
    notes: tuple[str, ...] = ()
    if a.concurrency is not None and 1 < a.concurrency < n and said.isl.kind == said.osl.kind == "constant":
        longest = int(answers[0])
        shortest = math.ceil(SHORTEST_ANSWER * longest)
        answers = rng.integers(shortest, longest, n, endpoint=True)
        if shortest < longest:
            exact = f"--osl uniform:{longest}-{longest} has them equal"
            notes = (f"answers are {shortest:,} to {longest:,} tokens, so that clients do not march in step; {exact}",)
    name += f", isl {said.isl}" + (f" behind {a.system:,} shared" if a.system else "") + f", osl {said.osl}"
    shared = {"prefix_" + k: v for k, v in common_prefix(n, a.system).items()} if a.system else {}
    return _closed(Trace(at, prompts, answers, name=name, notes=notes, **shared), a, said)


def _closed(made: Trace, a: Traffic, said: _Said) -> Trace:
    if a.concurrency is None:
        return made
    return made.closed_loop(a.concurrency, 0.0 if math.isnan(said.think_s) else said.think_s)


def _file(a: Traffic, said: _Said, rng: np.random.Generator) -> Trace:
    given = {name: getattr(said, name) for name in LENGTHS if getattr(a, name) != ""}
    found = read_recorded(a.trace, lengths=given, seed=a.seed)
    if a.rate == "" and a.concurrency is None:
        made = found.trace()
        if math.isfinite(said.start_s) or math.isfinite(said.duration_s):
            start = 0.0 if math.isnan(said.start_s) else said.start_s
            made = made.between(start, math.inf if math.isnan(said.duration_s) else start + said.duration_s)
        return made if a.requests is None else made.first(a.requests)
    if a.concurrency is not None:
        n, at = a.requests or len(found), None
    else:
        at = said.starts(a.requests or (None if math.isfinite(said.duration_s) else len(found)), rng)
        n = len(at)
    keep = np.arange(n) if n <= len(found) else rng.integers(0, len(found), n)
    notes = (
        () if n <= len(found) else (f"{n:,} requests drawn with replacement from the {len(found):,} of {found.name}",)
    )
    made = found.rows(keep).sent_at(np.zeros(n) if at is None else at)
    name = f"lengths of {found.name}, " + (f"{a.concurrency} clients" if at is None else str(said.arrivals))
    return _closed(replace(made, name=name, notes=(*made.notes, *notes)), a, said)


def _conversations(a: Traffic, said: _Said, rng: np.random.Generator) -> Trace:
    assert isinstance(said.isl, Lengths) and isinstance(said.osl, Lengths) and isinstance(said.turns, Lengths)
    starts = said.starts(a.requests, rng)
    made = conversations(
        starts,
        turns=said.turns,
        prompt=said.isl,
        output=said.osl,
        think_s=0.0 if math.isnan(said.think_s) else said.think_s,
        rng=rng,
        system_tokens=a.system,
    )
    if a.requests is not None or math.isnan(said.duration_s):
        made = made.first(min(len(made), a.requests or REQUESTS))
    return replace(made, name=f"conversations of {said.turns} turns, {said.arrivals}")


def _workflow(a: Traffic, said: _Said, rng: np.random.Generator) -> Trace:
    name, calls = read_workflow(a.workflow)
    width = sum(c.count for c in calls)
    asked = a.requests or (None if math.isfinite(said.duration_s) else REQUESTS)
    starts = said.starts(None if asked is None else -(-asked // width), rng)
    return workflows(starts, calls, rng, name=f"{len(starts):,} x {name} of {width} calls, {said.arrivals}")
