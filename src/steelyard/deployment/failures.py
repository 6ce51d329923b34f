"""How often a job is interrupted: rates of failures by what fails, as text, as facts of clusters, for any size of job.

Hardware fails at each node and takes it out; software fails at each node or once a job; nodes rented cheaply are
reclaimed; silent errors spoil the numbers and are found late. Rates add up: ``rate = sum rate_per x count``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.documents import build_file
from steelyard.errors import InputError, UnknownName
from steelyard.folders import catalogue_files
from steelyard.interval import Z80
from steelyard.units import HOURS_PER_YEAR, Quantity

__all__ = ["KINDS", "NEVER", "Cluster", "Failures", "Rate", "failing_clusters", "parse_failures", "typical_failures"]

DAY_S: Final = 86400.0
#: Student's t at 0.9 with 1, 2, ... degrees of freedom.
STUDENT: Final = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397)
#: Kinds of failure: what they take with them: :mod:`steelyard.training.reliability`.
KINDS: Final = ("hardware", "software", "reclaim", "silent")
_KIND_WORDS: Final = {
    **{kind: kind for kind in KINDS},
    "hw": "hardware",
    "sw": "software",
    "spot": "reclaim",
    "sdc": "silent",
}
_PERIODS: Final = {
    **dict.fromkeys(("s", "second"), 1.0),
    **dict.fromkeys(("min", "minute"), 60.0),
    **dict.fromkeys(("h", "hr", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), DAY_S),
    "week": 7 * DAY_S,
    "month": HOURS_PER_YEAR / 12 * 3600.0,
    "year": HOURS_PER_YEAR * 3600.0,
}
_THINGS: Final = {"node": "node", "server": "node", "host": "node", "gpu": "device", "device": "device", "job": "job"}
_RATE = re.compile(
    r"^(?:(?P<kind>[a-z]+)\s*:\s*)?(?P<times>\d[\d_]*\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*/\s*(?P<many>\d[\d_]*\.?\d*k?)?\s*"
    r"(?P<thing>[a-z]+)[\s-]*(?P<period>[a-z]+)$"
)
_FORM: Final = "expected a rate such as 3.8/1000node-day, sw:1/job-day or 1/50000gpu-h, a cluster, or none"


@dataclass(frozen=True, slots=True)
class Rate:
    """Failures of one kind: so many per second and thing."""

    kind: Literal["hardware", "software", "reclaim", "silent"]
    per: Literal["node", "device", "job"]
    per_s: Annotated[float, Quantity("1/s", "of each thing", ge=0)]


@dataclass(frozen=True, slots=True)
class Failures:
    """Rates of everything that interrupts a job; sums of texts and clusters."""

    rates: tuple[Rate, ...] = ()
    source: str = ""
    spread: float = 0.0
    """Standard deviation of log(true rate / this), where the rate is another cluster's."""

    def per_s(self, kind: str, nodes: ArrayLike, devices: ArrayLike) -> NDArray[np.float64]:
        """Failures of a kind per second of a job: ``sum rate x (nodes, devices or 1)``.

        Args:
            kind: one of :data:`KINDS`.
            nodes, devices: of the job; arrays over sizes.
        """
        many: dict[str, Any] = {
            "node": np.asarray(nodes, np.float64),
            "device": np.asarray(devices, np.float64),
            "job": 1.0,
        }
        found = np.zeros(np.broadcast_shapes(np.shape(nodes), np.shape(devices)))
        for rate in self.rates:
            if rate.kind == kind:
                found = found + rate.per_s * many[rate.per]
        return found

    def mtbf_s(self, nodes: ArrayLike, devices: ArrayLike) -> NDArray[np.float64]:
        """Mean time between interruptions of a job, s; silent errors interrupt nothing by themselves; inf = never."""
        total = sum((self.per_s(kind, nodes, devices) for kind in KINDS if kind != "silent"), np.zeros(()))
        with np.errstate(divide="ignore"):
            return np.asarray(1.0 / total, dtype=np.float64)

    def only(self, *kinds: str) -> Failures:
        """Without the failures of other kinds."""
        return Failures(tuple(r for r in self.rates if r.kind in kinds), self.source, self.spread)


#: Nothing fails.
NEVER: Final = Failures(source="nothing fails")


@dataclass(frozen=True, slots=True)
class Measured:
    """A rate of a cluster, and where it is from."""

    __pydantic_config__ = {"extra": "forbid"}

    source: str
    per_1000_node_days: Annotated[float, Quantity("1", "failures per 1,000 nodes and day", ge=0)] = 0.0
    per_job_day: Annotated[float, Quantity("1", "failures per job and day", ge=0)] = 0.0
    guess: Annotated[bool, "inferred from what is published"] = False

    def __post_init__(self) -> None:
        if self.per_1000_node_days and self.per_job_day:
            message = "expected one rate, per_1000_node_days or per_job_day; got both"
            raise InputError(message, field="per_job_day")


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is known of a cluster's failures."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    about: str
    hardware: Measured
    software: Measured | None = None

    @property
    def failures(self) -> Failures:
        """Its rates."""
        found: list[Rate] = []
        sources = []
        for kind, measured in (("hardware", self.hardware), ("software", self.software)):
            if measured is None:
                continue
            sources.append(measured.source)
            for per, times in (("node", measured.per_1000_node_days / 1000), ("job", measured.per_job_day)):
                if times:
                    found.append(Rate(kind, per, times / DAY_S))  # type: ignore[arg-type]
        return Failures(tuple(found), f"{self.about}: {'; '.join(sources)}")


@dataclass(frozen=True, slots=True)
class _ClusterFile:
    __pydantic_config__ = {"extra": "forbid"}

    cluster: tuple[Cluster, ...]


@cache
def failing_clusters() -> Mapping[str, Cluster]:
    """Clusters of the catalogue by name. Raises :class:`InputError` where a file cannot be read."""
    found: dict[str, Cluster] = {}
    for path in catalogue_files("failures"):
        for cluster in build_file(_ClusterFile, path).cluster:
            found.setdefault(cluster.name, cluster)
    return found


def typical_failures(without: str = "") -> Failures:
    """Hardware of a cluster nobody measured: the geometric mean of the n that are known.

    The spread is that of one more of them, ``s sqrt(1 + 1/n) t(0.9, n - 1) / 1.2816`` with Student's t, so that its
    80 % interval is what so few clusters tell.

    Args:
        without: a cluster that is not counted.
    """
    known = [c for c in failing_clusters().values() if c.name != without and c.hardware.per_1000_node_days > 0]
    logs = np.log([c.hardware.per_1000_node_days for c in known])
    rate = Rate("hardware", "node", math.exp(float(logs.mean())) / 1000 / DAY_S)
    names = ", ".join(c.name for c in known)
    n = len(known)
    spread = float(logs.std(ddof=1)) * math.sqrt(1 + 1 / n) * STUDENT[min(n - 1, len(STUDENT)) - 1] / Z80
    return Failures((rate,), f"geometric mean of the hardware of {names}", spread)


def parse_failures(text: str) -> Failures:
    """What fails, of text: rates, names of clusters and ``none``, separated by commas; what is named twice adds up.

    ``3.8/1000node-day`` is hardware; ``sw:``, ``reclaim:`` and ``silent:`` before a rate name other kinds. Things are
    nodes, gpus (devices) and jobs; periods from seconds to years. ``llama3``, ``rsc-1`` and ``rsc-2`` are clusters of
    the catalogue, ``llama3:hardware`` one of its kinds, ``typical`` the mean of all.

    Raises:
        InputError: it is none of these, names the field ``failures`` and the nearest valid choice.
    """
    parts = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError(f"{_FORM}; got {text!r:.80}", field="failures")
    found = [_one(part) for part in parts if part not in ("none", "never", "0")]
    if not found:
        return NEVER
    rates = tuple(rate for failures in found for rate in failures.rates)
    sources = "; ".join(dict.fromkeys(f.source for f in found))
    return Failures(rates, sources, max(f.spread for f in found))


def _one(part: str) -> Failures:
    """One item of the text."""
    if "/" not in part:
        name, _, kind = (x.strip() for x in part.partition(":"))
        clusters = failing_clusters()
        if name not in clusters and name != "typical":
            if any(c.isdigit() for c in name[:1]):
                raise InputError(f"{_FORM}; got {part!r:.80}", field="failures")
            raise InputError(
                UnknownName("cluster of failures", name, [*clusters, "typical", "none"]).message, field="failures"
            )
        known = typical_failures() if name == "typical" else clusters[name].failures
        return known.only(_kind(kind)) if kind else known
    match = _RATE.match(part)
    if match is None:
        raise InputError(f"{_FORM}; got {part!r:.80}", field="failures")
    thing = match["thing"] if match["thing"] in _THINGS else match["thing"].removesuffix("s")
    period = match["period"] if match["period"] in _PERIODS else match["period"].removesuffix("s")
    if thing not in _THINGS:
        raise InputError(UnknownName("thing that fails", match["thing"], _THINGS).message, field="failures")
    if period not in _PERIODS:
        raise InputError(UnknownName("period", match["period"], _PERIODS).message, field="failures")
    many = (match["many"] or "1").replace("_", "")
    count = float(many.rstrip("k")) * (1000.0 if many.endswith("k") else 1.0)
    times = float(match["times"].replace("_", ""))
    if count <= 0 or times > 1e9:
        raise InputError(f"{_FORM}; got {part!r:.80}", field="failures")
    rate = times / count / _PERIODS[period]
    return Failures((Rate(_kind(match["kind"] or "hardware"), _THINGS[thing], rate),), "as said")  # type: ignore[arg-type]


def _kind(word: str) -> Literal["hardware", "software", "reclaim", "silent"]:
    if word not in _KIND_WORDS:
        raise InputError(UnknownName("kind of failure", word, _KIND_WORDS).message, field="failures")
    return _KIND_WORDS[word]
