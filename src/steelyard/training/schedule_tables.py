"""Pipeline schedules as tables: for each stage the order of its passes. :mod:`steelyard.training.schedule` plays them.

A schedule of the literature is a few lines: how often a stage repeats which passes. ``f`` is the forward pass of the
next micro-batch, ``b`` the backward pass for its inputs, ``w`` the one for weights of the longest waiting ``b``, ``d``
both in one; a digit names the chunk of the stage's layers, ``+`` joins two passes that run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.jit import njit
from steelyard.errors import InputError, UnknownName

__all__ = ["BOTH", "FORWARD", "INPUT", "NONE", "SCHEDULES", "WEIGHT", "Schedule", "Table", "schedule_table"]

#: Passes of a slot: forward, backward for inputs, backward for weights, both of these in one; none fills a short row.
FORWARD, INPUT, WEIGHT, BOTH, NONE = 0, 1, 2, 3, -1
_LETTERS: Final = {"f": FORWARD, "b": INPUT, "w": WEIGHT, "d": BOTH}
#: Most micro-batches times chunks times stages of a table: some 100 MB while it is played.
MOST: Final = 4_000_000

Ints = NDArray[np.int64]
#: ``(times, passes)`` one after another.
_Phases = list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is known of a schedule before it is played."""

    name: str
    source: str
    about: str
    chunks: int = 1
    """Chunks of layers of a stage; 0: as many as asked for."""
    copies: int = 1
    """Copies of the weights: 2 where micro-batches come from both ends of the pipeline."""
    even: bool = False
    """The number of stages has to be even."""
    fewest: Callable[[int], int] = lambda p: 1
    """Micro-batches a table needs at least, of the number of stages."""
    rolls: bool = False
    """Stages begin their next step without waiting for the others: the optimizer's check comes afterwards."""

    def check(self, stages: int, micro_batches: int, chunks: int) -> int:
        """The chunks of a stage. Raises :class:`InputError` where the schedule has no such table."""
        if stages < 1:
            raise InputError(f"expected at least 1 stage, got {stages}", field="pp")
        if self.even and stages % 2:
            message = f"{self.name} needs an even number of stages, got {stages}; nearest: {stages + 1}"
            raise InputError(message, field="pp")
        least = self.fewest(stages)
        if micro_batches < least or (self.copies == 2 and micro_batches % 2):
            kind = "an even number of " if self.copies == 2 else ""
            message = f"{self.name} on {stages} stages needs {kind}at least {least} micro-batches, got {micro_batches}"
            raise InputError(message, field="micro_batches")
        if self.chunks and chunks not in (1, self.chunks):
            message = f"{self.name} has {self.chunks} chunks of layers a stage, got {chunks}; interleaved takes any"
            raise InputError(message, field="vp")
        found = self.chunks or chunks
        if stages * micro_batches * found > MOST:
            message = f"a table of {stages} stages, {micro_batches} micro-batches and {found} chunks is past {MOST:,}"
            raise InputError(f"{message} slots a pass; fewer micro-batches repeat the same pattern", field="schedule")
        return found


@dataclass(frozen=True, eq=False)
class Table:
    """A schedule of so many stages and micro-batches: rows of slots, one a stage.

    ``kind``, ``micro_batch``, ``chunk`` and ``joined`` are ``[stages, slots]``; ``joined`` slots begin together with
    the next one. ``place[way, position]`` is ``stage * chunks + chunk`` of the layers at that position of the model,
    and ``position`` and ``way`` are the inverse, ``[stages, chunks]``.
    """

    schedule: Schedule
    micro_batches: int
    kind: NDArray[np.int8]
    micro_batch: NDArray[np.int32]
    chunk: NDArray[np.int8]
    joined: NDArray[np.bool_]
    place: Ints

    @property
    def name(self) -> str:
        """The schedule's name."""
        return self.schedule.name

    @property
    def stages(self) -> int:
        """Stages: groups of devices with layers of their own."""
        return int(self.kind.shape[0])

    @property
    def positions(self) -> int:
        """Pieces the model is cut into."""
        return int(self.place.shape[1])

    @property
    def chunks(self) -> int:
        """Pieces a stage holds, of all copies."""
        return self.place.size // self.stages

    @property
    def copies(self) -> int:
        """Copies of the weights."""
        return int(self.place.shape[0])

    @property
    def position(self) -> Ints:
        """``[stages, chunks]``: which piece of the model."""
        found = np.empty(self.place.size, np.int64)
        found[self.place] = np.arange(self.positions)
        return found.reshape(self.stages, self.chunks)

    @property
    def way(self) -> Ints:
        """``[stages, chunks]``: of which copy."""
        found = np.empty(self.place.size, np.int64)
        found[self.place] = np.arange(self.copies)[:, None]
        return found.reshape(self.stages, self.chunks)

    def in_flight(self, weight_share: float = 0.0) -> NDArray[np.float64]:
        """``[stages]``: micro-batches whose activations a stage holds at its fullest, in those of a copy's stage.

        A pass holds what it saved from its forward pass to the end of its backward pass; ``weight_share`` of it is
        kept on until its backward pass for weights, where that is a pass of its own.
        """
        step = np.zeros(self.kind.shape)
        step[self.kind == FORWARD] = 1.0
        step[self.kind == INPUT] = weight_share - 1.0
        step[self.kind == WEIGHT] = -weight_share
        step[self.kind == BOTH] = -1.0
        held: NDArray[np.float64] = np.cumsum(step, axis=1).max(axis=1) * self.copies / self.chunks
        return held


def _one_way(phases: Callable[[int, int, int], _Phases]) -> Callable[[int, int, int], list[Ints]]:
    """Rows of ``[slots, 4]`` (kind, micro-batch, chunk, joined) of a pipeline that micro-batches pass in order."""
    return lambda p, m, _: [_numbered(phases(s, p, m)) for s in range(p)]


def _numbered(phases: _Phases) -> Ints:
    """Slots of phases; the k-th of a pass and chunk is that of micro-batch k, the k-th ``w`` follows the k-th ``b``."""
    pieces = [np.tile(_read(passes), (max(times, 0), 1)) for times, passes in phases if passes]
    row = np.concatenate([x for x in pieces if len(x)]) if pieces else np.empty((0, 4), np.int64)
    for chunk in np.unique(row[:, 2]):
        for kinds in ((FORWARD,), (INPUT, BOTH)):
            mine = (row[:, 2] == chunk) & np.isin(row[:, 0], kinds)
            row[mine, 1] = np.arange(np.count_nonzero(mine))
    row[row[:, 0] == WEIGHT, 1:3] = row[row[:, 0] == INPUT, 1:3]
    return row


def _read(passes: str) -> Ints:
    """``"f0+d1 w"`` as slots; micro-batches are not known yet."""
    found = []
    for group in passes.split():
        parts = group.split("+")
        for i, part in enumerate(parts):
            found.append((_LETTERS[part[0]], 0, int(part[1:] or 0), i + 1 < len(parts)))
    return np.array(found, np.int64).reshape(-1, 4)


def _gpipe(s: int, p: int, m: int) -> _Phases:
    return [(m, "f"), (m, "d")]


def _one_f_one_b(s: int, p: int, m: int) -> _Phases:
    warm = min(p - s - 1, m)
    return [(warm, "f"), (m - warm, "f d"), (warm, "d")]


def _zero_bubble(ahead: int) -> Callable[[int, int, int], _Phases]:
    """H1 (``ahead`` 1) and H2 (2): as 1F1B, weights late by as many micro-batches as a stage has spare memory for."""

    def phases(s: int, p: int, m: int) -> _Phases:
        warm = min(ahead * (p - s - 1), m)
        late = min(ahead * s, m)
        early = min(late, m - warm)
        rest = late - early
        steady, down = m - warm - early, min(rest, warm)
        return [(warm, "f"), (early, "f b"), (steady, "f b w"), (down, "b"), (warm - down, "b w"), (late, "w")]

    return phases


def _v_shape(s: int, p: int, m: int) -> _Phases:
    """Zero bubble over a V: both ends of the model on the first stage, its middle on the last."""
    return [
        (2 * (p - s) - 1, "f0"),
        (s, "f1 f0"),
        (p - s, "f1 b1 w"),
        (m - 2 * p + s + 1, "f0 b0 w f1 b1 w"),
        (p - s - 1, "b0 w f1 b1 w"),
        (s, "b0 b1"),
        (p - s, "b0 w"),
        (2 * s, "w"),
    ]


def _dual(h: int, half: int, m: int) -> _Phases:
    """Forward passes of one direction beside backward passes of the other; ``h`` counts from the end they come from."""
    left, odd = half - h - 1, h % 2
    whole = (h + 1) // 2
    return [
        (2 * left, "f0"),
        (h + 1, "f0 f1"),
        (left, "b1 w f1"),
        (m - 2 * half + h + 1, "f0+d1 f1+d0"),
        (left, "d1 f1+d0"),
        (whole, "d1 d0"),
        (1 - odd, "d1 b0"),
        (h + odd - whole, "b1 b0"),
        (left, "w b0"),
        (h + 1, "w"),
    ]


def _interleaved(p: int, m: int, v: int) -> list[Ints]:
    """Groups of ``p`` micro-batches pass the first chunks, then the second, ...; backward passes in reverse.

    Where ``p`` does not divide them the groups are as few and as alike, none smaller than ``p``.
    """
    groups = max(m // p, 1)
    sizes = [m // groups + (i < m % groups) for i in range(groups)]
    steps = np.concatenate([np.arange(size * v) for size in sizes])
    size = np.repeat(sizes, np.multiply(sizes, v))
    chunk, batch = steps // size, steps % size + np.repeat(np.cumsum([0, *sizes[:-1]]), np.multiply(sizes, v))
    rows = []
    for s in range(p):
        warm = min(2 * (p - s - 1) + (v - 1) * sizes[0], m * v)
        row = _numbered([(warm, "f"), (m * v - warm, "f d"), (warm, "d")])
        row[row[:, 0] == FORWARD, 1], row[row[:, 0] == FORWARD, 2] = batch, chunk
        row[row[:, 0] == BOTH, 1], row[row[:, 0] == BOTH, 2] = batch, v - 1 - chunk
        rows.append(row)
    return rows


def _chimera(p: int, m: int, _: int) -> list[Ints]:
    """Two pipelines in opposite directions, half the micro-batches each: whatever is ready, the oldest first."""
    rows = np.zeros((p, 2 * m, 4), np.int64)
    ended = np.full((2, 2, p, m // 2), -1, np.int64)
    _fill_chimera(rows, ended, np.zeros((2, 2, p), np.int64))
    return list(rows)


@njit
def _fill_chimera(rows: Any, ended: Any, done: Any) -> None:
    """Fill the rows, one unit of time after another: of what is ready the oldest group, backward passes first.

    ``ended[way, backward, position, micro-batch]``: when a pass ended, -1 not yet; ``done[way, backward, position]``:
    how many did.
    """
    p, slots, half = rows.shape[0], rows.shape[1], ended.shape[3]
    group = max(p // 2, 1)
    for now in range(4 * p * slots):
        filled = 0
        for s in range(p):
            place, held = 0, 0
            for way in range(2):
                q = s + way * (p - 1 - 2 * s)
                place += done[way, 0, q] + done[way, 1, q]
                held += done[way, 0, q] - done[way, 1, q]
            filled += place
            best, best_way, best_back = -1, 0, 0
            for way in range(2):
                q = s + way * (p - 1 - 2 * s)
                for back in range(2):
                    i = done[way, back, q]
                    if i == half or (back == 0 and held >= p):
                        continue
                    last = 0 if back == 0 else p - 1
                    when = now - 1 if back == 0 else ended[way, 0, q, i]
                    if q != last:
                        when = ended[way, back, q - 1 + 2 * back, i]
                    score = ((i // group) * 2 + 1 - back) * (half + 1) + i
                    if 0 <= when <= now and (best < 0 or score < best):
                        best, best_way, best_back = score, way, back
            if best >= 0:
                q = s + best_way * (p - 1 - 2 * s)
                i = done[best_way, best_back, q]
                rows[s, place, 0] = BOTH * best_back
                rows[s, place, 1] = i
                rows[s, place, 2] = best_way
                done[best_way, best_back, q] = i + 1
                ended[best_way, best_back, q, i] = now + 1
        if filled == p * slots:
            return


def _straight(p: int, v: int) -> Ints:
    """Position ``c p + s`` of the model is chunk ``c`` of stage ``s``."""
    return (np.arange(p)[None, :] * v + np.arange(v)[:, None]).reshape(1, -1)


def _folded(p: int, _: int) -> Ints:
    """Down the stages with chunk 0 and back with chunk 1."""
    down = 2 * np.arange(p)
    return np.concatenate([down, down[::-1] + 1])[None, :]


def _two_ways(p: int, _: int) -> Ints:
    """One copy down the stages, one up: chunk 0 of a stage is that of the copy which starts at its end."""
    stage = np.arange(p)
    far = (stage >= p // 2).astype(np.int64)
    return np.stack([2 * stage + far, (2 * stage + (1 - far))[::-1]])


def _down_and_up(p: int, _: int) -> Ints:
    """One copy down the stages with chunk 0, one up with chunk 1."""
    down = 2 * np.arange(p)
    return np.stack([down, down[::-1] + 1])


def _dualpipe(p: int, m: int, _: int) -> list[Ints]:
    return [_numbered(_dual(min(s, p - 1 - s), p // 2, m // 2)) for s in range(p)]


def _dualpipe_v(p: int, m: int, _: int) -> list[Ints]:
    return [_numbered(_dual(s, p, m)) for s in range(p)]


def _zb_v(p: int, m: int, _: int) -> list[Ints]:
    rows = [_numbered(_v_shape(s, p, max(m, 2 * p - 1))) for s in range(p)]
    return [row[row[:, 1] < m] for row in rows]


_Rows = Callable[[int, int, int], list[Ints]]
_Places = Callable[[int, int], Ints]
_KNOWN: Final[list[tuple[Schedule, _Rows, _Places]]] = [
    (
        Schedule("gpipe", "arXiv:1811.06965", "all forward passes, then all backward passes"),
        _one_way(_gpipe),
        _straight,
    ),
    (
        Schedule("1f1b", "arXiv:2006.09503", "one forward pass, one backward pass: at most p micro-batches held"),
        _one_way(_one_f_one_b),
        _straight,
    ),
    (
        Schedule("interleaved", "arXiv:2104.04473", "1F1B over v chunks of layers a stage", chunks=0),
        _interleaved,
        _straight,
    ),
    (
        Schedule("zb-h1", "arXiv:2401.10241", "backward passes for weights fill the end; memory of 1F1B"),
        _one_way(_zero_bubble(1)),
        _straight,
    ),
    (
        Schedule("zb-h2", "arXiv:2401.10241", "no bubble for twice the memory of 1F1B", rolls=True),
        _one_way(_zero_bubble(2)),
        _straight,
    ),
    (
        Schedule("zb-v", "arXiv:2401.10241", "no bubble in the memory of 1F1B, layers in a V", chunks=2, rolls=True),
        _zb_v,
        _folded,
    ),
    (
        Schedule("chimera", "arXiv:2107.06925", "two copies in opposite directions", chunks=2, copies=2, even=True),
        _chimera,
        _down_and_up,
    ),
    (
        Schedule(
            "dualpipe",
            "arXiv:2412.19437",
            "two copies in opposite directions, passes of the two side by side",
            chunks=2,
            copies=2,
            even=True,
            fewest=lambda p: 2 * p,
        ),
        _dualpipe,
        _two_ways,
    ),
    (
        Schedule(
            "dualpipe-v",
            "https://github.com/deepseek-ai/DualPipe",
            "DualPipe cut in half: one copy, layers in a V",
            chunks=2,
            fewest=lambda p: 2 * p,
        ),
        _dualpipe_v,
        _folded,
    ),
]
#: Every schedule by name.
SCHEDULES: Final[Mapping[str, Schedule]] = MappingProxyType({s.name: s for s, _, _ in _KNOWN})
_BUILT: Final = {s.name: (rows, places) for s, rows, places in _KNOWN}


def schedule_table(name: str, stages: int, micro_batches: int, chunks: int = 1) -> Table:
    """The table of a schedule: what each stage does in which order.

    Args:
        name: one of :data:`SCHEDULES`.
        stages: pipeline stages p.
        micro_batches: micro-batches m of a step and model replica; of both directions where there are two.
        chunks: chunks v of layers of a stage, for ``interleaved``; the others have as many as they are made of.

    Raises:
        InputError: no such schedule, or none of these sizes.

    Source: the paper of each, :attr:`Schedule.source`.
    """
    if name not in SCHEDULES:
        raise UnknownName("schedule", name, SCHEDULES)
    found = SCHEDULES[name]
    return _table(name, stages, micro_batches, found.check(stages, micro_batches, chunks))


@lru_cache(maxsize=32)
def _table(name: str, stages: int, micro_batches: int, chunks: int) -> Table:
    rows_of, places = _BUILT[name]
    rows = rows_of(stages, micro_batches, chunks)
    full = np.zeros((stages, max(map(len, rows)), 4), np.int64)
    full[:, :, 0] = NONE
    for s, row in enumerate(rows):
        full[s, : len(row)] = row
    kind, batch, chunk = full[:, :, 0].astype(np.int8), full[:, :, 1].astype(np.int32), full[:, :, 2].astype(np.int8)
    joined, place = full[:, :, 3].astype(np.bool_), places(stages, chunks)
    for column in (kind, batch, chunk, joined, place):
        column.flags.writeable = False  # tables are kept and shared
    return Table(SCHEDULES[name], micro_batches, kind, batch, chunk, joined, place)
