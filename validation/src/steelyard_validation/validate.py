"""How right the predictions are: read measured tables, ask Steelyard the same questions, and weigh the answers.

    ape = 100 |predicted / measured - 1|,   bias = 100 (exp(mean log(predicted / measured)) - 1)

Readers come from the entry-point group ``steelyard.readers`` (contract: ``steelyard.measurements.reader``). One
that fails costs its table, not the run. Rows that cannot be predicted count in ``n`` and not in ``covered``.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, UnknownName
from steelyard.measurements.reader import Ask, Comparison, unread
from steelyard.registry import Registry

__all__ = ["READERS", "SCHEMA", "Accuracy", "Validation", "accuracy", "data_folder", "validate"]

SCHEMA = "steelyard.validate/1"

#: Readers by the folder they read (or ``folder.part``).
READERS: Registry[Any] = Registry("reader of measurements", "steelyard.readers")

#: Endings of files that hold measurements.
TABLES = (".csv", ".parquet", ".gz")
#: Folders and files of a data set that state conditions (traffic, configurations) and hold nothing to predict.
CONDITIONS = (
    *("traces_azure", "traces_mooncake", "traces_sharegpt", "traces_vidur", "megatron_bridge_recipes"),
    "model_info.csv",
)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors over a group of rows. ``*``: over all values of that column. Figures are NaN when nothing was covered."""

    source: str
    table: str
    machine: str
    family: str
    phase: str
    metric: str
    n: int
    """Rows asked."""
    covered: int
    """Rows predicted."""
    median_ape: float
    """Median absolute error, % of the measured figure; likewise mean and 90th percentile."""
    mean_ape: float
    p90_ape: float
    bias: float
    """%: above 0, predictions are too high (geometric mean of predicted over measured, minus one)."""
    interval80: float
    """Share (0..1) of the measured figures inside the stated 80 % interval."""
    width: float
    """Median of its upper end over its lower."""
    roofline_mean_ape: float
    """Mean absolute error of the datasheet roofline on the same rows, %."""
    split: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form, NaN as null."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name in self.__slots__
            for value in [getattr(self, name)]
        }


@dataclass(frozen=True, eq=False)
class Validation:
    """What a run found."""

    comparisons: tuple[Comparison, ...]
    rows: tuple[Accuracy, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """The stable JSON form ``steelyard.validate/1``."""
        return json.dumps({"schema": SCHEMA, "rows": [row.to_dict() for row in self.rows]}, indent=1)

    def reasons(self, source: str, table: str = "") -> Counter[str]:
        """Why rows were not covered, and how many."""
        count: Counter[str] = Counter()
        for c in self.comparisons:
            if c.source == source and table in ("", c.table):
                why = c.why[c.why != ""]
                texts, times = np.unique(why, return_counts=True)
                count.update(dict(zip(texts.tolist(), times.tolist(), strict=True)))
        return count


def data_folder(given: Path | str | None = None) -> Path:
    """The folder of measured tables: as given, ``$STEELYARD_DATA/truth``, or ``../shared/truth``.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(given) if given else Path(os.environ.get("STEELYARD_DATA", "../shared")) / "truth"
    if not folder.is_dir():
        hint = "" if given else "; set STEELYARD_DATA to the folder that holds truth/, or pass --data"
        raise InputError(f"no folder {str(folder)!r}{hint}", field="data")
    return folder


def validate(
    sources: Sequence[str] = (),
    *,
    data: Path | str | None = None,
    machine: str = "",
    sample: int = 0,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Validation:
    """Compare predictions with measured tables.

    Args:
        sources: folders (``aic_ops``) or tables (``aic_ops/gemm``); empty: every folder of the data.
        data: folder of folders of tables; default :func:`data_folder`. When given, no row counts as fitted.
        machine: only rows of this machine.
        sample: at most this many rows per table (0: all), drawn by ``seed``.
        progress: told ``(what, folders done, folders in all)`` as tables arrive.

    Raises:
        InputError: no data folder, or an unknown source or machine.
    """
    from steelyard.machine.catalogue import find_machine

    root = data_folder(data)
    wanted = _wanted(root, sources)
    name = find_machine(machine).name if machine else ""
    found: list[Comparison] = []
    warnings: list[str] = []
    for done, (source, tables) in enumerate(wanted.items()):
        ask = Ask(source, frozenset(tables), name, sample, seed, warnings)
        for part in _read(root / source, ask):
            found.append(
                part if data is None else replace(part, split=np.broadcast_to(np.str_("all"), part.split.shape))
            )
            if progress:
                progress(f"{source}/{part.table}", done, len(wanted))
    comparisons = tuple(c for c in found if len(c))
    return Validation(comparisons, tuple(accuracy(comparisons)), tuple(dict.fromkeys(warnings)))


def _wanted(root: Path, sources: Sequence[str]) -> dict[str, set[str]]:
    """Folder to tables asked for (empty set: all)."""
    present = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in CONDITIONS)
    if not sources:
        return {name: set() for name in present}
    wanted: dict[str, set[str]] = {}
    for text in sources:
        folder, _, table = text.strip("/").partition("/")
        if folder not in present:
            raise UnknownName("source", text, present, hint=f"folders of {root.name}/")
        if table:
            wanted.setdefault(folder, set()).add(table)
        else:
            wanted[folder] = set()
    return wanted


def _read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Everything the readers of a folder yield, and its unread files as rows not covered."""
    yielded: set[str] = set()
    for name in [n for n in READERS if n.partition(".")[0] == ask.source]:
        try:
            for part in READERS.get(name)(folder, ask):
                yielded.add(part.table)
                yield part
        except Exception as error:
            ask.warn(f"{ask.source}: reader {name} stopped: {type(error).__name__}: {error}")
    for path in sorted(folder.iterdir()):
        if path.suffix not in TABLES or path.name in ask.opened or path.name in CONDITIONS or ask.machine:
            continue
        if path.stem in ask.tables or not ask.tables:
            ask.warn(f"{ask.source}/{path.name}: no reader")
            yield unread(ask, path, "no reader")
            yielded.add(path.stem)
    for table in sorted(ask.tables - yielded):
        ask.warn(f"{ask.source}/{table}: no such table, or no rows of it")


def accuracy(comparisons: Iterable[Comparison]) -> Iterator[Accuracy]:
    """Errors per group: by table, machine, family and phase, with totals, each over all rows and per split."""
    by_source: dict[str, list[Comparison]] = {}
    for c in comparisons:
        if len(c):
            by_source.setdefault(c.source, []).append(c)
    for source, parts in sorted(by_source.items()):
        yield from _source_accuracy(source, parts)


#: Columns a group is formed by; the rest are ``*``.
LEVELS = (
    ("table", "machine", "family", "phase"),
    ("table", "machine", "phase"),
    ("table", "family", "phase"),
    ("table", "phase"),
    ("table", "machine"),
    ("table",),
    ("machine",),
    (),
)


def _source_accuracy(source: str, parts: Sequence[Comparison]) -> Iterator[Accuracy]:
    columns = {name: _codes([getattr(p, name) for p in parts], [len(p) for p in parts]) for name in _CODED}
    numbers = [
        np.concatenate([getattr(p, name) for p in parts])
        for name in ("measured", "predicted", "low", "high", "roofline")
    ]
    measured, predicted, low, high, roofline = numbers
    good = np.isfinite(predicted) & (measured > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        log = np.log(predicted / measured)
        ape = np.abs(predicted / measured - 1) * 100
        roof = np.abs(roofline / measured - 1) * 100
        inside = np.where(np.isfinite(low) & np.isfinite(high), (measured >= low) & (measured <= high), np.nan)
        wide = high / low
    seen: set[tuple[str, ...]] = set()
    names, split = columns["split"]
    fitted = np.isin(names, ["fit", "left-out"])
    choices = [("all", np.arange(measured.size))]
    choices += [(str(n), np.flatnonzero(split == i)) for i, n in enumerate(names) if fitted[i]]
    for label, rows in choices:
        for level in LEVELS:
            for key, group in _groups({n: columns[n] for n in (*level, "metric")}, rows):
                tag = (label, *(key.get(n, "*") for n in ("table", "machine", "family", "phase", "metric")))
                if tag in seen:
                    continue
                seen.add(tag)
                ok = group[good[group]]
                yield Accuracy(
                    source,
                    tag[1],
                    tag[2],
                    tag[3],
                    tag[4],
                    tag[5],
                    int(group.size),
                    int(ok.size),
                    *_figures(ape[ok]),
                    bias=float(np.expm1(log[ok].mean()) * 100) if ok.size else math.nan,
                    interval80=_mean(inside[ok]),
                    width=_middle(wide[ok]),
                    roofline_mean_ape=_mean(roof[ok]),
                    split=label,
                )


_CODED = ("table", "machine", "family", "phase", "metric", "split")


def _codes(values: Sequence[Any], lengths: Sequence[int]) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """(distinct texts, code of every row); a value per part may be one text or an array of them."""
    known: dict[str, int] = {}
    pieces: list[NDArray[np.intp]] = []
    for value, n in zip(values, lengths, strict=True):
        array = np.asarray(value)
        if array.ndim == 0 or array.strides[0] == 0:
            pieces.append(np.full(n, known.setdefault(str(array if array.ndim == 0 else array[0]), len(known))))
            continue
        texts, inverse = np.unique(array, return_inverse=True)
        pieces.append(np.array([known.setdefault(str(t), len(known)) for t in texts])[inverse.ravel()])
    return np.array(list(known), dtype=np.str_), np.concatenate(pieces)


def _groups(
    columns: dict[str, tuple[NDArray[np.str_], NDArray[np.intp]]], rows: NDArray[np.intp]
) -> Iterator[tuple[dict[str, str], NDArray[np.intp]]]:
    """Groups of rows that agree in every column."""
    if not rows.size:
        return
    key = np.zeros(rows.size, dtype=np.int64)
    for texts, codes in columns.values():
        key = key * len(texts) + codes[rows]
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order])) + 1
    for part in np.split(order, edges):
        first = rows[part[0]]
        yield {name: str(texts[codes[first]]) for name, (texts, codes) in columns.items()}, rows[part]


def _figures(ape: NDArray[np.float64]) -> tuple[float, float, float]:
    if not ape.size:
        return math.nan, math.nan, math.nan
    middle, tail = np.quantile(ape, [0.5, 0.9])
    return float(middle), float(ape.mean()), float(tail)


def _middle(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan
