"""The same sweep on a local Ray cluster of two nodes gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb", reason="needs the store extra")
pytest.importorskip("ray", reason="ray is not installed (the ray extra)")

import ray

from steelyard.studies.answers import Chunk, Priced, chunks_of, price_chunk
from steelyard.studies.executors import execute
from steelyard.studies.points import expand_study
from steelyard.studies.store_results import Store
from steelyard.studies.study import Study, parse_study
from steelyard.studies.sweep import sweep


@pytest.fixture
def study() -> Study:
    return parse_study(
        {
            "name": "ray",
            "kind": "estimate",
            "fixed": {"model": "llama-3.1-8b", "osl": 64},
            "grid": {"on": "h100_sxm:2, l40s:2", "tp": "1,2", "batch": "1-8*2", "isl": "100,1000", "kv": "bf16,fp8"},
        }
    )


def _where(chunk: Chunk) -> Priced:
    """Answers with the node they came from in place of the sources."""
    found = price_chunk(chunk)
    found.sources = [ray.get_runtime_context().get_node_id()] * len(found)
    return found


def test_both_nodes_price(ray_nodes: Any, study: Study) -> None:
    chunks = chunks_of("estimate", "", expand_study(study))
    nodes: set[str] = set()
    count = 0
    for _, priced in execute("ray", chunks, 2, _where):
        nodes |= set(priced.sources)
        count += len(priced)
    assert count == 64
    assert len(nodes) == 2


def test_a_cluster_and_this_process_store_the_same_bytes(ray_nodes: Any, study: Study, tmp_path: Path) -> None:
    exported = []
    for executor in ("ray", "serial"):
        place = Store(tmp_path / f"{executor}.duckdb")
        done = sweep(study, place, executor=executor, jobs=2)
        assert done.study.finished and done.problems == 0
        place.export(done.study, tmp_path / "rows.csv")
        exported.append((tmp_path / "rows.csv").read_bytes())
    assert exported[0] == exported[1]
