"""``neusight_ops``: fp32 operators of PyTorch 2.1 without tensor cores, kernel times.

``linear`` is [B M, K] x [K, N]; ``bmm`` is B products; norms and softmax run over B rows of H; the other names are
elementwise over B x H (``u``: with a scalar). Whole models (``e2e_model_latency``) are another reader's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.calibrate.readers import _ops
from steelyard.calibrate.readers._base import Ask, Comparison, comparison, guarded, machine_name, machine_of, read_frame
from steelyard.errors import SteelyardError

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.machine.component import Machine

__all__ = ["read"]

#: Bytes of one fp32 element.
ELEMENT = 4.0
#: Operands read and operations per element. One operand: name ends in ``u`` (scalar) or an activation. Counted.
ELEMENTWISE = {
    "add": (2, 1),
    "mul": (2, 1),
    "div": (2, 1),
    "pow": (2, 8),
    "true_divide": (2, 1),
    "relu": (1, 1),
    "gelu": (1, 15),
    "tanh": (1, 8),
    "sigmoid": (1, 8),
}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Operator tables: ``test_*`` and ``train_*``."""
    for pattern in ("test_ops_*.parquet", "train_norm_ops_*.parquet"):
        for path in ask.files(folder, pattern):
            if ask.wants(path.stem):
                yield from guarded(ask, path, lambda path=path: _table(path, ask))  # type: ignore[misc]


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ("op", "latency_ms", "device", "B"), optional=("M", "N", "K", "H"))
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    for (op, device), part in frame.groupby(["op", "device"]):
        machine = machine_of(str(device))
        kind = "elementwise" if op not in ("linear", "bmm", "ln", "softmax") else str(op)
        about: dict[str, Any] = {
            "metric": "time_s", "phase": kind, "machine": machine_name(str(device)), "family": "fp32",
            "measured": part["latency_ms"].to_numpy(float) * 1e-3,
        }  # fmt: skip
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
        return _ops.gemm(machine, "fp32", rows, n, k, groups=groups, out_bits=32.0)
    width = part["H"].fillna(1).to_numpy(float)
    elements = batch * width
    if op in ("ln", "softmax"):
        kind = "norm" if op == "ln" else "softmax"
        return _ops.vector(machine, kind, elements * ELEMENT, elements * ELEMENT, elements * 8.0, rows=batch)
    name = op[:-1] if op.endswith("u") and op[:-1] in ELEMENTWISE else op
    if name not in ELEMENTWISE:
        return None
    operands, operations = ELEMENTWISE[name]
    read = elements * ELEMENT * (1 if name != op else operands)
    return _ops.vector(machine, "elementwise", np.asarray(read), elements * ELEMENT, elements * operations)
