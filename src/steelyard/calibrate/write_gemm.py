"""Write the GEMM calibration files of the catalogue: each measured machine, and families for the others.

    python -m steelyard.calibrate.write_gemm FOLDER_OF_TABLES CATALOGUE_CALIBRATION_FOLDER

Every (machine, format) is fitted on a third of its (n, k) pairs and scored on the others; every family's spread is the
error of predicting a measured machine from the others of its class.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from steelyard.calibrate.fit_gemm import (
    EAGER_FREE,
    FREE,
    KERNELS,
    MEASURED,
    Sample,
    Score,
    device_of,
    fit_classes,
    fit_machine,
    fit_shared,
    fitted_names,
    gpu_bound,
    score,
    section_toml,
)
from steelyard.cost.gemm import GemmParameters, gemm_facts
from steelyard.measurements.aic_gemm import GemmRows, aic_gemm_files, read_aic_gemm, split_by_pair

__all__ = ["families", "main", "samples_of"]

FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"hopper": ("h100_sxm", "h200_sxm"), "blackwell": ("b200_sxm",), "ampere": ("a100_sxm",), "ada": ("l40s",)}
)
"""Measured members of each family."""
ONE_PART_CACHE = 0.15
"""hot_frac of a last-level cache that is one part (six rotating copies of the weights: 1/6)."""

GUESSED: Mapping[str, tuple[str, str, Mapping[str, float], str]] = MappingProxyType(
    {
        "ampere_graphics": ("mma_sync", "cublas_mma", {"hot_frac": ONE_PART_CACHE}, "mma.sync parts together"),
        "turing": ("mma_sync", "cublas_mma", {"hot_frac": ONE_PART_CACHE}, "mma.sync parts together"),
        "volta": ("mma_sync", "cublas_mma", {"hot_frac": ONE_PART_CACHE}, "mma.sync parts together"),
        "blackwell_graphics": ("mma_sync", "cublas_ada", {"hot_frac": ONE_PART_CACHE}, "mma.sync parts together"),
        "cdna1": ("mma_sync", "blas", {"compute_frac": 0.62, "ops_per_joule": 1e15}, "compute_frac of cdna2, less 5 %"),
        "cdna2": (
            "mma_sync",
            "blas",
            {"compute_frac": 0.66, "ops_per_joule": 1e15},
            "compute_frac from 17 MI210 products longer than 0.1 ms",
        ),
        "cdna3": (
            "mma_sync",
            "blas",
            {"compute_frac": 0.52, "ops_per_joule": 1e15, "launch_cycles": 8000.0},
            "guess, from memory of MI300X benchmarks: 600-700 TFLOP/s of 1307",
        ),
        "cdna4": (
            "async",
            "blas",
            {"compute_frac": 0.55, "launch_cycles": 8000.0},
            "compute_frac: guess from cdna3",
        ),
        "x86": (
            "mma_sync",
            "blas",
            {
                "launch_cycles": 9000.0,
                "compute_frac": 0.75,
                "ops_per_joule": 1e15,
                "dram_frac": 0.8,
                "step_s": 5e-9,
                "wave_hardness": 0.3,
                "operand_intensity": 8.0,
                "store_intensity": 10.0,
                "split_s": 5e-6,
            },
            "guess: a core blocks in registers and private caches; thread wake-up of some microseconds",
        ),
    }
)
"""family: (class it borrows from, kernel, what differs, why). arm_cpu follows x86."""

SINGLE: Mapping[str, tuple[float, float, str]] = MappingProxyType(
    {
        "hopper": (0.93, 0.074e12, "H100 linear rows"),
        "blackwell": (0.93, 0.1e12, "guess between Hopper and Ada"),
        "ampere": (0.93, 0.065e12, "A100 PCIe linear rows"),
        "ampere_graphics": (0.93, 0.08e12, "guess between Ampere and Ada"),
        "ada": (0.93, 0.125e12, "L4 linear rows"),
        "blackwell_graphics": (0.93, 0.13e12, "guess from Ada"),
        "turing": (0.93, 0.056e12, "T4 linear rows"),
        "volta": (0.97, 0.065e12, "V100 linear rows"),
        "pascal": (0.85, 0.058e12, "P4 and P100 linear rows"),
        "maxwell": (0.85, 0.05e12, "guess from Pascal"),
    }
)
"""family: (compute_frac, fp32 operations per joule, source) of products without matrix engines (NeuSight test rows).

One figure explains what clocks do not: at their power limit T4 and L4 reach half and a third of the fp32 peak."""
SINGLE_SPREAD = 0.13
"""log_std of those rows about a fit of their own machine (7-10 % mean error; Pascal 15-21 %)."""

OTHER: Mapping[str, float] = MappingProxyType(
    {"step_s": 5e-9, "operand_intensity": 20.0, "store_intensity": 50.0, "compute_frac": 0.75, "ops_per_joule": 1e15}
)
"""Machines of large units (systolic arrays, NPUs) have no per-tile pipeline latency of a GPU's kind (guess)."""
OTHER_FAMILIES = (
    "tpu",
    "neuron",
    "gaudi",
    "ascend",
    "hexagon",
    "rknpu",
    "apple_ane",
    "hailo",
    "groq",
    "cerebras",
    "sambanova",
)

ROWS_NOTE = "kernel times of the aiconfigurator collector, vLLM kernels in CUDA graphs"


def samples_of(tables: Mapping[str, Mapping[str, GemmRows]], machine: str, number_format: str) -> tuple[Sample, Sample]:
    """(fit, held-out) samples of one machine and format."""
    fit, out = split_by_pair(gpu_bound(tables[machine][number_format]))
    facts = gemm_facts(KERNELS[machine, number_format])
    device, hot = device_of(machine, number_format), MEASURED[machine]
    return Sample(fit, device, facts, hot), Sample(out, device, facts, hot)


def left_out(tables: Mapping[str, Mapping[str, GemmRows]], machine: str) -> Score:
    """Score of one measured machine predicted from its spec sheet and the other machines (16-bit)."""
    others = [samples_of(tables, m, "bf16")[0] for m in MEASURED if m != machine]
    sets = fit_classes(others)
    return score([replace(samples_of(tables, machine, "bf16")[1], rows=tables[machine]["bf16"])], sets)


def _family_fit(samples: list[Sample], prior: GemmParameters) -> GemmParameters:
    engine = samples[0].device.copy_engine
    names = fitted_names(engine, EAGER_FREE if samples[0].rows.format == "fp8_block" else FREE)
    return fit_shared(samples, {engine: prior}, shared=names)[engine]


def single_toml(name: str, family: str, base: GemmParameters) -> str:
    """The section of fp32 products without matrix engines."""
    frac, per_joule, source = SINGLE[family]
    p = replace(
        base,
        compute_frac=frac,
        ops_per_joule=per_joule,
        step_s=250e-9,
        wave_hardness=0.95,
        overlap_power=2.7,
        operand_intensity=12.0,
        store_intensity=20.0,
    )
    residual = f"\n[{name}.residual]\nlog_std = {SINGLE_SPREAD}\n"
    return section_toml(name, "cublas_mma", p, None, {"kind": "family", "source": source}) + residual


def families(tables: Mapping[str, Mapping[str, GemmRows]], classes: Mapping[str, GemmParameters]) -> str:
    """Text of ``_families/gemm.toml``."""
    scores = {m: left_out(tables, m) for m in MEASURED}
    unseen = {
        "async": max((scores[m] for m in ("h100_sxm", "h200_sxm", "b200_sxm")), key=lambda s: s.log_std),
        "mma_sync": max((scores[m] for m in ("a100_sxm", "l40s")), key=lambda s: s.log_std),
    }
    twin = max((scores[m] for m in ("h100_sxm", "h200_sxm")), key=lambda s: s.log_std)
    parts = []
    for family, members in FAMILIES.items():
        engine = device_of(members[0], "bf16").copy_engine
        base = replace(classes[engine], hot_frac=MEASURED[members[0]])
        for fmt in ("bf16", "fp8", "fp8_block", "nvfp4"):
            if (members[0], fmt) not in KERNELS:
                continue
            fitted = _family_fit([samples_of(tables, m, fmt)[0] for m in members], base)
            if fmt == "bf16":
                base = fitted
            notes = {"kind": "family", "members": ", ".join(members), "residual": "a measured machine left out, 16-bit"}
            name = family if fmt == "bf16" else f"{family}.{fmt}"
            kernel = KERNELS[members[0], fmt]
            parts.append(section_toml(name, kernel, fitted, twin if family == "hopper" else unseen[engine], notes))
        parts.append(single_toml(f"{family}.fp32", family, base))
    guessed = dict(GUESSED)
    guessed["arm_cpu"] = guessed["x86"]
    for family in OTHER_FAMILIES:
        guessed[family] = ("mma_sync", "blas", OTHER, "guess: large units without a GPU's per-tile latency")
    guessed["generic"] = ("mma_sync", "blas", {"compute_frac": 0.8}, "guess: mma.sync parts together")
    for family, (engine, kernel, changes, why) in guessed.items():
        p = replace(classes[engine], **changes)
        s = unseen[engine] if kernel != "blas" else replace(unseen[engine], log_std=0.3, log_p10=-0.35, log_p90=0.4)
        parts.append(section_toml(family, kernel, p, s, {"kind": "borrowed", "why": why}))
        if family in SINGLE:
            parts.append(single_toml(f"{family}.fp32", family, p))
    parts += [single_toml(family, family, classes["mma_sync"]) for family in ("pascal", "maxwell")]
    head = (
        "# GEMM parameters of machines never measured, by architecture family. Residual: the worst measured machine\n"
        "# of the class predicted from the other machines; log_std 0.3 where the library is not NVIDIA's (guess).\n\n"
    )
    return head + "\n".join(parts)


def main(folder: Path, out: Path) -> None:
    """Fit everything and write ``<machine>/gemm.toml`` and ``_families/gemm.toml`` under ``out``."""
    files = aic_gemm_files(folder)
    tables = {m: read_aic_gemm(files[m]) for m in MEASURED}
    classes = fit_classes([samples_of(tables, m, "bf16")[0] for m in MEASURED])
    for machine, hot_frac in MEASURED.items():
        prior = replace(classes[device_of(machine, "bf16").copy_engine], hot_frac=hot_frac)
        parts = [
            f"# GEMM utilisation of {machine}, fitted to {files[machine].name}\n# ({ROWS_NOTE}).\n"
            "# Split: a third of the (n, k) pairs fitted, the others scored; errors in %, residuals in log space,\n"
            "# measured over predicted, log_std from their 10th and 90th percentiles.\n"
            "# fp8_block: eager rows, only those long enough to be the GPU's.\n"
        ]
        for fmt in (f for m, f in KERNELS if m == machine):
            fit, held = samples_of(tables, machine, fmt)
            fitted = fit_machine(fit, prior)
            if fmt == "bf16":
                prior = fitted
            s = score([held], fitted)
            print(machine, fmt, f"mean {s.mean_ape:.1f} median {s.median_ape:.1f} p90 {s.p90_ape:.1f} n {s.rows}")
            notes = {"source": files[machine].name, "fitted_rows": str(min(3000, len(fit.rows))), "kind": "fitted"}
            parts.append(section_toml("" if fmt == "bf16" else fmt, KERNELS[machine, fmt], fitted, s, notes))
        family = next(f for f, members in FAMILIES.items() if machine in members)
        parts.append(single_toml("fp32", family, prior))
        target = out / machine / "gemm.toml"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(parts), encoding="utf-8")
    target = out / "_families" / "gemm.toml"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(families(tables, classes), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
