"""One section of a calibration file as a task: rows, a model of them, a prior, and which parameters may move.

Devices are the catalogue's, so parameters come out normalised to the figures an estimate prices with. The prior is the
machine's family, never the machine's own file: a score must not lean on what was fitted to its rows. (A few samples
may lean on another machine's file, named by ``like``.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate import fit_attention, fit_collective, fit_gemm, fit_moe
from steelyard.calibrate.few_shot import Errors, errors_of, fit_parameters
from steelyard.cost.attention import DecodeParameters, PrefillParameters
from steelyard.cost.attention_kernels import attention_facts
from steelyard.cost.collective import CollectiveParameters, Fabric
from steelyard.cost.devices import attention_device, gemm_device, moe_device
from steelyard.cost.devices import vector_device as device_for_vectors
from steelyard.cost.gemm import GemmFacts, GemmParameters, gemm_facts, library_facts
from steelyard.cost.moe import MoeParameters, moe_time_s
from steelyard.cost.op_models import GEMM_VARIANTS, fabrics
from steelyard.cost.parameters import Calibrated, calibrated
from steelyard.cost.site import site_for
from steelyard.cost.vector import VectorDevice, VectorParameters, vector_time_s
from steelyard.deployment.formats import find_format
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine
from steelyard.measurements.aic_attention import AttentionRows
from steelyard.measurements.aic_gemm import GemmRows, take

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Task", "attention_task", "collective_task", "gemm_task", "moe_task", "vector_device", "vector_task"]

Array = NDArray[np.float64]
Index = NDArray[np.int_]

FIT_ROWS = 3000
"""Rows of one section a fit looks at; more are drawn at random and change errors by less than 0.2 points."""
SIGMA = 0.5
"""Log-space width of the prior when a machine has thousands of rows."""
FEW_SIGMA: Mapping[str, float | Mapping[str, float]] = {
    "gemm": {
        **fit_gemm.FEW_SHOT_SIGMA,
        "wave_hardness": 0.5,
        "operand_intensity": 0.15,
        "store_intensity": 0.2,
        "split_s": 0.2,
    },
    "decode": 0.2,
    "prefill": 0.35,
    "moe": 0.7,
    "collective": 0.5,
    "pcie": {"contention": 2.0},
    "vector": 0.35,
}
"""How far machines differ from what others predict of them (log-space), by op and parameter; 0.5 where not named.

Source: each of five measured machines left out in turn, 20 rows, three draws (docs/methods/calibration.md).
"""
FEW_NAMES: Mapping[str, tuple[str, ...]] = {
    "gemm": (*fit_gemm.FEW_SHOT, "wave_hardness", "operand_intensity", "store_intensity", "split_s"),
    "moe": (
        *("launch_s", "compute_efficiency", "memory_efficiency", "tile_s"),
        *("vector_efficiency", "sort_s_per_row", "unit_stream_ratio"),
    ),
    "collective": ("launch_s", "step_s", "simple_efficiency", "nvls_efficiency", "custom_launch_s"),
    "pcie": fit_collective.PCIE_NAMES,
    "vector": ("launch_s", "efficiency", "l2_efficiency"),
    "decode": ("launch_clocks", "item_s", "dram_frac", "l2_frac"),
    "prefill": (
        *("launch_clocks", "item_s", "matrix_frac", "exp_frac"),
        *("dram_frac", "l2_frac", "tail_frac", "cache_write_s"),
    ),
}
"""What ten or twenty rows can say something about."""


@dataclass(frozen=True, eq=False)
class Task:
    """One section of one calibration file."""

    op: str
    """The file: ``gemm``, ``attention``, ``moe``, ``collective`` or ``vector``."""
    section: str
    """Dotted table inside the file; empty = the file's own."""
    title: str
    predict: Callable[[Any, Index], Array]
    """Parameters and positions to seconds."""
    time_s: Array
    fitted: NDArray[np.bool_]
    """Rows a fit may see; the others are its held-out score."""
    prior: Calibrated
    names: tuple[str, ...]
    bounds: Mapping[str, tuple[float, float]]
    few_names: tuple[str, ...]
    few_sigma: float | Mapping[str, float]
    source: str = ""
    split: str = ""
    facts: str = ""
    fit_rows: Callable[[Index, Any], Any] | None = field(default=None)
    """A fit of its own, where the op has one: positions and prior parameters to parameters."""

    def __len__(self) -> int:
        return int(self.time_s.size)

    def fit(self, index: Index, *, few: bool = False, seed: int = 0) -> Any:
        """Parameters fitted to the rows at ``index``; ``few`` moves few of them, and little."""
        if self.fit_rows is not None and not few:
            return self.fit_rows(index, self.prior.parameters)
        if index.size > FIT_ROWS:
            index = np.sort(np.random.default_rng(seed).choice(index, FIT_ROWS, replace=False))
        return fit_parameters(
            lambda p: self.predict(p, index),
            self.prior.parameters,
            self.time_s[index],
            self.few_names if few else self.names,
            sigma=self.few_sigma if few else SIGMA,
            bounds=self.bounds,
        )

    def errors(self, parameters: Any, index: Index) -> Errors:
        """Errors on the rows at ``index``."""
        return errors_of(self.predict(parameters, index), self.time_s[index])

    @property
    def everywhere(self) -> Index:
        """Every position."""
        return np.arange(len(self))


def _prior(
    op: str, cls: type[Any], like: str, families: tuple[str, ...], variants: tuple[str, ...] = ("",)
) -> Calibrated:
    hashable: Any = cls
    return calibrated(op, hashable, like, families, variants)


def gemm_task(
    machine: Machine,
    rows: GemmRows,
    fitted: NDArray[np.bool_],
    facts: GemmFacts | None = None,
    *,
    split: str = "",
    like: str = "",
) -> Task:
    """Dense products of one number format.

    Raises:
        InputError: the machine cannot compute in the format.
    """
    fmt = rows.format
    stored, where = find_format(_FORMATS.get(fmt, fmt)), site_for(machine, _FORMATS.get(fmt, fmt))
    narrow = where.compute in ("fp8", "int8", "fp4", "fp6")
    variants = GEMM_VARIANTS.get(stored.name, ("",)) if narrow else ("",)
    prior = _prior("gemm", GemmParameters, like, (machine.family,), variants)
    if facts is None:
        activations = find_format(stored.activations or stored.name)
        named = fit_gemm.KERNELS.get((machine.name, fmt)) or prior.facts
        facts = (
            gemm_facts(named) if named else library_facts(machine.family, stored.stored_bits, activations.stored_bits)
        )
    device, hot = gemm_device(where), prior.parameters.hot_frac
    engine = device.copy_engine if device.copy_engine in ("async", "mma_sync") else "mma_sync"
    names = fit_gemm.fitted_names(engine, fit_gemm.EAGER_FREE if fmt == "fp8_block" else fit_gemm.FREE)

    def predict(p: GemmParameters, index: Index) -> Array:
        return fit_gemm.predict_s(fit_gemm.Sample(take(rows, index), device, facts, hot), p)

    return Task(
        "gemm",
        "" if variants[0] == "" and fmt in ("bf16", "fp16") else fmt,
        f"products in {fmt}",
        predict,
        rows.latency_s,
        fitted,
        prior,
        tuple(names),
        fit_gemm.BOUNDS,
        tuple(fit_gemm.fitted_names(engine, FEW_NAMES["gemm"])),
        FEW_SIGMA["gemm"],
        source=rows.source,
        split=split,
        facts=facts.name,
    )


_FORMATS: Mapping[str, str] = {"int8_wo": "int8", "int4_wo": "int4"}


def attention_task(
    machine: Machine,
    phase: Any,
    rows: AttentionRows,
    fitted: NDArray[np.bool_],
    *,
    source: str = "",
    split: str = "",
    like: str = "",
) -> Task:
    """Prefill or decode attention, every kernel the machine ran together."""
    cls: type[Any] = DecodeParameters if phase == "decode" else PrefillParameters
    prior = _prior("attention", cls, like, (machine.family,), (phase,))
    device = attention_device(site_for(machine))
    kernels = sorted(set(rows.kernel.tolist()))
    facts = {k: attention_facts(k) for k in kernels}
    names = tuple(fit_attention.HARDWARE_FIELDS[phase])

    def predict(p: Any, index: Index) -> Array:
        chosen, out = rows.take(index), np.empty(index.size)
        for kernel in kernels:
            mask = chosen.kernel == kernel
            if mask.any():
                part = fit_attention.Part(machine.name, kernel, device, chosen.take(mask))
                out[mask] = fit_attention.predict(part, p, facts[kernel])
        return out

    return Task(
        "attention",
        phase,
        f"{phase} attention",
        predict,
        rows.time_s,
        fitted,
        prior,
        names,
        fit_attention.HARDWARE_FIELDS[phase],
        FEW_NAMES[phase],
        FEW_SIGMA[phase],
        source=source,
        split=split,
    )


def moe_task(
    machine: Machine,
    kernel: str,
    columns: Mapping[str, Array],
    bits: tuple[float, float],
    time_s: Array,
    fitted: NDArray[np.bool_],
    *,
    fmt: str,
    source: str = "",
    split: str = "",
    like: str = "",
) -> Task:
    """Routed experts by one grouped-GEMM kernel such as ``triton_bfloat16``.

    ``columns``: tokens, hidden, intermediate, topk, experts, local_experts, skew, repeated_batches, even, gated.
    """
    where = site_for(machine, fmt, "bf16" if bits[1] >= 16 else "")
    device = moe_device(where)
    try:
        facts = fit_moe.facts_for(kernel)
    except ValueError:
        facts = fit_moe.facts_for("triton_")

    def predict(p: MoeParameters, index: Index) -> Array:
        c = {name: values[index] for name, values in columns.items()}
        out = np.empty(index.size)
        for even in (0.0, 1.0):
            for gated in (0.0, 1.0):
                mask = (c["even"] == even) & (c["gated"] == gated)
                if mask.any():
                    out[mask] = moe_time_s(
                        *(c[n][mask] for n in ("tokens", "hidden", "intermediate", "topk", "experts")),
                        weight_bits=bits[0],
                        act_bits=bits[1],
                        gated=bool(gated),
                        skew=c["skew"][mask],
                        device=device,
                        parameters=p,
                        facts=facts,
                        local_experts=c["local_experts"][mask],
                        routing="even" if even else "random",
                        repeated_batches=c["repeated_batches"][mask],
                    )
        return out

    return Task(
        "moe",
        kernel,
        f"routed experts, {kernel}",
        predict,
        time_s,
        fitted,
        _prior("moe", MoeParameters, like, (machine.family,), (kernel, "triton_bfloat16")),
        tuple(fit_moe.BOUNDS),
        fit_moe.BOUNDS,
        FEW_NAMES["moe"],
        FEW_SIGMA["moe"],
        source=source,
        split=split,
    )


def collective_task(
    machine: Machine,
    rows: pd.DataFrame,
    fitted: NDArray[np.bool_],
    *,
    source: str = "",
    split: str = "",
    like: str = "",
) -> Task:
    """Collectives inside a node; ``rows`` has operation, library, message_bytes, devices and time_s."""
    fabric: Fabric = fabrics(cluster_of(machine, int(rows["devices"].max())))[0]
    families = (machine.family, fabric.kind) if fabric.kind == "nvlink" else (fabric.kind, machine.family)
    nvlink = fabric.kind == "nvlink"
    nccl: Sequence[str] = fit_collective.NCCL_NAMES if nvlink else fit_collective.PCIE_NAMES
    custom = bool((rows["library"] != "nccl").any())
    names = [*nccl, *(fit_collective.CUSTOM_NAMES if custom else ())]
    names = [n for n in names if fabric.multicast or not n.startswith(("nvls", "multimem"))]
    known = {n: fit_collective.BOUNDS.get(n, fit_collective.TIME_BOUNDS) for n in names}

    def predict(p: CollectiveParameters, index: Index) -> Array:
        return fit_collective.predict(rows.iloc[index].reset_index(drop=True), fabric, p)

    def own(index: Index, prior: Any) -> Any:
        del prior
        return fit_collective.fit_machine(rows.iloc[index].reset_index(drop=True), fabric)

    few = "collective" if nvlink else "pcie"
    return Task(
        "collective",
        "",
        f"collectives over {fabric.name}",
        predict,
        rows["time_s"].to_numpy(float),
        fitted,
        _prior("collective", CollectiveParameters, like, families),
        tuple(names),
        known,
        tuple(n for n in FEW_NAMES[few] if n in known),
        FEW_SIGMA[few],
        source=source,
        split=split,
        fit_rows=own,
    )


def vector_device(machine: Machine) -> VectorDevice:
    """What vector kernels meet on a machine."""
    return device_for_vectors(site_for(machine, "fp32", "fp32", "vector"))


def vector_task(
    machine: Machine,
    columns: Mapping[str, Any],
    time_s: Array,
    fitted: NDArray[np.bool_],
    *,
    source: str = "",
    split: str = "",
    like: str = "",
    fit_rows: Callable[[Index, Any], Any] | None = None,
) -> Task:
    """Elementwise and row-reducing kernels; ``columns``: read_bytes, write_bytes, flops, rows, kind, cold, overhead.

    A benchmark's own constant (host launch, timer) is fitted beside the parameters by ``fit_vector`` and kept out.
    """
    from steelyard.calibrate import fit_vector

    device = vector_device(machine)
    kinds = np.asarray(columns["kind"], dtype=np.str_)

    def predict(p: VectorParameters, index: Index) -> Array:
        out, kind, names = (
            np.empty(index.size),
            kinds[index],
            ("read_bytes", "write_bytes", "flops", "rows", "overhead", "cold"),
        )
        c = {n: np.asarray(columns[n], dtype=np.float64)[index] for n in names}
        for name in sorted(set(kind.tolist())):
            by_rows = name.split("_")[0] in ("norm", "softmax")
            for cold in (0.0, 1.0):
                mask = (kind == name) & (c["cold"] == cold)
                out[mask] = c["overhead"][mask] + vector_time_s(
                    c["read_bytes"][mask],
                    c["write_bytes"][mask],
                    c["flops"][mask],
                    device=device,
                    parameters=p,
                    rows=c["rows"][mask] if by_rows else None,
                    kind=name,
                    cold=bool(cold),
                )
        return out

    return Task(
        "vector",
        "",
        "vector kernels",
        predict,
        time_s,
        fitted,
        _prior("vector", VectorParameters, like, (machine.family,)),
        tuple(fit_vector.BOUNDS),
        fit_vector.BOUNDS,
        FEW_NAMES["vector"],
        FEW_SIGMA["vector"],
        source=source,
        split=split,
        fit_rows=fit_rows,
    )
