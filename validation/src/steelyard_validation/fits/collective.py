"""Fit the collectives of each measured machine, scored on message sizes left out of the fit.

Rows: captured graphs or kernel times only (eager rows carry host jitter), one node. Split: messages of 4^k KiB are
fitted, the sizes between are scored; families are scored on machines of the same kind of link left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.calibrate.task import Task, errors_of
from steelyard.calibrate.tasks import collective_task
from steelyard.cost.collective import CollectiveParameters, Fabric
from steelyard.cost.op_models import fabrics
from steelyard.cost.parameters import Calibrated
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.measurements.kernel_tables import collective_rows, collective_rows_of
from steelyard_validation.fits import between, command, mean_parameters, section, write
from steelyard_validation.readers.comm import apex_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURED", "fit_machine", "run", "tasks_of"]

MEASURED: Final = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s", "v100_pcie")
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "hopper": ("h100_sxm", "h200_sxm"),
    "blackwell": ("b200_sxm",),
    "ampere": ("a100_sxm",),
    "nvlink": ("a100_sxm", "h100_sxm", "b200_sxm"),
    "ada": ("l40s",),
    "pcie": ("l40s", "v100_pcie"),
    "generic": ("a100_sxm", "h100_sxm", "b200_sxm"),
}
SHARED: Final = {"local_step_frac": 0.6, "blend": 0.9, "ll128_step_ratio": 1.35, "ll_efficiency": 0.06}
"""Held for every NVLink machine: freeing them changes the held-out mean by 0.1 points or less."""
NOISE: Final = 0.1
PRIOR: Final = 50.0
"""Log-space width of the prior times the root of the number of rows: keeps unseen parameters where they were."""
CUSTOM_BYTES: Final = 2.0**27
"""Largest message of a serving library's own all-reduce that is fitted."""
PCIE_CONTENTION: Final = 0.3
"""Guess: one PCIe server measured 2 (two sockets, no switch), two measured 0."""


def tasks_of(folder: Path) -> dict[str, Task]:
    """Every measured machine's rows; ``folder`` holds ``aic_ops`` and ``apex_comm``."""
    aic = collective_rows(next((folder / "aic_ops").glob("comm_*.parquet")))
    apex = apex_rows(next((folder / "apex_comm").glob("collectives_*.csv")))
    apex = apex[apex["devices"] <= apex["per_node"]].rename(columns={"device": "machine"}).assign(version="")
    tables = {m: collective_rows_of(apex if m == "v100_pcie" else aic, m) for m in MEASURED}
    return {m: collective_task(find_machine(m), rows) for m, rows in tables.items()}


def fabric_of(machine: str) -> Fabric:
    """The links inside a node."""
    return fabrics(cluster_of(find_machine(machine), 8))[0]


def _fit(task: Task, rows: pd.DataFrame, start: Any, names: Sequence[str]) -> Any:
    free = replace(task.free, names=tuple(names))
    part = replace(task, rows=rows, free=free, prior=Calibrated(start, 0.0, "default"))
    return part.fit(part.everywhere, noise=NOISE, sigma=PRIOR / float(np.sqrt(len(part))))


def fit_machine(task: Task, machine: str) -> CollectiveParameters:
    """NCCL first, then the peer-pointer kernels given NCCL."""
    held: dict[str, float] = dict(SHARED)
    if fabric_of(machine).kind != "nvlink":
        held |= {"contention": 0.5, "ll_efficiency": 0.3}
    rows = task.rows[task.rows["fitted"]]
    nccl = rows["library"] == "nccl"
    custom = [n for n in task.free.bounds if n.startswith(("custom", "two_shot", "multimem"))]
    names = [n for n in task.free.bounds if n not in custom]
    fitted = _fit(task, rows[nccl], replace(CollectiveParameters(), **held), names)
    own = rows[~nccl & (rows["message_bytes"] <= CUSTOM_BYTES)]
    found: CollectiveParameters = _fit(task, own, fitted, custom) if len(own) else fitted
    return found


def run(folder: Path, catalogue: Path) -> None:
    """Fit, score and write every machine, then the families."""
    tasks = tasks_of(folder)
    fitted = {m: fit_machine(task, m) for m, task in tasks.items()}
    residuals = {}
    for machine, task in tasks.items():
        errors = task.errors(fitted[machine], np.flatnonzero(~task.rows["fitted"]))
        residuals[machine] = errors.table()
        source = "apex_comm" if machine == "v100_pcie" else "aic_ops/comm_all_systems"
        notes = {"source": source, "fabric": fabric_of(machine).name, "kind": "fitted"}
        comments = [
            f"Collectives of {machine}, fitted on {source}: {int(task.rows['fitted'].sum())} rows.",
            "Split: log2(message bytes) even fitted, odd scored; 2, 4 and 8 devices; 1 KiB to 1 GiB; captured.",
        ]
        write(catalogue, machine, "collective", section(fitted[machine], residuals[machine], notes), comments)
        print(machine, {k: round(v, 3) for k, v in residuals[machine].items()}, flush=True)
    sets = {family: mean_parameters([fitted[m] for m in members]) for family, members in FAMILIES.items()}
    for family in ("pcie", "ada"):
        sets[family] = replace(sets[family], contention=PCIE_CONTENTION)
    sets["infinity_fabric"] = replace(
        fitted["a100_sxm"], launch_s=1.0e-5, step_s=1.5e-6, simple_efficiency=0.7, nvls_efficiency=0.65
    )
    table: dict[str, Any] = {}
    for family, parameters in sets.items():
        members = FAMILIES.get(family, ())
        residual = left_out(tasks, fitted, members, parameters, nvlink=family not in ("pcie", "ada"))
        if family in ("hopper", "blackwell", "ampere"):
            residual = between(residual, [residuals[m] for m in members])
        named = ", ".join(members) or "none: a guess from a100_sxm; RCCL reaches about 310 of 448 GB/s on eight MI300X"
        table[family] = section(parameters, residual, {"members": named, "kind": "borrowed"})
    comments = [
        "Collectives of machines never measured: geometric means of the fitted machines of a family.",
        "Source: aic_ops/comm_all_systems, apex_comm. Residual: every measured machine of the same link kind,",
        "predicted without itself. contention of pcie is a guess between one server with and one without switches.",
    ]
    write(catalogue, "_families", "collective", table, comments)


def left_out(
    tasks: Mapping[str, Task],
    fitted: Mapping[str, CollectiveParameters],
    members: Sequence[str],
    parameters: CollectiveParameters,
    *,
    nvlink: bool,
) -> dict[str, float]:
    """Errors of predicting each machine of the link kind from machines of other fabrics."""
    known = {m: fabric_of(m) for m in tasks}
    truth, answer = [], []
    for machine, task in tasks.items():
        if (known[machine].kind == "nvlink") != nvlink:
            continue
        others = [fitted[m] for m in members if known[m].name != known[machine].name]
        if not others:
            alike = [m for m in fitted if known[m].kind == known[machine].kind]
            others = [fitted[m] for m in alike if known[m].name != known[machine].name]
        borrowed = replace(mean_parameters(others), contention=parameters.contention)
        truth.append(task.time_s)
        answer.append(task.predict(borrowed, task.everywhere))
    return errors_of(np.concatenate(answer), np.concatenate(truth)).table()


if __name__ == "__main__":
    command(run)
