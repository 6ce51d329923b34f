"""Pipeline schedules: played slot after slot, or in closed form over many layouts at once.

A step of a pipeline takes what its busiest stage computes and a bubble: the time that stages wait for each other. The
table of a schedule (:mod:`steelyard.training.schedule_tables`) is played with the times of the passes of each stage;
the bubble has a closed form where all stages take equally long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.cost.jit import njit
from steelyard.errors import InputError, UnknownName
from steelyard.training.schedule_tables import FORWARD, NONE, SCHEDULES, WEIGHT, Schedule, Table, schedule_table

__all__ = ["SCHEDULES", "Played", "Schedule", "Table", "bubble_s", "in_flight", "play", "schedule_table"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Played:
    """A table played: when each slot began and ended, s from the first.

    ``begin_s`` and ``end_s`` are ``[stages, slots]`` in the order of the table's rows; NaN beyond a row's end.
    """

    table: Table
    begin_s: Floats
    end_s: Floats

    @property
    def makespan_s(self) -> float:
        """From the first pass of any stage to the last of any."""
        return float(np.nanmax(self.end_s))

    @property
    def span_s(self) -> Floats:
        """``[stages]``: from a stage's first pass to its last."""
        return np.asarray(np.nanmax(self.end_s, axis=1) - np.nanmin(self.begin_s, axis=1))

    @property
    def step_s(self) -> float:
        """From one step to the next: the makespan, or the longest span where stages go on without each other."""
        return float(self.span_s.max()) if self.table.schedule.rolls else self.makespan_s

    @property
    def busy_s(self) -> Floats:
        """``[stages]``: time a stage computes; of passes side by side once."""
        long = self.end_s - self.begin_s
        return np.asarray(np.nansum(np.where(self.table.joined, 0.0, long), axis=1))

    @property
    def idle_s(self) -> Floats:
        """``[stages]``: the rest of the step."""
        return np.asarray(self.step_s - self.busy_s)

    @property
    def bubble_frac(self) -> float:
        """Idle share of the stages' time in a step."""
        return float(self.idle_s.mean() / self.step_s) if self.step_s else 0.0

    @property
    def in_flight(self) -> Floats:
        """``[stages]``: :meth:`Table.in_flight`."""
        return self.table.in_flight()


def play(
    table: Table,
    forward_s: ArrayLike,
    backward_s: ArrayLike,
    weight_s: ArrayLike = 0.0,
    send_s: ArrayLike = 0.0,
    both_s: ArrayLike | None = None,
) -> Played:
    """Play a table: a slot begins when its stage is free and its input is there, and never before.

    Times of the passes of one micro-batch are numbers or arrays: ``[positions]``, of each piece of the model; or
    ``[stages]`` (or one number), of all pieces of one copy that a stage holds, which share it equally.

    Args:
        table: of :func:`schedule_table`.
        forward_s: forward pass, s.
        backward_s: backward pass for inputs, with what is computed again, s.
        weight_s: backward pass for weights, s; schedules that do not split the backward pass run it right behind.
        send_s: what is sent to the next piece of the model on another stage, s: a number or ``[positions - 1]``.
        both_s: a forward and a whole backward pass side by side, where the schedule has them (DualPipe), s; None: as
            long as one after the other.

    Raises:
        InputError: a time is negative or no number, an array has another length, or the table never ends.
    """
    pieces = table.positions
    f, b, w = (
        _of_positions(table, x, name)
        for x, name in ((forward_s, "forward_s"), (backward_s, "backward_s"), (weight_s, "weight_s"))
    )
    at = table.position
    both = (f + b + w)[at] if both_s is None else _of_positions(table, both_s, "both_s")[at]
    send = _checked(send_s, "send_s")
    if send.shape not in ((), (max(pieces - 1, 0),)):
        raise InputError(f"expected a number or {pieces - 1} times, got {send.shape}", field="send_s")
    hop = np.concatenate([np.broadcast_to(send, max(pieces - 1, 0)), [0.0]])
    stage = table.place // table.chunks
    away = np.zeros((table.copies, pieces))
    away[:, :-1] = (stage[:, 1:] != stage[:, :-1]) * hop[:-1]
    long = np.stack([f[at], b[at], w[at], (b + w)[at]])
    begin, end = np.full(table.kind.shape, np.nan), np.full(table.kind.shape, np.nan)
    ended = np.full((2, table.copies, pieces, table.micro_batches), np.nan)
    free, next_slot = np.zeros(table.stages), np.zeros(table.stages, np.int64)
    _play(
        table.kind,
        table.micro_batch,
        table.chunk,
        table.joined,
        np.ascontiguousarray(at),
        np.ascontiguousarray(table.way),
        long,
        both,
        away,
        ended,
        free,
        next_slot,
        begin,
        end,
    )
    if np.any(np.isnan(end) != (table.kind == NONE)):
        raise InputError("stages wait for each other for ever: the table is no schedule", field="schedule")
    return Played(table, begin, end)


def bubble_s(
    name: str,
    p: ArrayLike,
    m: ArrayLike,
    v: ArrayLike = 1,
    f: ArrayLike = 1.0,
    b: ArrayLike = 1.0,
    w: ArrayLike = 1.0,
    both: ArrayLike | None = None,
) -> Floats:
    """What a step takes beyond ``m (f + b + w)`` where all stages take equally long and nothing is sent, s.

    ===========  =======================================  ========================================
    schedule     bubble                                   as played
    ===========  =======================================  ========================================
    gpipe, 1f1b  (p - 1) (f + b + w)                      exactly
    interleaved  (p - 1) (f + b + w) / v                  exactly; and (v - 1) (p - m) of them from m below p
    zb-h1        (p - 1) max(f + b - w, f, b)             exactly from m = 2 p
    zb-h2        (p - 1) max(f + b - 2 w, b - f, 0)       exactly from m = 2 p
    zb-v         (p - 1) max(f - w, b - w, |f - b| / 2)   exactly where f = b = w
    chimera      (p - 2) (f + (m / p) (b + w - f))        exactly where m = p or b + w = f
    dualpipe     (p / 2 - 1) (both + b - 2 w) - gain      exactly where f = b = w, both = f + b + w
    dualpipe-v   (p - 1) (both + b - 2 w) / 2 - gain      exactly where f = b = w, both = f + b + w
    ===========  =======================================  ========================================

    ``gain`` is what passes side by side save, ``f + b + w - both`` for each of a mean stage's pairs; with it the result
    may be below 0. Elsewhere the last four are within 10 % of the step, for passes within a factor of 4 of each other.

    Args:
        name: one of :data:`SCHEDULES`.
        p, m, v: stages, micro-batches and chunks; arrays over layouts.
        f, b, w: forward pass, backward pass for inputs and for weights of a micro-batch in all layers of a stage, of
            one copy, s.
        both: a forward and a whole backward pass side by side, s; None: they gain nothing by it.

    Raises:
        InputError: no such schedule.

    Source: the paper of each schedule; the conditions are those under which :func:`play` gives the same.
    """
    if name not in SCHEDULES:
        raise UnknownName("schedule", name, SCHEDULES)
    stages, batches, chunks, f, b, w = (np.asarray(x, dtype=np.float64) for x in (p, m, v, f, b, w))
    beside = f + b + w if both is None else np.asarray(both, dtype=np.float64)
    less = stages - 1.0
    if name in ("gpipe", "1f1b"):
        found = less * (f + b + w)
    elif name == "interleaved":
        found = (less + (chunks - 1) * np.maximum(stages - batches, 0.0)) * (f + b + w) / chunks
    elif name == "zb-h1":
        found = less * np.maximum(np.maximum(f, b), f + b - w)
    elif name == "zb-h2":
        found = less * np.maximum(np.maximum(b - f, 0.0), f + b - 2 * w)
    elif name == "zb-v":
        found = less * np.maximum(np.maximum(f, b) - w, np.abs(f - b) / 2)
    elif name == "chimera":
        groups = np.maximum(batches / stages, 1.0)
        found = np.maximum(stages - 2, 0.0) * (f + groups * np.maximum(b + w - f, 0.0))
    else:
        half = stages / 2 if name == "dualpipe" else stages
        pairs = batches / (2 if name == "dualpipe" else 1) - 1.25 * half + 0.25  # of each kind of two
        gain = (2 if name == "dualpipe" else 1) * pairs * (f + b + w - beside)
        turns = half - 1 if name == "dualpipe" else (half - 1) / 2
        found = turns * np.maximum(beside + b - 2 * w, 0.0) - gain
    return np.asarray(found, dtype=np.float64)


def in_flight(
    name: str,
    p: ArrayLike,
    m: ArrayLike,
    v: ArrayLike = 1,
    stage: ArrayLike = 0,
    weight_share: ArrayLike = 0.0,
) -> Floats:
    """Micro-batches whose activations a stage holds at its fullest, in those of a copy's stage; as of a table.

    1F1B ``p - stage``, interleaved ``(2 (p - stage - 1) + (v - 1) g + 1) / v`` with groups of
    g, p or as little more as divides m,, ZB-H1 that of 1F1B and ``stage`` that
    wait for their weights' pass, ZB-H2 ``2 (p - stage) - 1`` and ``2 stage``; ZB-V ``p``, DualPipe ``p + 1``, its half
    ``p + 1/2``, Chimera ``p``: upper limits of every stage; GPipe all ``m``. Never more than ``m``.

    Args:
        name: one of :data:`SCHEDULES`.
        p, m, v, stage: stages, micro-batches, chunks, and the stage asked for; arrays over layouts. Stage 0 is the
            fullest.
        weight_share: share of what is saved that is kept from the backward pass for inputs to that for weights.

    Raises:
        InputError: no such schedule.
    """
    if name not in SCHEDULES:
        raise UnknownName("schedule", name, SCHEDULES)
    stages, batches, chunks, s, share = (np.asarray(x, dtype=np.float64) for x in (p, m, v, stage, weight_share))
    if name == "gpipe":
        found = batches
    elif name == "1f1b":
        found = stages - s
    elif name == "interleaved":
        group = np.ceil(batches / np.maximum(batches // stages, 1.0))
        found = (2 * (stages - s - 1) + (chunks - 1) * group + 1) / chunks
    elif name == "zb-h1":
        found = stages - s + share * s
    elif name == "zb-h2":
        found = 2 * (stages - s) - 1 + share * 2 * s
    else:
        found = stages + {"dualpipe": 1.0, "dualpipe-v": 0.5}.get(name, 0.0)
    return np.asarray(np.minimum(found, batches) + 0.0 * s, dtype=np.float64)


def _checked(value: ArrayLike, field: str) -> Floats:
    found = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(found)) or np.any(found < 0):
        raise InputError("expected times of at least 0 s", field=field)
    return found


def _of_positions(table: Table, value: ArrayLike, field: str) -> Floats:
    """``[positions]``: times of the pieces of the model."""
    found = _checked(value, field)
    each = table.chunks // table.copies
    if found.shape == (table.positions,):
        return found
    if found.shape == ():
        return np.full(table.positions, float(found) / each)
    if found.shape == (table.stages,):
        return np.asarray(found[table.place[0] // table.chunks] / each)
    wanted = f"a number, {table.stages} times of stages or {table.positions} of positions"
    raise InputError(f"expected {wanted}, got shape {found.shape}", field=field)


@njit
def _play(
    kind: Any,
    micro_batch: Any,
    chunk: Any,
    joined: Any,
    position: Any,
    way: Any,
    long: Any,
    both: Any,
    away: Any,
    ended: Any,
    free: Any,
    next_slot: Any,
    begin: Any,
    end: Any,
) -> None:
    """Let every stage go as far as its inputs allow, round after round, until none moves."""
    stages, slots = kind.shape
    pieces = away.shape[1]
    moved = True
    while moved:
        moved = False
        for s in range(stages):
            k = next_slot[s]
            while k < slots and kind[s, k] != NONE:
                last = k + 1 if joined[s, k] else k
                at = free[s]
                for n in range(k, last + 1):
                    c, i, does = chunk[s, n], micro_batch[s, n], kind[s, n]
                    q, path = position[s, c], way[s, c]
                    if does == FORWARD:
                        ready = ended[0, path, q - 1, i] + away[path, q - 1] if q > 0 else 0.0
                    elif does == WEIGHT:
                        ready = ended[1, path, q, i]
                    else:
                        ready = ended[0, path, q, i]
                        if q < pieces - 1 and ready >= 0.0:
                            behind = ended[1, path, q + 1, i] + away[path, q]
                            ready = max(ready, behind) if behind >= 0.0 else np.nan
                    if not ready >= 0.0:
                        at = np.nan
                        break
                    at = max(at, ready)
                if not at >= 0.0:
                    break
                for n in range(k, last + 1):
                    c, i, does = chunk[s, n], micro_batch[s, n], kind[s, n]
                    begin[s, n] = at
                    end[s, n] = at + (both[s, c] if last > k else long[does, s, c])
                    if does == FORWARD:
                        ended[0, way[s, c], position[s, c], i] = end[s, n]
                    elif does != WEIGHT:
                        ended[1, way[s, c], position[s, c], i] = end[s, n]
                free[s] = end[s, last]
                k = last + 1
                moved = True
            next_slot[s] = k
