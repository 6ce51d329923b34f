"""Fit the GEMM utilisation parameters of a machine, a family of machines, or a machine with a handful of rows.

    python -m steelyard.calibrate.fit_gemm FOLDER_OF_TABLES CATALOGUE_CALIBRATION_FOLDER

minimises sum of softL1(log(predicted / measured) / NOISE) + sum ((log p - log prior) / sigma)^2 over log-parameters.
Rows are split by (n, k) pair: no weight shape is both fitted and scored. Needs scipy, numba and pandas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.devices import gemm_device
from steelyard.cost.gemm import GemmDevice, GemmFacts, GemmParameters, gemm_roofline_s
from steelyard.cost.site import site_for
from steelyard.machine.catalogue import find_machine
from steelyard.measurements.aic_gemm import FORMAT_BITS, GemmRows, take

__all__ = [
    "CLASS_PRIOR",
    "FEW_SHOT",
    "FREE",
    "KERNELS",
    "MEASURED",
    "Sample",
    "Score",
    "device_of",
    "fit_shared",
    "machine_prior",
    "predict_s",
    "residuals",
    "score",
]

Array = NDArray[np.float64]

NOISE = 0.08
"""Log-space scatter at which a row starts to count as an outlier (repeat measurements differ by some 3 %)."""
NORMAL_P90 = 1.2816
"""90th percentile of the standard normal law."""
BIG_WEIGHT_ELEMENTS = 4e6
"""Weights of at least this many elements count as a large shape in the scores."""


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
        "other": GemmParameters(),
    }
)
"""Starting points by copy engine: a pipeline step is 75-100 ns with bulk copies and 240-280 ns with mma.sync loads."""

FREE: tuple[str, ...] = (
    "launch_cycles",
    "compute_frac",
    "ops_per_joule",
    "dram_frac",
    "step_s",
    "wave_hardness",
    "overlap_power",
    "split_s",
    "operand_intensity",
    "store_intensity",
    "cache_frac",
)
FEW_SHOT: tuple[str, ...] = ("launch_cycles", "compute_frac", "ops_per_joule", "dram_frac", "step_s", "overlap_power")
"""What twenty rows can say something about."""

BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
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
    }
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to fit with the machine and software that produced them."""

    rows: GemmRows
    device: GemmDevice
    facts: GemmFacts
    hot_frac: float
    floor_s: float = 0.0
    """Host time per call below which an eager benchmark cannot measure."""


@dataclass(frozen=True, slots=True)
class Score:
    """Absolute percentage errors, log-space residuals and the roofline's error on the same rows."""

    rows: int
    mean_ape: float
    median_ape: float
    p90_ape: float
    big_mean_ape: float
    bias: float
    log_std: float
    """Half the spread between the 10th and 90th percentiles over 1.2816: that of a normal law with the same 80 %."""
    log_p10: float
    log_p90: float
    roofline_mean_ape: float
    roofline_big_mean_ape: float


def device_of(machine: str, number_format: str) -> GemmDevice:
    """The catalogue's figures of a measured machine computing in a format."""
    return gemm_device(site_for(find_machine(machine), number_format))


def machine_prior(machine: str) -> GemmParameters:
    """Class prior with the benchmark's hot fraction of this machine."""
    return replace(CLASS_PRIOR[device_of(machine, "bf16").copy_engine], hot_frac=MEASURED[machine])


def predict_s(sample: Sample, parameters: GemmParameters) -> Array:
    """Predicted seconds of a sample's rows under benchmark conditions (weights may be hot, eager floor applied)."""
    from steelyard.cost.gemm_bulk import gemm_time_bulk_s

    r = sample.rows
    weight_bits, act_bits, out_bits = FORMAT_BITS[r.format]
    time = gemm_time_bulk_s(
        r.m,
        r.n,
        r.k,
        weight_bits=weight_bits,
        act_bits=act_bits,
        out_bits=out_bits,
        device=sample.device,
        parameters=replace(parameters, hot_frac=sample.hot_frac),
        facts=sample.facts,
        weights_hot=True,
    )
    return np.maximum(time, sample.floor_s)


def residuals(sample: Sample, parameters: GemmParameters) -> Array:
    """log(predicted / measured) of each row."""
    return np.log(predict_s(sample, parameters) / sample.rows.latency_s)


def fit_shared(
    samples: Sequence[Sample],
    priors: Mapping[str, GemmParameters],
    *,
    shared: Sequence[str] = FREE,
    by_class: Sequence[str] = (),
    sigma: float | Mapping[str, float] = 0.5,
    max_rows: int = 3000,
    seed: int = 0,
    starts: int = 1,
) -> dict[str, GemmParameters]:
    """One parameter set per copy engine, fitted to all samples together.

    Args:
        samples: rows of one or more machines.
        priors: copy engine to the parameters to start from and to lean on.
        shared: parameters with one value for all samples.
        by_class: parameters with one value per copy engine.
        sigma: log-space width of the prior, one for all or by name.
        max_rows: rows drawn from each sample.
        seed: of the draw and of the extra starts.
        starts: random restarts around the prior (the best is kept).

    Returns:
        Copy engine to fitted parameters, for every key of ``priors``.
    """
    from scipy.optimize import least_squares

    rng = np.random.default_rng(seed)
    drawn = [_draw(s, max_rows, rng) for s in samples]
    classes = sorted(priors)
    keys = [(name, "*") for name in shared] + [(name, c) for name in by_class for c in classes]
    spread = np.array([sigma if isinstance(sigma, float) else sigma.get(name, 0.5) for name, _ in keys])
    first = priors[classes[0]]
    centre = np.log([getattr(priors[c] if c != "*" else _common(priors, n) or first, n) for n, c in keys])
    low = np.log([BOUNDS[name][0] for name, _ in keys])
    high = np.log([BOUNDS[name][1] for name, _ in keys])

    def build(z: Array) -> dict[str, GemmParameters]:
        values = np.exp(z)
        out = dict(priors)
        for (name, group), value in zip(keys, values, strict=True):
            for c in classes if group == "*" else [group]:
                out[c] = replace(out[c], **{name: float(value)})
        return out

    def errors(z: Array) -> Array:
        sets = build(z)
        parts = [residuals(s, sets[s.device.copy_engine]) for s in drawn]
        return np.concatenate([*parts, NOISE * (z - centre) / spread])

    best = None
    for start in range(starts):
        z0 = centre + (rng.normal(0.0, 0.25, centre.size) if start else 0.0)
        z0 = np.clip(z0, low + 1e-6, high - 1e-6)
        found = least_squares(
            errors, z0, bounds=(low, high), loss="soft_l1", f_scale=NOISE, diff_step=1e-3, max_nfev=40, x_scale=0.3
        )
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return build(best.x)


def _common(priors: Mapping[str, GemmParameters], name: str) -> GemmParameters | None:
    """A parameter set holding the geometric mean of one parameter over the classes."""
    values = [getattr(p, name) for p in priors.values()]
    mean = math.exp(sum(math.log(v) for v in values) / len(values))
    return replace(next(iter(priors.values())), **{name: mean})


def _draw(sample: Sample, max_rows: int, rng: np.random.Generator) -> Sample:
    if len(sample.rows) <= max_rows:
        return sample
    index = rng.choice(len(sample.rows), max_rows, replace=False)
    return replace(sample, rows=take(sample.rows, index))


def score(samples: Iterable[Sample], parameters: Mapping[str, GemmParameters] | GemmParameters) -> Score:
    """Errors over all rows of some samples; ``parameters`` may be given by copy engine."""
    logs, roofs, big = [], [], []
    for s in samples:
        p = parameters if isinstance(parameters, GemmParameters) else parameters[s.device.copy_engine]
        r = s.rows
        weight_bits, act_bits, out_bits = FORMAT_BITS[r.format]
        roof = gemm_roofline_s(
            r.m, r.n, r.k, weight_bits=weight_bits, act_bits=act_bits, out_bits=out_bits, device=s.device
        )
        logs.append(residuals(s, p))
        roofs.append(np.abs(roof / r.latency_s - 1.0) * 100.0)
        big.append(r.n * r.k >= BIG_WEIGHT_ELEMENTS)
    log, roofline, large = np.concatenate(logs), np.concatenate(roofs), np.concatenate(big)
    ape = np.abs(np.exp(log) - 1.0) * 100.0
    return Score(
        rows=int(log.size),
        mean_ape=float(ape.mean()),
        median_ape=float(np.median(ape)),
        p90_ape=float(np.quantile(ape, 0.9)),
        big_mean_ape=float(ape[large].mean()) if large.any() else math.nan,
        bias=float((np.exp(np.median(log)) - 1.0) * 100.0),
        log_std=float(np.diff(np.quantile(log, [0.1, 0.9]))[0] / (2.0 * NORMAL_P90)),
        log_p10=float(np.quantile(-log, 0.1)),
        log_p90=float(np.quantile(-log, 0.9)),
        roofline_mean_ape=float(roofline.mean()),
        roofline_big_mean_ape=float(roofline[large].mean()) if large.any() else math.nan,
    )


# --- the catalogue files -------------------------------------------------------------------------------------------

EAGER_ROWS_S: Mapping[str, float] = MappingProxyType(
    {"l40s": 0.6e-3, "h100_sxm": 0.25e-3, "h200_sxm": 0.25e-3, "b200_sxm": 0.4e-3}
)
"""Block-scaled fp8 rows were timed eagerly; only those longer than this are dominated by the GPU, and fitted."""
EAGER_FREE = ("compute_frac", "ops_per_joule", "wave_hardness", "overlap_power", "operand_intensity")
SHARED = ("launch_cycles", "dram_frac", "overlap_power", "split_s", "operand_intensity", "cache_frac")
BY_CLASS = ("compute_frac", "ops_per_joule", "step_s", "wave_hardness", "store_intensity")
FAMILY_SIGMA = 0.5
FEW_SHOT_SIGMA: Mapping[str, float] = MappingProxyType(
    {
        "launch_cycles": 0.07,
        "compute_frac": 0.1,
        "ops_per_joule": 0.15,
        "dram_frac": 0.07,
        "step_s": 0.1,
        "overlap_power": 0.25,
    }
)
"""How far machines differ from what their family predicts (log-space), from leaving each measured one out."""


def fitted_names(copy_engine: str, names: Sequence[str] = FREE) -> list[str]:
    """Of ``names``, those a machine of this class can tell apart: it is limited by its engine or by its power.

    mma.sync parts measured so far run into their board power, so ``compute_frac`` stays at its prior there;
    parts with bulk copies do not, so ``ops_per_joule`` does.
    """
    idle = "compute_frac" if copy_engine == "mma_sync" else "ops_per_joule"
    return [n for n in names if n != idle]


def fit_machine(
    sample: Sample, prior: GemmParameters, *, sigma: float = 0.5, max_rows: int = 3000, seed: int = 0
) -> GemmParameters:
    """Parameters of one machine and format, leaning on ``prior``."""
    engine = sample.device.copy_engine
    names = fitted_names(engine, EAGER_FREE if sample.rows.format == "fp8_block" else FREE)
    return fit_shared([sample], {engine: prior}, shared=names, sigma=sigma, max_rows=max_rows, seed=seed)[engine]


def fit_classes(samples: Sequence[Sample], *, max_rows: int = 1500, seed: int = 0) -> dict[str, GemmParameters]:
    """One set per copy engine from machines of both: what a machine never measured is predicted with."""
    priors = {c: CLASS_PRIOR[c] for c in ("async", "mma_sync")}
    return fit_shared(
        samples, priors, shared=SHARED, by_class=BY_CLASS, sigma=FAMILY_SIGMA, max_rows=max_rows, seed=seed
    )


def few_shot(sample: Sample, prior: GemmParameters) -> GemmParameters:
    """Adapt a family's parameters to a machine of which a few rows (about twenty) were measured."""
    engine = sample.device.copy_engine
    names = fitted_names(engine, FEW_SHOT)
    return fit_shared([sample], {engine: prior}, shared=names, sigma=FEW_SHOT_SIGMA)[engine]


def gpu_bound(rows: GemmRows) -> GemmRows:
    """Rows a GPU model can be judged on: all, but for eager block-scaled fp8 only the long ones."""
    if rows.format != "fp8_block":
        return rows
    return take(rows, rows.latency_s > EAGER_ROWS_S[rows.machine])


def section_toml(name: str, facts: str, p: GemmParameters, s: Score | None, notes: Mapping[str, str]) -> str:
    """One calibration section as TOML text."""
    prefix = f"{name}." if name else ""
    lines = [f"[{name}]"] if name else []
    lines += [f'facts = "{facts}"', "", f"[{prefix}parameters]"]
    lines += [f"{f} = {getattr(p, f):.4g}" for f in GemmParameters.__dataclass_fields__]
    if s is not None:
        lines += ["", f"[{prefix}residual]", f"rows = {s.rows}"]
        lines += [f"{key} = {getattr(s, key):.3g}" for key in ("mean_ape", "median_ape", "p90_ape")]
        lines += [f"log_std = {s.log_std:.4g}", f"log_low10 = {s.log_p10:.4g}", f"log_high90 = {s.log_p90:.4g}"]
        lines += [f"roofline_mean_ape = {s.roofline_mean_ape:.3g}"]
    lines += ["", f"[{prefix}provenance]"] + [f'{key} = "{value}"' for key, value in notes.items()]
    return "\n".join(lines) + "\n"
