"""What architectures of a searched space cost on a device, all in one call; see :mod:`steelyard.cost.space_price`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.cost.money import hourly_price
from steelyard.cost.net_cycles import Held, held_parts
from steelyard.cost.net_price import NetPrice, energy_j, log_spread, price_net, reach_of
from steelyard.cost.space_price import SpacePrices, price_space
from steelyard.interval import interval80
from steelyard.machine.catalogue import account
from steelyard.provenance import Ledger, record_of
from steelyard.scenario.fields import PRICE
from steelyard.scenario.network import NetScenario, sets_of
from steelyard.scenario.space import SpaceScenario
from steelyard.workload.nets import load_net
from steelyard.workload.networks.search_space import Space
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["SpaceEstimate", "answer_space", "graph_prices", "space_prices"]

Floats = NDArray[np.float64]
#: What sums of choices leave out where the edges of a cell, which lie beside each other, become one kernel.
JOINED = "the runtime joins ops of several edges, which sums do not see: times are off by 20 %, by half in small cells"


@dataclass(frozen=True, eq=False, repr=False)
class SpaceEstimate(Result):
    """The answers for many architectures; arrays ``[n]``. Times in s, energy in J, money in USD.

    Energy, limit and money are None where nothing is known of the machine but times that were measured.
    """

    scenario: SpaceScenario
    latency_s: Floats
    """Of one pass over the batch."""
    low_s: Floats
    high_s: Floats
    """Ends of the 80 % interval of the latency."""
    macs: Floats
    """Multiply-accumulates of one item."""
    parameters: Floats
    energy_j_per_item: Floats | None
    limit_s: Floats | None
    hourly_usd: float | None
    """Rent of a device; None: no price is known."""
    ledger: Ledger
    peak_memory_bytes: Floats | None = None
    """Of a microcontroller's memory for activations; None: it is not planned."""

    def __len__(self) -> int:
        return len(self.latency_s)

    @property
    def throughput_per_s(self) -> Floats:
        """Items per second on all devices, each with passes of its own."""
        network = self.scenario.network
        return self.scenario.batch * (network.cluster.count if network else 1) / self.latency_s

    @property
    def usd_per_million_items(self) -> Floats | None:
        """What a million items cost; None: no price is known."""
        network = self.scenario.network
        if self.hourly_usd is None or network is None:
            return None
        return self.hourly_usd * network.cluster.count / 3600 / self.throughput_per_s * 1e6

    @property
    def architectures(self) -> list[str]:
        """Every architecture as text."""
        space = self.scenario.space
        return [space.spell(code) for code in self.scenario.codes.tolist()]


def answer_space(scenario: SpaceScenario, prices: SpacePrices | None = None) -> SpaceEstimate:
    """Weigh every architecture.

    Args:
        scenario: the question.
        prices: of :func:`space_prices` of the same question about other architectures, where they are known.

    Raises:
        InputError: the machine cannot compute so.
    """
    counts, network, ledger = scenario.space.counts(scenario.codes), scenario.network, Ledger()
    prices = space_prices(scenario) if prices is None else prices
    usd = energy = limit = None
    if network is not None:
        machine = network.cluster.machine
        limit = prices["limit_s"](counts)
        busy = prices["kernel_s"](counts)
        time = np.maximum(busy, prices["host_s"](counts)) + prices["step_s"](counts)
        low, high = interval80(time, log_spread(_reach(network), machine), at_least=limit)
        account(machine, ledger)
        usd = hourly_price(machine, network.words.get(PRICE), ledger, network.cluster.system).usd_per_hour
        if scenario.space.name == "nb201" and network.runtime.fuses != "nothing" and scenario.device is None:
            ledger.assume(JOINED)
        ledger.assume(f"runtime {network.runtime.name}: {network.runtime.title}, {network.precision.name}")
    if scenario.device is not None:
        device = scenario.device
        costs = device.costs()
        time = costs.time_s(counts)
        low, high = interval80(time, costs.spread(counts))
        ledger.cite(f"device.{device.name}", f"{len(device.timed)} measured networks, {device.source or 'given'}")
        ledger.cite(f"prior.{scenario.space.name}", costs.prior.source)
    if network is not None:
        energy = energy_j(prices["kernel_j"](counts), np.minimum(busy, time), time, machine) / scenario.batch
    return SpaceEstimate(
        scenario=scenario,
        latency_s=time,
        low_s=low,
        high_s=high,
        macs=prices["macs"](counts),
        parameters=prices["parameters"](counts),
        energy_j_per_item=energy,
        limit_s=limit,
        hourly_usd=usd,
        ledger=ledger,
        peak_memory_bytes=prices.peak_bytes(counts),
    )


def _reach(network: NetScenario) -> Any:
    train, precision = bool(network.words.get("train")), network.precision.name
    return reach_of(network.runtime, network.cluster.machine, network.layout, train, precision)


def graph_prices(space: Space) -> SpacePrices:
    """Multiply-accumulates, parameters and what else is counted of every choice of a space, without any machine."""
    return price_space(space, lambda code: load_net(f"{space.prefix}:{space.spell(code)}"), None)


def space_prices(scenario: SpaceScenario) -> SpacePrices:
    """What every choice costs on the machine; multiply-accumulates, parameters and depth where there is none."""
    space, network = scenario.space, scenario.network
    words: Mapping[str, Any] = network.words if network else {}
    sets = sets_of(words.get("set", ""))
    sets.pop("batch", None)

    def graph_of(code: Any) -> TensorGraph:
        return load_net(f"{space.prefix}:{space.spell(code)}", size=words.get("size") or None, sets=sets)

    def price(graph: TensorGraph) -> NetPrice:
        assert network is not None
        sizes = {"batch": np.array([float(scenario.batch)])}
        train = bool(words.get("train"))
        return price_net(
            *(graph, sizes, network.cluster.machine, network.runtime, network.precision, network.layout, train),
            effects=network.effects,
        )

    def held(graph: TensorGraph) -> Held:
        assert network is not None
        return held_parts(graph, {"batch": scenario.batch}, network.runtime, network.precision)

    planned = network is not None and network.runtime.library is not None and not network.effects
    return price_space(space, graph_of, price if network else None, held if planned else None)


def provenance_of(scenario: SpaceScenario) -> Mapping[str, Any]:
    """What is needed to run the same question again."""
    network = scenario.network
    inputs: dict[str, Any] = {
        "model": f"{scenario.space.prefix}:{scenario.asked}",
        "on": str(scenario.words.get("on")),
        "batch": scenario.batch,
    }
    if network is not None and scenario.device is None:
        inputs |= {
            "runtime": network.runtime.name,
            "precision": network.precision.name,
            "layout": network.layout,
        }
        inputs |= {n: network.words[n] for n in ("size", "set", "train") if network.words.get(n)}
    return record_of(inputs)
