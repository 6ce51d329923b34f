"""Trace files: one small reader per format, found by what a file holds.

A reader is an object with

    title                       what it reads, with the version of the tool that writes it
    recognises(head) -> bool    whether a file that begins like this is its own; cheap, never raises
    read(path, select) -> Recorded

registered in the entry-point group ``steelyard.traces``. ``select`` names one of several traces in a file
(``FILE#NAME``). A row that cannot be read is refused with its file and line; a row that the format itself marks as a
failed request is dropped and counted in ``rejected``.

Some public traces have names (:data:`NAMED`): they are found under ``$STEELYARD_DATA`` and read there, never copied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from steelyard.documents import is_file, no_file, open_file, read_text, refuse_binary
from steelyard.errors import InputError, Problem, raise_all, suggest
from steelyard.registry import Registry
from steelyard.traffic.trace import LENGTHS, MAX_TOKENS, Floats, Integers, Trace, gather

if TYPE_CHECKING:
    from steelyard.traffic.lengths import Lengths

__all__ = [
    "MAX_BAD",
    "MAX_BYTES",
    "MAX_JSON",
    "MAX_JSON_LINES",
    "MAX_ROWS",
    "MAX_VALUES",
    "NAMED",
    "READERS",
    "SECONDS",
    "Head",
    "Reader",
    "Recorded",
    "find_file",
    "json_text",
    "parsed",
    "read_json",
    "read_recorded",
    "read_trace",
    "refuse_rows",
    "separator_of",
]

#: Largest trace file read, bytes, and most rows of a table and of JSON lines, which take longer each.
MAX_BYTES, MAX_ROWS, MAX_JSON_LINES = 2**30, 2_000_000, 1_000_000
#: Largest log in one piece of JSON, in bytes, and most values in it: a value of three bytes may take 72 once read.
MAX_JSON, MAX_VALUES = 128 * 2**20, 5_000_000
#: Units of time as tools write them, s.
SECONDS: Mapping[str, float] = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}
#: Bad rows looked for before a file is given up.
MAX_BAD = 1000
#: Bytes looked at to recognise a file.
_HEAD_BYTES = 64 * 2**10
#: Bad rows named before the rest is only counted.
_NAMED_ROWS = 10

#: Traces with a name: files relative to ``$STEELYARD_DATA``, the first that exists, with the trace inside the file.
NAMED: dict[str, tuple[str, ...]] = {
    "azure_conv": (
        "truth/traces_azure/azure_llm_2023.csv#azure2023_conversation",
        "traces_azure/azure_llm_2023.csv#azure2023_conversation",
        "AzureLLMInferenceTrace_conv.csv",
    ),
    "azure_code": (
        "truth/traces_azure/azure_llm_2023.csv#azure2023_code",
        "traces_azure/azure_llm_2023.csv#azure2023_code",
        "AzureLLMInferenceTrace_code.csv",
    ),
    "mooncake_conversation": (
        "truth/traces_mooncake/mooncake_fast25_conversation.parquet",
        "traces_mooncake/mooncake_fast25_conversation.parquet",
        "conversation_trace.jsonl",
    ),
    "mooncake_synthetic": (
        "truth/traces_mooncake/mooncake_fast25_synthetic.parquet",
        "traces_mooncake/mooncake_fast25_synthetic.parquet",
        "synthetic_trace.jsonl",
    ),
}


@dataclass(frozen=True, slots=True)
class Head:
    """How a file begins."""

    suffix: str
    """Lower case, with the dot."""
    text: str
    """The first characters; empty for parquet."""
    columns: tuple[str, ...] = ()
    """Columns of a CSV or parquet file, else the keys of the first JSON object."""
    tail: str = ""
    """The last characters of a longer text: what a benchmark prints stands below the lines of its engine."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a file holds: lengths, arrivals when it has them, and measured times when it is the log of a benchmark.

    Args:
        isl, osl: ``[n]`` tokens.
        arrived_at: ``[n]`` s, any origin; None = the file has lengths only.
        session: ``[n]`` number of the conversation.
        priority, deadline_s: ``[n]``, as in :class:`~steelyard.traffic.trace.Trace`.
        hashes, offsets, block_tokens: block hashes, as in :class:`~steelyard.traffic.trace.Trace`.
        ttft_s, tpot_s, e2e_s, queued_s: ``[n]`` measured; None = not in the file, NaN = not for this request.
        concurrency: requests in flight at most, when the log says so.
        reader: name of the format.
        name: of the trace.
        rejected: failed requests that were dropped, one line each or counted.
        summary: measured statistics, ``time -> mean, p50 ... -> s``, of a log without an entry per request.
        said: what the log says of the run: ``engine``, ``model``, ``request_rate``, ``duration``.
        lacking: lengths that are not in the file, whose columns are 0; only a reader returns such.
        tokens_each: where they lack, tokens of a prompt and its answer together, 0 = not known.
    """

    isl: Integers
    osl: Integers
    arrived_at: Floats | None = None
    session: Integers | None = None
    priority: Integers | None = None
    deadline_s: Floats | None = None
    hashes: Integers | None = None
    offsets: Integers | None = None
    block_tokens: int = 0
    ttft_s: Floats | None = None
    tpot_s: Floats | None = None
    e2e_s: Floats | None = None
    queued_s: Floats | None = None
    concurrency: int = 0
    reader: str = ""
    name: str = ""
    rejected: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    summary: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    tokens_each: float = 0.0

    def __len__(self) -> int:
        return len(self.isl)

    def trace(self) -> Trace:
        """The requests as a trace that begins at 0.

        Raises:
            InputError: the file has no arrival times.
        """
        if self.arrived_at is None:
            limit, rate = self.concurrency, self.said.get("request_rate")
            said = (
                f" (its log says --concurrency {limit})" if limit else f" (its log says --rate {rate})" if rate else ""
            )
            raise InputError(
                f"{self.name} has lengths but no arrival times; give --rate or --concurrency{said}", field="trace"
            )
        return self.sent_at(self.arrived_at - self.arrived_at.min())

    def rows(self, keep: Integers) -> Recorded:
        """Only these rows, in this order; a row may come several times."""
        changes: dict[str, Any] = {}
        for name in _PER_REQUEST:
            values = getattr(self, name)
            if values is not None:
                changes[name] = values[keep]
        if self.hashes is not None and self.offsets is not None:
            changes["hashes"], changes["offsets"] = gather(self.hashes, self.offsets, keep)
        return replace(self, **changes)

    def sent_at(self, arrived_at: Floats) -> Trace:
        """The requests at other times, s."""
        return Trace(
            arrived_at,
            self.isl,
            self.osl,
            session=self.session,
            priority=self.priority,
            deadline_s=self.deadline_s,
            prefix_hashes=self.hashes,
            prefix_offsets=self.offsets,
            prefix_block_tokens=self.block_tokens,
            name=self.name,
            rejected=self.rejected,
            notes=self.notes,
        )


_PER_REQUEST = (
    *(*LENGTHS, "arrived_at", "session", "priority", "deadline_s"),
    *("ttft_s", "tpot_s", "e2e_s", "queued_s"),
)


class Reader(Protocol):
    """One format. See the module's text for the contract."""

    @property
    def title(self) -> str:
        """What it reads, with the version of the tool that writes it."""

    def recognises(self, head: Head) -> bool:
        """Whether a file that begins like this is of this format."""

    def read(self, path: Path, select: str) -> Recorded:
        """The requests of the file. Raises :class:`InputError` with the lines of all bad rows."""


READERS: Registry[Reader] = Registry("trace format", "steelyard.traces")


def read_trace(source: str | Path, reader: str = "") -> Trace:
    """The trace of a file, ``FILE#NAME`` inside a file, or one of :data:`NAMED`.

    Raises:
        InputError: no such file, an unknown format, bad rows (all of them), no rows, no arrival times.
    """
    return read_recorded(source, reader).trace()


def read_recorded(
    source: str | Path, reader: str = "", lengths: Mapping[str, Lengths] | None = None, seed: int = 0
) -> Recorded:
    """Everything a trace file or a benchmark's log holds.

    Args:
        source: as for :func:`read_trace`.
        reader: name of the format; empty = recognised.
        lengths: ``isl``, ``osl`` of a log that does not hold them.
        seed: of lengths that are drawn.

    Raises:
        InputError: no such file, an unknown format, bad rows (all of them), no rows; lengths that are neither in the
            file nor given, or both.
    """
    path, select, name = find_file(str(source))
    if not reader:
        head = _head(path)
        order = sorted(READERS, key=lambda n: n == "plain")  # what has any known columns is looked at last
        reader = next((n for n in order if READERS.get(n).recognises(head)), "")
        if not reader:
            seen = f"columns {', '.join(head.columns[:8])}" if head.columns else f"a {path.suffix or 'plain'} file"
            raise InputError(
                f"{path.name}: not a trace I know ({seen}); the plain form is CSV with "
                f"arrived_at,num_prefill_tokens,num_decode_tokens; known formats: {', '.join(READERS.names())}",
                field="trace",
            )
    found = READERS.get(reader).read(path, select)
    if not len(found):
        dropped = f" (all {len(found.rejected)} were dropped: {found.rejected[0]})" if found.rejected else ""
        raise InputError(f"{path.name} has no requests{dropped}", field="trace")
    return _completed(replace(found, name=name, reader=reader), path.name, lengths or {}, seed)


_SIDES = dict(zip(LENGTHS, ("prompt", "answer"), strict=True))


def _completed(found: Recorded, file: str, given: Mapping[str, Lengths], seed: int) -> Recorded:
    """A log with the lengths it lacks. Raises :class:`InputError` for each that is still unknown or not lacking."""
    raise_all(
        [Problem(k, "lengths come from the trace; leave one of the two out") for k in given if k not in found.lacking]
    )
    if not found.lacking:
        return found
    rng = np.random.default_rng(seed)
    known = {k: given[k].draw(len(found), rng) for k in LENGTHS if k in given}
    both = found.tokens_each > 0 and len(found.lacking) == len(LENGTHS)
    if both and len(known) == 1:
        ((said, tokens),) = known.items()
        rest = round(found.tokens_each) - tokens
        if rest.min() < 1:
            words = f"{file} has {found.tokens_each:,.0f} tokens per request, prompt and answer together"
            raise InputError(f"expected fewer: {words}", field=said)
        known[next(k for k in LENGTHS if k not in known)] = rest
    one = f" (or the other alone: each request has {found.tokens_each:,.0f} tokens in all)" if both else ""
    lost = [k for k in found.lacking if k not in known]
    raise_all([Problem(k, f"{file} has no {_SIDES[k]} lengths; add --{k} TOKENS{one}") for k in lost])
    full: dict[str, Any] = {k: known[k] for k in found.lacking}
    return replace(found, lacking=(), **full)


def find_file(source: str) -> tuple[Path, str, str]:
    """``(file, trace inside it, name)`` for a path or the name of a known trace.

    Raises:
        InputError: nothing there; a known trace says where it is looked for.
    """
    if source in NAMED and not is_file(source):
        folder = os.environ.get("STEELYARD_DATA", "")
        for place in NAMED[source]:
            file, _, select = place.partition("#")
            if folder and (Path(folder) / file).is_file():
                return Path(folder) / file, select, source
        where = f"is not under STEELYARD_DATA={folder}" if folder else "is looked for under $STEELYARD_DATA, not set"
        raise InputError(f"the trace {source!r} {where}; expected {NAMED[source][0]}", field="trace")
    path, select = Path(source), ""
    if not is_file(path) and "#" in source:
        before, _, select = source.rpartition("#")
        path = Path(before)
    if not is_file(path):
        near = suggest(source, NAMED, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise no_file(path, "trace", hint)
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path.name} is empty", field="trace")
    if size > MAX_BYTES:
        raise InputError(
            f"{path.name} has {size / 2**30:.1f} GiB; at most {MAX_BYTES / 2**30:.0f} are read", field="trace"
        )
    return path, select, path.stem + (f"#{select}" if select else "")


def json_text(path: Path, most: int = MAX_JSON) -> str:
    """The text of a log in JSON of ``most`` bytes. Raises :class:`InputError`: longer, or above :data:`MAX_VALUES`."""
    text = read_text(path, most, "trace")
    if sum(text.count(c) for c in ",[{") > MAX_VALUES:
        raise InputError(f"{path.name} holds more than {MAX_VALUES:,} values", field="trace")
    return text


def parsed(path: Path, read: Callable[[], Any]) -> Any:
    """What ``read`` parses of a file's JSON. Raises :class:`InputError` that names the file where it is malformed."""
    try:
        return read()
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name}: malformed JSON: {error}", field="trace") from None


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """A log in one piece of JSON of ``most`` bytes. Raises :class:`InputError`: malformed, or too large."""
    text = json_text(path, most)
    return parsed(path, lambda: json.loads(text))


def _head(path: Path) -> Head:
    suffix = path.suffix.lower()
    with open_file(path, MAX_BYTES, "trace") as stream:
        raw = stream.read(_HEAD_BYTES)
        stream.seek(0, os.SEEK_END)
        stream.seek(max(len(raw), stream.tell() - _HEAD_BYTES))
        tail = stream.read(_HEAD_BYTES).decode("utf-8", errors="replace")
    if raw[:4] == b"PAR1":
        from steelyard.traffic.tables import parquet_columns

        return Head(".parquet", "", parquet_columns(path))
    refuse_binary(raw, path, "trace")
    text = raw.decode("utf-8-sig", errors="replace")
    if "\r" in text and "\n" not in text:
        raise InputError(
            f"{path.name}: its lines end in a carriage return alone; save it with line feeds", field="trace"
        )
    first = text.lstrip().partition("\n")[0].strip()
    if text.lstrip()[:1] in ("{", "["):
        try:
            if text.lstrip()[0] == "[":  # of which the head may be only a part
                line = json.JSONDecoder().raw_decode(text, text.index("{"))[0]
            else:
                line = json.loads(first)
        except (ValueError, RecursionError):
            line = None
        return Head(suffix, text, tuple(line) if isinstance(line, dict) else ())
    return Head(suffix, text, tuple(x.strip().strip('"') for x in first.split(separator_of(first))), tail)


def separator_of(header: str) -> str:
    """What stands between the columns of a table, by its first line: a comma, a tab or a semicolon."""
    return next((mark for mark in ("\t", ";") if mark in header and "," not in header), ",")


def refuse_rows(problems: list[tuple[int, str]], file: str, unit: str = "line") -> None:
    """Raise one error that names the bad rows, in order. ``problems`` is ``(line, what is wrong)``; none = nothing."""
    if not problems:
        return
    problems = sorted(problems)
    shown = [Problem(f"{file}: {unit} {line}", words) for line, words in problems[:_NAMED_ROWS]]
    if len(problems) > _NAMED_ROWS:
        more = f"{len(problems) - _NAMED_ROWS:,}" if len(problems) < MAX_BAD else "many"
        shown.append(Problem(file, f"and {more} more problems"))
    raise_all(shown)


def whole_numbers(value: Any, column: str) -> tuple[int, str]:
    """``(value, "")`` of a token count of at least 1, or ``(0, what is wrong)``."""
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if number and 1 <= value <= MAX_TOKENS and value == int(value):
        return int(value), ""
    words = f"of at most {MAX_TOKENS:,}" if number and value > MAX_TOKENS else "of at least 1"
    return 0, f"{column}: expected a whole number {words}, got {str(value)[:40]!r}"


def real_number(value: Any) -> float:
    """A float of a JSON value, NaN when it is none (or beyond a float's range)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.nan
