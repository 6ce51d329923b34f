"""``aic_ops``: kernel times of NVIDIA's aiconfigurator collector (GEMM, attention, MLA, MoE).

Files are named ``<system>__<op>__<framework>_<version>.parquet``. Times are of a captured graph that repeats one call:
small operands are hot. Rows of a table that was fitted are labelled by the split the fit uses: whole (n, k) pairs of
GEMMs, whole head configurations of attention; the MoE fit saw every shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.tasks import MOE_FORMATS
from steelyard.errors import SteelyardError
from steelyard.interval import Z80
from steelyard.measurements import kernel_tables as tables
from steelyard.measurements.reader import (
    Ask,
    Comparison,
    comparison,
    guarded,
    interval80,
    machine_name,
    machine_of,
    read_frame,
)
from steelyard_validation.fits.attention import latent_fitted
from steelyard_validation.mla_layer import CALL_S, LAYER_SPREAD, layer_rest
from steelyard_validation.readers import _ops

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.machine.component import Machine

__all__ = ["read"]

#: Host time of one eager call of a product, s: kernel and family, then m a multiple of 4 or not (DeepGEMM lays the
#: scales of other m out anew). A benchmark condition: below it those tables time Python and vLLM, not the GPU.
#: Source: medians of the smallest products, of the fitted (n, k) pairs where anything was fitted.
EAGER_CALL_S = {
    ("FlashInfer", "hopper"): (58e-6, 58e-6),
    ("DeepGemm", "hopper"): (82.5e-6, 91e-6),
    ("Cutlass", "hopper"): (177e-6, 177e-6),
    ("DeepGemm", "blackwell"): (177e-6, 234e-6),
    ("Cutlass", "blackwell"): (164e-6, 164e-6),
    ("Triton", "ada"): (337e-6, 337e-6),
    ("Cutlass", "blackwell_graphics"): (180e-6, 180e-6),
    ("bf16", "xe2"): (30e-6, 30e-6),
    ("fp8", "xe2"): (20e-6, 20e-6),
}
#: Likewise of one call of attention, by phase, with a 16-bit and an 8-bit cache.
EAGER_ATTENTION_S = {"decode": (66e-6, 69e-6), "prefill": (46e-6, 48e-6)}
#: Families whose tables were measured call by call: their stack captures no graphs.
EAGER_FAMILIES = ("xe2",)
#: Calls between the two events that time them: the first one's launch is not hidden behind the GPU.
EAGER_CALLS = 6
#: Log-space spread of those host times.
EAGER_SPREAD = 0.09
EAGER_FORMAT = "fp8_block"


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """GEMM, attention, MoE and MLA tables of every machine."""
    readers = {"gemm": _gemm, "context_attention": _attention, "generation_attention": _attention, "moe": _moe}
    for op, reader in readers.items():
        for path in ask.files(folder, f"*__{op}__*.parquet"):
            machine = machine_of(path.name.split("__")[0])
            other = bool(ask.machine) and (machine is None or machine.name != ask.machine)
            if (ask.wants(op) or ask.wants(path.stem)) and not other:
                yield from guarded(ask, path, reader, path, op, machine, ask)
    for path in ask.files(folder, "mla_*.parquet"):
        if ask.wants("mla") or ask.wants(path.stem):
            yield from guarded(ask, path, _mla, path, ask)


def _groups(frame: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    yield from frame.groupby(keys, sort=True, observed=True, dropna=False)


def _missing(path: Path, table: str, phase: str, family: Any, time_s: Any, why: str, ask: Ask) -> Comparison:
    return comparison(
        ask,
        table,
        metric="time_s",
        phase=phase,
        machine=machine_name(path.name.split("__")[0]),
        family=family,
        measured=time_s,
        why=why,
    )


def _gemm(path: Path, op: str, machine: Machine | None, ask: Ask) -> Iterator[Comparison]:
    for name, rows in tables.gemm_rows(path).groupby("format"):
        fmt = str(name)
        rows = rows.iloc[ask.pick(len(rows), f"{path.stem}#{fmt}")]
        time_s = rows["time_s"].to_numpy(float)
        m, n, k = (rows[c].to_numpy(float) for c in ("m", "n", "k"))
        eager = fmt == EAGER_FORMAT or (machine is not None and machine.family in EAGER_FAMILIES)
        phase = f"{op} eager" if eager else op
        if machine is None:
            yield _missing(path, op, phase, fmt, time_s, "machine not in the catalogue", ask)
            continue
        try:
            answer = _ops.gemm(machine, fmt, m, n, k)
        except SteelyardError as error:
            yield _missing(path, op, phase, fmt, time_s, str(error), ask)
            continue
        split = np.where(rows["fitted"], "fit", "left-out") if answer.fitted else np.full(len(rows), "all")
        phases = np.full(len(rows), phase)
        if eager:
            host_s = _host_s(rows["kernel"] if fmt == EAGER_FORMAT else np.full(len(rows), fmt), m, machine)
            phases = np.where(answer.time_s > host_s, phase, f"{phase} host-bound")
            answer = _eager(answer, host_s)
        families = np.broadcast_to(fmt, len(rows))
        yield from _by_phase((ask, op, machine), phases, families, time_s, split, answer)


def _by_phase(
    about: tuple[Any, str, Machine], phases: Any, families: Any, measured: Any, split: Any, answer: Any
) -> Iterator[Comparison]:
    """Rows of one table and machine, those of each phase together."""
    ask, op, machine = about
    for phase in np.unique(phases):
        mask = phases == phase
        yield comparison(
            ask,
            op,
            metric="time_s",
            phase=str(phase),
            machine=machine.name,
            family=families[mask],
            measured=measured[mask],
            split=split[mask],
            **{key: values[mask] for key, values in answer.columns.items()},
        )


def _host_s(kernels: Any, m: Any, machine: Machine) -> NDArray[np.float64]:
    """Host time (s) of an eager call of each row."""
    names = [k.split("Fp8")[0] for k in kernels]
    both = np.asarray([EAGER_CALL_S.get((name, machine.family), (0.0, 0.0)) for name in names])
    return np.asarray(np.where(np.asarray(m) % 4 == 0, both[:, 0], both[:, 1]))


def _eager(answer: _ops.Answer, host_s: NDArray[np.float64]) -> _ops.Answer:
    """Per call of EAGER_CALLS that host and GPU work on in a pipeline: max(host, GPU) + min(host, GPU) / calls."""

    def both(gpu: Any, host: Any) -> NDArray[np.float64]:
        return np.asarray(np.maximum(gpu, host) + np.minimum(gpu, host) / EAGER_CALLS)

    host_low, host_high = interval80(host_s, EAGER_SPREAD)
    return _ops.Answer(
        both(answer.time_s, host_s),
        both(answer.low_s, host_low),
        both(answer.high_s, host_high),
        answer.roofline_s,
        answer.source,
    )


def _attention(path: Path, op: str, machine: Machine | None, ask: Ask) -> Iterator[Comparison]:
    rows = tables.attention_rows(path)
    rows = rows.iloc[ask.pick(len(rows), path.stem)].reset_index(drop=True)
    rows = rows.assign(
        family=np.where(rows["kv_bits"] > 8, "bf16", "fp8") + np.where(rows["window"] > 0, " window", "").astype(object)
    )
    for (kernel, bits, kind), part in _groups(rows, ["kernel", "kv_bits", "phase"]):
        time_s, family = part["time_s"].to_numpy(float), part["family"].to_numpy(str)
        if machine is None:
            yield _missing(path, op, kind, family, time_s, "machine not in the catalogue", ask)
            continue
        names = ("batch", "new_tokens", "context", "heads", "kv_heads", "head_dim", "window")
        batch, new, context, *shape, window = (part[c].to_numpy(float) for c in names)
        about: dict[str, Any] = {"kv_bits": bits, "window": window}
        try:
            if kind == "decode":
                answer = _ops.decode(machine, kernel, batch, context, *shape, **about)
            else:
                answer = _ops.prefill(machine, kernel, batch, new, context - new, *shape, **about)
        except SteelyardError as error:
            yield _missing(path, op, kind, family, time_s, str(error), ask)
            continue
        split = np.where(part["fitted"], "fit", "left-out") if answer.fitted else np.full(len(part), "all")
        phases = np.full(len(part), kind, dtype=object)
        if machine.family in EAGER_FAMILIES:
            host_s = EAGER_ATTENTION_S[kind][int(bits <= 8)]
            phases = np.where(answer.time_s > host_s, f"{kind} eager", f"{kind} eager host-bound")
            answer = answer.at_least(host_s, interval80(host_s, EAGER_SPREAD))
        yield from _by_phase((ask, op, machine), phases, family, time_s, split, answer)


def _moe(path: Path, op: str, machine: Machine | None, ask: Ask) -> Iterator[Comparison]:
    rows = tables.moe_rows(path)
    rows = rows.iloc[ask.pick(len(rows), path.stem)].reset_index(drop=True)
    for (kernel, fmt, even, gated), part in _groups(rows, ["kernel", "dtype", "even", "gated"]):
        time_s = part["time_s"].to_numpy(float)
        bits = tables.MOE_BITS.get(fmt)
        if machine is None or bits is None:
            why = "machine not in the catalogue" if machine is None else f"unknown format {fmt}"
            yield _missing(path, op, op, fmt, time_s, why, ask)
            continue
        names = ("tokens", "hidden", "intermediate", "topk", "experts")
        try:
            answer = _ops.moe(
                machine,
                kernel,
                MOE_FORMATS.get(fmt, fmt),
                bits,
                *(part[c].to_numpy(float) for c in names),
                local_experts=part["local_experts"].to_numpy(float),
                gated=bool(gated),
                skew=part["routing_exponent"].to_numpy(float),
                even=bool(even),
                repeated_batches=part["repeated_batches"].to_numpy(float),
            )
        except SteelyardError as error:
            yield _missing(path, op, op, fmt, time_s, str(error), ask)
            continue
        yield comparison(
            ask,
            op,
            metric="time_s",
            phase=op,
            machine=machine.name,
            family=fmt,
            measured=time_s,
            split="fit" if answer.fitted else "all",
            **answer.columns,
        )


_MLA = ("system", "table", "kernel_source", "kv_cache_dtype", "num_heads", "batch_size", "isl", "step", "latency")
#: Kernels that attend to the compressed cache with absorbed products; short prompts run them too.
_ABSORBED = ("FLASHMLA", "FLASH_ATTN_MLA", "FLASHINFER_MLA", "TRITON_MLA")
#: Prefill kernels with expanded keys and values, as attention facts: by kernel, then by machine family.
_MLA_PREFILL = {
    "FLASH_ATTN": {"hopper": "fa3_latent", "blackwell": "fa4_latent", "ada": "fa2_latent"},
    "TRTLLM_RAGGED": {"blackwell": "trtllm_latent"},
    "vllm_triton_mla": {"ampere": "fa2_latent_0_14"},
}
_MLA_WEIGHTS = {"bfloat16": "bf16", "nan": "bf16"}


def _mla(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, _MLA, optional=("gemm_type",))
    frame = frame[frame["latency"] > 0]
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    frame = frame.assign(
        gemm_type=frame["gemm_type"].astype(object).where(frame["gemm_type"].notna(), "nan").astype(str)
    )
    for key, part in _groups(frame, ["system", "table", "kernel_source", "kv_cache_dtype", "gemm_type"]):
        system, table, source, cache, gemm_type = (str(k) for k in key)
        machine = machine_of(system)
        phase = "decode" if "generation" in table else "prefill"
        module = "module" in table
        weights = _MLA_WEIGHTS.get(gemm_type, gemm_type)
        about: dict[str, Any] = {
            "metric": "time_s",
            "phase": phase if module else f"{phase} eager",
            "machine": machine.name if machine else system,
            "family": f"layer {weights}" if module else "fp8" if "8" in cache else "bf16",
            "measured": part["latency"].to_numpy(float) * 1e-3,
        }
        if machine is None:
            yield comparison(ask, "mla", why="machine not in the catalogue", **about)
            continue
        try:
            answer = _mla_answer(machine, source, weights, 8.0 if "8" in cache else 16.0, phase, module, part)
        except SteelyardError as error:
            yield comparison(ask, "mla", why=str(error), **about)
            continue
        heads = part["num_heads"].to_numpy(float)
        split = np.where(latent_fitted(heads, cache), "fit", "left-out") if answer.fitted else "all"
        yield comparison(ask, "mla", split=split, **about, **answer.columns)


def _mla_answer(
    machine: Machine, source: str, weights: str, bits: float, phase: str, module: bool, part: pd.DataFrame
) -> _ops.Answer:
    """One layer, or one eager call of its attention with the products that belong to it."""
    batch, heads = part["batch_size"].to_numpy(float), part["num_heads"].to_numpy(float)
    new, step = part["isl"].to_numpy(float), part["step"].to_numpy(float)
    absorbed = phase == "decode" or source in _ABSORBED
    tokens = batch * (1.0 if phase == "decode" else new)
    if absorbed:
        context = np.maximum(step, 1.0) if module and phase == "decode" else new + step
        rows = heads if phase == "decode" else heads * new
        if phase == "prefill":  # the causal mask hides half of a prompt
            context = (context + 1.0) / 2
        kernel = tables.ATTENTION_KERNELS.get(source, "generic")
        answer = _ops.mla_decode(machine, kernel, batch, context, rows, kv_bits=bits)
    else:
        kernel = _MLA_PREFILL.get(source, {}).get(machine.family, tables.ATTENTION_KERNELS.get(source, "generic"))
        answer = _ops.mla_prefill(machine, kernel, batch, new, step, heads)
    rest = layer_rest(machine, source, weights, tokens, heads, absorbed=absorbed, phase=phase, projections=module)
    total = answer.time_s + rest.time_s
    own = np.log(answer.high_s / answer.time_s) / Z80  # the residuals of decode are those of whole layers
    spread = np.maximum(own, LAYER_SPREAD.get(machine.family, 0.0))
    answer = _ops.Answer(total, *interval80(total, spread), answer.roofline_s + rest.roofline_s, answer.source)
    if module:
        return answer
    host = CALL_S[phase]
    low, high = interval80(host, EAGER_SPREAD)
    return _ops.Answer(
        np.maximum(answer.time_s, host),
        np.maximum(answer.low_s, low),
        np.maximum(answer.high_s, high),
        answer.roofline_s,
        answer.source,
    )
