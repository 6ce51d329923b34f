"""One row per request of a simulation, as CSV, JSON lines or parquet, and the JSON of ``vllm bench serve``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import InputError
from steelyard.traffic.trace import LENGTHS
from steelyard.writing import check_target, whole_file

if TYPE_CHECKING:
    from steelyard.simulation.result import Records, Simulation

__all__ = ["COLUMNS", "FORMATS", "MEANINGS", "STATUS", "check_path", "columns_of", "vllm_bench", "write_records"]

#: Columns in order, ``name -> (type, meaning)``; empty or null when it never came.
MEANINGS: dict[str, tuple[str, str]] = {
    "arrived_at": ("number", "when the client sent it, s from the start of the trace"),
    **{name: ("integer", f"{what} tokens") for name, what in zip(LENGTHS, ("prompt", "generated"), strict=True)},
    "queued_s": ("number", "from reaching the engine to the first step that works on it, s"),
    "ttft_s": ("number", "from arrival to its first token, s"),
    "tpot_s": ("number", "(last token - first token) / (osl - 1), s; empty for answers of one token"),
    "e2e_s": ("number", "from arrival to its last token, s"),
    "preemptions": ("integer", "how often it lost its cache and was computed again"),
    "replica": ("integer", "which one served it, -1 when none did"),
    "answered_by": ("integer", "which one wrote the answer, where prompts and answers have pools of their own"),
    "cached_tokens": ("integer", "prompt tokens found in the prefix cache when it was first admitted"),
    "status": ("string", "completed, rejected (too long for the model or all of the cache) or unfinished"),
}
COLUMNS = tuple(MEANINGS)
#: Endings of file names we write.
FORMATS = (".csv", ".parquet", ".jsonl")
#: Words for ``status``.
STATUS = ("completed", "rejected", "unfinished")

_TIMES = ("arrived_at", "queued_s", "ttft_s", "tpot_s", "e2e_s")


def columns_of(records: Records) -> dict[str, Any]:
    """The records as arrays by column; ``status`` in words."""
    found = {name: np.asarray(getattr(records, name)) for name in COLUMNS if name != "status"}
    found["status"] = np.array(STATUS, dtype=object)[np.asarray(records.status, dtype=np.int64)]
    return found


def check_path(path: str, endings: tuple[str, ...], field: str) -> None:
    """Refuse a file that cannot be written, before any work is done. Raises :class:`InputError`."""
    file = Path(path)
    if endings and file.suffix.lower() not in endings:
        raise InputError(f"expected a file ending in {', '.join(endings)}, got {path!r}", field=field)
    check_target(path, field)
    if file.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401 - only whether it is there
        except ImportError:
            raise InputError("parquet files need pyarrow: pip install 'steelyard[data]'", field=field) from None


def write_records(simulation: Simulation, path: str | Path) -> None:
    """Write one row per request; the ending of the name chooses the form.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    check_path(str(path), FORMATS, "records")
    columns = columns_of(simulation.records)
    suffix = Path(path).suffix.lower()
    with whole_file(path, "records") as file:
        if suffix == ".parquet":
            _parquet(columns, file)
            return
        lists = {name: _plain(name, values) for name, values in columns.items()}
        with file.open("w", encoding="utf-8", newline="") as stream:
            if suffix == ".csv":
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(lists)
                writer.writerows(zip(*lists.values(), strict=True))
            else:
                for row in zip(*lists.values(), strict=True):
                    stream.write(json.dumps(dict(zip(lists, row, strict=True)), separators=(",", ":")) + "\n")


def _plain(name: str, values: Any) -> list[Any]:
    """Python numbers; NaN becomes None (an empty field, null)."""
    found: list[Any] = values.tolist()
    if name in _TIMES and not np.isfinite(values.astype(np.float64)).all():
        return [x if x == x and abs(x) != float("inf") else None for x in found]
    return found


def _parquet(columns: dict[str, Any], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    arrays = {}
    for name, values in columns.items():
        if name == "status":
            arrays[name] = pyarrow.array(values.tolist(), pyarrow.string())
        elif name in _TIMES:
            numbers = values.astype(np.float64)
            arrays[name] = pyarrow.array(numbers, mask=~np.isfinite(numbers))
        else:
            arrays[name] = pyarrow.array(values.astype(np.int64))
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)


def vllm_bench(simulation: Simulation) -> dict[str, Any]:
    """The result in the JSON form of ``vllm bench serve --save-detailed``: times in ms in the totals, s in the lists.

    A request that was not completed has output length 0 and an error, as there. ``itls`` holds the request's mean time
    between tokens once per gap: the simulation does not keep each gap. The percentiles of ``itl`` come from the
    simulation's own histogram of all gaps.
    """
    document = simulation.summary()
    records = simulation.records
    done = np.asarray(records.completed)
    isl, osl = (np.asarray(getattr(records, x), dtype=np.int64) for x in LENGTHS)
    ttft, tpot, e2e = (np.asarray(getattr(records, x), dtype=np.float64) for x in ("ttft_s", "tpot_s", "e2e_s"))
    span = simulation.makespan_s
    out = np.where(done, osl, 0)
    throughput = document["throughput"]
    goodput = throughput.get("goodput_requests_per_s") if simulation.slo else None
    per_s = {name: float(np.sum(values[done])) / span if span else 0.0 for name, values in (("in", isl), ("out", osl))}
    result: dict[str, Any] = {
        "backend": simulation.config.engine,
        "endpoint_type": simulation.config.engine,
        "label": "steelyard simulate",
        "model_id": simulation.scenario.transformer.name,
        "num_prompts": len(records),
        "request_rate": "inf" if simulation.trace.concurrency else _finite(simulation.trace.rate_per_s),
        "burstiness": None,
        "max_concurrency": simulation.trace.concurrency or None,
        "duration": span,
        "completed": int(done.sum()),
        "failed": int(len(records) - done.sum()),
        "total_input_tokens": int(isl[done].sum()),
        "total_output_tokens": int(out.sum()),
        "request_throughput": float(done.sum()) / span if span else 0.0,
        "request_goodput": goodput,
        "output_throughput": per_s["out"],
        "total_token_throughput": per_s["in"] + per_s["out"],
        "input_lens": isl.tolist(),
        "output_lens": out.tolist(),
        "ttfts": _zero(ttft, done),
        "itls": [
            [t] * (n - 1) if ok and n > 1 else [] for t, n, ok in zip(tpot.tolist(), osl.tolist(), done, strict=True)
        ],
        "latencies": _zero(e2e, done),
        "start_times": np.asarray(records.arrived_at, dtype=np.float64).tolist(),
        "generated_texts": [""] * len(records),
        "errors": ["" if s == 0 else STATUS[int(s)] for s in records.status],
    }
    many = np.isfinite(tpot) & done
    for name, values in (("ttft", ttft[done]), ("tpot", tpot[many]), ("e2el", e2e[done])):
        result |= _statistics(name, values)
    itl = document["itl_s"]
    result |= {
        f"{word}_itl_ms": _milli(itl.get(key)) for word, key in (("mean", "mean"), ("median", "p50"), ("p99", "p99"))
    }
    return result


def _statistics(name: str, values: Any) -> dict[str, Any]:
    """Mean, median, deviation and percentiles in ms; 0 without a value, as vLLM has it."""
    known = values if len(values) else np.zeros(1)
    found = {f"mean_{name}_ms": np.mean(known), f"median_{name}_ms": np.median(known), f"std_{name}_ms": np.std(known)}
    found |= {f"p{p}_{name}_ms": np.percentile(known, p) for p in (90, 95, 99)}
    return {key: float(value) * 1e3 for key, value in found.items()}


def _milli(value: float | None) -> float:
    return 0.0 if value is None else float(value) * 1e3


def _finite(value: float) -> float | str:
    return value if np.isfinite(value) else "inf"


def _zero(values: Any, done: Any) -> list[float]:
    return np.where(done, values, 0.0).tolist()  # type: ignore[no-any-return]
