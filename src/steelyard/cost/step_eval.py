"""The compiled evaluation of a step table, well under a microsecond a step. Imports numba."""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import apart, njit, njit_inner, wide
from steelyard.cost.step_table import (
    BATCH_OCTAVE,
    BEFORE_OCTAVE,
    BEFORE_START,
    CHUNKS_OCTAVE,
    CONSTANTS,
    CONTEXT_OCTAVE,
    CONTEXT_START,
    DENSE,
    DENSE_BATCH,
    NEW_OCTAVE,
    PER_OCTAVE,
    TILE,
    TILED,
)

__all__ = ["device_cost", "step_cost", "verify_cost", "whole_cost"]


#: Places of the tables in the layout; see ``step_table.Tables``.
TOKEN, ROWS, DECODE_ONLY, PREFILL_ONLY, DECODE, PREFILL, FIXED, VERIFY, NETWORK = range(9)
#: Places of the constants of a step.
(
    OVERHEAD_S,
    PER_ROW_S,
    LAUNCH_S,
    GRAPH_TOKENS,
    HOST_S,
    HOST_PER_ROW_S,
    OVERLAPPED,
    STATIC_W,
    CAP_W,
    VERIFY_FROM,
    WEAVE,
    LAYERS,
    PARTS,
    HOP_S,
    HOP_TOKEN_S,
) = range(len(CONSTANTS))
NANOFLOW, TOKENWEAVE, SPLIT = 1, 2, 3
#: Nano-batches of a step.
NANO_BATCHES = 2
#: How much more of its rate than of the device's units a kernel keeps that reads memory (attention of decodes) or waits
#: for the network: beside products, an hour of it costs them an hour over this. NanoFlow, table 3: with a fifth of the
#: units the one reaches 0.3 and the other 0.5 of its rate.
MEMORY_GAIN, NETWORK_GAIN = 1.5, 2.5
#: Share of the units that run collectives beside the other half's kernels (TokenWeave: 2 to 8 of 132).
COLLECTIVE_SHARE = 8.0 / 132.0


@njit_inner
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


@njit_inner
def _cell(u: float, size: int) -> tuple[int, float]:
    """Cell of a position in grid units; below the grid its edge, above it the last cell goes on."""
    u = max(u, 0.0)
    index = min(int(u), size - 2)
    return index, u - index


@njit_inner
def _line(data: Any, layout: Any, table: int, x: float) -> tuple[float, float]:
    """``(time, energy)`` of a table over one total."""
    start, size = layout[table, 0], layout[table, 1]
    index, part = _place(x, size)
    k = start + index
    time = data[k] + (data[k + 1] - data[k]) * part
    k += size
    return time, data[k] + (data[k + 1] - data[k]) * part


@njit_inner
def _decode(data: Any, layout: Any, base: int, decodes: float, context: float, queries: int) -> tuple[float, float]:
    """``(time, energy)`` of the sequence kernels of so many decodes with so much context together."""
    if queries > 1:
        start, batches, contexts = layout[base + VERIFY, 0], layout[base + VERIFY, 2], layout[base + VERIFY, 3]
        sheets = layout[base + VERIFY, 1]
        sheet = queries - int(data[layout[base + FIXED, 0] + VERIFY_FROM])
        start += min(max(sheet, 0), sheets - 1) * batches * contexts
        w = sheets * batches * contexts
    else:
        start, batches, contexts = layout[base + DECODE, 0], layout[base + DECODE, 1], layout[base + DECODE, 2]
        w = batches * contexts
    if decodes < DENSE_BATCH:
        i, a = int(decodes) - 1, decodes - int(decodes)
    else:
        i, a = _cell(BATCH_OCTAVE * math.log2(decodes / DENSE_BATCH), batches - DENSE_BATCH + 1)
        i += DENSE_BATCH - 1
    j, b = _cell(CONTEXT_OCTAVE * math.log2(max(context / decodes, 1.0) / CONTEXT_START), contexts)
    k = start + i * contexts + j
    m = k + contexts
    log = (1 - a) * ((1 - b) * data[k] + b * data[k + 1]) + a * ((1 - b) * data[m] + b * data[m + 1])
    power = (1 - a) * ((1 - b) * data[k + w] + b * data[k + w + 1]) + a * ((1 - b) * data[m + w] + b * data[m + w + 1])
    time = math.exp(log)
    return time, time * power


@njit_inner
def _prefill(data: Any, layout: Any, base: int, chunks: float, new: float, pairs: float) -> tuple[float, float]:
    """``(time, energy)`` of the sequence kernels of so many prompt chunks."""
    row = base + PREFILL
    start, size_i, size_j, size_k = layout[row, 0], layout[row, 1], layout[row, 2], layout[row, 3]
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


@njit_inner
def _sequences(
    data: Any,
    layout: Any,
    base: int,
    decodes: float,
    context: float,
    queries: int,
    chunks: float,
    new: float,
    pairs: float,
) -> tuple[float, float]:
    """``(time, energy)`` of what depends on sequences: attention, and the projections only one kind of them has."""
    time, energy = 0.0, 0.0
    if decodes > 0:
        if layout[base + DECODE_ONLY, 1] > 0:
            time, energy = _line(data, layout, base + DECODE_ONLY, decodes * queries)
        more, more_j = _decode(data, layout, base, decodes, context, queries)
        time += more
        energy += more_j
    if chunks > 0:
        if layout[base + PREFILL_ONLY, 1] > 0:
            more, more_j = _line(data, layout, base + PREFILL_ONLY, new)
            time += more
            energy += more_j
        more, more_j = _prefill(data, layout, base, chunks, new, pairs)
        time += more
        energy += more_j
    return time, energy


@njit_inner
def _split(
    data: Any,
    layout: Any,
    base: int,
    tokens: float,
    decodes: float,
    context: float,
    queries: int,
    chunks: float,
    new: float,
    pairs: float,
) -> tuple[float, float]:
    """``(time, energy)`` of layers whose attention and feed-forward run on devices of their own, in micro-batches.

    With ``a`` and ``f`` the time of one micro-batch on either side and ``c`` that of its way, over all layers:

        time = max(parts max(a, f, c), a + f + 2 c) + (parts - 1) max(a, f, c) / layers
    """
    at = layout[base + FIXED, 0]
    layers, parts = max(data[at + LAYERS], 1.0), data[at + PARTS]
    own, energy = _line(data, layout, base + TOKEN, tokens)
    other, more_j = _line(data, layout, base + NETWORK, tokens)
    energy += more_j
    if decodes > 0:
        count = max(1.0, decodes / parts)
        more, more_j = _sequences(data, layout, base, count, context * count / decodes, queries, 0.0, 0.0, 0.0)
        own += more
        energy += more_j * decodes / count
    if chunks > 0:
        more, more_j = _sequences(data, layout, base, 0.0, 0.0, wide(1), chunks, new, pairs)
        own += more / parts
        energy += more_j
    way = layers * (data[at + HOP_S] + data[at + HOP_TOKEN_S] * tokens / parts)
    slowest = max(own, max(other, way))
    return max(parts * slowest, own + other + 2.0 * way) + (parts - 1.0) * slowest / layers, energy


@njit_inner
def _woven(
    data: Any,
    layout: Any,
    base: int,
    tokens: float,
    decodes: float,
    context: float,
    queries: int,
    chunks: float,
    new: float,
    pairs: float,
) -> tuple[float, float]:
    """``(time, energy)`` of the layers when two halves of the step run side by side, where that is faster.

    NanoFlow: what reads memory or waits for the network runs beside the products of the other half and takes less of
    the units from them than its share of the time.
    TokenWeave: the collectives of one half run under the kernels of the other, half after half.
    """
    apart()
    weave = int(data[layout[base + FIXED, 0] + WEAVE])
    if weave == SPLIT:
        return _split(data, layout, base, tokens, decodes, context, queries, chunks, new, pairs)
    layers = max(data[layout[base + FIXED, 0] + LAYERS], 1.0)
    compute, energy = _line(data, layout, base + TOKEN, tokens)
    network, network_j = _line(data, layout, base + NETWORK, tokens)
    attention, attention_j = _sequences(data, layout, base, decodes, context, queries, chunks, new, pairs)
    energy += network_j + attention_j
    whole = compute + network + attention
    if tokens < 2:
        return whole, energy
    half, half_j = _line(data, layout, base + TOKEN, 0.5 * tokens)  # weights are read once per half
    half_net = _line(data, layout, base + NETWORK, 0.5 * tokens)[0]
    if weave == TOKENWEAVE:
        kernels = (half + 0.5 * attention) / (1.0 - COLLECTIVE_SHARE)
        woven = 2.0 * max(kernels, half_net) + min(kernels, half_net) / layers
    else:
        reading = 0.0
        if decodes > 0:  # split, they may take longer
            count = max(1.0, math.ceil(0.5 * decodes))
            reading = 2.0 * _decode(data, layout, base, count, 0.5 * context, queries)[0]
            attention = max(attention - _decode(data, layout, base, decodes, context, queries)[0], 0.0)
        products = NANO_BATCHES * half + attention
        messages = NANO_BATCHES * half_net
        woven = max(products + reading / MEMORY_GAIN + messages / NETWORK_GAIN, max(reading, messages))
    if woven >= whole:
        return whole, energy
    return woven, energy + 2.0 * half_j - _line(data, layout, base + TOKEN, tokens)[1]


@njit_inner
def device_cost(
    data: Any,
    layout: Any,
    base: int,
    tokens: float,
    logits: float,
    decodes: float,
    context: float,
    queries: int,
    chunks: float,
    new: float,
    pairs: float,
) -> tuple[float, float]:
    """``(time, dynamic energy)`` of the kernels of a step, without the engine's own time.

    ``base``: row of the layout at which the model's tables begin; ``logits``: rows whose next token is looked at;
    ``queries``: new tokens of each decode; the rest as of ``StepTable.time_s``.
    """
    if layout[base + NETWORK, 1] > 0:
        time, energy = _woven(data, layout, base, tokens, decodes, context, queries, chunks, new, pairs)
    else:
        time, energy = _line(data, layout, base + TOKEN, tokens)
        if decodes > 0 or chunks > 0:
            more, more_j = _sequences(data, layout, base, decodes, context, queries, chunks, new, pairs)
            time += more
            energy += more_j
    more, more_j = _line(data, layout, base + ROWS, logits)
    return time + more, energy + more_j


@njit_inner
def launches_s(data: Any, layout: Any, base: int, tokens: float, chunks: float, more: float) -> float:
    """Host time of the launches of a step that is no captured graph, ``more`` beside the model's own; else 0, s."""
    at = layout[base + FIXED, 0]
    if (chunks > 0 and tokens > data[at + GRAPH_TOKENS]) or data[at + GRAPH_TOKENS] < 0:
        return float(data[at + LAUNCH_S] + more)
    return 0.0


@njit_inner
def whole_cost(
    data: Any, layout: Any, base: int, time: float, energy: float, tokens: float, rows: float, chunks: float
) -> tuple[float, float]:
    """``(time, energy of one device)`` of a step from those of its kernels: launches, engine and static power."""
    at = layout[base + FIXED, 0]
    time = max(time, launches_s(data, layout, base, tokens, chunks, 0.0))
    time += data[at + OVERHEAD_S] + data[at + PER_ROW_S] * rows
    hidden = data[at + HOST_S] + data[at + HOST_PER_ROW_S] * rows
    time = max(time, hidden) if data[at + OVERLAPPED] > 0 else time + hidden
    energy += data[at + STATIC_W] * time
    if data[at + CAP_W] > 0:
        energy = min(energy, data[at + CAP_W] * time)
    return time, energy


@njit_inner
def verify_cost(
    data: Any,
    layout: Any,
    base: int,
    rows: float,
    decodes: float,
    context: float,
    queries: int,
    chunks: float,
    new: float,
    pairs: float,
) -> tuple[float, float]:
    """``(time, energy)`` of a step whose decodes have ``queries`` new tokens each, the logits of all of them wanted."""
    tokens = decodes * queries + new
    logits = decodes * queries + chunks
    time, energy = device_cost(data, layout, base, tokens, logits, decodes, context, queries, chunks, new, pairs)
    return whole_cost(data, layout, base, time, energy, tokens, rows, chunks)


@njit_inner
def step_cost(
    data: Any,
    layout: Any,
    tokens: float,
    rows: float,
    decodes: float,
    context: float,
    chunks: float,
    new: float,
    pairs: float,
) -> tuple[float, float]:
    """``(time in s, energy of one device in J)`` of a step; arguments as of ``StepTable.time_s``."""
    time, energy = device_cost(data, layout, wide(0), tokens, rows, decodes, context, wide(1), chunks, new, pairs)
    return whole_cost(data, layout, wide(0), time, energy, tokens, rows, chunks)


@njit
def table_cost(
    data: Any,
    layout: Any,
    tokens: float,
    rows: float,
    decodes: float,
    context: float,
    chunks: float,
    new: float,
    pairs: float,
) -> tuple[float, float]:
    """:func:`step_cost` for Python."""
    return step_cost(data, layout, tokens, rows, decodes, context, chunks, new, pairs)
