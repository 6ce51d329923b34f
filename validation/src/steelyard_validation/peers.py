"""What other tools answered on measured rows: their errors, shown beside ours.

Their answers lie in a folder ``peers`` next to the data; a file that is absent or has other columns is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import SteelyardError
from steelyard.measurements.reader import read_frame

__all__ = ["PeerAccuracy", "peers"]


@dataclass(frozen=True, slots=True)
class PeerAccuracy:
    """Absolute errors of one tool, %."""

    peer: str
    source: str
    """Folder of the data its rows belong to."""
    what: str
    n: int
    median_ape: float
    mean_ape: float
    p90_ape: float


def peers(data: Path) -> list[PeerAccuracy]:
    """Errors of every tool whose answers are there.

    Args:
        data: the data folder (``truth``).
    """
    found: list[PeerAccuracy] = []
    for read in (_planner, _learned):
        try:
            found += list(read(data))
        except (OSError, SteelyardError, ImportError):
            continue
    return found


def _accuracy(
    peer: str, source: str, what: str, predicted: NDArray[np.float64], measured: NDArray[np.float64]
) -> PeerAccuracy:
    good = np.isfinite(predicted) & np.isfinite(measured) & (measured > 0)
    ape = np.abs(predicted[good] / measured[good] - 1) * 100
    if not ape.size:
        return PeerAccuracy(peer, source, what, 0, *(float("nan"),) * 3)
    return PeerAccuracy(
        peer, source, what, int(ape.size), float(np.median(ape)), float(ape.mean()), float(np.quantile(ape, 0.9))
    )


def _planner(data: Path) -> Iterator[PeerAccuracy]:
    """A static planner over measured kernels, on serving rows."""
    columns = ("silicon_ttft_ms", "silicon_tpot_ms", "aic_ttft_ms", "aic_tpot_ms")
    frame = read_frame(data.parent / "peers" / "aic_vs_silicon.csv", columns)
    for name in ("ttft", "tpot"):
        predicted, measured = (frame[f"{who}_{name}_ms"].to_numpy(float) for who in ("aic", "silicon"))
        yield _accuracy("aiconfigurator", "inferencex_silicon", f"{name}_s", predicted, measured)


def _learned(data: Path) -> Iterator[PeerAccuracy]:
    """Learned predictors and their own roofline, on whole models."""
    truth = "label_all_e2e_latency"
    tools = ("neusight", "roofline", "habitat", "micro")
    columns = [f"{t}_all_e2e_latency" for t in tools]
    frame = read_frame(data / "hw" / "neusight_e2e_label_vs_pred.csv", (truth, "mode"), optional=columns)
    for tool, column in zip(tools, columns, strict=True):
        for mode, part in frame.groupby("mode"):
            answer = part[column].to_numpy(float)
            if np.isfinite(answer).any():
                label = "NeuSight" if tool == "neusight" else f"{tool} (as NeuSight reports it)"
                yield _accuracy(label, "neusight_ops", f"whole model, {mode}", answer, part[truth].to_numpy(float))
