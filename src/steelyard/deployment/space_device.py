"""Devices known by a few networks of a space that were measured on them.

Costs of choices add up (:mod:`steelyard.workload.networks.search_space`), so a device is one cost per choice. They are
learned from measured networks with a **prior** of how such costs vary over other devices, relative to a device's mean
network: a mean ``m`` and directions ``F``, to which a common factor within 30 % is added. With times ``y`` of
architectures of counts ``X``, in units of the prior's scale::

    costs ~ Normal(m, C),  C = F'F + 0.3^2 m m' + nugget,   y = X costs + noise,  noise ~ Normal(0, (s X m)^2)

``s`` is not known (a phone that runs other things scatters by 15 %, a server by 0.5 %): answers are averaged over a
grid of it, weighed by the likelihood and a wide prior about 4 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from steelyard.documents import build_file
from steelyard.errors import InputError, Problem, normalise, raise_all, show
from steelyard.folders import catalogue_files
from steelyard.machine.catalogue import find_machine
from steelyard.units import Quantity
from steelyard.workload.networks.search_space import SPACES, Space, find_space

__all__ = [
    "Costs",
    "Prior",
    "SpaceDevice",
    "Timed",
    "costs_of",
    "find_space_device",
    "fit_prior",
    "next_rows",
    "prior_of",
    "relative_costs",
    "space_devices",
]

Floats = NDArray[np.float64]

#: Standard deviation of the common factor, and of a single choice beside the directions, relative to a network.
COMMON, NUGGET = 0.3, 1e-3
#: Scatter of a measurement: values tried, and the middle and width (log) of what is believed of it beforehand.
NOISES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18)
USUAL_NOISE, NOISE_WIDTH = 0.04, 1.0
#: Directions kept of a prior.
RANK = 8


@dataclass(frozen=True, eq=False)
class Prior:
    """What devices have in common: costs of choices over the time of a mean network."""

    __pydantic_config__ = {"extra": "forbid"}

    space: str
    mean: tuple[float, ...]
    factors: Annotated[tuple[tuple[float, ...], ...], "directions in which devices differ, one deviation each"] = ()
    devices: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        n = len(find_space(self.space).features)
        wrong = [i for i, row in enumerate((self.mean, *self.factors)) if len(row) != n]
        if wrong:
            raise InputError(f"expected {n} numbers a row, a cost for each choice of {self.space}", field="mean")

    @cached_property
    def _directions(self) -> Floats:
        """What devices differ in, and the common factor: ``[directions, features]``."""
        return np.array([*self.factors, [COMMON * m for m in self.mean]], dtype=np.float64)

    def along(self, counts: Floats) -> Floats:
        """Covariances of times of architectures with the costs: ``[n, features]``."""
        return np.asarray((counts @ self._directions.T) @ self._directions + NUGGET**2 * counts)

    def covary(self, a: Floats, b: Floats) -> Floats:
        """Covariances of times of architectures: ``[n, k]``."""
        return np.asarray((a @ self._directions.T) @ (b @ self._directions.T).T + NUGGET**2 * (a @ b.T))

    def variance(self, counts: Floats) -> Floats:
        """Variances of times of architectures."""
        return np.asarray(np.sum((counts @ self._directions.T) ** 2, axis=1) + NUGGET**2 * np.sum(counts**2, axis=1))


@dataclass(frozen=True, eq=False)
class Costs:
    """Costs of choices on a device, in s, as far as they are known: mixed over the scatters that are possible."""

    prior: Prior
    scale: float
    """Time of a mean network on the device, as the prior's shape says."""
    counts: Floats
    """Of the networks that were measured ``[k, features]``."""
    weights: Floats
    """Of each scatter ``[m]``."""
    means: Floats
    """``[m, features]``, s."""
    gains: Floats
    """Inverse covariances of the measurements, relative: ``[m, k, k]``."""

    def _usual(self, counts: Floats) -> Floats:
        return np.asarray(self.scale * (counts @ np.array(self.prior.mean)))

    def time_s(self, counts: Floats) -> Floats:
        """Times of architectures ``[n, features]``; never below a hundredth of what other devices would take."""
        return np.asarray(np.maximum(counts @ (self.weights @ self.means), 0.01 * self._usual(counts)))

    @property
    def noise(self) -> float:
        """Scatter of a measurement, relative, as it is believed now."""
        return float(np.sqrt(self.weights @ np.array(NOISES) ** 2))

    def spread(self, counts: Floats) -> Floats:
        """Standard deviation of the logarithm of a time that is measured once more."""
        cross = self.prior.covary(counts, self.counts)
        known = np.einsum("nk,mkl,nl->mn", cross, self.gains, cross, optimize=True)
        left = np.maximum(self.prior.variance(counts) - known, 0.0) * self.scale**2
        each = self.means @ counts.T
        between = self.weights @ (each - self.weights @ each) ** 2
        total = self.weights @ left + between + (self.noise * self._usual(counts)) ** 2
        return np.asarray(np.sqrt(np.log1p(total / self.time_s(counts) ** 2)))


def costs_of(prior: Prior, counts: Floats, seconds: Floats) -> Costs:
    """Costs of a device of which architectures of ``counts`` took ``seconds``."""
    mean = np.array(prior.mean)
    usual = counts @ mean
    scale = float(np.median(seconds / usual))
    rest = seconds / scale - usual
    common = prior.covary(counts, counts)
    logs, means, gains = [], [], []
    for noise in NOISES:
        spread = common + np.diag((noise * usual) ** 2)
        gain = np.linalg.inv(spread)
        fit = -0.5 * float(rest @ gain @ rest) - 0.5 * float(np.linalg.slogdet(spread)[1])
        logs.append(fit - 0.5 * (np.log(noise / USUAL_NOISE) / NOISE_WIDTH) ** 2)
        means.append(scale * (mean + prior.along(counts).T @ (gain @ rest)))
        gains.append(gain)
    weights = np.exp(np.array(logs) - max(logs))
    return Costs(prior, scale, counts, weights / weights.sum(), np.array(means), np.array(gains))


def next_rows(prior: Prior, known: Floats, candidates: Floats, n: int) -> list[int]:
    """The candidates that would tell most of a device of which ``known`` rows were measured, one after the other.

    Each is the one that leaves the least mean variance of all candidates' times, relative to a device's usual ones: the
    greedy way to I-optimal rows (rows that are unlike all others tell more of costs, and less of times).
    """
    mean = np.array(prior.mean)
    covariance = prior.along(np.eye(len(mean)))
    usual = np.maximum(candidates @ mean, 1e-9)
    wanted = (candidates / usual[:, None] ** 2).T @ candidates
    for row in known:
        covariance = _told(covariance, row, USUAL_NOISE * float(row @ mean))
    chosen: list[int] = []
    noise = USUAL_NOISE * usual
    for _ in range(min(n, len(candidates))):
        seen = candidates @ covariance
        variance = np.sum(seen * candidates, axis=1)
        gain = np.sum((seen @ wanted) * seen, axis=1) / (variance + noise**2)
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        chosen.append(best)
        covariance = _told(covariance, candidates[best], float(noise[best]))
    return chosen


def _told(covariance: Floats, row: Floats, noise: float) -> Floats:
    """A covariance of costs once a network of these counts was measured."""
    seen = covariance @ row
    return np.asarray(covariance - np.outer(seen, seen) / (float(row @ seen) + noise**2))


def relative_costs(counts: Floats, seconds: Floats) -> Floats:
    """Costs of choices of a device of which very many architectures were measured, over the time of a mean one."""
    # Shrunk a little, since counts of the choices of a kind always have the same sum.
    system = counts.T @ counts + 1e-3 * np.eye(counts.shape[1])
    costs = np.linalg.solve(system, counts.T @ seconds)
    return np.asarray(costs / np.mean(counts @ costs), dtype=np.float64)


def fit_prior(space: str, costs: Floats, devices: Sequence[str] = (), source: str = "") -> Prior:
    """The prior of devices whose relative costs ``[devices, features]`` are known."""
    mean = costs.mean(axis=0)
    _, sizes, directions = np.linalg.svd((costs - mean) / np.sqrt(max(len(costs) - 1, 1)), full_matrices=False)
    factors = (sizes[:, None] * directions)[: min(RANK, len(costs) - 1, len(mean))]
    return Prior(space, tuple(mean), tuple(map(tuple, factors)), tuple(devices), source)


@dataclass(frozen=True, slots=True)
class Timed:
    """One network that was measured."""

    __pydantic_config__ = {"extra": "forbid"}

    architecture: str
    seconds: Annotated[float, Quantity("s", "of one pass over the batch", gt=0, le=1e6)]


@dataclass(frozen=True)
class SpaceDevice:
    """Networks of one space that were measured on one device."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    space: str
    batch: Annotated[int, Quantity("1", "items of a pass", ge=1)] = 1
    timed: tuple[Timed, ...] = field(default_factory=tuple)
    source: str = ""

    def __post_init__(self) -> None:
        raise_all(list(self._problems()))

    def _problems(self) -> Iterator[Problem]:
        if len(self.timed) < 3:
            yield Problem("timed", f"expected at least three measured networks, got {len(self.timed)}")
        try:
            find_space(self.space).codes(t.architecture for t in self.timed)
        except InputError as error:
            yield from error.problems

    @property
    def of(self) -> Space:
        """Its space."""
        return find_space(self.space)

    @property
    def measured(self) -> tuple[Floats, Floats]:
        """Counts and seconds of what was measured."""
        space = find_space(self.space)
        return space.counts(space.codes(t.architecture for t in self.timed)), np.array([t.seconds for t in self.timed])

    def costs(self) -> Costs:
        """What is known of the device's costs."""
        return costs_of(prior_of(find_space(self.space)), *self.measured)


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    schema: str = ""
    prior: tuple[Prior, ...] = ()
    device: tuple[SpaceDevice, ...] = ()


def _files() -> Iterator[_File]:
    for path in catalogue_files("spaces"):
        yield build_file(_File, path)


@cache
def _priors() -> Mapping[str, Prior]:
    found: dict[str, Prior] = {}
    for file in _files():
        for prior in file.prior:
            found.setdefault(find_space(prior.space).name, prior)
    return found


def prior_of(space: Space) -> Prior:
    """What measured devices say of a space. Raises :class:`InputError`: of this one, none does."""
    if space.name not in _priors():
        able = ", ".join(s for s in SPACES if s in _priors())
        raise InputError(f"no prior of devices for {space.name}; there is one for {able}", field="space")
    return _priors()[space.name]


@cache
def space_devices() -> tuple[SpaceDevice, ...]:
    """Every device known by measured networks; the user's come first."""
    return tuple(device for file in _files() for device in file.device)


def find_space_device(name: str, space: Space, batch: int) -> SpaceDevice | None:
    """The device of this name for a space; None: networks of the space were not measured on it with this batch.

    Raises:
        InputError: they were with another batch, and nothing else is known of the device.
    """
    found = [d for d in space_devices() if normalise(d.name) == normalise(name) and d.of is space]
    for device in found:
        if device.batch == batch:
            return device
    if found and not _is_machine(name):
        known = " and ".join(str(d.batch) for d in found)
        raise InputError(
            f"networks of {space.name} on {show(name)} were measured with a batch of {known}", field="batch"
        )
    return None


def _is_machine(name: str) -> bool:
    try:
        find_machine(name)
    except InputError:
        return False
    return True
