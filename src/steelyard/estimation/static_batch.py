"""The arithmetic of a static batch: requests that arrive together at an idle engine, one scenario or a million.

Batch and lengths are arrays ``[n]`` over scenarios that share model, machines, plan and engine; an estimate is the case
``n = 1``. Every figure is elementwise, so a scenario's answer does not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.cost import unlike_memory
from steelyard.cost.encode import HOST_SPREAD, Encoder
from steelyard.cost.interval import interval80, with_system
from steelyard.cost.kv_pool import engine_prints
from steelyard.cost.memory import MemoryUse, largest_that_fits, memory_use, weight_bytes
from steelyard.cost.money import HourlyPrice
from steelyard.cost.step import StepFigures, distinct_values
from steelyard.deployment.engine import Engine, Moved
from steelyard.deployment.engine_config import engine_config
from steelyard.scenario.scenario import Scenario
from steelyard.techniques._batch import InBatch
from steelyard.workload.op import Array

__all__ = ["Figures", "encoder_of", "end_bytes", "prefill_chunks", "static_batch", "with_encoder"]


@dataclass(frozen=True, eq=False, repr=False)
class Figures:
    """What a static batch costs. Times in s, energy in J, money in USD, memory in bytes; numbers, or arrays ``[n]``."""

    scenario: Scenario
    memory: MemoryUse
    largest_batch: Any
    """Most requests of this length that fit, over the whole deployment; 0 when not even one does."""
    largest_context: Any
    """Longest context that fits at this batch."""
    ttft_s: Any
    """All prompts of the batch prefilled: time to first token of the last of them."""
    ttft_single_s: Any
    """One request alone at an idle engine."""
    tpot_s: Any
    """Mean time per decode step over the generation (context ``isl + osl / 2``)."""
    e2e_s: Any
    energy_j: Any
    """All devices, whole batch, prefill and decode."""
    host_energy_j: Any
    limit: Mapping[str, Any]
    """Physical limit of ``ttft_s`` and ``tpot_s``."""
    interval: Mapping[str, tuple[Any, Any]]
    """80 % interval of ``ttft_s``, ``tpot_s`` and ``e2e_s``."""
    shares: Mapping[str, Mapping[str, Any]]
    """Share of the time of ``prefill`` and ``decode`` by what bounds it; hops between stages count as network."""
    bound: Mapping[str, Any]
    """What bounds ``prefill`` and ``decode``: the largest share."""
    encode: Mapping[str, Any]
    """Of the images and sounds of the whole batch, inside ``ttft_s``: ``time_s``, ``single_s`` of one request,
    ``limit_s``, ``energy_j`` of one device, ``shares`` of the time, ``host_s`` of the host before them; empty
    without any."""
    price: HourlyPrice
    """Price of a device."""

    @property
    def usd_per_hour(self) -> float | None:
        """Price per device and hour."""
        return self.price.usd_per_hour

    @property
    def price_note(self) -> str:
        """Where the price comes from."""
        return self.price.note

    @property
    def devices(self) -> int:
        """Devices used."""
        return self.scenario.plan.devices

    @property
    def output_tokens(self) -> Any:
        """Tokens generated for the whole batch."""
        return self.scenario.batch * self.scenario.osl

    @property
    def tokens_per_s(self) -> Any:
        """Output tokens per second of the whole deployment: ``batch osl / e2e``."""
        return self.output_tokens / self.e2e_s

    @property
    def tokens_per_s_per_device(self) -> Any:
        """The same per device."""
        return self.tokens_per_s / self.devices

    @property
    def tokens_per_s_per_user(self) -> Any:
        """What one request sees while it decodes: ``1 / tpot``."""
        return 1.0 / self.tpot_s

    @property
    def energy_j_per_token(self) -> Any:
        """Devices and hosts, per output token."""
        return (self.energy_j + self.host_energy_j) / self.output_tokens

    @property
    def usd_per_million_tokens(self) -> Any:
        """Rent of all devices while the batch runs, per million output tokens; None without a price."""
        usd = self.price.usd_per_hour
        return None if usd is None else usd * self.devices * self.e2e_s / 3600 / self.output_tokens * 1e6

    def columns(self) -> dict[str, Any]:
        """Every figure by its name in CSV files and studies, in their order."""
        found = {"fits": self.memory.fits}
        found |= {f"memory_{name}_bytes": value for name, value in self.memory.to_dict().items()}
        found |= {"memory_headroom_bytes": self.memory.headroom}
        found |= {name: getattr(self, name) for name in _FIGURES}
        found |= {f"limit_{name}": value for name, value in self.limit.items()}
        found |= {f"encode_{name}": self.encode[name] for name in ("time_s", "limit_s") if self.encode}
        for name, ends in self.interval.items():
            stem = name.removesuffix("_s")
            found[f"{stem}_low_s"], found[f"{stem}_high_s"] = ends
        return found | {f"bound_{name}": value for name, value in self.bound.items()}

    def totals(self) -> dict[str, Any]:
        """Further columns of studies: energy of the whole batch, and the price it was reckoned with."""
        return {"energy_j": self.energy_j, "host_energy_j": self.host_energy_j, **self.price.to_dict()}


#: Figures that are columns under their own name.
_FIGURES = (
    *("largest_batch", "largest_context", "ttft_s", "ttft_single_s", "tpot_s", "e2e_s", "tokens_per_s"),
    *("tokens_per_s_per_device", "tokens_per_s_per_user", "energy_j_per_token", "usd_per_million_tokens"),
)


def prefill_chunks(engine: Engine, batch: Any, prompt: Any) -> tuple[Any, Any]:
    """How the prompts of a batch are cut into steps: ``(sequences per step, steps)`` at the engine's token budget.

    Prompts longer than the budget are processed whole: the kernels of a long chunk cost the same per token.
    """
    per_step = np.maximum(1, np.minimum(batch, engine.max_batched_tokens // np.maximum(prompt, 1))).astype(np.int64)
    return per_step, -(-batch // per_step)


def static_batch(scenario: Scenario) -> tuple[dict[str, Any], dict[str, str]]:
    """Price static batches.

    Args:
        scenario: checked; its batch and lengths are whole numbers ``[n]``, all with the same of everything else.

    Returns:
        fields of :class:`Figures` (all but the scenario and the price), and the sources of the cost models.
    """
    plan, engine, replica = scenario.plan, scenario.engine, scenario.replica
    prompt, answer = scenario.prompt, scenario.sizes[2]
    batch = np.asarray(scenario.replica_batch)
    n = len(batch)
    per_step, steps = prefill_chunks(engine, batch, prompt)
    last = batch - per_step * (steps - 1)
    together = replica.prompts(np.concatenate([per_step, last, np.ones_like(last)]), np.tile(prompt, 3))
    for technique in scenario.techniques:
        sizes = np.concatenate([per_step, last, np.ones_like(last)]), np.tile(prompt, 3)
        together = technique.prompting(scenario, *sizes, together)
    prefill, final, single = (together.at(slice(i * n, (i + 1) * n)) for i in range(3))

    paces = replica.paces(float(np.mean(batch)), float(np.mean(scenario.mean_context)))
    filled = np.minimum(batch, np.maximum(1.0, engine.max_batched_tokens / np.maximum(prompt, 1))) / per_step

    def prefilled(step: Array, end: Array, *, even: bool = False) -> Array:
        """A first step as full as the engine makes it, and the rest, which follows it through the stages.

        Steps are one stream of micro-batches where the engine splits layers; ``even``: at least.
        """
        if engine.splits_layers:
            every, some, rest = (replica.pieces_frac(n * prompt, even=even) for n in (batch, per_step, last))
            return np.where(steps > 1, (step * (steps - 1) / some + end / rest) * every, step)
        return np.where(steps > 1, step * filled + (step * (steps - 1 - filled) + end) / paces, step)

    encode = _encoded(scenario, per_step, steps, last)
    encode_s: Array = encode["time_s"] if encode else np.zeros(n)
    device_s = encode_s + prefilled(prefill.time_s, final.time_s)
    host_s = first_host_s = np.zeros(n)
    if encode:
        encoder = encoder_of(scenario)
        host_s, first_host_s = (encoder.host_s(b, device_s) for b in (batch, np.ones(n)))
        encode["host_s"] = host_s
    first = encode.get("limit_s", 0.0) + prefilled(prefill.limit_s, final.limit_s, even=True)
    ttft = np.maximum((host_s + device_s + scenario.request_s) * engine.moved.first, first)
    # a pipeline decodes as many parts of the batch at once as it has stages, where the engine keeps them all busy
    ways = math.prod(technique.samples() for technique in scenario.techniques)
    drawn = batch * ways
    flights = np.minimum(engine.lanes(plan.pp), drawn)
    decode = prefill
    if scenario.transformer.causal:
        decode = replica.decodes(-(-drawn // flights), scenario.mean_context)
        for technique in scenario.techniques:
            decode = technique.answering(scenario, -(-drawn // flights), scenario.mean_context, decode)
        decode = replace(decode, time_s=decode.time_s * np.maximum(1.0, flights / paces))  # the slowest stage's turn
    tpot, tokens = decode.time_s, answer - 1
    ends = [t.finishing(scenario, drawn, prompt, answer) for t in scenario.techniques]
    after = sum((x.time_s for x in ends if x is not None), np.zeros(n))
    e2e = ttft + tokens * tpot + after
    limit = {"ttft_s": first, "tpot_s": decode.limit_s}
    spread = _spread(prefill, ttft - encode_s - host_s, encode)
    alone = (first_host_s + encode.get("single_s", 0.0) + single.time_s + scenario.request_s) * engine.moved.first
    figures = {
        "ttft_s": ttft,
        "ttft_single_s": alone,
        "tpot_s": tpot,
        "e2e_s": e2e,
        "limit": limit,
        "interval": _intervals(spread, decode, (ttft, after), tokens, limit, engine.moved),
        "shares": {"prefill": prefill.shares, "decode": decode.shares},
        "bound": {"prefill": prefill.bound, "decode": decode.bound},
        "encode": encode,
    }
    prefills = steps - 1 + last / per_step
    passes = sum(x.energy_j for x in ends if x is not None)
    passes = passes + encode.get("energy_j", 0.0) + prefill.energy_j * prefills + decode.energy_j * flights * tokens
    waiting = (1 - 1 / plan.pp) * ttft + (1 - flights / plan.pp) * tokens * tpot
    cluster = scenario.cluster
    figures["energy_j"] = plan.devices * (passes / plan.pp + cluster.machine.idle_w * waiting)
    figures["host_energy_j"] = cluster.host_share_w * plan.devices * e2e
    return figures | _memory(scenario, batch), {**encode.pop("sources", {}), **prefill.sources, **decode.sources}


def encoder_of(scenario: Scenario) -> Encoder:
    """What reads the images and sounds of a scenario's requests."""
    return Encoder(scenario.seen, scenario.plan, scenario.cluster, scenario.engine)


def _encoded(scenario: Scenario, per_step: Array, steps: Array, last: Array) -> dict[str, Any]:
    """:attr:`Figures.encode` with ``spread`` and ``sources``: one pass before every step of prompts."""
    if not scenario.seen:
        return {}
    encoder, n = encoder_of(scenario), len(per_step)
    together = encoder.requests(np.concatenate([per_step, last, np.ones_like(last)]))
    full, final, single = (together.at(slice(i * n, (i + 1) * n)) for i in range(3))
    return {
        **{x: getattr(full, x) * (steps - 1) + getattr(final, x) for x in ("time_s", "limit_s", "energy_j")},
        "single_s": single.time_s,
        "shares": full.shares,
        "spread": full.spread,
        "sources": together.sources,
    }


def _spread(prefill: StepFigures, prefill_s: Array, encode: dict[str, Any]) -> Array:
    """Spread of the time to first token, from those of its parts by their share of it."""
    if not encode:
        return prefill.spread
    times = encode["time_s"], encode["host_s"], prefill_s
    spreads = encode.pop("spread"), HOST_SPREAD, prefill.spread
    parts = sum(time * spread for time, spread in zip(times, spreads, strict=True))
    return np.asarray(parts / np.maximum(sum(times), 1e-30))


def _intervals(
    prefill: Array,
    decode: StepFigures,
    ends_s: tuple[Array, Array],
    tokens: Array,
    limit: Mapping[str, Array],
    moved: Moved,
) -> dict[str, tuple[Array, Array]]:
    """80 % intervals; the spread of the whole is that of its parts (``prefill``: of the time to first token) by their
    share of the time. ``ends_s``: before the first token and after the last."""
    decoding = tokens * decode.time_s
    ttft_s = ends_s[0]
    e2e = ttft_s + decoding + ends_s[1]
    share = decoding / np.maximum(e2e, 1e-30)
    first, step = with_system(prefill) * moved.first_spread, with_system(decode.spread) * moved.step_spread
    return {
        "ttft_s": interval80(ttft_s, first, at_least=limit["ttft_s"]),
        "tpot_s": interval80(decode.time_s, step, at_least=limit["tpot_s"]),
        "e2e_s": interval80(
            e2e, share * step + (1 - share) * first, at_least=limit["ttft_s"] + tokens * limit["tpot_s"]
        ),
    }


def with_encoder(scenario: Scenario, use: MemoryUse, held: Any) -> MemoryUse:
    """The memory with the working set of a pass over what a step of ``held`` requests shows, where that is larger.

    As many are in a pass as have room for their images and sounds in the tokens of a step.
    """
    if not scenario.seen:
        return use
    handed = round(sum(s.read.handed * s.shown.count for s in scenario.seen))
    most = max(1.0, scenario.engine.max_batched_tokens // max(1, handed))
    largest = encoder_of(scenario).activation_bytes(np.minimum(held, most))
    return replace(use, activations=np.maximum(use.activations, largest))


def end_bytes(scenario: Scenario) -> float:
    """Weight bytes before and after the layers on the fullest device; 0 where all devices are alike."""
    if not scenario.cluster.unlike:
        return 0.0
    exact = scenario.exact_weight_bytes
    return unlike_memory.end_bytes(scenario.transformer, scenario.plan, scenario.cluster, scenario.engine, exact)


def _states(scenario: Scenario, weights: float) -> int:
    """Requests that may run at once where recurrent states have a share of memory of their own; 0: no limit."""
    model, engine, machine = scenario.transformer, scenario.engine, scenario.cluster.machine
    if not model.state_bytes or engine.states != "share":
        return 0
    config = engine_config(engine, machine, {}, model)
    return engine_prints(model, scenario.plan, machine, engine, config, weights=weights).sequences


def _memory(scenario: Scenario, batch: Array) -> dict[str, Any]:
    """Memory on the fullest device, and the largest batch and context that fit."""
    model, plan, engine = scenario.transformer, scenario.plan, scenario.engine
    weights = weight_bytes(model, plan, scenario.exact_weight_bytes, engine.multiples(scenario.cluster.machine))
    host = scenario.cluster.host
    length = scenario.held_tokens

    ends = end_bytes(scenario)

    def use(held: Any, context: Any) -> MemoryUse:
        one = memory_use(model, plan, scenario.cluster.machine, engine, held, context, weights=weights, host=host)
        one = with_encoder(scenario, one, held)
        beside = sum(technique.batch_bytes(scenario, held, context) for technique in scenario.techniques)
        one = replace(one, other=one.other + beside)
        return unlike_memory.fullest(one, ends, plan, model.depth, scenario.cluster, engine)

    alone = all(type(t).batch_bytes is InBatch.batch_bytes for t in scenario.techniques)
    each = np.arange(len(length))
    lengths, length_of = distinct_values(length) if alone else (length, each)
    batches, batch_of = distinct_values(batch) if alone else (batch, each)
    seats = min(int(engine.max_sequences), _states(scenario, weights) or int(engine.max_sequences))
    most = largest_that_fits(lambda held: use(held, lengths).fits, seats, len(lengths))
    longest = largest_that_fits(lambda context: use(batches, context).fits, model.max_context or 2**24, len(batches))
    return {
        "memory": use(batch, length),
        "largest_batch": most[length_of] * plan.dp,
        "largest_context": longest[batch_of],
    }
