"""``search cost``: what a search of networks costs itself, by how it rates candidates: device-days, energy, money.

Every candidate is trained; or one network with shared weights is, of which candidates are parts; or candidates are
trained in rungs, after each of which the best alone go on. A pass over the data comes from the training cost model
(:mod:`steelyard.training.networks`), of the network whose step is nearest to the mean of the space, so::

    every   = candidates x epochs x E
    rungs   = sum over rungs of candidates x (epochs - epochs of the rung before) x E
    shared  = sum over phases of epochs x E x (networks x work + update + exchange + teacher) / step + last x epochs x E
    E       = samples / batch x step,    step = work + update + exchange

and in each way a forward pass of ``rated`` samples whenever a candidate is compared with others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from steelyard._display import Result
from steelyard.errors import DoesNotFit, InputError, UnknownName, check_whole, complete, show
from steelyard.estimation.network import estimates_of
from steelyard.estimation.space import answer_space, space_prices
from steelyard.provenance import Ledger, provenance_of
from steelyard.scenario.fields import PRICE
from steelyard.scenario.net_training import NetTrainScenario
from steelyard.scenario.network import asks_net
from steelyard.scenario.space import read_space_scenario
from steelyard.scenario.training import read_train_scenario
from steelyard.scenario.words import Problems, foreign
from steelyard.techniques._base import relabelled
from steelyard.training.estimate import TrainEstimate, answer_train
from steelyard.units import parse_quantity
from steelyard.workload.nets import net_names
from steelyard.workload.networks.search_space import Space, find_space

__all__ = ["Phase", "Rung", "SearchCost", "Way", "search_cost"]

#: Networks that are drawn to find the mean step, and items of a pass they are compared at.
DRAWN, ITEMS = 1000, 64
#: What a whole number of rungs or candidates may be off by where it was divided.
_ROUNDING = 1e-9
#: Ends of runs that are told.
ENDS = ("p10", "p50", "p90")
#: What candidates are trained with beside, as fields of ``train``.
_TRAIN = ("precision", "set", "framework", "optimizer", "failures", PRICE, "power_price", "carbon", "mbs")


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of training shared weights: in every step so many networks, or ``what`` is trained."""

    epochs: float
    networks: int
    what: str = ""
    """``largest``, or a network that computes every choice; empty: drawn ones."""


@dataclass(frozen=True, slots=True)
class Rung:
    """So many candidates trained until ``epochs``, counted from the beginning."""

    candidates: int
    epochs: float


@dataclass(frozen=True, slots=True)
class Way:
    """What one way costs: by ``p10``, ``p50``, ``p90`` of runs. Money and carbon are None where no price is known."""

    name: str
    about: str
    days: Mapping[str, float]
    """On all devices."""
    device_days: Mapping[str, float]
    kwh: Mapping[str, float]
    usd: Mapping[str, float] | None
    kgco2: Mapping[str, float] | None
    parts: Mapping[str, float]
    """Device-days by what they are spent on."""


@dataclass(frozen=True, eq=False, repr=False)
class SearchCost(Result):
    """The answer: ways, dearest first as they are listed."""

    space: Space
    device: str
    devices: int
    candidates: int
    epochs: float
    samples: float
    batch: int
    ways: tuple[Way, ...]
    candidate: str
    """The network whose step is nearest to the mean of the space."""
    step_s: float
    """Of it."""
    ledger: Ledger
    provenance: Mapping[str, Any]

    @property
    def least(self) -> Way:
        """The way of the fewest device-days."""
        return min(self.ways, key=lambda w: w.device_days["p50"])


@dataclass(frozen=True, slots=True)
class _Pass:
    """A pass over the data with one network."""

    answer: TrainEstimate
    forward_s: float
    """Of a forward pass of the items of a step."""

    @property
    def beside_s(self) -> float:
        """Of a step, what comes once however many networks it trains: the update, and gradients that are waited for."""
        return self.answer.breakdown_s["optimizer"] + self.answer.breakdown_s["dp"]

    def of(self, networks: int, teacher_s: float) -> float:
        """Passes that a pass is in which every step trains so many networks, and asks a teacher."""
        step = self.answer.step_s
        return (networks * (step - self.beside_s) + self.beside_s + teacher_s) / step


@complete
def search_cost(
    space: str,
    *,
    on: str,
    candidates: int = 1000,
    epochs: float = 100.0,
    samples: str | float | None = None,
    gbs: str | int | None = None,
    shared: str = "",
    teacher: str = "",
    rungs: str = "3",
    rated: str | float = 10_000,
    last: int = 1,
    **words: Any,
) -> SearchCost:
    """What a search of networks costs itself: every candidate trained, in rungs, or one network with shared weights.

    How many epochs each needs is said; which of them finds the better network is not weighed.

    Args:
        space: ``nb201``, ``fbnet``, ``ofa``, or a file of one's own.
        on: devices that train, as for ``train``: ``v100_sxm_16gb:8``.
        candidates: networks that are compared.
        epochs: passes over the data of a training from the beginning.
        samples: of a pass (default: the 1,281,167 images of ImageNet-1k).
        gbs: samples of a step, as for ``train``.
        shared: phases of training shared weights, ``EPOCHS:NETWORKS`` separated by commas: so many networks drawn for
            every step, ``largest``, or the name of a network that computes every choice (``fbnet_supernet``). Default:
            as many epochs as a candidate has, one network a step.
        teacher: a network whose answers are learned from while shared weights are trained: ``largest``, or a name.
        rungs: by how much candidates are divided after every rung, from one epoch on; or ``CANDIDATES:EPOCHS`` of
            every rung, epochs counted from the beginning.
        rated: samples of the forward pass that rates a candidate.
        last: networks trained from the beginning once shared weights chose them.
        words: ``precision``, ``set``, ``framework``, ``optimizer``, ``mbs``, ``failures`` (default: none),
            the price of a device, ``power_price`` and ``carbon``, as for ``train``.

    Raises:
        InputError: a field is wrong.
        DoesNotFit: a network does not fit a device.
    """
    problems = Problems()
    known = problems.read(find_space, space)
    problems.add(foreign(words, _TRAIN))
    problems.read(check_whole, candidates, "candidates", 1, 10**9, "networks")
    problems.read(check_whole, last, "last", 0, 10**6, "networks")
    passes = problems.read(_number, epochs, "epochs", 1e6)
    items = problems.read(_number, rated, "rated", 1e12)
    phases = problems.read(_phases, shared or f"{passes or 1.0:g}:1")
    steps = problems.read(_rungs, str(rungs), candidates if isinstance(candidates, int) else 1, passes or 1.0)
    problems.read(_named, teacher, "teacher")
    asked = {**{n: v for n, v in words.items() if v not in (None, "")}, "on": on, "epochs": 1.0}
    asked |= {n: v for n, v in (("samples", samples), ("gbs", gbs)) if v not in (None, "")}
    asked.setdefault("failures", "none")
    problems.done()
    assert known is not None and passes is not None and items is not None and phases is not None and steps is not None
    middle, largest = _typical(known, _scenario(f"{known.prefix}:{known.example}", asked))
    search = _Search(known, asked, {"": middle, "largest": largest})
    return search.answer((candidates, passes, items, last), phases, teacher, steps)


def _named(what: str, field: str) -> str:
    """``largest``, or a network's name. Raises :class:`InputError`."""
    if what not in ("", "largest") and not asks_net({"model": what}):
        raise InputError(UnknownName("network", what, [*net_names(), "largest"]).message, field=field)
    return what


def _number(value: str | float, field: str, most: float) -> float:
    found = parse_quantity(value, "1", field)
    if not 0 < found <= most:
        raise InputError(f"expected a number above 0 and at most {most:g}, got {show(str(value))}", field=field)
    return found


def _pairs(text: str, field: str, words: str) -> list[tuple[str, str]]:
    """``A:B`` of a list, twenty at most."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 20 or not all(re.fullmatch(r"[^:]+:.+", part) for part in parts):
        raise InputError(f"expected {words}, separated by commas, 20 at most, got {show(text)}", field=field)
    return [part.partition(":")[::2] for part in parts]


def _phases(text: str) -> tuple[Phase, ...]:
    """Phases of shared weights. Raises :class:`InputError`."""
    found = []
    for epochs, what in _pairs(text, "shared", "EPOCHS:NETWORKS or EPOCHS:largest, such as 180:largest,120:1"):
        drawn = what.isascii() and what.isdecimal()
        if drawn and not 1 <= int(what[:9]) <= 9999:
            raise InputError(f"expected 1 to 9,999 networks of a step, got {show(what)}", field="shared")
        name = "" if drawn else _named(what.strip(), "shared")
        found.append(Phase(_number(epochs, "shared", 1e6), int(what) if drawn else 1, name))
    return tuple(found)


def _rungs(text: str, candidates: int, epochs: float) -> tuple[Rung, ...]:
    """Rungs, of a factor or as they are listed. Raises :class:`InputError`."""
    if ":" not in text:
        factor = _number(text, "rungs", 1e6)
        if factor <= 1:
            raise InputError(f"expected a factor above 1, or 1000:5,200:20, got {show(text)}", field="rungs")
        last = max(0, math.floor(math.log(min(max(candidates, 1), max(epochs, 1.0))) / math.log(factor) + _ROUNDING))
        each = range(last + 1)
        return tuple(Rung(math.ceil(candidates / factor**i - _ROUNDING), epochs / factor ** (last - i)) for i in each)
    found = []
    for count, until in _pairs(text, "rungs", "CANDIDATES:EPOCHS of every rung, such as 1000:5,200:20"):
        if not re.fullmatch(r"[1-9]\d{0,8}", count):
            raise InputError(f"expected a number of candidates, got {show(count)}", field="rungs")
        found.append(Rung(int(count), _number(until, "rungs", 1e6)))
    for one, other in pairwise(found):
        if other.candidates > one.candidates or other.epochs <= one.epochs:
            words = "expected fewer candidates and more epochs, counted from the beginning, after every rung"
            raise InputError(f"{words}, got {show(text)}", field="rungs")
    return tuple(found)


def _scenario(model: str, asked: Mapping[str, Any], field: str = "space") -> NetTrainScenario:
    """The training of a network that ``field`` names. Raises :class:`InputError`."""
    try:
        found = read_train_scenario({"model": model, **asked}, Problems())
    except InputError as error:
        raise relabelled(relabelled(error, "model", field), PRICE, "price") from None
    assert isinstance(found, NetTrainScenario)
    return found


def _typical(space: Space, scenario: NetTrainScenario) -> tuple[str, str]:
    """Of networks that are drawn, the one whose step is nearest to the mean, and the one of most operations."""
    assert scenario.net is not None
    words = {**scenario.net.words, "model": f"{space.prefix}:{space.example}", "batch": min(scenario.plan.mbs, ITEMS)}
    drawn = np.concatenate([space.draw(DRAWN), np.array(space.probes(), dtype=np.int64)])
    asked = replace(read_space_scenario(words, Problems()), device=None, codes=drawn)
    found = answer_space(asked, space_prices(asked))
    step = found.latency_s[:DRAWN]
    nearest, most = int(np.argmin(np.abs(step - step.mean()))), int(np.argmax(found.macs))
    return tuple(f"{space.prefix}:{space.spell(drawn[i].tolist())}" for i in (nearest, most))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class _Search:
    """A search whose candidates cost as one of them."""

    space: Space
    asked: Mapping[str, Any]
    names: Mapping[str, str]
    """Networks by the words of a phase: empty, ``largest``."""

    def passes(self, what: str, field: str) -> _Pass:
        """A pass over the data of a network. Raises :class:`DoesNotFit`."""
        name = self.names.get(what, what)
        answer = answer_train(_scenario(name, self.asked, field))
        if not answer.fits:
            device = answer.scenario.cluster.machine.name
            raise DoesNotFit(f"training {name} does not fit {device}", change="a device of more memory")
        scenario = answer.scenario
        assert isinstance(scenario, NetTrainScenario) and scenario.net is not None
        plan, alone = scenario.plan, replace(scenario.cluster, count=1)
        net = replace(scenario.net, cluster=alone, batch=np.array([plan.mbs]))
        forward = next(estimates_of(replace(net, words={**net.words, "train": False})))
        return _Pass(answer, forward.latency_s * (plan.gbs // (plan.mbs * plan.dp)))

    def answer(
        self,
        sizes: tuple[int, float, float, int],
        phases: Sequence[Phase],
        teacher: str,
        rungs: Sequence[Rung],
    ) -> SearchCost:
        """All ways, of passes over the data."""
        candidates, epochs, rated, last = sizes
        known = {what: self.passes(what, "shared") for what in dict.fromkeys(["", *(p.what for p in phases)])}
        asks_s = self.passes(teacher, "teacher").forward_s if teacher else 0.0
        mean = known[""]
        samples = mean.answer.run.tokens  # type: ignore[union-attr]
        rate = rated / samples * mean.forward_s / mean.answer.step_s
        trained = sum(b.candidates * (b.epochs - a.epochs) for a, b in pairwise([Rung(candidates, 0.0), *rungs]))
        together = [("shared weights", p.epochs * known[p.what].of(p.networks, asks_s), known[p.what]) for p in phases]
        said = ", ".join(f"{p.epochs:g} of {p.what or f'{p.networks} drawn'}" for p in phases)
        going = ", ".join(f"{r.candidates:,} until {r.epochs:.3g}" for r in rungs)
        compared = sum(r.candidates for r in rungs)
        ways = (
            _way(
                "every candidate",
                f"{candidates:,} for {epochs:g} epochs",
                [("training", candidates * epochs, mean), ("rating", candidates * rate, mean)],
            ),
            _way("rungs", f"{going} epochs", [("training", trained, mean), ("rating", compared * rate, mean)]),
            _way(
                "shared weights",
                f"epochs: {said}; {candidates:,} rated, {last:,} trained for {epochs:g}",
                [*together, ("rating", candidates * rate, mean), ("last trainings", last * epochs, mean)],
            ),
        )
        return self._found(mean.answer, ways, sizes)

    def _found(self, mean: TrainEstimate, ways: tuple[Way, ...], sizes: tuple[int, float, float, int]) -> SearchCost:
        candidates, epochs, rated, last = sizes
        ledger, cluster = Ledger(), mean.scenario.cluster
        ledger.take(mean.ledger)
        ledger.assume(f"a candidate costs as {self.names['']}, whose step is nearest to the mean of {DRAWN:,} drawn")
        ledger.assume("each is trained on all devices, one after the other")
        ledger.assume(f"a candidate is rated by a forward pass of {rated:,.0f} samples (--rated)")
        if mean.scenario.words["failures"] == "none":
            ledger.assume("nothing fails (--failures)")
        inputs = {"space": self.space.prefix, **self.asked, "candidates": candidates, "epochs": epochs}
        inputs |= {"rated": rated, "last": last, "ways": [w.about for w in ways]}
        return SearchCost(
            space=self.space,
            device=cluster.machine.name,
            devices=cluster.count,
            candidates=candidates,
            epochs=epochs,
            samples=mean.run.tokens,  # type: ignore[union-attr]
            batch=mean.scenario.plan.gbs,
            ways=ways,
            candidate=self.names[""],
            step_s=mean.step_s,
            ledger=ledger,
            provenance=provenance_of(inputs),
        )


def _way(name: str, about: str, passes: Sequence[tuple[str, float, _Pass]]) -> Way:
    """Sums of passes: what for, how many, of what. Their errors are one: that of the training cost model."""

    def summed(figure: str) -> Mapping[str, float] | None:
        each = [(count, getattr(one.answer.run, figure)) for _, count, one in passes]
        if any(values is None for _, values in each):
            return None
        return {end: sum(count * values[end] for count, values in each) for end in ENDS}

    devices = passes[0][2].answer.scenario.cluster.count
    parts: dict[str, float] = {}
    for what, count, one in passes:
        parts[what] = parts.get(what, 0.0) + count * one.answer.run.days["p50"] * devices  # type: ignore[union-attr]
    days, kwh = summed("days"), summed("kwh")
    assert days is not None and kwh is not None
    spent = {end: devices * value for end, value in days.items()}
    return Way(name, about, days, spent, kwh, summed("usd"), summed("kgco2"), {n: v for n, v in parts.items() if v})
