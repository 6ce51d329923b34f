"""Many estimates at once: points that share model, machine, plan and engine are priced in one vectorised pass.

The same arithmetic as :func:`steelyard.estimation.estimate.answer`, with ``batch``, ``isl`` and ``osl`` as arrays; a
test holds
the two equal. Every figure is elementwise over the points, so a point's answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.memory import activation_bytes, kv_bytes, weight_bytes
from steelyard.errors import InputError
from steelyard.estimation.estimate import Z80, exact_weight_bytes, hourly_price
from steelyard.provenance import Ledger
from steelyard.scenario.scenario import Scenario, check
from steelyard.workload.transformer import Step

__all__ = ["Weighed", "weigh"]

#: Whole numbers over the points.
Integers = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weighed:
    """Answers of a group of points that share a program."""

    columns: dict[str, list[Any]]
    """Every output column of :data:`store_columns.ESTIMATE`, one entry per point; None where refused."""
    problems: list[str]
    """What cannot run; empty = it can."""
    sources: dict[str, Any]
    """``sources``, ``guesses`` and ``assumptions`` that all points of the group share."""


def weigh(shared: Scenario, batch: Sequence[int], isl: Sequence[int], osl: Sequence[int]) -> Weighed:
    """Weigh points that differ in batch and lengths only.

    Args:
        shared: model, cluster, plan, engine, skew and price of every point (its own batch and lengths are not read).
        batch, isl, osl: ``[n]``, as in :func:`steelyard.estimate`.
    """
    asked = [np.asarray(x, dtype=np.int64) for x in (batch, isl, osl)]
    problems = _refused(shared, asked[0], asked[1], asked[2])
    good = np.array([not p for p in problems], dtype=bool)
    ledger = Ledger()
    columns: dict[str, Any] = {}
    if good.any():
        columns = _answers(shared, asked[0][good], asked[1][good], asked[2][good], ledger)
    where = np.flatnonzero(good)
    n = len(problems)
    placed: dict[str, list[Any]] = {}
    for name, values in columns.items():
        filled: list[Any] = [None] * n
        plain = values if isinstance(values, list) else np.broadcast_to(np.asarray(values), (len(where),)).tolist()
        for at, value in zip(where.tolist(), plain, strict=True):
            filled[at] = value
        placed[name] = filled
    found = {"sources": ledger.sources, "guesses": ledger.guesses, "assumptions": ledger.assumptions}
    return Weighed(placed, problems, found)


def _refused(shared: Scenario, batch: Integers, isl: Integers, osl: Integers) -> list[str]:
    """What :func:`estimate.check` says of every point; degrees are checked once for all of them."""
    model = shared.transformer
    problems = [""] * len(batch)
    try:
        check(replace(shared, batch=1, isl=1, osl=0))
        length = isl + osl if model.causal else isl
        suspects: Any = np.flatnonzero(length > model.max_context) if model.max_context else []
    except InputError:
        suspects = np.arange(len(batch))
    for i in suspects:
        try:
            check(replace(shared, batch=int(batch[i]), isl=int(isl[i]), osl=int(osl[i])))
        except InputError as error:
            problems[i] = str(error)
    return problems


def _answers(s: Scenario, asked: Integers, isl: Integers, osl: Integers, ledger: Ledger) -> dict[str, Any]:
    model, plan, engine, n = s.transformer, s.plan, s.engine, len(asked)
    if not model.causal:
        osl = np.ones_like(osl)
    batch = -(-asked // plan.dp)
    per_step = np.maximum(1, np.minimum(batch, (engine.max_batched_tokens // np.maximum(isl, 1)).astype(np.int64)))
    steps = -(-batch // per_step)
    last = batch - per_step * (steps - 1)
    step = Step.prefill(np.concatenate([per_step, last, np.ones_like(last)]), np.tile(isl, 3))
    prompt = s.replica.price(step, decode=False)
    prompts, prompt_s = prompt.cost, np.asarray(prompt.time_s, dtype=np.float64)
    prefill_s, final_s, single_s = np.broadcast_to(prompt_s, (3 * n,)).reshape(3, n)
    ttft = prefill_s + engine.request_s
    ttft = np.where(steps > 1, ttft + (prefill_s * (steps - 2) + final_s) / plan.pp, ttft)
    flights = np.minimum(plan.pp, batch)

    def first(value: Any) -> Floats:
        return np.broadcast_to(np.asarray(value), (3 * n,))[:n]

    prefill = {name: first(getattr(prompts, name)) for name in ("limit_s", "energy_j")}
    spread_prefill, bound_prefill = first(prompts.log_spread()), first(prompts.bound())
    decode, spread_decode, bound_decode, tpot = prefill, spread_prefill, bound_prefill, prefill_s
    kernels = list(prompts)
    if model.causal:
        step_price = s.replica.price(Step.decode(-(-batch // flights), isl + np.maximum(1, osl // 2)))
        cost, tpot = step_price.cost, np.asarray(step_price.time_s, dtype=np.float64)
        decode = {name: np.asarray(getattr(cost, name)) for name in ("limit_s", "energy_j")}
        spread_decode, bound_decode = cost.log_spread(), cost.bound()
        kernels += list(cost)
    tokens = osl - 1
    e2e = ttft + tokens * tpot
    prefills = steps - 1 + last / per_step
    passes = prefill["energy_j"] * prefills + decode["energy_j"] * flights * tokens
    waiting = (1 - 1 / plan.pp) * ttft + (1 - flights / plan.pp) * tokens * tpot
    energy = plan.devices * (passes / plan.pp + s.cluster.machine.idle_w * waiting)
    hosts = s.cluster.host_w * plan.devices / s.cluster.per_node * e2e
    usd, note = hourly_price(s, ledger)
    share = tokens * tpot / np.maximum(e2e, 1e-30)
    spreads = {
        "ttft": (ttft, spread_prefill),
        "tpot": (tpot, spread_decode),
        "e2e": (e2e, share * spread_decode + (1 - share) * spread_prefill),
    }
    rate = asked * osl / e2e
    _cite(s, kernels, ledger)
    found: dict[str, Any] = _memory(s, batch, isl + osl)
    for name, (value, spread) in spreads.items():
        found[f"{name}_s"] = value
        found[f"{name}_low_s"] = value * np.exp(-Z80 * spread)
        found[f"{name}_high_s"] = value * np.exp(Z80 * spread)
    return found | {
        "ttft_single_s": single_s + engine.request_s,
        "tokens_per_s": rate,
        "tokens_per_s_per_device": rate / plan.devices,
        "tokens_per_s_per_user": 1.0 / tpot,
        "energy_j": energy,
        "host_energy_j": hosts,
        "energy_j_per_token": (energy + hosts) / (asked * osl),
        "usd_per_device_hour": [usd] * n,
        "usd_per_million_tokens": [None] * n if usd is None else usd * plan.devices * e2e / 3600 / (asked * osl) * 1e6,
        "price": [note] * n,
        "limit_ttft_s": prefill["limit_s"] * prefills,
        "limit_tpot_s": decode["limit_s"],
        "bound_prefill": bound_prefill,
        "bound_decode": bound_decode,
    }


def _memory(s: Scenario, batch: Integers, length: Integers) -> dict[str, Any]:
    """Bytes on the fullest device, and the largest batch and context that fit, by bisection over all points."""
    model, plan, engine, machine = s.transformer, s.plan, s.engine, s.cluster.machine
    weights = weight_bytes(model, plan, exact_weight_bytes(s))
    capacity = engine.memory_frac * machine.root.capacity_bytes - machine.reserved_bytes

    def parts(held: Integers, context: Integers) -> tuple[Any, Any]:
        tokens = np.minimum(engine.max_batched_tokens, held * context)
        return (
            kv_bytes(model, plan, held, context, engine.block_tokens),
            activation_bytes(model, plan, tokens, held),
        )

    def total(held: Integers, context: Integers) -> Any:
        cache, working = parts(held, context)
        return weights + cache + working + engine.workspace_bytes

    def largest(top: int, context_of: bool) -> Integers:
        low, high = np.zeros_like(batch), np.full_like(batch, top)

        def fits(values: Integers) -> Any:
            return capacity - (total(batch, values) if context_of else total(values, length)) >= 0

        low = np.where(fits(high), high, low)
        while (high - low > 1).any():
            middle = (low + high) // 2
            held = fits(middle)
            low, high = np.where(held, middle, low), np.where(held | (low == high), high, middle)
        return low

    cache, working = parts(batch, length)
    whole = weights + cache + working + engine.workspace_bytes
    return {
        "fits": capacity - whole >= 0,
        "memory_weights_bytes": weights,
        "memory_kv_cache_bytes": cache,
        "memory_activations_bytes": working,
        "memory_other_bytes": float(engine.workspace_bytes),
        "memory_total_bytes": whole,
        "memory_capacity_bytes": float(capacity),
        "memory_headroom_bytes": capacity - whole,
        "largest_batch": largest(int(engine.max_sequences), False) * plan.dp,
        "largest_context": largest(model.max_context or 2**24, True),
    }


def _cite(s: Scenario, kernels: Sequence[Any], ledger: Ledger) -> None:
    machine = s.cluster.machine
    for key, text in machine.sources.items():
        ledger.cite(f"{machine.name} {key}", text)
    if s.model.source:
        ledger.cite(s.transformer.name, s.model.source)
    for path, reason in machine.guess.items():
        ledger.guess(f"{machine.name}.{path}", reason)
    for name in s.engine.guess:
        ledger.guess(f"engine.{s.engine.name}.{name}", "not published; a guess until calibrated")
    for kernel in kernels:
        ledger.cite(f"{kernel.model} model", kernel.source)
    for note in s.transformer.notes:
        ledger.assume(note)
