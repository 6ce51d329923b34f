"""The planner's question and its answer: frozen records, SI units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.cost.money import Purchase
from steelyard.deployment.deployment import Deployment
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine
from steelyard.provenance import Ledger
from steelyard.scenario.slo import Target
from steelyard.techniques._base import Technique
from steelyard.units import Quantity
from steelyard.workload.reading import Seen

if TYPE_CHECKING:
    from steelyard.search.fleet import FleetAnswer
    from steelyard.search.ways import Ways

__all__ = ["MODES", "OBJECTIVES", "Answer", "Candidate", "Change", "Infeasible", "Question"]

#: What a plan is best at: least ``cost``, ``energy``, ``carbon`` or ``latency``, most ``throughput``.
OBJECTIVES = ("cost", "energy", "carbon", "throughput", "latency")
#: One pool that does all of a request, or a prefill and a decode pool.
MODES = ("aggregated", "disaggregated")


@dataclass(frozen=True)
class Question:
    """A question to the planner, every choice made and checked. Empty and None mean "no limit".

    What has no note is the field of ``plan`` of that name (:mod:`steelyard.scenario.fields`).
    """

    model: Annotated[str, "name of the model in the catalogue, or a path"]
    machines: Annotated[tuple[str, ...], "names of the machines that may be used"]
    targets: Annotated[tuple[Target, ...], "the SLOs: a percentile of TTFT, TPOT or end-to-end time under a limit"]
    rate_per_s: Annotated[float, Quantity("1/s", "requests per second to serve; NaN with `concurrency`", gt=0)]
    prompt_tokens: Annotated[float, Quantity("1", "mean prompt tokens", ge=1)]
    output_tokens: Annotated[float, Quantity("1", "mean output tokens", ge=1)]
    traffic: Annotated[Mapping[str, Any], "the options of the traffic as they were given; empty for a trace object"] = (
        field(default_factory=dict)
    )
    objective: Annotated[str, "one of OBJECTIVES"] = "cost"
    concurrency: int | None = None
    max_gpus: int | None = None
    budget_usd_per_hour: Annotated[float | None, "rent of the whole deployment at most, USD/h"] = None
    max_w: Annotated[float | None, "power of the whole deployment with its hosts at most, W"] = None
    rack_w: Annotated[float | None, "power of one node with its devices at full load at most, W"] = None
    engines: Annotated[tuple[str, ...], "serving engines that may be used; empty = the usual one of each machine"] = ()
    modes: Annotated[tuple[str, ...], "of MODES"] = MODES
    weights: Annotated[tuple[str, ...], "weight formats that may be used; empty = as published"] = ()
    kv: Annotated[tuple[str, ...], "formats of the KV cache that may be used; empty = 16 bit"] = ()
    headroom_frac: Annotated[float, Quantity("1", "the deployment must hold this much more than the rate", ge=0)] = 0.0
    spares: Annotated[int, Quantity("1", "replicas per pool that may fail with every SLO still met", ge=0)] = 0
    device_prices: Annotated[Mapping[str, float], "USD per device and hour by machine, over the catalogue's"] = field(
        default_factory=dict
    )
    speculate: Annotated[tuple[str, ...], "ways to decode speculatively that may be used"] = ()
    purchase: Annotated[Purchase, "how bought devices are written off"] = field(default_factory=Purchase)
    carbon_g_per_kwh: float | None = None
    requests: int = 0
    inputs: Annotated[Mapping[str, Any], "arguments of the planner that ask the question again"] = field(
        default_factory=dict
    )
    sure: float = 0.8
    seen: Annotated[tuple[Seen, ...], "images and sounds of a request, whose tokens are part of its prompt"] = ()

    techniques: Annotated[tuple[Technique, ...], "what is put on every candidate"] = ()
    descriptions: Annotated[Mapping[str, Machine], "the machines by their names; the catalogue's where not given"] = (
        field(default_factory=dict)
    )

    def machine(self, name: str) -> Machine:
        """One of :attr:`machines` itself."""
        return self.descriptions.get(name) or find_machine(name)

    @property
    def skew(self) -> float:
        """Exponent of the power law of expert popularity, 0 = balanced."""
        return float(self.inputs.get("skew", 0.0))

    @property
    def seed(self) -> int:
        """Fixes the arrivals."""
        return int(self.inputs.get("seed", 0))

    @property
    def load(self) -> float:
        """What is sent, and what grows to find what a deployment holds: requests/s, or users who wait for answers."""
        return self.rate_per_s if self.concurrency is None else float(self.concurrency)

    @property
    def required_load(self) -> float:
        """The load a deployment must hold: with its headroom."""
        return self.load * (1.0 + self.headroom_frac)

    def allows(self, devices: Any, rent_usd_per_hour: Any, watts: Any) -> NDArray[np.bool_]:
        """Which deployments keep the limits on devices, rent (USD/h) and power (W); arrays of one shape."""
        allowed = np.ones(np.shape(devices), dtype=bool)
        if self.max_gpus is not None:
            allowed &= np.asarray(devices) <= self.max_gpus
        if self.budget_usd_per_hour is not None:
            allowed &= np.asarray(rent_usd_per_hour) <= self.budget_usd_per_hour * (1 + 1e-9)
        if self.max_w is not None:
            allowed &= np.asarray(watts) <= self.max_w
        return allowed


@dataclass(frozen=True)
class Candidate:
    """One deployment and what it is expected to do at the requested traffic."""

    deployment: Deployment
    machine: str
    """Name of the machine; ``a+b`` when the pools differ."""
    devices: int
    """Devices of the whole deployment, spares included."""
    engine: str
    mode: str
    """``aggregated`` or ``disaggregated``."""
    shape: str
    """``3 x tp4``, ``2P tp2 + 3D tp4``, ``1 x tp8 dp8 ep64``."""
    limits: Mapping[str, int]
    """``max_num_seqs`` and ``max_num_batched_tokens`` of a replica; with pools, prefixed ``prefill.``, ``decode.``."""
    formats: Mapping[str, str]
    """``weights``, ``activations``, ``kv``, ``communication``."""
    rent_usd_per_hour: float | None
    """Rent of all devices of the deployment; None when no price is known."""
    usd_per_million_tokens: float | None
    """The same per million output tokens at the requested traffic."""
    watts: float
    """Mean electrical power of devices and hosts at the requested traffic, W."""
    ttft_s: float
    """At the percentile of its SLO (p99 without one), s."""
    tpot_s: float
    """At the percentile of its SLO (p99 without one), s."""
    e2e_s: float
    tokens_per_s: float
    """Output tokens per second at the requested traffic (at the largest rate, for the objective ``throughput``)."""
    tokens_per_s_per_device: float
    """Output tokens per second and device when loaded to ``max_rate_per_s``."""
    tokens_per_s_per_user: float
    """What one request sees while it decodes: ``1 / tpot`` (of the mean)."""
    max_rate_per_s: float
    """Largest request rate at which every SLO is met."""
    interval: Mapping[str, tuple[float, float]]
    """80 % intervals of ``ttft_s``, ``tpot_s``, ``e2e_s``, ``max_rate_per_s``; empty when unknown."""
    percentiles: Mapping[str, Mapping[str, float]]
    """``ttft_s``, ``tpot_s``, ``e2e_s`` -> ``mean``, ``p50``, ``p90``, ``p95``, ``p99``; empty unless simulated."""
    simulated: bool
    """Simulated request by request; otherwise the figures are the analytic screen's."""
    meets: bool
    """Every SLO is met at the requested traffic."""
    headroom_frac: float
    """``max_rate_per_s / rate - 1``, or ``max_concurrency / concurrency - 1``."""
    carbon_g_per_hour: float | None = None
    breaks_first: str = ""
    """The SLO or resource that fails first as traffic grows: ``ttft``, ``tpot``, ``e2e``, ``kv``, ``rate``."""
    batch_mean: float = 0.0
    """Requests in a step of one decoding replica."""
    kv_frac: float = 0.0
    """Mean share of the KV cache in use."""
    value: float = 0.0
    """Of the objective: USD/h, W, g/h, requests/s or s."""
    max_concurrency: int | None = None
    """Most users who wait for their answers at which every SLO is met, where users were asked for."""
    chance: Mapping[str, float] = field(default_factory=dict)
    """Of ``ttft``, ``tpot``, ``e2e`` and ``rate`` to hold as asked, and of ``all`` of them; empty unless simulated."""
    doubts: tuple[str, ...] = ()
    """What speaks against it beside its figures: a machine never calibrated, a fleet nobody builds."""

    def columns(self) -> dict[str, Any]:
        """Every figure by its name in JSON and tables, where the rent of the deployment is ``usd_per_hour``."""
        return {f.name.removeprefix("rent_"): getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Change:
    """One change of the question under which a plan exists, and that plan."""

    text: str
    """With the option to give: ``looser TPOT: p95 under 62 ms (--tpot p95:62ms)``."""
    arguments: Mapping[str, Any]
    """Arguments of the planner to change, by name."""
    winner: Candidate


@dataclass(frozen=True)
class Infeasible:
    """Why nothing fits, and the nearest changes that would, each planned again to be sure."""

    reason: str
    nearest: tuple[Change, ...]
    closest: Candidate | None = None
    """The candidate that comes nearest to the SLOs, where any could run at all."""


@dataclass(frozen=True, eq=False, repr=False)
class Answer(Result):
    """The planner's answer."""

    question: Question
    candidates: int
    """Deployments the screen computed."""
    screened_per_s: float
    """Candidates per CPU second of the screen, space and prices included."""
    simulated: int
    """Simulator runs."""
    cpu_s: float
    winner: Candidate | None
    """None when no deployment meets the SLOs; then ``infeasible`` says why."""
    front: tuple[Candidate, ...]
    """Tokens/s/user against tokens/s/device: no other candidate is better in both. Most tokens/s/user first."""
    cost_front: tuple[Candidate, ...]
    """Rent against TTFT at its percentile among those that meet every SLO. Cheapest first."""
    runners_up: tuple[Candidate, ...]
    """Next best by the objective, of other shapes, engines, machines or modes; simulated like the winner."""
    infeasible: Infeasible | None
    ledger: Ledger
    why: tuple[str, ...]
    """Why the winner won, one sentence each."""
    breaks_first: str
    """What fails first when traffic grows, and at what rate."""
    stages_s: Mapping[str, float] = field(default_factory=dict)
    """Wall time of ``space``, ``prices``, ``screen`` and ``finalists``, s."""
    narrowing: str = ""
    """The measurement that would make the winner's chances surer."""
    certainty: Mapping[float, Candidate | None] = field(default_factory=dict)
    """The cheapest deployment that holds every promise with a chance, by that chance; None where there is none."""
    fleet: FleetAnswer | None = None
    """With ``mix``: the best fleet of unlike machines for the same question, beside the winner."""
    ways: Ways | None = None
    """With ``against`` or ``scale_to_zero``: what the traffic costs by API, rented, on demand and bought."""

    @property
    def feasible(self) -> bool:
        """Whether a plan was found."""
        return self.winner is not None

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Arguments of the planner that ask the question again."""
        return self.question.inputs
