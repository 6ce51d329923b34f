"""How the loops of a layer are spread over an array of multipliers, by its dataflow.

===================  =====================================================================================
weight stationary    rows: inputs and filter points; columns: outputs; groups along the diagonal
output stationary    rows: pixels; columns: outputs
row stationary       sets of filter rows x rows of outputs; sets side by side share inputs or outputs
flexible             the above, and any two loops on rows and columns
===================  =====================================================================================

Equal arrays stand side by side, one above the other, both, or take batches and pixels each. ``depth`` multipliers of an
element add their products: inputs, then filter points; where loops are flexible also the other way round.
Sources: Y.-H. Chen et al., Eyeriss, IEEE JSSC 52(1), 2017 (row stationary); H. Kwon et al., MAERI, ASPLOS 2018.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.array_mapping import DIMS

__all__ = ["MAPPED", "unrollings"]

#: Dataflows that the mapper knows.
MAPPED = ("weight_stationary", "output_stationary", "row_stationary", "flexible")
#: Unrollings that need more cycles than so many times the fewest are not tried.
_WORSE = 2.0
#: Most unrollings that are tried.
_MOST = 8


def _fill(layer: tuple[float, ...], loops: str, size: float) -> dict[str, float]:
    """Loops one after the other until ``size`` multipliers are filled, each cut so that its turns are even."""
    found = dict[str, float]()
    for loop in loops:
        extent = layer[DIMS.index(loop)]
        part = min(extent, np.floor(size))
        if part <= 1:
            continue
        turns = np.ceil(extent / part)
        found[loop] = float(np.ceil(extent / turns)) if turns > 1 and loop not in "kc" else float(part)
        size = size / found[loop]
    return found


def _both(*parts: dict[str, float]) -> tuple[float, ...]:
    found = [1.0] * len(DIMS)
    for part in parts:
        for loop, size in part.items():
            found[DIMS.index(loop)] *= size
    return tuple(found)


def _diagonal(layer: tuple[float, ...], rows: float, columns: float) -> list[tuple[float, ...]]:
    """Groups whose whole filters lie along the diagonal of the array, zeros beside them."""
    high = layer[DIMS.index("c")] * layer[DIMS.index("r")] * layer[DIMS.index("s")]
    wide = layer[DIMS.index("k")]
    groups = min(layer[DIMS.index("g")], rows // high, columns // wide)
    if groups < 2:
        return []
    return [_both({d: layer[DIMS.index(d)] for d in "crsk"}, {"g": groups})]


def _rows_of_filters(layer: tuple[float, ...], rows: float, columns: float) -> list[tuple[float, ...]]:
    """Row stationary: a set is filter rows x rows of outputs, cut into segments where wider than the array."""
    height, high = layer[DIMS.index("r")], layer[DIMS.index("p")]
    inputs, outputs = layer[DIMS.index("c")], layer[DIMS.index("k")]
    if height > rows:
        return []
    found = []
    slots = rows // height
    for turns in range(1, int(min(high, 16)) + 1):
        strip = float(np.ceil(high / turns))
        if strip <= columns:
            sets = slots * (columns // strip)
        else:
            segments = np.ceil(strip / columns)
            sets = slots // segments
        for r in (1.0, 2.0, 4.0):
            t = min(sets // r, outputs)
            if t >= 1 and r <= inputs:
                groups = min(layer[DIMS.index("g")], sets // (r * t))
                found.append(_both({"r": height, "p": strip, "c": r, "k": t, "g": groups}))
    return found


def _apart(layer: tuple[float, ...], one: tuple[float, ...], units: float) -> tuple[float, ...]:
    """Batches, rows and columns of one array's share over so many arrays."""
    found = list(one)
    for i in (DIMS.index(d) for d in "bpq"):
        more = min(np.floor(units), np.ceil(layer[i] / found[i]))
        found[i] = min(found[i] * more, layer[i])
        units /= more
    return tuple(float(x) for x in found)


@lru_cache(maxsize=65536)
def _unrollings(
    layer: tuple[float, ...], rows: float, columns: float, depth: float, dataflow: str, units: float
) -> tuple[tuple[float, ...], ...]:
    found = _of_one(layer, rows, columns * units, depth, dataflow)
    if units > 1:
        for tall in (u for u in (2.0, 4.0, 8.0, 16.0, units) if u <= units and units % u == 0):
            found += _of_one(layer, rows * tall, columns * units / tall, depth, dataflow)
        found += [_apart(layer, u, units) for u in _of_one(layer, rows, columns, depth, dataflow)]
    turns = [float(np.prod(np.ceil(np.array(layer[: len(DIMS)]) / np.array(u)))) for u in found]
    ranked = sorted(dict.fromkeys(zip(turns, found, strict=True)))
    return tuple(u for t, u in ranked if t <= _WORSE * ranked[0][0])[:_MOST]


def _of_one(
    layer: tuple[float, ...], rows: float, columns: float, depth: float, dataflow: str
) -> list[tuple[float, ...]]:
    """Over one array of this size."""
    if depth == 1:
        return _around(layer, rows, columns, {}, dataflow)
    fills = ("crs", "rsc") if dataflow == "flexible" else ("crs",)
    return [way for loops in fills for way in _around(layer, rows, columns, _fill(layer, loops, depth), dataflow)]


def _around(
    layer: tuple[float, ...], rows: float, columns: float, inside: dict[str, float], dataflow: str
) -> list[tuple[float, ...]]:
    """Over one array whose elements have these loops ``inside``."""
    rest = tuple(float(np.ceil(x / inside.get(d, 1.0))) for x, d in zip(layer[: len(DIMS)], DIMS, strict=True))
    found: list[tuple[float, ...]] = []
    if dataflow in ("weight_stationary", "flexible"):
        found += [_both(inside, _fill(rest, loops, rows), _fill(rest, "k", columns)) for loops in ("crs", "rsc", "src")]
        found += _diagonal(rest, rows, columns)
    if dataflow in ("output_stationary", "flexible"):
        found += [_both(inside, _fill(rest, loops, rows), _fill(rest, "k", columns)) for loops in ("qpb", "pqb", "bpq")]
    if dataflow in ("row_stationary", "flexible"):
        found += _rows_of_filters(rest, rows, columns)
    if dataflow == "row_stationary" and not found:  # filters taller than the array: rows of them in turns
        found += [_both(inside, _fill(rest, "r", rows), _fill(rest, "p", columns))]
    if dataflow == "flexible":
        for a, b in product(("c", "k", "g", "qp", "pq", "b"), repeat=2):
            if a[0] == b[0]:
                continue
            one, two = _fill(rest, a, rows), _fill(rest, b, columns)
            if not set(one) & set(two):
                found.append(_both(inside, one, two))
    return found


def unrollings(
    layer: NDArray[np.float64], rows: float, columns: float, depth: float, dataflow: str, units: float = 1.0
) -> NDArray[np.float64]:
    """Ways to spread a layer over an array, those of fewest cycles first, ``[ways, 8]``.

    Args:
        layer: its loops, as :data:`steelyard.cost.array_mapping.LAYER`.
        rows, columns: of the array.
        depth: multipliers of each element whose products are added.
        dataflow: one of :data:`MAPPED`.
        units: equal arrays.
    """
    return np.array(_unrollings(tuple(float(x) for x in layer), rows, columns, depth, dataflow, units))
