"""Fit the vector kernels of each measured machine, scored on a random half of the rows.

Each source adds a constant of its own (host launch, timer): fitted next to the machine's parameters, reported, and kept
out of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.calibrate.task import Array, Task, errors_of, fit_values
from steelyard.calibrate.tasks import FREE, vector_task
from steelyard.cost.vector import VectorParameters
from steelyard.machine.catalogue import find_machine
from steelyard_validation.fits import command, mean_parameters, section, write
from steelyard_validation.fits.vector_tables import EAGER_OVERHEAD_S, FIRST_OVERHEAD, read_all

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURED", "Fitted", "fit", "run"]

MEASURED: Final = (
    "a100_pcie_40gb",
    "a100_pcie",
    "a100_sxm",
    "h100_sxm",
    "a40",
    "l4",
    "t4",
    "v100_pcie",
    "p100_pcie",
    "p4",
    "mi210",
    "mi100",
)
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "ampere": ("a100_pcie_40gb", "a100_pcie", "a100_sxm"),
    "ampere_graphics": ("a40",),
    "hopper": ("h100_sxm", "a100_pcie"),
    "blackwell": ("h100_sxm", "a100_pcie"),
    "ada": ("l4",),
    "blackwell_graphics": ("l4", "a40"),
    "turing": ("t4",),
    "volta": ("v100_pcie",),
    "pascal": ("p100_pcie", "p4"),
    "cdna1": ("mi100",),
    "cdna2": ("mi210",),
    "cdna3": ("mi100", "mi210"),
    "cdna4": ("mi100", "mi210"),
    "generic": ("a100_pcie", "h100_sxm", "l4", "v100_pcie", "t4", "mi210"),
}
OVERHEAD_BOUNDS: Final = (1e-7, 8e-5)
NOISE: Final = 0.05
PRIOR: Final = 16.7
"""Log-space width of the prior times the root of the number of rows."""
FIT_ROWS: Final = 1500
"""Rows of one source a fit looks at."""
FAMILY_ROWS: Final = 800
"""Rows of one machine a family's score looks at."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Parameters of a machine, and the constant of each source beside them, s."""

    parameters: VectorParameters
    overhead_s: Mapping[str, float]

    def predict_s(self, task: Task, parameters: VectorParameters | None = None) -> Array:
        """Seconds of a task's rows, with these parameters or others."""
        beside = task.rows["source"].map(self.overhead_s).fillna(0.0).to_numpy(float)
        return np.asarray(beside + task.predict(parameters or self.parameters, task.everywhere))


def task_of(machine: str, rows: pd.DataFrame) -> Task:
    """Rows of one machine as a task; NeuSight's kernels find their operands in main memory."""
    return vector_task(find_machine(machine), rows.assign(cold=rows["source"] == "neusight", fitted=True))


def fit(task: Task) -> Fitted:
    """The machine's parameters and each source's constant, leaning on the model's defaults."""
    sources = sorted(set(task.rows["source"]))
    names, prior = FREE["vector"].bounds, VectorParameters()
    start = {n: float(getattr(prior, n)) for n in names}
    start |= {f"{s} s": FIRST_OVERHEAD.get(s, EAGER_OVERHEAD_S) for s in sources}
    priced = task.predictor(task.everywhere)
    beside = task.rows["source"].to_numpy()

    def build(values: Mapping[str, float]) -> Fitted:
        own: dict[str, Any] = {n: values[n] for n in names}
        return Fitted(replace(prior, **own), {s: values[f"{s} s"] for s in sources})

    def predict(values: Mapping[str, float]) -> Array:
        now = build(values)
        return np.asarray([now.overhead_s[s] for s in beside]) + priced(now.parameters)

    bounds = {**names, **{f"{s} s": OVERHEAD_BOUNDS for s in sources}}
    sigma = PRIOR / float(np.sqrt(len(task)))
    return build(fit_values(predict, start, task.time_s, bounds=bounds, sigma=sigma, noise=NOISE))


def run(folder: Path, catalogue: Path) -> None:
    """Fit, score and write every machine, then the families."""
    table = read_all(folder)
    fitted: dict[str, Fitted] = {}
    for machine in MEASURED:
        rows = table[table["machine"] == machine].reset_index(drop=True)
        half = np.random.default_rng(0).random(len(rows)) < 0.5
        train = rows[half].sample(frac=1.0, random_state=1).groupby("source").head(FIT_ROWS).reset_index(drop=True)
        found = fitted[machine] = fit(task_of(machine, train))
        held = task_of(machine, rows[~half].reset_index(drop=True))
        errors = errors_of(found.predict_s(held), held.time_s)
        notes = {
            "source": ", ".join(sorted(set(rows["source"]))),
            "kind": "fitted",
            "split": "random half of the rows",
            **{f"overhead_s_{s}": v for s, v in found.overhead_s.items()},
        }
        comments = [
            f"Vector kernels of {machine}: {len(train)} rows fitted, {len(held)} scored.",
            "overhead_s_*: constant of the source's timing, not part of the parameters.",
        ]
        write(catalogue, machine, "vector", section(found.parameters, errors.table(), notes), comments)
        print(machine, {k: round(v, 3) for k, v in errors.table().items()}, flush=True)
    sections = {family: family_section(table, fitted, members) for family, members in FAMILIES.items()}
    comments = [
        "Vector kernels of machines never measured: geometric means of the fitted machines of a family.",
        "Residual: every machine predicted without itself from the family's members.",
    ]
    write(catalogue, "_families", "vector", sections, comments)


def family_section(table: pd.DataFrame, fitted: Mapping[str, Fitted], members: Sequence[str]) -> dict[str, Any]:
    """Parameters of a family, scored on every machine that is not the family's only member."""
    truth, answer = [], []
    for machine, own in fitted.items():
        use = [fitted[m].parameters for m in members if m != machine]
        if use:
            rows = table[table["machine"] == machine]
            rows = rows.sample(min(FAMILY_ROWS, len(rows)), random_state=2).reset_index(drop=True)
            task = task_of(machine, rows)
            truth.append(task.time_s)
            answer.append(own.predict_s(task, mean_parameters(use)))
    residual = errors_of(np.concatenate(answer), np.concatenate(truth)).table()
    parameters = mean_parameters([fitted[m].parameters for m in members])
    return section(parameters, residual, {"members": ", ".join(members), "kind": "borrowed"})


if __name__ == "__main__":
    command(run)
