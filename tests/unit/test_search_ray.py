"""A search whose score is called on a Ray cluster of two nodes finds what one in this process finds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="ray is not installed (the ray extra)")

import ray

from steelyard.exploration.networks import search_network
from steelyard.exploration.scores import score_chunk
from steelyard.studies.answers import Chunk, Priced
from steelyard.studies.executors import execute


def _where(chunk: Chunk) -> Priced:
    """Scores with the node that they came from in place of the sources."""
    found = score_chunk(chunk)
    time.sleep(0.1)  # long enough that one node does not do all of them
    found.sources = [ray.get_runtime_context().get_node_id()] * len(found)
    return found


def test_two_nodes_find_what_one_process_finds(ray_nodes: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(names):\n    return [sum(map(ord, name)) % 97 for name in names]\n")
    words = {"on": "rtx_3090", "score": f"{file}:score", "solver": "evolution", "budget": 192, "latency": "6ms"}
    here, there = search_network("nb201", **words), search_network("nb201", **words, executor="ray")
    assert there.architectures == here.architectures
    assert there.score.tolist() == here.score.tolist()
    assert there.history == here.history
    names = [name for name in here.architectures for _ in range(8)]
    chunks = [Chunk("score", str(file), (name,), ({"function": "score"},)) for name in names[:16]]
    nodes = {node for _, priced in execute("ray", chunks, 2, _where) for node in priced.sources}
    assert len(nodes) == 2
