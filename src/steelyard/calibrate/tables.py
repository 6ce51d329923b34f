"""``steelyard calibrate MACHINE --from DATA``: fit what a folder of kernel tables has, score it on rows left out.

DATA is a folder of the tables :mod:`steelyard.measurements.kernel_tables` reads, or one that holds ``aic_ops`` or
``truth/aic_ops``. Each file of the result holds parameters normalised to the machine's spec sheet, the spread of the
residuals, and where they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.calibrate.task import Section, Task, fit_task, need_scipy, sections_table
from steelyard.calibrate.tasks import attention_task, collective_task, gemm_task, moe_task
from steelyard.calibrate.toml_files import document, merged, write_files
from steelyard.cost.parameters import calibration_table
from steelyard.documents import is_file, is_folder
from steelyard.errors import InputError, UnknownName
from steelyard.folders import folder_to_write
from steelyard.machine.component import Machine
from steelyard.measurements import kernel_tables as tables
from steelyard.measurements.reader import machine_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OPS", "calibrate_from", "files_of", "tables_folder", "wanted_ops", "write_calibration"]

LEAST_ROWS = 20
"""Fewer rows of a section are not fitted here (``--samples`` is for those)."""
EAGER_FRAC = 2.0
"""Block-scaled fp8 rows are timed eagerly: those longer than so many times the shortest are the GPU's, and fitted."""

Progress = Callable[[str, int, int], None]


def tables_folder(given: str | Path) -> Path:
    """The folder of kernel tables at or below a folder.

    Raises:
        InputError: no folder there, or nothing in it is a table we read.
    """
    root = Path(given)
    if not is_folder(root):
        what = "a file" if is_file(root) else "nothing"
        raise InputError(f"expected a folder of tables, found {what} at {str(given)!r}", field="from")
    for folder in (root / "truth" / "aic_ops", root / "aic_ops", root):
        if folder.is_dir() and (any(folder.glob("*__*__*.parquet")) or any(folder.glob("comm_*.parquet"))):
            return folder
    expected = "expected aic_ops or files named MACHINE__gemm__SOFTWARE.parquet"
    raise InputError(f"no tables in {str(given)!r}; {expected}", field="from")


def wanted_ops(text: str) -> tuple[str, ...]:
    """The ops of a comma-separated list. Raises :class:`UnknownName`."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in OPS:
            raise UnknownName("op", name, OPS)
    return tuple(dict.fromkeys(names)) or tuple(OPS)


def calibrate_from(
    machine: Machine, data: str | Path, *, ops: Sequence[str] = (), progress: Progress = lambda *_: None
) -> list[Section]:
    """Fit every op the data has for a machine.

    Args:
        machine: of the catalogue; parameters are normalised to its figures.
        data: folder of tables.
        ops: of :data:`OPS`; empty: all.
        progress: told (section, done, total).

    Raises:
        InputError: no folder, no tables, or none of this machine.
    """
    need_scipy()
    folder = tables_folder(data)
    every = [task for op in ops or OPS for task in OPS[op](machine, folder)]
    tasks = [t for t in every if len(t) >= LEAST_ROWS and t.rows["fitted"].any()]
    if not tasks:
        what = ", ".join(ops or OPS)
        raise InputError(f"no measurements of {machine.name} for {what} in {str(data)!r}", field="from")
    found = []
    for number, task in enumerate(tasks):
        progress(task.title, number, len(tasks))
        found.append(fit_task(task))
    progress("done", len(tasks), len(tasks))
    return found


def _read(machine: Machine, folder: Path, table: str, reader: Callable[[Path], Any]) -> Iterator[tuple[str, Any]]:
    """(file name, rows) of a machine's tables. Raises :class:`InputError` where one cannot be read."""
    for path in sorted(folder.glob(f"*__{table}__*.parquet" if table else "comm_*.parquet")):
        owner = machine_of(path.name.partition("__")[0]) if table else machine
        if owner is None or owner.name != machine.name:
            continue
        try:
            yield path.name, reader(path)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            InputError,
        ) as error:  # pyarrow's are ValueErrors and OSErrors
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"cannot read {path.name!r}: {reason}", field="from") from error


def _gemm(machine: Machine, folder: Path) -> Iterator[Task]:
    for name, table in _read(machine, folder, "gemm", tables.gemm_rows):
        for fmt, rows in table.groupby("format"):
            if fmt not in tables.GEMM_BITS:
                continue
            kept = rows[rows["time_s"] > EAGER_FRAC * rows["time_s"].min()] if fmt == "fp8_block" else rows
            split = "a third of the (n, k) pairs fitted, the others scored"
            yield from _known(gemm_task, machine, str(fmt), kept.reset_index(drop=True), source=name, split=split)


def _attention(machine: Machine, folder: Path) -> Iterator[Task]:
    for phase, table in (("decode", "generation_attention"), ("prefill", "context_attention")):
        parts = [rows for _, rows in _read(machine, folder, table, tables.attention_rows)]
        if not parts:
            continue
        rows = _concat(parts)
        rows = tables.repeated_once(rows[(rows["phase"] == phase) & (rows["kernel"] != "generic")])
        split = "half of the head configurations fitted, the others scored"
        yield attention_task(machine, phase, rows, source="attention tables", split=split)


def _moe(machine: Machine, folder: Path) -> Iterator[Task]:
    for name, table in _read(machine, folder, "moe", tables.moe_rows):
        for kernel, part in table[table["dtype"].isin(list(tables.MOE_BITS))].groupby("kernel"):
            shapes = sorted(part["shape"].unique())
            chosen = np.random.default_rng(0).permutation(shapes)[: max(1, (2 * len(shapes)) // 3)].tolist()
            seen = part["shape"].isin(chosen) if len(shapes) > 1 else np.arange(len(part)) % 2 == 0
            rows = part.assign(fitted=seen).reset_index(drop=True)
            split = "two thirds of the layer shapes fitted, the others scored"
            yield from _known(moe_task, machine, str(kernel), rows, source=name, split=split)


def _collective(machine: Machine, folder: Path) -> Iterator[Task]:
    for name, table in _read(machine, folder, "", tables.collective_rows):
        rows = tables.collective_rows_of(table, machine.name)
        if len(rows):
            split = "log2(message bytes) even fitted, odd scored"
            yield collective_task(machine, rows, source=name, split=split)


def _known(task: Callable[..., Task], *arguments: Any, source: str, split: str) -> Iterator[Task]:
    """The task, unless it is of a number format the machine has no arithmetic for."""
    try:
        yield task(*arguments, source=source, split=split)
    except InputError:
        return


def _concat(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(parts, ignore_index=True)


OPS: Mapping[str, Callable[[Machine, Path], Iterator[Task]]] = {
    "gemm": _gemm,
    "attention": _attention,
    "moe": _moe,
    "collective": _collective,
}
"""What is fitted from tables, and the tasks of a folder."""


def files_of(machine: str, sections: Sequence[Section], *, keep: bool = True) -> dict[str, str]:
    """``<machine>/<op>.toml`` to TOML text; ``keep``: sections known before and not fitted now stay."""
    comments = [
        "Utilisation parameters, normalised to the spec sheet; residual: rows left out of the fit, errors in %,",
        "logs of measured / predicted. borrowed_mean_ape: the same rows with the family's parameters.",
    ]
    files = {}
    for op, table in sections_table(sections).items():
        whole = merged(calibration_table(machine, op), table) if keep else table
        files[f"{machine}/{op}.toml"] = document(whole, [f"{op} of {machine}.", *comments])
    return files


def write_calibration(machine: str, sections: Sequence[Section], out: str = "") -> list[Path]:
    """Write a machine's files below ``out``, else the user's catalogue. Raises :class:`InputError` when it cannot."""
    folder = Path(out) if out else folder_to_write() / "calibration"
    return write_files(folder, files_of(machine, sections, keep=not out))
