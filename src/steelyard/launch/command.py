"""Commands as data: words, variables filled in where they run, and the flags the engines document."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from steelyard.errors import InputError, suggest

__all__ = [
    "Command",
    "Flags",
    "Line",
    "Var",
    "Word",
    "compose_word",
    "in_container",
    "kubernetes_word",
    "shell_defaults",
    "shell_quoted",
    "shell_word",
]

#: A value of a flag as the lists write its kind.
Kind = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Var:
    """A part of a word that is known only where it runs: ``before + $name + after``."""

    name: str
    default: str = ""
    before: str = ""
    after: str = ""


Word = str | Var


@dataclass(frozen=True, slots=True)
class Line:
    """A flag and its values, printed on one line."""

    words: tuple[Word, ...]


@dataclass(frozen=True)
class Flags:
    """The documented flags of one program, with the version they were read from."""

    name: str
    title: str
    version: str
    source: str
    program: tuple[str, ...]
    package: str
    metric: str
    image: Mapping[str, str]
    kinds: Mapping[str, Kind]
    options: Mapping[str, Kind]

    @classmethod
    @cache
    def of(cls, name: str) -> Flags:
        """The list of ``flags/NAME.toml``."""
        path = Path(__file__).parent / "flags" / f"{name}.toml"
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(
            name,
            data["title"],
            data["version"],
            data["source"],
            tuple(data["program"]),
            data["package"],
            data["metric"],
            data.get("image", {}),
            data["flags"],
            data.get("options", {}),
        )

    def line(self, flag: str, value: Any = None) -> Line:
        """A documented flag with its value.

        Args:
            flag: its name with the dashes.
            value: as its kind says; ``True`` or ``False`` for a switch, nothing for a flag.

        Raises:
            InputError: an undocumented flag, or a value of another kind.
        """
        if flag not in self.kinds:
            near = suggest(flag, self.kinds)
            raise InputError(
                f"{self.title} {self.version} has no {flag}; near: {', '.join(near) or 'none'}", field=flag
            )
        kind = self.kinds[flag]
        if kind == "flag":
            return Line((flag,))
        if kind == "switch":
            return Line((flag if value else flag.replace("--", "--no-", 1),))
        if kind == "list":
            return Line((flag, *(_checked(v, "str", flag) for v in value)))
        return Line((flag, _checked(value, kind, flag)))

    def lines(self, values: Mapping[str, Any]) -> list[Line]:
        """Documented flags with their values, as :meth:`line`; None, and False for a flag without a value: left out."""
        given = {k: v for k, v in values.items() if v is not None and not (v is False and self.kinds.get(k) == "flag")}
        return [self.line(flag, value) for flag, value in given.items()]

    def option(self, name: str, value: Any) -> tuple[str, Any]:
        """A documented field of the options file with its value. Raises :class:`InputError` as :meth:`line`."""
        if name not in self.options:
            raise InputError(f"{self.title} {self.version} has no option {name}", field=name)
        kind = self.options[name]
        good = {"flag": bool, "list": list}.get(kind) if isinstance(kind, str) else None
        if good is None:
            _checked(value, kind, name)
        elif not isinstance(value, good):
            raise InputError(f"expected {'true or false' if good is bool else 'a list'}, got {value!r}", field=name)
        return name, value


@dataclass(frozen=True)
class Command:
    """One process: program, its arguments line by line, environment, and files it reads by name."""

    program: tuple[str, ...]
    lines: tuple[Line, ...]
    env: Mapping[str, Word] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> Iterator[Word]:
        """Every argument behind the program."""
        for line in self.lines:
            yield from line.words


def _checked(value: Any, kind: Kind, name: str) -> Word:
    """The text of a value. Raises :class:`InputError` when it is not of its kind."""
    if isinstance(value, Var):
        return value
    if not isinstance(kind, str):
        if value not in kind:
            raise InputError(f"expected one of {', '.join(kind)}, got {value!r}", field=name)
        return str(value)
    good = {
        "int": lambda: isinstance(value, int) and not isinstance(value, bool),
        "float": lambda: isinstance(value, int | float) and not isinstance(value, bool),
        "str": lambda: isinstance(value, str),
        "json": lambda: isinstance(value, Mapping),
    }[kind]()
    if not good:
        raise InputError(f"expected {kind}, got {value!r}", field=name)
    if kind == "json":
        return json.dumps(value, separators=(",", ":"))
    return f"{value:.10g}" if kind == "float" else str(value)


def shell_word(word: Word) -> str:
    """A word for bash, quoted so that nothing in it is expanded but its variable (see :func:`shell_defaults`)."""
    if not isinstance(word, Var):
        return shell_quoted(word)
    if (word.before + word.after).isprintable():
        return f'"{_quoted(word.before)}${{{word.name}}}{_quoted(word.after)}"'
    before, after = (shell_quoted(x) if x else "" for x in (word.before, word.after))
    return f'{before}"${{{word.name}}}"{after}'


def shell_quoted(text: str) -> str:
    r"""Text as one word of bash on one line: what does not print is written ``$'\n'``."""
    if text.isprintable():
        return shlex.quote(text)
    made = "".join(
        f"\\{c}" if c in "\\'" else c if c.isprintable() else "".join(f"\\x{b:02x}" for b in _bytes(c)) for c in text
    )
    return f"$'{made}'"


def _bytes(character: str) -> bytes:
    return character.encode("utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff" else "replace")


def shell_defaults(command: Command) -> list[str]:
    """Lines of bash that give each variable of a command its default.

    An assignment of its own, because a default inside ``${NAME:-...}`` ends at the first brace in it.
    """
    found = {w.name: w.default for w in command.words if isinstance(w, Var) and w.default}
    return [f'[ -n "${{{name}:-}}" ] || {name}={shell_quoted(default)}' for name, default in found.items()]


def _quoted(text: str) -> str:
    """Text inside double quotes of bash."""
    return re.sub(r'(["$`\\])', r"\\\1", text)


def compose_word(word: Word) -> str:
    """A word for docker-compose: ``$`` is doubled, variables are interpolated from the environment."""
    if isinstance(word, Var):
        plain = re.fullmatch(r"[\w./:@+-]*", word.default, re.ASCII)  # a brace would end the default
        middle = f"${{{word.name}:-{word.default}}}" if plain else _doubled(word.default)
        return f"{_doubled(word.before)}{middle}{_doubled(word.after)}"
    return _doubled(word)


def _doubled(text: str) -> str:
    return text.replace("$", "$$")


def kubernetes_word(word: Word, names: Mapping[str, str] | None = None) -> str:
    """A word for the arguments of a pod: ``$(NAME)`` is expanded, ``$$(`` is not.

    Args:
        word: text or variable.
        names: variables of the cluster under their names there; a variable that is not among them is its default.
    """
    if isinstance(word, Var):
        known = (names or {}).get(word.name)
        middle = f"$({known})" if known else _escaped(word.default)
        return f"{_escaped(word.before)}{middle}{_escaped(word.after)}"
    return _escaped(word)


def _escaped(text: str) -> str:
    return text.replace("$(", "$$(")


def in_container(word: Word) -> Word:
    """A word as it is inside a container: files of options lie in /config."""
    if isinstance(word, Var) and word.name in ("OPTIONS", "DISAGGREGATED"):
        return f"/config/{word.default}"
    return word
