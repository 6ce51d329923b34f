"""Fit the grouped-GEMM parameters of each machine and kernel family; write catalogue files with held-out scores.

Split: whole (hidden, intermediate, topk, experts) shapes, three folds; the file holds the fit on all shapes. Families
with one shape are split at random by row (marked so).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from steelyard.calibrate.fit_collective import between, parameter_lines, score, write_lines
from steelyard.cost.devices import moe_device
from steelyard.cost.moe import FACTS, MoeDevice, MoeFacts, MoeParameters, moe_time_s
from steelyard.cost.site import site_for
from steelyard.machine.catalogue import find_machine
from steelyard.measurements import aic_moe

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]

MEASURED: Final = ("a100_sxm", "l40s", "h100_sxm", "h200_sxm", "b200_sxm")
#: Number format of a collector's name, which decides what is computed in.
FORMATS: Final[dict[str, str]] = {
    "bfloat16": "bf16",
    "w4a16_mxfp4": "mxfp4",
    "int4_wo": "int4",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "w4a8_mxfp4_mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
}
FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "hopper": ("h100_sxm", "h200_sxm"),
    "blackwell": ("b200_sxm",),
    "ampere": ("a100_sxm",),
    "ampere_graphics": ("a100_sxm",),
    "ada": ("l40s",),
    "blackwell_graphics": ("l40s",),
    "generic": ("a100_sxm", "l40s", "h100_sxm", "b200_sxm"),
}
LINEAGE: Final = {
    "h100_sxm": "hopper",
    "h200_sxm": "hopper",
    "b200_sxm": "blackwell",
    "a100_sxm": "ampere",
    "l40s": "ada",
}
BOUNDS: Final[dict[str, tuple[float, float]]] = {
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
}
NO_OTHER_LINEAGE: Final = {"log_std": 0.3, "log_low10": -0.38, "log_high90": 0.38}
"""Spread assumed where no other lineage runs the kernel (guess)."""
FIT_ROWS: Final = 1200
SCORE_ROWS: Final = 2000
FOLDS: Final = 3
PRIOR_WEIGHT: Final = 0.01
"""Pull of each log parameter to the start, in units of log error."""


def device_for(machine: str, dtype: str) -> MoeDevice:
    """The catalogue's figures of a measured machine with the arithmetic peak of the format."""
    return moe_device(site_for(find_machine(machine), FORMATS[dtype]))


def facts_for(kernel: str) -> MoeFacts:
    """The software facts of a kernel key such as `triton_fp8_block`."""
    for name in sorted(FACTS, key=len, reverse=True):
        if kernel.startswith(name + "_"):
            return FACTS[name]
    raise ValueError(f"no grouped-GEMM facts for kernel {kernel!r}")


def predict(rows: pd.DataFrame, machine: str, kernel: str, parameters: MoeParameters) -> FloatArray:
    """Predicted times of rows of one kernel, s."""
    dtype = str(rows["dtype"].iloc[0])
    weight_bits, act_bits = aic_moe.BITS[dtype]
    out = np.empty(len(rows))
    for (even, gated), index in rows.groupby(["even", "gated"]).indices.items():
        part = rows.iloc[index]
        out[index] = moe_time_s(
            part["tokens"].to_numpy(float),
            part["hidden"].to_numpy(float),
            part["intermediate"].to_numpy(float),
            part["topk"].to_numpy(float),
            part["experts"].to_numpy(float),
            weight_bits=weight_bits,
            act_bits=act_bits,
            gated=bool(gated),
            skew=part["skew"].to_numpy(float),
            device=device_for(machine, dtype),
            parameters=parameters,
            facts=facts_for(kernel),
            local_experts=part["local_experts"].to_numpy(float),
            routing="even" if even else "random",
            repeated_batches=np.where(part["balanced"].to_numpy(bool), 1.0, 5.0),
        )
    return out


def fit(rows: pd.DataFrame, machine: str, kernel: str, start: MoeParameters) -> MoeParameters:
    """Least squares on log error (soft L1), parameters in log space, weak pull to the start."""
    from scipy.optimize import least_squares

    names = list(BOUNDS)
    low, high = (np.log([BOUNDS[n][side] for n in names]) for side in (0, 1))
    first = np.clip(np.log([getattr(start, n) for n in names]), low + 1e-3, high - 1e-3)
    truth = np.log(rows["time_s"].to_numpy(float))
    pull = PRIOR_WEIGHT * np.sqrt(len(rows))

    def build(x: FloatArray) -> MoeParameters:
        return replace(start, **{name: float(np.exp(v)) for name, v in zip(names, x, strict=True)})

    def residual(x: FloatArray) -> FloatArray:
        return np.concatenate([np.log(predict(rows, machine, kernel, build(x))) - truth, pull * 0.1 * (x - first)])

    found = least_squares(
        residual, first, bounds=(low, high), loss="soft_l1", f_scale=0.15, diff_step=2e-3, max_nfev=40
    )
    return build(found.x)


def sample(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """At most `count` rows, reproducibly."""
    return rows.sample(min(count, len(rows)), random_state=seed).reset_index(drop=True)


def kernels_of(table: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The rows of each kernel family of a machine."""
    for kernel, rows in table.groupby("kernel"):
        yield str(kernel), rows.reset_index(drop=True)


def fit_kernel(rows: pd.DataFrame, machine: str, kernel: str) -> tuple[MoeParameters, dict[str, float], int]:
    """Held-out folds over shapes, then the fit on all; returns parameters, score and the number of shapes."""
    shapes = list(np.random.default_rng(0).permutation(sorted(rows["shape"].unique())))
    start = MoeParameters()
    truth, answer = [], []
    folds = min(FOLDS, len(shapes)) if len(shapes) > 1 else 2
    fold_of = rows["shape"].map({s: k % folds for k, s in enumerate(shapes)}).to_numpy()
    if len(shapes) == 1:
        fold_of = np.random.default_rng(1).integers(0, folds, len(rows))
    for fold in range(folds):
        train = sample(rows[(fold_of != fold) & ~rows["odd"]], FIT_ROWS, 1)
        test = sample(rows[fold_of == fold], SCORE_ROWS, 2)
        left = fit(train, machine, kernel, start)
        truth.append(test["time_s"].to_numpy(float))
        answer.append(predict(test, machine, kernel, left))
    final = fit(sample(rows[~rows["odd"]], FIT_ROWS, 3), machine, kernel, start)
    return final, score(np.concatenate(truth), np.concatenate(answer)), len(shapes)


def mean_parameters(sets: Sequence[MoeParameters]) -> MoeParameters:
    """Geometric mean, parameter by parameter."""
    return MoeParameters(
        **{f.name: float(np.exp(np.mean([np.log(getattr(p, f.name)) for p in sets]))) for f in fields(MoeParameters)}
    )


def run(data: Path, catalogue: Path) -> None:
    """Fit, score and write every machine, then the families."""
    fitted: dict[tuple[str, str], MoeParameters] = {}
    residuals: dict[tuple[str, str], dict[str, float]] = {}
    tables: dict[tuple[str, str], pd.DataFrame] = {}
    for machine in MEASURED:
        lines: list[str] = []
        for kernel, rows in kernels_of(aic_moe.read(data, machine)):
            parameters, residual, shapes = fit_kernel(rows, machine, kernel)
            fitted[machine, kernel] = parameters
            residuals[machine, kernel] = residual
            tables[machine, kernel] = sample(rows, SCORE_ROWS, 4)
            split = "whole shapes left out, 3 folds" if shapes > 1 else "one shape: random half of the rows"
            provenance = {
                "source": f"aic_ops/{aic_moe.FILES[machine]}",
                "rows": str(len(rows)),
                "shapes": str(shapes),
                "split": split,
            }
            lines += parameter_lines(parameters, residual, provenance, prefix=f"{kernel}.")
            print(machine, kernel, shapes, {k: round(v, 2) for k, v in residual.items()}, flush=True)
        write_lines(
            catalogue / machine / "moe.toml",
            [
                f"Grouped GEMM of MoE layers on {machine}, one table per kernel family and format.",
                "k_step_s and unaligned_efficiency are shared by all machines (not fitted here).",
                "[.residual] scores shapes the fit did not see; log_low10/high90 are of log(measured/predicted).",
            ],
            lines,
        )
    write_families(catalogue, fitted, residuals, tables)


def write_families(
    catalogue: Path,
    fitted: Mapping[tuple[str, str], MoeParameters],
    residuals: Mapping[tuple[str, str], Mapping[str, float]],
    tables: Mapping[tuple[str, str], pd.DataFrame],
) -> None:
    """Family files; the residual is of machines of another lineage predicted with these parameters."""
    lines: list[str] = []
    kernels = sorted({kernel for _, kernel in fitted})
    for family, members in FAMILIES.items():
        for kernel in kernels:
            have = [m for m in members if (m, kernel) in fitted]
            if not have:
                continue
            parameters = mean_parameters([fitted[m, kernel] for m in have])
            truth, answer = [], []
            for (machine, other), rows in tables.items():
                if other != kernel:
                    continue
                use = [m for m in have if LINEAGE[m] != LINEAGE[machine]]
                if use:
                    left_out = mean_parameters([fitted[m, kernel] for m in use])
                    truth.append(rows["time_s"].to_numpy(float))
                    answer.append(predict(rows, machine, kernel, left_out))
            residual = score(np.concatenate(truth), np.concatenate(answer)) if truth else dict(NO_OTHER_LINEAGE)
            if family not in ("generic", "ampere_graphics", "blackwell_graphics"):
                residual = between(residual, [residuals[m, kernel] for m in have])
            lines += parameter_lines(
                parameters, residual, {"members": ", ".join(have), "kind": "borrowed"}, prefix=f"{family}.{kernel}."
            )
            print("family", family, kernel, {k: round(v, 2) for k, v in residual.items()})
    write_lines(
        catalogue / "_families" / "moe.toml",
        [
            "Grouped GEMM on machines never measured: geometric means of the fitted machines of a family.",
            "Residual: machines of other lineages predicted with these parameters.",
            "For one lineage the spread lies half-way to its own held-out one; 0.3 is a guess where no other lineage",
            "has the kernel.",
        ],
        lines,
    )


def main() -> None:
    """Command line: data folder (holding truth/) and catalogue folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, default=Path(__file__).parents[1] / "catalogue" / "calibration")
    arguments = parser.parse_args()
    run(arguments.data, arguments.catalogue)


if __name__ == "__main__":
    main()
