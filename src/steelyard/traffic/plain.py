"""Tables of requests that follow no tool: columns are known by the names people give them; ShareGPT's conversations.

``time,input_tokens,output_tokens`` or any of :data:`NAMES`; times in s unless their column says otherwise (``_ms``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.traffic.readers import MAX_ROWS, SECONDS, Head, Recorded, read_json
from steelyard.traffic.tables import Table

__all__ = ["CHARACTERS_PER_TOKEN", "NAMES", "plain", "sharegpt_raw"]

#: What people call a column, without units and separators.
NAMES: Mapping[str, frozenset[str]] = {
    kind: frozenset(words.split())
    for kind, words in (
        (
            "arrived_at",
            "time timestamp ts arrived arrivedat arrival arrivaltime start starttime startedat sent sentat datetime "
            "date when created createdat requesttime requestedat requesttimestamp requeststart requeststarttime "
            "submittime submittedat",
        ),
        (
            "prompt",
            "inputtokens prompttokens contexttokens isl inputlength promptlength inputlen promptlen numinputtokens "
            "numprompttokens numprefilltokens requesttokens tokensin",
        ),
        (
            "output",
            "outputtokens completiontokens generatedtokens osl outputlength completionlength outputlen "
            "numoutputtokens numgeneratedtokens numdecodetokens responsetokens tokensout",
        ),
    )
}

#: Characters of English text per token (guess, 3.5 to 4.5 with the usual vocabularies).
CHARACTERS_PER_TOKEN = 4.0


def _known(column: str, kind: str) -> tuple[bool, str]:
    """Whether a column is of a kind, and its unit."""
    words = [w for w in re.split(r"[^a-z0-9]+", column.lower()) if w]
    unit = words.pop() if len(words) > 1 and words[-1] in SECONDS else ""
    return "".join(words) in NAMES[kind], unit


def _columns(columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The first column of each kind, with its unit."""
    found: dict[str, tuple[str, str]] = {}
    for column in columns:
        for kind in NAMES:
            of, unit = _known(column, kind)
            if of:
                found.setdefault(kind, (column, unit))
    return found


class Plain:
    """A table (comma, semicolon or tab between its columns, or parquet) or JSON objects with usual names."""

    title = "a table or JSON with columns such as time,input_tokens,output_tokens (time in s, or time_ms)"

    def recognises(self, head: Head) -> bool:
        """Lengths of prompts and answers are there."""
        return {"prompt", "output"} <= set(_columns(head.columns))

    def read(self, path: Path, select: str) -> Recorded:
        """The requests. Raises :class:`InputError` with every bad line."""
        from steelyard.traffic.readers import _head

        found = _columns(_head(path).columns)
        at, unit = found.get("arrived_at", (None, ""))
        table = Table(self.title, found["prompt"][0], found["output"][0], at, SECONDS.get(unit, 1.0))
        try:
            read = table.read(path, select)
        except InputError:
            if at is None or unit:
                raise
            read = replace(table, seconds=0.0).read(path, select)  # dates
        said = ", ".join(f"{kind.replace('_', ' ')} = {column}" for kind, (column, _) in found.items())
        return replace(read, notes=(*read.notes, f"columns read: {said}"))


class ShareGptRaw:
    """Conversations in text: lengths of the first question and its answer."""

    title = "ShareGPT conversations in text (tokens counted as characters / 4, no arrivals)"

    def recognises(self, head: Head) -> bool:
        """A list of objects with ``conversations``."""
        return head.text.lstrip()[:1] == "[" and '"conversations"' in head.text

    def read(self, path: Path, select: str) -> Recorded:
        """Lengths of every conversation that has a question and an answer."""
        if select:
            raise InputError(f"{path.name} holds one trace; {select!r} is not in it", field="trace")
        data = read_json(path)
        lengths = []
        for entry in data[:MAX_ROWS] if isinstance(data, list) else ():
            turns: Any = entry.get("conversations") if isinstance(entry, Mapping) else None
            spoken = [t.get("value") for t in turns[:2] if isinstance(t, Mapping)] if isinstance(turns, list) else []
            texts = [t for t in spoken if isinstance(t, str) and t]
            if len(texts) == 2:
                lengths.append([max(1, round(len(t) / CHARACTERS_PER_TOKEN)) for t in texts])
        left = len(data) - len(lengths) if isinstance(data, list) else 0
        both = np.array(lengths, dtype=np.int64).reshape(-1, 2)
        return Recorded(
            both[:, 0],
            both[:, 1],
            rejected=(f"{left:,} conversations without a question and an answer dropped",) if left else (),
            notes=(f"tokens counted as characters / {CHARACTERS_PER_TOKEN:.0f}",),
        )


plain = Plain()
sharegpt_raw = ShareGptRaw()
