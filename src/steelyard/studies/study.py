"""Study files: what is asked, over which values, and what counts as good.

A study is a TOML (or YAML, or JSON) table. :func:`read_study` checks all of it against :mod:`steelyard.scenario.fields`
and reports every problem at once; :func:`schema` is the same definition as a JSON schema.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steelyard.documents import read_document
from steelyard.errors import InputError, Problem, raise_all, show, suggest
from steelyard.machine.cluster import Cluster, asks_again, parse_cluster
from steelyard.machine.component import Machine
from steelyard.scenario.fields import FLAGS, KINDS, REQUIRED, Field, engine_flags, fields_of, study_fields
from steelyard.scenario.spellings import spellings
from steelyard.scenario.words import values_of
from steelyard.studies.checks import name_problems
from steelyard.studies.store_columns import Column, columns_of, number_names
from steelyard.studies.when import WHEN_FIELDS, tied
from steelyard.units import parse_quantity

__all__ = ["Case", "Constraint", "Objective", "Study", "given_in", "parse_study", "read_study"]

#: Repeats of every point at most.
MAX_REPEATS = 10_000

#: Tables of one array at most.
MAX_TABLES = 10_000

#: Fields of a study file and their meaning.
STUDY_FIELDS = {
    "name": "what the study is called in the store",
    "kind": "estimate, simulate, plan or train",
    "about": "what the study is for, in a sentence",
    "fixed": "fields with one value for all points",
    "grid": "fields with several values; every combination is a point",
    "zip": "tables of fields whose values go together, first with first",
    "case": "named sets of values over `fixed`; a case that names a swept field takes its value instead of the sweep",
    "when": "fields that belong to some `values` of a `field` of the grid: there every value that they `choose`",
    "exclude": "points left out: all fields of a table must match, a field matches any of its values",
    "objective": "what to minimise or maximise, and constraints it counts under",
    "seeds": "seeds of drawn traffic, a list or a range",
    "repeats": "how often every point runs, with seeds derived from its traffic",
}
_OBJECTIVE = ("minimise", "maximise", "where", "name")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_CONSTRAINT = re.compile(r"^\s*([a-z0-9_]+)\s*(<=|>=|==|<|>)\s*(.+?)\s*$")
OPERATORS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A condition on an answer: ``tpot_s <= 0.05``, ``fits``."""

    metric: str
    relation: str
    value: float | bool

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            return self.metric if self.value else f"not {self.metric}"
        return f"{self.metric} {self.relation} {self.value:g}"

    def holds(self, value: Any) -> bool:
        """Whether an answer meets it; an absent one does not."""
        return value is not None and bool(OPERATORS[self.relation](value, self.value))


@dataclass(frozen=True, slots=True)
class Objective:
    """What is made small or large, among the points that meet all constraints."""

    metric: str
    maximise: bool
    where: tuple[Constraint, ...] = ()
    name: str = ""

    def __str__(self) -> str:
        words = f"{'maximise' if self.maximise else 'minimise'} {self.metric}"
        return words + (f" where {', '.join(map(str, self.where))}" if self.where else "")


@dataclass(frozen=True, slots=True)
class Case:
    """A named set of values."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """A study, checked. Field names of engine flags begin with ``flags.``."""

    name: str
    kind: str
    about: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    zips: tuple[Mapping[str, list[Any]], ...] = ()
    """Fields whose values go together; None: the field is not given there."""
    cases: tuple[Case, ...] = ()
    exclude: tuple[Mapping[str, list[Any]], ...] = ()
    objectives: tuple[Objective, ...] = ()
    repeats: int = 0
    """0 = once, with the seed given."""
    folder: str = ""
    """Where relative paths of the study begin; empty = the current folder."""
    document: Mapping[str, Any] = field(default_factory=dict)
    """As it was written."""

    @property
    def axes(self) -> list[str]:
        """Swept fields, in the order of the expansion."""
        names = ["case"] if len(self.cases) > 1 else []
        for table in self.zips:
            names += list(table)
        return names + [n for n, values in self.grid.items() if len(values) > 1]


def read_study(path: str | Path, *, allow_code: bool = False, names: bool = True) -> Study:
    """The study of a file.

    Args:
        path: the file.
        allow_code: whether it may name code, which is then run: a policy as ``FILE.py:CLASS``.
        names: whether models, machines and other names are looked up.

    Raises:
        InputError: every problem at once, each with its field path.
    """
    return parse_study(read_document(path), str(Path(path).parent), allow_code=allow_code, names=names)


def _plain(value: Any) -> Any:
    """Tables and lists only: arrays, tuples and ranges as lists, machines as what asks for them again."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Cluster | Machine):
        return _again(value if isinstance(value, Cluster) else Cluster(value))
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, list | tuple | range) else value


def _again(cluster: Cluster) -> str:
    """What asks for these devices again: not a file that says something else by now."""
    text = asks_again(cluster)
    try:
        same = parse_cluster(text).machine == cluster.machine
    except InputError:
        same = False
    return text if same else asks_again(replace(cluster, machine=replace(cluster.machine, file="")))


def parse_study(data: Mapping[str, Any], folder: str = "", *, allow_code: bool = False, names: bool = True) -> Study:
    """The study a table describes; it names code only where ``allow_code`` says so.

    Raises:
        InputError: every problem at once; names that nothing answers to among them where ``names`` is set.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"expected a table of fields, got {show(data)}", field="study")
    try:
        plain = _plain(data)
    except RecursionError:
        raise InputError("nested too deeply", field="study") from None
    problems: list[Problem] = []
    kind = plain.get("kind")
    if kind not in KINDS:
        near = suggest(str(kind), KINDS, kind="verb") if isinstance(kind, str) else []
        words = f"expected one of {', '.join(KINDS)}, got {show(kind)}" + _mean(near)
        problems.append(Problem("kind", words if "kind" in plain else "required field is missing"))
    found = []
    for of_kind in (kind,) if kind in KINDS else KINDS:  # where it is unknown, the one that the rest fits best
        reader = _Reader(plain, of_kind, allow_code)
        study = reader.study(folder)
        if names:
            told = {p.field for p in reader.problems}
            reader.problems += [p for p in name_problems(of_kind, folder, given_in(study)) if p.field not in told]
        found.append((reader.problems, study))
    best, study = min(found, key=lambda each: len(each[0]))
    raise_all(problems + best)
    return study


def given_in(study: Study) -> Iterator[tuple[str, str, Any]]:
    """Every value of a study with its path and field."""
    for name, value in study.fixed.items():
        yield f"fixed.{name}", name, value
    for path, table in [("grid", study.grid), *((f"zip[{i}]", t) for i, t in enumerate(study.zips))]:
        for name, values in table.items():
            for k, value in enumerate(values):
                if value is None:
                    continue
                yield f"{path}.{name}" + (f"[{k}]" if len(values) > 1 else ""), name, value
    for i, case in enumerate(study.cases):
        for name, value in case.values.items():
            yield f"case[{i}].{name}", name, value


class _Reader:
    """Reads one study, collecting problems."""

    def __init__(self, data: Mapping[str, Any], kind: str, allow_code: bool) -> None:
        self.data, self.kind, self.allow_code = data, kind, allow_code
        self.problems: list[Problem] = []
        self.fields: Mapping[str, Field] = study_fields(kind)
        self.takes_flags = "flags" in fields_of(kind)

    def wrong(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    def study(self, folder: str) -> Study:
        """The study, without what is wrong."""
        data = self.data
        self._unknown(data, STUDY_FIELDS, "")
        name = data.get("name")
        if "name" not in data:
            self.wrong("name", "required field is missing")
        elif not (isinstance(name, str) and _NAME.fullmatch(name)):
            self.wrong("name", f"expected 1 to 100 letters, digits, dots, dashes and blanks, got {show(name)}")
        if not isinstance(data.get("about", ""), str):
            self.wrong("about", f"expected text, got {show(data['about'])}")
        fixed = {n: v[0] for n, v in self._table(data.get("fixed", {}), "fixed", single=True).items()}
        grid = self._table(data.get("grid", {}), "grid")
        zips = [self._table(t, p) for t, p in self._tables("zip")]
        self._seeds(grid)
        for i, table in enumerate(zips):
            lengths = {len(v) for v in table.values()}
            if len(lengths) > 1:
                words = ", ".join(f"{n} has {len(v)}" for n, v in table.items())
                self.wrong(f"zip[{i}]", f"values that go together must be as many: {words}")
        self._when(grid, zips)
        self._twice(fixed, grid, zips)
        cases = self._cases(zips)
        self._complete(fixed, grid, zips, cases)
        exclude = [self._table(t, p) for t, p in self._tables("exclude")]
        objectives = self._objectives()
        return Study(
            str(name),
            self.kind,
            str(data.get("about", "")),
            fixed,
            grid,
            tuple(zips),
            tuple(cases),
            tuple(exclude),
            tuple(objectives),
            self._repeats(fixed, grid, zips),
            folder,
            data,
        )

    def _unknown(self, table: Mapping[str, Any], known: Iterable[str], path: str) -> None:
        names = list(known)
        for name in table:
            if name not in names:
                self.wrong(
                    f"{path}.{name}" if path else str(name),
                    "unknown field" + _mean(suggest(str(name), names, kind="field")),
                )

    def _tables(self, name: str) -> list[tuple[Mapping[str, Any], str]]:
        """The tables of an array, with their paths; a single table is taken as an array of one."""
        given = self.data.get(name, [])
        items = [given] if isinstance(given, dict) else given
        if not isinstance(items, list):
            self.wrong(name, f"expected an array of tables ([[{name}]]), got {show(given)}")
            return []
        if len(items) > MAX_TABLES:
            self.wrong(name, f"expected at most {MAX_TABLES:,} tables, got {len(items):,}")
            return []
        found: list[tuple[Mapping[str, Any], str]] = []
        for i, item in enumerate(items):
            if isinstance(item, dict):
                found.append((item, f"{name}[{i}]"))
            else:
                self.wrong(f"{name}[{i}]", f"expected a table, got {show(item)}")
        return found

    def _table(self, table: Any, path: str, *, single: bool = False) -> dict[str, list[Any]]:
        """Fields and their values; what is wrong is noted and left out."""
        if not isinstance(table, dict):
            self.wrong(path, f"expected a table of fields, got {table!r}")
            return {}
        found: dict[str, list[Any]] = {}
        for name, given in self._flattened(table, path):
            entry = self.fields.get(name)
            if entry is None and name.startswith(FLAGS) and self.takes_flags:
                entry = Field(name, "any", "flag of the engine")
            if entry is None:
                known = [*self.fields, *(["flags"] if self.takes_flags else [])]
                self.wrong(f"{path}.{name}", "unknown field" + _mean(suggest(name, known, kind="field")))
                continue
            try:
                values = values_of(entry, given, f"{path}.{name}")
            except InputError as error:
                self.problems += error.problems
                continue
            code = [v for v in values if name == "policy" and isinstance(v, str) and ".py" in v.lower()]
            if code and not self.allow_code:
                words = "names a file of code, which would be run; --allow-code (in Python allow_code=True) lets it"
                self.wrong(f"{path}.{name}", f"{show(code[0])} {words}")
                continue
            if single and len(values) > 1:
                self.wrong(f"{path}.{name}", f"expected one value, got {len(values)}; several belong into [grid]")
            if name in found:
                self.wrong(f"{path}.{name}", "given twice, the other time under another name")
            found[name] = values
        return found

    def _flattened(self, table: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for name, given in table.items():
            if name == "flags" and self.takes_flags:
                if isinstance(given, dict):
                    found += [(FLAGS + k, v) for k, v in given.items()]
                else:
                    self.wrong(f"{path}.flags", f"expected a table of engine flags, got {show(given)}")
            else:
                found.append((self._ours(str(name)), given))
        return found

    def _ours(self, name: str) -> str:
        """Our name of a field that engines spell otherwise; an engine flag among the fields is one of ``flags``."""
        if name in self.fields:
            return name
        ours = spellings(self.kind).get(name, name)
        return ours if ours in self.fields or ours not in engine_flags(self.kind) else FLAGS + ours

    def _seeds(self, grid: dict[str, list[Any]]) -> None:
        if "seeds" not in self.data:
            return
        if "seed" not in self.fields:
            self.wrong("seeds", "an estimate draws nothing: the same answer every time")
            return
        try:
            values = values_of(self.fields["seed"], self.data["seeds"], "seeds")
        except InputError as error:
            self.problems += error.problems
            return
        if "seed" in grid:
            self.wrong("grid.seed", "given twice: in seeds and here")
        grid["seed"] = values

    def _repeats(self, fixed: Mapping[str, Any], grid: Mapping[str, Any], zips: list[dict[str, list[Any]]]) -> int:
        repeats = self.data.get("repeats", 0)
        if "repeats" not in self.data:
            return 0
        if isinstance(repeats, bool) or not isinstance(repeats, int) or not 1 <= repeats <= MAX_REPEATS:
            self.wrong("repeats", f"expected a whole number from 1 to {MAX_REPEATS:,}, got {show(repeats)}")
            return 0
        if "seed" not in self.fields:
            self.wrong("repeats", "an estimate draws nothing: the same answer every time")
        if any("seed" in t for t in (fixed, grid, *zips)):
            self.wrong("repeats", "choose one of repeats and seeds")
        return repeats

    def _when(self, grid: dict[str, list[Any]], zips: list[dict[str, list[Any]]]) -> None:
        """Fields of some values, with those they hang on, as values that go together."""
        tables = []
        for table, path in self._tables("when"):
            self._unknown(table, WHEN_FIELDS, path)
            of = self._ours(str(table.get("field", "")))
            here = (
                self._table({of: table["values"]}, f"{path}.values") if of in self.fields and "values" in table else {}
            )
            tables.append((path, of, here.get(of, []), self._table(table.get("choose", {}), f"{path}.choose")))
        if tables and not self.problems:
            try:
                zips.append(tied(tables, grid))
            except InputError as error:
                self.problems += error.problems

    def _twice(self, fixed: Mapping[str, Any], grid: Mapping[str, Any], zips: list[dict[str, list[Any]]]) -> None:
        seen: dict[str, str] = {}
        for place, table in [("fixed", fixed), ("grid", grid), *((f"zip[{i}]", t) for i, t in enumerate(zips))]:
            for name in table:
                if name in seen:
                    self.wrong(f"{place}.{name}", f"given twice: in {seen[name]} and here")
                seen[name] = place

    def _cases(self, zips: list[dict[str, list[Any]]]) -> list[Case]:
        cases: list[Case] = []
        known: set[str] = set()
        for table, path in self._tables("case"):
            name = table.get("name")
            if not (isinstance(name, str) and name.strip()):
                self.wrong(
                    f"{path}.name", "required field is missing" if name is None else f"expected text, got {show(name)}"
                )
                name = path
            if name in known:
                self.wrong(f"{path}.name", f"another case is called {show(name)}")
            known.add(name)
            values = self._table({k: v for k, v in table.items() if k != "name"}, path, single=True)
            for i, together in enumerate(zips):
                part = set(values) & set(together)
                if part and part != set(together):
                    missing = ", ".join(sorted(set(together) - part))
                    self.wrong(path, f"{', '.join(sorted(part))} of zip[{i}] without {missing}")
            cases.append(Case(str(name), {k: v[0] for k, v in values.items()}))
        return cases

    def _complete(
        self, fixed: Mapping[str, Any], grid: Mapping[str, Any], zips: list[dict[str, list[Any]]], cases: list[Case]
    ) -> None:
        given = {*fixed, *grid, *(n for t in zips for n in t)}
        tables = [self.data.get(k) for k in ("fixed", "grid")]
        in_tables = {n for t in tables if isinstance(t, dict) for n in t}
        for name in (n for n, f in self.fields.items() if f.default is REQUIRED):
            everywhere = bool(cases) and all(name in c.values for c in cases)
            if name not in given | in_tables and not everywhere:
                self.wrong(f"fixed.{name}", "required field is missing")

    def _objectives(self) -> list[Objective]:
        found = []
        known = columns_of(self.kind)
        for table, path in self._tables("objective"):
            self._unknown(table, _OBJECTIVE, path)
            ways = [w for w in ("minimise", "maximise") if w in table]
            if len(ways) != 1:
                self.wrong(path, "expected one of minimise and maximise")
                continue
            metric = table[ways[0]]
            if metric not in number_names(self.kind):
                near = suggest(str(metric), number_names(self.kind))
                self.wrong(f"{path}.{ways[0]}", f"{show(metric)} is no figure of {self.kind}" + _mean(near))
            where = table.get("where", [])
            if not isinstance(where, str | list):
                self.wrong(f"{path}.where", f"expected a condition or a list of them, got {show(where)}")
                where = []
            if not isinstance(table.get("name", ""), str):
                self.wrong(f"{path}.name", f"expected text, got {show(table['name'])}")
            found_where = []
            for i, text in enumerate([where] if isinstance(where, str) else where):
                try:
                    found_where.append(_constraint(text, known, f"{path}.where[{i}]"))
                except InputError as error:
                    self.problems += error.problems
            found.append(Objective(str(metric), ways[0] == "maximise", tuple(found_where), str(table.get("name", ""))))
        return found


def _constraint(text: Any, known: Mapping[str, Column], path: str) -> Constraint:
    """Read ``tpot_s <= 50ms``, ``fits`` or ``not fits``."""
    if not isinstance(text, str):
        raise InputError(f"expected text such as 'tpot_s <= 50ms', got {show(text)}", field=path)
    word = text.strip().removeprefix("not ").strip()
    if word in known and known[word].type == "switch":
        return Constraint(word, "==", not text.strip().startswith("not "))
    match = _CONSTRAINT.match(text)
    if match is None:
        raise InputError(f"expected a condition such as 'tpot_s <= 50ms' or 'fits', got {show(text)}", field=path)
    metric, relation, value = match.groups()
    numbers = [c.name for c in known.values() if c.type in ("number", "whole")]
    if metric not in numbers:
        raise InputError(f"{show(metric)} is no figure" + _mean(suggest(metric, numbers)), field=path)
    try:
        limit = float(value)
    except ValueError:
        limit = parse_quantity(value, known[metric].unit, path)
    if not math.isfinite(limit):
        raise InputError(f"expected a finite limit, got {show(value)}", field=path)
    return Constraint(metric, relation, limit)


def _mean(near: list[str]) -> str:
    return f"; did you mean {near[0]!r}?" if near else ""
