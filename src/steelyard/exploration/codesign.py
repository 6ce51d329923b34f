"""``search chip`` with a space of networks: which network, in which number format, on which chip.

Times and energies of a network on a chip are sums over its choices, so each chip is mapped for the choices alone and
every pair is a product of matrices::

    time[network, chip] = counts[network, choices] @ time[choices, chip] + shared[chip]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.cost.energy import static_power_w
from steelyard.cost.space_price import SpacePrices
from steelyard.deployment.runtime import precision_named
from steelyard.errors import InputError, Problem, check_whole, complete, show
from steelyard.estimation.space import graph_prices
from steelyard.exploration.explore import Figures, explore
from steelyard.exploration.scores import Score, read_score
from steelyard.exploration.solver import SOLVERS, check_efforts, check_seed
from steelyard.pareto import evenly, front_of
from steelyard.provenance import provenance_of
from steelyard.scenario.words import Problems
from steelyard.search.chip import ChipPoint, chip_point, files_of, inputs_of, limited, mean_power_w, read_asked
from steelyard.search.chip_mix import WORDS, Mix, mix_of
from steelyard.search.chip_price import Chips, price_chips
from steelyard.search.chip_space import ChipSpace, read_space
from steelyard.search.chip_work import Work, read_parts
from steelyard.search.missed import Limited, missed, nearer, nearest_of
from steelyard.workload.networks.search_space import SPACES, Space, find_space

__all__ = ["Codesign", "Pair", "is_space", "search_codesign"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Pairs that are priced whole, most prices of choices on chips that are kept, cells of a block, pairs that are told.
LISTED, _PRICES, _CELLS, _SHOWN = 5_000_000, 20_000_000, 4_000_000, 200
#: Of the pricing of chips, unless given.
_PRICED: Mapping[str, Any] = {"batch": 1, "context": 512, "jobs": 2, "state": "", "watch": None}


@dataclass(frozen=True, slots=True)
class Pair:
    """A network on a chip; ``chip.latency_s`` and the like have the network by the name of its space."""

    architecture: str
    score: float
    chip: ChipPoint


@dataclass(frozen=True, eq=False, repr=False)
class Codesign(Result):
    """The front of score, time, energy and area, or of what was named beside the score; best score first."""

    space: ChipSpace
    networks: Space
    names: tuple[str, ...]
    """Workloads, the space of networks first."""
    scores: Mapping[str, Score]
    """By number format."""
    mix: Mix
    words: Mapping[str, Any]
    chips: int
    pairs: float
    """How many there are."""
    tried: int
    feasible: int
    """Of those tried, how many keep all limits."""
    how: str
    """``every pair``, or the solver."""
    exact: bool
    history: tuple[tuple[int, float], ...]
    ended: str
    front: tuple[Pair, ...]
    front_size: int
    best: Mapping[str, Pair]
    """Best ``score`` (of equal ones the least in what the front names first), and least of what the front is of."""
    provenance: Mapping[str, Any]


def is_space(name: str) -> bool:
    """Whether a workload is a space of networks: a file, or one that is built in."""
    name = name.strip().lower()
    return name in SPACES or name.endswith(".toml")


@complete
def search_codesign(
    space: str | Path | ChipSpace,
    workloads: str | Sequence[str],
    *,
    score: Any = "entropy",
    area_m2: float | str = np.inf,
    power_w: float | str = np.inf,
    latency_s: float | str = np.inf,
    solver: str = "auto",
    budget: int = 5000,
    seed: int = 0,
    log: str = "",
    progress: Callable[[int, int], object] | None = None,
    **words: Any,
) -> Codesign:
    """Price the networks of a space on the chips of another; the front of score, time, energy and area.

    Exact where pairs can be listed (up to five million); elsewhere a solver looks for the front, whose points are
    choices of both spaces.

    Args:
        space: of chips, as for :func:`steelyard.search.chip.search_chip`.
        workloads: one space of networks (``nb201``, ``fbnet``, ``ofa``, a file), and what a chip runs beside.
        score: of a network, more is better, see :func:`steelyard.exploration.scores.read_score`; where it depends on
            the number format, ``int8:a.csv,w4a4:b.csv`` or a mapping.
        area_m2: most silicon, arrays and memories on chip, m2.
        power_w: most mean power while a workload runs, W.
        latency_s: most time of a pass of every workload, s.
        solver: ``auto``, or the name of one.
        budget: pairs a solver may try.
        seed: of the solver.
        log: file that keeps what a solver tried; one that is there is gone on from.
        progress: called with pairs tried and all.
        words: ``batch``, ``context``, ``passes``, ``front``, ``years``, ``rate``, ``power_price``, ``carbon``,
            ``jobs``, ``state`` and ``watch`` of :func:`steelyard.search.chip.search_chip`.

    Raises:
        InputError: spaces, workloads or limits are wrong.
        DoesNotFit: no pair keeps the limits.
    """
    problems = Problems()
    known = {*_PRICED, *WORDS} - {"over"}
    for name in sorted(words.keys() - known):
        problems.add([Problem(name, f"expected {', '.join(sorted(known))}")])
    batch, context, jobs, state, watch = ({**_PRICED, **words}[name] for name in _PRICED)
    if solver != "auto":
        problems.read(SOLVERS.get, solver)
    problems.read(check_whole, budget, "budget", 1, 10_000_000, "pairs")
    check_seed(seed, problems)
    asked = {"area_m2": area_m2, "power_w": power_w, "latency_s": latency_s}
    given, limits = read_asked(workloads, asked, (batch, context), problems)
    named = [name.strip() for name in given if name.strip()]
    spaces = [name for name in named if is_space(name)]
    if len(spaces) != 1:
        problems.add([Problem("workloads", f"expected one space of networks, got {show(', '.join(spaces) or 'none')}")])
    chips = space if isinstance(space, ChipSpace) else problems.read(read_space, space)
    networks = problems.read(find_space, spaces[0]) if spaces else None
    beside = [name for name in named if not is_space(name)]
    mix = problems.read(mix_of, (*spaces[:1], *beside), {n: v for n, v in words.items() if n in WORDS})
    problems.done()
    assert chips is not None and networks is not None and mix is not None
    cells = len(chips) * len(networks.features)
    if cells > _PRICES:
        product = f"{len(chips):,} chips x {len(networks.features):,} choices of networks"
        raise InputError(f"expected at most {_PRICES:,} prices, got {cells:,}: {product}", field="space")
    scores = _scores(score, networks, chips.formats)
    works = {n: read_parts(networks, beside, precision_named(n), batch, context) for n in chips.formats}
    task = _Task(
        price_chips(chips, works, limits["area_m2"], jobs, state, watch),
        networks,
        (spaces[0], *beside),
        works[chips.formats[0]],
        scores,
        limits,
        mix,
    )
    return task.run({**limits, "batch": batch, "context": context, "seed": seed}, (solver, budget, seed, log), progress)


def _scores(given: Any, networks: Space, formats: Sequence[str]) -> dict[str, Score]:
    """The score in every number format. Raises :class:`InputError`."""
    parts: Mapping[str, Any]
    if isinstance(given, str) and re.match(rf"({'|'.join(map(re.escape, formats))}):", given):
        parts = dict(part.strip().partition(":")[::2] for part in given.split(","))
    else:
        parts = given if isinstance(given, Mapping) else dict.fromkeys(formats, given)
    if set(parts) != set(formats):
        raise InputError(f"expected a score for each of {', '.join(formats)}, got {', '.join(parts)}", field="score")
    read = {id(v): read_score(v, networks) for v in parts.values()}
    return {n: read[id(parts[n])] for n in formats}


@dataclass(frozen=True, eq=False)
class _Task:
    chips: Chips
    networks: Space
    names: tuple[str, ...]
    work: Work
    scores: Mapping[str, Score]
    limits: Mapping[str, float]
    mix: Mix

    @cached_property
    def formats(self) -> NDArray[np.int64]:
        """The number format of every chip, as its place."""
        space = self.chips.space
        at = space.column("precision", space.precision, self.chips.codes)
        return np.array([space.formats.index(str(n)) for n in at], dtype=np.int64)

    @cached_property
    def prices(self) -> SpacePrices:
        """What is counted of every choice, for proxies."""
        return graph_prices(self.networks)

    @property
    def told(self) -> dict[str, str]:
        """What each format's score is called."""
        return {name: score.name for name, score in self.scores.items()}

    def score(self, codes: Codes) -> Floats:
        """Scores of networks in every format, ``[networks, formats]``."""
        known = {id(s): s.of(self.networks, codes, self.prices) for s in self.scores.values()}
        return np.stack([known[id(s)] for s in self.scores.values()], axis=1)

    def costs(self, counts: Floats, chip: Any) -> tuple[Floats, Floats]:
        """Times and energies of all workloads, ``[..., workloads]``: counts ``[n, choices]`` on chips ``[n]`` or one.

        Args:
            counts: of choices of the networks.
            chip: places of chips.
        """
        n = len(self.networks.features)

        def of(table: Floats) -> Floats:
            mine = table[chip]
            own = (counts @ mine[:n] if mine.ndim == 1 else np.einsum("ij,ij->i", counts, mine[:, :n])) + mine[..., n]
            others = np.broadcast_to(mine[..., n + 1 :], (len(counts), len(self.names) - 1))
            return np.column_stack([own, others])

        return of(self.chips.time_s), of(self.chips.energy_j)

    def limited(self, time: Floats, joule: Floats, chip: Any) -> dict[str, tuple[Floats, float, str]]:
        """What is limited of pairs, by words: figures, the limit, the unit."""
        found = limited(time, joule, self.limits, self.mix)
        if not np.isfinite(self.limits["area_m2"]):
            return found
        return {"area": (np.broadcast_to(self.chips.area_m2[chip], len(time)), self.limits["area_m2"], "m2"), **found}

    def figures(self, scores: Floats, time: Floats, joule: Floats, chip: Any) -> Figures:
        """Figures of pairs, and by how much limits are broken."""
        together, spent = self.mix.sums(time), self.mix.sums(joule)
        known: dict[str, Floats] = {
            "latency": together,
            "energy": spent,
            "area": np.broadcast_to(self.chips.area_m2[chip], len(scores)),
            "power": mean_power_w(time, joule),
        }
        if {"usd", "carbon"} & set(self.mix.front):
            drawn = self.mix.service.power_w(static_power_w(self.chips.space.base), together, spent)
            of = (self.chips.area_m2[chip], self.chips.nm[chip], drawn, self.chips.dies[chip])
            usd, kg = self.mix.service.costs(*of)
            known |= {"usd": usd, "carbon": kg}
        values = np.column_stack([-scores, *(known[name] for name in self.mix.front)])
        values[np.isnan(scores)] = np.inf
        broken = np.zeros(len(values))
        for figure, most, _ in self.limited(time, joule, chip).values():
            broken = np.maximum(broken, figure / most - 1.0)
        return Figures(values, broken)

    def run(
        self, words: Mapping[str, Any], effort: tuple[str, int, int, str], progress: Callable[[int, int], object] | None
    ) -> Codesign:
        solver, budget, _, _ = effort
        tables = [s.codes for s in self.scores.values() if s.codes is not None]
        size: float = len(np.unique(np.concatenate(tables), axis=0)) if tables else self.networks.size
        called = any(s.function is not None for s in self.scores.values())
        pairs = size * len(self.chips.codes)
        if solver == "auto" and pairs <= LISTED and (not called or size <= budget):
            codes = np.unique(np.concatenate(tables), axis=0) if tables else self.networks.all()
            found, tried, feasible, history, ended = self._listed(codes, progress)
            how = "every pair"
        else:
            how = "evolution" if solver == "auto" else solver
            found, tried, feasible, history, ended = self._solved(how, effort, progress)
        codes, chip, values, near = found
        if not len(codes) and all(one.nearest <= one.most for one in near.values()):
            raise InputError("no network that was tried has a score that is a finite number", field="score")
        if not len(codes):
            raise missed(f"pair of {tried:,.0f} that were tried", near)
        order = np.lexsort((values[:, 1], values[:, 0]))
        some = evenly(order, _SHOWN)
        best = {"score": int(order[0])} | {n: int(np.argmin(values[:, i])) for i, n in enumerate(self.mix.front, 1)}
        inputs = {**inputs_of(self.chips.space, self.names, self.mix, words), "scores": self.told}
        inputs |= {"networks": self.networks.prefix, "solver": solver, "budget": budget}
        return Codesign(
            space=self.chips.space,
            networks=self.networks,
            names=self.names,
            scores=self.scores,
            mix=self.mix,
            words=words,
            chips=len(self.chips.space),
            pairs=pairs,
            tried=tried,
            feasible=feasible,
            how=how,
            exact=how == "every pair",
            history=history,
            ended=ended,
            front=tuple(self._pair(codes[i], int(chip[i]), -float(values[i, 0])) for i in some),
            front_size=len(codes),
            best={n: self._pair(codes[i], int(chip[i]), -float(values[i, 0])) for n, i in best.items()},
            provenance=provenance_of(inputs, **files_of(self.chips.space)),
        )

    def _pair(self, code: Codes, chip: int, score: float) -> Pair:
        counts, n = self.networks.counts(code[None]), len(self.networks.features)
        time, joule = self.costs(counts, chip)
        macs = self.work.counts @ self.work.macs
        done = np.concatenate([counts @ macs[:n] + macs[n], macs[n + 1 :]])
        busy = done / self.chips.macs_per_s[chip] / time[0]
        point = chip_point(self.chips, self.names, chip, time[0], joule[0], busy, self.mix)
        return Pair(self.networks.spell(code.tolist()), score, point)

    def _listed(self, codes: Codes, progress: Callable[[int, int], object] | None) -> Any:
        """Every pair: the front of each chip, whose area is one, block by block, then of these."""
        kept = [np.zeros((0, 2), dtype=np.int64)]
        values, feasible = [np.zeros((0, 1 + len(self.mix.front)))], 0
        near: dict[str, Limited] = {}
        of_pair = [0, *(i for i, name in enumerate(self.mix.front, 1) if name != "area")]
        block = max(100, _CELLS // max(1, len(self.networks.features)))
        for at in range(0, len(codes), block):
            counts, scores = self.networks.counts(codes[at : at + block]), self.score(codes[at : at + block])
            for chip in range(len(self.chips.codes)):
                figures = self.figures(scores[:, self.formats[chip]], *self.costs(counts, chip), chip)
                good = np.flatnonzero((figures.broken <= 0) & np.isfinite(figures.values).all(axis=1))
                feasible += len(good)
                if not feasible:
                    near = nearer(near, nearest_of(self.limited(*self.costs(counts, chip), chip)))
                good = good[front_of(figures.values[good][:, of_pair])] if len(good) else good
                values.append(figures.values[good])
                kept.append(np.column_stack([good + at, np.full(len(good), chip)]))
                if progress is not None and chip % 50 == 0:
                    progress(at * len(self.chips.codes) + chip * len(counts), len(codes) * len(self.chips.codes))
        every, pairs = np.concatenate(values), np.concatenate(kept)
        front = front_of(every) if len(every) else np.zeros(0, dtype=np.intp)
        found = codes[pairs[front, 0]], pairs[front, 1], every[front], near
        return found, len(codes) * len(self.chips.codes), feasible, (), "every point"

    def _solved(self, name: str, effort: tuple[str, int, int, str], progress: Any) -> Any:
        """What a solver finds, whose points are choices of chips, then of networks."""
        chips, space, (_, budget, seed, log) = self.chips, self.chips.space, effort
        sizes = tuple(len(v) for v in space.values)
        places = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(self.chips.codes))}

        def split(codes: Codes) -> tuple[Codes, Codes]:
            chosen = np.ascontiguousarray(space.choices.settled(codes[:, : len(sizes)]).astype(np.int16))
            chip = np.array([places.get(row.tobytes(), -1) for row in chosen], dtype=np.int64)
            return chip, self.networks.settled(codes[:, len(sizes) :])

        def price(codes: Codes) -> Figures:
            chip, networks = split(codes)
            scores = self.score(networks)[np.arange(len(codes)), self.formats[chip]]
            figures = self.figures(scores, *self.costs(self.networks.counts(networks), chip), chip)
            figures.broken[chip < 0] = np.maximum(1.0, figures.broken[chip < 0])  # silicon above the limit
            return figures

        question = {
            "space": [space.name, str(space.values)],
            "networks": self.networks.content,
            "workloads": list(self.names[1:]),
            "scores": {n: s.content for n, s in self.scores.items()},
            "limits": {n: v for n, v in self.limits.items() if np.isfinite(v)},
            "prices": [f"{x:.6e}" for x in (*chips.time_s.sum(0), *chips.energy_j.sum(0), chips.area_m2.sum())],
            "mix": self.mix.inputs,
        }
        check_efforts(name, "chips and networks together have none")
        found = explore(
            price,
            (*sizes, *self.networks.sizes),
            1 + len(self.mix.front),
            solver=name,
            budget=budget,
            seed=seed,
            log=log,
            question=question,
            progress=progress,
        )
        front, good = found.front, int((found.broken <= 0).sum())
        chip, networks = split(found.codes[front])
        near: dict[str, Limited] = {}
        if not good:
            tried, nets = split(found.codes)
            small = np.maximum(tried, 0)
            near = nearest_of(self.limited(*self.costs(self.networks.counts(nets), small), small))
        _, one = np.unique(np.column_stack([chip, networks]), axis=0, return_index=True)
        return (
            (networks[one], chip[one], found.values[front][one], near),
            len(found.codes),
            good,
            found.history,
            found.ended,
        )
