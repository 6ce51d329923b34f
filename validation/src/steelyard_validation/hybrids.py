"""The page on hybrids: how right models with recurrent blocks are, beside models of attention alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard_validation.blocks import ATTENTION, is_hybrid
from steelyard_validation.report import METRICS
from steelyard_validation.validate import Validation

__all__ = ["SOURCES", "page", "write_page"]

#: Folders whose rows name the block that mixes tokens.
SOURCES = (
    "dgx_spark_arena",
    "infersim_ops",
    "rtx3090x4_rig",
    "sglang_cookbook",
    "strix_halo_llamacpp",
    "two_gpu_sglang",
)
_HEAD = "| rows | covered | median | bias | in 80 % |"
_RULE = "| ---: | ---: | ---: | ---: | ---: |"
_ABOUT = """\
How right the predictions of models with recurrent blocks (gated delta nets, state spaces, short convolutions) are, and
beside them those of models of attention alone in the same tables. Errors in %, as [here](index.md): median of the
absolute error; *bias* above 0, predictions are too high; *in 80 %*, measurements inside the interval shown.
"""
#: Middle figures of a page; percentiles of the tail stand on the tables' own pages.
_TAILS = ("p95_", "p99_")


def write_page(validation: Validation, folder: Path, command: str) -> Path | None:
    """Write ``hybrids.md``; None when no table with hybrids was read."""
    text = page(validation, command)
    if not text:
        return None
    path = folder / "hybrids.md"
    path.write_text(text, encoding="utf-8")
    return path


def page(validation: Validation, command: str) -> str:
    """The page; empty when no table with hybrids was read."""
    rows = _Rows.of(validation)
    if not rows.kind.size or not (rows.kind == "hybrid").any():
        return ""
    tables = _lines(rows, (rows.source, rows.what, rows.kind))
    blocks = _lines(rows, (rows.block, rows.source, rows.what), only=rows.kind == "hybrid")
    models = _lines(rows, (rows.family, rows.machine, rows.what), only=rows.kind == "hybrid")
    parts = [
        "# Hybrids",
        f"Written by `{command}`. {_ABOUT}",
        "## By table",
        _markdown(("table", "what", "models"), tables),
        "## By block",
        _markdown(("block", "table", "what"), blocks),
        "## By model",
        _markdown(("model", "machine", "what"), models),
    ]
    return "\n\n".join(parts) + "\n"


class _Rows:
    """Columns of every row that counts, end to end."""

    def __init__(self, columns: Sequence[NDArray[np.str_]], figures: NDArray[np.float64]) -> None:
        self.source, self.what, self.kind, self.block, self.family, self.machine = columns
        self.figures = figures
        """``[4, n]``: measured, predicted, and both ends of the interval."""

    @classmethod
    def of(cls, validation: Validation) -> _Rows:
        texts: list[tuple[str, ...]] = []
        figures: list[NDArray[np.float64]] = []
        for c in validation.comparisons:
            if c.source not in SOURCES or c.metric.startswith(_TAILS) or c.metric == "*":
                continue
            what = ", ".join(x for x in (c.phase, METRICS.get(c.metric, c.metric)) if x != "time")
            for family, machine in zip(c.family.tolist(), c.machine.tolist(), strict=True):
                block, _, name = family.partition(": ")
                hybrid = is_hybrid(block) if name else block == "gated delta net"
                kind = "hybrid" if hybrid else "attention alone" if block in ATTENTION else "other"
                texts.append((c.source, what, kind, block, name or "kernels", machine))
            figures.append(np.stack([c.measured, c.predicted, c.low, c.high]))
        if not texts:
            return cls([np.empty(0, dtype=np.str_)] * 6, np.empty((4, 0)))
        chosen = np.array([t[2] != "other" for t in texts])
        columns = [np.array(column, dtype=np.str_)[chosen] for column in zip(*texts, strict=True)]
        return cls(columns, np.concatenate(figures, axis=1)[:, chosen])


def _lines(
    rows: _Rows, keys: Sequence[NDArray[np.str_]], only: NDArray[np.bool_] | None = None
) -> Iterable[tuple[str, ...]]:
    """A line per distinct combination of ``keys``."""
    combined = np.stack(keys)
    mask = np.ones(rows.kind.shape, dtype=np.bool_) if only is None else only
    for key in sorted({tuple(column) for column in combined[:, mask].T.tolist()}):
        chosen = mask & (combined == np.array(key)[:, None]).all(axis=0)
        yield (*key, *_accuracy(rows.figures[:, chosen]))


def _accuracy(figures: NDArray[np.float64]) -> tuple[str, ...]:
    measured, predicted, low, high = figures
    good = np.isfinite(predicted) & (measured > 0)
    covered = f"{100 * good.mean():.0f}"
    if not good.any():
        return f"{good.size:,}", covered, "", "", ""
    ratio = predicted[good] / measured[good]
    known = good & np.isfinite(low) & np.isfinite(high)
    inside = (measured >= low) & (measured <= high)
    share = f"{100 * inside[known].mean():.0f}" if known.any() else ""
    bias = np.expm1(np.log(ratio).mean()) * 100
    return f"{good.size:,}", covered, f"{np.median(np.abs(ratio - 1)) * 100:.1f}", f"{bias:+.1f}", share


def _markdown(head: Sequence[str], lines: Iterable[tuple[str, ...]]) -> str:
    first = "| " + " | ".join(head) + " " + _HEAD
    rule = "| " + " | ".join("---" for _ in head) + " " + _RULE
    return "\n".join([first, rule, *("| " + " | ".join(line) + " |" for line in lines)])
