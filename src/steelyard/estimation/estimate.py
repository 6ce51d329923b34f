"""``estimate``: the answer to "what will this model cost on this machine?" for one or many scenarios.

``Workload x Machine x Plan -> Program -> Cost -> Result``, for a static batch: ``batch`` requests of ``isl`` prompt
tokens arrive together at an idle engine and each generates ``osl`` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard._display import Result
from steelyard._version import __version__
from steelyard.cost.memory import MemoryUse, memory_use, weight_bytes
from steelyard.cost.step import StepPrice
from steelyard.deployment.engine import Engine
from steelyard.deployment.plan import Plan
from steelyard.machine.catalogue import price_of
from steelyard.provenance import Ledger, content_hash
from steelyard.scenario.fields import fields_of
from steelyard.scenario.scenario import Scenario, check
from steelyard.scenario.verbs import verb
from steelyard.workload.transformer import Step

__all__ = [
    "Estimate",
    "Scenario",
    "answer",
    "estimate",
    "exact_weight_bytes",
    "hourly_price",
    "provenance",
    "weight_bytes",
]

#: z of an 80 % central interval of a normal distribution.
Z80 = 1.2816


def prefill_chunks(engine: Engine, batch: int, isl: int) -> tuple[int, int]:
    """How the prompts of a batch are cut into steps: ``(sequences per step, steps)`` at the engine's token budget.

    Prompts longer than the budget are processed whole: the kernels of a long chunk cost the same per token.
    """
    per_step = max(1, min(batch, int(engine.max_batched_tokens // max(isl, 1))))
    return per_step, -(-batch // per_step)


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Result):
    """The answer for one scenario. Times in s, energy in J, money in USD, memory in bytes."""

    scenario: Scenario
    memory: MemoryUse
    prefill: StepPrice
    """A step of prompts, and a decode step at the mean context; arrays of one step are scalars."""
    decode: StepPrice
    ttft_s: float
    """All prompts of the batch prefilled: time to first token of the last of them."""
    ttft_single_s: float
    """One request alone at an idle engine."""
    tpot_s: float
    """Mean time per decode step over the generation (context ``isl + osl / 2``)."""
    e2e_s: float
    energy_j: float
    """All devices, whole batch, prefill and decode."""
    host_energy_j: float
    usd_per_hour: float | None
    price_note: str
    limit: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    largest_batch: int
    largest_context: int
    ledger: Ledger

    @property
    def fits(self) -> bool:
        """Whether weights, cache, activations and buffers fit the device."""
        return bool(self.memory.fits)

    @property
    def devices(self) -> int:
        """Devices used."""
        return self.scenario.plan.devices

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of the whole deployment: ``batch osl / e2e``."""
        return self.scenario.batch * self.scenario.osl / self.e2e_s

    @property
    def tokens_per_s_per_device(self) -> float:
        """The same per device."""
        return self.tokens_per_s / self.devices

    @property
    def tokens_per_s_per_user(self) -> float:
        """What one request sees while it decodes: ``1 / tpot``."""
        return 1.0 / self.tpot_s

    @property
    def energy_j_per_token(self) -> float:
        """Devices and hosts, per output token."""
        return (self.energy_j + self.host_energy_j) / (self.scenario.batch * self.scenario.osl)

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Rent of all devices while the batch runs, per million output tokens."""
        if self.usd_per_hour is None:
            return None
        return self.usd_per_hour * self.devices * self.e2e_s / 3600 / (self.scenario.batch * self.scenario.osl) * 1e6


@verb("estimate")
def estimate(scenario: Scenario) -> Estimate:
    """What running a model on a machine costs: memory, time, energy, money, with an interval and the reason.

    ``batch`` requests of ``isl`` prompt tokens arrive together at an idle engine and each generates ``osl`` tokens.

    Returns:
        an :class:`Estimate`; check ``fits`` before trusting the times.

    Raises:
        InputError: unknown names, sizes out of range, degrees that do not divide; all problems at once.
    """
    return answer(scenario)


def answer(scenario: Scenario) -> Estimate:
    """Weigh one scenario. Raises :class:`InputError` for degrees or lengths that cannot be."""
    check(scenario)
    model, plan, cluster, engine = scenario.transformer, scenario.plan, scenario.cluster, scenario.engine
    if not model.causal and scenario.osl != 1:  # an encoder answers once and generates nothing
        scenario = replace(scenario, osl=1)
    ledger = Ledger()
    batch, isl, osl = scenario.replica_batch, scenario.isl, scenario.osl
    per_step, steps = prefill_chunks(engine, batch, isl)
    replica = scenario.replica
    prefill = replica.price(Step.prefill(per_step, isl), decode=False)
    last = batch - per_step * (steps - 1)
    final = prefill if last == per_step else replica.price(Step.prefill(last, isl), decode=False)
    single = prefill if per_step == 1 else replica.price(Step.prefill(1, isl), decode=False)
    ttft = prefill.time_s + engine.request_s
    if steps > 1:  # further steps follow each other through the stages: each adds the time of one stage
        ttft += (prefill.time_s * (steps - 2) + final.time_s) / plan.pp
    flights = min(plan.pp, batch)  # a pipeline decodes as many parts of the batch at once as it has stages
    decode = prefill
    if model.causal:
        decode = replica.price(Step.decode(-(-batch // flights), isl + max(1, osl // 2)))
    tokens = osl - 1
    ttft, tpot = float(ttft), float(decode.time_s)
    e2e = ttft + tokens * tpot
    memory = memory_use(
        model, plan, cluster.machine, engine, batch, isl + osl, exact_weights=exact_weight_bytes(scenario)
    )
    prefills = steps - 1 + last / per_step
    passes = float(prefill.cost.energy_j) * prefills + float(decode.cost.energy_j) * flights * tokens
    waiting = (1 - 1 / plan.pp) * ttft + (1 - flights / plan.pp) * tokens * tpot
    energy = plan.devices * (passes / plan.pp + cluster.machine.idle_w * waiting)
    usd, note = hourly_price(scenario, ledger)
    spread_prefill, spread_decode = float(prefill.cost.log_spread()), float(decode.cost.log_spread())
    share = tokens * tpot / max(e2e, 1e-30)
    _account(scenario, prefill, decode, ledger)
    return Estimate(
        scenario=scenario,
        memory=memory,
        prefill=prefill,
        decode=decode,
        ttft_s=ttft,
        ttft_single_s=float(single.time_s) + engine.request_s,
        tpot_s=tpot,
        e2e_s=e2e,
        energy_j=energy,
        host_energy_j=cluster.host_w * plan.devices / cluster.per_node * e2e,
        usd_per_hour=usd,
        price_note=note,
        limit={"ttft_s": float(prefill.limit_s) * prefills, "tpot_s": float(decode.limit_s)},
        interval={
            "ttft_s": _interval(ttft, spread_prefill),
            "tpot_s": _interval(tpot, spread_decode),
            "e2e_s": _interval(e2e, share * spread_decode + (1 - share) * spread_prefill),
        },
        largest_batch=_largest(scenario, "batch"),
        largest_context=_largest(scenario, "context"),
        ledger=ledger,
    )


def exact_weight_bytes(scenario: Scenario) -> float | None:
    """Bytes of the real files, unless the plan stores the weights in another format."""
    exact = scenario.model.weight_bytes
    same = scenario.plan.weights == Plan().resolved(scenario.transformer.native_weights).weights
    return exact if same else None


def _interval(value: float, spread: float) -> tuple[float, float]:
    """Central 80 % interval of a lognormal around the prediction."""
    return value * float(np.exp(-Z80 * spread)), value * float(np.exp(Z80 * spread))


def _largest(scenario: Scenario, what: str) -> int:
    """Largest batch (at this length) or context (at this batch) that fits; 0 when not even one does. Bisection."""
    model, plan, machine, engine = scenario.transformer, scenario.plan, scenario.cluster.machine, scenario.engine
    length = scenario.isl + scenario.osl
    weights = exact_weight_bytes(scenario)

    def fits(n: int) -> bool:
        batch, context = (n, length) if what == "batch" else (scenario.replica_batch, n)
        use = memory_use(model, plan, machine, engine, batch, context, exact_weights=weights)
        return bool(use.fits)

    top = int(engine.max_sequences) if what == "batch" else (model.max_context or 2**24)
    low, high = 0, top
    if fits(high):
        return high * (plan.dp if what == "batch" else 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * (plan.dp if what == "batch" else 1)


def hourly_price(scenario: Scenario, ledger: Ledger) -> tuple[float | None, str]:
    """Price per device and hour and where it comes from: given, the catalogue's, or a purchase written off."""
    if scenario.usd_per_hour is not None:
        return scenario.usd_per_hour, "given"
    found = price_of(scenario.cluster.machine.name)
    if found is not None:
        ledger.cite(f"price of {found.machine}", f"{found.source}, {found.provider_class}, {found.date}")
        return found.usd_per_hour, f"{found.provider_class}, {found.date}"
    machine = scenario.cluster.machine
    if machine.capex_usd:
        hourly = machine.capex_usd / AMORTISATION_H
        ledger.assume(
            f"no rental price known: {machine.capex_usd:,.0f} USD written off over {AMORTISATION_H / 8760:.0f} years"
        )
        return hourly, f"{machine.capex_usd:,.0f} USD over {AMORTISATION_H / 8760:.0f} years"
    return None, "no price known"


#: Hours over which a bought device is written off: three years of continuous use, a common accounting life.
AMORTISATION_H = 3 * 8760.0


def _account(scenario: Scenario, prefill: StepPrice, decode: StepPrice, ledger: Ledger) -> None:
    """Write sources, assumptions and guesses of the run into the ledger."""
    machine, plan, model = scenario.cluster.machine, scenario.plan, scenario.transformer
    for key, text in machine.sources.items():
        ledger.cite(f"{machine.name} {key}", text)
    if scenario.model.source:
        ledger.cite(model.name, scenario.model.source)
    for path, reason in machine.guess.items():
        ledger.guess(f"{machine.name}.{path}", reason)
    for name in scenario.engine.guess:
        ledger.guess(f"engine.{scenario.engine.name}.{name}", "not published; a guess until calibrated")
    for phase in (prefill, decode):
        for kernel in phase.cost:
            ledger.cite(f"{kernel.model} model", kernel.source)
    engine, batch = scenario.engine, scenario.batch
    limit = f"{engine.max_batched_tokens:.0f}"
    ledger.assume(
        f"static batch: {batch} requests of {scenario.isl} + {scenario.osl} tokens reach an idle engine at once"
    )
    ledger.assume(f"engine {engine.title}: {engine.memory_frac:.0%} of memory, steps of at most {limit} tokens")
    ledger.assume(f"formats: weights {plan.weights}, activations {plan.activations}, KV cache {plan.kv}")
    if plan.devices > 1:
        ledger.assume(f"parallel: tp {plan.tp}, pp {plan.pp}, dp {plan.dp}, ep {plan.ep}, cp {plan.cp}")
    if model.experts:
        text = "balanced" if not scenario.skew else f"power law with exponent {scenario.skew:g}"
        ledger.assume(f"expert routing: {text}")
    if not model.causal:
        ledger.assume("an encoder: one answer per request, nothing generated; the step after the first is not used")
    for note in model.notes:
        ledger.assume(note)


def provenance(scenario: Scenario) -> dict[str, Any]:
    """What is needed to run the same question again: version, inputs and their hash."""
    model, on = scenario.asked
    inputs = {"model": model or scenario.transformer.name, "on": on or str(scenario.cluster)}
    inputs |= {n: scenario.value(n) for n in fields_of("estimate") if n not in ("model", "on", "generic")}
    return {"version": __version__, "inputs": inputs, "hash": content_hash({"version": __version__, **inputs})}
