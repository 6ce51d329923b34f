"""Tables of phones, NPUs and small boards: networks by the tables' names, and rows as the public verb answers them.

The factors of runtimes were fitted to these rows: errors of networks and machines left out are beside the entries of
``catalogue/runtimes``. A table gives each row's network the name of a graph and its size of input, ``NAME@SIZE``; rows
whose network nobody has are not covered and say so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.deployment.runtime import find_runtime
from steelyard.errors import InputError
from steelyard.machine.cluster import parse_cluster
from steelyard.measurements.reader import Ask, Comparison, comparison, machine_name
from steelyard.workload.ingest.kept_graph import read_graph
from steelyard.workload.nets import load_net
from steelyard.workload.tensor_graph import TensorGraph
from steelyard_validation.networks import KEPT, answers

__all__ = ["ABSENT", "EdgeRow", "compare", "edge_graph"]

#: Why a row is not covered whose network is in no catalogue.
ABSENT = "no graph of this network"


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """A measured pass."""

    model: str
    """As the table names it."""
    net: str
    """``NAME@SIZE`` of its graph; empty: nobody has it."""
    device: str
    runtime: str
    precision: str
    time_s: float
    batch: float = 1.0
    phase: str = ""
    why: str = field(default="", kw_only=True)
    """Why it cannot be asked, where it cannot."""

    @property
    def network(self) -> str:
        """Name of the graph without its size; of the table where there is none."""
        return self.net.partition("@")[0] or self.model

    @property
    def machine(self) -> str:
        return machine_name(self.device)


@cache
def edge_graph(net: str) -> TensorGraph | str:
    """The graph of ``NAME@SIZE``, or why there is none: the catalogue's, as a user has it, or a kept one."""
    name, _, size = net.partition("@")
    if not name:
        return ABSENT
    try:
        return load_net(name, size=[int(s) for s in size.split("x")] if size else None)
    except InputError as error:
        for end in ("+fused", ""):
            path = Path(os.environ.get(KEPT, "")) / f"{net}{end}.json.gz"
            if os.environ.get(KEPT) and path.is_file():
                return read_graph(path)
        return str(error)[:80]


@cache
def _answers(net: str, machine: str, runtime: str, precision: str, batches: tuple[float, ...]) -> Any:
    """Time, its interval and its limit of every batch; or why there are none."""
    graph = edge_graph(net)
    if isinstance(graph, str):
        return graph
    return answers(graph, {"on": parse_cluster(machine), "runtime": runtime, "precision": precision}, batches)


def compare(ask: Ask, table: str, rows: Sequence[EdgeRow]) -> Iterator[Comparison]:
    """Rows beside what the public verb answers, one comparison for each phase of the table."""
    picked = [rows[int(i)] for i in ask.pick(len(rows), table)]
    for phase in sorted({r.phase for r in picked}):
        of = [r for r in picked if r.phase == phase]
        figures, why = np.full((len(of), 4), np.nan), np.full(len(of), "", dtype=object)
        for i, row in enumerate(of):
            found = row.why or _answers(row.net, row.machine, row.runtime, row.precision, (row.batch,))
            if isinstance(found, str):
                why[i] = found
            else:
                figures[i] = found[0]
        yield comparison(
            ask,
            table,
            metric="time_s",
            phase=phase,
            machine=[r.machine for r in of],
            family=[r.network for r in of],
            measured=np.array([r.time_s for r in of]),
            predicted=figures[:, 0],
            low=figures[:, 1],
            high=figures[:, 2],
            roofline=figures[:, 3],
            split=["fit" if find_runtime(r.runtime).terms == "groups" else "left-out" for r in of],
            why=why.astype(np.str_),
        )
