"""Where an estimate's numbers come from: every kernel of both phases, then memory and energy, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard._display import Result
from steelyard.cost.cost import BOUNDS
from steelyard.estimation.estimate import answer
from steelyard.scenario.scenario import Scenario
from steelyard.scenario.verbs import verb
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.cost.cost import KernelCost
    from steelyard.cost.step import StepPrice
    from steelyard.estimation.estimate import Estimate

__all__ = ["Explanation", "explain", "kernels"]


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Result):
    """Where the numbers of an estimate come from."""

    estimate: Estimate

    @cached_property
    def kernels(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of :func:`kernels` of a ``prefill`` and a ``decode`` step, before them of an ``encode`` pass."""
        e = self.estimate
        encode = {f"encode {i + 1}": kernels(phase) for i, phase in enumerate(e.encodes)}
        if len(encode) == 1:
            encode = {"encode": encode.popitem()[1]}
        return {**encode, "prefill": kernels(e.prefill), "decode": kernels(e.decode)}

    @property
    def prefill_steps(self) -> int:
        """Steps in which the prompts of the batch are processed."""
        from steelyard.estimation.estimate import prefill_chunks

        s = self.estimate.scenario
        return int(prefill_chunks(s.engine, s.replica_batch, s.prompt)[1])

    @cached_property
    def memory(self) -> dict[str, Any]:
        """Bytes of the fullest device by what they hold, each with its formula."""
        return _memory(self.estimate)

    @cached_property
    def energy(self) -> dict[str, Any]:
        """Energy of the batch and its formula."""
        return _energy(self.estimate)


@verb("estimate")
def explain(scenario: Scenario) -> Explanation:
    """Where the numbers of an estimate come from: every kernel, its formula, its limit and what bounds it.

    Returns:
        an :class:`Explanation`.

    Raises:
        InputError: as for :func:`steelyard.estimate`.
    """
    return Explanation(answer(scenario))


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


def _kernel(cost: KernelCost, whole: float) -> dict[str, Any]:

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
    if kind == "counted":
        return f"{_n(f, 'number')} ops with a rate"
    if kind in ("gemm", "index_scores"):
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
    if kind == "vector":
        return f"elementwise over {_n(f, 'rows')} rows"
    return ", ".join((kind, *(f"{name} {_n(f, name)}" for name in f if not name.endswith("_bits"))))


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
            "formula": f"{s.replica_batch} sequences x {s.prompt + s.osl} tokens x {per_token:,.0f} B per token "
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
        "tdp_w": machine.most_w,
        "host_w_per_node": e.scenario.cluster.host_w,
        "prefill_step_j_per_device": float(np.asarray(e.prefill.cost.energy_j)),
        "decode_step_j_per_device": float(np.asarray(e.decode.cost.energy_j)),
        "devices_j": e.energy_j,
        "hosts_j": e.host_energy_j,
        "j_per_token": e.energy_j_per_token,
    }
