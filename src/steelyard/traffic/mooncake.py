"""Traces with block hashes: Mooncake's and those of Alibaba's Bailian, JSON lines or parquet.

``timestamp``, ``input_length``, ``output_length`` and, when prefixes are known, ``hash_ids`` of equal blocks of the
prompt: 512 tokens in Mooncake's (kvcache-ai/Mooncake, FAST'25, times in ms), 16 in Bailian's
(alibaba-edu/qwen-bailian-usagetraces-anon, ``chat_id``, times in s). Other block sizes are told from the numbers of
hashes and tokens.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.documents import open_lines
from steelyard.errors import InputError
from steelyard.traffic.readers import (
    MAX_BAD,
    MAX_BYTES,
    MAX_JSON_LINES,
    Head,
    Recorded,
    real_number,
    refuse_rows,
    whole_numbers,
)
from steelyard.traffic.tables import MAX_FIELDS, batches, once, parquet_columns
from steelyard.traffic.trace import Integers

__all__ = ["BLOCK_TOKENS", "mooncake"]

#: Block sizes looked for, tokens; Mooncake's first, where several fit.
BLOCK_TOKENS = (512, 16, 32, 64, 128, 256, 1024, 2048, 4096)


class Mooncake:
    """Requests with block hashes, or without."""

    title = "Mooncake (FAST'25) and Qwen-Bailian, JSON lines or parquet, with or without block hashes of any size"

    def recognises(self, head: Head) -> bool:
        """``timestamp`` and both lengths, as JSON objects or with ``hash_ids``."""
        seen = set(head.columns)
        plain = {"timestamp", "input_length", "output_length"} <= seen
        return plain and ("hash_ids" in seen or head.text.lstrip()[:1] == "{")

    def read(self, path: Path, select: str) -> Recorded:
        """The requests. Raises :class:`InputError` with every bad line."""
        if select:
            raise InputError(f"{path.name} holds one trace; {select!r} is not in it", field="trace")
        parquet = path.suffix.lower() == ".parquet"
        problems: list[tuple[int, str]] = []
        isl, osl, at, hashes, ends = array("q"), array("q"), array("d"), array("q"), array("q", [0])
        chats: dict[str, int] = {}
        session, seconds, last_line, hashed = array("q"), 1e-3, 0, True
        for line, row in _rows(path) if parquet else _json_lines(path, problems):
            if len(problems) >= MAX_BAD:
                break
            lengths = [whole_numbers(row.get(c), c) for c in ("input_length", "output_length")]
            stamp = real_number(row.get("timestamp"))
            if "chat_id" in row:
                seconds = 1.0
                parent = str(row.get("parent_chat_id", -1))
                known = chats.get(parent, len(chats))
                chats[str(row["chat_id"])] = known
                session.append(known)
            ids: Any = row.get("hash_ids")
            hashed = hashed and ids is not None
            wrong = [words for _, words in lengths if words]
            if not (np.isfinite(stamp) and stamp >= 0):
                wrong.append(f"timestamp: expected a number of at least 0, got {str(row.get('timestamp'))[:40]!r}")
            if ids is not None and (not isinstance(ids, list) or not all(type(x) is int for x in ids)):
                wrong.append("hash_ids: expected a list of whole numbers")
            problems += [(line, words) for words in wrong]
            last_line = line
            if not wrong:
                isl.append(lengths[0][0])
                osl.append(lengths[1][0])
                at.append(stamp)
                hashes.extend([x % 2**63 for x in ids or ()])
                ends.append(len(hashes))
                if len(hashes) > MAX_FIELDS:
                    raise InputError(f"{path.name} holds more than {MAX_FIELDS:,} hashes; cut it down", field="trace")
        refuse_rows(problems, path.name, "row" if parquet else "line")
        prompts, offsets = np.array(isl, dtype=np.int64), np.array(ends, dtype=np.int64)
        size = _block(prompts, np.diff(offsets)) if hashed and len(hashes) else 0
        if hashed and len(hashes) and not size:
            raise InputError(
                f"{path.name}: hash_ids do not fit the prompts for any block of {', '.join(map(str, BLOCK_TOKENS))} "
                f"tokens (looked at {last_line:,} lines)",
                field="trace",
            )
        return Recorded(
            prompts,
            np.array(osl, dtype=np.int64),
            np.array(at) * seconds,
            session=np.array(session, dtype=np.int64) if len(session) == len(isl) else None,
            hashes=np.array(hashes, dtype=np.int64) if size else None,
            offsets=offsets if size else None,
            block_tokens=size,
            notes=() if hashed else ("no block hashes: prompts share nothing",),
        )


def _block(prompts: Integers, blocks: Integers) -> int:
    """Tokens of a block: of the sizes that hold every prompt's hashes, that with the fewest missing; 0 = none does."""
    fits = {size: -(-prompts // size) - blocks for size in BLOCK_TOKENS}
    known = {size: float(np.mean(left)) for size, left in fits.items() if np.all(left >= 0)}
    return min(known, key=lambda size: known[size]) if known else 0


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """``(row, fields)`` of every row of a Mooncake trace in parquet."""
    columns = ("timestamp", "input_length", "output_length", "hash_ids")
    once(columns, parquet_columns(path), path.name)
    yield from enumerate((row for batch in batches(path, columns) for row in batch.to_pylist()), 1)


def _json_lines(path: Path, problems: list[tuple[int, str]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """``(line, object)`` of every line that is one; what is not becomes a problem."""
    with open_lines(path, MAX_JSON_LINES, MAX_BYTES, "trace", errors="replace") as stream:
        for line, text in enumerate(stream, 1):
            if not text.strip():
                continue
            if len(problems) >= MAX_BAD:
                return
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                problems.append((line, "not a JSON object"))
                continue
            if isinstance(row, Mapping):
                yield line, row
            else:
                problems.append((line, "not a JSON object"))


mooncake = Mooncake()
