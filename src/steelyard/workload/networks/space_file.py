"""Spaces of networks of one's own, as TOML files: a family with parameters that are chosen, or a template of blocks.

A template is a list of stages in the words of :mod:`steelyard.workload.networks.mobile`, some of them chosen::

    family = "mobile"
    config = { stem = 16, head = 640, act = "hardswish" }

    [choose]                        # of the whole network: size, and parameters of the family
    size = [160, 192, 224]

    [[stage]]
    row = "mb {channels} k{kernel} s2 x{expand} n{depth}"
    each = ["kernel", "expand"]     # chosen for every block on its own
    choose = { channels = [24, 32], kernel = [3, 5, 7], expand = [3, 6], depth = [2, 3, 4] }

A block costs by what is chosen of it, of the whole, and by the channels of the stage before it: costs are sums of
tables over those choices. Of a family without stages there is one table over all choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.choices import Choices, Group, When, flattened, read_choices
from steelyard.documents import build, parse_document, read_text
from steelyard.errors import InputError, Problem, UnknownName, raise_all, show
from steelyard.workload.networks._base import NETWORKS
from steelyard.workload.networks.mobile import blocks_of
from steelyard.workload.networks.search_space import LARGEST, SPACES, Part, Space

__all__ = ["Template", "read_space"]

#: Blocks of a stage, stages, networks priced to know all costs, entries of all tables, and characters of a name.
MOST_BLOCKS, MOST_STAGES, MOST_PROBES, MOST_FEATURES, MOST_TEXT = 20, 40, 600, 20_000, 20_000
_HOLE = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class _Stage:
    __pydantic_config__ = {"extra": "forbid"}

    row: Annotated[str, "blocks in the words of the family mobile, chosen ones in braces: mb {channels} k{kernel} s2"]
    choose: Annotated[Mapping[str, Any], "values to try of every word in braces"] = field(default_factory=dict)
    each: Annotated[tuple[str, ...], "those chosen for every block on its own"] = ()


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    family: Annotated[str, "family of the networks, as in the catalogue's folder nets"]
    name: str = ""
    title: str = ""
    source: str = ""
    size: Annotated[tuple[int, ...], "usual input: height and width, or tokens or frames"] = (224, 224)
    config: Annotated[Mapping[str, Any], "parameters of the family that all networks have"] = field(
        default_factory=dict
    )
    choose: Annotated[Mapping[str, Any], "size, and parameters of the family, with the values to try"] = field(
        default_factory=dict
    )
    stage: Annotated[tuple[_Stage, ...], "of the family mobile: its stages"] = ()
    when: tuple[When, ...] = ()


@dataclass(frozen=True, eq=False)
class Template(Space):
    """A space of a file. The last choice of a place that belongs to some choices of another is to be left out."""

    path: str = ""
    family: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    usual: tuple[int, ...] = (224, 224)
    source: str = ""
    stages: tuple[_Stage, ...] = ()
    chosen: Choices = field(default_factory=Choices)

    @property
    def prefix(self) -> str:
        """The file."""
        return self.path

    @property
    def content(self) -> str:
        """Family, stages and choices."""
        return repr(replace(self, path="", name="", title=""))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Choices of each place, with that of leaving it out."""
        pairs = zip(self.chosen.values, self.chosen.needs, strict=True)
        return tuple(len(values) + (need is not None) for values, need in pairs)

    @property
    def size(self) -> float:
        """How many architectures it has."""
        return self.chosen.count

    @property
    def features(self) -> tuple[str, ...]:
        """A name for every entry of every table."""
        return tuple(f"{part.module}{i}" for part in self.parts for g in part.groups for i in range(len(g)))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """A table for each block, and one for what lies before and after them."""
        found: list[Part] = []
        offset = 0
        for module, names in self._tables():
            places = self._closed(names)
            group = Group(places, tuple(self.sizes[p] for p in places), offset)
            if len(group) > MOST_FEATURES:
                raise InputError(f"{self.name}: {self._many(module, len(group))}", field="choose")
            valid = self._valid(places, group.combinations())
            if int(valid.sum()) > MOST_PROBES:
                raise InputError(f"{self.name}: {self._many(module, int(valid.sum()))}", field="choose")
            found.append(Part(module, (Group(places, group.sizes, offset, valid),)))
            offset += len(group)
        if offset > MOST_FEATURES:
            raise InputError(f"{self.name}: expected at most {MOST_FEATURES:,} costs, got {offset:,}", field="choose")
        return tuple(found)

    def _many(self, module: str, count: int) -> str:
        what = f"block {module.rstrip('.')}" if module else "the network, without its blocks," if self.stages else "it"
        return f"{what} costs in {count:,} ways; expected at most {MOST_PROBES}: fewer values, or of fewer fields"

    def _tables(self) -> Iterator[tuple[str, list[str]]]:
        """Modules, with the fields that their kernels depend on."""
        names = self.chosen.fields
        whole = [n for n in names if not n.startswith("stage")]
        if not self.stages:
            yield "", list(names)
            return
        before: list[str] = []
        for i, stage in enumerate(self.stages, 1):
            mine = [n for n in names if n.startswith(f"stage{i}.")]
            own = [n for n in mine if n.count(".") == 1]
            for j in range(_most(stage)):
                each = [n for n in mine if n.endswith(f".{j + 1}") and n.count(".") == 2]
                words = [n for n in own if j >= min(_depths(stage)) or n != f"stage{i}.{_depth(stage)}"]
                yield f"blocks.{i - 1}.{j}.", [*whole, *words, *each, *(before if j == 0 else [])]
            channels = _hole(stage, 1)
            before = [f"stage{i}.{channels}"] if channels else []
        yield "", [*whole, *before]

    def _closed(self, names: Sequence[str]) -> tuple[int, ...]:
        """Places of fields and of those they depend on, in order."""
        found, waiting = set(), [self.chosen.fields.index(n) for n in names]
        while waiting:
            place = waiting.pop()
            found.add(place)
            need = self.chosen.needs[place]
            if need is not None and need[0] not in found:
                waiting.append(need[0])
        return tuple(sorted(found))

    def _valid(self, places: Sequence[int], codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which combinations of places leave out what must be, and nothing else."""
        found = np.ones(len(codes), dtype=np.bool_)
        for i, place in enumerate(places):
            need = self.chosen.needs[place]
            if need is not None:
                belongs = np.isin(codes[:, places.index(need[0])], need[1])
                found &= belongs == (codes[:, i] < len(self.chosen.values[place]))
        return found

    def settled(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Left out where it must be; a first value where it must not."""
        found: NDArray[np.int64] = self.chosen.settled(codes)
        return np.where(found < 0, [len(v) for v in self.chosen.values], found)

    def all(self) -> NDArray[np.int64]:
        """Every architecture. Raises :class:`InputError`: too many to list."""
        if self.size > LARGEST:
            raise InputError(f"{self.name} has {self.size:.2g} architectures; name a file of some", field="model")
        return self.settled(self.chosen.listed().astype(np.int64))

    def draw(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        """Architectures drawn evenly of every field."""
        return self.settled(super().draw(n, seed))

    def probes(self) -> list[tuple[int, ...]]:
        """Architectures that together make every combination of every table."""
        groups = self.groups
        tables = [g.combinations() for g in groups]
        left = [np.ones(len(g), dtype=np.bool_) if g.valid is None else g.valid.copy() for g in groups]
        found: list[tuple[int, ...]] = []
        while any(x.any() for x in left):
            code = np.full(len(self.sizes), -1, dtype=np.int64)
            for i in sorted(range(len(groups)), key=lambda i: -int(left[i].sum())):
                places, fixed = list(groups[i].places), code[list(groups[i].places)]
                fits = left[i] & ((fixed < 0) | (tables[i] == fixed)).all(axis=1)
                if fits.any():
                    code[places] = tables[i][int(np.argmax(fits))]
            code = self.settled(code[None])[0]
            for i, group in enumerate(groups):
                left[i][int(group.features(code[None])[0]) - group.offset] = False
            found.append(tuple(code.tolist()))
        return found

    def read(self, text: str) -> tuple[int, ...]:
        """The choices of one architecture, ``FIELD=VALUE+FIELD=VALUE...``. Raises :class:`InputError`."""
        said: dict[str, str] = {}
        for part in text.strip()[:MOST_TEXT].split("+"):
            name, equals, value = (x.strip() for x in part.partition("="))
            if name not in self.chosen.fields or not equals:
                raise InputError(UnknownName("field", name[:60], self.chosen.fields).message, field=self.name)
            said[name] = value
        code = np.zeros(len(self.sizes), dtype=np.int64)
        for i, (name, values) in enumerate(zip(self.chosen.fields, self.chosen.values, strict=True)):
            words = [_text(v) for v in values]
            if name in said and said[name] not in words:
                known = UnknownName(f"value of {name}", said[name][:60], words)
                raise InputError(known.message, field=self.name)
            code[i] = words.index(said[name]) if name in said else -1
        found = self.settled(code[None])[0]
        for i, name in enumerate(self.chosen.fields):
            belongs = found[i] < len(self.chosen.values[i])
            if belongs != (name in said):
                raise InputError(f"{name} {'is missing' if belongs else 'does not belong there'}", field=self.name)
        return tuple(found.tolist())

    def _said(self, code: Sequence[int]) -> dict[str, Any]:
        pairs = zip(self.chosen.fields, self.chosen.values, code, strict=True)
        return {name: values[i] for name, values, i in pairs if i < len(values)}

    def spell(self, code: Sequence[int]) -> str:
        """An architecture as text."""
        return "+".join(f"{name}={_text(value)}" for name, value in self._said(code).items())

    def sets(self, code: Sequence[int]) -> Mapping[str, Any]:
        """Parameters of the family."""
        said = self._said(code)
        found = {n: v for n, v in said.items() if n != "size" and not n.startswith("stage")}
        if self.stages:
            found["stages"] = [_row(stage, f"stage{i}.", said) for i, stage in enumerate(self.stages, 1)]
        return found

    def input_of(self, code: Sequence[int]) -> tuple[int, ...]:
        """Sides of the input, where they are chosen."""
        size = self._said(code).get("size")
        return () if size is None else (size,) * len(self.usual)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _hole(stage: _Stage, word: int) -> str:
    """The field that a word of a row is; empty: it is stated."""
    words = stage.row.split()
    found = _HOLE.fullmatch(words[word]) if len(words) > word else None
    return found[1] if found else ""


def _depth(stage: _Stage) -> str:
    """The field that says how many blocks there are; empty: it is stated."""
    found = re.search(r"\bn\{(\w+)\}", stage.row)
    return found[1] if found else ""


def _depths(stage: _Stage) -> list[int]:
    """How many blocks a stage may have. Raises :class:`InputError`."""
    stated = re.search(r"(?:^|\s)n(\d{1,4})(?:\s|$)", stage.row)
    name = _depth(stage)
    raw = stage.choose.get(name) if name else [int(stated[1]) if stated else 1]
    if isinstance(raw, Mapping) and {"from", "to"} <= set(raw):
        ends = [raw["from"], raw["to"], raw.get("step", 1)]
        raw = list(range(ends[0], ends[1] + 1, ends[2])) if all(type(x) is int and 0 < x < 100 for x in ends) else []
    if not isinstance(raw, list | tuple) or not raw or not all(type(x) is int and 1 <= x <= MOST_BLOCKS for x in raw):
        said = f"expected whole numbers of blocks, 1 to {MOST_BLOCKS}, got {show(str(raw))}"
        raise InputError(said, field=name or "n")
    return list(raw)


def _most(stage: _Stage) -> int:
    return max(_depths(stage))


def _row(stage: _Stage, prefix: str, said: Mapping[str, Any]) -> str:
    """The row of an architecture; words of fields that do not belong are left out."""

    def filled(block: int) -> str:
        words = []
        for word in stage.row.split():
            name = _HOLE.search(word)
            if name is None:
                words.append(word)
                continue
            field_name = prefix + name[1] + (f".{block + 1}" if name[1] in stage.each else "")
            if field_name in said:
                words.append(_HOLE.sub(_text(said[field_name]), word))
        return " ".join(words)

    if not stage.each:
        return filled(0)
    depth = said.get(prefix + _depth(stage), _most(stage))
    rows = [[w for w in filled(j).split() if not re.fullmatch(r"n\d+", w)] for j in range(depth)]
    later = [[w for w in row if not re.fullmatch(r"s\d+", w)] for row in rows[1:]]
    return " | ".join(" ".join(row) for row in [rows[0], *later])


def read_space(path: str | Path) -> Template:
    """The space of a file.

    Raises:
        InputError: the file cannot be read; families, fields and values that there are not; too many of them.
    """
    where = Path(path)
    text = read_text(where.expanduser(), 2**20, field="space")
    return _space_of(text, str(path))


@lru_cache(maxsize=16)
def _space_of(text: str, path: str) -> Template:
    where = Path(path).name
    data = parse_document(text, where)
    if "base" in data and "family" not in data:
        raise InputError("it is a space of chips (base); one of networks has a family", field=where)
    file = build(_File, flattened(data), where)
    try:
        return _template(file, path)
    except InputError as error:
        raise error.at(where) from error


def _template(file: _File, path: str) -> Template:
    kind: Any = NETWORKS.get(file.family)
    family = [f.name for f in fields(kind)]
    name = file.name or re.sub(r"[^a-z0-9_]", "_", Path(path).stem.lower())
    problems = list(_problems(file, family, name))
    raise_all(problems)
    whole = [n for n in family if n not in ("stages", "depth")] if file.stage else family

    def read(field_name: str, value: Any, at: str) -> Any:
        stage = re.fullmatch(r"stage(\d+)\.(\w+)(?:\.\d+)?", field_name)
        if stage is not None and 1 <= int(stage[1]) <= len(file.stage):
            return _word(file.stage[int(stage[1]) - 1], stage[2], value, at)
        if field_name == "size":
            if type(value) is not int or not 1 <= value <= 2**24:
                raise InputError(f"expected a side of the input, such as 224, got {show(str(value))}", field=at)
            return value
        if field_name not in whole:
            raise InputError(UnknownName("parameter", field_name, ["size", *whole]).message, field=at)
        if not isinstance(value, str | int | float) or (isinstance(value, str) and re.search(r"[+=,\s]", value)):
            raise InputError(f"expected a number or a word, got {show(str(value))}", field=at)
        return value

    choose, later = dict(file.choose), []
    for i, stage in enumerate(file.stage, 1):
        own, more = _fields(stage, f"stage{i}.")
        choose |= own
        later += more
    chosen = read_choices(choose, file.when, read, later)
    if not chosen.fields:
        raise InputError("expected at least one field with values to try", field="choose")
    found = Template(
        name,
        file.title or name,
        "",
        tuple(range(len(chosen.fields))),
        tuple(tuple(_text(v) for v in values) for values in chosen.values),
        (),
        "",
        path=path,
        family=file.family,
        config=dict(file.config),
        usual=tuple(file.size),
        source=file.source,
        stages=file.stage,
        chosen=chosen,
    )
    first = found.settled(np.zeros((1, len(found.sizes)), dtype=np.int64))[0]
    return replace(found, example=found.spell(first.tolist()))


def _problems(file: _File, family: Sequence[str], name: str) -> Iterator[Problem]:
    if not _NAME.fullmatch(name):
        yield Problem("name", f"expected lower-case letters, digits and '_', got {show(name)}")
    if name in SPACES:
        yield Problem("name", f"{name} is a space of ours; choose another name")
    if not 1 <= len(file.size) <= 4 or not all(1 <= s <= 2**24 for s in file.size):
        yield Problem("size", f"expected one to four sides, got {show(str(file.size))}")
    for key in file.config:
        if key not in family:
            yield Problem(f"config.{key}", UnknownName("parameter", key, family).message)
    if file.stage and file.family != "mobile":
        yield Problem("stage", f"only of the family mobile, got {show(file.family)}")
        return
    if len(file.stage) > MOST_STAGES:
        yield Problem("stage", f"expected at most {MOST_STAGES} stages, got {len(file.stage)}")
    if file.stage and "depth" in (*file.config, *file.choose):
        yield Problem("depth", "with stages the number of blocks is a word of each row: n{depth}")
    later = {n for w in file.when for n in w.choose}
    for i, stage in enumerate(file.stage, 1):
        at = f"stage[{i - 1}]"
        holes = set(_HOLE.findall(stage.row))
        for hole in sorted(holes - set(stage.choose)):
            if f"stage{i}.{hole}" not in later:
                yield Problem(f"{at}.choose", f"no values of {{{hole}}} in its row")
        for key in sorted(set(stage.choose) - holes):
            yield Problem(f"{at}.choose.{key}", UnknownName("word in braces", key, holes).message)
        if re.search(r"\bs\{", stage.row):
            yield Problem(f"{at}.row", "strides are stated, not chosen: all later blocks would change with them")
        for key in stage.each:
            if key not in holes or key in (_hole(stage, 1), _depth(stage)):
                yield Problem(f"{at}.each", f"expected words in braces but channels and blocks, got {show(key)}")
        try:
            _depths(stage)
        except InputError as error:
            yield Problem(f"{at}.choose.{error.field}", error.message)


def _fields(stage: _Stage, prefix: str) -> tuple[dict[str, Any], list[When]]:
    """Fields of a stage with their values, and those of blocks that only some depths have."""
    own = {prefix + n: values for n, values in stage.choose.items() if n not in stage.each}
    depths, later = _depths(stage), []
    for j in range(max(depths)):
        mine = {f"{prefix}{n}.{j + 1}": stage.choose[n] for n in stage.each}
        if j < min(depths):
            own |= mine
        elif mine:
            later.append(When(prefix + _depth(stage), tuple(d for d in depths if d > j), mine))
    return own, later


def _word(stage: _Stage, name: str, value: Any, at: str) -> Any:
    """A value of a word in braces, as the family reads it. Raises :class:`InputError`."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not re.fullmatch(r"[\w.]+", str(value)):
        raise InputError(f"expected a number or a word, got {show(str(value))}", field=at)
    usual = {"k": 3, "x": 1, "r": 4, "g": 1, "a": 3, "n": 1}
    words = []
    for i, word in enumerate(stage.row.split()):
        hole = _HOLE.search(word)
        if hole is None or hole[1] == name:
            words.append(word if hole is None else _HOLE.sub(_text(value), word))
        elif i == 0:
            words.append("mb")
        elif i == 1:
            words.append("8")
        elif word[0] in usual and word[0] != "{":
            words.append(f"{word[0]}{usual[word[0]]}")
    try:
        blocks_of(" ".join(words))
    except InputError as error:
        raise InputError(error.message, field=at) from None
    return value
