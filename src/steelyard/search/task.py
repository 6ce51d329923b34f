"""A question with everything needed to answer it, and what its objective and its prices mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.cost.encode import Encoder, Passes
from steelyard.cost.money import hourly_price
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.provenance import Ledger
from steelyard.scenario.shown import numbers
from steelyard.search.answer import Question
from steelyard.search.demand import Demand, demand_of
from steelyard.search.options import Floats, ReplicaOption
from steelyard.search.replica_cache import ReplicaCache
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import Model

__all__ = ["PlanTask", "device_price", "node_power_w", "objective_value", "request_latency_s", "task_of"]


@dataclass(frozen=True, eq=False)
class PlanTask:
    """A question with its model, traffic and prices. Step tables are kept, whatever the SLOs and limits."""

    model: Model
    question: Question
    trace: Trace
    """The traffic at the question's rate."""
    demand: Demand
    """The same in a few numbers, for the screen."""
    device_prices: Mapping[str, float]
    """USD per device and hour by machine; NaN when none is known."""
    cache: ReplicaCache = field(default_factory=ReplicaCache)

    def asking(self, **changes: Any) -> PlanTask:
        """The same task with some fields of the question changed."""
        return replace(self, question=replace(self.question, **changes))

    def passes(self, replica: ReplicaOption, trace: Trace) -> Passes | None:
        """What reading the images and sounds of some requests takes on a replica; None: they show none."""
        seen = self.question.seen
        if not seen:
            return None
        key = self.cache.key(replica)
        if key not in self.cache.encoders:
            cluster = cluster_of(replica.cluster.machine, replica.plan.devices)
            self.cache.encoders[key] = Encoder(seen, replace(replica.plan, pp=1), cluster, replica.engine)
        return self.cache.encoders[key].passes(numbers(seen, trace))

    def encode(self, replica: ReplicaOption) -> tuple[float, float, float]:
        """Time (s) of a mean request's images, energy of one device for them (J), and the time of the host before."""
        found = self.passes(replica, self.trace)
        if found is None:
            return 0.0, 0.0, 0.0
        energy_j = float(found.time_s.mean()) * found.power_w
        return float(found.alone_s.mean()), energy_j, float(np.mean(found.host_s))

    def max_devices(self, machine: str) -> int | None:
        """Devices of a machine that the limits on devices and rent leave room for; None = any number."""
        most = [] if self.question.max_gpus is None else [self.question.max_gpus]
        budget, price = self.question.budget_usd_per_hour, self.device_prices[machine]
        if budget is not None and price > 0:
            most.append(int(budget / price + 1e-9))
        return min(most) if most else None


def task_of(
    model: Model, question: Question, trace: Trace, *, dispersion: float | None = None, ledger: Ledger | None = None
) -> PlanTask:
    """A question with its traffic reduced to a demand and its devices priced.

    Args:
        model: the model.
        question: the question.
        trace: the traffic at the question's rate.
        dispersion: of the arrivals; None = as the trace has it.
        ledger: takes up where the prices come from.
    """
    taken = Ledger() if ledger is None else ledger
    prices = {name: device_price(question, name, taken) for name in question.machines}
    return PlanTask(model, question, trace, demand_of(trace, question.rate_per_s, dispersion), prices)


def device_price(question: Question, name: str, ledger: Ledger) -> float:
    """USD per device and hour: given, the catalogue's newest, or a purchase written off; NaN when none is known."""
    given = question.device_prices.get(name)
    if given is not None:
        ledger.cite(f"price of {name}", "given")
    found = hourly_price(question.machine(name), given, ledger, purchase=question.purchase).usd_per_hour
    return math.nan if found is None else found


def node_power_w(cluster: Cluster) -> float:
    """A full node at the most its devices draw, its host included, W."""
    return cluster.per_node * cluster.machine.most_w + cluster.host_w


def request_latency_s(question: Question, ttft_s: Any, tpot_s: Any) -> Any:
    """Time of a mean request at the percentiles of the SLOs, s: what the objective ``latency`` minimises."""
    return ttft_s + max(question.output_tokens - 1.0, 0.0) * tpot_s


def objective_value(question: Question, rent_usd_per_hour: Any, watts: Any, rate_per_s: Any, latency_s: Any) -> Floats:
    """The objective, less is better: USD/h, W, g/h, minus requests/s, or s."""
    value = {
        "cost": rent_usd_per_hour,
        "energy": watts,
        "carbon": watts / 1000 * (question.carbon_g_per_kwh or 0.0),
        "throughput": -rate_per_s,
        "latency": latency_s,
    }[question.objective]
    return np.asarray(value, dtype=np.float64)
