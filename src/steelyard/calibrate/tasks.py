"""The sections of a calibration file as tasks: how each op's rows are priced, and what may move within which bounds.

Devices are the catalogue's, so parameters come out normalised to the figures an estimate prices with. The prior is the
machine's family, never the machine's own file: a score must not lean on what was fitted to its rows. (A few samples
may lean on another machine's file, named by ``like``.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.task import Free, Task
from steelyard.cost.attention import (
    AttentionDevice,
    DecodeParameters,
    PrefillParameters,
    decode_attention_time_s,
    prefill_attention_time_s,
)
from steelyard.cost.attention_kernels import attention_facts
from steelyard.cost.collective import CollectiveParameters, Fabric, collective_time_s
from steelyard.cost.devices import attention_device, gemm_device, moe_device, vector_device
from steelyard.cost.gemm import GemmParameters, gemm_time_s
from steelyard.cost.moe import FACTS as MOE_FACTS
from steelyard.cost.moe import MoeFacts, MoeParameters, Router, moe_time_s
from steelyard.cost.op_models import GEMM_VARIANTS, fabrics, product_parameters
from steelyard.cost.parameters import calibrated
from steelyard.cost.site import site_for
from steelyard.cost.vector import VectorParameters, vector_time_s
from steelyard.deployment.formats import find_format
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine
from steelyard.measurements.kernel_tables import GEMM_BITS, MOE_BITS

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FREE",
    "MOE_FORMATS",
    "attention_price",
    "attention_task",
    "collective_price",
    "collective_task",
    "gemm_free",
    "gemm_task",
    "moe_facts",
    "moe_task",
    "vector_task",
]

Array = NDArray[np.float64]
Columns = Mapping[str, Any]

_TIME: Final = (1e-8, 1e-3)
_PCIE: Final = {
    "launch_s": _TIME,
    "step_s": _TIME,
    "simple_step_ratio": (1.0, 20.0),
    "simple_fixed_s": _TIME,
    "peer_fixed_s": _TIME,
    "ll_efficiency": (0.02, 0.5),
    "simple_efficiency": (0.05, 0.98),
    "blend": (0.4, 2.0),
    "contention": (1e-3, 2.5),
    "local_step_frac": (0.01, 1.5),
}
_NVLINK: Final = {
    "launch_s": _TIME,
    "step_s": _TIME,
    "simple_step_ratio": (1.0, 20.0),
    "simple_fixed_s": _TIME,
    "peer_fixed_s": _TIME,
    "ll128_efficiency": (0.05, 0.94),
    "simple_efficiency": (0.05, 0.98),
    "nvls_launch_s": _TIME,
    "nvls_efficiency": (0.1, 1.0),
}
_CUSTOM: Final = {
    "custom_launch_s": _TIME,
    "custom_peer_s": _TIME,
    "custom_efficiency": (0.1, 1.0),
    "two_shot_launch_s": _TIME,
    "two_shot_peer_s": _TIME,
    "multimem_launch_s": _TIME,
    "multimem_efficiency": (0.1, 1.0),
}
"""Of the serving libraries' own all-reduce, where rows have any; ``nvls`` and ``multimem`` need a multicast switch."""

FREE: Final[Mapping[str, Free]] = {
    "gemm": Free(
        {
            "launch_cycles": (300.0, 3e4),
            "compute_frac": (0.3, 1.0),
            "ops_per_joule": (1e10, 1e15),
            "dram_frac": (0.4, 1.0),
            "step_s": (5e-9, 1e-6),
            "wave_hardness": (0.01, 1.0),
            "overlap_power": (1.0, 10.0),
            "split_s": (1e-7, 2e-5),
            "operand_intensity": (5.0, 200.0),
            "store_intensity": (20.0, 1500.0),
            "cache_frac": (0.2, 1.2),
        },
        (
            *("launch_cycles", "compute_frac", "ops_per_joule", "dram_frac", "step_s", "overlap_power"),
            *("wave_hardness", "operand_intensity", "store_intensity", "split_s"),
        ),
        {
            "launch_cycles": 0.07,
            "compute_frac": 0.1,
            "ops_per_joule": 0.15,
            "dram_frac": 0.07,
            "step_s": 0.1,
            "overlap_power": 0.25,
            "wave_hardness": 0.5,
            "operand_intensity": 0.15,
            "store_intensity": 0.2,
            "split_s": 0.2,
        },
    ),
    "decode": Free(
        {
            "launch_clocks": (1e3, 1e5),
            "item_s": (1e-7, 3e-5),
            "item_dim_frac": (0.02, 1.0),
            "row_s": (1e-10, 3e-7),
            "combine_s": (2e-7, 2e-5),
            "matrix_frac": (0.2, 1.0),
            "dram_frac": (0.5, 0.97),
            "l2_frac": (0.1, 1.0),
            "hot_frac": (0.15, 1.2),
            "overlap_power": (1.0, 12.0),
            "in_flight": (1.0, 4.0),
            "wave_hardness": (0.02, 1.0),
        },
        ("launch_clocks", "item_s", "dram_frac", "l2_frac"),
        0.2,
    ),
    "prefill": Free(
        {
            "launch_clocks": (1e3, 1e5),
            "item_s": (1e-7, 3e-5),
            "item_fixed_frac": (0.1, 1.0),
            "item_overlap": (1.0, 5.0),
            "matrix_frac": (0.3, 1.0),
            "exp_frac": (0.3, 3.0),
            "tail_frac": (0.03, 1.0),
            "dram_frac": (0.4, 0.97),
            "l2_frac": (0.1, 1.0),
            "overlap_power": (1.0, 10.0),
            "cache_write_s": (5e-8, 5e-6),
        },
        (
            *("launch_clocks", "item_s", "matrix_frac", "exp_frac"),
            *("dram_frac", "l2_frac", "tail_frac", "cache_write_s"),
        ),
        0.35,
    ),
    "moe": Free(
        {
            "launch_s": (1e-6, 2e-4),
            "compute_efficiency": (0.05, 1.0),
            "memory_efficiency": (0.05, 1.0),
            "vector_efficiency": (0.05, 1.0),
            "tile_s": (1e-8, 5e-5),
            "sort_s_per_row": (1e-13, 1e-7),
            "expert_s": (1e-12, 1e-6),
            "hot_frac": (0.1, 1.3),
            "unit_stream_ratio": (0.8, 10.0),
            "reread_group": (0.5, 64.0),
        },
        (
            *("launch_s", "compute_efficiency", "memory_efficiency", "tile_s"),
            *("vector_efficiency", "sort_s_per_row", "unit_stream_ratio"),
        ),
        0.7,
    ),
    "nvlink": Free(_NVLINK, ("launch_s", "step_s", "simple_efficiency", "nvls_efficiency", "custom_launch_s"), 0.5),
    "pcie": Free(_PCIE, tuple(_PCIE), {"contention": 2.0}),
    "vector": Free(
        {
            "launch_s": (1e-6, 8e-6),
            "efficiency": (0.3, 0.93),
            "l2_efficiency": (0.3, 1.0),
            "hot_frac": (0.1, 1.2),
            "row_s": (1e-7, 2e-5),
            "unit_stream_bytes_per_s": (2e10, 3e11),
            "unaligned_efficiency": (0.5, 1.0),
            "arithmetic_efficiency": (0.1, 1.0),
        },
        ("launch_s", "efficiency", "l2_efficiency"),
        0.35,
    ),
}
"""By op, phase or kind of fabric. Source of the widths: each of five measured machines left out in turn, 20 rows, three
draws (docs/methods/calibration.md)."""
EAGER_GEMM: Final = ("compute_frac", "ops_per_joule", "wave_hardness", "overlap_power", "operand_intensity")
"""What eager block-scaled products say something about."""


def gemm_free(copy_engine: str, fmt: str = "") -> Free:
    """What products of a machine and format can tell apart: it is limited by its engine or by its power.

    mma.sync parts measured so far run into their board power, so ``compute_frac`` stays at its prior there; parts with
    bulk copies do not, so ``ops_per_joule`` does.
    """
    free, idle = FREE["gemm"], "compute_frac" if copy_engine == "mma_sync" else "ops_per_joule"
    names = tuple(n for n in (EAGER_GEMM if fmt == "fp8_block" else free.bounds) if n != idle)
    return replace(free, names=names, few=tuple(n for n in free.few if n != idle))


_FORMATS: Final[Mapping[str, str]] = {"int8_wo": "int8", "int4_wo": "int4"}


def gemm_task(
    machine: Machine, fmt: str, rows: pd.DataFrame, *, source: str = "", split: str = "", like: str = ""
) -> Task:
    """Dense products of one number format; columns m, n, k, time_s, fitted.

    Raises:
        InputError: the machine cannot compute in the format.
    """
    name = _FORMATS.get(fmt, fmt)
    stored, where = find_format(name), site_for(machine, name)
    narrow = where.compute in ("fp8", "int8", "fp4", "fp6")
    variants = GEMM_VARIANTS.get(stored.name, ("",)) if narrow else ("",)
    prior = calibrated("gemm", GemmParameters, like, (machine.family,), variants)
    activations = find_format(stored.activations or stored.name)
    _, facts = product_parameters(where, stored.name, stored.stored_bits, activations.stored_bits)
    device = gemm_device(where)
    price = gemm_price(fmt, device, facts, prior.parameters.hot_frac)
    section = "" if variants[0] == "" and fmt in ("bf16", "fp16") else fmt
    free = gemm_free(device.copy_engine if device.copy_engine in ("async", "mma_sync") else "mma_sync", fmt)
    return Task("gemm", section, f"products in {fmt}", rows, (), price, prior, free, source, split, facts.name)


def gemm_price(fmt: str, device: Any, facts: Any, hot_frac: float) -> Callable[..., Array]:
    """Seconds of products as a benchmark repeats them: weights may be hot."""
    weight_bits, act_bits, out_bits = GEMM_BITS[fmt]
    about = {"weight_bits": weight_bits, "act_bits": act_bits, "out_bits": out_bits, "device": device, "facts": facts}

    def price(p: GemmParameters, c: Columns) -> Array:
        hot = replace(p, hot_frac=hot_frac)
        return gemm_time_s(c["m"], c["n"], c["k"], **about, parameters=hot, weights_hot=True)

    return price


def attention_price(phase: str, device: AttentionDevice, facts: Callable[[str], Any]) -> Callable[..., Array]:
    """Seconds of attention calls by kernel, the hot cache of a repeated benchmark included."""

    def price(p: Any, c: Columns, kernel: str) -> Array:
        shape = (c["heads"], c["kv_heads"], c["head_dim"])
        about = {"window": c["window"], "device": device, "parameters": p, "facts": facts(kernel)}
        if phase == "decode":
            return decode_attention_time_s(c["batch"], c["context"], *shape, kv_bits=c["kv_bits"], kv_hot=True, **about)
        before = c["context"] - c["new_tokens"]
        return prefill_attention_time_s(c["batch"], c["new_tokens"], before, *shape, kv_bits=c["kv_bits"], **about)

    return price


def attention_task(
    machine: Machine, phase: str, rows: pd.DataFrame, *, source: str = "", split: str = "", like: str = ""
) -> Task:
    """Prefill or decode attention, every kernel together; columns of ``kernel_tables.attention_rows``."""
    cls: Any = DecodeParameters if phase == "decode" else PrefillParameters
    prior = calibrated("attention", cls, like, (machine.family,), (phase,))
    price = attention_price(phase, attention_device(site_for(machine)), attention_facts)
    return Task("attention", phase, f"{phase} attention", rows, ("kernel",), price, prior, FREE[phase], source, split)


MOE_FORMATS: Final[Mapping[str, str]] = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
    "int4_wo": "int4",
}
"""Number formats of the tables of routed experts in the format catalogue."""


def moe_facts(kernel: str) -> MoeFacts:
    """The software facts of a kernel such as ``triton_fp8_block``; Triton's where it is unknown."""
    named = (MOE_FACTS[k] for k in sorted(MOE_FACTS, key=len, reverse=True) if kernel.startswith(f"{k}_"))
    return next(named, MOE_FACTS["triton"])


def moe_task(
    machine: Machine, kernel: str, rows: pd.DataFrame, *, source: str = "", split: str = "", like: str = ""
) -> Task:
    """Routed experts by one grouped-GEMM kernel such as ``triton_bfloat16``; columns of ``kernel_tables.moe_rows``.

    Raises:
        InputError: the machine cannot compute in the format.
    """
    dtype = str(rows["dtype"].iloc[0])
    weight_bits, act_bits = MOE_BITS[dtype]
    where = site_for(machine, MOE_FORMATS.get(dtype, dtype), "bf16" if act_bits >= 16 else "")
    device, facts = moe_device(where), moe_facts(kernel)

    def price(p: MoeParameters, c: Columns, even: bool, gated: bool) -> Array:
        sizes = (c["tokens"], c["hidden"], c["intermediate"], c["topk"], c["experts"])
        return moe_time_s(
            *sizes,
            gated=bool(gated),
            router=Router(c["routing_exponent"], bool(even)),
            device=device,
            parameters=p,
            facts=facts,
            weight_bits=weight_bits,
            act_bits=act_bits,
            local_experts=c["local_experts"],
            repeated_batches=c["repeated_batches"],
        )

    prior = calibrated("moe", MoeParameters, like, (machine.family,), (kernel, "triton_bfloat16"))
    title = f"routed experts, {kernel}"
    return Task("moe", kernel, title, rows, ("even", "gated"), price, prior, FREE["moe"], source, split)


def collective_price(fabric: Fabric) -> Callable[..., Array]:
    """Seconds of collectives inside a node by operation and library."""

    def price(p: CollectiveParameters, c: Columns, operation: str, library: str) -> Array:
        message, devices = c["message_bytes"].astype(np.float64), c["devices"].astype(np.float64)
        return collective_time_s(operation, message, devices, fabric=fabric, parameters=p, library=library)

    return price


def collective_task(machine: Machine, rows: pd.DataFrame, *, source: str = "", split: str = "", like: str = "") -> Task:
    """Collectives inside a node; columns operation, library, message_bytes, devices, time_s, fitted."""
    fabric: Fabric = fabrics(cluster_of(machine, int(rows["devices"].max())))[0]
    nvlink = fabric.kind == "nvlink"
    kind = FREE["nvlink" if nvlink else "pcie"]
    bounds = {**kind.bounds, **(_CUSTOM if (rows["library"] != "nccl").any() else {})}
    bounds = {n: b for n, b in bounds.items() if fabric.multicast or not n.startswith(("nvls", "multimem"))}
    free = Free(bounds, tuple(n for n in kind.few if n in bounds), kind.few_sigma)
    families = (machine.family, fabric.kind) if nvlink else (fabric.kind, machine.family)
    prior = calibrated("collective", CollectiveParameters, like, families)
    keys = ("operation", "library")
    title = f"collectives over {fabric.name}"
    return Task("collective", "", title, rows, keys, collective_price(fabric), prior, free, source, split)


def vector_task(machine: Machine, rows: pd.DataFrame, *, source: str = "", split: str = "", like: str = "") -> Task:
    """Elementwise and row-reducing kernels; columns read_bytes, write_bytes, flops, rows, kind, cold, time_s."""
    device = vector_device(site_for(machine, "fp32", "fp32", "vector"))

    def price(p: VectorParameters, c: Columns, kind: str, cold: bool) -> Array:
        by_rows = kind.split("_")[0] in ("norm", "softmax")
        sizes = (c["read_bytes"], c["write_bytes"], c["flops"])
        about: dict[str, Any] = {"device": device, "parameters": p, "kind": kind, "cold": bool(cold)}
        return vector_time_s(*sizes, rows=c["rows"] if by_rows else None, **about)

    prior = calibrated("vector", VectorParameters, like, (machine.family,))
    return Task("vector", "", "vector kernels", rows, ("kind", "cold"), price, prior, FREE["vector"], source, split)
