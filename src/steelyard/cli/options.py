"""Command-line options of the verbs, derived from the fields of a question; lists and ranges as scenarios."""

from __future__ import annotations

import os
from dataclasses import field, fields, make_dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import FIRST, group, option
from steelyard.cli.ranges import Block, combinations
from steelyard.errors import InputError, Problem, raise_all
from steelyard.scenario.fields import ALONE, ENGINE_FLAGS, GROUPS, REQUIRED, USUAL, Field, fields_of
from steelyard.scenario.fields import field as field_of
from steelyard.scenario.ranges import expand
from steelyard.scenario.words import Problems, flags_of, is_auto, read_value

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate
    from steelyard.scenario.scenario import Scenario

__all__ = [
    "DEPLOYED",
    "MAX_SCENARIOS",
    "ONE_REQUEST",
    "Lengths",
    "Model",
    "Wrong",
    "answers",
    "only",
    "options_of",
    "processes",
    "words_of_options",
]

#: Most scenarios one command prices.
MAX_SCENARIOS = 100_000

#: Fields of an estimate of one request, wherever it may run.
ONE_REQUEST = (
    *("weights", "kv", "engine", "gpu_memory_utilization", "techniques"),
    *GROUPS["batch"][1:],
    *GROUPS["shown"],
)
#: Fields of a simulation without its load and SLOs, which the log of a benchmark says itself.
DEPLOYED = tuple(n for n in fields_of("simulate") if n not in (*GROUPS["load"], *GROUPS["slo"]))

Model = Annotated[str, Parameter(help=field_of("estimate", "model").doc)]
#: What is wrong with the words of a command line, handed to a verb that tells it with what else it finds.
Wrong = Annotated[Problems, Parameter(parse=False)]
_FLAG = Annotated[
    tuple[str, ...],
    Parameter(
        name="--flag",
        group=group("Engine"),
        help="any other flag, NAME=VALUE, may be repeated",
        show_default=False,
        negative="",
        consume_multiple=False,
    ),
]


def options_of(verb: str, names: tuple[str, ...] = (), *, required: bool = True) -> type[Any]:
    """A dataclass of the options of a verb, for cyclopts to read.

    Args:
        verb: ``estimate``, ``simulate`` or ``plan``; the numbers of an estimate are lists and ranges.
        names: the fields that are options here; empty = all.
        required: whether a field without a default must be given.
    """
    made: list[tuple[str, Any, Any]] = []
    for name in names or fields_of(verb):
        entry = fields_of(verb)[name]
        if name == "flags":
            made += [_made(flag, verb, required) for flag in ENGINE_FLAGS.values()]
            made.append(("flag", _FLAG, field(default=())))
        elif name != "model" and entry.options != ("",) and entry.type != "object":
            made.append(_made(entry, verb, required))
    made.sort(key=lambda item: item[2].default is not REQUIRED)
    made = [(n, t, field() if f.default is REQUIRED else f) for n, t, f in made]
    cls = make_dataclass(f"{verb.capitalize()}Options", made, frozen=True, namespace={"__module__": __name__})
    return Parameter(name="*")(cls)


def _made(entry: Field, verb: str, required: bool) -> tuple[str, Any, Any]:
    kind, default = _command_line_type(entry, verb)
    shown = entry.show or (verb == "estimate" and entry.type == "whole" and default != "")
    help_text, topic = entry.doc + entry.note, FIRST if entry.name in USUAL else entry.topic
    if entry.type == "switch" and entry.default is False:
        parameter = Parameter(negative="", show_default=False, help=help_text, group=group(topic))
    elif default is REQUIRED and not required:
        default, parameter = "", option(help_text, *entry.options, topic=topic)
    elif shown or default is REQUIRED:
        parameter = Parameter(name=entry.options or None, help=help_text, group=group(topic))
    else:
        parameter = option(help_text, *entry.options, topic=topic)
    return entry.name, Annotated[kind, parameter], field(default=default)


def _command_line_type(entry: Field, verb: str) -> tuple[Any, Any]:
    """How an option is read, and its default: text wherever a list, a range or a unit may stand."""
    if entry.several:
        return tuple[str, ...], entry.default
    if entry.type == "switch":
        return (bool, False) if entry.default is False else (bool | None, entry.default)
    if entry.type == "whole" and verb == "estimate":
        return str, "" if entry.default is None else _Usual(entry.default)
    flag = entry.name in ENGINE_FLAGS
    if entry.type == "whole" and not flag:
        return (int | None if entry.default is None else int), entry.default
    if entry.type == "number" and entry.unit == "1" and not flag:
        return (float | None if entry.default is None else float), entry.default
    return str, entry.default if isinstance(entry.default, str) or entry.default is REQUIRED else ""


def words_of_options(verb: str, options: Any, problems: Problems) -> dict[str, Any]:
    """The fields that options give, read; numbers with a unit and engine flags as numbers.

    Args:
        verb: whose options they are.
        options: an instance of :func:`options_of`.
        problems: options that cannot be read are added here, under the option's name.
    """
    given = {f.name: getattr(options, f.name) for f in fields(options)}
    words: dict[str, Any] = {}
    known = fields_of(verb)
    for name, value in given.items():
        entry = known.get(name)
        if entry is None or value == entry.default or value == "":
            continue
        if entry.type == "number" and isinstance(value, str):
            with problems.collect():
                words[name] = _quantity(entry, value)
        else:
            words[name] = value
    if "flags" in known:
        words["flags"] = problems.read(flags_of, given, given.get("flag", ())) or None
    return words


def _quantity(entry: Field, text: str) -> Any:
    """``2.5usd/h``, ``400g/kWh``; with a price by machine ``h100_sxm=2.5,l40s=0.9``."""
    if entry.unit == "g/kWh":
        try:
            return read_value(entry, float(text.lower().replace(" ", "").removesuffix("/kwh").removesuffix("g")))
        except ValueError:
            raise InputError(f"expected grams per kWh such as 400, got {text!r}", field=entry.option) from None
    if "=" not in text or not entry.also:
        return read_value(entry, text, entry.option)
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise InputError(f"expected MACHINE=PRICE,..., got {part!r}", field=entry.option)
        found[name.strip()] = read_value(entry, value, entry.option)
    return found


def answers(model: str, question: Any, problems: Problems) -> list[Block]:
    """Every combination of machines and values, in blocks that share a program.

    Names and numbers that cannot be read are refused before anything is priced, all of them at once; what cannot run
    in one combination only (degrees that do not divide, too long a context) becomes its outcome.

    Args:
        model: as it was typed.
        question: an instance of :func:`options_of`.
        problems: found before.

    Raises:
        InputError: with every problem of the names and numbers.
    """
    from steelyard.scenario.scenario import Scenario, check_name, of_networks_alone, read_cluster, read_model

    problems.add(of_networks_alone({n: getattr(question, n, "") for n in ALONE}, model))
    numbers: dict[str, list[Any]] = {}
    names: dict[str, list[str]] = {}
    fixed: dict[str, Any] = {}
    for name, entry in fields_of("estimate").items():
        if name in ("model", "on") or entry.type == "object":
            continue
        given = getattr(question, name)
        if entry.type == "whole":
            numbers[name] = [None] if given == "" or is_auto(entry, given) else problems.read(expand, given, name) or []
            for value in numbers[name]:
                problems.read(read_value, entry, value)
        elif entry.type == "name":
            names[name] = ["" if is_auto(entry, word.strip()) else word.strip() for word in given.split(",")]
            if len(names[name]) > 1 and "" in names[name]:
                problems.add([Problem(name, f"the list {given!r} has an empty entry")])
        elif given != "":
            fixed[name] = problems.read(_quantity if isinstance(given, str) else read_value, entry, given)
    for name, listed in names.items():
        for word in listed:
            problems.read(check_name, name, word)
    clusters = [problems.read(read_cluster, part.strip()) for part in question.on.split(",") if part.strip()]
    if not clusters:
        problems.add([Problem("on", "expected at least one machine")])
    loaded = problems.read(read_model, model, question.generic)
    problems.done()
    assert loaded is not None
    sizes = {name: numbers.pop(name) for name in GROUPS["batch"]}
    total = len(clusters) * prod(len(x) for x in (*names.values(), *sizes.values(), *numbers.values()))
    if total > MAX_SCENARIOS:
        longest = max({**names, **sizes, **numbers, "on": clusters}.items(), key=lambda item: len(item[1]))[0]
        raise InputError(f"{total:,} scenarios; at most {MAX_SCENARIOS:,}", field=longest)
    blocks = []
    for cluster in clusters:
        for chosen in combinations(names):
            said = {name: found[0] for name, found in sizes.items() if not isinstance(getattr(question, name), _Usual)}
            shared = {**fixed, **chosen, **said, "model": loaded, "on": cluster}
            places = [(degrees, _place({**shared, **degrees})) for degrees in combinations(numbers)]
            first = places[0][1]
            usual = {n: [getattr(first, n)] for n in sizes if isinstance(first, Scenario) and first.words[n] is None}
            blocks.append(Block({"model": loaded.name, "on": str(cluster), **chosen}, {**sizes, **usual}, places))
    return blocks


class _Usual(str):
    """The text of a default, to be told from the same text typed."""


def _place(words: dict[str, Any]) -> Scenario | InputError:
    """The scenario of one place, or why there is none."""
    from steelyard.scenario.scenario import Scenario

    try:
        return Scenario.of("estimate", **words)
    except InputError as error:
        return error


def only(blocks: list[Block]) -> Estimate:
    """The estimate of the single scenario asked for. Raises its :class:`InputError`."""
    count = sum(len(block) for block in blocks)
    if count != 1:
        every: dict[str, set[str]] = {}
        for block in blocks:
            for inputs in (block.inputs, *(place for place, _ in block.places)):
                for name, value in inputs.items():
                    every.setdefault(name, set()).add(str(value))
            for name, values in block.sizes.items():
                every.setdefault(name, set()).update(map(str, values))
        raise_all([Problem(n, f"expected one value, got {len(v)}") for n, v in every.items() if len(v) > 1])
    outcome = next(blocks[0].outcomes())
    raise_all(outcome.problems)
    assert outcome.estimate is not None
    return outcome.estimate


#: Lengths of a benchmark whose log does not say them.
Lengths: Any = options_of("simulate", GROUPS["batch"][1:], required=False)


def processes(jobs: int) -> int:
    """How many processes ``--jobs`` asks for; 0: as many as there are cores. Raises :class:`InputError`."""
    from steelyard.studies.executors import MAX_JOBS

    if not 0 <= jobs <= MAX_JOBS:
        raise InputError(f"expected 0 to {MAX_JOBS} processes, got {jobs}", field="jobs")
    return jobs or os.cpu_count() or 1
