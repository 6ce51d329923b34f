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
)

__all__ = ["step_cost"]


@njit
def _line(table: Any, x: float, index: int, part: float) -> float:
    return table[index] + (table[index + 1] - table[index]) * part


@njit
def _place(x: float, size: int) -> tuple[int, float]:
    """Cell and position inside it on a grid dense to ``DENSE`` and geometric beyond; beyond the end, the last cell."""
    if x < DENSE:
        index = int(x)
        return index, x - index
    step = int(math.floor(PER_OCTAVE * math.log2(x / DENSE)))
    step = min(max(step, 0), size - DENSE - 2)
    low = DENSE * 2.0 ** (step / PER_OCTAVE)
    high = DENSE * 2.0 ** ((step + 1) / PER_OCTAVE)
    return DENSE + step, (x - low) / (high - low)


@njit
def _cell(u: float, size: int) -> tuple[int, float]:
    """Cell of a position in grid units, clamped to the table (linear extrapolation above, the edge below)."""
    u = max(u, 0.0)
    index = min(int(u), size - 2)
    return index, u - index


@njit
def step_cost(
    t: Any, tokens: float, rows: float, decodes: float, context: float, chunks: float, new: float, pairs: float
) -> tuple[float, float]:
    """``(time in s, energy of one device in J)`` of a step; arguments as of ``StepTable.time_s``."""
    index, part = _place(tokens, t.token.shape[0])
    time = _line(t.token, tokens, index, part)
    energy = _line(t.token_j, tokens, index, part)
    index, part = _place(rows, t.rows.shape[0])
    time += _line(t.rows, rows, index, part)
    energy += _line(t.rows_j, rows, index, part)
    if decodes > 0:
        if t.decode_only.shape[0] > 1:
            index, part = _place(decodes, t.decode_only.shape[0])
            time += _line(t.decode_only, decodes, index, part)
            energy += _line(t.decode_only_j, decodes, index, part)
        if decodes < DENSE_BATCH:
            i, a = int(decodes) - 1, decodes - int(decodes)
        else:
            i, a = _cell(BATCH_OCTAVE * math.log2(decodes / DENSE_BATCH), t.decode.shape[0] - DENSE_BATCH + 1)
            i += DENSE_BATCH - 1
        i = min(i, t.decode.shape[0] - 2)
        j, b = _cell(CONTEXT_OCTAVE * math.log2(max(context / decodes, 1.0) / CONTEXT_START), t.decode.shape[1])
        log = (1 - a) * ((1 - b) * t.decode[i, j] + b * t.decode[i, j + 1]) + a * (
            (1 - b) * t.decode[i + 1, j] + b * t.decode[i + 1, j + 1]
        )
        attention = math.exp(log)
        time += attention
        energy += attention * (
            (1 - a) * ((1 - b) * t.decode_w[i, j] + b * t.decode_w[i, j + 1])
            + a * ((1 - b) * t.decode_w[i + 1, j] + b * t.decode_w[i + 1, j + 1])
        )
    if chunks > 0:
        if t.prefill_only.shape[0] > 1:
            index, part = _place(new, t.prefill_only.shape[0])
            time += _line(t.prefill_only, new, index, part)
            energy += _line(t.prefill_only_j, new, index, part)
        each = new / chunks
        before = max(pairs / new - 0.5 * each, 0.0)
        i, a = _cell(CHUNKS_OCTAVE * math.log2(chunks), t.prefill.shape[0])
        j, b = _cell(NEW_OCTAVE * math.log2(each), t.prefill.shape[1])
        k, c = _cell(BEFORE_OCTAVE * math.log2((before + BEFORE_START) / BEFORE_START), t.prefill.shape[2])
        log = 0.0
        power = 0.0
        for p in range(2):
            for q in range(2):
                for r in range(2):
                    weight = (a if p else 1 - a) * (b if q else 1 - b) * (c if r else 1 - c)
                    log += weight * t.prefill[i + p, j + q, k + r]
                    power += weight * t.prefill_w[i + p, j + q, k + r]
        attention = math.exp(log)
        time += attention
        energy += attention * power
    overhead, per_row, launch, graph_tokens, host, host_per_row, overlap, static_w, cap_w = (
        t.constants[0], t.constants[1], t.constants[2], t.constants[3], t.constants[4], t.constants[5],
        t.constants[6], t.constants[7], t.constants[8],
    )  # fmt: skip
    if (chunks > 0 and tokens > graph_tokens) or graph_tokens < 0:
        time = max(time, launch)
    time += overhead + per_row * rows
    hidden = host + host_per_row * rows
    time = max(time, hidden) if overlap > 0 else time + hidden
    energy += static_w * time
    if cap_w > 0:
        energy = min(energy, cap_w * time)
    return time, energy
