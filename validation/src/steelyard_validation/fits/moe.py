"""Fit the grouped GEMMs of each machine and kernel family, scored on layer shapes left out of the fit.

Split: whole (hidden, intermediate, topk, experts) shapes, three folds; the file holds the fit on all shapes. Families
with one shape are split at random by row (marked so). Rows that are ``odd`` are scored but not fitted: matrix rows that
are no multiple of 16 bytes (no engine shards so), DeepSeek-V3's grouped router (which breaks the even spread over
ranks), and the older collector's small batches, which put nearly all rows on one rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.calibrate.task import Errors, Task, errors_of
from steelyard.calibrate.tasks import moe_task
from steelyard.cost.moe import MoeParameters
from steelyard.cost.parameters import Calibrated
from steelyard.machine.catalogue import find_machine
from steelyard.measurements.kernel_tables import MOE_BITS, moe_rows
from steelyard_validation.fits import between, command, mean_parameters, section, write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["kernel_task", "read", "run"]

MEASURED: Final = ("a100_sxm", "l40s", "h100_sxm", "h200_sxm", "b200_sxm")
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
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
NO_OTHER_LINEAGE: Final = {"log_std": 0.3, "log_low10": -0.38, "log_high90": 0.38}
"""Spread assumed where no other lineage runs the kernel (guess)."""
FIT_ROWS: Final = 1200
SCORE_ROWS: Final = 2000
FOLDS: Final = 3
NOISE: Final = 0.15
PRIOR: Final = 150.0
"""Log-space width of the prior times the root of the number of rows."""


def read(folder: Path, machine: str) -> pd.DataFrame:
    """Rows of one machine, which of them are odd among the columns; ``folder`` holds ``aic_ops``."""
    rows = moe_rows(next((folder / "aic_ops").glob(f"{machine}__moe__*.parquet")))
    shared = rows["local_experts"] < rows["experts"]
    row_bytes = rows["intermediate"] * rows["dtype"].map({k: b[0] // 1 for k, b in MOE_BITS.items()}) / 8.0
    backend = rows["kernel"].str.split("_").str[0]
    few = (rows["tokens"] * rows["topk"] <= rows["experts"]) & shared & (machine == "a100_sxm")
    grouped = (rows["shape"] == "7168x2048x8x256") & shared & rows["dtype"].isin(["fp8_block", "nvfp4"])
    return rows.assign(odd=few | grouped | ((row_bytes % 16 > 0) & backend.isin(["triton", "cutlass"])))


def kernel_task(machine: str, kernel: str, rows: pd.DataFrame) -> Task:
    """The section of one kernel, leaning on the model's defaults."""
    task = moe_task(find_machine(machine), kernel, rows)
    return replace(task, prior=Calibrated(MoeParameters(), 0.0, "default"))


def _sample(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    return rows.sample(min(count, len(rows)), random_state=seed).reset_index(drop=True)


def _fit(task: Task) -> Any:
    return task.fit(task.everywhere, noise=NOISE, sigma=PRIOR / float(np.sqrt(len(task))))


def fit_kernel(machine: str, kernel: str, rows: pd.DataFrame) -> tuple[Any, Errors, int]:
    """Held-out folds over shapes, then the fit on all; returns parameters, score and the number of shapes."""
    shapes = list(np.random.default_rng(0).permutation(sorted(rows["shape"].unique())))
    folds = min(FOLDS, len(shapes)) if len(shapes) > 1 else 2
    fold_of = rows["shape"].map({s: k % folds for k, s in enumerate(shapes)}).to_numpy()
    if len(shapes) == 1:
        fold_of = np.random.default_rng(1).integers(0, folds, len(rows))
    truth, answer = [], []
    for fold in range(folds):
        left = _fit(kernel_task(machine, kernel, _sample(rows[(fold_of != fold) & ~rows["odd"]], FIT_ROWS, 1)))
        test = kernel_task(machine, kernel, _sample(rows[fold_of == fold], SCORE_ROWS, 2))
        truth.append(test.time_s)
        answer.append(test.predict(left, test.everywhere))
    final = _fit(kernel_task(machine, kernel, _sample(rows[~rows["odd"]], FIT_ROWS, 3)))
    return final, errors_of(np.concatenate(answer), np.concatenate(truth)), len(shapes)


def run(folder: Path, catalogue: Path) -> None:
    """Fit, score and write every machine, then the families."""
    fitted: dict[tuple[str, str], Any] = {}
    residuals: dict[tuple[str, str], dict[str, float]] = {}
    tasks: dict[tuple[str, str], Task] = {}
    for machine in MEASURED:
        table: dict[str, Any] = {}
        for name, rows in read(folder, machine).groupby("kernel"):
            kernel = str(name)
            parameters, errors, shapes = fit_kernel(machine, kernel, rows.reset_index(drop=True))
            fitted[machine, kernel], residuals[machine, kernel] = parameters, errors.table()
            tasks[machine, kernel] = kernel_task(machine, kernel, _sample(rows, SCORE_ROWS, 4))
            split = "whole shapes left out, 3 folds" if shapes > 1 else "one shape: random half of the rows"
            provenance = {"source": f"aic_ops, {machine}", "rows": len(rows), "shapes": shapes, "split": split}
            table[kernel] = section(parameters, errors.table(), provenance)
            print(machine, kernel, shapes, {k: round(v, 2) for k, v in errors.table().items()}, flush=True)
        comments = [
            f"Grouped GEMM of MoE layers on {machine}, one table per kernel family and format.",
            "k_step_s and unaligned_efficiency are shared by all machines (not fitted here).",
            "[.residual] scores shapes the fit did not see; log_low10/high90 are of log(measured/predicted).",
        ]
        write(catalogue, machine, "moe", table, comments)
    comments = [
        "Grouped GEMM on machines never measured: geometric means of the fitted machines of a family.",
        "Residual: machines of other lineages predicted with these parameters.",
        "For one lineage the spread lies half-way to its own held-out one; 0.3 is a guess where no other lineage",
        "has the kernel.",
    ]
    write(catalogue, "_families", "moe", families(fitted, residuals, tasks), comments)


def families(
    fitted: Mapping[tuple[str, str], Any],
    residuals: Mapping[tuple[str, str], Mapping[str, float]],
    tasks: Mapping[tuple[str, str], Task],
) -> dict[str, Any]:
    """Sections of the families; the residual is of machines of another lineage predicted with these parameters."""
    found: dict[str, Any] = {}
    for family, members in FAMILIES.items():
        for kernel in sorted({kernel for _, kernel in fitted}):
            have = [m for m in members if (m, kernel) in fitted]
            if not have:
                continue
            truth, answer = [], []
            for (machine, other), task in tasks.items():
                use = [m for m in have if LINEAGE[m] != LINEAGE[machine]]
                if other == kernel and use:
                    truth.append(task.time_s)
                    answer.append(task.predict(mean_parameters([fitted[m, kernel] for m in use]), task.everywhere))
            residual = dict(NO_OTHER_LINEAGE)
            if truth:
                residual = errors_of(np.concatenate(answer), np.concatenate(truth)).table()
            if family not in ("generic", "ampere_graphics", "blackwell_graphics"):
                residual = between(residual, [residuals[m, kernel] for m in have])
            parameters = mean_parameters([fitted[m, kernel] for m in have])
            notes = {"members": ", ".join(have), "kind": "borrowed"}
            found.setdefault(family, {})[kernel] = section(parameters, residual, notes)
    return found


if __name__ == "__main__":
    command(run)
