"""How fast a sweep prices points, from the study file to rows in the store."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from steelyard.studies.answers import chunks_of, price_chunk
from steelyard.studies.points import expand_study
from steelyard.studies.store_results import Store
from steelyard.studies.study import parse_study
from steelyard.studies.sweep import sweep

#: 4 machines x 4 degrees x 2 formats x 5 lengths x 2 answers x 64 batches.
STUDY = {
    "name": "bench",
    "kind": "estimate",
    "fixed": {"model": "llama-3.1-70b", "weights": "fp8"},
    "grid": {
        "on": "h100_sxm:8, h200_sxm:8, mi300x:8, b200_sxm:8",
        "tp": "1,2,4,8",
        "kv": "fp8, bf16",
        "isl": "512-8192*2",
        "osl": "128, 500",
        "batch": "1-256+4",
    },
}
#: Target: points per second on two cores.
TARGET = 5000 / 60


def run() -> dict[str, dict[str, object]]:
    """Points per second: expansion, pricing in one process, a whole sweep with one and with two."""
    study = parse_study(STUDY)
    start = time.perf_counter()
    points = expand_study(study)
    expansion_s = time.perf_counter() - start
    chunks = chunks_of(study.kind, "", points)
    price_chunk(chunks[0])
    start = time.perf_counter()
    for chunk in chunks:
        price_chunk(chunk)
    pricing_s = time.perf_counter() - start
    n = len(points)
    figures: dict[str, dict[str, object]] = {
        f"sweep: expansion of {n:,} points": {"value": n / expansion_s, "unit": "points/s"},
        "sweep: pricing in one process": {"value": n / pricing_s, "unit": "points/s"},
    }
    with tempfile.TemporaryDirectory() as folder:
        for executor, jobs in (("serial", 1), ("process", 2)):
            store = Store(Path(folder, f"{executor}.duckdb"))
            start = time.perf_counter()
            sweep(study, store, executor=executor, jobs=jobs)
            took = time.perf_counter() - start
            name = f"sweep: study to stored rows, {executor} {jobs}"
            figures[name] = {"value": n / took, "unit": "points/s", "target": f"{TARGET:.0f}"}
    return figures


if __name__ == "__main__":
    for label, figure in run().items():
        print(f"{label:50s} {figure['value']:>12,.0f} {figure['unit']}")
