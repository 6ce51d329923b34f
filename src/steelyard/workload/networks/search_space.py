"""Spaces of networks as rows of choices, whose costs add up: ``nb201``, ``fbnet``, ``ofa``, and files of one's own.

An architecture is one choice at each place. Places of one **kind** cost alike wherever they lie (the six edges of a
NAS-Bench-201 cell); the counts of every choice of every kind are the features of an additive model::

    cost of an architecture = cost of what all share + sum over kinds and choices of count x cost

A space is reached by its prefix: ``nb201:|nor_conv_3x3~0|+...``, ``fbnet:3-3-8-...``, ``ofa:k7e6-k7e6+k3e3-...``,
``mine.toml:size=192+...`` (:mod:`steelyard.workload.networks.space_file`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.choices import Group
from steelyard.errors import InputError, Problem, UnknownName, raise_all, show
from steelyard.workload.networks.spaces import CELL_OPS, FBNET_OPS

__all__ = ["LARGEST", "SPACES", "Part", "Space", "find_space", "space_of"]

#: Most architectures of one call, and of a space that is listed whole.
LARGEST = 1_000_000


@dataclass(frozen=True, eq=False)
class Part:
    """Kernels of one module, and the groups of places that they depend on; each group's features cost alike."""

    module: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Space:
    """One space. ``kinds``: the kind of every place; ``choices``: of every kind, by name."""

    name: str
    title: str
    net: str
    """The catalogue's network whose choices are set."""
    kinds: tuple[int, ...]
    choices: tuple[tuple[str, ...], ...]
    modules: tuple[str, ...]
    """Of every kind, the module its kernels lie in."""
    example: str
    aliases: tuple[str, ...] = ()
    required: frozenset[int] = frozenset()
    """Places that may not take the last choice, which is to be left out."""

    @property
    def prefix(self) -> str:
        """What stands before the colon of an architecture's name."""
        return self.name

    @property
    def content(self) -> str:
        """What it is, wherever its file lies."""
        return self.name

    @property
    def features(self) -> tuple[str, ...]:
        """A name for every feature, ``KIND.CHOICE``."""
        return tuple(f"{self.modules[k]}{c}" for k, choices in enumerate(self.choices) for c in choices)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The modules, and the places that each one's kernels depend on."""
        at = np.cumsum([0, *(len(c) for c in self.choices)]).tolist()
        found = []
        for kind, (module, choices) in enumerate(zip(self.modules, self.choices, strict=True)):
            places = [place for place, k in enumerate(self.kinds) if k == kind]
            groups = [Group((p,), (len(choices),), at[kind], self._able(p)) for p in places]
            found.append(Part(module, tuple(groups)))
        return tuple(found)

    def _able(self, place: int) -> NDArray[np.bool_]:
        """Which choices a place may make."""
        return np.arange(len(self.choices[self.kinds[place]])) < self.sizes[place]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All groups of all parts."""
        return tuple(group for part in self.parts for group in part.groups)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many choices each place has."""
        return tuple(len(self.choices[k]) - (place in self.required) for place, k in enumerate(self.kinds))

    @property
    def size(self) -> float:
        """How many architectures it has."""
        total = 1
        for size in self.sizes:
            total *= size
        return total

    def settled(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Any choices of the sizes made those of an architecture."""
        return codes

    def codes(self, architectures: Iterable[str], lines: Sequence[str] = ()) -> NDArray[np.int64]:
        """Choices ``[n, places]`` of architectures as text.

        Args:
            architectures: without the prefix of the space.
            lines: numbers of their lines in a file, which errors name; empty: they are of none.

        Raises:
            InputError: the first ten wrong ones.
        """
        rows: list[tuple[int, ...]] = []
        problems: list[Problem] = []
        for number, text in enumerate(architectures):
            if number >= LARGEST:
                raise InputError(f"expected at most {LARGEST:,} architectures", field="architecture")
            try:
                rows.append(self.read(str(text)))
            except InputError as error:
                where = f"line {lines[number]}: " if lines else ""
                problems += [Problem(f"{where}{p.field}", p.message) for p in error.problems]
                if len(problems) >= 10:
                    break
        raise_all(problems)
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self.kinds))

    def read(self, text: str) -> tuple[int, ...]:
        """The choices of one architecture. Raises :class:`InputError`."""
        raise NotImplementedError

    def spell(self, code: Sequence[int]) -> str:
        """An architecture as text."""
        raise NotImplementedError

    def sets(self, code: Sequence[int]) -> Mapping[str, Any]:
        """Parameters of the network family for an architecture."""
        raise NotImplementedError

    def input_of(self, code: Sequence[int]) -> tuple[int, ...]:
        """Sides of the input, where the space chooses them; else empty."""
        return ()

    def counts(self, codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """How often each architecture ``[n, places]`` makes each choice: ``[n, features]``."""
        found, rows = np.zeros((len(codes), len(self.features))), np.arange(len(codes))
        for group in self.groups:
            found[rows, group.features(codes)] += 1.0
        return found

    def all(self) -> NDArray[np.int64]:
        """Every architecture. Raises :class:`InputError`: too many to list."""
        if self.size > LARGEST:
            raise InputError(f"{self.name} has {self.size:.2g} architectures; name a file of some", field="model")
        return np.array(list(product(*map(range, self.sizes))), dtype=np.int64)

    def draw(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        """Architectures drawn evenly."""
        rng = np.random.default_rng(seed)
        columns = [rng.integers(0, size, n) for size in self.sizes]
        return np.stack(columns, axis=1)

    def probes(self) -> list[tuple[int, ...]]:
        """Architectures that make every choice at every place once: those that choose alike everywhere."""
        return [tuple(min(i, size - 1) for size in self.sizes) for i in range(max(self.sizes))]


class _Cells(Space):
    """NAS-Bench-201: edges from node N to node M, in the order of its strings."""

    def read(self, text: str) -> tuple[int, ...]:
        found, sources = [], []
        for node, group in enumerate(text[:400].split("+")):
            for part in group.strip("|").split("|"):
                op, _, source = part.partition("~")
                if op not in CELL_OPS:
                    raise InputError(UnknownName("operation", op, CELL_OPS).message, field=self.name)
                found.append(CELL_OPS.index(op))
                sources.append((node, source))
        if sources != _EDGES:
            raise InputError(f"expected six edges as in {self.example}, got {show(text)}", field=self.name)
        return tuple(found)

    def spell(self, code: Sequence[int]) -> str:
        groups: list[str] = ["", "", ""]
        for (node, source), op in zip(_EDGES, code, strict=True):
            groups[node] += f"{CELL_OPS[op]}~{source}|"
        return "+".join(f"|{g}" for g in groups)

    def sets(self, code: Sequence[int]) -> Mapping[str, Any]:
        return {"cell": self.spell(code)}


_EDGES = [(0, "0"), (1, "0"), (1, "1"), (2, "0"), (2, "1"), (2, "2")]


class _Layers(Space):
    """FBNet: a number for each of 22 layers."""

    def read(self, text: str) -> tuple[int, ...]:
        parts = re.split(r"[-, ]+", text.strip(" []()")[:400])
        if len(parts) != len(self.kinds) or not all(re.fullmatch("[0-8]", p) for p in parts):
            raise InputError(f"expected 22 numbers from 0 to 8, as 3-3-8-..., got {show(text)}", field=self.name)
        return tuple(int(p) for p in parts)

    def spell(self, code: Sequence[int]) -> str:
        return "-".join(str(int(c)) for c in code)

    def sets(self, code: Sequence[int]) -> Mapping[str, Any]:
        return {"ops": [int(c) for c in code]}


_OFA = tuple(f"k{k}e{e}" for k in (3, 5, 7) for e in (3, 4, 6))


class _Stages(Space):
    """Once-for-all of MobileNetV3: five stages of up to four layers, each ``kKeE``."""

    @property
    def size(self) -> int:
        """How many architectures it has: layers are left out at the end of a stage alone."""
        return int(sum(len(_OFA) ** depth for depth in range(1, 5)) ** 5)

    def read(self, text: str) -> tuple[int, ...]:
        stages = [stage.split("-") for stage in text.strip()[:400].lower().split("+")]
        if len(stages) != 5 or not all(1 <= len(s) <= 4 and all(x in _OFA for x in s) for s in stages):
            raise InputError(
                f"expected five stages of one to four layers ({', '.join(_OFA[:2])}, ...), got {show(text)}",
                field=self.name,
            )
        return tuple(_OFA.index(s[i]) if i < len(s) else len(_OFA) for s in stages for i in range(4))

    def spell(self, code: Sequence[int]) -> str:
        stages = [[_OFA[c] for c in code[4 * s : 4 * s + 4] if c < len(_OFA)] for s in range(5)]
        return "+".join("-".join(stage) for stage in stages)

    def sets(self, code: Sequence[int]) -> Mapping[str, Any]:
        chosen = [_OFA[c] if c < len(_OFA) else "" for c in code]
        return {
            "depths": [sum(bool(x) for x in chosen[4 * s : 4 * s + 4]) for s in range(5)],
            "kernels": [int(x[1]) if x else 3 for x in chosen],
            "expansions": [float(x[3]) if x else 3.0 for x in chosen],
        }

    def draw(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        codes = super().draw(n, seed) % len(_OFA)
        depths = np.random.default_rng((seed, 1)).integers(2, 5, (n, 5))
        codes[np.arange(20) % 4 >= np.repeat(depths, 4, axis=1)] = len(_OFA)
        return codes


#: Spaces by the prefix that names them.
SPACES: Mapping[str, Space] = {
    s.name: s
    for s in (
        _Cells(
            "nb201",
            "NAS-Bench-201",
            "nasbench201",
            (0,) * 6,
            (CELL_OPS,),
            ("cells.",),
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|",
            ("nasbench201", "nas_bench_201"),
        ),
        _Layers(
            "fbnet",
            "FBNet",
            "fbnet_space",
            tuple(range(22)),
            (FBNET_OPS,) * 22,
            tuple(f"blocks.{i}." for i in range(22)),
            "3-3-8-3-7-4-8-8-7-4-1-4-7-3-2-7-3-2-4-2-4-5",
            ("fbnet_space",),
        ),
        _Stages(
            "ofa",
            "once-for-all of MobileNetV3",
            "ofa_mobilenet_v3",
            tuple(range(20)),
            ((*_OFA, "none"),) * 20,
            tuple(f"blocks.{i}.{j}." for i in range(5) for j in range(4)),
            "k3e3-k3e3+k5e4-k3e3+k3e6-k3e6+k7e6-k3e3+k5e3-k5e3",
            ("ofa_mobilenet_v3", "ofa_mbv3"),
            required=frozenset(range(0, 20, 4)),
        ),
    )
}


@cache
def _prefixes() -> Mapping[str, Space]:
    return {name: space for space in SPACES.values() for name in (space.name, *space.aliases)}


def space_of(given: str) -> tuple[Space, str] | None:
    """The space of ``PREFIX:ARCHITECTURE`` and the architecture; None: another name.

    Raises:
        InputError: the prefix is a file that is no space.
    """
    prefix, colon, rest = given.rpartition(":") if _FILE.search(given) else given.partition(":")
    space = _prefixes().get(prefix.lower())
    if space is None and colon and prefix.lower().endswith(".toml"):
        space = find_space(prefix)
    return (space, rest) if colon and space else None


#: A file of a space with an architecture.
_FILE = re.compile(r"\.toml:[^/\\]*$", re.IGNORECASE)


def find_space(name: str) -> Space:
    """The space of this name, or of a file ``.toml``. Raises :class:`UnknownName`, :class:`InputError`."""
    space = _prefixes().get(name.strip().lower().rstrip(":"))
    if space is None and name.lower().endswith(".toml"):
        from steelyard.workload.networks.space_file import read_space

        return read_space(name)
    if space is None:
        raise UnknownName("space", name, SPACES, hint="or a file of your own, mine.toml")
    return space
