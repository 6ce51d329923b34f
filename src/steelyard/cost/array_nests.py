"""Which orders of loops and sizes of tiles of a layer are tried on an array.

Sizes of a tile go by halves; orders are all permutations of the loops in two pieces each, or those that row stationary
arrays run. Source: A. Symons et al., LOMA, AICAS 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from math import ceil, prod
from threading import Lock

import numpy as np
from numpy.typing import NDArray

__all__ = ["Laid", "Nest", "coarse_nests", "laid_out", "loop_orders", "nests_around", "tiles_of"]

#: Parts of the order: filter points; a tile of inputs and of outputs; columns with a tile of rows; batch; the rest.
_PARTS = ("rs", "c1", "k1", "x1", "b", "c2", "k2", "p2")
#: How many times as many nests are weighed where rows slide through the multipliers: few orders are left there, and
#: sizes of tiles decide.
SLIDING = 15
_BITS = 1 << np.arange(len(_PARTS))
#: An unrolling, and tiles of inputs, outputs and rows.
Nest = tuple[int, float, float, float]
#: Unrollings with tiles of each nest, its first and last order, and the orders.
Laid = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


def loop_orders(active: tuple[bool, ...], slides: bool = False) -> NDArray[np.int64]:
    """Orders of the parts that have more than one turn, inner to outer, ``[orders, 8]``; -1 where there is none.

    The inner tile of a loop comes before the rest of it; batches are the loop beyond rows, or the outermost. Where a
    row ``slides`` through the multipliers, filter points, inner tiles and then columns come before all others. Orders
    that begin alike follow each other.
    """
    parts = [i for i, on in enumerate(active) if on]
    rs, c1, k1, x1, b, c2, k2, p2 = range(len(_PARTS))
    inner = {c2: c1, k2: k1, p2: x1}
    near = {rs, c1, k1, x1} & set(parts) if slides else set[int]()

    def may_follow(order: list[int], part: int) -> bool:
        left = near.difference(order)
        if left and (part not in left or (part == x1 and len(left) > 1)):
            return False
        if part == b and len(order) + 1 < len(parts) and order[-1:] != [x1]:
            return False
        return inner.get(part, -1) not in parts or inner[part] in order

    orders = [list[int]()]
    for _ in parts:
        orders = [[*o, part] for o in orders for part in parts if part not in o and may_follow(o, part)]
    return np.array([o + [-1] * (len(_PARTS) - len(o)) for o in orders], dtype=np.int64)


class _Table:
    """Orders of all sets of active parts that were asked for; sets are bits."""

    def __init__(self, slides: bool) -> None:
        self._slides, self._lock = slides, Lock()
        self._found = np.empty((0, len(_PARTS)), dtype=np.int64), np.zeros((1 << len(_PARTS), 2), dtype=np.int64)

    def spans(self, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last order of each set, and the orders."""
        rows, spans = self._found
        found = spans[codes]
        if found[:, 1].all():
            return found, rows
        with self._lock:
            rows, spans = self._found
            for code in {int(c) for c in codes if not spans[c, 1]}:
                more = loop_orders(tuple(bool(code & bit) for bit in _BITS), self._slides)
                spans = spans.copy()
                spans[code] = len(rows), len(rows) + len(more)
                rows = np.concatenate([rows, more])
            self._found = rows, spans
        return spans[codes], rows


_TABLES = {slides: _Table(slides) for slides in (False, True)}


@lru_cache(maxsize=65536)
def tiles_of(extent: float, most: int) -> tuple[float, ...]:
    """Sizes of a tile of a loop: all of it, and halves of halves down to one, ``most`` of them."""
    found = [extent]
    while found[-1] > 1:
        found.append(float(ceil(found[-1] / 2)))
    if len(found) > most:
        found = [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]
    return tuple(found)


def _active(left: NDArray[np.float64], tiles: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which parts of the order have more than one turn, ``[..., 8]``: of loops left, with tiles ``[..., 3]``."""
    c1, k1, p1 = tiles.T
    b, k, c, p, q, r, s = left.T[:7]
    return np.array((r * s, c1, k1, q * p1, b, c / c1, k / k1, p / p1)).T > 1


def _sizes(left: NDArray[np.float64], fine: int, inputs: float) -> list[tuple[float, ...]]:
    """Tiles of inputs, outputs and rows to try; ``inputs``: most of an inner tile."""
    return [
        tuple(t for t in tiles_of(float(left[2]), fine) if t <= inputs) or tiles_of(inputs, fine),
        tiles_of(float(left[1]), fine),
        tiles_of(float(left[3]), fine),
    ]


def _fineness(left: NDArray[np.float64], most: float, inputs: float) -> int:
    """Sizes of tiles to try of each loop, so that about so many nests are weighed."""
    active = _active(left, np.maximum(1.0, left[[2, 1, 3]] / 2))
    (begin, end), *_ = _TABLES[inputs < np.inf].spans(active[None] @ _BITS)[0]
    for fine in range(16, 3, -1):
        if (end - begin) * prod(len(sizes) for sizes in _sizes(left, fine, inputs)) <= most:
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
    """Unrollings with sizes of tiles, as finely as about ``most`` nests allow (:data:`SLIDING`)."""
    found: list[Nest] = []
    most = most * SLIDING if np.isfinite(inputs) else most
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
    given = np.array(nests)
    which = given[:, 0].astype(np.int64)
    active = _active(np.ceil(layer[:8] / unrolls[which]), given[:, 1:])
    spans, orders = _TABLES[inputs < np.inf].spans(active @ _BITS)
    rows = [unrolls[which], given[:, 1:], *([] if links is None else [links[which]])]
    return which, (np.hstack(rows), spans, orders)
