"""The question of a screen as it stands in the address: to words, and from words to an address, a command and Python.

Every state is in the query. The first column has the fields by name (``model=llama-3.1-8b&batch=8``), the second and
further ones what they change of it (``2.on=b200_sxm``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from steelyard.errors import InputError, Problem, raise_all
from steelyard.machine.loader import is_machine_text
from steelyard.page.screen import Screen
from steelyard.scenario.fields import ENGINE_FLAGS, REQUIRED, Field, engine_flags, fields_of
from steelyard.scenario.words import read_value

__all__ = ["Question", "fields_on", "read_question", "words_of"]

#: Most parameters of a query.
MAX_FIELDS = 400
_COLUMN = re.compile(r"([2-9])\.(.+)")
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
#: A value that names a place outside the folder of the session: absolute, of a home, or upwards.
_OUTSIDE = re.compile(r"(?:^|[\s,:;@=+#|(])(?:[/\\~]|[A-Za-z]:[\\/])|(?:^|[\s,:;@=+#|(/\\])\.\.(?:[/\\]|$)|\\|\x00")
#: A value that names code.
_CODE = re.compile(r"\.py[a-z]?(?:$|[:#,\s])", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """What is asked of a screen: of each column every parameter as text, in the order given."""

    screen: Screen
    columns: tuple[Mapping[str, Sequence[str]], ...] = ({},)
    view: Mapping[str, str] = field(default_factory=dict)
    """Parameters that change what is shown, not what is asked (``_sort``): they begin with an underscore."""

    @property
    def query(self) -> str:
        """The query of this state."""
        first = self.columns[0]
        pairs = [(n, v) for n, values in first.items() for v in values]
        for i, column in enumerate(self.columns[1:], 2):
            changed = {n: v for n, v in column.items() if list(first.get(n, ())) != list(v)}
            gone = {n: [""] for n in first if n not in column}
            pairs += [(f"{i}.{n}", v) for n, values in ({**changed, **gone} or {"": [""]}).items() for v in values]
        return urlencode([*pairs, *self.view.items()])

    def words(self, column: int = 0) -> dict[str, Any]:
        """The words of a column for its verb. Raises :class:`InputError`."""
        return words_of(self.screen, self.columns[column])

    def command(self, column: int = 0) -> str:
        """What is typed for a column."""
        known, parts = fields_on(self.screen), ["steelyard", *self.screen.typed.split()]
        for name, values in self.columns[column].items():
            entry = known.get(name)
            for value in values:
                if entry is None or value == "":
                    continue
                if name == "model":
                    parts.insert(2, value)
                elif entry.type != "switch":
                    parts += [entry.switch, value]
                elif value.lower() in _YES:
                    parts.append(entry.switch)
                elif entry.default is not False:
                    parts.append(entry.switch.replace("--", "--no-", 1))
        return shlex.join(parts)

    @property
    def active(self) -> int:
        """The column whose form is shown, from 1."""
        said = self.view.get("_column", "1")
        return min(int(said), len(self.columns)) if re.fullmatch("[1-9]", said) else 1

    def alone(self, number: int) -> Question:
        """The question of one column, from 1."""
        return Question(self.screen, (self.columns[number - 1],))

    def python(self, column: int = 0) -> str:
        """The same as a call from Python."""
        try:
            words = self.words(column)
        except InputError:
            words = {n: list(v)[-1] for n, v in self.columns[column].items()}
        known = fields_on(self.screen)
        flags = {n: words.pop(n) for n in list(words) if n in ENGINE_FLAGS and n not in fields_of(self.screen.verb)}
        words |= {"flags": flags} if flags else {}
        placed = [repr(words.pop(n)) for n in ("model", "on") if n in words]
        named = [f"{n}={_literal(known.get(n), v)}" for n, v in words.items()]
        return f"import steelyard as sy\n\nsy.{self.screen.called}({', '.join([*placed, *named])})"


def _literal(entry: Field | None, value: Any) -> str:
    """A value as it is typed in Python: a number without quotes."""
    if entry is not None and entry.type in ("whole", "number") and re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", str(value)):
        return str(value)
    return repr(value)


def fields_on(screen: Screen) -> Mapping[str, Field]:
    """Every field that a screen takes, with engine flags of an option of their own."""
    if screen.fields is not None:
        return screen.fields()
    if not screen.verb:
        return {}
    known = {**engine_flags(screen.verb), **fields_of(screen.verb)}
    return {n: f for n, f in known.items() if f.type != "object" and f.options != ("",)}


def read_question(screen: Screen, query: str | Iterable[tuple[str, str]]) -> Question:
    """The question of a query; empty values are none.

    Raises:
        InputError: too many parameters, or a column the screen does not have.
    """
    pairs = list(query) if not isinstance(query, str) else _pairs(query)
    first: dict[str, list[str]] = {}
    others: dict[int, dict[str, list[str]]] = {}
    view: dict[str, str] = {}
    for name, value in pairs:
        value = value.strip()
        if name.startswith("_"):
            view[name] = value
        elif found := _COLUMN.fullmatch(name):
            others.setdefault(int(found[1]), {}).setdefault(found[2], []).append(value)
        elif re.fullmatch(r"[2-9]\.", name):
            others.setdefault(int(name[0]), {})
        elif value:
            first.setdefault(name, []).append(value)
    if others and max(others) > screen.columns:
        raise InputError(f"expected at most {screen.columns} side by side", field="columns")
    columns = [first]
    for _, changed in sorted(others.items()):
        own = {**first, **changed}
        columns.append({n: [v for v in values if v] for n, values in own.items() if any(values)})
    return Question(screen, tuple(columns), view)


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InputError(f"expected at most {MAX_FIELDS} parameters", field="query") from None


def words_of(screen: Screen, given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The words of one question: switches as true or false, all else as text, which the verb reads.

    Raises:
        InputError: a parameter that is given twice, names a place outside the session's folder, or names code.
    """
    known, problems, words = fields_on(screen), [], dict[str, Any]()
    hidden = {} if not screen.verb else {n: f for n, f in fields_of(screen.verb).items() if n not in known}
    for name, values in given.items():
        entry = known.get(name)
        problems += [Problem(name, why) for value in values if (why := _refused(name, value))][:1]
        if name in hidden:
            problems.append(Problem(name, "only a program can give this field"))
        elif entry is not None and entry.several:
            words[name] = tuple(values)
        elif len(values) > 1:
            problems.append(Problem(name, "given twice"))
        else:
            try:
                words[name] = _value(entry, values[0])
            except InputError as error:
                problems += error.problems
    raise_all(problems)
    return words


def _value(entry: Field | None, text: str) -> Any:
    if entry is not None and entry.type == "switch" and text.lower() in (*_YES, *_NO):
        return text.lower() in _YES
    if entry is not None and entry.name in ENGINE_FLAGS and entry.type in ("whole", "number"):
        return read_value(entry, text)
    if entry is not None and entry.type == "number" and entry.unit == "g/kWh":
        return text.lower().replace(" ", "").removesuffix("/kwh").removesuffix("g")
    if entry is not None and entry.name == "on" and entry.default is REQUIRED:
        return text.strip()
    return text


def _refused(name: str, text: str) -> str:
    """Why a value is not passed on; empty: nothing is wrong with it."""
    if name == "on" and is_machine_text(text):  # which is read as data
        return ""
    if _OUTSIDE.search(text):
        return "the page reads no files by their path; drop the file on it, and use its name"
    if _CODE.search(text):
        return "the page runs no code; use the command line"
    return ""
