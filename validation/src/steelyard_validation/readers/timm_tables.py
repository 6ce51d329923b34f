"""``timm_benchmarks``: throughput of a thousand image networks on two GPUs and a processor, as the public verb answers.

A row states model, image, batch, precision, layout and whether it was compiled; that is the question. Networks are
traced by timm where it is installed, or read from kept graphs; without them the catalogue's own networks are answered.
Rows of old releases of PyTorch are answered alike.

The batch of a row is the first of :data:`TRIED` that fitted the card, so that it is asked too: the largest that fits
(``fits``), of the newest release in a table and of families that play no part in fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.machine.cluster import parse_cluster
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.networks import FUSED_FROM, answers, family_of, held_out, largest_fit, split_of, timm_graph

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["RUNTIMES", "TRIED", "read"]

#: Runtimes by what the tables call them.
RUNTIMES = {"eager": "eager", "dynamo": "compile"}
#: Batches that the tables' script tries, one after the other, until one does not fail.
TRIED = (1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
#: Networks beyond this many multiply-accumulates of an image are left out, as the tables' own lists end there.
LARGEST = 150.0


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Passes over batches of images, and training steps."""
    for path in ask.files(folder, "infer_*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask, False))
    for path in ask.files(folder, "train_*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask, True))


def _table(path: Path, ask: Ask, train: bool) -> Iterator[Comparison]:
    names = ["hardware", "precision", "layout", "torch", "compile", "model", "step_time_ms", "batch_size", "img_size"]
    frame = read_frame(path, names).dropna(subset=names)
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    for (compiled, layout), rows in frame.groupby(["compile", "layout"], sort=True):
        phase = f"{'train' if train else 'infer'} {compiled} {layout}"
        yield _ways(ask, path.stem, phase, rows.reset_index(drop=True), train)
        newest = rows["torch"].astype(int) == int(rows["torch"].astype(int).max())
        asked = newest & rows["model"].astype(str).map(lambda m: held_out(family_of(m)))
        if asked.any() and rows["batch_size"].max() > 1:
            yield _batches(ask, path.stem, f"fits {phase}", rows[asked].reset_index(drop=True), train)


def _ways(ask: Ask, table: str, phase: str, frame: pd.DataFrame, train: bool) -> Comparison:
    """Rows that were run one way."""
    figures = np.full((len(frame), 4), np.nan)
    why = np.full(len(frame), "", dtype=object)
    frame["fused"] = frame["torch"].astype(int) >= FUSED_FROM
    keys = ["hardware", "precision", "layout", "fused", "compile", "model", "img_size"]
    for key, rows in frame.groupby(keys, sort=False):
        at = rows.index.to_numpy()
        found = _answers(key, rows["batch_size"].to_numpy(dtype=np.float64), train)
        if isinstance(found, str):
            why[at] = found
        else:
            figures[at] = found
    return comparison(
        ask,
        table,
        metric="time_s",
        phase=phase,
        machine=[_machine(h) for h in frame["hardware"].astype(str)],
        family=[family_of(m) for m in frame["model"].astype(str)],
        measured=frame["step_time_ms"].to_numpy(dtype=np.float64) * 1e-3,
        predicted=figures[:, 0],
        low=figures[:, 1],
        high=figures[:, 2],
        roofline=figures[:, 3],
        split=[split_of(m) for m in frame["model"].astype(str)],
        why=why.astype(np.str_),
    )


def _batches(ask: Ask, table: str, phase: str, frame: pd.DataFrame, train: bool) -> Comparison:
    """The largest batch that was tried and fits, beside the one that ran."""
    ran = frame["batch_size"].to_numpy(dtype=np.float64)
    tried = [b for b in TRIED if b <= ran.max()]
    figures, why = np.full(len(frame), np.nan), np.full(len(frame), "", dtype=object)
    for i, row in enumerate(frame.itertuples()):
        key = (
            row.hardware,
            row.precision,
            row.layout,
            int(row.torch) >= FUSED_FROM,
            row.compile,
            row.model,
            row.img_size,
        )
        found = _asked(key, train)
        most = found if isinstance(found, str) else largest_fit(*found, tried)
        if isinstance(most, str):
            why[i] = most
        else:
            figures[i] = most
    return comparison(
        ask,
        table,
        metric="batch",
        phase=phase,
        machine=[_machine(h) for h in frame["hardware"].astype(str)],
        family=[family_of(m) for m in frame["model"].astype(str)],
        measured=ran,
        predicted=figures,
        split="left-out",
        why=why.astype(np.str_),
    )


def _machine(hardware: str) -> str:
    return machine_name(hardware.lower().replace("-", "_"))


def _asked(key: Any, train: bool) -> tuple[TensorGraph, dict[str, Any]] | str:
    """The graph and the words of one network run one way; or why there are none."""
    hardware, precision, layout, fused, compiled, model, size = key
    graph = timm_graph(str(model), int(size), bool(fused))
    if isinstance(graph, str):
        return graph
    if float(graph.macs()) > LARGEST * 1e9:
        return f"over {LARGEST:g} GMAC"
    words = {"on": parse_cluster(_machine(str(hardware))), "runtime": RUNTIMES[str(compiled)], "train": train}
    return graph, {**words, "precision": str(precision), "layout": str(layout)}


def _answers(key: Any, batches: Any, train: bool) -> Any:
    """Time, its interval and its limit for every batch of one network run one way; or why there are none."""
    found = _asked(key, train)
    return found if isinstance(found, str) else answers(*found, batches)
