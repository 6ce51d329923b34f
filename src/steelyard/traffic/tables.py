"""Trace tables in CSV or parquet: one description of columns per format, one way to read them.

Formats and where they are from:

- ``vidur``: ``arrived_at,num_prefill_tokens,num_decode_tokens`` in s (microsoft/vidur), the plain form;
- ``azure``: ``TIMESTAMP,ContextTokens,GeneratedTokens`` (Azure/AzurePublicDataset, LLM inference traces 2023 and 2024);
- ``burstgpt``: ``Timestamp,...,Request tokens,Response tokens,...`` in s (HPMLL/BurstGPT 1.1, 1.2 and 2.0); failed
  requests have no response tokens and are dropped;
- ``sharegpt``: lengths with arrivals in ns (casys-kaist/LLMServingSim), and logs of requests with measured times;
- ``lengths``: ``input_length,output_length`` without arrivals;
- ``steelyard``: the records ``steelyard simulate --records`` writes.
"""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.documents import open_lines
from steelyard.errors import InputError, suggest
from steelyard.traffic.readers import (
    MAX_BAD,
    MAX_BYTES,
    MAX_JSON_LINES,
    MAX_ROWS,
    Head,
    Recorded,
    read_json,
    real_number,
    refuse_rows,
    separator_of,
)
from steelyard.traffic.trace import LENGTHS, MAX_TOKENS, Floats, Integers

__all__ = [
    "MAX_FIELDS",
    "Table",
    "azure",
    "batches",
    "burstgpt",
    "lengths",
    "once",
    "parquet_columns",
    "sharegpt",
    "steelyard",
    "vidur",
]

#: Columns of measured times we know, ``name -> (field, factor to s)``.
_MEASURED = {
    "ttft_s": ("ttft_s", 1.0),
    "ttft_ms": ("ttft_s", 1e-3),
    "tpot_s": ("tpot_s", 1.0),
    "tpot_ms": ("tpot_s", 1e-3),
    "e2e_s": ("e2e_s", 1.0),
    "e2e_ms": ("e2e_s", 1e-3),
    "queued_s": ("queued_s", 1.0),
}
_MOMENT = re.compile(r"^\s*(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|([+-])(\d\d):?(\d\d))?\s*$")
#: Years of dates that are read: beyond, nanoseconds since 1970 do not fit 64 bits.
_YEARS = ("1900", "2200")
#: Most fields (or hashes) kept of a file read row by row, its largest size, and that of a parquet file unpacked, bytes.
MAX_FIELDS, MAX_TEXT, MAX_TABLE = 8_000_000, 256 * 2**20, 512 * 2**20
#: Columns that may stand in any table.
_OPTIONAL = ("priority", "deadline_s")


def _arrow() -> Any:
    """The module of parquet files. Raises :class:`InputError`."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError("parquet files need pyarrow: pip install 'steelyard[data]'", field="trace") from None
    return pyarrow.parquet


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Columns of a parquet file. Raises :class:`InputError`."""
    parquet = _arrow()
    with _damaged(path):
        return tuple(parquet.read_schema(path).names)


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """What pyarrow says of a file it cannot read, in one line."""
    from pyarrow import ArrowException

    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, ArrowException) as error:
        raise InputError(f"{path.name}: {' '.join(str(error).split())}", field="trace") from None


@dataclass(frozen=True)
class Table:
    """A format that is a table with one row per request.

    Args:
        title: what it is.
        prompt, output: columns of the tokens of each.
        arrived_at: column of the arrival, None = none.
        seconds: s per unit of that column; 0 = date and time.
        select: column that tells several traces in one file apart.
        session: column of the conversation.
        failed: a length of 0 marks a failed request, dropped and counted.
        needs: further columns that tell the format.
        alone: a file with any other column is another format.
    """

    title: str
    prompt: str
    output: str
    arrived_at: str | None = None
    seconds: float = 1.0
    select: str = ""
    session: str = ""
    failed: bool = False
    needs: tuple[str, ...] = field(default=())
    alone: bool = False

    def recognises(self, head: Head) -> bool:
        """All its columns are there (and no other, for a format that stands ``alone``)."""
        wanted = {self.prompt, self.output, *([self.arrived_at] if self.arrived_at else []), *self.needs}
        seen = set(head.columns)
        return head.text.lstrip()[:1] not in ("{", "[") and (seen == wanted if self.alone else wanted <= seen)

    def read(self, path: Path, select: str) -> Recorded:
        """The requests. Raises :class:`InputError` with every bad line."""
        quick = None if select else self._quick(path)
        if quick is not None:
            return quick
        extra = [self.arrived_at] if self.arrived_at else []
        wanted = [self.prompt, self.output, *extra, *([self.select] if self.select else [])]
        table, lines = _columns(path, wanted, [self.session, self.select, *_MEASURED, *_OPTIONAL])
        rows, which = np.arange(len(table[self.prompt])), None
        if self.select and self.select in table:
            which, rows = _selected(table[self.select], select, path.name)
        elif select:
            raise InputError(f"{path.name} holds one trace; {select!r} is not in it", field="trace")
        problems: list[tuple[int, str]] = []
        lines = lines[rows]
        isl = _tokens(table[self.prompt][rows], self.prompt, lines, problems, least=0 if self.failed else 1)
        osl = _tokens(table[self.output][rows], self.output, lines, problems, least=0 if self.failed else 1)
        arrived = None
        if self.arrived_at:
            arrived = _times(table[self.arrived_at][rows], self.arrived_at, self.seconds, lines, problems)
        order = {
            column: _whole(table[column][rows], column, lines, problems)
            if column == "priority"
            else _numbers(table[column][rows])
            for column in _OPTIONAL
            if column in table
        }
        refuse_rows(problems, path.name, "row" if path.suffix.lower() == ".parquet" else "line")
        good = (isl >= 1) & (osl >= 1)
        measured = {
            name: _numbers(table[column][rows])[good] * factor
            for column, (name, factor) in _MEASURED.items()
            if column in table
        }
        session = None
        if self.session and self.session in table:
            session = np.unique(table[self.session][rows], return_inverse=True)[1].astype(np.int64)
        rejected: tuple[str, ...] = ()
        if not good.all():
            rejected = (f"{int(np.sum(~good)):,} failed requests (no prompt or no answer) dropped",)
        notes = (f"trace {which} of {path.name}",) if which else ()
        return Recorded(
            isl[good],
            osl[good],
            None if arrived is None else arrived[good],
            session=None if session is None else session[good],
            priority=order["priority"][good].astype(np.int64) if "priority" in order else None,
            deadline_s=order["deadline_s"][good] if "deadline_s" in order else None,
            rejected=rejected,
            notes=notes,
            ttft_s=measured.get("ttft_s"),
            tpot_s=measured.get("tpot_s"),
            e2e_s=measured.get("e2e_s"),
            queued_s=measured.get("queued_s"),
        )

    def _quick(self, path: Path) -> Recorded | None:
        """A plain CSV of good numbers, parsed in C without a Python object per field; None = look at it row by row."""
        if path.suffix.lower() == ".parquet" or self.arrived_at is None or not self.seconds or self.failed:
            return None
        with open_lines(path, MAX_ROWS + 1, MAX_BYTES, "trace", errors="replace") as stream:
            first = stream.readline()
            separator = separator_of(first)
            head = [c.strip() for c in first.split(separator)]
            wanted = (self.arrived_at, self.prompt, self.output)
            if (
                not set(wanted) <= set(head)
                or any(head.count(c) > 1 for c in wanted)
                or {self.select, self.session, *_MEASURED, *_OPTIONAL} & set(head)
            ):
                return None
            columns = [head.index(c) for c in wanted]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")  # no rows
                    at, isl, osl = np.loadtxt(
                        stream, delimiter=separator, usecols=columns, comments=None, unpack=True, ndmin=2
                    )
            except (ValueError, IndexError, UserWarning):
                return None
        lengths = np.stack([isl, osl])
        if not (isl.size and np.all((lengths >= 1) & (lengths <= MAX_TOKENS) & (lengths == np.floor(lengths)))):
            return None
        if not np.all(np.isfinite(at) & (at >= 0)):
            return None
        return Recorded(isl.astype(np.int64), osl.astype(np.int64), at * self.seconds)


def batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """The rows of a parquet file, some thousands at a time. Raises :class:`InputError`: damaged, or too many."""
    parquet, size = _arrow(), 0
    with _damaged(path), parquet.ParquetFile(path) as file:
        if file.metadata.num_rows > MAX_ROWS:
            raise InputError(f"{path.name} has more than {MAX_ROWS:,} rows; cut it down", field="trace")
        for batch in file.iter_batches(4096, columns=list(columns)):
            size += batch.nbytes
            if size > MAX_TABLE:
                raise InputError(
                    f"{path.name} takes more than {MAX_TABLE / 2**20:,.0f} MiB once unpacked", field="trace"
                )
            yield batch


def once(columns: Sequence[str], names: Sequence[str], file: str) -> None:
    for name in columns:
        if names.count(name) > 1:
            raise InputError(f"{file} has the column {name!r} {names.count(name)} times", field="trace")


def _columns(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> tuple[dict[str, Any], Integers]:
    """Columns by name as numpy arrays (text from CSV), and the line of each row. Raises :class:`InputError`."""
    if path.suffix.lower() == ".parquet":
        names = parquet_columns(path)
        _all_there(wanted, names, path.name)
        present = [c for c in dict.fromkeys([*wanted, *optional]) if c in names]
        once(present, names, path.name)
        parts = list(batches(path, present))
        with _damaged(path):
            found = {c: [np.asarray(b.column(c).to_numpy(zero_copy_only=False)) for b in parts] for c in present}
        return {c: np.concatenate(v or [np.empty(0)]) for c, v in found.items()}, np.arange(
            1, sum(b.num_rows for b in parts) + 1
        )
    begins = _first_line(path)
    if begins.lstrip()[:1] in ("[", "{"):
        return _objects(path, wanted, optional, begins.lstrip()[0] == "[")
    if path.stat().st_size > MAX_TEXT:
        words = f"{path.name} has {path.stat().st_size / 2**20:,.0f} MiB; at most {MAX_TEXT / 2**20:,.0f} MiB are read"
        raise InputError(f"{words} unless it is a plain table of numbers", field="trace")
    try:
        with open_lines(path, MAX_ROWS + 1, MAX_BYTES, "trace") as stream:
            rows = csv.reader(stream, delimiter=separator_of(begins))
            head = [c.strip() for c in next(rows, [])]
            _all_there(wanted, head, path.name)
            present = [c for c in dict.fromkeys([*wanted, *optional]) if c in head]
            once(present, head, path.name)
            at = [head.index(c) for c in present]
            short: list[tuple[int, str]] = []
            columns: list[list[str]] = [[] for _ in present]
            lines: list[int] = []
            width = len(head)
            for row in rows:
                if not row or (len(row) == 1 and not row[0].strip()):
                    continue
                if len(row) != width:
                    short.append((rows.line_num, f"expected {width} fields, got {len(row)}"))
                    if len(short) >= MAX_BAD:
                        break
                    continue
                if len(lines) * len(at) >= MAX_FIELDS:
                    raise InputError(f"{path.name} holds more than {MAX_FIELDS:,} fields; cut it down", field="trace")
                lines.append(rows.line_num)
                for column, i in zip(columns, at, strict=True):
                    column.append(row[i])
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not a text file (UTF-8 expected)", field="trace") from None
    except csv.Error as error:
        raise InputError(f"{path.name}: {error}", field="trace") from None
    refuse_rows(short, path.name)
    if not lines:
        raise InputError(f"{path.name} has no rows below its header", field="trace")
    return {k: np.array(v, dtype=object) for k, v in zip(present, columns, strict=True)}, np.array(lines)


def _first_line(path: Path) -> str:
    with open_lines(path, MAX_ROWS + 1, MAX_BYTES, "trace", errors="replace") as stream:
        return next((line for line in stream if line.strip()), "")


def _objects(
    path: Path, wanted: Sequence[str], optional: Sequence[str], listed: bool
) -> tuple[dict[str, Any], Integers]:
    """Columns of a list of JSON objects, or of one object per line. Raises :class:`InputError`."""
    bad: list[tuple[int, str]] = []
    rows: list[tuple[int, Any]] = []
    if listed:
        rows = list(enumerate(read_json(path), 1))
    else:
        with open_lines(path, MAX_JSON_LINES, MAX_BYTES, "trace", errors="replace") as stream:
            for number, text in enumerate(stream, 1):
                if text.strip() and len(bad) < MAX_BAD:
                    try:
                        rows.append((number, json.loads(text)))
                    except (ValueError, RecursionError):
                        bad.append((number, "malformed JSON"))
    bad += [(n, "expected an object") for n, row in rows if not isinstance(row, Mapping)][:MAX_BAD]
    refuse_rows(bad, path.name, "entry" if listed else "line")
    names = [c for c in dict.fromkeys([*wanted, *optional]) if c in wanted or any(c in row for _, row in rows)]

    def cell(value: Any) -> Any:
        return value[:100] if isinstance(value, str) else real_number(value)

    found = {c: np.array([cell(row.get(c)) for _, row in rows], dtype=object) for c in names}
    return found, np.array([n for n, _ in rows], dtype=np.int64)


def _all_there(wanted: Sequence[str], head: Sequence[str], file: str) -> None:
    for column in wanted:
        if column not in head:
            near = suggest(column, head, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{file} has no column {column!r}{hint}", field="trace")


def _selected(names: Any, select: str, file: str) -> tuple[str, Integers]:
    known = sorted({str(x) for x in names})
    some = [*known[:20], *(["..."] if len(known) > 20 else [])]
    if not select and len(known) > 1:
        raise InputError(
            f"{file} holds {len(known):,} traces; choose one: {', '.join(f'{file}#{k}' for k in some)}", field="trace"
        )
    if select and select not in known:
        near = suggest(select, known[:1000], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it holds {', '.join(some)}"
        raise InputError(f"{file} holds no trace {select!r}; {hint}", field="trace")
    chosen = select or known[0]
    return chosen, np.array([i for i, x in enumerate(names) if str(x) == chosen], dtype=np.int64)


def _numbers(values: Any) -> Floats:
    """Floats; what cannot be read is NaN."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.full(len(values), np.nan)
        for i, value in enumerate(values):
            try:
                found[i] = float(value)
            except (TypeError, ValueError):
                continue
        return found


def _tokens(values: Any, column: str, lines: Integers, problems: list[tuple[int, str]], least: int) -> Integers:
    numbers = _numbers(values)
    bad = ~((numbers >= least) & (numbers <= MAX_TOKENS) & (numbers == np.floor(numbers)))
    for i in np.flatnonzero(bad)[:MAX_BAD]:
        words = f"most {MAX_TOKENS:,}" if numbers[i] > MAX_TOKENS else f"least {least}"
        problems.append((int(lines[i]), f"{column}: expected a whole number of at {words}, got {values[i]!r}"))
    return np.where(bad, 0, numbers).astype(np.int64)


def _whole(values: Any, column: str, lines: Integers, problems: list[tuple[int, str]]) -> Floats:
    numbers = _numbers(values)
    for i in np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.floor(numbers))))[:MAX_BAD]:
        problems.append((int(lines[i]), f"{column}: expected a whole number, got {values[i]!r}"))
    return numbers


def _times(values: Any, column: str, seconds: float, lines: Integers, problems: list[tuple[int, str]]) -> Floats:
    if seconds:
        numbers = _numbers(values)
        bad = ~(np.isfinite(numbers) & (numbers >= 0))
        for i in np.flatnonzero(bad)[:MAX_BAD]:
            problems.append((int(lines[i]), f"{column}: expected a time of at least 0, got {values[i]!r}"))
        return np.asarray(np.where(bad, 0.0, numbers) * seconds, dtype=np.float64)
    moments = _moments(values)
    for i in np.flatnonzero(np.isnat(moments))[:MAX_BAD]:
        problems.append((int(lines[i]), f"{column}: expected a date and time, got {values[i]!r}"))
    if np.isnat(moments).any():
        return np.zeros(len(moments))
    return np.asarray((moments - moments.min()) / np.timedelta64(1, "ns") * 1e-9, dtype=np.float64)


def _moments(values: Any) -> Any:
    """Dates and times in UTC, with up to 9 decimals; those without a zone are taken as UTC. NaT = unreadable."""

    def read(value: Any) -> np.datetime64:
        match = _MOMENT.match(str(value))
        try:
            if match is None or not _YEARS[0] <= match[1][:4] <= _YEARS[1]:
                return np.datetime64("NaT", "ns")
            moment = np.datetime64(match[1], "ns")
        except ValueError:  # the 31st of February
            return np.datetime64("NaT", "ns")
        minutes = int(match[3]) * 60 + int(match[4]) if match[2] else 0
        return moment - np.timedelta64(-minutes if match[2] == "-" else minutes, "m")

    if max((len(str(v)) for v in values), default=0) > 100:  # an array gives every text the room of the longest
        return np.array([read(v) for v in values], dtype="datetime64[ns]")
    texts: Any = np.asarray(values, dtype=str)
    years = texts.astype("U4")
    usual = bool(np.all((years >= _YEARS[0]) & (years <= _YEARS[1])))
    if usual and np.char.str_len(texts).min(initial=99) >= len("2023-11-16 18:15:46"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # numpy warns of zones
                return texts.astype("datetime64[ns]")
        except (ValueError, UserWarning, DeprecationWarning):
            pass
    return np.array([read(v) for v in values], dtype="datetime64[ns]")


vidur = Table("Vidur CSV, the plain form", "num_prefill_tokens", "num_decode_tokens", "arrived_at")
azure = Table("Azure LLM inference traces 2023 and 2024", "ContextTokens", "GeneratedTokens", "TIMESTAMP", seconds=0.0)
azure_table = Table(
    "Azure traces, several in one table", "input_length", "output_length", "arrival_s", select="trace", needs=("trace",)
)
burstgpt = Table(
    "BurstGPT 1.1 to 2.0", "Request tokens", "Response tokens", "Timestamp", session="Session ID", failed=True
)
sharegpt = Table(
    "ShareGPT lengths with arrivals", "input_toks", "output_toks", "arrival_time_ns", seconds=1e-9, select="workload"
)
served = Table("log of served requests", "input_toks", "output_toks", "arrival_s", select="gpu", needs=("e2e_ms",))
lengths = Table("lengths without arrivals", "input_length", "output_length", alone=True)
steelyard = Table("records of steelyard simulate", *LENGTHS, "arrived_at")
