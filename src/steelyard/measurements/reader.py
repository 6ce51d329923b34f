"""The contract of a reader of measured tables, and what readers share.

A **reader** is a callable ``read(folder: Path, ask: Ask) -> Iterator[Comparison]`` for one folder of measurements. It
turns every row of every table it knows into the question Steelyard answers (this op, or this model, on that machine,
so arranged), asks it, and yields the measured and the predicted figures side by side. It must

* use only the columns that state the question; the measured column goes into ``measured`` and nowhere else;
* price many rows in one call (group them by machine, format and kernel); no loop over rows with an op model inside;
* yield a row it cannot answer with ``predicted`` NaN and the reason in ``why``, and never drop it: coverage is part of
  the score. Rows its source says to drop (duplicates, a broken unit) are dropped;
* state the conditions of the measurement (weights hot in the cache, captured graph) as they were, not as they help;
* label every row ``fit``, ``left-out`` or ``all`` (``all``: nothing of this table was ever fitted). With another
  ``--data`` folder the framework relabels everything ``all``;
* resolve machines with :func:`machine_of` and models with ``load_model``: a machine nobody measured is predicted
  through borrowed parameters, an unknown name is a row not covered;
* honour ``ask``: open a table only if ``ask.wants(table)``, and price only the rows ``ask.pick`` returns. Label rows
  before picking, on the whole table, so that a sample has the same labels as the whole;
* survive: wrap each file in :func:`guarded`, so that one broken file or missing column costs that table alone.

``table`` is what a user calls it (``gemm``, or the stem of the file); ``metric`` names quantity and unit (``time_s``,
``ttft_s``, ``tpot_s``, ``e2e_s``, ``tokens_per_s``, ``energy_j``, ``power_w``); ``phase`` is the op or the part of
serving (``gemm``, ``decode``, ``prefill``, ``all_reduce``, ``serve``, ``train``). Everything is in SI units.

A package adds a reader by an entry point named for its folder (``folder.part`` where several readers share one)::

    [project.entry-points."steelyard.readers"]
    my_folder = "my_package.my_module:read"

The smallest reader::

    def read(folder, ask):
        for path in ask.files(folder, "*.csv"):
            yield from guarded(ask, path, _gemms, path, ask)

    def _gemms(path, ask):
        frame = read_frame(path, ["gpu", "m", "n", "k", "time_us"])
        frame = frame.iloc[ask.pick(len(frame), path.stem)]
        time_s = my_prediction(frame)                     # NaN where there is none
        low, high = interval80(time_s, spread=0.1)
        yield comparison(ask, path.stem, metric="time_s", phase="gemm", machine=frame["gpu"].map(machine_name),
                         family="bf16", measured=frame["time_us"] * 1e-6, predicted=time_s, low=low, high=high)

``steelyard.testing.readers.ReaderContract`` checks a reader against this page.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.documents import open_file
from steelyard.errors import InputError, SteelyardError
from steelyard.interval import interval80
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SPLITS",
    "Ask",
    "Comparison",
    "Reader",
    "comparison",
    "guarded",
    "interval80",
    "machine_name",
    "machine_of",
    "read_frame",
]

Floats = NDArray[np.float64]
Texts = NDArray[np.str_]

#: Largest table read, bytes.
MAX_BYTES = 2 * 2**30
#: Largest table that was packed.
MAX_UNPACKED_BYTES = 256 * 2**20
#: What a row was to the fit: used by it, of a fitted table but held back, or of a table nothing was fitted to.
SPLITS = ("fit", "left-out", "all")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Measured and predicted figures of one table, or of a part whose rows mean the same; arrays of shape (n,), SI."""

    source: str
    """Folder."""
    table: str
    metric: str
    phase: str
    machine: Texts
    """Catalogue names; the table's own name where the catalogue has none."""
    family: Texts
    """Model family, or for ops the number format or kind."""
    measured: Floats
    predicted: Floats
    """NaN: not predicted."""
    low: Floats
    high: Floats
    """The stated 80 % interval."""
    roofline: Floats
    """What a datasheet says: max(FLOPs / peak, bytes / bandwidth), in the metric's unit; NaN where not computed."""
    split: Texts
    why: Texts
    """Why a row has no prediction; empty where it has one."""

    def __len__(self) -> int:
        return int(self.measured.size)


class Reader(Protocol):
    """What an entry point of the group ``steelyard.readers`` names."""

    def __call__(self, folder: Path, ask: Ask) -> Iterator[Comparison]: ...


@dataclass(frozen=True, eq=False)
class Ask:
    """What a run asks of the readers, and what it hears from them beside the rows."""

    source: str
    """Folder being read."""
    tables: frozenset[str] = frozenset()
    """Only these tables; empty: all."""
    machine: str = ""
    """Only rows of this machine (catalogue name); empty: all."""
    sample: int = 0
    """At most this many rows per table, drawn by ``seed``; 0: all."""
    seed: int = 0
    warnings: list[str] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    """Names of the files a reader took charge of."""

    def wants(self, table: str) -> bool:
        """Whether a table (or its file) was asked for."""
        return not self.tables or table in self.tables

    def files(self, folder: Path, pattern: str) -> list[Path]:
        """Files of the folder that match, sorted; a reader takes charge of them by asking."""
        found = sorted(folder.glob(pattern))
        self.opened.update(path.name for path in found)
        return found

    def warn(self, text: str) -> None:
        """Report something a user should know; the run goes on."""
        self.warnings.append(text)

    def pick(self, rows: int, table: str) -> NDArray[np.intp]:
        """Positions of the rows to price, ascending: all, or a draw of ``sample``, the same for the same table."""
        if not self.sample or rows <= self.sample:
            return np.arange(rows)
        rng = np.random.default_rng((self.seed, zlib.crc32(f"{self.source}/{table}".encode())))
        return np.sort(rng.choice(rows, self.sample, replace=False))

    def only(self, machine: Sequence[str] | Texts) -> NDArray[np.bool_]:
        """Mask of the rows of the machine that was asked for."""
        names = np.asarray(machine, dtype=np.str_)
        return np.asarray(names == self.machine if self.machine else np.ones(names.shape, dtype=bool))


def comparison(
    ask: Ask,
    table: str,
    *,
    metric: str,
    phase: str,
    machine: Any,
    family: Any,
    measured: ArrayLike,
    predicted: ArrayLike = np.nan,
    low: ArrayLike = np.nan,
    high: ArrayLike = np.nan,
    roofline: ArrayLike = np.nan,
    split: Any = "all",
    why: Any = "",
) -> Comparison:
    """A :class:`Comparison` from columns and scalars, all brought to the length of ``measured``.

    Rows of other machines than ``ask.machine`` are dropped; a row with neither prediction nor reason gets one.
    """
    truth = np.atleast_1d(np.asarray(measured, dtype=np.float64))
    n = truth.size

    def numbers(values: ArrayLike) -> Floats:
        return np.broadcast_to(np.asarray(values, dtype=np.float64), (n,))

    def texts(values: Any) -> Texts:
        return np.broadcast_to(np.asarray(values, dtype=np.str_), (n,))

    names, answer = texts(machine), numbers(predicted)
    answer = np.where(np.isfinite(answer) & (answer > 0), answer, np.nan)
    reason = texts("")
    if np.isnan(answer).any():
        reason = np.where(np.isnan(answer), np.where(texts(why) == "", "no prediction", texts(why)), "")
    keep = ask.only(names) if ask.machine else slice(None)
    return Comparison(
        ask.source,
        table,
        metric,
        phase,
        machine=names[keep],
        family=texts(family)[keep],
        measured=truth[keep],
        predicted=answer[keep],
        low=numbers(low)[keep],
        high=numbers(high)[keep],
        roofline=numbers(roofline)[keep],
        split=texts(split)[keep],
        why=reason[keep],
    )


def guarded(ask: Ask, path: Path, read: Callable[..., Iterator[Comparison]], *arguments: Any) -> Iterator[Comparison]:
    """The comparisons of one file; if reading it fails, a warning and all of its rows uncovered.

    Args:
        ask: the run.
        path: the file; one that is absent yields nothing.
        read: reads it, called once with the ``arguments``.
    """
    if not path.is_file():
        return
    ask.opened.add(path.name)
    read_rows = 0
    try:
        for part in read(*arguments):
            read_rows += len(part)
            yield part
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, SteelyardError) else str(error)
        ask.warn(f"{ask.source}/{path.name}: {reason}")
        yield unread(ask, path, reason, read_rows)


def unread(ask: Ask, path: Path, reason: str, read_rows: int = 0) -> Comparison:
    """The rows of a file beyond ``read_rows`` as not covered (one row where even their number cannot be told)."""
    truth = np.full(max(1, _rows_in(path) - read_rows), np.nan)
    return comparison(
        ask, path.stem, metric="*", phase="*", machine=ask.machine or "*", family="*", measured=truth, why=reason
    )


def _rows_in(path: Path) -> int:
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return int(parquet.read_metadata(path).num_rows)
        if path.suffix == ".csv":
            with open_file(path, MAX_BYTES) as file:
                return sum(1 for _ in file) - 1
    except Exception:
        return 0
    return 0


def read_frame(path: Path, columns: Sequence[str] = (), optional: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV (also packed, ``.csv.gz``) or Parquet table as a DataFrame.

    Args:
        path: the file.
        columns: columns it must have; only these and the optional ones are returned (empty: all).
        optional: columns that are added as missing values when the file lacks them.

    Raises:
        InputError: columns are missing, all named.
    """
    import pandas as pd

    with open_file(path, MAX_BYTES) as file:
        frame = pd.read_parquet(file) if path.suffix == ".parquet" else pd.read_csv(_plain(file), low_memory=False)
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise InputError(f"columns missing: {', '.join(absent)}", field=path.name)
    for name in optional:
        if name not in frame.columns:
            frame[name] = np.nan
    return frame[[*columns, *optional]] if columns else frame


def _plain(file: IO[bytes]) -> IO[bytes]:
    """A file, unpacked where it is packed."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not packed:
        return file
    with gzip.open(file, "rb") as unpacked:
        data = unpacked.read(MAX_UNPACKED_BYTES + 1)
    if len(data) > MAX_UNPACKED_BYTES:
        raise InputError(f"expected at most {MAX_UNPACKED_BYTES >> 20} MiB unpacked")
    return io.BytesIO(data)


@cache
def machine_of(name: str) -> Machine | None:
    """The catalogue's machine for a name a table uses; None when it has none."""
    text = name.strip()
    for candidate in (text, text.removesuffix("_server"), text.replace("_", " ")):
        try:
            return find_machine(candidate)
        except SteelyardError:
            continue
    return None


def machine_name(name: str) -> str:
    """Its catalogue name, or the name itself."""
    machine = machine_of(name)
    return machine.name if machine else name
