"""Predictors of the time of a space's networks on one device from a few that were measured; how good each is there.

A predictor is fitted to measured networks and says times and spreads of others. A plug-in is a class with the methods
of :class:`Predictor`, declared in the entry-point group ``steelyard.predictors``;
:class:`steelyard.testing.predictors.PredictorContract` tests it.

==============  =========================================================================================
hierarchical    a cost per choice with a prior over other devices (:mod:`steelyard.deployment.space_device`)
macs            time = a + b x multiply-accumulates, by least squares of relative errors
priced          a line over the time that the cost model of a named machine says
proxy           a line over the time of the mean device of the prior
==============  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard._version import __version__
from steelyard.calibrate.space_samples import device_of, rank_of, suggested
from steelyard.deployment.space_device import costs_of, prior_of
from steelyard.errors import InputError, complete, show
from steelyard.estimation.space import answer_space, space_prices
from steelyard.interval import Z80
from steelyard.machine.catalogue import find_machine
from steelyard.provenance import content_hash
from steelyard.registry import Registry
from steelyard.scenario.space import read_space_scenario
from steelyard.scenario.words import Problems
from steelyard.workload.networks.search_space import Space, find_space

__all__ = ["PREDICTORS", "Context", "Leaderboard", "Predictor", "Scored", "search_predictor"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Folds of the leave-one-out at most, and networks of the list of what to measure next.
_FOLDS, _NEXT = 50, 5


@dataclass(frozen=True, eq=False)
class Context:
    """What a predictor may know beside the measurements."""

    space: Space
    batch: int = 1
    machine: str = ""
    """A machine of the catalogue that the device is, or is like; empty: none."""
    words: Mapping[str, Any] = field(default_factory=dict)

    def priced(self, codes: Codes) -> Floats:
        """Times as the machine's cost model says. Raises :class:`InputError`: no machine is named."""
        if not self.machine:
            raise InputError("expected a machine of the catalogue that the device is like", field="like")
        words = {"model": f"{self.space.prefix}:{self.space.example}", "on": self.machine, "batch": self.batch}
        scenario = read_space_scenario({**words, **self.words, "runtime": self.words.get("runtime", "")}, Problems())
        plain = replace(scenario, device=None)
        return answer_space(replace(plain, codes=codes), space_prices(plain)).latency_s


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
        self.space, self.prior = context.space, prior_of(context.space)

    def fit(self, codes: Codes, seconds: Floats) -> None:
        """Condition the prior."""
        self.costs = costs_of(self.prior, self.space.counts(codes), seconds)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and spread."""
        counts = self.space.counts(codes)
        return self.costs.time_s(counts), self.costs.spread(counts)


class _Line:
    """``time = a + b x``, least squares of relative errors, neither below 0; the spread is that of the fit."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def known(self, codes: Codes) -> Floats:
        """``x``."""
        raise NotImplementedError

    def fit(self, codes: Codes, seconds: Floats) -> None:
        """Solve for ``a`` and ``b``."""
        x = self.known(codes)
        rows = np.stack([np.ones(len(x)), x], axis=1) / seconds[:, None]
        both = np.linalg.lstsq(rows, np.ones(len(x)), rcond=None)[0]
        flat, steep = float(np.median(seconds)), float(np.median(seconds / np.maximum(x, 1e-30)))
        self.line = both if (both >= 0).all() else np.array([0.0, steep]) if both[0] < 0 else np.array([flat, 0.0])
        rest = np.log(seconds / self._on(x))
        self.spread = float(max(np.sqrt(np.sum(rest**2) / max(len(x) - 2, 1)), 0.005))

    def _on(self, x: Floats) -> Floats:
        return np.asarray(np.maximum(self.line[0] + self.line[1] * x, 1e-12))

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """The line."""
        found = self._on(self.known(codes))
        return found, np.full(len(found), self.spread)


class Macs(_Line):
    """A line over multiply-accumulates."""

    name = "macs"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        space = context.space
        scenario = read_space_scenario({"model": f"{space.prefix}:{space.example}", "on": "rtx_3090"}, Problems())
        self.prices = space_prices(scenario)

    def known(self, codes: Codes) -> Floats:
        """Multiply-accumulates."""
        return np.asarray(self.prices["macs"](self.context.space.counts(codes)))


class Proxy(_Line):
    """A line over the time of the mean device of the prior."""

    name = "proxy"

    def known(self, codes: Codes) -> Floats:
        """Times of the mean device, relative."""
        space = self.context.space
        return np.asarray(space.counts(codes) @ np.array(prior_of(space).mean))


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
    provenance: Mapping[str, Any]

    @property
    def best(self) -> Scored:
        """The first."""
        return self.scored[0]


@complete
def search_predictor(
    measured: str, *, space: str, like: str = "", batch: int = 1, predictors: str = "", runtime: str = ""
) -> Leaderboard:
    """Which predictor knows a device best from a few measured networks, and which networks to measure next.

    Args:
        measured: CSV with the columns ``architecture`` and ``seconds`` (or ``latency_ms``).
        space: ``nb201``, ``fbnet``, ``ofa``, or a file of one's own.
        like: a machine of the catalogue that the device is or resembles, for the predictor ``priced``.
        batch: items of a pass.
        predictors: names separated by commas; empty: all there are.
        runtime: of the machine, as for ``estimate``.

    Raises:
        InputError: a field is wrong; fewer than four networks.
    """
    problems = Problems()
    known = problems.read(find_space, space)
    machine = problems.read(find_machine, like) if like else None
    names = [n.strip() for n in predictors.split(",") if n.strip()] or PREDICTORS.names()
    classes = {name: problems.read(PREDICTORS.get, name) for name in names}
    problems.done()
    assert known is not None
    device = device_of("measured", known, measured, batch)
    if len(device.timed) < 4:
        raise InputError(f"expected at least four networks, got {len(device.timed)}", field="measured")
    codes = known.codes(t.architecture for t in device.timed)
    seconds = np.array([t.seconds for t in device.timed])
    context = Context(known, batch, machine.name if machine else "", {"runtime": runtime} if runtime else {})
    scored, absent, predicted = [], {}, {}
    for name, cls in classes.items():
        assert cls is not None
        try:
            predicted[name], spread = _left_out(cls, context, codes, seconds)
        except InputError as error:
            if predictors:
                raise
            absent[name] = str(error)
            continue
        off = np.log(predicted[name] / seconds)
        error_pc = 100 * float(np.median(np.abs(predicted[name] / seconds - 1.0)))
        inside = float(np.mean(np.abs(off) < Z80 * spread))
        scored.append(Scored(name, error_pc, rank_of(predicted[name], seconds), inside))
    if not scored:
        raise InputError(f"no predictor could be tried: {show('; '.join(absent.values()))}", field="predictors")
    scored.sort(key=lambda s: s.median_ape)
    best = predicted[scored[0].name]
    inputs = {"measured": measured, "space": known.name, "like": like, "batch": batch, "predictors": predictors}
    try:
        following = tuple(suggested(known, device, _NEXT))
    except InputError:
        following = ()
    return Leaderboard(
        *(known, measured, batch, len(seconds), tuple(scored), absent),
        rows=tuple((t.architecture, t.seconds, float(p)) for t, p in zip(device.timed, best, strict=True)),
        measure_next=following,
        provenance={"inputs": inputs, "hash": content_hash(inputs), "version": __version__},
    )


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
