"""Which orders of loops and sizes of tiles of a layer are tried on an array.

Sizes of a tile go by halves; orders are all permutations of the loops in two pieces each, or those that row stationary
arrays run. Source: A. Symons et al., LOMA, AICAS 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import permutations, product
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["Laid", "Nest", "coarse_nests", "laid_out", "loop_orders", "nests_around", "tiles_of"]

#: Parts of the order: filter points; a tile of inputs and of outputs; columns with a tile of rows; batch; the rest.
_PARTS = ("rs", "c1", "k1", "x1", "b", "c2", "k2", "p2")
#: An unrolling, and tiles of inputs, outputs and rows.
Nest = tuple[int, float, float, float]
#: Unrollings with tiles of each nest, its first and last order, and the orders.
Laid = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


@cache
def loop_orders(active: tuple[bool, ...], slides: bool = False) -> NDArray[np.int64]:
    """Orders of the parts that have more than one turn, inner to outer, ``[orders, 8]``; -1 where there is none.

    The inner tile of a loop comes before the rest of it; batches are the loop beyond rows, or the outermost. Where a
    row ``slides`` through the multipliers, filter points, inner tiles and then columns come before all others.
    """
    parts = [i for i, on in enumerate(active) if on]
    at = {name: i for i, name in enumerate(_PARTS)}
    pairs = [(at["c1"], at["c2"]), (at["k1"], at["k2"]), (at["x1"], at["p2"])]
    near = {at[name] for name in ("rs", "c1", "k1", "x1")} & set(parts)
    found = []
    for order in permutations(parts):
        where = {part: i for i, part in enumerate(order)}
        if "b" in (_PARTS[i] for i in parts[:-1]) and where[at["b"]] not in (
            where.get(at["x1"], -2) + 1,
            len(parts) - 1,
        ):
            continue
        if slides and (set(order[: len(near)]) != near or (at["x1"] in near and order[len(near) - 1] != at["x1"])):
            continue
        if all(where[a] < where[b] for a, b in pairs if a in where and b in where):
            found.append([*order, *[-1] * (len(_PARTS) - len(order))])
    return np.array(found or [[-1] * len(_PARTS)], dtype=np.int64)


def tiles_of(extent: float, most: int) -> list[float]:
    """Sizes of a tile of a loop: all of it, and halves of halves down to one, ``most`` of them."""
    found = [extent]
    while found[-1] > 1:
        found.append(float(np.ceil(found[-1] / 2)))
    if len(found) <= most:
        return found
    return [found[round(i)] for i in np.linspace(0, len(found) - 1, most)]


def _active(left: NDArray[np.float64], c1: float, k1: float, p1: float) -> tuple[bool, ...]:
    """Which parts of the order have more than one turn."""
    turns = (left[5] * left[6], c1, k1, left[4] * p1, left[0], left[2] / c1, left[1] / k1, left[3] / p1)
    return tuple(bool(x > 1) for x in turns)


def _sizes(left: NDArray[np.float64], fine: int, inputs: float) -> list[list[float]]:
    """Tiles of inputs, outputs and rows to try; ``inputs``: most of an inner tile."""
    return [
        [t for t in tiles_of(left[2], fine) if t <= inputs] or tiles_of(inputs, fine),
        tiles_of(left[1], fine),
        tiles_of(left[3], fine),
    ]


def _fineness(left: NDArray[np.float64], most: float, inputs: float) -> int:
    """Sizes of tiles to try of each loop, so that about so many nests are weighed."""
    orders = len(loop_orders(_active(left, *(np.maximum(1.0, left[[2, 1, 3]] / 2))), np.isfinite(inputs)))
    for fine in range(16, 3, -1):
        if orders * prod(len(sizes) for sizes in _sizes(left, fine, inputs)) <= most:
            return fine
    return 3


def nests_around(one: Nest, layer: NDArray[np.float64], unrolls: NDArray[np.float64], inputs: float) -> Iterator[Nest]:
    """Tiles next to these in size, all at once, and every size of each alone."""
    u, *tile = one
    left = np.ceil(layer[:8] / unrolls[u])
    sizes = _sizes(left, 99, inputs)
    at = [known.index(t) for known, t in zip(sizes, tile, strict=True)]
    near = [known[max(0, i - 1) : i + 2] for known, i in zip(sizes, at, strict=True)]
    for c1, k1, p1 in product(*near):
        yield u, c1, k1, p1
    for which, known in enumerate(sizes):
        for size in known:
            c1, k1, p1 = (size if w == which else t for w, t in enumerate(tile))
            yield u, c1, k1, p1


def coarse_nests(
    layer: NDArray[np.float64], unrolls: NDArray[np.float64], most: int, inputs: float = np.inf
) -> list[Nest]:
    """Unrollings with sizes of tiles, as finely as about ``most`` nests allow."""
    found: list[Nest] = []
    for u, unroll in enumerate(unrolls):
        left = np.ceil(layer[:8] / unroll)
        sizes = _sizes(left, _fineness(left, most / len(unrolls), inputs), inputs)
        found += [(u, c1, k1, p1) for c1, k1, p1 in product(*sizes)]
    return found


def laid_out(
    nests: list[Nest],
    layer: NDArray[np.float64],
    unrolls: NDArray[np.float64],
    inputs: float = np.inf,
    links: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int64], Laid]:
    """Which unrolling each nest has, and nests as :func:`search_nests` takes them."""
    begin = dict[tuple[bool, ...], tuple[int, int]]()
    each: list[NDArray[np.int64]] = []
    spans, at = [], 0
    for u, *tile in nests:
        active = _active(np.ceil(layer[:8] / unrolls[u]), *tile)
        if active not in begin:
            table = loop_orders(active, np.isfinite(inputs))
            begin[active] = (at, at + len(table))
            each.append(table)
            at += len(table)
        spans.append(begin[active])
    which = np.array([n[0] for n in nests])
    rows = np.hstack([unrolls[which], np.array([n[1:] for n in nests])])
    if links is not None:
        rows = np.hstack([rows, links[which]])
    return which, (rows, np.array(spans, dtype=np.int64), np.concatenate(each))
