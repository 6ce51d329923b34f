"""Asking Steelyard for the time of one op, as a benchmark of that op would measure it.

The parameters are those an estimate looks up (``calibrated``), the device is the catalogue's, and what the software
did is stated by the row (its kernel). Every answer carries the stated 80 % interval and the datasheet roofline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.cost.attention import (
    decode_attention_limit_s,
    decode_attention_time_s,
    prefill_attention_limit_s,
    prefill_attention_time_s,
)
from steelyard.cost.attention_kernels import attention_facts, mla_facts
from steelyard.cost.attention_models import attention_parameters
from steelyard.cost.collective import collective_limit_s
from steelyard.cost.devices import attention_device, gemm_device, moe_device, vector_device
from steelyard.cost.gemm import GemmFacts, gemm_roofline_s, gemm_time_s
from steelyard.cost.mla import (
    MlaParameters,
    mla_decode_limit_s,
    mla_decode_time_s,
    mla_prefill_limit_s,
    mla_prefill_time_s,
)
from steelyard.cost.models import PricingContext
from steelyard.cost.moe import FACTS as MOE_FACTS
from steelyard.cost.moe import Router, moe_limit_s, moe_time_s
from steelyard.cost.op_models import collective as price_collective
from steelyard.cost.op_models import expert_parameters, fabrics, product_parameters
from steelyard.cost.parameters import Calibrated, calibrated
from steelyard.cost.program import Kernel
from steelyard.cost.scan import ScanParameters, scan_time_s
from steelyard.cost.site import Site, site_for
from steelyard.cost.sustained import held
from steelyard.cost.vector import VectorParameters, vector_time_s
from steelyard.deployment.engine import default_engine
from steelyard.deployment.formats import find_format, widened
from steelyard.interval import interval80
from steelyard.machine.catalogue import find_network
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.machine.component import Machine

__all__ = ["Answer", "collective", "decode", "gemm", "mla_decode", "mla_prefill", "moe", "prefill", "scan", "vector"]

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

    def after(self, host_s: float) -> Answer:
        """The same with a constant before it: the host of an eager benchmark."""
        return replace(self, time_s=self.time_s + host_s, low_s=self.low_s + host_s, high_s=self.high_s + host_s)

    def at_least(self, host_s: float, interval: tuple[Any, Any]) -> Answer:
        """The same where the host starts no call sooner: calls that follow one another hide behind it or it behind
        them."""
        low, high = interval
        return replace(
            self,
            time_s=np.maximum(self.time_s, host_s),
            low_s=np.maximum(self.low_s, low),
            high_s=np.maximum(self.high_s, high),
        )

    @property
    def columns(self) -> dict[str, Any]:
        """Keyword arguments of ``comparison``."""
        return {"predicted": self.time_s, "low": self.low_s, "high": self.high_s, "roofline": self.roofline_s}


def _answer(time_s: ArrayLike, roofline_s: ArrayLike, found: Calibrated) -> Answer:
    time, roof = np.broadcast_arrays(np.asarray(time_s, dtype=np.float64), np.asarray(roofline_s, dtype=np.float64))
    return Answer(time, *interval80(time, found.spread), roof, found.source)


def _found(op: str, cls: Any, where: Site, *variants: str) -> Calibrated:
    return calibrated(op, cls, where.machine.name, (where.family,), variants or ("",))


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
    running: bool = False,
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
        running: real numbers and the clocks of a model that runs, as estimates take them.
    """
    where = site_for(machine, fmt, activations)
    stored = find_format(fmt)
    acts = widened(machine, find_format(activations or stored.activations or stored.name))
    found, library = product_parameters(where, stored.name, stored.stored_bits, acts.stored_bits)
    software = facts or library
    sizes: dict[str, Any] = {
        "weight_bits": stored.stored_bits,
        "act_bits": acts.stored_bits,
        "out_bits": out_bits,
        "device": gemm_device(where),
        "groups": groups,
    }
    parameters = held(found.parameters, where) if running else found.parameters
    time = gemm_time_s(m, n, k, **sizes, parameters=parameters, facts=software, weights_hot=hot)
    return _answer(time, gemm_roofline_s(m, n, k, **sizes), found)


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
    where = site_for(machine)
    device = attention_device(where)
    found = attention_parameters(where, "decode")
    sizes = (batch, context, heads, kv_heads, head_dim)
    time = decode_attention_time_s(
        *sizes,
        kv_bits=kv_bits,
        window=window,
        device=device,
        parameters=found.parameters,
        facts=attention_facts(kernel),
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
    where = site_for(machine)
    device = attention_device(where)
    found = attention_parameters(where, "prefill")
    sizes = (batch, new_tokens, context_before, heads, kv_heads, head_dim)
    time = prefill_attention_time_s(
        *sizes,
        kv_bits=kv_bits,
        window=window,
        device=device,
        parameters=found.parameters,
        facts=attention_facts(kernel),
    )
    roof = prefill_attention_limit_s(*sizes, kv_bits=kv_bits, window=window, device=device, computes_fp8=False)
    return _answer(time, roof, found)


def mla_decode(
    machine: Machine,
    kernel: str,
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    *,
    kv_bits: float = 16.0,
    hot: bool = True,
) -> Answer:
    """The absorbed latent-attention decode kernel, DeepSeek's dimensions (latent 512, rope 64)."""
    where = site_for(machine)
    device = attention_device(where)
    found = _found("attention", MlaParameters, where, "mla")
    time = mla_decode_time_s(
        batch,
        context,
        heads,
        kv_bits=kv_bits,
        device=device,
        parameters=found.parameters,
        facts=mla_facts(kernel),
        kv_hot=hot,
    )
    return _answer(time, mla_decode_limit_s(batch, context, heads, kv_bits=kv_bits, device=device), found)


def mla_prefill(
    machine: Machine, kernel: str, batch: ArrayLike, new_tokens: ArrayLike, context_before: ArrayLike, heads: ArrayLike
) -> Answer:
    """The attention kernel of latent attention's prefill: 16-bit keys of 128 + 64, values of 128."""
    where = site_for(machine)
    device = attention_device(where)
    found = attention_parameters(where, "prefill")
    time = mla_prefill_time_s(
        batch,
        new_tokens,
        context_before,
        heads,
        device=device,
        parameters=found.parameters,
        facts=attention_facts(kernel),
    )
    return _answer(time, mla_prefill_limit_s(batch, new_tokens, context_before, heads, device=device), found)


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
    where = site_for(machine, fmt, "bf16" if act_bits >= 16 else "")
    name = next((k for k in sorted(MOE_FACTS, key=len, reverse=True) if kernel.startswith(f"{k}_")), "triton")
    found = expert_parameters(where, name, kernel.removeprefix(f"{name}_"))
    device = moe_device(where)
    sizes: list[Any] = [np.asarray(x, dtype=np.float64) for x in (tokens, hidden, intermediate, topk, experts)]
    local, power = np.asarray(local_experts, dtype=np.float64), np.asarray(skew, dtype=np.float64)
    router = Router(power, even)
    time = moe_time_s(
        *sizes,
        weight_bits=weight_bits,
        act_bits=act_bits,
        gated=gated,
        router=router,
        device=device,
        parameters=found.parameters,
        facts=MOE_FACTS[name],
        local_experts=local,
        repeated_batches=np.asarray(repeated_batches, dtype=np.float64),
    )
    cold = replace(device, l2_bytes=0.0)
    roof = moe_limit_s(*sizes, weight_bits=weight_bits, gated=gated, router=router, device=cold, local_experts=local)
    return _answer(time, roof, found)


def scan(machine: Machine, workload_ops: Any, bytes_moved: Floats) -> Answer:
    """A recurrent state, chunk by chunk, of ops that :func:`steelyard.workload.blocks.scan.scan_ops` wrote."""
    where = site_for(machine)
    found = _found("scan", ScanParameters, where)
    flops = np.asarray(sum(op.flops() for op in workload_ops), dtype=np.float64)
    time = scan_time_s(bytes_moved, flops, workload_ops[0].steps(), where, found.parameters)
    roofline = np.maximum(bytes_moved / where.dram_bytes_per_s, flops / where.peak_ops_per_s)
    return _answer(time, np.broadcast_to(roofline, np.shape(time)), found)


def vector(
    machine: Machine,
    kind: str,
    read_bytes: ArrayLike,
    write_bytes: ArrayLike,
    flops: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    hot: bool = False,
) -> Answer:
    """A bandwidth-bound kernel: ``elementwise``, ``gather``, ``norm`` or ``softmax``."""
    where = site_for(machine, "fp32", "fp32", "vector")
    found = _found("vector", VectorParameters, where)
    device = vector_device(where)
    read, write = np.asarray(read_bytes, dtype=np.float64), np.asarray(write_bytes, dtype=np.float64)
    count = None if rows is None else np.asarray(rows, dtype=np.float64)
    operations = np.asarray(flops, dtype=np.float64)
    time = vector_time_s(
        read, write, operations, device=device, parameters=found.parameters, rows=count, kind=kind, cold=not hot
    )
    roof = np.maximum((read + write) / where.dram_bytes_per_s, operations / where.vector_ops_per_s)
    return _answer(time, roof, found)


def collective(
    machine: Machine,
    library: str,
    operation: str,
    message_bytes: ArrayLike,
    devices: NDArray[Any],
    *,
    per_node: int = 0,
    network: str = "",
    host_s: ArrayLike = 0.0,
    exchange: Mapping[str, Any] | None = None,
) -> Answer:
    """A collective over devices of one kind.

    Args:
        machine: the device.
        library: a row of ``cost.collective.LIBRARIES``.
        operation: an operation of the collective model.
        message_bytes, devices: arrays of one shape.
        per_node: devices in one node; 0: as the catalogue says.
        network: between nodes, one port for each; empty: as the catalogue says.
        host_s: host time per call of an eager benchmark, below which nothing can be measured.
        exchange: features of an expert exchange, when the all-to-all is one.
    """
    cluster: Cluster = cluster_of(machine, int(np.max(devices)))
    if per_node:
        cluster = replace(cluster, per_node=per_node)
    if network:
        inter = find_network(network)
        share = inter.bandwidth_bytes_per_s / cluster.per_node
        cluster = replace(cluster, inter=inter, inter_bandwidth_bytes_per_s=share)
    engine = replace(default_engine(machine), all_reduce=library)
    features: dict[str, Any] = {
        "operation": operation,
        "message_bytes": np.asarray(message_bytes, dtype=np.float64),
        "devices": np.asarray(devices, dtype=np.float64),
        **(exchange or {}),
    }
    kernel = Kernel(operation, "collective", 1, features=features)
    priced = price_collective(kernel, PricingContext(cluster, engine, None))
    inside, outside = fabrics(cluster)
    roof = collective_limit_s(
        operation,
        features["message_bytes"],
        features["devices"],
        fabric=inside,
        inter=outside,
        devices_per_node=cluster.per_node,
    )
    time = np.maximum(np.maximum(priced.time_s, roof), host_s)
    return Answer(time, *interval80(time, priced.spread), roof, priced.source)
