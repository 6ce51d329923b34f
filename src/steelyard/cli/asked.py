"""From the words of a command line to a verb and its arguments; everything wrong with them is found at once.

The parser stops at the first word it cannot read. Here that word is noted, what was most likely meant stands in for it
(or nothing), and reading goes on, so that one run names every wrong and every missing word of a question.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, get_args

from cyclopts import App, CycloptsError, MissingArgumentError
from cyclopts.exceptions import (
    CoercionError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from steelyard.errors import InputError, Problem, UnknownName, raise_all, show, suggest
from steelyard.scenario.fields import Field, engine_flags, fields_of
from steelyard.scenario.spellings import OFFLOADING, SPELLED, offloading

__all__ = ["Asked", "read"]

#: Whose fields the options of a verb are.
_FIELDS = MappingProxyType(
    {
        "estimate": "estimate",
        "explain": "estimate",
        "simulate": "simulate",
        "compare": "simulate",
        "calibrate": "simulate",
        "plan": "plan",
        "train": "train",
        "plan_train": "plan_training",
    }
)
#: Given to the parser so that an error, which it does not print, fixes no width for the help of later calls.
_NO_CONSOLE: Any = object()
#: Most wrong words of a line that are looked for.
_MOST = 40
#: Verbs of one request wherever it may run.
_ONE_REQUEST = ("fit", "here")
#: Letters of an option behind one dash at most.
_SHORT = 3
#: Fields of files that are options of some verbs as well.
_OF_FILES = ("kind", "name", "file")


@dataclass(frozen=True)
class Asked:
    """A command that can be called, and what is wrong with its words."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """What is typed for a field: ``--tp``, ``MODEL``."""

    def typed(self, problem: Problem) -> Problem:
        """The problem under the option's name."""
        return Problem(_typed(problem.field, self.names), problem.message)

    def run(self) -> None:
        """Answer. Raises what the verb raises; every :class:`InputError` names the options."""
        try:
            self.call(*self.arguments, **self.keywords)
        except InputError as error:
            problems = [self.typed(p) for p in error.problems]
            raise InputError(problems[0].message, field=problems[0].field, problems=problems) from error


def read(app: App, tokens: Sequence[str]) -> Asked:
    """The command that words ask for.

    Verbs that read a question take what is wrong with its words as ``problems``, and tell it with what they find.

    Raises:
        InputError: with everything that is wrong, where the verb reads no question or is unknown.
    """
    line = _Line(app, _respelled(tokens))
    line.leave_out_empty()
    for _ in range(_MOST):
        try:
            command, bound, ignored = app.parse_args(
                line.tokens, exit_on_error=False, print_error=False, error_console=_NO_CONSOLE
            )
        except CycloptsError as error:
            if not line.go_on(error):
                break
            continue
        keywords = dict(bound.kwargs)
        if "problems" in ignored:
            from steelyard.scenario.words import Problems

            keywords["problems"] = Problems()
            keywords["problems"].add(line.found)
        else:
            line.refuse()
        return Asked(command, bound.args, keywords, line.names)
    line.refuse()
    raise AssertionError("a line that cannot be read has a problem")


def _respelled(tokens: Sequence[str]) -> list[str]:
    """The words with what engines call the fields of a verb (``-c 4096``, ``--tp-size 8``) as our options.

    What they call the placing of weights (``-ngl 20``, ``--n-cpu-moe 36``) is ``--offload``.
    """
    words = _renamed(list(tokens))
    if not words or "offload" not in fields_of(_FIELDS.get(words[0], "plan")):
        return words
    said, kept, at = [], [], 0
    while at < len(words):
        option, equals, value = words[at].partition("=")
        key = option.lstrip("-").replace("-", "_")
        own = option == "--offload"
        if not option.startswith("-") or (key not in OFFLOADING and not own):
            kept.append(words[at])
            at += 1
            continue
        takes = own or "{}" in OFFLOADING[key]
        if takes and not equals:
            at += 1
            value = words[at] if at < len(words) else ""
        text = (value if own else offloading(key, value)) if takes else OFFLOADING[key]
        if takes and not value:
            raise InputError("expected a value after it", field=option.lstrip("-"))
        said.append(text)
        at += 1
    said.sort(key=lambda text: text.startswith("tensors:"))  # a pattern may have commas: it stands last
    return [*kept, "--offload", ",".join(said)] if said else kept


def _renamed(words: list[str]) -> list[str]:
    """The words with further spellings of options as the options; the same said twice stands once."""
    verb = words[0] if words else ""
    kind = "estimate" if verb in _ONE_REQUEST else _FIELDS.get(verb, "")
    if not kind:
        return words
    own = {**engine_flags(kind), **fields_of(kind)}
    if verb in _ONE_REQUEST:
        from steelyard.cli.options import ONE_REQUEST

        own = {name: own[name] for name in ("model", *ONE_REQUEST)}
    known = {word: name for word, name in SPELLED.items() if name in own}
    known |= {"model": "model"} if verb in (kind, "explain", "fit") else {}
    known["dtype"] = "dtype"  # of engines; `auto` asks for what is published
    if {"-ub", "--ubatch-size"} & {word.partition("=")[0] for word in words}:  # llama.cpp: the smaller of the two
        known |= {"b": known["ub"]} if "ub" in known else {}
    kept: list[str] = []
    steps: list[str] = []
    at = 0
    while at < len(words):
        option, equals, value = words[at].partition("=")
        word = option.lstrip("-").replace("-", "_")
        ours = known.get(word, "") if (len(word) <= _SHORT) != option.startswith("--") and option[:1] == "-" else ""
        if not ours or (ours == "model" and "model" not in known):
            kept.append(words[at])
            at += 1
            continue
        if not equals:
            at += 1
            value = words[at] if at < len(words) else ""
        if not value:
            raise InputError("expected a value after it", field=option)
        if ours == "model":
            kept.insert(1, value)
        elif word in ("b", "ub", "ubatch_size"):
            steps.append(value)
        elif ours == "dtype":
            kept += [] if value.lower() == "auto" else [words[at]] if equals else [option, value]
        elif (said := f"{own[ours].switch}={value}") not in kept:
            kept.append(said)
        at += 1
    smallest = min(steps, key=lambda text: int(text) if text.isdecimal() else 0, default="")
    return [*kept, f"{own[known['ub']].switch}={smallest}"] if steps else kept


def _typed(name: str, names: Mapping[str, str]) -> str:
    root, rest = re.match(r"([^.\[]*)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if root == "flags" and rest:
        return names.get(rest[1:], f"--flag {rest[1:]}")
    return name if root in _OF_FILES or root not in names else names[root] + rest


class _Line:
    """The words of a command line, changed where they cannot be read."""

    def __init__(self, app: App, tokens: list[str]) -> None:
        self.tokens = tokens
        self.found: list[Problem] = []
        self.verb = tokens[0] if tokens else ""
        self.known: set[str] = set()
        self.valued: dict[str, Any] = {}
        """The options that take a value, by what is typed."""
        self.options: dict[str, str] = {}
        """By Python name what is typed, of every argument of the verb."""
        spelled: dict[str, str] = {}
        if self.verb.isidentifier() and self.verb in app:
            words = {token.partition("=")[0]: None for token in tokens}
            for argument in app[self.verb].assemble_argument_collection():
                if argument.parse and argument.names != ("*",):
                    shown = next((n for n in argument.names if n in words), argument.names[0])
                    self.options[argument.field_info.name] = shown
                    spelled[argument.names[0].lstrip("-").replace("-", "_")] = shown
                    self.known |= {*argument.names}
                    if argument.hint is not bool:
                        self.valued |= dict.fromkeys(argument.names, argument)
        kind = _FIELDS.get(self.verb, "")
        self.fields: Mapping[str, Field] = fields_of(kind) if kind else {}
        self.names = {n: shown for n, shown in {**spelled, **self.options}.items() if shown[:2] == "--" or n == "model"}

    def refuse(self) -> None:
        """Raise :class:`InputError` with everything found."""
        raise_all([Problem(self.options.get(p.field, p.field), p.message) for p in self.found])

    def leave_out_empty(self) -> None:
        """Note every option whose value is empty text, as an unset variable of a shell leaves it."""
        i = 0
        while i < len(self.tokens):
            typed, equals, value = self.tokens[i].partition("=")
            alone = not equals and self.tokens[i + 1 : i + 2] == [""]
            argument = self.valued.get(typed) if alone or (equals and not value) else None
            if argument is None or not typed.startswith("-"):
                i += 1
                continue
            self._note(argument.field_info.name, f"needs a value: {argument.parameter.help}")
            del self.tokens[i : i + 1 + alone]

    def go_on(self, error: CycloptsError) -> bool:
        """Note what is wrong and change the words; whether there is anything left to read."""
        if isinstance(error, UnknownCommandError):
            return self._note("", _no_verb(self.verb, self.tokens, error))
        if isinstance(error, UnknownOptionError):
            return self._unknown(error.token.keyword or error.token.value)
        if isinstance(error, UnusedCliTokensError):
            return self._too_much([str(token) for token in error.unused_tokens or ()])
        token = getattr(error, "token", None)
        typed = token.keyword if token is not None else getattr(error, "keyword", None)
        if isinstance(error, RepeatArgumentError) and typed:
            self._note(self._python(typed), "given twice")
            return self._drop(typed, last=True)
        argument = error.argument
        if argument is None:
            return self._note("", " ".join(str(error).split()))
        name, entry = argument.field_info.name, self.fields.get(argument.field_info.name)
        if isinstance(error, MissingArgumentError):
            if typed:
                if self._joined(typed):
                    return True
                self._note(name, f"needs a value: {argument.parameter.help}")
                return self._drop(typed, last=True)
            for word in self.tokens[1:]:  # said in other words: what is meant by them is not missing
                head = word.partition("=")[0]
                if re.match("-{1,2}[A-Za-z]", word) and head not in self.known:
                    return self._unknown(head)
            from steelyard.scenario.words import missing

            self._note(name, missing(entry) if entry else f"is required: {argument.parameter.help}")
            return self._stand_in(argument.names[0])
        if isinstance(error, CoercionError) and token is not None:
            self._note(name, _unreadable(entry, argument.hint, token.value))
            return self._drop(token.keyword or "", token.value)
        return self._note(name, " ".join(str(error).split()))

    def _note(self, name: str, message: str) -> bool:
        if not name or name not in [p.field for p in self.found]:
            self.found.append(Problem(name, message))
        return False

    def _python(self, typed: str) -> str:
        return next((n for n, shown in self.options.items() if shown == typed), typed)

    def _unknown(self, typed: str) -> bool:
        """An option that the verb does not have: its nearest one is read in its place."""
        if self.verb in _FIELDS:
            from steelyard.scenario.words import unknown

            message, near = unknown(
                _FIELDS[self.verb], typed.lstrip("-"), self.options, verb=_spoken(self.verb), typed=True
            )
        else:
            names = [shown.lstrip("-") for shown in self.options.values() if shown.startswith("--")]
            near = next(iter(suggest(typed, names, 1, kind="field")), "")
            near, words = near.replace("-", "_"), f"did you mean --{near}?" if near else f"see `{_help(self.verb)}`"
            message = f"unknown option; {words}"
        self._note(typed, message)
        at = next((i for i, t in enumerate(self.tokens) if t == typed or t.startswith(f"{typed}=")), None)
        if at is None:
            return False
        shown = self.names.get(near, "")
        if shown.startswith("--") and not any(t == shown or t.startswith(f"{shown}=") for t in self.tokens):
            self.tokens[at] = shown + self.tokens[at].removeprefix(typed)
            return True
        return self._drop(typed)

    def _too_much(self, left: list[str]) -> bool:
        """Words that stand where none is expected; the first may be the machine."""
        given = [t for t in self.tokens if t == "--on" or t.startswith("--on=")]
        needs = "on" in self.fields and given in ([], ["--on="])  # nothing, or what stands in for it
        needs = needs and (bool(given) or _is_machine(left[0]))
        if needs and given:
            self.tokens.remove("--on=")
            self.found = [p for p in self.found if p.field != "on"]
        for word in left:
            hint = (
                f"did you mean --on {shlex.quote(word)}?"
                if needs
                else f"each belongs to an option, see `{_help(self.verb)}`"
            )
            self._note("", f"{show(word)} is one word too many; {hint}")
            at = max((i for i, t in enumerate(self.tokens) if t == word), default=None)
            if at is None:
                return False
            self.tokens[at : at + 1] = ["--on", word] if needs else []
            needs = False
        return bool(left)

    def _stand_in(self, shown: str) -> bool:
        """Empty text in the place of what is missing."""
        if shown.startswith("--"):
            self.tokens.append(f"{shown}=")
        elif shown == "MODEL":
            self.tokens.insert(1, "")
        else:
            return False
        return True

    def _joined(self, typed: str) -> bool:
        """Take the word after an option for its value though it begins with a dash: ``--rate -1/s``."""
        for i, (word, following) in enumerate(zip(self.tokens, self.tokens[1:], strict=False)):
            known = following.partition("=")[0] in self.known or following == "-h"
            if word == typed and re.match("-[^-]", following) and not known:
                self.tokens[i : i + 2] = [f"{typed}={following}"]
                return True
        return False

    def _drop(self, typed: str, value: str | None = None, *, last: bool = False) -> bool:
        """Leave an option out, with its value; the first or the last of them."""
        places = range(len(self.tokens))
        for i in reversed(places) if last else places:
            token = self.tokens[i]
            following = self.tokens[i + 1] if i + 1 < len(self.tokens) else None
            if token.startswith(f"{typed}=") and typed and (value is None or token == f"{typed}={value}"):
                del self.tokens[i]
                return True
            if token == typed and (value is None or following == value):
                model_first = len(self.tokens) > 1 and not self.tokens[1].startswith("-")
                takes = following is not None and not following.startswith("-") and (model_first or value is not None)
                del self.tokens[i : i + 1 + takes]
                return True
        return False


def _is_machine(word: str) -> bool:
    from steelyard.machine.cluster import parse_cluster

    try:
        parse_cluster(word)
    except InputError:
        return False
    return True


def _spoken(verb: str) -> str:
    """A verb as it is typed."""
    return "plan --train" if verb == "plan_train" else verb.replace("search_", "search ")


def _help(verb: str) -> str:
    return f"steelyard {_spoken(verb)} --help"


def _no_verb(verb: str, tokens: Sequence[str], error: UnknownCommandError) -> str:
    if verb.startswith("-"):
        return f"expected a verb first, such as `steelyard estimate {shlex.join(tokens[:4])}`, got {show(verb)}"
    app = error.app[0] if isinstance(error.app, tuple | list) else error.app
    known = [name for name in (app or ()) if not name.startswith("-")]
    return str(UnknownName("verb", verb, known, hint="`steelyard --help` lists all")).removeprefix("verb: ")


def _unreadable(entry: Field | None, hint: Any, value: str) -> str:
    """What was expected in the place of a value of another type."""
    if entry is not None:
        from steelyard.scenario.words import read_value

        try:
            read_value(entry, value)
        except InputError as error:
            return error.message
    parts = {part for one in (hint, *get_args(hint)) for part in (one, *get_args(one))}  # of Literal[...] | None, too
    choices = sorted(part for part in parts if isinstance(part, str) and part)
    if choices:
        near = suggest(value, choices, 1)
        words = f"; did you mean {near[0]!r}?" if near else ""
        return f"expected one of {', '.join(choices)}, got {show(value)}{words}"
    if int in parts or float in parts:
        return f"expected {'a whole number' if int in parts else 'a number'}, got {show(value)}"
    return f"is on when it is there, and takes no value; got {show(value)}"
