"""Training a network: its step as ``estimate`` weighs it with ``train``, on devices that add up their gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steelyard.cost.energy import static_power_w
from steelyard.cost.money import hourly_price
from steelyard.cost.net_kernels import PRODUCTS
from steelyard.estimation.network import STATE_BYTES, NetEstimate, estimates_of
from steelyard.provenance import Ledger
from steelyard.scenario.fields import PRICE
from steelyard.scenario.net_training import NetTrainScenario
from steelyard.training.estimate import StageHeld, TrainEstimate, with_run
from steelyard.training.step import BREAKDOWN
from steelyard.training.traffic import Links

__all__ = ["answer_net_train"]


def answer_net_train(scenario: NetTrainScenario) -> TrainEstimate:
    """Weigh the training of a network: ``turns`` passes of a micro-batch on every device, then gradients and update.

    Args:
        scenario: with the batch of a step; the largest micro-batch that fits is chosen where none was given.
    """
    one, scenario = _fitting(scenario)
    plan, cluster, ledger = scenario.plan, scenario.cluster, Ledger()
    turns, parameters = plan.gbs // (plan.mbs * plan.dp), float(one.parameters)
    waits = float(Links.of(cluster).collective_s("all_reduce", parameters * 4.0, plan.dp)) * plan.framework.dp_exposed
    products, rest, update = _by_kind(one)
    alone = turns * (one.latency_s - update) + update
    step = alone + waits
    low, high = (step * x / one.latency_s for x in one.interval["latency_s"])
    parts = dict.fromkeys(BREAKDOWN, 0.0)
    busy = turns * (one.latency_s - update) / max(products + rest, 1e-30)
    parts |= {"gemm": busy * products, "elementwise": busy * rest, "optimizer": update, "dp": waits}
    energy = (one.energy_j_per_item * plan.mbs * turns + static_power_w(cluster.machine) * waits) * cluster.count
    energy += cluster.hosts_w * step
    hourly = hourly_price(cluster.machine, scenario.words.get(PRICE), ledger, cluster.system)
    _account(scenario, one, ledger)
    site = one.prices[0].site
    found = TrainEstimate(
        scenario=scenario,
        step_s=step,
        breakdown_s=parts,
        tokens_per_step=float(plan.gbs),
        flops=6.0 * one.macs * plan.gbs,
        again_flops=0.0,
        peak_ops_per_s=site.peak_ops_per_s * cluster.count,
        stages=(_held(scenario, one, parameters),),
        capacity_bytes=one.capacity_bytes,
        energy_j=energy,
        usd_per_device_hour=hourly.usd_per_hour,
        price_note=hourly.note,
        interval={
            "step_s": (low, high),
            "tokens_per_s": (plan.gbs / high, plan.gbs / low),
            "tokens_per_s_per_device": (plan.gbs / high / cluster.count, plan.gbs / low / cluster.count),
            "energy_j_per_token": (energy / plan.gbs * low / step, energy / plan.gbs * high / step),
        },
        limit_s=one.limit_s * turns - (turns - 1) * min(update, one.limit_s),
        cost=None,
        ledger=ledger,
    )
    return with_run(found)


def _estimate(scenario: NetTrainScenario, batch: int) -> NetEstimate:
    """A step of one device with so many items."""
    assert scenario.net is not None
    alone = replace(scenario.net, cluster=replace(scenario.cluster, count=1))
    return next(iter(estimates_of(replace(alone, batch=np.array([batch])))))


def _fitting(scenario: NetTrainScenario) -> tuple[NetEstimate, NetTrainScenario]:
    """A step of a device, with the largest micro-batch that fits where none was given."""
    plan = scenario.plan
    if "mbs" not in scenario.open:
        return _estimate(scenario, plan.mbs), scenario
    each = plan.gbs // plan.dp
    for size in (d for d in range(each, 0, -1) if each % d == 0):
        one = _estimate(scenario, size)
        if one.fits or size == 1:
            break
    return one, replace(scenario, plan=replace(plan, mbs=size))


def _by_kind(one: NetEstimate) -> tuple[float, float, float]:
    """Time of products, of what is no product, and of the update."""
    priced = one.prices[0]
    times = priced.kernel_s[:, min(one.column, priced.kernel_s.shape[1] - 1)]
    own = np.array([c in PRODUCTS or c.startswith("depthwise") for c in priced.kernels.classes])
    update = np.array([op == "update" for op in priced.kernels.ops])
    return float(times[own].sum()), float(times[~own & ~update].sum()), float(times[update].sum())


def _held(scenario: NetTrainScenario, one: NetEstimate, parameters: float) -> StageHeld:
    """Memory of a device. An estimate counts gradient and two moments in 32 bits; here they are the optimizer's own."""
    plan = scenario.plan
    parts = {
        "weights": one.weight_bytes - STATE_BYTES * parameters,
        "gradients": parameters * 4.0,
        "optimizer": parameters * plan.optimizer.state_bytes / (plan.dp if plan.zero else 1),
        "activations": one.activation_bytes,
        "logits": 0.0,
        "buffers": 0.0,
    }
    allocated = sum(parts.values())
    return StageHeld(parts, allocated, allocated + scenario.cluster.machine.reserved_bytes, 1.0)


def _account(scenario: NetTrainScenario, one: NetEstimate, ledger: Ledger) -> None:
    for what, source in one.ledger.sources.items():
        ledger.cite(what, source)
    for text in one.ledger.assumptions:
        ledger.assume(text)
    if "mbs" in scenario.open:
        ledger.assume(f"micro-batches of {scenario.plan.mbs}, the largest of a device that fits (--mbs)")
    if scenario.words.get("epochs") is not None and not scenario.words.get("samples"):
        ledger.assume("epochs of the 1,281,167 images of ImageNet-1k (--samples)")
