"""The layouts that ``train`` chooses beside those that NVIDIA published, both as ``train`` times them.

Of every training of NeMo's and Megatron-Bridge's tables (the last release of each) the model, devices, batch, lengths,
precision, task and framework are asked, and everything else is left open. What is compared are two predictions: how
long the chosen layout takes over how long the published one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.measurements.reader import read_frame
from steelyard_validation.readers import training_nemo
from steelyard_validation.readers._train import Words, answered

__all__ = ["SOURCE", "Planned", "planned", "section"]

#: The page that the section is part of.
SOURCE = "megatron_bridge_training"
#: What the search chooses.
_OPEN = ("tp", "pp", "vp", "cp", "ep", "mbs", "zero", "recompute")
#: How much longer a chosen layout may take than the published one.
NEAR = 0.05
_LINES = ("NeMo", "Megatron-Bridge, dense", "Megatron-Bridge, experts", "Megatron-Bridge, hybrid")


@dataclass(frozen=True, slots=True)
class Planned:
    """A training with its published layout and the chosen one, as predicted."""

    line: str
    ratio: float
    """Time of the chosen layout over that of the published one."""
    fits: bool
    """The chosen one."""
    published_fits: bool


def planned(data: Path) -> list[Planned]:
    """Every training once."""
    found, seen, cached = [], set[str](), dict[str, Any]()
    for line, words in _asked(data):
        key = repr(sorted((name, str(value)) for name, value in words.items()))
        if key in seen:
            continue
        seen.add(key)
        published = answered(words, cached)
        chosen = answered({n: v for n, v in words.items() if n not in _OPEN}, cached)
        if not isinstance(published, str) and not isinstance(chosen, str):
            found.append(Planned(line, chosen.step_s / published.step_s, chosen.fits, published.fits))
    return found


def _asked(data: Path) -> Iterator[tuple[str, Words]]:
    for path in sorted((data / "nemo_training_h100").glob("nemo_h100*.csv")):
        rows = [training_nemo.nemo_words(row) for row in read_frame(path).to_dict("records")]
        yield from ((_LINES[0], words) for words in rows if not isinstance(words, str))
    recipes = training_nemo.Recipes.read(data / "megatron_bridge_recipes" / "facts.csv")
    for path in sorted((data / SOURCE).glob("pretrain*.csv")):
        frame = training_nemo.last_of_each(read_frame(path))
        for row in frame[frame["last"]].to_dict("records"):
            words = training_nemo.bridge_words(row, recipes.of(row))
            if not isinstance(words, str):
                yield f"Megatron-Bridge, {training_nemo.kind(row['model'])}", words


def section(data: Path) -> str:
    """The table of the page; empty where its data is missing."""
    rows = planned(data)
    if not rows:
        return ""
    head = ("trainings", "rows", "at most 5 % longer", "median", "p90", "chosen fits", "published fits by our count")
    lines = [(name, [r for r in rows if r.line == name]) for name in _LINES]
    table = [_cells(name, some) for name, some in (*lines, ("all", rows)) if some]
    return "\n".join(
        (
            "## The layout that is chosen",
            "",
            "Time of the layout `train` chooses over that of the published one, both predicted; nothing but model,",
            "devices, batch, lengths, precision, task and framework is told. Target: at most 5 % longer on 80 % of the",
            "rows, and never one that does not fit; where the chosen one does not, none does.",
            "",
            f"| {' | '.join(head)} |",
            f"| --- | {' | '.join('---:' for _ in head[1:])} |",
            *(f"| {' | '.join(cells)} |" for cells in table),
        )
    )


def _cells(name: str, rows: list[Planned]) -> list[str]:
    ratios = np.array([r.ratio for r in rows])
    near = float(np.mean(ratios <= 1.0 + NEAR))
    fits = [f"{sum(fit)} of {len(rows)}" for fit in ([r.fits for r in rows], [r.published_fits for r in rows])]
    middle, tail = np.quantile(ratios, (0.5, 0.9))
    return [name, str(len(rows)), f"{near:.0%}", f"{middle:.2f}", f"{tail:.2f}", *fits]
