"""``hw/ofa_latency_ms.csv.gz``: networks of the once-for-all space on three cards at three batches, as the public verb
answers them.

A row states kernels, expansions, depths and the side of the image. The width (that of the published supernet, 1.2), the
precision (single) and the framework (PyTorch, eager) are the source's usual ones and not in the table. Every
:data:`EVERY`-th network is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.machine.cluster import parse_cluster
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, read_frame
from steelyard.workload.nets import load_net
from steelyard_validation.networks import answers

__all__ = ["read"]

#: Cards by the prefix of a column; the rest of it is the batch.
CARDS = {"2080ti": "rtx_2080_ti", "titan_xp": "titan_xp", "v100": "v100_pcie"}
BATCHES = (1, 32, 64)
#: One network of so many is asked: each is a graph of its own.
EVERY = 50


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Times of whole networks."""
    for path in ask.files(folder, "ofa_latency_ms.csv.gz"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    columns = {name: [f"{name}_{batch}" for batch in BATCHES] for name in CARDS}
    frame = read_frame(path, ["arch_json", *(c for named in columns.values() for c in named)])
    frame = frame.iloc[::EVERY]
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    graphs = [_graph(json.loads(text)) for text in frame["arch_json"]]
    for name, machine in CARDS.items():
        words = {"on": parse_cluster(machine), "runtime": "eager", "precision": "fp32"}
        figures = np.array([answers(graph, words, np.array(BATCHES, dtype=np.float64)) for graph in graphs])
        for k, (batch, column) in enumerate(zip(BATCHES, columns[name], strict=True)):
            predicted, low, high, limit = figures[:, k].T
            yield comparison(
                ask,
                path.stem,
                metric="time_s",
                phase="infer eager",
                machine=machine,
                family=f"batch {batch}",
                measured=frame[column].to_numpy(dtype=np.float64) * 1e-3,
                predicted=predicted,
                low=low,
                high=high,
                roofline=limit,
            )


def _graph(arch: dict[str, Any]) -> Any:
    sets = {"kernels": arch["ks"], "expansions": [float(e) for e in arch["e"]], "depths": arch["d"]}
    return load_net("ofa_mobilenet_v3", size=int(arch["r"]), sets=sets)
