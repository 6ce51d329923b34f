"""The compiled evaluation of a step table, well under a microsecond a step. Imports numba."""

from __future__ import annotations

import math
from typing import Any

from steelyard.serve.jit import njit
from steelyard.serve.step_table import (
    BATCH_OCTAVE,
    BEFORE_OCTAVE,
    BEFORE_START,
    CHUNKS_OCTAVE,
    CONTEXT_OCTAVE,
    CONTEXT_START,
    DENSE,
    DENSE_BATCH,
    NEW_OCTAVE,
    PER_OCTAVE,
    TILE,
    TILED,
)

__all__ = ["step_cost"]


#: Places of the tables in the layout; see ``step_table.Tables``.
TOKEN, ROWS, DECODE_ONLY, PREFILL_ONLY, DECODE, PREFILL, FIXED = range(7)


@njit
def _place(x: float, size: int) -> tuple[int, float]:
    """Entry below ``x`` on the grid of tokens and how far ``x`` is towards the next; beyond the end, the last cell."""
    if x <= DENSE:
        index = min(int(x), DENSE - 1)
        return index, x - index
    if x <= TILED:
        tile = (int(x) - 1 - DENSE) // TILE
        return min(DENSE + 1 + 2 * tile, size - 2), (x - DENSE - TILE * tile - 1) / (TILE - 1)
    start = DENSE + 2 * ((TILED - DENSE) // TILE)
    step = math.floor(PER_OCTAVE * math.log2(x / TILED))
    step = int(min(max(step, 0), size - start - 2))
    low = TILED * 2.0 ** (step / PER_OCTAVE)
    high = TILED * 2.0 ** ((step + 1) / PER_OCTAVE)
    return start + step, (x - low) / (high - low)


@njit
def _cell(u: float, size: int) -> tuple[int, float]:
    """Cell of a position in grid units; below the grid its edge, above it the last cell goes on."""
    u = max(u, 0.0)
    index = min(int(u), size - 2)
    return index, u - index


@njit
def _line(data: Any, layout: Any, table: int, x: float) -> tuple[float, float]:
    """``(time, energy)`` of a table over one total."""
    start, size = layout[table, 0], layout[table, 1]
    index, part = _place(x, size)
    k = start + index
    time = data[k] + (data[k + 1] - data[k]) * part
    k += size
    return time, data[k] + (data[k + 1] - data[k]) * part


@njit
def _decode(data: Any, layout: Any, decodes: float, context: float) -> tuple[float, float]:
    """``(time, energy)`` of the sequence kernels of so many decodes with so much context together."""
    start, batches, contexts = layout[DECODE, 0], layout[DECODE, 1], layout[DECODE, 2]
    if decodes < DENSE_BATCH:
        i, a = int(decodes) - 1, decodes - int(decodes)
    else:
        i, a = _cell(BATCH_OCTAVE * math.log2(decodes / DENSE_BATCH), batches - DENSE_BATCH + 1)
        i += DENSE_BATCH - 1
    j, b = _cell(CONTEXT_OCTAVE * math.log2(max(context / decodes, 1.0) / CONTEXT_START), contexts)
    k = start + i * contexts + j
    m = k + contexts
    w = batches * contexts
    log = (1 - a) * ((1 - b) * data[k] + b * data[k + 1]) + a * ((1 - b) * data[m] + b * data[m + 1])
    power = (1 - a) * ((1 - b) * data[k + w] + b * data[k + w + 1]) + a * ((1 - b) * data[m + w] + b * data[m + w + 1])
    time = math.exp(log)
    return time, time * power


@njit
def _prefill(data: Any, layout: Any, chunks: float, new: float, pairs: float) -> tuple[float, float]:
    """``(time, energy)`` of the sequence kernels of so many prompt chunks."""
    start, size_i, size_j, size_k = layout[PREFILL, 0], layout[PREFILL, 1], layout[PREFILL, 2], layout[PREFILL, 3]
    each = new / chunks
    before = max(pairs / new - 0.5 * each, 0.0)
    i, a = _cell(CHUNKS_OCTAVE * math.log2(chunks), size_i)
    j, b = _cell(NEW_OCTAVE * math.log2(each), size_j)
    k, c = _cell(BEFORE_OCTAVE * math.log2((before + BEFORE_START) / BEFORE_START), size_k)
    whole = size_i * size_j * size_k
    log, power = 0.0, 0.0
    for edge in range(8):
        up, right, deep = edge >> 2, (edge >> 1) & 1, edge & 1
        weight = (a if up else 1 - a) * (b if right else 1 - b) * (c if deep else 1 - c)
        at = start + ((i + up) * size_j + j + right) * size_k + k + deep
        log += weight * data[at]
        power += weight * data[at + whole]
    time = math.exp(log)
    return time, time * power


@njit
def step_cost(
    data: Any, layout: Any, tokens: float, rows: float, decodes: float, context: float, chunks: float, new: float,
    pairs: float,
) -> tuple[float, float]:  # fmt: skip
    """``(time in s, energy of one device in J)`` of a step; arguments as of ``StepTable.time_s``."""
    time, energy = _line(data, layout, TOKEN, tokens)
    more, more_j = _line(data, layout, ROWS, rows)
    time += more
    energy += more_j
    if decodes > 0:
        if layout[DECODE_ONLY, 1] > 0:
            more, more_j = _line(data, layout, DECODE_ONLY, decodes)
            time += more
            energy += more_j
        more, more_j = _decode(data, layout, decodes, context)
        time += more
        energy += more_j
    if chunks > 0:
        if layout[PREFILL_ONLY, 1] > 0:
            more, more_j = _line(data, layout, PREFILL_ONLY, new)
            time += more
            energy += more_j
        more, more_j = _prefill(data, layout, chunks, new, pairs)
        time += more
        energy += more_j
    at = layout[FIXED, 0]  # in the order of step_table.CONSTANTS
    if (chunks > 0 and tokens > data[at + 3]) or data[at + 3] < 0:
        time = max(time, data[at + 2])
    time += data[at] + data[at + 1] * rows
    hidden = data[at + 4] + data[at + 5] * rows
    time = max(time, hidden) if data[at + 6] > 0 else time + hidden
    energy += data[at + 7] * time
    if data[at + 8] > 0:
        energy = min(energy, data[at + 8] * time)
    return time, energy
