"""``neusight_ops``: fp32 operators of PyTorch 2.1 without tensor cores, kernel times.

``linear`` is [B M, K] x [K, N]; ``bmm`` is B products; norms and softmax run over B rows of H; the other names are
elementwise over B x H (``u``: with a scalar). Whole models (``e2e_model_latency``) are another reader's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.errors import SteelyardError
from steelyard.measurements.reader import (
    Ask,
    Comparison,
    comparison,
    guarded,
    machine_name,
    machine_of,
    read_frame,
)
from steelyard_validation.fits.vector_tables import FIRST_OVERHEAD, KIND, OPS_PER_ELEMENT, TWO_INPUTS
from steelyard_validation.readers import _ops

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.machine.component import Machine

__all__ = ["read"]

#: Bytes of one fp32 element.
ELEMENT = 4.0
ELEMENTWISE = frozenset({"add", "mul", "div", "pow", "relu", "gelu", "tanh", "sigmoid"})


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Operator tables: ``test_*`` and ``train_*``."""
    for pattern in ("test_ops_*.parquet", "train_norm_ops_*.parquet"):
        for path in ask.files(folder, pattern):
            if ask.wants(path.stem):
                yield from guarded(ask, path, _table, path, ask)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ("op", "latency_ms", "device", "B"), optional=("M", "N", "K", "H"))
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    for (op, device), part in frame.groupby(["op", "device"]):
        machine = machine_of(str(device))
        kind = "elementwise" if op not in ("linear", "bmm", "ln", "softmax") else str(op)
        about: dict[str, Any] = {
            "metric": "time_s",
            "phase": kind,
            "machine": machine_name(str(device)),
            "family": "fp32",
            "measured": part["latency_ms"].to_numpy(float) * 1e-3,
        }
        try:
            answer = _answer(machine, str(op), part) if machine else None
            why = "" if answer else "machine not in the catalogue" if machine is None else f"unknown op {op}"
        except SteelyardError as error:
            answer, why = None, str(error)
        yield comparison(ask, path.stem, why=why, **about, **(answer.columns if answer else {}))


def _answer(machine: Machine, op: str, part: pd.DataFrame) -> _ops.Answer | None:
    batch = part["B"].to_numpy(float)
    if op in ("linear", "bmm"):
        m, n, k = (part[c].to_numpy(float) for c in "MNK")
        rows, groups = (batch * m, 1.0) if op == "linear" else (m, batch)
        product = _ops.gemm(machine, "fp32", rows, n, k, groups=groups, out_bits=32.0)
        return product.after(FIRST_OVERHEAD["neusight"])
    elements = batch * part["H"].fillna(1).to_numpy(float)
    if op not in KIND and not {op, op.removesuffix("u")} & ELEMENTWISE:
        return None
    kind = KIND.get(op, "elementwise")
    read = elements * ELEMENT * (2 if op in TWO_INPUTS else 1)
    rows = batch if op in KIND else None
    operations = elements * OPS_PER_ELEMENT.get(op, 1.0)
    return _ops.vector(machine, kind, read, elements * ELEMENT, operations, rows=rows).after(FIRST_OVERHEAD["neusight"])
