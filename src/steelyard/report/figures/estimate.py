"""Figures of an estimate, of a served model or of a network: memory, times, roofline, parts of the time and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.estimation.explanation import kernels as kernels_of
from steelyard.estimation.start_up import memory_parts
from steelyard.report.figures.figure import Figure
from steelyard.report.figures.shared import Time, breakdown, distributions, fit_bar, roofline
from steelyard.report.paper import spare_text
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate
    from steelyard.estimation.explanation import Explanation
    from steelyard.machine import Machine

__all__ = ["estimate_figures", "explanation_figures", "machine_peaks", "memory_figure"]

#: Parts of the weights that are less than this of them are summed.
_SMALL = 0.01


def estimate_figures(e: Estimate) -> list[Figure]:
    """Fit bar, distributions of the times, roofline, parts of the time and of the energy."""
    kernels = {name: kernels_of(phase) for name, phase in _phases(e).items()}
    found = [memory_figure(e), distributions(_times(e)), _roofs(e, kernels), _time(e, kernels), _energy(e)]
    return [f for f in found if f is not None]


def explanation_figures(found: Explanation) -> list[Figure]:
    """Those of its estimate."""
    return estimate_figures(found.estimate)


def _phases(e: Estimate) -> dict[str, Any]:
    causal = e.scenario.transformer.causal
    encode = {f"encode {i + 1}" if len(e.encodes) > 1 else "encode": p for i, p in enumerate(e.encodes)}
    return {**encode, "prefill": e.prefill, **({"decode": e.decode} if causal else {})}


def memory_figure(e: Estimate) -> Figure:
    """The memory of the fullest device by part, against what the engine may use."""
    found, m = memory_parts(e), e.memory
    weights = sorted(found["weights"].items(), key=lambda item: -item[1])
    whole = sum(size for _, size in weights) or 1.0
    large = [(f"weights: {part}", float(size), "weights") for part, size in weights if size >= _SMALL * whole]
    small = sum(float(size) for _, size in weights if size < _SMALL * whole)
    parts = [*large, *([("weights: rest", small, "weights")] if small else [])]
    outside = found["outside_the_share"]
    rest = (
        ("KV cache", float(found["kv_cache"]), "cache"),
        ("state", float(found["state"]), "state"),
        ("activations", float(found["activations"]), "step"),
        ("buffers", float(found["libraries"]), "rest"),
        ("free", max(float(m.headroom), 0.0), "free"),
        ("not the engine's", float(sum(outside.values())) if m.headroom >= 0 else 0.0, "outside"),
    )
    parts += [p for p in rest if p[1] > 0]
    total, capacity = float(m.total), float(m.capacity)
    verdict = "does not fit the host's memory"
    if e.fits or m.headroom < 0:
        verdict = f"{'fits' if e.fits else 'does not fit'}, {spare_text(float(m.headroom))}"
    says = (
        f"{q(total, 'B')} of {q(capacity, 'B')} usable per device: {verdict}. "
        f"Weights {q(float(m.weights), 'B')}, KV cache {q(float(m.kv_cache), 'B')}, "
        f"activations {q(float(m.activations), 'B')}, buffers {q(float(m.other), 'B')}."
    )
    return fit_bar(parts, capacity, says, float(sum(outside.values())))


def _times(e: Estimate) -> list[Time]:
    causal = e.scenario.transformer.causal
    names = [("ttft_s", "TTFT" if causal else "answer")]
    names += [("tpot_s", "TPOT"), ("e2e_s", "end to end")] if causal else []
    found = []
    for name, label in names:
        low, high = (float(x) for x in e.interval[name])
        least = float(e.limit[name]) if name in e.limit else None
        found.append(Time(label, float(getattr(e, name)), low, high, least))
    return found


def machine_peaks(machine: Machine, kernels: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Peaks of the arithmetic that the kernels use, by engine and format, OP/s."""
    used = {(r.get("engine"), r.get("computed_in")) for rows in kernels.values() for r in rows}
    engines = {c.name: c for c in machine.compute}
    return {
        f"{name} {fmt}": float(engines[name].peak[fmt])
        for name, fmt in sorted((n or "", f or "") for n, f in used)
        if name in engines and fmt in engines[name].peak
    }


def _roofs(e: Estimate, kernels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure | None:
    machine = e.scenario.cluster.machine
    return roofline(kernels, machine.root.bandwidth_bytes_per_s, machine_peaks(machine, kernels), machine.title)


def _time(e: Estimate, kernels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Where the time of the whole batch goes: shares of the kernels times the time of their phase."""
    s = e.scenario
    steps = max(1, s.osl - 1) if s.transformer.causal else 0
    encode = float(e.encode["time_s"]) if e.encode else 0.0
    spans = {"prefill": float(e.ttft_s) - encode, "decode": float(e.tpot_s) * steps}
    parts: dict[str, dict[str, float]] = {}
    if encode:
        parts["encode"] = {"towers": encode}
    for phase, rows in kernels.items():
        if phase not in spans:
            continue
        whole = sum(r["share"] for r in rows) or 1.0
        found = parts.setdefault(phase, {})
        for r in rows:
            part = kernel_part(r["kernel"])
            found[part] = found.get(part, 0.0) + spans[phase] * r["share"] / whole
    total = sum(sum(p.values()) for p in parts.values())
    each = ", ".join(f"{phase} {q(sum(p.values()), 's')} ({sum(p.values()) / total:.0%})" for phase, p in parts.items())
    says = f"{q(total, 's')} for the whole batch: {each}. Prefill is bound by {e.bound['prefill']}"
    says += f", decode by {e.bound['decode']}." if steps else "."
    return breakdown(parts, "s", name="time", title="Where the time goes", says=says)


def kernel_part(kernel: str) -> str:
    """The name of a kernel without its layer: ``up``, ``out.all_reduce``."""
    head, dot, tail = kernel.partition(".")
    return tail if dot and head.startswith("layer") else kernel


def _energy(e: Estimate) -> Figure:
    """Energy of the batch: what each phase's work and the power that always flows take, and the hosts."""
    s = e.scenario
    spans = {"prefill": float(e.ttft_s)}
    if s.transformer.causal:
        spans["decode"] = float(e.tpot_s) * max(1, s.osl - 1)
    weighed: dict[tuple[str, str], float] = {}
    for name, span in spans.items():
        phase = e.prefill if name == "prefill" else e.decode
        repeats = span / float(phase.time_s)
        work = sum(float(np.asarray(k.energy_j)) for k in phase.cost)
        all_of_it = float(np.asarray(phase.cost.energy_j))
        weighed[name, "work"] = min(work, all_of_it) * repeats
        weighed[name, "power that always flows"] = max(all_of_it - work, 0.0) * repeats
    scale = float(e.energy_j) / (sum(weighed.values()) or 1.0)
    hosts = float(e.host_energy_j)
    total_s = sum(spans.values())
    parts: dict[str, dict[str, float]] = {name: {} for name in spans}
    for (name, kind), joules in weighed.items():
        parts[name][f"devices: {kind}"] = joules * scale
    for name, span in spans.items():
        parts[name]["hosts"] = hosts * span / total_s
    whole = float(e.energy_j) + hosts
    watts = whole / float(e.e2e_s) / e.devices
    says = (
        f"{q(whole, 'J')} for the whole batch, {q(float(e.energy_j_per_token), 'J')} per token, "
        f"{watts:,.0f} W per device: devices {q(float(e.energy_j), 'J')}, hosts {q(hosts, 'J')}."
    )
    return breakdown(parts, "J", name="energy", title="Where the energy goes", says=says)
