"""Loops of a layer on an array of multipliers and its memories: what every level moves, in closed form.

A layer is the seven loops of a convolution and a loop of groups; a matrix product is one of them with one filter point.
Its loops are first spread over the multipliers (:mod:`steelyard.cost.array_unroll`); what is left runs in time, from
the innermost loop outwards. A level holds, of each tensor it keeps, as many of the inner loops as fit::

    tile(t)     = extents of the tensor's own loops inside, a window's overlap counted
    fetches(t)  = tile x loops outside, without those right above the tile that the tensor does not have
    partial sums leave and come back once per loop above their tile that sums

Loops that only repeat a tensor beyond its last reuse are no part of its tile, so tensors of one level hold different
shares of the loops (uneven mappings). A window that moves by its stride brings only what is new. Orders of loops and
sizes of tiles are enumerated. Sources: A. Parashar et al., Timeloop, ISPASS 2019; L. Mei et al., ZigZag, IEEE TC 2021;
A. Symons et al., LOMA, AICAS 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.array_nests import Laid, Nest, coarse_nests, laid_out, nests_around
from steelyard.cost.jit import njit, njit_inner

__all__ = [
    "DIMS",
    "LAYER",
    "LEVEL",
    "LEVELS",
    "MOST",
    "MOVED",
    "best_nests",
    "price_points",
    "search_nests",
]

#: Loops of a layer: batch, outputs, inputs, rows, columns, filter rows and columns, groups.
DIMS = ("b", "k", "c", "p", "q", "r", "s", "g")
#: Columns of a layer: its loops, then stride and dilation of rows and columns.
LAYER = (*DIMS, "stride_p", "stride_q", "dilation_p", "dilation_q")
#: Most memory levels of a machine.
LEVELS = 5
#: Columns of what a nest moves: cycles, first and last tiles in cycles of the root and below, then per level bytes
#: read, written, and filled while nothing computes, and of its network bytes times links, and bytes that enter.
MOVED = 3 + 5 * LEVELS
#: Columns of a level: capacity, copies, what it holds (3), tiles, waits, whole; bits of weights, inputs and outputs
#: there over plain ones, and accesses of each beside the multipliers over those of an array that takes every zero.
LEVEL = 14
#: Nests that are weighed of a layer.
MOST = 100_000
#: How often sizes of tiles around the best are looked at.
ROUNDS = 6
#: Which tensor has which loop: weights, inputs, outputs.
_HAS: NDArray[np.bool_] = np.array(
    [[d in "kcrsg" for d in DIMS], [d in "bcpqrsg" for d in DIMS], [d in "bkpqg" for d in DIMS]], dtype=np.bool_
)


@njit_inner
def _elements(tensor: Any, d: Any, layer: Any) -> Any:
    """Elements of a tensor over a tile of the loops."""
    if tensor == 0:
        return d[7] * d[1] * d[2] * d[5] * d[6]
    if tensor == 2:
        return d[7] * d[0] * d[1] * d[3] * d[4]
    high = min(d[3] * d[5], (d[3] - 1.0) * layer[8] + (d[5] - 1.0) * layer[10] + 1.0)
    wide = min(d[4] * d[6], (d[4] - 1.0) * layer[9] + (d[6] - 1.0) * layer[11] + 1.0)
    return d[7] * d[0] * d[2] * high * wide


@njit_inner
def _loops(layer: Any, unroll: Any, inner: Any, order: Any, dims: Any, bounds: Any) -> Any:
    """The loops of an order, inner to outer, those of one turn left out; how many there are."""
    n = 0
    for i in range(9):
        part = order[i] if i < 8 else 8
        for second in range(2):
            d = -1
            if part == 0:
                d = 5 if second else 6
                bound = np.ceil(layer[d] / unroll[d])
            elif part == 3:
                d = 3 if second else 4
                bound = inner[2] if second else np.ceil(layer[4] / unroll[4])
            elif second or part < 0:
                continue
            elif part == 1:
                d, bound = 2, inner[0]
            elif part == 2:
                d, bound = 1, inner[1]
            elif part == 4:
                d, bound = 0, np.ceil(layer[0] / unroll[0])
            elif part == 5:
                d, bound = 2, np.ceil(layer[2] / unroll[2]) / inner[0]
            elif part == 6:
                d, bound = 1, np.ceil(layer[1] / unroll[1]) / inner[1]
            elif part == 7:
                d, bound = 3, np.ceil(layer[3] / unroll[3]) / inner[2]
            else:
                d, bound = 7, np.ceil(layer[7] / unroll[7])
            if bound > 1.0:
                dims[n], bounds[n] = d, bound
                n += 1
    return n


@njit_inner
def _reused(t: Any, j: Any, dims: Any, layer: Any, has: Any, windows: Any) -> Any:
    """Of the inner ``j`` loops those up to the last that uses a tensor again.

    With ``windows`` filters that overlap are such a use of inputs: the outermost loop over rows or columns slides over
    what is held, those below it are held.
    """
    end = j
    while end > 0 and has[t, dims[end - 1]]:
        d = dims[end - 1]
        if windows > 0 and t == 1 and 3 <= d <= 6:
            side = (d - 3) % 2
            if layer[5 + side] * layer[10 + side] > layer[8 + side] and layer[3 + side] > 1.0:
                return end - 1 if d < 5 else end
        end -= 1
    return end


@njit_inner
def _stored(levels: Any, bits: Any, v: Any, t: Any) -> Any:
    """Bytes of an element in a level: sums are whole, of others zeros may be left out."""
    return bits[3] / 8.0 if t == 2 else bits[t] / 8.0 * levels[v, 8 + t]


@njit_inner
def _whole(levels: Any, held: Any, ends: Any, bits: Any, v: Any, n: Any) -> Any:
    """Inner loops whose inputs have room in a level beside its other tensors."""
    alone = 3 if levels[v, 1] > 1.0 else 0
    others = 0.0
    for t in (0, 2):
        if levels[v, 2 + t] > 0.0:
            others += held[alone + t, ends[v, t]] * _stored(levels, bits, v, t)
    end = n
    while end > ends[v, 1] and others + held[alone + 1, end] * _stored(levels, bits, v, 1) > levels[v, 0]:
        end -= 1
    return end


@njit_inner
def _nest(
    layer: Any, unroll: Any, inner: Any, order: Any, dims: Any, bounds: Any, has: Any, levels: Any, bits: Any,
    tile: Any, held: Any, ends: Any, links: Any, out: Any,
) -> None:  # fmt: skip
    """What one order of loops moves, into ``out`` (:data:`MOVED`).

    ``inner``: tiles of inputs, outputs and rows; ``held[t, j]``: elements of a tensor over the inner ``j`` loops, with
    all multipliers and, from row 3 on, of one; ``links``: of each level links and entries of a byte of every tensor.
    """
    n = _loops(layer, unroll, inner, order, dims, bounds)
    count = levels.shape[0]
    out[:] = 0.0
    out[0] = 1.0
    for d in range(8):
        out[0] *= np.ceil(layer[d] / unroll[d])
    for alone in range(2):
        for d in range(8):
            tile[d] = 1.0 if alone else unroll[d]
        for j in range(n + 1):
            if j > 0:
                d = dims[j - 1]
                tile[d] = min(tile[d] * bounds[j - 1], layer[d])
            for t in range(3):
                held[3 * alone + t, j] = _elements(t, tile, layer)
    # the inner loops that each level holds of each tensor: as many as fit, up to the last that uses it again
    for v in range(count):
        alone = 3 if levels[v, 1] > 1.0 else 0
        for t in range(3):
            ends[v, t] = n if v == count - 1 else 0
        for j in range(n + 1 if v < count - 1 else 0):
            for windows in range(1, -1, -1):  # rows that the next window needs again are kept where they have room
                used = 0.0
                for t in range(3):
                    if levels[v, 2 + t] == 0.0:
                        continue
                    end = _reused(t, j, dims, layer, has, windows)
                    if v > 0 and end < ends[v - 1, t] and levels[v - 1, 2 + t] > 0.0:
                        end = ends[v - 1, t]
                    ends[LEVELS, t] = end
                    size = held[alone + t, end] * _stored(levels, bits, v, t)
                    used += size if held[t, end] >= held[t, n] else size * levels[v, 5]
                if used <= levels[v, 0]:
                    break
            if used > levels[v, 0] and j > 0:
                break
            for t in range(3):
                ends[v, t] = ends[LEVELS, t]
    for t in range(3):
        total = held[t, n]
        child = -1  # the array itself: an element for each multiplier
        for v in range(count):
            if levels[v, 2 + t] == 0.0:
                continue
            end = 0 if child < 0 else ends[child, t]
            first = end
            while first < n and not has[t, dims[first]]:
                first += 1
            # a window that moves brings only what is new
            slides = t == 1 and child >= 0 and first < n and (dims[first] == 3 or dims[first] == 4)
            one = held[t, first + 1] if slides else held[t, end]
            turns = 1.0
            sums = 1.0
            for i in range(first + 1 if slides else first, n):
                if has[t, dims[i]]:
                    turns *= bounds[i]
                else:
                    turns *= np.ceil(bounds[i])
                    sums *= np.ceil(bounds[i])
            near = levels[v, 11 + t] if child < 0 else 1.0
            if t < 2:
                size = max(one * turns, total) * bits[t] / 8.0
                sent = size * levels[v, 8 + t] * near
                back = 0.0
                out[3 + v] += sent
                if child >= 0:
                    out[3 + LEVELS + child] += size * levels[child, 8 + t]
                    if levels[child, 6] > 0.0:
                        out[3 + 2 * LEVELS + child] += size * levels[child, 8 + t]
                if v == count - 1:
                    if t == 1 and child >= 0 and levels[child, 7] > 0.0:
                        end = _whole(levels, held, ends, bits, child, n)
                    out[1] += held[t, end] * bits[t] / 8.0 * levels[v, 8 + t]
            else:
                back = total * (sums - 1.0) * bits[3] / 8.0 * near  # partial sums that come back
                done = total * bits[2] / 8.0
                sent = back + done * levels[v, 10]
                out[3 + LEVELS + v] += sent
                out[3 + v] += back
                if child >= 0:
                    out[3 + child] += back + done
                    out[3 + LEVELS + child] += back
                if v == count - 1:
                    out[2] += held[t, end] * bits[2] / 8.0 * levels[v, 10]
            if links.shape[0] > 0:
                out[3 + 3 * LEVELS + v] += (sent + back) * links[6 * v + t]
                out[3 + 4 * LEVELS + v] += (sent + back) * links[6 * v + 3 + t]
            child = v


@njit_inner
def _latency(out: Any, rates: Any, count: Any, fixed: Any) -> Any:
    """Cycles of a nest; ``rates[v]``: bytes read and written a cycle, 1 where both share a port, bytes into a net."""
    root = count - 1
    most = 0.0
    waits = 0.0
    for v in range(count):
        read, written = out[3 + v] / rates[v, 0], out[3 + LEVELS + v] / rates[v, 1]
        most = max(most, read + written if rates[v, 2] > 0.0 else max(read, written))
        if rates[v, 3] > 0.0:
            most = max(most, out[3 + 4 * LEVELS + v] / rates[v, 3])
        waits += out[3 + 2 * LEVELS + v] / rates[v, 1]
    ends = out[1] / rates[root, 0] + out[2] / rates[root, 1] if count > 1 else 0.0
    cycles = fixed if fixed > 0.0 else out[0]
    return max(cycles + ends + waits, most)


@njit_inner
def _energy(out: Any, joules: Any, count: Any, arithmetic: Any) -> Any:
    """Dynamic energy of a nest: ``arithmetic``, bytes of every level at ``joules[v]`` read and written, and a link."""
    total = arithmetic
    for v in range(count):
        total += out[3 + v] * joules[v, 0] + out[3 + LEVELS + v] * joules[v, 1] + out[3 + 3 * LEVELS + v] * joules[v, 2]
    return total


@njit
def _search(
    layer: Any, nests: Any, spans: Any, orders: Any, fixed: Any, levels: Any, bits: Any, rates: Any, joules: Any,
    goals: Any, scratch: Any, dims: Any, has: Any, held: Any, ends: Any, best: Any, found: Any,
) -> Any:  # fmt: skip
    """The best nest of a layer for every goal, into ``found``; how many were weighed.

    ``nests``: unrolling (8), tiles (3) and links of each; ``spans``: its first and last order; ``goals``: exponents of
    time and energy, and which rates and joules it is for.
    """
    weighed = 0
    bounds, tile, out = scratch[0], scratch[1], scratch[2]
    count = levels.shape[0]
    for g in range(goals.shape[0]):
        best[g] = np.inf
    for i in range(nests.shape[0]):
        for o in range(spans[i, 0], spans[i, 1]):
            _nest(
                layer, nests[i, :8], nests[i, 8:11], orders[o], dims, bounds, has, levels, bits, tile, held, ends,
                nests[i, 11:], out,
            )  # fmt: skip
            weighed += 1
            for g in range(goals.shape[0]):
                at = int(goals[g, 2])
                time = _latency(out, rates[at], count, fixed[i])
                energy = _energy(out, joules[at], count, joules[at, count, 0])
                value = time ** goals[g, 0] * (energy + time * joules[at, count, 1]) ** goals[g, 1]
                if value < best[g]:
                    best[g] = value
                    for c in range(MOVED):
                        found[g, c] = out[c]
                    found[g, 0] = fixed[i] if fixed[i] > 0.0 else out[0]
                    found[g, MOVED] = time
                    found[g, MOVED + 1] = energy
                    found[g, MOVED + 2] = value
                    found[g, MOVED + 3] = i
    return weighed


def best_nests(
    layer: NDArray[np.float64],
    unrolls: NDArray[np.float64],
    fixed: NDArray[np.float64],
    levels: NDArray[np.float64],
    bits: NDArray[np.float64],
    rates: NDArray[np.float64],
    joules: NDArray[np.float64],
    goals: NDArray[np.float64],
    most: int = MOST,
    inputs: float = np.inf,
    links: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], int]:
    """The best loops of a layer for every goal.

    Args:
        layer: :data:`LAYER`.
        unrolls: how loops may be spread over multipliers ``[unrolls, 8]``.
        fixed: cycles of each unrolling where a closed form says them, else 0.
        levels: inner to outer, ``[levels, LEVEL]``: capacity in bytes (of each copy where there are several), copies,
            whether it holds weights, inputs, outputs, tiles of a tensor that have room in it, whether the array
            stands still while it is filled, and whether all inputs that have room come before the array starts;
            shares of bytes and accesses that zeros leave.
        bits: of a weight, input, output, partial sum.
        rates: ``[variants, levels, 4]``: bytes read and written a cycle, whether both share one port, and bytes a
            cycle into its network, 0 where there is none.
        joules: ``[variants, levels + 1, 3]``: energy of a byte read and written, and over a link; in the last row
            that of arithmetic, and what a cycle draws whatever is done.
        goals: ``[goals, 3]``: exponents of time and of energy, and the variant.
        most: nests that are weighed, about; sizes of tiles are tried as finely as that allows.
        inputs: most inputs of the inner tile where rows slide through the multipliers; inf: they do not.
        links: of each unrolling, links and entries of a byte (:func:`steelyard.cost.array_links.links_of`).

    Returns:
        ``[goals, MOVED + 4]``: what the best nest moves, its cycles and joules, its goal and number; nests weighed.
    """

    def weigh(nests: list[Nest]) -> tuple[NDArray[np.float64], int, list[Nest]]:
        """The best of these in every order: what it moves, how many were weighed, which it is."""
        which, laid = laid_out(nests, layer, unrolls, inputs, links)
        best, count = search_nests(layer, laid, fixed[which], levels, bits, rates, joules, goals)
        return best, count, [nests[int(i)] for i in best[:, MOVED + 3]]

    coarse = coarse_nests(layer, unrolls, most // 2, inputs)
    found, weighed, at = weigh(coarse)
    tried = set(coarse)
    for _ in range(ROUNDS):
        around = dict.fromkeys(n for one in dict.fromkeys(at) for n in nests_around(one, layer, unrolls, inputs))
        nearer = [one for one in around if one not in tried]
        tried.update(nearer)
        if not nearer:
            break
        more, count, where = weigh(nearer)
        weighed += count
        better = more[:, MOVED + 2] < found[:, MOVED + 2]
        if not better.any():
            break
        found[better] = more[better]
        at = [w if b else a for a, w, b in zip(at, where, better, strict=True)]
    return found, weighed


def search_nests(
    layer: NDArray[np.float64],
    laid: Laid,
    fixed: NDArray[np.float64],
    levels: NDArray[np.float64],
    bits: NDArray[np.float64],
    rates: NDArray[np.float64],
    joules: NDArray[np.float64],
    goals: NDArray[np.float64],
) -> tuple[NDArray[np.float64], int]:
    """The best of laid out nests in all their orders; arguments and result as of :func:`best_nests`."""
    found = np.zeros((len(goals), MOVED + 4))
    count = _search(
        layer, *laid, fixed, levels, bits, rates, joules, goals, np.zeros((3, MOVED)), np.zeros(16, dtype=np.int64),
        _HAS, np.zeros((6, 16)), np.zeros((3 + LEVELS, 3), dtype=np.int64), np.zeros(len(goals)), found,
    )  # fmt: skip
    return found, int(count)


@njit
def price_points(
    found: Any, counts: Any, macs: Any, rates: Any, joules: Any, goal: Any, cycles: Any, energy: Any
) -> None:
    """Cycles and dynamic energy of every point and workload, each layer by the best of its nests.

    ``found[layers, nests, MOVED + 4]``; ``counts[workloads, layers]``; ``rates[points, levels, 4]``; ``joules[points,
    levels + 1, 3]``, whose last row has a multiply-accumulate and the idle power of a cycle; ``goal``: exponents of
    time and energy; into ``cycles`` and ``energy`` ``[points, workloads]``.
    """
    count = rates.shape[1]
    for point in range(rates.shape[0]):
        for i in range(found.shape[0]):
            best, time, joule = np.inf, 0.0, 0.0
            for j in range(found.shape[1]):
                out = found[i, j]
                took = _latency(out, rates[point], count, 0.0)
                used = _energy(out, joules[point], count, macs[i] * joules[point, count, 0])
                value = took ** goal[0] * (used + took * joules[point, count, 1]) ** goal[1]
                if value < best:
                    best, time, joule = value, took, used
            for w in range(counts.shape[0]):
                cycles[point, w] += counts[w, i] * time
                energy[point, w] += counts[w, i] * joule
