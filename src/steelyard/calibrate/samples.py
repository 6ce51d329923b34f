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
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.task import Errors, Section, Task, errors_of, fit_parameters, need_scipy, sections_table
from steelyard.calibrate.tasks import attention_task, collective_task, gemm_task, vector_task
from steelyard.calibrate.toml_files import check_name, document, merged
from steelyard.cost.attention_kernels import attention_kernel
from steelyard.cost.collective import LIBRARIES
from steelyard.cost.devices import DEFAULT_CLOCK_HZ
from steelyard.cost.parameters import calibration_table
from steelyard.deployment.formats import find_format
from steelyard.documents import read_document, read_text
from steelyard.errors import InputError, Problem, UnknownName, raise_all, suggest
from steelyard.folders import catalogue_folders
from steelyard.machine.component import Machine
from steelyard.machine.loader import machine_from_dict
from steelyard.measurements.kernel_tables import GEMM_BITS

__all__ = [
    "COLUMNS",
    "Adapted",
    "Sample",
    "adapt",
    "adapt_black_box",
    "files_of",
    "machine_file",
    "named_like",
    "read_samples",
]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "prefill": ("batch", "context", "heads", "kv_heads", "head_dim"),
    "decode": ("batch", "context", "heads", "kv_heads", "head_dim"),
    "collective": ("bytes", "devices"),
    "vector": ("bytes",),
}
"""Sizes an op needs."""
OPTIONAL = ("op", "latency_s", "dtype", "new", "window", "kernel", "operation", "library")
#: Most rows of a file, and largest size in one.
MAX_SAMPLES, MAX_SIZE = 100_000, 1e12
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
        InputError: no such file, no rows, unknown op, missing columns, sizes or latencies that are no positive numbers.
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
    if value > MAX_SIZE:
        raise InputError(f"{column}: expected at most {MAX_SIZE:g}, got {text}")
    return value


def adapt(machine: Machine, samples: Sequence[Sample], *, like: str = "") -> list[Adapted]:
    """Adapt the parameters a machine borrows to a few samples.

    Args:
        machine: whose spec sheet is used.
        samples: measurements.
        like: machine whose own parameters are borrowed; empty = this one's where it was measured, else the family's.

    Raises:
        InputError: an unknown format or operation, or SciPy is missing.
    """
    need_scipy()
    return _adapted(machine, machine, samples, like or _own(machine), rescale=False)


def _own(machine: Machine) -> str:
    """The machine itself, unless its parameters come from samples already: those must not count twice."""
    for op in ("gemm", "attention", "collective", "vector"):
        if _kinds(calibration_table(machine.name, op)) & {"adapted"}:
            return ""
    return machine.name


def _kinds(table: Mapping[str, Any]) -> set[str]:
    found = {str(table["kind"])} if "kind" in table else set()
    return found.union(*(_kinds(v) for v in table.values() if isinstance(v, Mapping)))


def adapt_black_box(machine: Machine, samples: Sequence[Sample], *, like: str) -> tuple[Machine, list[Adapted]]:
    """The same for a device whose spec sheet is unknown: its peaks, bandwidths and clock are scaled first.

    Returns:
        The machine with scaled figures, and the sections on it; ``before`` is the machine as given.

    Raises:
        InputError: as :func:`adapt`.
    """
    need_scipy()
    scaled = _rescaled(machine, samples, like)
    return scaled, _adapted(scaled, machine, samples, like, rescale=True)


def _adapted(machine: Machine, given: Machine, samples: Sequence[Sample], like: str, *, rescale: bool) -> list[Adapted]:
    """Fit every section; ``after`` scores rows left out of everything, the scaling included."""
    order = np.random.default_rng(0).permutation(len(samples))
    left_s: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for part in np.array_split(order, min(len(samples), GROUPS)) if len(samples) >= LEAST_SAMPLES else []:
        out = set(part.tolist())
        kept, left = ([s for i, s in enumerate(samples) if (i in out) is side] for side in (False, True))
        seen = _rescaled(given, kept, like) if rescale else machine
        fits = {(t.op, t.section): t.fit(t.everywhere, few=True) for t in _tasks(seen, kept, like)}
        for t in _tasks(seen, left, like):
            answer = t.predict(fits.get((t.op, t.section), t.prior.parameters), t.everywhere)
            left_s.setdefault((t.op, t.section), []).extend(zip(answer.tolist(), t.time_s.tolist(), strict=True))
    plain = {(t.op, t.section): t for t in _tasks(given, samples, like)}
    found = []
    for task in _tasks(machine, samples, like):
        key = (task.op, task.section)
        borrowed = plain[key].errors(plain[key].prior.parameters, task.everywhere)
        scored = left_s.get(key, ()) if len(task) >= LEAST_SAMPLES else ()
        pairs = np.array(scored).reshape(-1, 2)
        after = errors_of(pairs[:, 0], pairs[:, 1]) if len(pairs) else borrowed
        kept_prior = len(pairs) > 0 and after.mean_ape > borrowed.mean_ape and not rescale
        parameters = task.prior.parameters if kept_prior else task.fit(task.everywhere, few=True)
        moved = {n: float(getattr(parameters, n) / (getattr(task.prior.parameters, n) or 1.0)) for n in task.free.few}
        source = task.prior.source
        found.append(
            Adapted(*key, task.title, parameters, moved, len(task), borrowed, after, source, task.facts, not kept_prior)
        )
    return found


GROUPS = 10
"""Most fits made to score rows left out; more rows than this are left out in groups."""
LEAST_SAMPLES = 3
"""Fewer samples of a section are not scored, and believed as far as the prior lets them."""
SCALE_SIGMA = 0.7
"""Log-space width of the prior on an unknown spec sheet: a factor of two either way (guess)."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Factors on the peaks, the bandwidths and the clock (launches) of a machine."""

    compute: float = 1.0
    memory: float = 1.0
    clock: float = 1.0

    def of(self, machine: Machine) -> Machine:
        engines = tuple(
            replace(
                c,
                peak={f: v * self.compute for f, v in c.peak.items()},
                sparse_peak={},
                clock_hz=(c.clock_hz or DEFAULT_CLOCK_HZ) * self.clock,
            )
            for c in machine.compute
        )
        levels = tuple(
            replace(
                m,
                bandwidth_bytes_per_s=m.bandwidth_bytes_per_s * self.memory,
                write_bandwidth_bytes_per_s=m.write_bandwidth_bytes_per_s * self.memory,
            )
            for m in machine.memory
        )
        power = machine.tdp_w * max(self.compute, self.memory)
        return machine.but(compute=engines, memory=levels, tdp_w=power)


def _rescaled(machine: Machine, samples: Sequence[Sample], like: str) -> Machine:
    """The machine whose peaks, bandwidths and clock, with borrowed parameters, fit the samples best."""
    on_chip = [s for s in samples if s.op != "collective"]
    if not on_chip:
        return machine
    measured = np.concatenate([t.time_s for t in _tasks(machine, on_chip, like)])

    def predict(scale: _Scale) -> NDArray[np.float64]:
        tasks = _tasks(scale.of(machine), on_chip, like)
        return np.concatenate([t.predict(t.prior.parameters, t.everywhere) for t in tasks])

    names = ("compute", "memory", "clock")
    bounds = dict.fromkeys(names, (0.02, 50.0))
    found = fit_parameters(predict, _Scale(), measured, names, sigma=SCALE_SIGMA, bounds=bounds, noise=SCALE_NOISE)
    return found.of(machine)


SCALE_NOISE = 0.2
"""Log-space scatter of a row around borrowed parameters on another machine."""


def _tasks(machine: Machine, samples: Sequence[Sample], like: str) -> Iterator[Task]:
    """One task per op, and per format of products."""
    import pandas as pd

    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.op in ("gemm", "decode", "prefill"):
            find_format(sample.dtype)
        groups.setdefault((sample.op, sample.dtype if sample.op == "gemm" else ""), []).append(sample)
    for (op, dtype), chosen in groups.items():
        names = (*COLUMNS[op], "new", "window")
        rows = pd.DataFrame({c: [r.sizes.get(c, 0.0) for r in chosen] for c in names})
        rows = rows.assign(time_s=[r.latency_s for r in chosen], fitted=True)
        if op == "gemm":
            _choice("dtype of a product", dtype, GEMM_BITS)
            yield gemm_task(machine, dtype, rows, source="samples", like=like)
        elif op == "collective":
            operations = [_choice("operation", r.words.get("operation", "all_reduce"), OPERATIONS) for r in chosen]
            libraries = [_choice("library", r.words.get("library", "nccl"), LIBRARIES) for r in chosen]
            rows = rows.assign(operation=operations, library=libraries, message_bytes=rows["bytes"])
            yield collective_task(machine, rows, source="samples", like=like)
        elif op == "vector":
            half = rows["bytes"] / 2.0
            rows = rows.assign(read_bytes=half, write_bytes=half, flops=0.0, rows=1.0, kind="elementwise", cold=True)
            yield vector_task(machine, rows, source="samples", like=like)
        else:
            bits = [8.0 if r.dtype.startswith("fp8") else 16.0 for r in chosen]
            kernels = [
                r.words.get("kernel") or attention_kernel(machine.family, b, r.sizes["head_dim"])
                for r, b in zip(chosen, bits, strict=True)
            ]
            new = rows["new"].where(rows["new"] > 0, rows["context"]) if op == "prefill" else 1.0
            if np.any(new > rows["context"]):
                raise InputError("new tokens exceed the context, which counts them", field="samples")
            rows = rows.assign(kernel=kernels, kv_bits=bits, new_tokens=new)
            yield attention_task(machine, op, rows, source="samples", like=like)


OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")


def _choice(kind: str, name: str, known: Iterable[str]) -> str:
    if name not in known:
        raise InputError(str(UnknownName(kind, name, known)), field="samples")
    return name


def named_like(name: str, like: Machine, given: str) -> tuple[Machine, dict[str, Any]]:
    """A machine called ``name`` with the spec sheet of another: what is assumed of a black box.

    Args:
        name: lower case letters, digits and underscores.
        like: the machine taken after; given: its name, or the path of its file.

    Returns:
        The machine, and its file as plain data.

    Raises:
        InputError: the name cannot be that of a machine.
    """
    check_name(name, "machine")
    files = [folder / "machines" / f"{like.name}.toml" for folder in catalogue_folders()]
    path = next((f for f in files if f.is_file()), Path(given))
    data = read_document(path)
    inner = data["machine"] if isinstance(data.get("machine"), Mapping) else data
    changed = {**inner, "name": name, "title": f"{name} (figures of {like.title})", "aliases": []}
    guess = {**data.get("guess", {}), "compute": f"of {like.name}, scaled", "memory": f"of {like.name}, scaled"}
    whole = {"sources": {**data.get("sources", {})}, "guess": guess, "machine": changed}
    if inner is data:
        for key in ("sources", "guess"):
            changed.pop(key, None)
    return machine_from_dict(whole, name), whole


def machine_file(data: Mapping[str, Any], machine: Machine, like: str) -> str:
    """The TOML file of a black box: the data it was taken from with the scaled peaks and bandwidths."""
    inner = dict(data["machine"])
    peaks = {c.name: (dict(c.peak), c.clock_hz) for c in machine.compute}
    rates = {m.name: m.bandwidth_bytes_per_s for m in machine.memory}
    inner["compute"] = [
        {
            **{k: v for k, v in c.items() if k != "sparse_peak"},
            "peak": peaks[c["name"]][0],
            "clock_hz": peaks[c["name"]][1],
        }
        for c in inner["compute"]
    ]
    inner["memory"] = [
        {
            **{k: v for k, v in m.items() if k != "write_bandwidth_bytes_per_s"},
            "bandwidth_bytes_per_s": rates[m["name"]],
        }
        for m in inner["memory"]
    ]
    inner["tdp_w"] = machine.tdp_w
    text = document({**data, "machine": inner}, [f"A device known by samples only; figures of {like}, scaled to them."])
    machine_from_dict(tomllib.loads(text), machine.name)
    return text


def files_of(machine: str, adapted: Sequence[Adapted], source: str) -> dict[str, str]:
    """``<machine>/<op>.toml`` to TOML text; residual: each row predicted by a fit that did not see it."""
    sections = [
        Section(
            a.op,
            a.section,
            a.title,
            a.parameters,
            a.rows,
            a.after if a.kept else a.before,
            a.before,
            {
                "kind": "adapted" if a.kept else "borrowed: the samples did not help",
                "source": source,
                "fitted_rows": a.rows,
                "split": "leave one out",
                "prior": a.prior,
                "borrowed_mean_ape": a.before.mean_ape,
            },
            a.facts,
        )
        for a in adapted
    ]
    head = "from a few samples where a section's provenance says so."
    return {
        f"{machine}/{op}.toml": document(merged(calibration_table(machine, op), table), [f"{op} of {machine}, {head}"])
        for op, table in sections_table(sections).items()
    }
