"""An estimate as JSON (``steelyard.estimate/2``), as a flat CSV row, and as a short summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.deployment.plan import DEGREES, Plan
from steelyard.report.paper import figure
from steelyard.report.plain import ESTIMATE, plain
from steelyard.scenario.fields import PRICE, STATIC_FLAGS, UNSAID, fields_of
from steelyard.scenario.scenario import FORMATS, Scenario
from steelyard.units import format_quantity

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate
    from steelyard.estimation.static_batch import Figures
    from steelyard.scenario.scenario import Scenario

__all__ = ["SCHEMA", "columns", "flat", "flops_of", "shares_of", "summary", "to_dict"]

SCHEMA = ESTIMATE


def to_dict(estimate: Estimate, shared: dict[Any, Any] | None = None) -> dict[str, Any]:
    """The answer in the stable JSON form ``steelyard.estimate/2``: SI units, nothing that is not finite.

    ``limit.*`` is the physical limit (every kernel at its peak), ``interval.*`` the central 80 % interval,
    ``flops`` the arithmetic of the whole batch (prefill) and of one step of the whole batch (decode) over all devices.

    Args:
        estimate: the answer.
        shared: keeps what answers of one place have in common, whatever their batch and lengths; of one table.
    """
    from steelyard.estimation.estimate import provenance
    from steelyard.estimation.start_up import log_lines, memory_parts, stored_parts

    s = estimate.scenario
    place = (id(s.model), s.plan, id(s.cluster.machine), s.engine.name, *(s.words.get(n) for n in STATIC_FLAGS))
    known = {} if shared is None else shared.setdefault(place, {"kept": s.model})  # ids are those of living things
    if "parts" not in known:
        known |= {"parts": stored_parts(s), "parameters": _parameters(s.transformer)}
    machine, plan, model = s.cluster.machine, s.plan, s.transformer
    document = {
        "schema": SCHEMA,
        "model": model.name,
        "machine": {
            "name": machine.name,
            "title": machine.title,
            "count": s.cluster.count,
            "per_node": int(s.cluster.per_node),
            "nodes": int(s.cluster.node_count),
            "peer_network": s.cluster.peer.name if s.cluster.peer else None,
            "inter_network": s.cluster.inter.name if s.cluster.inter and s.cluster.node_count > 1 else None,
        },
        "plan": _plan(plan) | ({"offload": plan.offload} if plan.offload else {}),
        **({"host": {"name": s.cluster.host.name, "title": s.cluster.host.title}} if s.cluster.host else {}),
        "engine": s.engine.name,
        **_set(s),
        **_sizes(s),
        "fits": estimate.fits,
        "memory_bytes": {**estimate.memory.to_dict(), "headroom": estimate.memory.headroom},
        "memory_parts_bytes": memory_parts(estimate, known["parts"]),
        "engine_log": [line.to_dict() for line in log_lines(estimate)],
        "largest_batch": estimate.largest_batch,
        "largest_context": estimate.largest_context,
        "ttft_s": estimate.ttft_s,
        "ttft_single_s": estimate.ttft_single_s,
        "tpot_s": estimate.tpot_s,
        "e2e_s": estimate.e2e_s,
        "tokens_per_s": estimate.tokens_per_s,
        "tokens_per_s_per_device": estimate.tokens_per_s_per_device,
        "tokens_per_s_per_user": estimate.tokens_per_s_per_user,
        "energy_j_per_token": estimate.energy_j_per_token,
        "energy_j": {"devices": estimate.energy_j, "hosts": estimate.host_energy_j},
        "usd_per_million_tokens": estimate.usd_per_million_tokens,
        **estimate.price.to_dict(),
        **_of_any_workload(estimate),
        "limit": estimate.limit,
        "interval": {name: list(ends) for name, ends in estimate.interval.items()},
        "bound": estimate.bound,
        "bound_shares": {phase: shares_of(estimate, phase) for phase in estimate.shares},
        **({"encode": _encode(estimate)} if estimate.encode else {}),
        "parameters": known["parameters"],
        **({"structure": s.model.structure.to_dict()} if s.model.structure else {}),
        "flops": flops_of(estimate),
        "assumptions": estimate.ledger.assumptions,
        "sources": estimate.ledger.sources,
        "guesses": estimate.ledger.guesses,
        "remedy": None if estimate.fits else _remedy(estimate),
        "provenance": provenance(s),
    }
    return plain(document)  # type: ignore[no-any-return]


def _of_any_workload(estimate: Estimate) -> dict[str, Any]:
    """The figures that every kind of workload has, here of a request."""
    s, flops = estimate.scenario, flops_of(estimate)
    steps = max(1, s.osl - 1) if s.transformer.causal else 0
    times = {"prefill": (1, estimate.ttft_s), "decode": (steps, estimate.tpot_s * steps)}
    limits = {"prefill": estimate.limit.get("ttft_s"), "decode": steps * estimate.limit.get("tpot_s", 0.0)}
    usd = estimate.usd_per_million_tokens
    return {
        "latency_s": estimate.e2e_s,
        "throughput_per_s": s.batch / estimate.e2e_s,
        "energy_j_per_item": (estimate.energy_j + estimate.host_energy_j) / s.batch,
        "usd_per_million_items": None if usd is None else usd * estimate.output_tokens / s.batch,
        "peak_memory_bytes": estimate.memory.total,
        "macs": (flops["prefill"] + steps * flops["decode"]) / 2 / s.batch,
        "phases": [
            {"name": n, "repeats": k, "time_s": t, "limit_s": limits[n], "bound": estimate.bound.get(n)}
            for n, (k, t) in times.items()
            if k
        ],
        "unknown_ops": [],
    }


def _parameters(model: Any) -> dict[str, Any]:
    """Parameters of the whole model, those a token multiplies with, and what of the whole are towers, by name."""
    towers = {tower.name: tower.parameters for tower in model.towers}
    found = {"total": model.parameters() + sum(towers.values()), "active": model.active_parameters()}
    return {**found, "towers": towers} if towers else found


def _remedy(estimate: Estimate) -> dict[str, Any] | None:
    from steelyard.estimation.infeasibility import in_host_memory, nearest_change

    change, beside = nearest_change(estimate.scenario), in_host_memory(estimate.scenario)
    found = {"change": change.text, "arguments": dict(change.arguments)} if change else {}
    if beside:
        found["in_host_memory"] = {"change": beside.text, "arguments": dict(beside.arguments)}
    return found or None


def flops_of(estimate: Estimate) -> dict[str, float]:
    """Arithmetic operations of the model: the prefill of the whole batch, and one decode step of the whole batch."""
    from steelyard.workload.transformer import Step

    s = estimate.scenario
    context = s.prompt + max(1, s.osl // 2)
    return {
        "prefill": float(s.transformer.graph(Step.prefill(s.batch, s.prompt)).flops()),
        "decode": float(s.transformer.graph(Step.decode(s.batch, context)).flops()),
    }


def shares_of(estimate: Estimate, phase: str) -> dict[str, float]:
    """Share of the time of ``prefill`` or ``decode`` by what bounds it, largest first."""
    return dict(sorted(estimate.shares[phase].items(), key=lambda item: -item[1]))


def flat(estimate: Estimate) -> dict[str, Any]:
    """The answer as one row of text and numbers, for CSV and tables."""
    return plain(columns(estimate))  # type: ignore[no-any-return]


def columns(figures: Figures) -> dict[str, Any]:
    """Inputs and figures by the name of their CSV column: of one estimate numbers, of many arrays."""
    s = figures.scenario
    found = {"model": s.transformer.name, "machine": s.cluster.machine.name, "count": s.cluster.count}
    found |= {**_plan(s.plan), "engine": s.engine.name, **_set(s), **_sizes(s)}
    return found | figures.columns() | {"problem": ""}


def _plan(plan: Plan) -> dict[str, Any]:
    return {**{name: getattr(plan, name) for name in FORMATS}, **plan.degrees, "devices": plan.devices}


def _set(scenario: Scenario) -> dict[str, Any]:
    """Settings of the engine that were given."""
    return {name: value for name in STATIC_FLAGS if (value := scenario.words.get(name)) is not None}


#: Fields of the question that are no choice of model, machine, plan, engine or price.
_SIZES = tuple(
    n
    for n in fields_of("estimate")
    if n not in ("model", "on", "engine", "techniques", "generic", PRICE, *UNSAID, *FORMATS, *DEGREES)
)


def _sizes(s: Scenario) -> dict[str, Any]:
    """Those fields with their values, and what a request shows where it shows something."""
    return {name: s.value(name) for name in (*_SIZES, *(x.shown.field for x in s.seen))}


def _encode(e: Estimate) -> dict[str, Any]:
    """What the towers do with the images and sounds of the batch, whose time is part of the time to first token."""
    from steelyard.estimation.static_batch import encoder_of

    seen = [
        {
            "tower": s.tower.name,
            "count": s.shown.count,
            **dict(zip(("height", "width") if s.shown.kind == "vision" else ("seconds",), s.shown.size, strict=True)),
            "positions": s.positions,
            "tokens": s.tokens,
        }
        for s in e.scenario.seen
    ]
    return {
        "seen": seen,
        "tokens": e.scenario.seen_tokens,
        **{name: e.encode[name] for name in ("time_s", "single_s", "limit_s", "host_s")},
        "bound_shares": dict(sorted(e.encode["shares"].items(), key=lambda item: -item[1])),
        "flops": encoder_of(e.scenario).flops() * e.scenario.batch,
    }


def summary(estimate: Estimate) -> str:
    """A few lines for a Python prompt."""
    s, e = estimate.scenario, estimate
    usd = "" if e.usd_per_million_tokens is None else f", {format_quantity(e.usd_per_million_tokens, 'USD')}/M tokens"
    total, capacity = format_quantity(float(e.memory.total), "B"), format_quantity(e.memory.capacity, "B")
    lines = [
        f"<Estimate {s.transformer.name} on {s.cluster}: batch {s.batch}, {s.prompt} in, {s.osl} out, "
        f"{s.plan.weights} weights, {s.engine.name}",
        f"  {'fits' if e.fits else 'DOES NOT FIT'}: {total} of {capacity} per device",
    ]
    for label, name in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("end to end", "e2e_s")):
        low, high = e.interval[name]
        span = f"80 %: {format_quantity(low, 's')} to {format_quantity(high, 's')}"
        lines.append(f"  {label} {format_quantity(getattr(e, name), 's')} ({span})")
    lines.append(
        f"  {figure(e.tokens_per_s)} tokens/s, {figure(e.tokens_per_s_per_device)} per device; "
        f"{e.energy_j_per_token:.3g} J/token{usd}>"
    )
    return "\n".join(lines)
