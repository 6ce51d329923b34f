"""Answers that took long, kept on disk as each ends: one file each, whole or not there.

A file that cannot be read, or whose content is not what was written, is set aside under another name and said; nothing
is written over it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard._version import __version__
from steelyard.documents import read_bytes
from steelyard.errors import InputError, SteelyardError, show
from steelyard.page.answers import key_of, shown_dict, shown_from
from steelyard.page.question import Question
from steelyard.page.screen import Shown
from steelyard.writing import write_text

__all__ = ["Store"]

SCHEMA = "steelyard.page_answer/1"
#: Largest answer kept.
MAX_BYTES = 256 * 2**20


class Store:
    """A folder of answers.

    Args:
        folder: made when the first answer is kept; None: they are kept in memory, and gone with the server.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._memory = folder, dict[str, Shown]()
        self.notices: list[str] = []
        """What went wrong with the folder, said on every page."""

    def path(self, key: str) -> Path | None:
        """The file of an answer."""
        return self._folder / f"{key}.json" if self._folder is not None and re.fullmatch(r"[0-9a-f]{16}", key) else None

    def get(self, question: Question) -> Shown | None:
        """The answer that is kept; None: there is none."""
        key = key_of(question.screen, question.columns[0])
        if key in self._memory:
            return self._memory[key]
        path = self.path(key)
        if path is None or not path.exists():
            return None
        try:
            return _read(path)
        except SteelyardError as error:
            self._set_aside(path, str(error))
            return None

    def put(self, question: Question, shown: Shown) -> None:
        """Keep an answer; where it cannot be written it is kept in memory, and that is said."""
        key = key_of(question.screen, question.columns[0])
        path = self.path(key)
        if path is None:
            self._memory[key] = shown
            return
        text = json.dumps(shown_dict(shown), allow_nan=False)
        head = {"schema": SCHEMA, "version": __version__, "screen": question.screen.name, "query": question.query}
        head["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(head) + "\n" + text, "store")
        except (OSError, SteelyardError) as error:
            self._memory[key] = shown
            self._say(f"answers are kept in memory only: {error}")

    def _set_aside(self, path: Path, why: str) -> None:
        aside = next(p for i in range(10_000) if not (p := path.with_suffix(f".damaged{i or ''}")).exists())
        try:
            path.rename(aside)
        except OSError:
            aside = path
        self._say(f"a stored answer could not be read and was set aside as {show(aside.name)}: {why}")

    def _say(self, words: str) -> None:
        if words not in self.notices:
            self.notices.append(words)


def _read(path: Path) -> Shown:
    """The answer of a file. Raises :class:`InputError`: damaged."""
    head, _, text = read_bytes(path, MAX_BYTES, "store").partition(b"\n")
    try:
        said: Sequence[Any] | Mapping[str, Any] = json.loads(head)
        if not isinstance(said, dict) or said.get("schema") != SCHEMA:
            raise InputError(f"expected {SCHEMA}", field="store")
        if said.get("sha256") != hashlib.sha256(text).hexdigest():
            raise InputError("its content has changed since it was written", field="store")
        return shown_from(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("it is no JSON", field="store") from None
