"""Fit the products of each measured machine, and families for the others.

Every (machine, format) is fitted on a third of its (n, k) pairs and scored on the others; every family's spread is the
error of predicting a measured machine from the others of its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.calibrate.task import FIT_ROWS, Array, errors_of, fit_values
from steelyard.calibrate.tasks import FREE, gemm_free, gemm_price
from steelyard.cost.devices import gemm_device
from steelyard.cost.gemm import GemmDevice, GemmParameters, gemm_facts
from steelyard.cost.site import site_for
from steelyard.machine.catalogue import find_machine
from steelyard.measurements.kernel_tables import gemm_rows
from steelyard_validation.fits import command, section, write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURED", "Sample", "families", "fit_shared", "read", "run", "samples_of"]

NORMAL_P90: Final = 1.2816
"""90th percentile of the standard normal law."""
MEASURED: Mapping[str, float] = MappingProxyType(
    {"a100_sxm": 0.07, "l40s": 0.15, "h100_sxm": 0.07, "h200_sxm": 0.07, "b200_sxm": 0.07}
)
"""The measured machines, and the share of L2 the benchmark's rotating weight copies may fill: 1/6 for six copies, half
that where L2 is two parts."""

KERNELS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("a100_sxm", "bf16"): "cublas_mma",
        ("l40s", "bf16"): "cublas_ada",
        ("h100_sxm", "bf16"): "cublas",
        ("h200_sxm", "bf16"): "cublas",
        ("b200_sxm", "bf16"): "cublas_2sm",
        ("l40s", "fp8"): "cutlass_fp8_ada",
        ("h100_sxm", "fp8"): "cutlass_fp8",
        ("h200_sxm", "fp8"): "cutlass_fp8",
        ("b200_sxm", "fp8"): "cutlass_fp8_2sm",
        ("b200_sxm", "nvfp4"): "nvfp4",
        ("l40s", "fp8_block"): "triton_fp8_block",
        ("h100_sxm", "fp8_block"): "deepgemm_fp8_block",
        ("h200_sxm", "fp8_block"): "deepgemm_fp8_block",
        ("b200_sxm", "fp8_block"): "deepgemm_fp8_block",
    }
)
"""Which software kernel produced the rows of a machine and format (a key of ``gemm_facts``)."""

CLASS_PRIOR: Mapping[str, GemmParameters] = MappingProxyType(
    {
        "async": GemmParameters(compute_frac=0.85, step_s=85e-9, wave_hardness=0.1),
        "mma_sync": GemmParameters(compute_frac=0.95, ops_per_joule=0.7e12, step_s=250e-9, wave_hardness=0.7),
    }
)
"""Starting points by copy engine: a pipeline step is 75-100 ns with bulk copies and 240-280 ns with mma.sync loads."""
EAGER_ROWS_S: Mapping[str, float] = MappingProxyType(
    {"l40s": 0.6e-3, "h100_sxm": 0.25e-3, "h200_sxm": 0.25e-3, "b200_sxm": 0.4e-3}
)
"""Block-scaled fp8 rows were timed eagerly; only those longer than this are dominated by the GPU, and fitted."""
SHARED = ("launch_cycles", "dram_frac", "overlap_power", "split_s", "operand_intensity", "cache_frac")
BY_CLASS = ("compute_frac", "ops_per_joule", "step_s", "wave_hardness", "store_intensity")
CLASS_ROWS: Final = 1500

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
Residual = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of one format with the machine that produced them."""

    machine: str
    format: str
    rows: pd.DataFrame

    @property
    def device(self) -> GemmDevice:
        """The catalogue's figures of the machine computing in the format."""
        return gemm_device(site_for(find_machine(self.machine), self.format))

    def predict_s(self, parameters: Mapping[str, GemmParameters] | GemmParameters) -> Array:
        """Predicted seconds under benchmark conditions; parameters may be given by copy engine."""
        device = self.device
        own = parameters if isinstance(parameters, GemmParameters) else parameters[device.copy_engine]
        facts = gemm_facts(KERNELS[self.machine, self.format])
        price = gemm_price(self.format, device, facts, MEASURED[self.machine])
        return price(own, {c: self.rows[c].to_numpy() for c in ("m", "n", "k")})

    def drawn(self, most: int, rng: np.random.Generator) -> Sample:
        """At most so many of the rows."""
        if len(self.rows) <= most:
            return self
        return replace(self, rows=self.rows.iloc[rng.choice(len(self.rows), most, replace=False)])


Tables = Mapping[str, "pd.DataFrame"]


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """The measured machines' tables of products."""
    return {m: gemm_rows(next(folder.glob(f"aic_ops/{m}__gemm__*.parquet"))) for m in MEASURED}


def samples_of(tables: Tables, machine: str, number_format: str) -> tuple[Sample, Sample]:
    """(fit, held-out) samples of one machine and format; of eager rows those that are the GPU's."""
    rows = tables[machine]
    rows = rows[rows["format"] == number_format]
    if number_format == "fp8_block":
        rows = rows[rows["time_s"] > EAGER_ROWS_S[machine]]
    return tuple(Sample(machine, number_format, rows[rows["fitted"] == side]) for side in (True, False))  # type: ignore[return-value]


def score(samples: Sequence[Sample], parameters: Mapping[str, GemmParameters] | GemmParameters) -> Residual:
    """Errors over all rows; log_std is that of a normal law with the same 80 %."""
    times = [
        np.concatenate(x) for x in zip(*((s.predict_s(parameters), s.rows["time_s"]) for s in samples), strict=True)
    ]
    residual = errors_of(times[0], times[1]).table()
    return residual | {"log_std": (residual["log_high90"] - residual["log_low10"]) / (2.0 * NORMAL_P90)}


def fit_shared(
    samples: Sequence[Sample],
    priors: Mapping[str, GemmParameters],
    *,
    shared: Sequence[str],
    by_class: Sequence[str] = (),
    max_rows: int = FIT_ROWS,
) -> dict[str, GemmParameters]:
    """One parameter set per copy engine, fitted to all samples together.

    Args:
        samples: rows of one or more machines.
        priors: copy engine to the parameters to start from and to lean on.
        shared: parameters with one value for all samples.
        by_class: parameters with one value per copy engine.
        max_rows: rows drawn from each sample.
    """
    rng = np.random.default_rng(0)
    drawn = [s.drawn(max_rows, rng) for s in samples]
    start = {f"{n} *": float(np.exp(np.mean([np.log(getattr(p, n)) for p in priors.values()]))) for n in shared}
    start |= {f"{n} {c}": float(getattr(p, n)) for n in by_class for c, p in priors.items()}

    def build(values: Mapping[str, float]) -> dict[str, GemmParameters]:
        own = {c: {k.split()[0]: v for k, v in values.items() if k.split()[1] in ("*", c)} for c in priors}
        changed: dict[str, Any] = own
        return {c: replace(p, **changed[c]) for c, p in priors.items()}

    bounds = {key: FREE["gemm"].bounds[key.split()[0]] for key in start}
    measured = np.concatenate([s.rows["time_s"] for s in drawn])
    found = fit_values(
        lambda values: np.concatenate([s.predict_s(build(values)) for s in drawn]), start, measured, bounds=bounds
    )
    return build(found)


def fit_classes(samples: Sequence[Sample]) -> dict[str, GemmParameters]:
    """One set per copy engine from machines of both: what a machine never measured is predicted with."""
    return fit_shared(samples, CLASS_PRIOR, shared=SHARED, by_class=BY_CLASS, max_rows=CLASS_ROWS)


def fit_one(samples: Sequence[Sample], prior: GemmParameters) -> GemmParameters:
    """The parameters of one machine or family and format, leaning on ``prior``."""
    engine = samples[0].device.copy_engine
    free = gemm_free(engine, samples[0].format)
    return fit_shared(samples, {engine: prior}, shared=free.names)[engine]


def left_out(tables: Tables, machine: str) -> Residual:
    """Score of one measured machine predicted from its spec sheet and the other machines (16-bit)."""
    others = [samples_of(tables, m, "bf16")[0] for m in MEASURED if m != machine]
    rows = tables[machine]
    return score([Sample(machine, "bf16", rows[rows["format"] == "bf16"])], fit_classes(others))


def single(family: str, base: GemmParameters) -> dict[str, Any]:
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
    return section(p, {"log_std": SINGLE_SPREAD}, {"kind": "family", "source": source}, "cublas_mma")


def families(tables: Tables, classes: Mapping[str, GemmParameters]) -> dict[str, Any]:
    """``_families/gemm.toml``."""
    scores = {m: left_out(tables, m) for m in MEASURED}

    def worst(*machines: str) -> Residual:
        return max((scores[m] for m in machines), key=lambda s: s["log_std"])

    unseen = {"async": worst("h100_sxm", "h200_sxm", "b200_sxm"), "mma_sync": worst("a100_sxm", "l40s")}
    found: dict[str, Any] = {}
    for family, members in FAMILIES.items():
        engine = samples_of(tables, members[0], "bf16")[0].device.copy_engine
        base = replace(classes[engine], hot_frac=MEASURED[members[0]])
        notes = {"kind": "family", "members": ", ".join(members), "residual": "a measured machine left out, 16-bit"}
        residual = worst("h100_sxm", "h200_sxm") if family == "hopper" else unseen[engine]
        level = found.setdefault(family, {})
        for fmt in ("bf16", "fp8", "fp8_block", "nvfp4"):
            kernel = KERNELS.get((members[0], fmt))
            if kernel is None:
                continue
            fitted = fit_one([samples_of(tables, m, fmt)[0] for m in members], base)
            base = fitted if fmt == "bf16" else base
            level.update(
                section(fitted, residual, notes, kernel)
                if fmt == "bf16"
                else {fmt: section(fitted, residual, notes, kernel)}
            )
        level["fp32"] = single(family, base)
    guessed = {**GUESSED, "arm_cpu": GUESSED["x86"]}
    for family in OTHER_FAMILIES:
        guessed[family] = ("mma_sync", "blas", OTHER, "guess: large units without a GPU's per-tile latency")
    guessed["generic"] = ("mma_sync", "blas", {"compute_frac": 0.8}, "guess: mma.sync parts together")
    for family, (engine, kernel, changes, why) in guessed.items():
        changed: dict[str, Any] = dict(changes)
        p = replace(classes[engine], **changed)
        wide = {"log_std": 0.3, "log_low10": -0.35, "log_high90": 0.4} if kernel == "blas" else {}
        found[family] = section(p, {**unseen[engine], **wide}, {"kind": "borrowed", "why": why}, kernel)
        if family in SINGLE:
            found[family]["fp32"] = single(family, p)
    return found | {family: single(family, classes["mma_sync"]) for family in ("pascal", "maxwell")}


def run(tables_folder: Path, catalogue: Path) -> None:
    """Fit everything and write ``<machine>/gemm.toml`` and ``_families/gemm.toml``."""
    tables = read(tables_folder)
    classes = fit_classes([samples_of(tables, m, "bf16")[0] for m in MEASURED])
    for machine, hot_frac in MEASURED.items():
        engine = samples_of(tables, machine, "bf16")[0].device.copy_engine
        prior = replace(classes[engine], hot_frac=hot_frac)
        table: dict[str, Any] = {}
        for fmt in (f for m, f in KERNELS if m == machine):
            inside, held = samples_of(tables, machine, fmt)
            fitted = fit_one([inside], prior)
            prior = fitted if fmt == "bf16" else prior
            residual = score([held], fitted)
            print(machine, fmt, {k: round(v, 3) for k, v in residual.items()}, flush=True)
            notes = {"source": ROWS_NOTE, "fitted_rows": min(FIT_ROWS, len(inside.rows)), "kind": "fitted"}
            made = section(fitted, residual, notes, KERNELS[machine, fmt])
            table.update(made if fmt == "bf16" else {fmt: made})
        table["fp32"] = single(next(f for f, members in FAMILIES.items() if machine in members), prior)
        comments = [
            f"GEMM utilisation of {machine}: {ROWS_NOTE}.",
            "Split: a third of the (n, k) pairs fitted, the others scored; errors in %, residuals in log space,",
            "measured over predicted, log_std from their 10th and 90th percentiles.",
            "fp8_block: eager rows, only those long enough to be the GPU's.",
        ]
        write(catalogue, machine, "gemm", table, comments)
    comments = [
        "GEMM parameters of machines never measured, by architecture family. Residual: the worst measured machine of",
        "the class predicted from the other machines; log_std 0.3 where the library is not NVIDIA's (guess).",
    ]
    write(catalogue, "_families", "gemm", families(tables, classes), comments)


if __name__ == "__main__":
    command(run)
