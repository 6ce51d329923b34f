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
from steelyard.cost.jit import njit, njit_inline

__all__ = [
    "DIMS",
    "FLEXIBLE",
    "HAS",
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
#: read, written, and filled while nothing computes, and bytes times links and times links that bind of its network.
MOVED = 3 + 5 * LEVELS
#: Columns of a level: capacity, copies, what it holds (3), tiles, waits, whole; bits of weights, inputs and outputs
#: there over plain ones, and accesses of each beside the multipliers over those of an array that takes every zero.
LEVEL = 14
#: Nests that are weighed of a layer, about, and how many times as many on flexible arrays. Ten times as many change
#: what is least by 0.1 % at most, on flexible arrays by 0.05 % in the mean and 3 % at most (four networks, ten arrays).
MOST, FLEXIBLE = 20_000, 4
#: How often sizes of tiles around the best are looked at.
ROUNDS = 6
#: Which operand has which loop: weights, inputs, outputs.
HAS: NDArray[np.bool_] = np.array(
    [[d in "kcrsg" for d in DIMS], [d in "bcpqrsg" for d in DIMS], [d in "bkpqg" for d in DIMS]], dtype=np.bool_
)


@njit_inline
def _elements(tensor: Any, d: Any, layer: Any) -> Any:
    """Elements of a tensor over a tile of the loops."""
    if tensor == 0:
        return d[7] * d[1] * d[2] * d[5] * d[6]
    if tensor == 2:
        return d[7] * d[0] * d[1] * d[3] * d[4]
    high = min(d[3] * d[5], (d[3] - 1.0) * layer[8] + (d[5] - 1.0) * layer[10] + 1.0)
    wide = min(d[4] * d[6], (d[4] - 1.0) * layer[9] + (d[6] - 1.0) * layer[11] + 1.0)
    return d[7] * d[0] * d[2] * high * wide


@njit_inline
def _parts(layer: Any, nest: Any, dims: Any, bounds: Any, many: Any) -> None:
    """The loops of each part of an order, inner to outer, those of one turn left out: ``many[part]`` of them."""
    for part in range(9):
        many[part] = 0
        for second in range(2):
            if part == 0:
                d = 5 if second else 6
                bound = np.ceil(layer[d] / nest[d])
            elif part == 3:
                d = 3 if second else 4
                bound = nest[10] if second else np.ceil(layer[4] / nest[4])
            elif second:
                continue
            elif part == 1:
                d, bound = 2, nest[8]
            elif part == 2:
                d, bound = 1, nest[9]
            elif part == 4:
                d, bound = 0, np.ceil(layer[0] / nest[0])
            elif part == 5:
                d, bound = 2, np.ceil(layer[2] / nest[2]) / nest[8]
            elif part == 6:
                d, bound = 1, np.ceil(layer[1] / nest[1]) / nest[9]
            elif part == 7:
                d, bound = 3, np.ceil(layer[3] / nest[3]) / nest[10]
            else:
                d, bound = 7, np.ceil(layer[7] / nest[7])
            if bound > 1.0:
                dims[part, many[part]], bounds[part, many[part]] = d, bound
                many[part] += 1


@njit_inline
def _grow(one: Any, layer: Any, d: Any, bound: Any, j: Any, tile: Any, held: Any) -> None:
    """Tiles and their elements with one loop more around the inner ``j``: of all multipliers, or of ``one``."""
    for x in range(8):
        tile[one, j + 1, x] = tile[one, j, x]
    tile[one, j + 1, d] = min(tile[one, j, d] * bound, layer[d])
    held[3 * one, j + 1] = _elements(0, tile[one, j + 1], layer)
    held[3 * one + 1, j + 1] = _elements(1, tile[one, j + 1], layer)
    held[3 * one + 2, j + 1] = _elements(2, tile[one, j + 1], layer)


@njit_inline
def _step(
    layer: Any, d: Any, bound: Any, j: Any, has: Any, loops: Any, steps: Any, turns: Any, tile: Any, held: Any,
    used: Any,
) -> None:  # fmt: skip
    """One loop more around the inner ``j`` ones: tiles, turns of loops that a tensor has and of all, last reuses.

    ``used[t, j]``: of the inner ``j`` loops those up to the last that uses tensor ``t`` again; in row 3 of inputs where
    overlapping filters are such a use: the outermost loop over rows or columns slides over what is held, those below it
    are held.
    """
    loops[j], steps[j] = d, bound
    _grow(0, layer, d, bound, j, tile, held)
    whole = np.ceil(bound)
    for t in range(3):
        own = has[t, d]
        turns[t, j + 1] = turns[t, j] * (bound if own else whole)
        used[t, j + 1] = used[t, j] if own else j + 1
    turns[3, j + 1] = turns[3, j] * (1.0 if has[2, d] else whole)
    used[3, j + 1] = used[3, j] if has[1, d] else j + 1
    if 3 <= d <= 6:
        side = (d - 3) % 2
        if layer[5 + side] * layer[10 + side] > layer[8 + side] and layer[3 + side] > 1.0:
            used[3, j + 1] = j if d < 5 else j + 1


@njit_inline
def _stored(levels: Any, bits: Any, v: Any, t: Any) -> Any:
    """Bytes of an element in a level: sums are whole, of others zeros may be left out."""
    return bits[3] / 8.0 if t == 2 else bits[t] / 8.0 * levels[v, 8 + t]


@njit_inline
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


@njit_inline
def _room(
    t: Any, v: Any, j: Any, n: Any, windows: Any, levels: Any, bits: Any, held: Any, used: Any, ends: Any
) -> Any:  # fmt: skip
    """Bytes that a tensor takes in a level that holds the inner ``j`` loops, up to the last that uses it again.

    With ``windows`` rows that the next one needs again are kept. What is held of the loops goes into ``ends[v]``.
    """
    if levels[v, 2 + t] == 0.0:
        return 0.0
    end = used[3 if t == 1 and windows else t, j]
    if v > 0 and levels[v - 1, 2 + t] > 0.0:
        end = max(end, ends[v - 1, t])
    ends[v, t] = end
    size = held[3 + t if levels[v, 1] > 1.0 else t, end] * _stored(levels, bits, v, t)
    return size if held[t, end] >= held[t, n] else size * levels[v, 5]


@njit_inline
def _fit(
    v: Any, j: Any, n: Any, layer: Any, levels: Any, bits: Any, loops: Any, steps: Any, tile: Any, held: Any, used: Any,
    ends: Any, after: Any,
) -> Any:  # fmt: skip
    """Whether the inner ``j`` loops have room in a level, ``after[9]``: loops whose tiles of one multiplier stand."""
    if levels[v, 1] > 1.0:
        most = j
        for t in range(3):
            if v > 0 and levels[v - 1, 2 + t] > 0.0:
                most = max(most, ends[v - 1, t])
        while after[9] < most:
            _grow(1, layer, loops[after[9]], steps[after[9]], after[9], tile, held)
            after[9] += 1
    beside = _room(0, v, j, n, False, levels, bits, held, used, ends)
    beside += _room(2, v, j, n, False, levels, bits, held, used, ends)
    if used[3, j] != used[1, j] and beside + _room(1, v, j, n, True, levels, bits, held, used, ends) <= levels[v, 0]:
        return True
    return beside + _room(1, v, j, n, False, levels, bits, held, used, ends) <= levels[v, 0]


@njit_inline
def _moved(
    t: Any, count: Any, n: Any, has: Any, levels: Any, bits: Any, loops: Any, turns: Any, held: Any, ends: Any,
    links: Any, out: Any,
) -> None:  # fmt: skip
    """What one order of loops moves of a tensor, added to ``out`` (:data:`MOVED`).

    ``links``: of each level links and entries of a byte of every tensor.
    """
    total = held[t, n]
    child = -1  # the array itself: an element for each multiplier
    for v in range(count):
        if levels[v, 2 + t] == 0.0:
            continue
        end = 0 if child < 0 else ends[child, t]
        first = end
        while first < n and not has[t, loops[first]]:
            first += 1
        near = levels[v, 11 + t] if child < 0 else 1.0
        if t < 2:
            # a window that moves brings only what is new
            slides = t == 1 and child >= 0 and first < n and (loops[first] == 3 or loops[first] == 4)
            start = first + 1 if slides else first
            one = held[t, start] if slides else held[t, end]
            size = max(one * (turns[t, n] / turns[t, start]), total) * bits[t] / 8.0
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
            again = turns[3, n] / turns[3, first] - 1.0
            back = total * again * bits[3] / 8.0 * near  # partial sums that come back
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


@njit_inline
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


@njit_inline
def _energy(out: Any, joules: Any, count: Any, arithmetic: Any) -> Any:
    """Dynamic energy of a nest: ``arithmetic``, bytes of every level at ``joules[v]`` read and written, and a link."""
    total = arithmetic
    for v in range(count):
        total += out[3 + v] * joules[v, 0] + out[3 + LEVELS + v] * joules[v, 1] + out[3 + 3 * LEVELS + v] * joules[v, 2]
    return total


@njit_inline
def _value(time: Any, energy: Any, of_time: Any, of_energy: Any) -> Any:
    """What is least where ``time ** of_time x energy ** of_energy`` is."""
    return of_time * np.log(time) + of_energy * np.log(energy)


@njit
def _search(
    layer: Any, nests: Any, spans: Any, orders: Any, fixed: Any, levels: Any, bits: Any, rates: Any, joules: Any,
    goals: Any, best: Any, found: Any, has: Any, part_bounds: Any, steps: Any, turns: Any, tile: Any, held: Any,
    out: Any, part_dims: Any, many: Any, loops: Any, after: Any, used: Any, ends: Any, fits: Any,
) -> Any:  # fmt: skip
    """The best nest of a layer for every goal, into ``found``; how many were weighed.

    ``nests``: unrolling (8), tiles (3) and links of each; ``spans``: its first and last order; ``goals``: exponents of
    time and energy, and which rates and joules it is for. Orders that follow each other mostly begin alike: what was
    found of the loops in common stands.
    """
    weighed = 0
    count = levels.shape[0]
    for g in range(goals.shape[0]):
        best[g] = found[g, MOVED] = np.inf
    for i in range(nests.shape[0]):
        nest, links = nests[i], nests[i, 11:]
        _parts(layer, nest, part_dims, part_bounds, many)
        turns_of_array = 1.0
        for d in range(8):
            turns_of_array *= np.ceil(layer[d] / nest[d])
            tile[0, 0, d], tile[1, 0, d] = nest[d], 1.0
        for t in range(3):
            held[t, 0], held[3 + t, 0] = _elements(t, tile[0, 0], layer), _elements(t, tile[1, 0], layer)
            turns[t, 0] = turns[3, 0] = 1.0
        used[:, 0] = 0
        for o in range(spans[i, 0], spans[i, 1]):
            same = 0  # parts that this order has in common with the one before
            if o > spans[i, 0]:
                while same < 8 and orders[o, same] == orders[o - 1, same]:
                    same += 1
            known = after[same - 1] if same > 0 else 0
            n = known
            for at in range(same, 9):
                part = orders[o, at] if at < 8 else 8
                if part >= 0:
                    for x in range(many[part]):
                        d, bound = part_dims[part, x], part_bounds[part, x]
                        _step(layer, d, bound, n, has, loops, steps, turns, tile, held, used)
                        n += 1
                after[at] = n
            after[9] = min(after[9], known) if same > 0 else 0
            changed = o == spans[i, 0]
            k0, k1, k2 = 0, 0, 0
            for v in range(count):
                if v == count - 1:
                    for t in range(3):
                        ends[v, t] = n
                elif changed or fits[v] >= known:
                    # what fits is mostly what fitted before
                    j = start = min(fits[v], n)
                    while True:
                        if _fit(v, j, n, layer, levels, bits, loops, steps, tile, held, used, ends, after):
                            if j < start or j == n:
                                break
                            k0, k1, k2 = ends[v, 0], ends[v, 1], ends[v, 2]
                            j += 1
                        elif j > start:
                            ends[v, 0], ends[v, 1], ends[v, 2] = k0, k1, k2
                            j -= 1
                            break
                        elif j == 0:
                            break
                        else:
                            j -= 1
                    fits[v] = j
                    changed = True
            out[0] = turns_of_array
            out[1:] = 0.0
            _moved(0, count, n, has, levels, bits, loops, turns, held, ends, links, out)
            _moved(1, count, n, has, levels, bits, loops, turns, held, ends, links, out)
            _moved(2, count, n, has, levels, bits, loops, turns, held, ends, links, out)
            weighed += 1
            for g in range(goals.shape[0]):
                at = int(goals[g, 2])
                time = _latency(out, rates[at], count, fixed[i])
                energy = _energy(out, joules[at], count, joules[at, count, 0])
                idle = time * joules[at, count, 1]
                if time >= found[g, MOVED] and energy + idle >= best[g, 1]:
                    continue  # worse in both
                value = _value(time, energy + idle, goals[g, 0], goals[g, 1])
                if value < best[g, 0]:
                    best[g, 0], best[g, 1] = value, energy + idle
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
) -> tuple[NDArray[np.float64], int, list[Nest]]:
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
            cycle of a link of its network, 0 where none binds.
        joules: ``[variants, levels + 1, 3]``: energy of a byte read and written, and over a link; in the last row
            that of arithmetic, and what a cycle draws whatever is done.
        goals: ``[goals, 3]``: exponents of time and of energy, and the variant.
        most: nests that are weighed, about; sizes of tiles are tried as finely as that allows.
        inputs: most inputs of the inner tile where rows slide through the multipliers; inf: they do not.
        links: of each unrolling, links and entries of a byte (:func:`steelyard.cost.array_links.links_of`).

    Returns:
        ``[goals, MOVED + 4]``: what the best nest moves, its cycles and joules, its goal (in logarithms) and
        number; nests weighed; the best ones.
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
    return found, weighed, at


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
    found = np.full((len(goals), MOVED + 4), np.inf)  # stays where no nest has a finite price
    found[:, MOVED + 3] = 0.0
    floats = ((9, 2), (16,), (6, 16), (2, 16, 8), (6, 16), (MOVED,))
    whole = ((9, 2), (9,), (16,), (10,), (4, 16), (LEVELS, 3), (LEVELS,))
    scratch: Any = [np.zeros(x) for x in floats] + [np.zeros(x, dtype=np.int64) for x in whole]
    best = np.zeros((len(goals), 2))
    count = _search(layer, *laid, fixed, levels, bits, rates, joules, goals, best, found, HAS, *scratch)
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
            best, time, joule = np.inf, np.inf, np.inf
            for j in range(found.shape[1]):
                out = found[i, j]
                took = _latency(out, rates[point], count, 0.0)
                used = _energy(out, joules[point], count, macs[i] * joules[point, count, 0])
                value = _value(took, used + took * joules[point, count, 1], goal[0], goal[1])
                if value < best:
                    best, time, joule = value, took, used
            for w in range(counts.shape[0]):
                if counts[w, i] > 0.0:
                    cycles[point, w] += counts[w, i] * time
                    energy[point, w] += counts[w, i] * joule
