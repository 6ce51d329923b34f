"""Where an estimate's numbers come from: every kernel of both phases, then memory, energy and money."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.report.paper import bullet, render
from steelyard.report.paper import columns as table_of
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.cost.cost import KernelCost
    from steelyard.cost.step import StepPrice
    from steelyard.estimation.estimate import Estimate

__all__ = ["SCHEMA", "flat_rows", "kernels", "text", "to_dict"]

SCHEMA = "steelyard.explain/1"

#: What the source of a cost model's parameters means.
_SOURCE_WORDS = {
    "fitted": "fitted to measurements of this machine",
    "borrowed": "borrowed from measurements of its family or of machines in general",
    "default": "no measurements: physical defaults",
}


def to_dict(estimate: Estimate) -> dict[str, Any]:
    """``steelyard.explain/1``: the kernels of both phases, and the formulas of memory and energy."""
    from steelyard.estimation.estimate import prefill_chunks, provenance

    s = estimate.scenario
    document = {
        "schema": SCHEMA,
        "model": s.transformer.name,
        "on": str(s.cluster),
        "batch": s.batch,
        "isl": s.isl,
        "osl": s.osl,
        "prefill": _phase(estimate.prefill),
        "decode": _phase(estimate.decode),
        "prefill_steps": prefill_chunks(s.engine, s.replica_batch, s.isl)[1],
        "memory": _memory(estimate),
        "energy": _energy(estimate),
        "sources": estimate.ledger.sources,
        "guesses": estimate.ledger.guesses,
        "provenance": provenance(s),
    }
    return plain(document)  # type: ignore[no-any-return]


def flat_rows(estimate: Estimate) -> list[dict[str, Any]]:
    """One CSV row per kernel and phase."""
    rows = []
    for name in ("prefill", "decode"):
        for row in kernels(getattr(estimate, name)):
            rows.append(
                plain({"phase": name, **{k: " ; ".join(v) if isinstance(v, list) else v for k, v in row.items()}})
            )
    return rows


def kernels(phase: StepPrice) -> list[dict[str, Any]]:
    """Every kernel of a phase: totals over all its copies on one device, SI units.

    ``share`` is of the phase's time; ``utilisation`` is limit over time; ``bound`` is the largest of compute, memory
    and network, or overhead when the limit explains less than a third.
    """
    whole = float(phase.time_s)
    rows = [_kernel(k, whole) for k in phase.cost]
    if phase.hop_s:
        rows.append(
            _beside("stage boundary", "hidden states handed to the next pipeline stage", phase.hop_s, whole, "network")
        )
    rows.append(
        _beside(
            "engine overhead",
            "time per step beside the kernels: host, launches, gaps",
            float(phase.cost.overhead_s),
            whole,
            "overhead",
        )
    )
    return rows


def _phase(phase: StepPrice) -> dict[str, Any]:
    return {"time_s": phase.time_s, "limit_s": phase.limit_s, "tokens": phase.program.tokens, "kernels": kernels(phase)}


def _kernel(cost: KernelCost, whole: float) -> dict[str, Any]:
    from steelyard.cost.cost import BOUNDS

    k = cost.kernel
    count = _number(k.count)
    flops, moved = _number(k.flops) * count, _number(k.bytes) * count
    time, limit = _number(cost.time_s), _number(cost.limit_s)
    return {
        "kernel": k.name,
        "kind": k.kind,
        "block": k.block,
        "count": count,
        "formula": formula(k.kind, k.features),
        "einsum": [op.einsum for op in k.ops],
        "flops": flops,
        "bytes": moved,
        "traffic_bytes": {name: _number(x) * count for name, x in k.traffic.items()},
        "intensity_flop_per_byte": flops / moved if moved else None,
        "time_s": time,
        "share": time / whole,
        "limit_s": limit,
        "utilisation": limit / time if time else None,
        "bound": BOUNDS[int(np.asarray(cost.bound))],
        "energy_j": _number(cost.energy_j),
        "engine": cost.engine,
        "computed_in": k.compute,
        "weights_in": k.weight_format,
        "source": cost.source,
        "log_spread": cost.spread,
    }


def _beside(name: str, words: str, time: float, whole: float, bound: str) -> dict[str, Any]:
    return {
        "kernel": name,
        "kind": bound,
        "count": 1,
        "formula": words,
        "time_s": time,
        "share": time / whole,
        "bound": bound,
    }


def _number(value: Any) -> float:
    return float(np.asarray(value, dtype=np.float64))


def _n(features: Mapping[str, Any], name: str) -> str:
    return f"{_number(features.get(name, 0)):,.6g}"


def formula(kind: str, f: Mapping[str, Any]) -> str:
    """The work of one copy of a kernel in words and numbers."""
    if kind == "gemm":
        groups = _number(f.get("groups", 1))
        many = f"{groups:,.6g} x " if groups != 1 else ""
        return f"{many}m n k = {_n(f, 'm')} x {_n(f, 'n')} x {_n(f, 'k')}; 2 m n k FLOP"
    if kind == "attention":
        latent = ", latent cache" if f.get("latent") else ""
        window = f", window {_n(f, 'window')}" if _number(f.get("window", 0)) else ""
        sizes = f"{_n(f, 'batch')} x {_n(f, 'new')} queries over {_n(f, 'context')} tokens"
        heads = f"{_n(f, 'heads')} heads of {_n(f, 'head_dim')} ({_n(f, 'kv_heads')} KV)"
        return f"{sizes}, {heads}{latent}{window}; 2 (c + z) FLOP per pair"
    if kind == "moe":
        gated = "3" if f.get("gated") else "2"
        experts = f"{_n(f, 'experts')} of {_n(f, 'total_experts')} experts here"
        routed, size = (
            f"{_n(f, 'tokens')} tokens x top {f.get('top_k')}",
            f"{_n(f, 'hidden')} x {_n(f, 'intermediate')}",
        )
        return f"{routed}, {experts}, {size}; {gated} products"
    if kind == "collective":
        return f"{f.get('operation')} of {q(_number(f.get('message_bytes', 0)), 'B')} over {_n(f, 'devices')} devices"
    if kind == "gather":
        return "rows read from a table"
    return f"elementwise over {_n(f, 'rows')} rows"


def _memory(e: Estimate) -> dict[str, Any]:
    from steelyard.cost.memory import kv_bytes

    s, m = e.scenario, e.memory
    per_token = float(kv_bytes(s.transformer, s.plan, 1, 1))
    return {
        "weights": {
            "bytes": m.weights,
            "formula": "sum over tensors of elements x stored bits / 8, split over tp (and ep), layers over pp"
            + ("; scaled to the files' exact size" if s.model.weight_bytes else ""),
        },
        "kv_cache": {
            "bytes": m.kv_cache,
            "bytes_per_token": per_token,
            "formula": f"{s.replica_batch} sequences x {s.isl + s.osl} tokens x {per_token:,.0f} B per token "
            f"and device, rounded up to blocks of {s.engine.block_tokens:.0f}; windows keep their reach",
        },
        "activations": {
            "bytes": m.activations,
            "formula": "tokens of the largest step x (2 hidden + widest output) x 2 B + logits",
        },
        "other": {"bytes": m.other, "formula": f"graphs, communication buffers and workspaces of {s.engine.title}"},
        "capacity": {
            "bytes": m.capacity,
            "formula": f"{s.engine.memory_frac:.0%} of {q(s.cluster.machine.root.capacity_bytes, 'B')} "
            f"less {q(s.cluster.machine.reserved_bytes, 'B')} of the driver",
        },
    }


def _energy(e: Estimate) -> dict[str, Any]:
    machine = e.scenario.cluster.machine
    return {
        "formula": "operations x energy per operation + bytes x energy per byte on each level crossed "
        "+ static power x time, at most TDP x time; plus hosts",
        "static_w": e.decode.cost.static_w,
        "tdp_w": machine.tdp_w,
        "host_w_per_node": e.scenario.cluster.host_w,
        "prefill_step_j_per_device": float(np.asarray(e.prefill.cost.energy_j)),
        "decode_step_j_per_device": float(np.asarray(e.decode.cost.energy_j)),
        "devices_j": e.energy_j,
        "hosts_j": e.host_energy_j,
        "j_per_token": e.energy_j_per_token,
    }


def text(estimate: Estimate, width: int | None = None) -> str:
    """The explanation for a terminal."""
    from rich.text import Text

    from steelyard.estimation.estimate import prefill_chunks

    s = estimate.scenario
    prompt = _number(estimate.prefill.program.tokens)
    steps = prefill_chunks(s.engine, s.replica_batch, s.isl)[1]
    of = f", one of {steps}" if steps > 1 else ""
    parts: list[Any] = [
        Text(
            f"{s.transformer.name} on {s.cluster}, {s.engine.title}, batch {s.batch}, {s.isl} + {s.osl} tokens",
            style="bold",
        ),
        "Work, bytes and time are totals over all copies of a kernel on one device.",
    ]
    for title, phase in (
        (f"Prefill step of {prompt:,.0f} tokens{of}", estimate.prefill),
        (f"Decode step of {s.replica_batch:,} sequences", estimate.decode),
    ):
        total = f"{title}: {q(phase.time_s, 's')}, limit {q(phase.limit_s, 's')}"
        parts += ["", Text(total, style="bold"), _kernel_table(phase)]
    parts += ["", Text("Memory of the fullest device", style="bold")]
    parts += [
        bullet(Text(f"{name}: {q(float(x['bytes']), 'B')} = {x['formula']}")) for name, x in _memory(estimate).items()
    ]
    energy = _energy(estimate)
    parts += ["", Text("Energy", style="bold"), bullet(Text(energy["formula"]))]
    static = f"static {energy['static_w']:,.0f} W, TDP {energy['tdp_w']:,.0f} W"
    batch = f"whole batch {q(energy['devices_j'], 'J')} + hosts {q(energy['hosts_j'], 'J')}"
    batch += f" = {q(energy['j_per_token'], 'J')} per token"
    parts.append(
        bullet(Text(f"decode step {q(energy['decode_step_j_per_device'], 'J')} per device ({static}); {batch}"))
    )
    used = sorted({k.source.partition(":")[0] for phase in (estimate.prefill, estimate.decode) for k in phase.cost})
    parts += ["", Text("Parameters", style="bold")]
    parts += [bullet(Text(f"{word}: {_SOURCE_WORDS.get(word, 'from the model itself')}")) for word in used]
    if estimate.ledger.guesses:
        parts += ["", Text("Guesses (figures nobody published)", style="bold")]
        parts += [bullet(Text(f"{path}: {reason}")) for path, reason in estimate.ledger.guesses.items()]
    return render(parts, width, widest=80 if width is None else max(80, min(width, 140)))


def _kernel_table(phase: StepPrice) -> Any:
    from rich.text import Text

    names = ("kernel", "count", "FLOP", "bytes", "FLOP/B", "time", "share", "util", "bound")
    rows: list[list[Any]] = []
    for k in kernels(phase):
        utilisation = k.get("utilisation")
        intensity = k.get("intensity_flop_per_byte")
        rows.append(
            [
                Text(k["kernel"], style="bold"),
                f"{k['count']:.0f}",
                _si(k.get("flops")),
                _si(k.get("bytes")),
                "" if not intensity else f"{intensity:,.3g}" if intensity < 1000 else f"{intensity:,.0f}",
                q(k["time_s"], "s"),
                f"{k['share']:.1%}",
                "" if utilisation is None else f"{utilisation:.0%}",
                k["bound"],
            ]
        )
    table = table_of(names, rows, names[1:-1], fold=("kernel",), gap=1)
    return _with_formulas(table, phase)


def _with_formulas(table: Any, phase: StepPrice) -> Any:
    """The table, then one line per kernel with its formula, engine, formats and source."""
    from rich.console import Group
    from rich.text import Text

    lines = []
    for k in kernels(phase):
        where = ""
        if k.get("engine"):
            stored = f", weights {k['weights_in']}" if k["weights_in"] else ""
            where = f" [{k['engine']}, {k['computed_in']}{stored}]"
        einsum = f" ({'; '.join(k['einsum'])})" if k.get("einsum") and len(k["einsum"]) == 1 else ""
        source = f" {k['source']}" if k.get("source") else ""
        line = Text(k["kernel"], style="bold")
        line.append(f": {k['formula']}{einsum}{where}{source}", style="default")
        lines.append(bullet(line))
    return Group(table, *lines)


def _si(value: float | None) -> str:
    if not value:
        return ""
    return q(value, "x").removesuffix("x").replace(" ", "")
