"""``steelyard calibrate MACHINE --from DATA``: fit what the data has, score it on rows left out, write catalogue files.

DATA is a folder shaped like the measured tables (``aic_ops``, ``neusight_ops`` and so on inside), or its ``aic_ops``
folder. Each file of the result holds parameters normalised to the machine's spec sheet, the spread of the residuals,
and where they came from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from steelyard._version import __version__
from steelyard.calibrate.few_shot import Errors, need_scipy
from steelyard.calibrate.toml_files import document, merged, write_files
from steelyard.cost.parameters import calibration_table
from steelyard.errors import InputError, UnknownName
from steelyard.folders import user_folder
from steelyard.machine.component import Machine

__all__ = [
    "OPS",
    "Section",
    "calibrate_from",
    "data_folders",
    "files_of",
    "fit_task",
    "output_folder",
    "wanted_ops",
    "write_calibration",
]

OPS = ("gemm", "attention", "moe", "collective", "vector")
LEAST_ROWS = 20
"""Fewer rows of a section are not fitted here (``--samples`` is for those)."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Section:
    """One fitted section with its scores."""

    op: str
    section: str
    title: str
    parameters: Any
    rows: int
    held_out: Errors
    before: Errors
    """The same rows with the borrowed parameters."""
    prior: str
    source: str
    split: str
    facts: str = ""


@dataclass(frozen=True, slots=True)
class DataFolders:
    """The folders of a data root."""

    root: Path
    aic: Path | None


def data_folders(given: str | Path) -> DataFolders:
    """Find the tables below a folder.

    Raises:
        InputError: no folder there, or nothing in it is a table we read.
    """
    root = Path(given)
    if not root.is_dir():
        what = "a file" if root.is_file() else "nothing"
        raise InputError(f"expected a folder of tables, found {what} at {str(given)!r}", field="from")
    for candidate in (root / "truth", root):
        if (candidate / "aic_ops").is_dir() or (candidate / "neusight_ops").is_dir():
            return DataFolders(candidate, candidate / "aic_ops" if (candidate / "aic_ops").is_dir() else None)
    if any(root.glob("*__*__*.parquet")) or any(root.glob("comm_*.parquet")):
        return DataFolders(root, root)
    raise InputError(
        f"no tables in {str(given)!r}; expected aic_ops or files named MACHINE__gemm__SOFTWARE.parquet", field="from"
    )


def output_folder(out: str) -> Path:
    """Where calibration files go: ``out``, else the user's catalogue."""
    return Path(out) if out else user_folder() / "calibration"


def wanted_ops(text: str) -> tuple[str, ...]:
    """The ops of a comma-separated list. Raises :class:`UnknownName`."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in OPS:
            raise UnknownName("op", name, OPS)
    return tuple(dict.fromkeys(names)) or OPS


def calibrate_from(
    machine: Machine,
    data: str | Path,
    *,
    ops: Sequence[str] = OPS,
    progress: Progress = lambda *_: None,
) -> list[Section]:
    """Fit every op the data has for a machine.

    Args:
        machine: of the catalogue; parameters are normalised to its figures.
        data: folder of tables.
        ops: of :data:`OPS`.
        progress: told (section, done, total).

    Raises:
        InputError: no folder, no tables, or none of this machine.
    """
    need_scipy()
    folders = data_folders(data)
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError("reading tables needs pandas: pip install 'steelyard[calibrate]'", field="from") from None
    readers: Mapping[str, Callable[[Machine, DataFolders], Iterator[Any]]] = {
        "gemm": _gemm,
        "attention": _attention,
        "moe": _moe,
        "collective": _collective,
        "vector": _vector,
    }
    tasks = []
    for op in ops:
        tasks += [t for t in readers[op](machine, folders) if len(t) >= LEAST_ROWS and t.fitted.any()]
    if not tasks:
        from_what = ", ".join(ops)
        raise InputError(f"no measurements of {machine.name} for {from_what} in {str(data)!r}", field="from")
    found = []
    for number, task in enumerate(tasks):
        progress(task.title, number, len(tasks))
        found.append(fit_task(task))
    progress("done", len(tasks), len(tasks))
    return found


def fit_task(task: Any) -> Section:
    """Fit the rows of a task that may be seen, and score the others."""
    inside, outside = np.flatnonzero(task.fitted), np.flatnonzero(~task.fitted)
    if outside.size == 0:
        inside, outside = inside[::2], inside[1::2]
    parameters = task.fit(inside)
    return Section(
        task.op,
        task.section,
        task.title,
        parameters,
        int(inside.size),
        task.errors(parameters, outside),
        task.errors(task.prior.parameters, outside),
        task.prior.source,
        task.source,
        task.split,
        task.facts,
    )


def _gemm(machine: Machine, folders: DataFolders) -> Iterator[Any]:
    from steelyard.calibrate.fit_gemm import EAGER_ROWS_S
    from steelyard.calibrate.tasks import gemm_task
    from steelyard.measurements.aic_gemm import aic_gemm_files, read_aic_gemm, split_by_pair, take

    path = aic_gemm_files(folders.aic).get(machine.name) if folders.aic else None
    if path is None:
        return
    for fmt, rows in _read(path, read_aic_gemm).items():
        if fmt == "fp8_block":
            rows = take(rows, rows.latency_s > EAGER_ROWS_S.get(machine.name, max(EAGER_ROWS_S.values())))
        if not len(rows):
            continue
        inside, _ = split_by_pair(rows)
        pair = rows.n * 1e6 + rows.k
        seen = np.isin(pair, np.unique(inside.n * 1e6 + inside.k))
        try:
            yield gemm_task(machine, rows, seen, split="a third of the (n, k) pairs fitted, the others scored")
        except InputError:
            continue  # a format the machine has no arithmetic for


def _attention(machine: Machine, folders: DataFolders) -> Iterator[Any]:
    from steelyard.calibrate.tasks import attention_task
    from steelyard.measurements.aic_attention import read_attention

    if folders.aic is None:
        return
    for phase in ("decode", "prefill"):
        try:
            rows = read_attention(folders.aic, machine.name, phase)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError) as error:
            raise _unreadable(folders.aic / f"{machine.name} {phase} attention", error) from error
        rows = rows.take(rows.time_s > 0)
        split = "half of the head configurations fitted, the others scored"
        yield attention_task(
            machine, phase, rows, rows.configuration_hash() < 500, source="aic_ops attention tables", split=split
        )


def _moe(machine: Machine, folders: DataFolders) -> Iterator[Any]:
    from steelyard.calibrate.tasks import moe_task
    from steelyard.measurements import aic_moe

    paths = sorted(folders.aic.glob(f"{machine.name}__moe__*.parquet")) if folders.aic else []
    for path in paths:
        frame = _read(path, _moe_frame)
        for (backend, dtype), part in frame.groupby(["backend", "moe_dtype"]):
            bits = aic_moe.BITS.get(str(dtype))
            if bits is None:
                continue
            shapes = sorted(part["shape"].unique())
            chosen = set(np.random.default_rng(0).permutation(shapes)[: max(1, (2 * len(shapes)) // 3)].tolist())
            seen = part["shape"].isin(chosen).to_numpy() if len(shapes) > 1 else np.arange(len(part)) % 2 == 0
            columns = {
                name: part[name].to_numpy(float)
                for name in (
                    *("tokens", "hidden", "intermediate", "topk", "experts"),
                    *("local_experts", "skew", "repeated_batches", "even", "gated"),
                )
            }
            try:
                yield moe_task(
                    machine,
                    f"{'triton' if backend == 'other' else backend}_{dtype}",
                    columns,
                    bits,
                    part["latency"].to_numpy(float) * 1e-3,
                    seen,
                    fmt=_MOE_FORMATS.get(str(dtype), str(dtype)),
                    source=path.name,
                    split="two thirds of the layer shapes fitted, the others scored",
                )
            except InputError:
                continue


#: The MoE tables' format names in the format catalogue.
_MOE_FORMATS: Mapping[str, str] = {
    "bfloat16": "bf16",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
    "int4_wo": "int4",
}


def _moe_frame(path: Path) -> Any:
    import pandas as pd

    from steelyard.measurements import aic_moe

    raw = pd.read_parquet(path)
    raw = raw[raw["latency"] > 0].reset_index(drop=True)
    balanced = raw["distribution"].astype(str) == "balanced"
    skew = raw["distribution"].astype(str).str.extract(r"([\d.]+)$")[0].astype(float)
    shapes = list(zip(raw["hidden_size"], raw["inter_size"], raw["topk"], raw["num_experts"], strict=True))
    older = "0.14" in path.stem
    return raw.assign(
        backend=[aic_moe.backend_of(str(k)) for k in raw["kernel_source"]],
        tokens=raw["num_tokens"].astype(float),
        hidden=raw["hidden_size"].astype(float),
        intermediate=raw["inter_size"] / raw["moe_tp_size"].astype(float),
        experts=raw["num_experts"].astype(float),
        local_experts=raw["num_experts"] / raw["moe_ep_size"].astype(float),
        skew=skew.where(~balanced, 0.0).fillna(0.0),
        repeated_batches=np.where(balanced, 1.0, 5.0),
        even=(balanced | (raw["num_tokens"] * raw["topk"] > raw["num_experts"])).astype(float),
        gated=[float(older or s not in aic_moe.NOT_GATED) for s in shapes],
        shape=["x".join(str(x) for x in s) for s in shapes],
    )


@contextmanager
def _as_root(folders: DataFolders) -> Iterator[Path]:
    """A folder whose ``truth/aic_ops`` is the data, for readers that are given the root of all tables."""
    with tempfile.TemporaryDirectory() as name:
        truth = Path(name) / "truth"
        if folders.aic is not None and folders.aic != folders.root:
            truth.symlink_to(folders.root.resolve(), target_is_directory=True)
        else:
            truth.mkdir()
            (truth / "aic_ops").symlink_to(folders.root.resolve(), target_is_directory=True)
        yield Path(name)


def _collective(machine: Machine, folders: DataFolders) -> Iterator[Any]:
    import pandas as pd

    from steelyard.calibrate import fit_collective
    from steelyard.calibrate.tasks import collective_task
    from steelyard.measurements import comm

    tables = []
    with _as_root(folders) as root:
        for reader, name in (
            (comm.read_aiconfigurator, "aic_ops/comm_all_systems.parquet"),
            (comm.read_apex, "apex_comm/collectives_h100_h200_v100.csv"),
        ):
            if (root / "truth" / name).is_file():
                tables.append(_read(root, reader))
    if not tables:
        return
    rows = fit_collective.rows_of(pd.concat(tables, ignore_index=True), machine.name)
    rows = rows[rows["time_s"] > 0].reset_index(drop=True)
    if not len(rows):
        return
    split = "log2(message bytes) even fitted, odd scored"
    source = ", ".join(sorted(set(rows["source"])))
    yield collective_task(machine, rows, fit_collective.even_size(rows), source=source, split=split)


def _vector(machine: Machine, folders: DataFolders) -> Iterator[Any]:
    import pandas as pd

    from steelyard.calibrate import fit_vector
    from steelyard.calibrate.tasks import vector_device, vector_task
    from steelyard.measurements import vector_ops

    tables = []
    with _as_root(folders) as root:
        for reader, name in (
            (vector_ops.read_neusight, "neusight_ops"),
            (vector_ops.read_llmcompass, "llmcompass_ops"),
            (vector_ops.read_vidur, "vidur_profiling"),
        ):
            if (root / "truth" / name).is_dir():
                tables.append(_read(root, reader))
    if not tables:
        return
    table = pd.concat(tables, ignore_index=True)
    rows = table[(table["machine"] == machine.name) & (table["time_s"] > 0)].reset_index(drop=True)
    if len(rows) < LEAST_ROWS:
        return
    half = np.random.default_rng(0).random(len(rows)) < 0.5
    drawn = rows[half].sample(frac=1.0, random_state=1)
    train = drawn.groupby("source").head(fit_vector.FIT_ROWS).reset_index(drop=True)
    parameters, overhead = fit_vector.fit(train, vector_device(machine))
    columns = {n: rows[n].to_numpy() for n in ("read_bytes", "write_bytes", "flops", "rows", "kind")}
    columns["cold"] = (rows["source"] == "neusight").to_numpy(float)
    columns["overhead"] = rows["source"].map(overhead).fillna(0.0).to_numpy(float)
    yield vector_task(
        machine,
        columns,
        rows["time_s"].to_numpy(float),
        half,
        source=", ".join(sorted(set(rows["source"]))),
        split="a random half of the rows fitted, the other scored",
        fit_rows=lambda index, prior: parameters,
    )


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    missing = f"column {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
    return InputError(f"cannot read {path.name!r}: {missing}", field="from")


def files_of(machine: str, sections: Sequence[Section], *, keep: bool = True) -> dict[str, str]:
    """``<machine>/<op>.toml`` to TOML text; ``keep``: sections known before and not fitted now stay."""
    tables: dict[str, dict[str, Any]] = {}
    for s in sections:
        level = tables.setdefault(s.op, {})
        for part in filter(None, s.section.split(".")):
            level = level.setdefault(part, {})
        if s.facts:
            level["facts"] = s.facts
        level["parameters"] = {f.name: float(getattr(s.parameters, f.name)) for f in fields(s.parameters)}
        level["residual"] = s.held_out.table()
        level["provenance"] = {
            "kind": "fitted",
            "source": s.source,
            "fitted_rows": s.rows,
            "split": s.split,
            "prior": s.prior,
            "borrowed_mean_ape": s.before.mean_ape,
            "steelyard": __version__,
        }
    comments = [
        "Utilisation parameters, normalised to the spec sheet; residual: rows left out of the fit, errors in %,",
        "logs of measured / predicted. borrowed_mean_ape: the same rows with the family's parameters.",
    ]
    before = {op: calibration_table(machine, op) if keep else {} for op in tables}
    return {
        f"{machine}/{op}.toml": document(merged(before[op], table), [f"{op} of {machine}.", *comments])
        for op, table in tables.items()
    }


def write_calibration(machine: str, sections: Sequence[Section], out: str = "") -> list[Path]:
    """Write the files of a machine; returns their paths. Raises :class:`InputError` when the folder is not writable."""
    return write_files(output_folder(out), files_of(machine, sections, keep=not out))
