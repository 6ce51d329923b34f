"""A trace: which requests arrive when, how long they are, and what they wait for. Struct of arrays, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, Problem, raise_all

__all__ = ["LENGTHS", "MAX_TOKENS", "Floats", "Integers", "Trace", "gather"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Names of a request's two lengths, tokens of its prompt and of its output: in files, on the command line, in records.
LENGTHS = ("isl", "osl")
#: Columns with one entry per request.
COLUMNS = ("arrived_at", *LENGTHS, "priority", "deadline_s", "session", "adapter", "delay_s", "shown")
#: Longest prompt or output accepted, tokens: an order of magnitude above the longest context on the market.
MAX_TOKENS = 100_000_000
#: Latest arrival accepted, s: beyond it (300 years) the clock cannot tell steps apart.
LATEST_S = 1e10
#: Rows named in one error before the rest is only counted.
_NAMED = 5


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival, times from the start of the trace.

    An open-loop request ``i`` arrives at ``arrived_at[i]``. With ``after``, it arrives ``delay_s[i]`` after the last of
    its predecessors has completed, and not before ``arrived_at[i]``: sessions and workflows. With ``concurrency`` > 0
    (closed loop) the first ``concurrency`` requests arrive at ``arrived_at`` and each further one arrives
    ``delay_s[i]`` after a request completes, in order.

    Args:
        arrived_at: ``[n]`` s, sorted, the first may be above 0.
        isl, osl: ``[n]`` prompt and generated tokens, at least 1. ``isl`` of a session turn is the whole prompt with
            its history.
        priority: ``[n]``, smaller is served first by the priority policy; None = all equal.
        deadline_s: ``[n]`` s after arrival, for the deadline policy; None = none, inf = none for one request.
        session: ``[n]`` number of the conversation or workflow, -1 = none; None = all none.
        adapter: ``[n]`` number of the fine-tuned variant it asks for, -1 = the model itself; None = all the model.
        prefix_hashes: ``[total]`` identities of the prompt's blocks, request after request; the last one may stand for
            a block that is not full. Two requests whose first ``k`` hashes are equal share the first
            ``k * prefix_block_tokens`` tokens (or their whole prompts, where these are shorter).
        prefix_offsets: ``[n + 1]``: request ``i`` has ``prefix_hashes[prefix_offsets[i]:prefix_offsets[i + 1]]``.
        prefix_block_tokens: tokens of one hashed block, 0 without hashes.
        after: ``[total]`` predecessors, request after request; ``after_offsets`` ``[n + 1]``. A predecessor has a
            smaller index.
        delay_s: ``[n]`` s between what a request waits for and its arrival (think time, tools); None = 0.
        shown: ``[n]`` draws from 0 to 1 that say what each request shows of a mixture of images; None = all the same.
        concurrency: requests in flight of a closed loop, 0 = open loop.
        branches: so many rows after each other answer one prompt; the later ones wait (``after``) for the first token
            of the first, not for its end.
        sessions_are: what a session is: ``conversation``, ``workflow``, or empty where requests stand alone.
        name: what to call it in reports.
        rejected: problems of rows that were dropped, one line each.
        notes: what was changed or assumed on the way in.
        origin: the options that make it again, by name; empty when it was built from arrays.

    Raises:
        InputError: all problems at once.
    """

    arrived_at: Floats
    isl: Integers
    osl: Integers
    priority: Integers | None = None
    deadline_s: Floats | None = None
    session: Integers | None = None
    adapter: Integers | None = None
    prefix_hashes: Integers | None = None
    prefix_offsets: Integers | None = None
    prefix_block_tokens: int = 0
    after: Integers | None = None
    after_offsets: Integers | None = None
    delay_s: Floats | None = None
    shown: Floats | None = None
    concurrency: int = 0
    branches: int = 1
    sessions_are: str = ""
    name: str = "trace"
    rejected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        raise_all(_normalised(self))

    def __len__(self) -> int:
        return len(self.isl)

    def __repr__(self) -> str:
        loop = f"{self.concurrency} at a time" if self.concurrency else f"{self.duration_s:.6g} s"
        return (
            f"<Trace {self.name}: {len(self):,} requests, {loop}, mean isl {self.isl.mean():,.1f}, "
            f"mean osl {self.osl.mean():,.1f}>"
        )

    @property
    def duration_s(self) -> float:
        """Last arrival less the first, s."""
        return float(self.arrived_at[-1] - self.arrived_at[0])

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate ``(n - 1) / duration``; inf when all arrive at once."""
        duration = self.duration_s
        return (len(self) - 1) / duration if duration > 0 else float("inf")

    @property
    def sessions_per_s(self) -> float:
        """Mean rate at which conversations or workflows begin; of requests where these stand alone."""
        if not self.sessions_are or self.session is None or self.duration_s <= 0:
            return self.rate_per_s
        return (len(np.unique(self.session)) - 1) / self.duration_s

    @property
    def closed(self) -> bool:
        """Whether arrivals depend on completions."""
        return self.concurrency > 0 or self.after is not None

    # what can be done to a trace

    def scaled(self, factor: float) -> Trace:
        """The same requests at ``factor`` times the rate. Closed loops have no rate.

        Raises:
            InputError: the factor is not above 0, or the loop is closed at a concurrency.
        """
        if not (np.isfinite(factor) and factor > 0):
            raise InputError(f"expected a factor above 0, got {factor:g}", field="peak")
        if self.concurrency:
            raise InputError("a closed loop has no arrival rate to scale; change the concurrency", field="peak")
        start = self.arrived_at[0]
        note = f"arrival rate times {factor:g}"
        with np.errstate(over="ignore"):  # times too large are told of by the check of a trace
            arrived_at = start + (self.arrived_at - start) / factor
        return replace(self, arrived_at=arrived_at, notes=(*self.notes, note))

    def between(self, start_s: float, end_s: float) -> Trace:
        """The requests that arrive in ``[start_s, end_s)`` after the first one, moved to begin at 0.

        Raises:
            InputError: there is none.
        """
        since = self.arrived_at - self.arrived_at[0]
        low, high = (int(x) for x in np.searchsorted(since, (start_s, end_s), side="left"))
        if high <= low:
            raise InputError(
                f"no request arrives from {start_s:g} to {end_s:g} s; the trace lasts {self.duration_s:,.6g} s",
                field="duration",
            )
        cut = self.rows(np.arange(low, high))
        shifted = np.maximum(0.0, cut.arrived_at - self.arrived_at[0] - start_s)
        return replace(cut, arrived_at=shifted)

    def longer(self, tokens: Integers, note: str, said: Mapping[str, str]) -> Trace:
        """The same requests with ``tokens`` ``[n]`` more at the end of each prompt, and the options that ask for it."""
        origin = {**self.origin, **said} if self.origin else self.origin
        return replace(self, isl=self.isl + tokens, notes=(*self.notes, note), origin=origin)

    def first(self, requests: int) -> Trace:
        """The first so many requests; all when there are fewer, with a note.

        Raises:
            InputError: less than one asked for.
        """
        if requests < 1:
            raise InputError(f"expected at least 1, got {requests}", field="requests")
        if requests > len(self):
            note = f"{requests:,} requests asked for, the trace has {len(self):,}"
            return replace(self, notes=(*self.notes, note))
        return self if requests == len(self) else self.rows(np.arange(requests))

    def closed_loop(self, concurrency: int, think_s: float = 0.0) -> Trace:
        """The same lengths, in order, sent by ``concurrency`` clients that each wait for their answer.

        Raises:
            InputError: no client, a negative think time, or the requests already wait for others.
        """
        problems = []
        if concurrency < 1:
            problems.append(Problem("concurrency", f"expected at least 1, got {concurrency}"))
        if not (np.isfinite(think_s) and think_s >= 0):
            problems.append(Problem("think", f"expected a time of at least 0 s, got {think_s:g}"))
        if self.after is not None:
            problems.append(Problem("concurrency", "sessions and workflows already wait for their own answers"))
        raise_all(problems)
        n = len(self)
        return replace(self, arrived_at=np.zeros(n), delay_s=np.full(n, float(think_s)), concurrency=concurrency)

    def rows(self, keep: Integers) -> Trace:
        """Only the rows ``keep`` (ascending, perhaps several times); waiting for a row left out is forgotten."""
        new = np.full(len(self), -1, dtype=np.int64)
        new[keep] = np.arange(len(keep))
        changes: dict[str, Any] = {
            name: getattr(self, name)[keep] for name in COLUMNS if getattr(self, name) is not None
        }
        if self.prefix_hashes is not None and self.prefix_offsets is not None:
            changes["prefix_hashes"], changes["prefix_offsets"] = gather(self.prefix_hashes, self.prefix_offsets, keep)
        if self.after is not None and self.after_offsets is not None:
            kept, offsets = gather(self.after, self.after_offsets, keep)
            moved = new[kept]
            counts = np.add.reduceat(np.append(moved >= 0, False).astype(np.int64), offsets[:-1]) * (
                np.diff(offsets) > 0
            )
            changes["after"] = moved[moved >= 0]
            changes["after_offsets"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return replace(self, **changes)


def gather(values: Integers, offsets: Integers, rows: Integers) -> tuple[Integers, Integers]:
    """Rows of a ragged array: ``values[offsets[r]:offsets[r + 1]]`` for each ``r``, and their offsets."""
    sizes = np.diff(offsets)[rows]
    out = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    index = np.arange(out[-1]) - np.repeat(out[:-1] - offsets[:-1][rows], sizes)
    return values[index], out


def _some(rows: Iterable[int], where: Sequence[str] = ()) -> str:
    every = [int(r) for r in rows]
    shown = ", ".join(where[r] if where else str(r) for r in every[:_NAMED])
    return shown + (f" and {len(every) - _NAMED:,} more" if len(every) > _NAMED else "")


def _normalised(t: Trace) -> list[Problem]:
    """Put arrays into their types and order, in place of what was given; every problem found."""

    def put(name: str, value: Any) -> None:
        object.__setattr__(t, name, value)

    problems: list[Problem] = []
    arrays: dict[str, Any] = {}
    for name in COLUMNS:
        given = getattr(t, name)
        if given is None:
            continue
        try:
            arrays[name] = np.asarray(given, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            problems.append(Problem(name, "expected numbers"))
    if problems:
        return problems
    n = len(arrays["isl"])
    for name, array in arrays.items():
        if len(array) != n:
            problems.append(Problem(name, f"has {len(array):,} entries for {n:,} requests"))
    if not problems and n == 0:
        problems.append(Problem("trace", "the trace is empty: no request"))
    if problems:
        return problems
    problems += _bounds(arrays)
    if not isinstance(t.concurrency, int) or t.concurrency < 0:
        problems.append(Problem("concurrency", f"expected a whole number of at least 0, got {t.concurrency}"))
    elif t.concurrency and t.after is not None:
        problems.append(Problem("concurrency", "sessions and workflows already wait for their own answers"))
    problems += _ragged(t, "prefix_hashes", "prefix_offsets", n, put) + _ragged(t, "after", "after_offsets", n, put)
    if t.prefix_hashes is not None and t.prefix_block_tokens < 1:
        problems.append(Problem("prefix_block_tokens", f"expected at least 1, got {t.prefix_block_tokens}"))
    if problems:
        return problems
    for name, array in arrays.items():
        put(name, array if name in ("arrived_at", "deadline_s", "delay_s", "shown") else array.astype(np.int64))
    if t.after is not None and t.after_offsets is not None:
        child = np.repeat(np.arange(n), np.diff(t.after_offsets))
        bad = child[(t.after < 0) | (t.after >= child)]
        if bad.size:
            return [Problem("after", f"a request waits for itself or a later one: requests {_some(bad)}")]
        if np.any(np.diff(t.arrived_at) < 0):
            return [Problem("arrived_at", "requests that wait for others must be in order of their earliest arrival")]
    _sort(t, put)
    return []


def _bounds(arrays: dict[str, Floats]) -> list[Problem]:
    problems = []

    def refuse(name: str, bad: Any, words: str) -> None:
        rows = np.flatnonzero(bad)
        if rows.size:
            got = arrays[name][rows[0]]
            problems.append(Problem(name, f"expected {words}, got {got:g} (requests {_some(rows)})"))

    for name in LENGTHS:
        a = arrays[name]
        refuse(name, ~np.isfinite(a) | (a < 1) | (a != np.floor(a)), "whole numbers of at least 1")
        refuse(name, a > MAX_TOKENS, f"at most {MAX_TOKENS:,} tokens")
    at = arrays["arrived_at"]
    refuse("arrived_at", ~np.isfinite(at) | (at < 0), "times of at least 0 s")
    refuse("arrived_at", np.isfinite(at) & (at > LATEST_S), f"times of at most {LATEST_S:g} s")
    for name in ("delay_s",):
        if name in arrays:
            refuse(name, ~np.isfinite(arrays[name]) | (arrays[name] < 0), "times of at least 0 s")
    if "deadline_s" in arrays:
        refuse("deadline_s", np.isnan(arrays["deadline_s"]) | (arrays["deadline_s"] <= 0), "times above 0 s")
    for name in ("priority", "session", "adapter"):
        if name in arrays:
            a = arrays[name]
            refuse(name, ~np.isfinite(a) | (a != np.floor(a)) | (np.abs(a) > 2**53), "whole numbers")
    return problems


def _ragged(t: Trace, values: str, offsets: str, n: int, put: Any) -> list[Problem]:
    """Check one ragged pair."""
    flat, ends = getattr(t, values), getattr(t, offsets)
    if flat is None and ends is None:
        return []
    if flat is None or ends is None:
        return [Problem(values, f"{values} and {offsets} come together")]
    flat, ends = np.asarray(flat, dtype=np.int64).reshape(-1), np.asarray(ends, dtype=np.int64).reshape(-1)
    if len(ends) != n + 1 or ends[0] != 0 or ends[-1] != len(flat) or np.any(np.diff(ends) < 0):
        return [Problem(offsets, f"expected {n + 1:,} ascending offsets from 0 to {len(flat):,}")]
    put(values, flat)
    put(offsets, ends)
    return []


def _sort(t: Trace, put: Any) -> None:
    """Bring requests into order of arrival (stable), with a note when they were not."""
    if t.concurrency or not np.any(np.diff(t.arrived_at) < 0):
        return
    order = np.argsort(t.arrived_at, kind="stable")
    for name in COLUMNS:
        if getattr(t, name) is not None:
            put(name, getattr(t, name)[order])
    if t.prefix_hashes is not None and t.prefix_offsets is not None:
        hashes, ends = gather(t.prefix_hashes, t.prefix_offsets, order)
        put("prefix_hashes", hashes)
        put("prefix_offsets", ends)
    put("notes", (*t.notes, "arrivals were not in order of time; sorted"))
