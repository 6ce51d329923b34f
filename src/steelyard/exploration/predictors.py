"""Predictors of the time of a space's networks on one device from a few that were measured; how good each is there.

A predictor is fitted to measured networks and says times and spreads of others. A plug-in is a class with the methods
of :class:`Predictor`, declared in the entry-point group ``steelyard.predictors``;
:class:`steelyard.testing.predictors.PredictorContract` tests it.

==============  =========================================================================================
hierarchical    a cost per choice with a prior over other devices (:mod:`steelyard.deployment.space_device`)
counts          time = a + b x multiply-accumulates + c x products + d x their outputs, none below 0
macs            time = a + b x multiply-accumulates, by least squares of relative errors
priced          a line over the time that the cost model of a named machine says
proxy           the most alike of known devices, times one factor; a line over the prior's mean device without any
mix             a weighed sum of known devices' times, weights not below 0
boosted         hierarchical, and trees over what it leaves (LightGBM)
==============  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.calibrate.space_samples import device_of, rank_of, suggested
from steelyard.cost.space_price import SpacePrices
from steelyard.deployment.runtime import find_runtime
from steelyard.deployment.space_device import Prior, costs_of, prior_of
from steelyard.errors import InputError, Problem, check_whole, complete, show
from steelyard.estimation.space import answer_space, graph_prices, space_prices
from steelyard.exploration.known_devices import KnownDevices, read_devices
from steelyard.interval import Z80
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine
from steelyard.provenance import provenance_of
from steelyard.registry import Registry
from steelyard.scenario.space import SpaceScenario, columns_of, read_space_scenario
from steelyard.scenario.words import Problems
from steelyard.techniques._base import relabelled
from steelyard.workload.networks.search_space import Space, find_space

__all__ = ["PREDICTORS", "Context", "Leaderboard", "Predictor", "Scored", "search_predictor"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Folds of the leave-one-out at most, and networks of the list of what to measure next.
_FOLDS, _NEXT = 50, 5
#: Folds that a predictor's own spread is from, at most.
_SPREAD_FOLDS = 20


@dataclass(frozen=True, eq=False)
class Context:
    """What a predictor may know beside the measurements."""

    space: Space
    batch: int = 1
    machine: str = ""
    """A machine of the catalogue that the device is, or is like; empty: none."""
    words: Mapping[str, Any] = field(default_factory=dict)
    devices: KnownDevices | None = None
    """Other devices that were measured; None: what the catalogue says of some."""

    @cached_property
    def prior(self) -> Prior:
        """What other devices have in common. Raises :class:`InputError`: nothing is known of the space."""
        return self.devices.prior if self.devices else prior_of(self.space)

    @cached_property
    def graphs(self) -> SpacePrices:
        """Multiply-accumulates and the like of every choice."""
        return graph_prices(self.space)

    @cached_property
    def _sheet(self) -> tuple[SpaceScenario, SpacePrices]:
        words = {"model": f"{self.space.prefix}:{self.space.example}", "on": self.machine, "batch": self.batch}
        scenario = read_space_scenario({**words, **self.words, "runtime": self.words.get("runtime", "")}, Problems())
        plain = replace(scenario, device=None)
        return plain, space_prices(plain)

    def priced(self, codes: Codes) -> Floats:
        """Times as the machine's cost model says. Raises :class:`InputError`: no machine is named."""
        if not self.machine:
            raise InputError("expected a machine of the catalogue that the device is like", field="like")
        plain, prices = self._sheet
        return answer_space(replace(plain, codes=codes), prices).latency_s


@runtime_checkable
class Predictor(Protocol):
    """Times of networks from those of others.

    Args (of the class):
        context: the space and what is known of the device.
    """

    def __init__(self, context: Context) -> None: ...

    def fit(self, codes: Codes, seconds: Floats) -> None:
        """Learn from measured networks ``[k, places]`` and their times in s."""
        ...

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Times in s of networks ``[n, places]``, above 0, and standard deviations of their logarithms."""
        ...


#: Predictors by name.
PREDICTORS: Registry[type[Predictor]] = Registry("predictor", "steelyard.predictors")


class Hierarchical:
    """A cost per choice with a prior over other devices."""

    name = "hierarchical"

    def __init__(self, context: Context) -> None:
        self.space, self.prior = context.space, context.prior

    def fit(self, codes: Codes, seconds: Floats) -> None:
        """Condition the prior."""
        self.costs = costs_of(self.prior, self.space.counts(codes), seconds)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and spread."""
        counts = self.space.counts(codes)
        return self.costs.time_s(counts), self.costs.spread(counts)


class _Fitted:
    """Times of what is known of networks, least squares of relative errors.

    The spread is that of measured networks each predicted from the others, ``s = rms log(measured / predicted)``, wider
    for how few they are: ``s t(0.9, n - 1) / 1.2816`` with Student's t (its first correction to the normal's 1.2816).
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    def known(self, codes: Codes) -> Floats:
        """``x``, a row of each network."""
        raise NotImplementedError

    def _solve(self, x: Floats, seconds: Floats) -> None:
        raise NotImplementedError

    def _on(self, x: Floats) -> Floats:
        """Times, above 0."""
        raise NotImplementedError

    def fit(self, codes: Codes, seconds: Floats) -> None:
        """Solve for the weights."""
        x, n = self.known(codes), len(seconds)
        folds, rest = np.arange(n) % min(n, _SPREAD_FOLDS), np.zeros(n)
        for fold in np.unique(folds) if n > 1 else ():
            mine = folds == fold
            self._solve(x[~mine], seconds[~mine])
            rest[mine] = np.log(seconds[mine] / self._on(x[mine]))
        self._solve(x, seconds)
        few = 1.0 + (Z80**2 + 1.0) / (4.0 * max(n - 1, 1))
        self.spread = float(max(few * np.sqrt(np.mean(rest**2)), 0.005))

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """What was fitted."""
        found = self._on(self.known(codes))
        return found, np.full(len(found), self.spread)


class _Line(_Fitted):
    """``time = a + b x``, neither below 0."""

    def _solve(self, x: Floats, seconds: Floats) -> None:
        rows = np.stack([np.ones(len(x)), x], axis=1) / seconds[:, None]
        both = np.linalg.lstsq(rows, np.ones(len(x)), rcond=None)[0]
        flat, steep = float(np.median(seconds)), float(np.median(seconds / np.maximum(x, 1e-30)))
        self.line = both if (both >= 0).all() else np.array([0.0, steep]) if both[0] < 0 else np.array([flat, 0.0])

    def _on(self, x: Floats) -> Floats:
        return np.asarray(np.maximum(self.line[0] + self.line[1] * x, 1e-12))


class Macs(_Line):
    """A line over multiply-accumulates."""

    name = "macs"

    def known(self, codes: Codes) -> Floats:
        """Multiply-accumulates."""
        return np.asarray(self.context.graphs["macs"](self.context.space.counts(codes)))


class _Weighed(_Fitted):
    """Times as sums of known columns, none below 0, with weights not below 0."""

    def _solve(self, x: Floats, seconds: Floats) -> None:
        self.weights = _not_below_zero(x / seconds[:, None])

    def _on(self, x: Floats) -> Floats:
        return np.asarray(np.maximum(x @ self.weights, 1e-12))


def _not_below_zero(rows: Floats) -> Floats:
    """Weights not below 0 whose sums of rows are nearest to 1. Raises :class:`InputError`: SciPy is not installed."""
    try:
        from scipy.optimize import nnls
    except ImportError:
        raise InputError("this predictor needs SciPy: pip install 'steelyard[calibrate]'", field="predictors") from None
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    return np.asarray(nnls(rows / scale, np.ones(len(rows)))[0] / scale, dtype=np.float64)


class Counts(_Weighed):
    """A pass, multiply-accumulates, products and their outputs, each with a time of its own: no other device."""

    name = "counts"

    def known(self, codes: Codes) -> Floats:
        """Ones, and counts of the graph."""
        counts, graphs = self.context.space.counts(codes), self.context.graphs
        return np.stack([np.ones(len(codes)), *(graphs[n](counts) for n in ("macs", "depth", "activations"))], axis=1)


class Mix(_Weighed):
    """A weighed sum of the times of known devices."""

    name = "mix"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        _needs_devices(context)

    def known(self, codes: Codes) -> Floats:
        """Times of the devices."""
        assert self.context.devices is not None
        return self.context.devices.times(codes)


def _needs_devices(context: Context) -> None:
    if context.devices is None:
        raise InputError("expected a table of other devices (--devices)", field="devices")


class Proxy(_Line):
    """The known device whose times are most alike, times one factor; else a line over the mean device of the prior."""

    name = "proxy"

    def known(self, codes: Codes) -> Floats:
        """Times of the devices, or of the mean one, relative."""
        if self.context.devices is not None:
            return np.maximum(self.context.devices.times(codes), 1e-12)
        return np.asarray(self.context.space.counts(codes) @ np.array(self.context.prior.mean))

    def _solve(self, x: Floats, seconds: Floats) -> None:
        if x.ndim == 1:
            super()._solve(x, seconds)
            return
        ratio = np.log(seconds[:, None] / x)
        self.best = int(np.argmin(ratio.std(axis=0)))
        self.factor = float(np.exp(np.median(ratio[:, self.best])))

    def _on(self, x: Floats) -> Floats:
        return super()._on(x) if x.ndim == 1 else np.asarray(self.factor * x[:, self.best])


class Boosted(Hierarchical):
    """The hierarchical predictor, and boosted trees over the logarithm of what it leaves."""

    name = "boosted"

    def fit(self, codes: Codes, seconds: Floats) -> None:
        """Condition the prior, then learn what is left."""
        super().fit(codes, seconds)
        try:
            import lightgbm
        except ImportError:
            raise InputError("needs LightGBM: pip install 'steelyard[boost]'", field="predictors") from None
        rest = np.log(seconds / super().predict(codes)[0])
        least = max(5, len(codes) // 20)
        shape = {"num_leaves": 7, "learning_rate": 0.05, "min_data_in_leaf": least, "min_data_in_bin": 1}
        settled = {"seed": 0, "num_threads": 1, "verbosity": -1, "deterministic": True}
        rows = lightgbm.Dataset(self.space.counts(codes), rest)
        self.trees = lightgbm.train({**shape, **settled}, rows, num_boost_round=80)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean of both, spread of the first."""
        times, spread = super().predict(codes)
        return times * np.exp(self.trees.predict(self.space.counts(codes))), spread


class Priced(_Line):
    """A line over the time that the cost model of a machine says."""

    name = "priced"

    def known(self, codes: Codes) -> Floats:
        """Times as priced."""
        return self.context.priced(codes)


@dataclass(frozen=True, slots=True)
class Scored:
    """A predictor with every network predicted from the others. Errors in %."""

    name: str
    median_ape: float
    rank: float
    inside: float
    """Share inside the 80 % interval."""


@dataclass(frozen=True, eq=False, repr=False)
class Leaderboard(Result):
    """Predictors of a device, best first, and what to measure next."""

    space: Space
    device: str
    batch: int
    networks: int
    scored: tuple[Scored, ...]
    absent: Mapping[str, str]
    """Predictors that could not be tried, and why."""
    rows: tuple[tuple[str, float, float], ...]
    """Architecture, measured and predicted by the best (from the others), s."""
    measure_next: tuple[str, ...]
    predicted: Mapping[str, tuple[Floats, Floats]]
    """Times (s) and spreads of the networks asked for, by predictor; the first is the best."""
    asked: Codes
    """Those networks, ``[n, places]``."""
    provenance: Mapping[str, Any]

    @property
    def best(self) -> Scored:
        """The first."""
        return self.scored[0]


@complete
def search_predictor(
    measured: str | Mapping[str, float],
    *,
    space: str,
    like: str = "",
    batch: int = 1,
    predictors: str = "",
    runtime: str = "",
    devices: str | KnownDevices = "",
    predict: str | Sequence[str] | Codes = (),
) -> Leaderboard:
    """Which predictor knows a device best from a few measured networks, and which networks to measure next.

    Args:
        measured: CSV with the columns ``architecture`` and ``seconds`` (or ``latency_ms``), or times by architecture.
        space: ``nb201``, ``fbnet``, ``ofa``, or a file of one's own.
        like: a machine of the catalogue that the device is or resembles, for the predictor ``priced``.
        batch: items of a pass.
        predictors: names separated by commas; empty: all there are.
        runtime: of the machine, as for ``estimate``.
        devices: CSV of other devices: ``architecture`` and a column of seconds for each (see :func:`read_devices`); or
            what was read of one. Without any, what the catalogue says of measured devices.
        predict: networks whose times are asked for: a CSV with a column ``architecture``, or a list.

    Raises:
        InputError: a field is wrong; fewer than four networks.
    """
    problems = Problems()
    known = problems.read(find_space, space)
    machine = problems.read(_like, like) if like else None
    if runtime:
        problems.read(find_runtime, runtime)
        if not like:
            problems.add([Problem("runtime", "only of a machine that the device is like (like)")])
    problems.read(check_whole, batch, "batch", 1, 1_000_000, "items")
    names = [n.strip() for n in predictors.split(",") if n.strip()] or PREDICTORS.names()
    classes = {name: problems.read(PREDICTORS.get, name) for name in names}
    problems.done()
    assert known is not None
    others = devices if isinstance(devices, KnownDevices) else read_devices(devices, known) if devices else None
    asked = _asked(predict, known)
    try:
        device = device_of("measured", known, measured, batch)
    except InputError as error:
        raise relabelled(relabelled(error, "networks", "measured"), "timed", "measured") from None
    if len(device.timed) < 4:
        raise InputError(f"expected at least four networks, got {len(device.timed)}", field="measured")
    codes = known.codes(t.architecture for t in device.timed)
    seconds = np.array([t.seconds for t in device.timed])
    words = {"runtime": runtime} if runtime else {}
    context = Context(known, batch, machine.name if machine else "", words, others)
    scored, absent, predicted = [], {}, {}
    for name, cls in classes.items():
        assert cls is not None
        try:
            predicted[name], spread = _left_out(cls, context, codes, seconds)
        except InputError as error:
            if predictors:
                raise
            absent[name] = error.problems[0].message
            continue
        off = np.log(predicted[name] / seconds)
        error_pc = 100 * float(np.median(np.abs(predicted[name] / seconds - 1.0)))
        inside = float(np.mean(np.abs(off) < Z80 * spread))
        scored.append(Scored(name, error_pc, rank_of(predicted[name], seconds), inside))
    if not scored:
        raise InputError(f"no predictor could be tried: {show('; '.join(absent.values()))}", field="predictors")
    scored.sort(key=lambda s: s.median_ape)
    best = predicted[scored[0].name]
    told = measured if isinstance(measured, str) else f"{len(seconds)} times"
    inputs = {"measured": told, "space": known.prefix, "like": like, "batch": batch, "predictors": predictors}
    inputs |= {"devices": devices if isinstance(devices, str) else list(devices.names)} if devices else {}
    try:
        following = tuple(suggested(known, device, _NEXT, context.prior))
    except InputError:
        following = ()
    answers = {}
    for score in scored if len(asked) else ():
        made = classes[score.name](context)  # type: ignore[misc]
        made.fit(codes, seconds)
        answers[score.name] = made.predict(asked)
    return Leaderboard(
        *(known, told, batch, len(seconds), tuple(scored), absent),
        predicted=answers,
        asked=asked,
        rows=tuple((t.architecture, t.seconds, float(p)) for t, p in zip(device.timed, best, strict=True)),
        measure_next=following,
        provenance=provenance_of(inputs),
    )


def _like(name: str) -> Machine:
    try:
        return find_machine(name)
    except InputError as error:
        raise relabelled(error, "machine", "like") from None


def _asked(predict: str | Sequence[str] | Codes, space: Space) -> Codes:
    """The networks whose times are asked for."""
    if isinstance(predict, np.ndarray):
        return predict
    named = isinstance(predict, str) and predict
    columns = columns_of(predict, ("architecture",), "predict") if named else {"architecture": predict, "line": ()}  # type: ignore[arg-type]
    return space.codes((t.removeprefix(f"{space.prefix}:") for t in columns["architecture"]), columns["line"])


def _left_out(cls: type[Predictor], context: Context, codes: Codes, seconds: Floats) -> tuple[Floats, Floats]:
    """Times and spreads of every network from the others (50 groups of them at most)."""
    times, spreads = np.zeros(len(seconds)), np.zeros(len(seconds))
    folds = np.arange(len(seconds)) % _FOLDS
    for fold in np.unique(folds):
        mine = folds == fold
        made = cls(context)
        made.fit(codes[~mine], seconds[~mine])
        times[mine], spreads[mine] = made.predict(codes[mine])
    return times, spreads
