"""``steelyard calibrate NAME --samples FILE``: ten measurements of a black-box device adapt borrowed parameters.

The file is CSV with a header: ``op``, ``latency_s``, ``dtype`` and the sizes of the op:

    gemm        m n k                                       (y = x w: m rows, k in, n out)
    prefill     batch context heads kv_heads head_dim       (new: new tokens, default all of the context)
    decode      batch context heads kv_heads head_dim
    collective  bytes devices operation                     (library: default nccl)
    vector      bytes                                       (read and written together)

Times are of the kernel alone, repeated on the same operands. Two to six parameters move per op, in log space, held by a
prior as wide as measured machines differ from their family: a few rows never make a near twin worse.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard import __version__
from steelyard.calibrate.few_shot import Errors, errors_of, leave_one_out, need_scipy
from steelyard.calibrate.toml_files import document
from steelyard.documents import read_document, read_text
from steelyard.errors import InputError, Problem, UnknownName, raise_all, suggest
from steelyard.machine.component import Machine
from steelyard.machine.loader import machine_from_dict

__all__ = ["COLUMNS", "Adapted", "Sample", "adapt", "files_of", "named_like", "read_samples"]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "prefill": ("batch", "context", "heads", "kv_heads", "head_dim"),
    "decode": ("batch", "context", "heads", "kv_heads", "head_dim"),
    "collective": ("bytes", "devices"),
    "vector": ("bytes",),
}
"""Sizes an op needs."""
OPTIONAL = ("op", "latency_s", "dtype", "new", "window", "kernel", "operation", "library")
MAX_SAMPLES = 100_000
FORMATS = {"bfloat16": "bf16", "float16": "bf16", "fp16": "bf16", "half": "bf16", "float32": "fp32", "": "bf16"}
"""Names of number formats as frameworks write them; fp16 runs as bf16 does."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    op: str
    dtype: str
    latency_s: float
    sizes: Mapping[str, float]
    words: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Adapted:
    """One section adapted to a few rows."""

    op: str
    section: str
    title: str
    parameters: Any
    moved: Mapping[str, float]
    """Fitted over borrowed value of the parameters that moved."""
    rows: int
    before: Errors
    """With the borrowed parameters."""
    after: Errors
    """Each row predicted by a fit that did not see it."""
    prior: str
    facts: str
    kept: bool
    """False: the samples did not help, so the borrowed parameters stay."""


def read_samples(path: str | Path) -> list[Sample]:
    """Read a samples file.

    Raises:
        InputError: no such file, no rows, unknown op, missing columns, sizes or latencies that are not positive numbers.
    """
    name = Path(path).name
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    reader = csv.DictReader(lines, skipinitialspace=True)
    header = [h.strip() for h in reader.fieldnames or []]
    if not header:
        raise InputError("the file is empty; expected a header with op, latency_s, dtype and sizes", field=name)
    reader.fieldnames = header
    known = {*OPTIONAL, *(c for columns in COLUMNS.values() for c in columns)}
    problems = []
    for column in ("op", "latency_s"):
        if column not in header:
            problems.append(Problem(name, f"column {column!r} is missing{_near(column, header, known)}"))
    raise_all(problems)
    found: list[Sample] = []
    for number, row in enumerate(reader, start=2):
        if len(found) >= MAX_SAMPLES:
            raise InputError(f"more than {MAX_SAMPLES:,} rows", field=name)
        try:
            found.append(_sample({k: (v or "").strip() for k, v in row.items() if isinstance(v, str) and k}, header))
        except InputError as error:
            problems += [Problem(f"{name}: row {number}", p.message) for p in error.problems]
            if len(problems) >= 10:
                break
    raise_all(problems)
    if not found:
        raise InputError("no rows below the header", field=name)
    return found


def _near(column: str, header: Sequence[str], known: set[str]) -> str:
    near = [h for h in suggest(column, header) if h not in known]
    return f" (found {near[0]!r})" if near else ""


def _sample(row: Mapping[str, str], header: Sequence[str]) -> Sample:
    op = row.get("op", "")
    if op not in COLUMNS:
        raise InputError(str(UnknownName("op", op, COLUMNS)))
    missing = [c for c in COLUMNS[op] if not row.get(c)]
    if missing:
        absent = [c for c in missing if c not in header]
        what = f"column {absent[0]!r} is missing" if absent else f"no value for {missing[0]!r}"
        raise InputError(f"{what}; {op} needs {', '.join(COLUMNS[op])}")
    names = [*COLUMNS[op], *(c for c in ("new", "window") if row.get(c))]
    sizes = {c: _number(row[c], c, least=0.0 if c == "window" else 1.0) for c in names}
    latency = _number(row.get("latency_s", ""), "latency_s")
    if latency > 3600.0:
        raise InputError(f"latency_s is {latency:g}; seconds are expected")
    words = {c: row[c] for c in ("kernel", "operation", "library") if row.get(c)}
    return Sample(op, FORMATS.get(row.get("dtype", "").lower(), row.get("dtype", "").lower()), latency, sizes, words)


def _number(text: str, column: str, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{column}: expected a number, got {text!r}") from None
    if not math.isfinite(value) or value < least or (least == 0.0 and column == "latency_s" and value <= 0.0):
        raise InputError(f"{column}: expected a positive number, got {text}")
    return value


def adapt(machine: Machine, samples: Sequence[Sample], *, like: str = "") -> list[Adapted]:
    """Adapt the parameters a machine borrows to a few samples.

    Args:
        machine: whose spec sheet is used.
        samples: measurements.
        like: machine whose own parameters are borrowed; empty = the family's.

    Raises:
        InputError: an unknown format or operation, or SciPy is missing.
    """
    need_scipy()
    return [_adapt(task) for task in _tasks(machine, samples, like)]


def _adapt(task: Any) -> Adapted:
    rows = len(task)
    before = task.errors(task.prior.parameters, task.everywhere)
    if rows >= 3:
        left = leave_one_out(lambda kept: _predictor(task, task.fit(kept, few=True)), rows)
        after = errors_of(left, task.time_s)
    else:
        after = before
    helped = rows < 3 or after.mean_ape <= before.mean_ape
    parameters = task.fit(task.everywhere, few=True) if helped else task.prior.parameters
    moved = {
        n: float(getattr(parameters, n) / getattr(task.prior.parameters, n))
        for n in task.few_names
        if getattr(task.prior.parameters, n)
    }
    return Adapted(
        task.op, task.section, task.title, parameters, moved, rows, before, after, task.prior.source, task.facts, helped
    )


def _predictor(task: Any, parameters: Any) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda index: task.predict(parameters, index)  # type: ignore[no-any-return]


def _tasks(machine: Machine, samples: Sequence[Sample], like: str) -> Iterator[Any]:
    from steelyard.plan.formats import find_format

    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.op in ("gemm", "decode", "prefill"):
            find_format(sample.dtype)
        groups.setdefault((sample.op, sample.dtype if sample.op == "gemm" else ""), []).append(sample)
    for (op, dtype), rows in groups.items():
        time_s = np.array([r.latency_s for r in rows])
        columns = {c: np.array([r.sizes.get(c, 0.0) for r in rows]) for c in {*COLUMNS[op], "new", "window"}}
        seen = np.ones(time_s.size, dtype=np.bool_)
        if op == "gemm":
            yield _gemm(machine, dtype, columns, time_s, seen, like)
        elif op == "collective":
            yield _collective(machine, rows, columns, time_s, seen, like)
        elif op == "vector":
            yield _vector(machine, columns, time_s, seen, like)
        else:
            yield _attention(machine, op, rows, columns, time_s, seen, like)


def _gemm(machine: Machine, dtype: str, c: Mapping[str, Any], time_s: Any, seen: Any, like: str) -> Any:
    from steelyard.calibrate.datasets.aic_gemm import FORMAT_BITS, GemmRows
    from steelyard.calibrate.tasks import gemm_task

    if dtype not in FORMAT_BITS:
        raise InputError(str(UnknownName("dtype of a product", dtype, FORMAT_BITS)), field="samples")
    kernel = np.full(time_s.size, "", dtype=np.str_)
    rows = GemmRows(machine.name, dtype, "samples", c["m"], c["n"], c["k"], time_s, kernel)
    return gemm_task(machine, rows, seen, like=like)


def _attention(
    machine: Machine, phase: str, rows: Sequence[Sample], c: Mapping[str, Any], time_s: Any, seen: Any, like: str
) -> Any:
    from steelyard.calibrate.datasets.aic_attention import AttentionRows
    from steelyard.calibrate.tasks import attention_task
    from steelyard.cost.attention_kernels import attention_kernel

    bits = np.array([8.0 if r.dtype.startswith("fp8") else 16.0 for r in rows])
    kernels = [
        r.words.get("kernel") or attention_kernel(machine.family, float(b), r.sizes["head_dim"])
        for r, b in zip(rows, bits, strict=True)
    ]
    new = np.where(c["new"] > 0, c["new"], c["context"]) if phase == "prefill" else np.ones(time_s.size)
    if np.any(new > c["context"]):
        raise InputError("new tokens exceed the context, which counts them", field="samples")
    table = AttentionRows(
        kernel=np.asarray(kernels, dtype=np.str_),
        batch=c["batch"],
        new_tokens=new,
        context=c["context"],
        heads=c["heads"],
        kv_heads=c["kv_heads"],
        head_dim=c["head_dim"],
        window=c["window"],
        kv_bits=bits,
        time_s=time_s,
        base_s=np.zeros(time_s.size),
        base_context=np.zeros(time_s.size),
    )
    return attention_task(machine, phase, table, seen, source="samples", like=like)


def _collective(
    machine: Machine, rows: Sequence[Sample], c: Mapping[str, Any], time_s: Any, seen: Any, like: str
) -> Any:
    import pandas as pd

    from steelyard.calibrate.tasks import collective_task
    from steelyard.cost.collective import LIBRARIES

    known = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")
    operations = [r.words.get("operation", "all_reduce") for r in rows]
    libraries = [r.words.get("library", "nccl") for r in rows]
    for name in operations:
        if name not in known:
            raise InputError(str(UnknownName("operation", name, known)), field="samples")
    for name in libraries:
        if name not in LIBRARIES:
            raise InputError(str(UnknownName("library", name, LIBRARIES)), field="samples")
    frame = pd.DataFrame(
        {
            "operation": operations,
            "library": libraries,
            "message_bytes": c["bytes"],
            "devices": c["devices"].astype(int),
            "time_s": time_s,
        }
    )
    return collective_task(machine, frame, seen, source="samples", like=like)


def _vector(machine: Machine, c: Mapping[str, Any], time_s: Any, seen: Any, like: str) -> Any:
    from steelyard.calibrate.tasks import vector_task

    n, half = time_s.size, c["bytes"] / 2.0
    columns = {
        "read_bytes": half,
        "write_bytes": half,
        "flops": np.zeros(n),
        "rows": np.ones(n),
        "kind": np.full(n, "elementwise"),
        "cold": np.ones(n),
        "overhead": np.zeros(n),
    }
    return vector_task(machine, columns, time_s, seen, source="samples", like=like)


def named_like(name: str, like: Machine, path: Path) -> tuple[Machine, str]:
    """A machine called ``name`` with the spec sheet of another: what is assumed of a black box.

    Args:
        name: lower case letters, digits and underscores.
        like: the machine taken after; path: its file.

    Raises:
        InputError: the name cannot be that of a machine.
    """
    if not name.replace("_", "a").isalnum() or name != name.lower():
        raise InputError(f"expected lower-case letters, digits and '_', got {name!r}", field="machine")
    data = read_document(path)
    inner = data["machine"] if isinstance(data.get("machine"), Mapping) else data
    changed = {**inner, "name": name, "title": f"{name} (figures of {like.title})", "aliases": []}
    guess = {**data.get("guess", {}), "compute": f"taken from {like.name}", "memory": f"taken from {like.name}"}
    whole = {"sources": {**data.get("sources", {})}, "guess": guess, "machine": changed}
    if inner is data:
        for key in ("sources", "guess"):
            changed.pop(key, None)
    return machine_from_dict(whole, name), document(
        whole, [f"A device measured by samples; spec sheet of {like.name}."]
    )


def files_of(machine: str, adapted: Sequence[Adapted], source: str) -> dict[str, str]:
    """``<machine>/<op>.toml`` to TOML text; residual: each row predicted by a fit that did not see it."""
    tables: dict[str, dict[str, Any]] = {}
    for a in adapted:
        level = tables.setdefault(a.op, {})
        for part in filter(None, a.section.split(".")):
            level = level.setdefault(part, {})
        if a.facts:
            level["facts"] = a.facts
        level["parameters"] = {f.name: float(getattr(a.parameters, f.name)) for f in fields(a.parameters)}
        level["residual"] = (a.after if a.kept else a.before).table()
        level["provenance"] = {
            "kind": "adapted" if a.kept else "borrowed: the samples did not help",
            "source": source,
            "fitted_rows": a.rows,
            "split": "leave one out",
            "prior": a.prior,
            "borrowed_mean_ape": a.before.mean_ape,
            "steelyard": __version__,
        }
    return {
        f"{machine}/{op}.toml": document(table, [f"{op} of {machine}, from a few samples."])
        for op, table in tables.items()
    }
