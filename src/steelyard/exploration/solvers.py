"""Solvers of our own: random points, evolution (NSGA-II), simulated annealing, a bandit of values, halving."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steelyard.exploration.solver import Codes, Floats

__all__ = ["Annealing", "Bandit", "Evolution", "Halving", "Random", "crowding", "ranks"]


def ranks(values: Floats, broken: Floats) -> NDArray[np.int64]:
    """The front of each point, 0 the best: points that keep all limits come first, in fronts one after the other,
    then those that break them, least first.

    Args:
        values: ``[n, m]``, small is good.
        broken: ``[n]``.
    """
    found = np.full(len(values), -1, dtype=np.int64)
    kept = np.flatnonzero(broken <= 0)
    v = values[kept]
    no_worse, better = np.ones((len(v), len(v)), dtype=bool), np.zeros((len(v), len(v)), dtype=bool)
    for column in v.T:
        no_worse &= column[:, None] <= column[None, :]
        better |= column[:, None] < column[None, :]
    beaten = no_worse & better  # row beats column
    left, level = np.ones(len(v), dtype=bool), 0
    while left.any():
        front = left & ~beaten[left].any(axis=0)
        found[kept[front]] = level
        left &= ~front
        level += 1
    rest = np.flatnonzero(broken > 0)
    order = np.argsort(broken[rest], kind="stable")
    found[rest[order]] = level + np.arange(len(rest))
    return found


def crowding(values: Floats, levels: NDArray[np.int64]) -> Floats:
    """Room around each point within its front: the sum over figures of the distance of its neighbours, relative."""
    room = np.zeros(len(values))
    for level in np.unique(levels):
        at = np.flatnonzero(levels == level)
        for column in np.where(np.isfinite(values[at]), values[at], np.finfo(float).max / 4).T:
            order = np.argsort(column, kind="stable")
            ends = max(float(column[order[-1]] - column[order[0]]), 1e-300)
            gap = np.full(len(at), np.inf)
            gap[order[1:-1]] = (column[order[2:]] - column[order[:-2]]) / ends
            room[at] += gap
    return room


class Random:
    """Points drawn evenly, none twice while there are others."""

    name = "random"

    def __init__(self, sizes: Sequence[int], objectives: int, seed: int) -> None:
        self.sizes = np.array(sizes, dtype=np.int64)
        self.rng = np.random.default_rng(seed)
        self.seen: set[bytes] = set()

    def ask(self, n: int) -> Codes:
        """Draw."""
        return self._new(self._drawn(4 * n))[:n]

    def tell(self, codes: Codes, values: Floats, broken: Floats) -> None:
        """Keep what was seen."""
        self.seen.update(row.tobytes() for row in np.ascontiguousarray(codes))

    def _drawn(self, n: int) -> Codes:
        return np.asarray(self.rng.integers(0, self.sizes, (n, len(self.sizes))), dtype=np.int64)

    def _new(self, codes: Codes) -> Codes:
        """Those not seen and not twice among themselves; all of them where that leaves none."""
        codes = np.ascontiguousarray(codes, dtype=np.int64)
        fresh, here = [], set()
        for i, row in enumerate(codes):
            key = row.tobytes()
            if key not in self.seen and key not in here:
                here.add(key)
                fresh.append(i)
        return codes[fresh] if fresh else codes


class Evolution(Random):
    """NSGA-II (Deb et al. 2002): tournaments by front and room, uniform crossover, a place in each changes."""

    name = "evolution"
    POPULATION = 96

    def __init__(self, sizes: Sequence[int], objectives: int, seed: int) -> None:
        super().__init__(sizes, objectives, seed)
        self.codes = np.zeros((0, len(self.sizes)), dtype=np.int64)
        self.values = np.zeros((0, objectives))
        self.broken = np.zeros(0)

    def ask(self, n: int) -> Codes:
        """Children of the population; drawn points while it is small."""
        if len(self.codes) < self.POPULATION // 2:
            return super().ask(n)
        children = 3 * n
        mothers, fathers = self._parents(children), self._parents(children)
        mixed = np.where(self.rng.random(mothers.shape) < 0.5, mothers, fathers)
        changed = self.rng.random(mixed.shape) < 1.0 / mixed.shape[1]
        children_codes = np.where(changed, self._drawn(children), mixed)
        found = self._new(children_codes)[:n]
        short = n - len(found)
        return np.concatenate([found, super().ask(short)]) if short > 0 else found

    def tell(self, codes: Codes, values: Floats, broken: Floats) -> None:
        """Keep the best of old and new."""
        super().tell(codes, values, broken)
        self.codes = np.concatenate([self.codes, codes])
        self.values = np.concatenate([self.values, values])
        self.broken = np.concatenate([self.broken, broken])
        levels = ranks(self.values, self.broken)
        room = crowding(self.values, levels)
        kept = np.lexsort((-room, levels))[: self.POPULATION]
        self.codes, self.values, self.broken = self.codes[kept], self.values[kept], self.broken[kept]

    def _parents(self, n: int) -> Codes:
        """Winners of tournaments of two; the population lies best first."""
        pairs = self.rng.integers(0, len(self.codes), (n, 2))
        return np.asarray(self.codes[pairs.min(axis=1)], dtype=np.int64)


class Annealing(Random):
    """Simulated annealing of several chains, each with weights of its own over the figures."""

    name = "annealing"
    CHAINS, HOT, COLD, STEPS = 16, 0.3, 0.002, 200

    def __init__(self, sizes: Sequence[int], objectives: int, seed: int) -> None:
        super().__init__(sizes, objectives, seed)
        self.weights = self.rng.dirichlet(np.ones(objectives), self.CHAINS)
        self.at = self._drawn(self.CHAINS)
        self.energy = np.full(self.CHAINS, np.inf)
        self.low, self.high = np.full(objectives, np.inf), np.full(objectives, -np.inf)
        self.step, self.next = 0, 0
        self.asked: list[int] = []

    def ask(self, n: int) -> Codes:
        """One step of so many chains in turn."""
        self.asked = [(self.next + i) % self.CHAINS for i in range(min(n, self.CHAINS))]
        self.next = (self.next + len(self.asked)) % self.CHAINS
        here = self.at[self.asked]
        if not np.isfinite(self.energy[self.asked]).any():
            return here
        changed = self.rng.random(here.shape) < 1.0 / here.shape[1]
        changed[np.arange(len(here)), self.rng.integers(0, here.shape[1], len(here))] = True
        return np.where(changed, self._drawn(len(here)), here)

    def tell(self, codes: Codes, values: Floats, broken: Floats) -> None:
        """Go to what is better, and at times to what is not."""
        sane = values[np.isfinite(values).all(axis=1)]
        if len(sane):
            self.low, self.high = np.minimum(self.low, sane.min(axis=0)), np.maximum(self.high, sane.max(axis=0))
        chains = (self.asked or list(range(self.CHAINS)))[: len(codes)]
        heat = self.HOT * (self.COLD / self.HOT) ** min(self.step / self.STEPS, 1.0)
        for chain, code, value, over in zip(chains, codes, values, broken, strict=False):
            energy = self._energy(chain, value) + 10.0 * over
            if energy <= self.energy[chain] or self.rng.random() < np.exp((self.energy[chain] - energy) / heat):
                self.at[chain], self.energy[chain] = code, energy
        self.step += 1

    def _energy(self, chain: int, value: Floats) -> float:
        width = np.maximum(self.high - self.low, 1e-300)
        return float(self.weights[chain] @ ((value - self.low) / width)) if np.isfinite(value).all() else np.inf


class Bandit(Random):
    """A bandit a place: values whose points were good are drawn more often (Thompson sampling of Beta beliefs).

    Good is a point on the best half of the fronts of what was told with it.
    """

    name = "bandit"

    def __init__(self, sizes: Sequence[int], objectives: int, seed: int) -> None:
        super().__init__(sizes, objectives, seed)
        self.good = np.ones((len(self.sizes), int(self.sizes.max(initial=1))))
        self.bad = np.ones_like(self.good)
        beyond = np.arange(self.good.shape[1]) >= self.sizes[:, None]
        self.absent = np.where(beyond, -np.inf, 0.0)

    def ask(self, n: int) -> Codes:
        """The value of the best draw at every place; every tenth point evenly."""
        draws = self.rng.beta(self.good, self.bad, (2 * n, *self.good.shape)) + self.absent
        codes = draws.argmax(axis=2)
        even = self.rng.random(len(codes)) < 0.1
        codes[even] = self._drawn(int(even.sum()))
        return self._new(codes)[:n]

    def tell(self, codes: Codes, values: Floats, broken: Floats) -> None:
        """Count for every value how its points did."""
        super().tell(codes, values, broken)
        levels = ranks(values, broken)
        won = levels <= np.median(levels)
        places = np.arange(codes.shape[1])
        for code, good in zip(codes, won, strict=True):
            (self.good if good else self.bad)[places, code] += 1.0


class Halving(Random):
    """Successive halving (Jamieson and Talwalkar 2016): points are drawn, scored with a ninth of the effort, the best
    third of them with a third, the best third of those with all; then again.

    Best are those of the first fronts, with most room around them within one.
    """

    name = "halving"
    EFFORTS = (1 / 9, 1 / 3, 1.0)

    def __init__(self, sizes: Sequence[int], objectives: int, seed: int) -> None:
        super().__init__(sizes, objectives, seed)
        self.rung = 0
        self.best = np.zeros((0, len(self.sizes)), dtype=np.int64)

    @property
    def effort(self) -> float:
        """Of the points that were asked for last."""
        return self.EFFORTS[self.rung]

    def ask(self, n: int) -> Codes:
        """Points of the next rung, drawn ones for the first."""
        return self.best[:n] if self.rung else super().ask(n)

    def tell(self, codes: Codes, values: Floats, broken: Floats) -> None:
        """Keep the best third for the next rung."""
        super().tell(codes, values, broken)
        levels = ranks(values, broken)
        order = np.lexsort((-crowding(values, levels), levels))
        self.best = codes[order[: -(-len(codes) // 3)]]
        self.rung = (self.rung + 1) % len(self.EFFORTS)
