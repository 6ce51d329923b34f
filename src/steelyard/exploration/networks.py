"""``search network``: the networks of a space that score best within limits of time on one or several devices."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.errors import DoesNotFit, InputError, Problem, check_whole, complete, show
from steelyard.estimation.space import SpaceEstimate, answer_space, space_prices
from steelyard.exploration.additive import Sum, best_within
from steelyard.exploration.explore import Explored, Figures, explore, front_kept
from steelyard.exploration.scores import Score, read_score
from steelyard.exploration.solver import SOLVERS, check_efforts, check_seed
from steelyard.interval import Z80
from steelyard.pareto import evenly
from steelyard.provenance import Ledger, provenance_of
from steelyard.scenario.space import SpaceScenario, read_space_scenario
from steelyard.scenario.words import Problems
from steelyard.search.chance import quantile, read_chance
from steelyard.search.missed import missed, nearest_of
from steelyard.units import format_quantity, parse_quantity
from steelyard.workload.networks.search_space import LARGEST, Space, find_space

__all__ = ["NetworkSearch", "read_task", "search_network"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Architectures priced at once, most that are listed to be exact, and levels of time of a front by integer programs.
_CHUNK, LISTED, _LEVELS = 20_000, LARGEST, 12
#: Entries of a table of counts at most.
_CELLS = 10_000_000
#: Devices of one search, and points of a front that are kept.
_MOST_DEVICES, _FRONT = 16, 200


@dataclass(frozen=True, eq=False, repr=False)
class NetworkSearch(Result):
    """The front of score and time. Arrays ``[n]`` and ``[n, devices]`` over its points, best score first; s."""

    space: Space
    devices: tuple[str, ...]
    score_name: str
    score_title: str
    proxy: bool
    architectures: tuple[str, ...]
    score: Floats
    latency_s: Floats
    low_s: Floats
    high_s: Floats
    chance: Floats
    """Probability that a network keeps every limit of time, the intervals' view; 1 without limits."""
    macs: Floats
    parameters: Floats
    limits: Mapping[str, float]
    """Limits by name: ``latency_s.DEVICE``, ``macs``, ``parameters``, ``memory``."""
    sure: float
    how: str
    """``every architecture``, ``integer programs``, or the solver."""
    exact: bool
    tried: int
    cpu_s: float
    history: tuple[tuple[int, float], ...]
    ended: str
    ledger: Ledger
    provenance: Mapping[str, Any]
    peak_memory_bytes: Floats | None = None
    """Activations at once, the most of the devices that plan them; None: none does."""

    def __len__(self) -> int:
        return len(self.architectures)

    @property
    def best(self) -> str:
        """The architecture of the best score within the limits."""
        return f"{self.space.prefix}:{self.architectures[0]}"


@complete
def search_network(
    space: str,
    *,
    on: str | Sequence[str],
    latency: str | float | Mapping[str, Any] | None = None,
    score: Any = "entropy",
    macs: float | None = None,
    parameters: float | None = None,
    sure: str | float = 0.5,
    solver: str = "auto",
    budget: int = 5000,
    seed: int = 0,
    log: str = "",
    progress: Callable[[int, int], object] | None = None,
    **words: Any,
) -> NetworkSearch:
    """The networks of a space that score best within limits.

    The front is exact where every architecture can be listed (up to a million) or where score and time add up over
    the choices (then by integer programs at several limits of time); elsewhere a solver looks for it.

    Args:
        space: ``nb201``, ``fbnet``, ``ofa``, or a file of one's own (docs/guide/search.md).
        on: devices, a list or separated by commas: machines, or devices known by a few measured networks.
        latency: limit of one pass: ``5ms`` for all devices, ``pixel_3:5ms,rk3588:8ms``, or a mapping.
        score: see :func:`steelyard.exploration.scores.read_score`; more is better.
        macs: multiply-accumulates of an item at most.
        parameters: parameters at most.
        sure: probability with which a network must keep a limit of time; 0.5: the prediction does.
        solver: ``auto``, or the name of one.
        budget: networks a solver may try.
        seed: of the solver.
        log: a file that keeps what a solver tried; one that is there is gone on from.
        progress: is called with networks tried and the budget.
        words: fields of ``estimate`` that hold for every network: ``batch``, ``runtime``, ``precision``, ``size`` ...,
            ``memory``, bytes of activations at most on microcontrollers (else what each has); and ``executor``, who
            calls a score ``FILE.py:FUNCTION``: ``serial``, ``process:JOBS`` or ``ray``.

    Raises:
        InputError: a field is wrong.
        DoesNotFit: no network keeps the limits.
    """
    began, problems = time.process_time(), Problems()
    if solver != "auto":
        problems.read(SOLVERS.get, solver)
    problems.read(check_whole, budget, "budget", 1, 10_000_000, "networks")
    check_seed(seed, problems)
    given = {"on": on, "latency": latency, "score": score, "macs": macs, "parameters": parameters, "sure": sure}
    task = read_task(space, {**given, **words}, problems)
    said = {k: v for k, v in words.items() if v not in (None, "") and k != "executor"}
    codes, tried, how, exact, history, ended = task.run(solver, budget, seed, log, progress)
    if not len(codes):
        raise task.missed()
    return task.answer(
        codes,
        {"sure": task.chance, "how": how, "exact": exact, "tried": tried, "history": history, "ended": ended},
        {
            "space": task.space.prefix,
            "on": list(task.devices),
            "latency": dict(task.limits),
            "score": task.score.name,
            "sure": task.chance,
            "solver": solver,
            "budget": budget,
            "seed": seed,
            **said,
        },
        began,
    )


def read_task(space: str, words: Mapping[str, Any], problems: Problems) -> _Task:
    """What a search is about: space, devices, limits and score. Raises :class:`InputError` with every problem.

    Args:
        space: as for :func:`search_network`.
        words: its fields but the solver's, and those of ``estimate``.
        problems: those that were found before.
    """
    said = {k: v for k, v in words.items() if v not in (None, "")}
    on, latency, sure = said.pop("on", ""), said.pop("latency", None), said.pop("sure", 0.5)
    score, executor = said.pop("score", "entropy"), str(said.pop("executor", ""))
    known = problems.read(find_space, space)
    names = [n.strip() for n in on.split(",")] if isinstance(on, str) else [str(n) for n in on]
    if not 1 <= len(names) <= _MOST_DEVICES or len(set(names)) < len(names) or not all(names):
        problems.add(
            [Problem("on", f"expected one to {_MOST_DEVICES} different devices, got {show(', '.join(names))}")]
        )
    chance = problems.read(_sure, sure)
    limits = problems.read(_limits, latency, names) or {}
    for name, unit in (("macs", "1"), ("parameters", "1"), ("memory", "B")):
        if (value := said.pop(name, None)) is not None:
            found = problems.read(parse_quantity, value, unit, name)
            if found is not None and not found > 0:
                problems.add([Problem(name, f"expected a number above 0, got {show(value)}")])
            limits[name] = found or math.nan
    problems.done()
    assert known is not None and chance is not None
    sheets = [problems.read(_sheet, known, name, said) for name in names]
    judged = problems.read(read_score, score, known, executor)
    problems.done()
    assert judged is not None
    found_sheets = [s for s in sheets if s is not None]
    if "memory" in limits and not any(sheet.plans for sheet in found_sheets):
        why = "only of microcontrollers and spaces whose blocks are chosen one by one: elsewhere it is not planned"
        raise InputError(why, field="memory")
    return _Task(known, found_sheets, judged, limits, quantile(chance), tuple(names), chance)


def _sure(value: str | float) -> float:
    return 0.5 if value == 0.5 else read_chance(value)


def _limits(latency: Any, names: Sequence[str]) -> dict[str, float]:
    """``latency_s.DEVICE`` of every device that has a limit."""
    if latency is None or latency == "":
        return {}
    if isinstance(latency, str) and ":" in latency:
        pairs = [part.rpartition(":")[::2] for part in latency.split(",")]
        latency = {name.strip(): value for name, value in pairs}
    given = latency if isinstance(latency, Mapping) else dict.fromkeys(names, latency)
    strange = [name for name in given if name not in names]
    if strange:
        raise InputError(f"{show(strange[0])} is not among the devices of on: {', '.join(names)}", field="latency")
    found = {f"latency_s.{name}": parse_quantity(value, "s", "latency") for name, value in given.items()}
    if not all(v > 0 for v in found.values()):
        raise InputError(f"expected a time above 0, got {show(str(latency))}", field="latency")
    return found


@dataclass(frozen=True, eq=False)
class _Sheet:
    """A device with the costs of all choices on it."""

    name: str
    scenario: SpaceScenario
    prices: Any

    def of(self, codes: Codes) -> SpaceEstimate:
        return answer_space(replace(self.scenario, codes=codes), self.prices)

    @property
    def plans(self) -> bool:
        """Whether the memory of activations is known of every architecture."""
        return self.memory_bytes < math.inf and bool(self.prices.peaks)

    @property
    def memory_bytes(self) -> float:
        """What activations may take where they have a memory of their own."""
        network = self.scenario.network
        machine = None if network is None else network.cluster.machine
        apart = None if machine is None else machine.apart
        return math.inf if machine is None or apart is None else apart.capacity_bytes - machine.reserved_bytes

    @property
    def room(self) -> float:
        """Parameters that the outermost memory holds at their width; none known where only times were measured."""
        network = self.scenario.network
        if network is None:
            return math.inf
        return network.cluster.machine.root.capacity_bytes * 8 / network.precision.stored_bits


def _sheet(space: Space, name: str, said: Mapping[str, Any]) -> _Sheet:
    scenario = read_space_scenario({"model": f"{space.prefix}:{space.example}", "on": name, **said}, Problems())
    return _Sheet(name, scenario, space_prices(scenario))


@dataclass(frozen=True, eq=False)
class _Task:
    space: Space
    sheets: list[_Sheet]
    score: Score
    limits: Mapping[str, float]
    z: float
    devices: tuple[str, ...]
    chance: float = 0.5
    """Probability with which limits of time are kept."""

    @property
    def most(self) -> dict[str, float]:
        """Limits of what a network has: those that were named, and parameters that every device holds."""
        held = min(self.limits.get("parameters", math.inf), *(sheet.room for sheet in self.sheets))
        return {"macs": self.limits.get("macs", math.inf), "parameters": held}

    def run(
        self, solver: str, budget: int, seed: int, log: str, progress: Callable[[int, int], object] | None
    ) -> tuple[Codes, int, str, bool, tuple[tuple[int, float], ...], str]:
        """Codes of the front, how many were tried, how, whether exactly, history, why it ended."""
        listed = self.score.codes
        cheap = self.score.function is None or self.space.size <= budget
        if solver == "auto" and (listed is not None or (self.space.size <= LISTED and cheap)):
            codes = self.space.all() if listed is None else listed
            figures = self.price(codes, progress)
            self._check_scored(figures.values)
            front = front_kept(figures.values, figures.broken)
            return codes[front], len(codes), "every architecture", True, (), "every point"
        if solver == "auto" and self.score.proxy:
            codes, programs = self._programs(progress)
            return codes, programs, "integer programs", True, (), "every level"
        name = "evolution" if solver == "auto" else solver
        question = {
            "space": self.space.content,
            "on": list(self.devices),
            "limits": dict(self.limits),
            "score": self.score.content,
            "z": self.z,
            "prices": [[f"{x:.6e}" for x in (s.shared, *s.choices)] for e in self.sheets for s in self._sums(e, 0.0)],
        }

        def partly(codes: Codes, effort: float) -> Figures:
            return self._priced(self.space.settled(codes), effort)

        if not self.score.efforts:
            check_efforts(name, f"{self.score.name} is no function with a parameter 'effort'")
        found: Explored = explore(
            self.price,
            self.space.sizes,
            1 + len(self.sheets),
            solver=name,
            budget=budget,
            seed=seed,
            log=log,
            question=question,
            progress=progress,
            partly=partly if self.score.efforts else None,
        )
        self._check_scored(found.values)
        front = np.unique(self.space.settled(found.codes[found.front]), axis=0)
        return front, found.asked, name, False, found.history, found.ended

    def _check_scored(self, values: Floats) -> None:
        """Raises :class:`InputError`: no network that was tried has a score."""
        if len(values) and not np.isfinite(values[:, 0]).any():
            raise InputError(
                f"{self.score.name} is no finite number for any of {len(values):,} networks", field="score"
            )

    def price(self, codes: Codes, progress: Callable[[int, int], object] | None = None) -> Figures:
        """Score (made small) and time on every device, and by how much limits are broken."""
        parts, codes = [], self.space.settled(codes)
        chunk = max(100, min(_CHUNK, _CELLS // len(self.space.features)))
        for at in range(0, len(codes), chunk):
            parts.append(self._priced(codes[at : at + chunk]))
            if progress is not None:
                progress(min(at + chunk, len(codes)), len(codes))
        return Figures(np.concatenate([p.values for p in parts]), np.concatenate([p.broken for p in parts]))

    def _priced(self, codes: Codes, effort: float = 1.0) -> Figures:
        found = [sheet.of(codes) for sheet in self.sheets]
        scores = self.score.of(self.space, codes, self.sheets[0].prices, effort)
        values = np.stack([-scores, *(f.latency_s for f in found)], axis=1)
        over = np.zeros(len(codes))
        for sheet, f in zip(self.sheets, found, strict=True):
            limit = self.limits.get(f"latency_s.{sheet.name}", math.inf)
            slow = f.latency_s * np.exp(self.z * _spread(f))
            over = np.maximum(over, slow / limit - 1.0)
        for name, limit in self.most.items():
            over = np.maximum(over, getattr(found[0], name) / limit - 1.0)
        for sheet, f in zip(self.sheets, found, strict=True):
            if f.peak_memory_bytes is not None:
                over = np.maximum(over, f.peak_memory_bytes / self._memory(sheet) - 1.0)
        values[np.isnan(scores)] = np.inf
        return Figures(values, over)

    def _memory(self, sheet: _Sheet) -> float:
        """Bytes that activations may take at once on a device."""
        return min(sheet.memory_bytes, self.limits.get("memory", math.inf))

    def _refused(self) -> list[tuple[Sum, float]]:
        """That no choice is taken whose tensors alone, with the largest buffers and all that is kept, are too much."""
        found = []
        for sheet in self.sheets:
            if sheet.plans:
                (_, tensors), (shared, buffers) = (sheet.prices.peaks[name] for name in ("tensors", "buffers"))
                kept = sheet.prices["held"](self.space.counts(np.array(self.space.probes()))).max()
                room = self._memory(sheet) - max(shared, buffers.max()) - kept
                found.append((Sum(0.0, (tensors > room).astype(np.float64)), 0.5))
        return found

    def _sums(self, sheet: _Sheet, spread: float) -> list[Sum]:
        """Sums that a time must not pass: the device's kernels and its host, or what was measured."""
        if sheet.scenario.device is not None:
            costs = sheet.scenario.device.costs()
            return [Sum(0.0, costs.weights @ costs.means)]
        shared, choices, grown = sheet.prices.shared, sheet.prices.choices, math.exp(spread)
        step = shared["step_s"]
        return [
            Sum(grown * (shared[kind] + step), grown * (choices[kind] + choices["step_s"]))
            for kind in ("kernel_s", "host_s")
        ]

    def _programs(self, progress: Callable[[int, int], object] | None) -> tuple[Codes, int]:
        """The best score at several limits of time between the fastest network and the best."""
        prices = self.sheets[0].prices
        goal = Sum(prices.shared[self.score.name], prices.choices[self.score.name])
        fixed = [
            (Sum(prices.shared[name], prices.choices[name]), limit)
            for name, limit in self.most.items()
            if limit < math.inf
        ]
        fixed += self._refused()
        spreads = [self._spread(sheet) for sheet in self.sheets]
        sums = [self._sums(sheet, self.z * s) for sheet, s in zip(self.sheets, spreads, strict=True)]
        hard = [self.limits.get(f"latency_s.{sheet.name}", math.inf) for sheet in self.sheets]
        solve = partial(best_within, self.space, goal)

        def within(scale: Sequence[float]) -> Codes | None:
            bounds = [(s, min(h, t)) for mine, h, t in zip(sums, hard, scale, strict=True) for s in mine]
            return solve([*fixed, *bounds])

        quick = best_within(self.space, Sum(0.0, -np.sum([mine[0].choices for mine in sums], axis=0)), fixed)
        top = within([math.inf] * len(sums))
        found, programs = [c for c in (top, quick) if c is not None], 2
        if len(found) == 2:
            slowest, fastest = (
                np.array([float(sheet.of(c[None]).latency_s[0]) for sheet in self.sheets]) for c in found
            )
            grown = np.exp(self.z * np.array(spreads))
            for share in np.linspace(1.0, 0.0, _LEVELS + 2)[1:-1]:
                point = within((grown * (fastest + share * np.maximum(slowest - fastest, 0.0))).tolist())
                programs += 1
                if progress is not None:
                    progress(programs, _LEVELS + 2)
                if point is not None:
                    found.append(point)
        codes = np.unique(np.array(found, dtype=np.int64).reshape(len(found), len(self.space.sizes)), axis=0)
        if not len(codes):
            return codes, programs
        figures = self.price(codes)
        return codes[front_kept(figures.values, np.where(figures.broken < 1e-6, 0.0, figures.broken))], programs

    def _spread(self, sheet: _Sheet) -> float:
        if sheet.scenario.device is not None and self.z > 0:
            raise InputError(
                "with measured devices name a solver, as evolution: their intervals do not add up", field="sure"
            )
        return float(_spread(sheet.of(sheet.scenario.codes))[0])

    def missed(self) -> DoesNotFit:
        """Why no network keeps the limits: of all, or of some thousand that are drawn of many."""
        listed = self.space.all() if self.space.size <= _CHUNK else self.space.draw(4000)
        codes = listed if self.score.codes is None else self.score.codes[:_CHUNK]
        found = [sheet.of(codes) for sheet in self.sheets]
        figures = {
            f"latency on {sheet.name}": (f.latency_s * np.exp(self.z * _spread(f)), limit, "s")
            for sheet, f in zip(self.sheets, found, strict=True)
            if (limit := self.limits.get(f"latency_s.{sheet.name}", math.inf)) < math.inf
        }
        small = min(self.sheets, key=lambda sheet: sheet.room)
        for name, limit in self.most.items():
            held = f" held by {small.name}" if name == "parameters" and limit == small.room else ""
            if limit < math.inf:
                figures[name + held] = getattr(found[0], name), limit, "1"
        for sheet, f in zip(self.sheets, found, strict=True):
            if f.peak_memory_bytes is not None and self._memory(sheet) < math.inf:
                figures[f"memory on {sheet.name}"] = f.peak_memory_bytes, self._memory(sheet), "B"
        kept = np.all([values <= limit for values, limit, _ in figures.values()], axis=0)
        if kept.any():
            return DoesNotFit("no network that was tried keeps the limits", change="another solver or a larger budget")
        drawn = "" if len(codes) == self.space.size or self.score.codes is not None else " that were drawn"
        return missed(f"network of {len(codes):,}{drawn}", nearest_of(figures))

    def answer(self, codes: Codes, told: Mapping[str, Any], inputs: Mapping[str, Any], began: float) -> NetworkSearch:
        """The result of a front."""
        scores = self.score.of(self.space, codes, self.sheets[0].prices)
        order = evenly(np.argsort(-scores, kind="stable"), _FRONT)
        codes, scores = codes[order], scores[order]
        found = [sheet.of(codes) for sheet in self.sheets]
        ledger, chance, normal = Ledger(), np.ones(len(codes)), NormalDist()
        for sheet, f in zip(self.sheets, found, strict=True):
            ledger.take(f.ledger)
            limit = self.limits.get(f"latency_s.{sheet.name}")
            if limit is not None:
                z = np.log(limit / f.latency_s) / np.maximum(_spread(f), 1e-9)
                chance = np.minimum(chance, [normal.cdf(v) for v in z.tolist()])
        for sheet in self.sheets:
            if sheet.scenario.network is not None and sheet.scenario.network.cluster.machine.kind == "mcu":
                room = format_quantity(self._memory(sheet), "B")
                rest = f" and activations of {room}; code is" if sheet.plans else "; activations and code are"
                ledger.assume(f"{sheet.name} holds {sheet.room:,.0f} weights{rest} not weighed")
        if self.score.proxy:
            ledger.assume(f"{self.score.name} is a proxy, {self.score.title}: it is no accuracy")

        def stack(name: str) -> Floats:
            return np.stack([getattr(f, name) for f in found], axis=1)

        held = [f.peak_memory_bytes for f in found if f.peak_memory_bytes is not None]
        return NetworkSearch(
            peak_memory_bytes=np.max(held, axis=0) if held else None,
            space=self.space,
            devices=self.devices,
            score_name=self.score.name,
            score_title=self.score.title,
            proxy=self.score.proxy,
            architectures=tuple(self.space.spell(c) for c in codes.tolist()),
            score=scores,
            latency_s=stack("latency_s"),
            low_s=stack("low_s"),
            high_s=stack("high_s"),
            chance=chance,
            macs=found[0].macs,
            parameters=found[0].parameters,
            limits=dict(self.limits),
            cpu_s=time.process_time() - began,
            ledger=ledger,
            provenance=provenance_of(inputs),
            **told,
        )


def _spread(found: SpaceEstimate) -> Floats:
    """Spreads of the intervals of times: standard deviations of log(true / predicted)."""
    return np.asarray(np.log(found.high_s / found.latency_s) / Z80)
