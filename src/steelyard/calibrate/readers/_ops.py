"""Asking Steelyard for the time of one op, as a benchmark of that op would measure it.

The parameters are those an estimate looks up (``calibrated``), the device is the catalogue's, and what the software
did is stated by the row (its kernel). Every answer carries the stated 80 % interval and the datasheet roofline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.calibrate.fit_gemm import KERNELS as GEMM_KERNELS
from steelyard.calibrate.fit_moe import facts_for
from steelyard.calibrate.readers._base import interval80
from steelyard.cost.attention import (
    AttentionDevice,
    decode_attention_limit_s,
    decode_attention_time_s,
    prefill_attention_limit_s,
    prefill_attention_time_s,
)
from steelyard.cost.gemm import GemmDevice, GemmFacts, gemm_facts, gemm_roofline_s, gemm_time_s
from steelyard.cost.mla import mla_decode_limit_s, mla_decode_time_s, mla_prefill_limit_s, mla_prefill_time_s
from steelyard.cost.moe import MoeDevice, moe_limit_s, moe_time_s
from steelyard.cost.op_models import Where
from steelyard.cost.op_models import collective as price_collective
from steelyard.cost.parameters import Calibrated, calibrated, calibration_table
from steelyard.cost.program import Kernel
from steelyard.cost.site import Site, site_of
from steelyard.cost.vector import VectorDevice, vector_time_s
from steelyard.machine.catalogue import find_machine, machine_names
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.machine.component import Machine
from steelyard.plan.engine import default_engine
from steelyard.plan.formats import compute_with, find_format

__all__ = ["Answer", "collective", "decode", "gemm", "gemm_fp32", "mla_decode", "mla_prefill", "moe", "prefill", "site", "vector"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answer:
    """Predicted seconds of some rows, the 80 % interval, the datasheet roofline, and where the parameters came from."""

    time_s: Floats
    low_s: Floats
    high_s: Floats
    roofline_s: Floats
    source: str

    @property
    def fitted(self) -> bool:
        """Whether the machine's own measurements set the parameters."""
        return self.source.startswith("fitted")

    def __add__(self, other: Answer) -> Answer:
        """One after the other, errors of both in the same direction (the cautious case)."""
        return Answer(
            self.time_s + other.time_s,
            self.low_s + other.low_s,
            self.high_s + other.high_s,
            self.roofline_s + other.roofline_s,
            self.source if self.source == other.source else f"{self.source}; {other.source}",
        )

    @property
    def columns(self) -> dict[str, Floats]:
        """Keyword arguments of ``comparison``."""
        return {"predicted": self.time_s, "low": self.low_s, "high": self.high_s, "roofline": self.roofline_s}


def _answer(time_s: ArrayLike, roofline_s: ArrayLike, found: Calibrated) -> Answer:
    time, roof = np.broadcast_arrays(np.asarray(time_s, dtype=np.float64), np.asarray(roofline_s, dtype=np.float64))
    return Answer(time, *interval80(time, found.spread), roof, found.source)


def site(machine: Machine, weights: str = "bf16", activations: str = "", kind: str = "matrix") -> Site:
    """Where products of two formats run on a machine.

    Raises:
        InputError: the machine computes in no format that wide.
    """
    stored = find_format(weights)
    other = find_format(activations or stored.activations or stored.name)
    engine, compute = compute_with(machine, stored, other, kind)
    return site_of(machine, engine.name, compute)


def gemm_device(where: Site) -> GemmDevice:
    """The device a GEMM meets."""
    return GemmDevice(
        where.units,
        where.peak_ops_per_s,
        where.peak16_ops_per_s,
        where.dram_bytes_per_s,
        where.l2_bytes,
        where.l2_bytes_per_s,
        where.copy_engine,
        where.clock_hz or 1.8e9,
        where.machine.tdp_w,
    )


def gemm_kernel(machine: Machine, fmt: str) -> GemmFacts:
    """The GEMM library of a machine and format: what its calibration names, or its family's, or the nearest measured machine's."""
    shared = calibration_table("_families", "gemm").get(machine.family, {})
    for table in (calibration_table(machine.name, "gemm"), shared):
        section = table.get(fmt) or (table if fmt == "bf16" else {})
        if "facts" in section:
            return gemm_facts(str(section["facts"]))
    name = {"int4_wo": "marlin", "int8_wo": "marlin", "int8": "cutlass_int8"}.get(fmt)
    if name is None:
        own = site(machine).copy_engine
        ranked = [
            (site(find_machine(measured)).copy_engine != own, kernel)
            for (measured, kind), kernel in GEMM_KERNELS.items()
            if kind == fmt and measured in machine_names()
        ]
        name = min(ranked)[-1] if ranked else "blas"
    return gemm_facts(name)


def gemm(
    machine: Machine,
    fmt: str,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    groups: ArrayLike = 1,
    activations: str = "",
    out_bits: float = 16.0,
    facts: GemmFacts | None = None,
    hot: bool = True,
    floor_s: float = 0.0,
) -> Answer:
    """One dense product.

    Args:
        machine: where.
        fmt: format of the weights as the tables name it.
        m, n, k, groups: sizes.
        activations: format of the activations; default: what the weights imply.
        out_bits: bits of an output element.
        facts: software; default: the library of such machines.
        hot: the benchmark repeats one product, so that small operands are found in the cache.
        floor_s: host time per call of an eager benchmark.
    """
    where = site(machine, fmt, activations)
    stored = find_format(fmt)
    acts = find_format(activations or stored.activations or stored.name)
    found = calibrated("gemm", where, stored.name)
    sizes: dict[str, Any] = {
        "weight_bits": stored.stored_bits,
        "act_bits": acts.stored_bits,
        "out_bits": out_bits,
        "device": gemm_device(where),
        "groups": groups,
    }
    software = facts or gemm_kernel(machine, fmt)
    time = gemm_time_s(m, n, k, **sizes, parameters=found.parameters, facts=software, weights_hot=hot)
    return _answer(np.maximum(time, floor_s), gemm_roofline_s(m, n, k, **sizes), found)


def gemm_fp32(machine: Machine, m: ArrayLike, n: ArrayLike, k: ArrayLike, groups: ArrayLike = 1) -> Answer:
    """A single-precision product on the vector units (``allow_tf32`` off, PyTorch's default)."""
    where = site(machine, "fp32", "fp32", "vector")
    found = calibrated("gemm", where, "fp32")
    device = replace(gemm_device(where), peak16_ops_per_s=where.peak_ops_per_s)
    sizes: dict[str, Any] = {"weight_bits": 32.0, "act_bits": 32.0, "out_bits": 32.0, "device": device, "groups": groups}
    time = gemm_time_s(m, n, k, **sizes, parameters=found.parameters, facts=gemm_kernel(machine, "fp32"), weights_hot=True)
    return _answer(time, gemm_roofline_s(m, n, k, **sizes), found)


def attention_device(where: Site) -> AttentionDevice:
    """The device an attention kernel meets."""
    return AttentionDevice(
        units=where.units,
        peak_ops_per_s=where.peak16_ops_per_s,
        dram_bytes_per_s=where.dram_bytes_per_s,
        l2_bytes=where.l2_bytes,
        l2_bytes_per_s=where.l2_bytes_per_s,
        clock_hz=where.clock_hz or 1.5e9,
        copy_engine=where.copy_engine,
        peak8_ops_per_s=where.engine.peak.get("fp8", 0.0),
    )


def decode(
    machine: Machine,
    kernel: str,
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    kv_bits: float = 16.0,
    window: ArrayLike = 0,
    hot: bool = True,
) -> Answer:
    """Decode attention of one layer by a software kernel (a name of ``catalogue/kernels/attention.toml``)."""
    where = site(machine)
    device = attention_device(where)
    found = calibrated("decode", where, _kv(kv_bits))
    sizes = (batch, context, heads, kv_heads, head_dim)
    time = decode_attention_time_s(
        *sizes,
        kv_bits=kv_bits,
        window=window,
        device=device,
        parameters=found.parameters,
        facts=_attention_facts("facts", kernel, found.facts),
        kv_hot=hot,
    )
    roof = decode_attention_limit_s(*sizes, kv_bits=kv_bits, window=window, device=device, computes_fp8=False)
    return _answer(time, roof, found)


def prefill(
    machine: Machine,
    kernel: str,
    batch: ArrayLike,
    new_tokens: ArrayLike,
    context_before: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    kv_bits: float = 16.0,
    window: ArrayLike = 0,
) -> Answer:
    """Prefill attention of one layer, the write of the new cache entries included."""
    where = site(machine)
    device = attention_device(where)
    found = calibrated("prefill", where, _kv(kv_bits))
    sizes = (batch, new_tokens, context_before, heads, kv_heads, head_dim)
    time = prefill_attention_time_s(
        *sizes,
        kv_bits=kv_bits,
        window=window,
        device=device,
        parameters=found.parameters,
        facts=_attention_facts("facts", kernel, found.facts),
    )
    roof = prefill_attention_limit_s(*sizes, kv_bits=kv_bits, window=window, device=device, computes_fp8=False)
    return _answer(time, roof, found)


def mla_decode(
    machine: Machine, kernel: str, batch: ArrayLike, context: ArrayLike, heads: ArrayLike, *, kv_bits: float = 16.0, hot: bool = True
) -> Answer:
    """The absorbed latent-attention decode kernel, DeepSeek's dimensions (latent 512, rope 64)."""
    where = site(machine)
    device = attention_device(where)
    found = calibrated("mla", where, _kv(kv_bits))
    time = mla_decode_time_s(
        batch,
        context,
        heads,
        kv_bits=kv_bits,
        device=device,
        parameters=found.parameters,
        facts=_attention_facts("mla", kernel, found.facts),
        kv_hot=hot,
    )
    return _answer(time, mla_decode_limit_s(batch, context, heads, kv_bits=kv_bits, device=device), found)


def mla_prefill(machine: Machine, kernel: str, batch: ArrayLike, new_tokens: ArrayLike, context_before: ArrayLike, heads: ArrayLike) -> Answer:
    """The attention kernel of latent attention's prefill: 16-bit keys of 128 + 64, values of 128."""
    where = site(machine)
    device = attention_device(where)
    found = calibrated("prefill", where, "bf16")
    time = mla_prefill_time_s(
        batch,
        new_tokens,
        context_before,
        heads,
        device=device,
        parameters=found.parameters,
        facts=_attention_facts("facts", kernel, found.facts),
    )
    return _answer(time, mla_prefill_limit_s(batch, new_tokens, context_before, heads, device=device), found)


def _kv(bits: float) -> str:
    return "fp8" if bits <= 8.5 else "bf16"


@cache
def _kernel_table() -> Mapping[str, Any]:
    import tomllib
    from importlib import resources

    return tomllib.loads(resources.files("steelyard.catalogue").joinpath("kernels/attention.toml").read_text(encoding="utf-8"))


def _attention_facts(section: str, kernel: str, default: Any) -> Any:
    """What a kernel does: the entry of the table laid over the defaults; an unknown kernel is a usual modern one."""
    entry = _kernel_table().get(section, {}).get(kernel)
    if entry is None:
        return default
    return replace(type(default)(), name=kernel, **{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})


def moe(
    machine: Machine,
    kernel: str,
    fmt: str,
    bits: tuple[float, float],
    tokens: ArrayLike,
    hidden: ArrayLike,
    intermediate: ArrayLike,
    topk: ArrayLike,
    experts: ArrayLike,
    *,
    local_experts: ArrayLike,
    gated: bool,
    skew: ArrayLike,
    even: bool,
    repeated_batches: ArrayLike,
) -> Answer:
    """The routed experts of one layer on the busiest device, by a grouped-GEMM kernel such as ``triton_bfloat16``."""
    weight_bits, act_bits = bits
    where = site(machine, fmt, "bf16" if act_bits >= 16 else "")
    found = calibrated("moe", where, kernel)
    device = MoeDevice(
        int(where.units),
        where.peak_ops_per_s,
        where.peak16_ops_per_s,
        where.dram_bytes_per_s,
        where.l2_bytes,
        where.l2_bytes_per_s,
        where.copy_engine,  # type: ignore[arg-type]
    )
    sizes: list[Any] = [np.asarray(x, dtype=np.float64) for x in (tokens, hidden, intermediate, topk, experts)]
    local, power = np.asarray(local_experts, dtype=np.float64), np.asarray(skew, dtype=np.float64)
    routing: Any = "even" if even else "random"
    time = moe_time_s(
        *sizes,
        weight_bits=weight_bits,
        act_bits=act_bits,
        gated=gated,
        skew=power,
        device=device,
        parameters=found.parameters,
        facts=facts_for(kernel),
        local_experts=local,
        routing=routing,
        repeated_batches=np.asarray(repeated_batches, dtype=np.float64),
    )
    cold = replace(device, l2_bytes=0.0)
    roof = moe_limit_s(*sizes, weight_bits=weight_bits, gated=gated, skew=power, device=cold, local_experts=local, routing=routing)
    return _answer(time, roof, found)


def vector(
    machine: Machine, kind: str, read_bytes: ArrayLike, write_bytes: ArrayLike, flops: ArrayLike, *, rows: ArrayLike | None = None, hot: bool = False
) -> Answer:
    """A bandwidth-bound kernel: ``elementwise``, ``gather``, ``norm`` or ``softmax``."""
    where = site(machine, "fp32", "fp32", "vector")
    found = calibrated("vector", where, "")
    device = VectorDevice(where.dram_bytes_per_s, where.l2_bytes, where.l2_bytes_per_s, where.vector_ops_per_s, int(where.units))
    read, write = np.asarray(read_bytes, dtype=np.float64), np.asarray(write_bytes, dtype=np.float64)
    count = None if rows is None else np.asarray(rows, dtype=np.float64)
    operations = np.asarray(flops, dtype=np.float64)
    time = vector_time_s(read, write, operations, device=device, parameters=found.parameters, rows=count, kind=kind, cold=not hot)
    roof = np.maximum((read + write) / where.dram_bytes_per_s, operations / where.vector_ops_per_s)
    return _answer(time, roof, found)


def collective(
    machine: Machine, library: str, operation: str, message_bytes: ArrayLike, devices: NDArray[Any], *, per_node: int = 0, host_s: float = 0.0
) -> Answer:
    """A collective over devices of one kind.

    Args:
        machine: the device.
        library: a row of ``cost.collective.LIBRARIES``.
        operation: an operation of the collective model.
        message_bytes, devices: arrays of one shape.
        per_node: devices in one node; 0: as the catalogue says.
        host_s: host time per call of an eager benchmark, below which nothing can be measured.
    """
    from steelyard.cost.price import _collective_limit

    cluster: Cluster = cluster_of(machine, int(np.max(devices)))
    if per_node:
        cluster = replace(cluster, per_node=per_node)
    engine = replace(default_engine(machine), all_reduce=library)
    features = {"operation": operation, "message_bytes": np.asarray(message_bytes, dtype=np.float64), "devices": np.asarray(devices, dtype=np.float64)}
    kernel = Kernel(operation, "collective", 1, features=features)
    priced = price_collective(kernel, Where(cluster, engine, None))
    roof = np.asarray(_collective_limit(kernel, cluster))
    time = np.maximum(np.maximum(priced.time_s, roof), host_s)
    return Answer(time, *interval80(time, priced.spread), roof, priced.source)
