"""An estimate as JSON (``steelyard.estimate/1``), as a flat CSV row, and as a short summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.report.paper import figure
from steelyard.report.plain import plain
from steelyard.units import format_quantity

if TYPE_CHECKING:
    from steelyard.cost.step import StepPrice
    from steelyard.estimation.estimate import Estimate

__all__ = ["SCHEMA", "flat", "flops_of", "shares_of", "summary", "to_dict"]

SCHEMA = "steelyard.estimate/1"


def to_dict(estimate: Estimate) -> dict[str, Any]:
    """The answer in the stable JSON form ``steelyard.estimate/1``: SI units, nothing that is not finite.

    ``limit.*`` is the physical limit (every kernel at its peak), ``interval.*`` the central 80 % interval,
    ``flops`` the arithmetic of the whole batch (prefill) and of one step of the whole batch (decode) over all devices.
    """
    from steelyard.estimation.estimate import provenance

    s = estimate.scenario
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
        "plan": {
            "weights": plan.weights,
            "activations": plan.activations,
            "kv": plan.kv,
            "communication": plan.communication,
            **plan.degrees,
            "devices": plan.devices,
        },
        "engine": s.engine.name,
        "batch": s.batch,
        "isl": s.isl,
        "osl": s.osl,
        "skew": s.skew,
        "fits": estimate.fits,
        "memory_bytes": {**estimate.memory.to_dict(), "headroom": estimate.memory.headroom},
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
        "usd_per_device_hour": estimate.usd_per_hour,
        "price": estimate.price_note,
        "limit": estimate.limit,
        "interval": {name: list(ends) for name, ends in estimate.interval.items()},
        "bound": {"prefill": str(estimate.prefill.cost.bound()), "decode": str(estimate.decode.cost.bound())},
        "bound_shares": {"prefill": shares_of(estimate.prefill), "decode": shares_of(estimate.decode)},
        "parameters": {"total": model.parameters(), "active": model.active_parameters()},
        "flops": flops_of(estimate),
        "assumptions": estimate.ledger.assumptions,
        "sources": estimate.ledger.sources,
        "guesses": estimate.ledger.guesses,
        "remedy": None if estimate.fits else _remedy(estimate),
        "provenance": provenance(s),
    }
    return plain(document)  # type: ignore[no-any-return]


def _remedy(estimate: Estimate) -> dict[str, Any] | None:
    from steelyard.estimation.infeasibility import nearest_change

    change = nearest_change(estimate.scenario)
    return {"change": change.text, "arguments": dict(change.arguments)} if change else None


def flops_of(estimate: Estimate) -> dict[str, float]:
    """Arithmetic operations of the model: the prefill of the whole batch, and one decode step of the whole batch."""
    from steelyard.workload.transformer import Step

    s = estimate.scenario
    context = s.isl + max(1, s.osl // 2)
    return {
        "prefill": float(s.transformer.graph(Step.prefill(s.batch, s.isl)).flops()),
        "decode": float(s.transformer.graph(Step.decode(s.batch, context)).flops()),
    }


def shares_of(phase: StepPrice) -> dict[str, float]:
    """Share of a phase's time by what bounds it, largest first; pipeline hand-overs count as network."""
    whole = float(phase.time_s)
    inside = float(np.asarray(phase.cost.time_s))
    shares = {name: float(np.asarray(x)) * inside / whole for name, x in phase.cost.shares().items()}
    shares["network"] = shares.get("network", 0.0) + phase.hop_s / whole
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def flat(estimate: Estimate) -> dict[str, Any]:
    """The answer as one row of text and numbers, for CSV and tables."""
    document = to_dict(estimate)
    row: dict[str, Any] = {
        "model": document["model"],
        "machine": document["machine"]["name"],
        "count": document["machine"]["count"],
    }
    row |= document["plan"] | {k: document[k] for k in ("engine", "batch", "isl", "osl", "skew", "fits")}
    row |= {f"memory_{k}_bytes": v for k, v in document["memory_bytes"].items()}
    for name in ("largest_batch", "largest_context", "ttft_s", "ttft_single_s", "tpot_s", "e2e_s", "tokens_per_s"):
        row[name] = document[name]
    for name in ("tokens_per_s_per_device", "tokens_per_s_per_user", "energy_j_per_token", "usd_per_million_tokens"):
        row[name] = document[name]
    row |= {f"limit_{k}": v for k, v in document["limit"].items()}
    for name, ends in document["interval"].items():
        row[f"{name.removesuffix('_s')}_low_s"], row[f"{name.removesuffix('_s')}_high_s"] = ends
    row |= {f"bound_{k}": v for k, v in document["bound"].items()}
    row["problem"] = ""
    return row


def summary(estimate: Estimate) -> str:
    """A few lines for a Python prompt."""
    s, e = estimate.scenario, estimate
    usd = "" if e.usd_per_million_tokens is None else f", {format_quantity(e.usd_per_million_tokens, 'USD')}/M tokens"
    total, capacity = format_quantity(float(e.memory.total), "B"), format_quantity(e.memory.capacity, "B")
    lines = [
        f"<Estimate {s.transformer.name} on {s.cluster}: batch {s.batch}, {s.isl} in, {s.osl} out, "
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
