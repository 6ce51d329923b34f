"""Workloads written as counted ops: kernels that move and reduce tensors, and ops of a kind with a table of rates.

An op list is a TOML file of its own or of the folder ``oplists`` of a catalogue; ``ops:NAME`` names the latter, and
``ops:NAME:size=value`` sets its sizes. The rank ``b`` is the batch, ``t`` batch times prompt tokens.

::

    name = "softmax-unfused"
    title = "Softmax as a kernel for each step"
    source = "by hand"
    sizes = { h = 32, n = 4096 }

    [[op]]
    name = "max"
    einsum = "b h n -> b h"
    map = "copy"
    reduce = "max"

    [[op]]
    name = "ntt"
    rate = "ntt"
    number = "b * h * 2"

    [rates.ntt]
    work = 1e6
    per_s = { a100_sxm = 1.2e6 }
    source = "where the rates are from"

Ops of one ``fuse`` in a row are one kernel; what passes between them stays on chip. A counted op of a rate takes
``number / rate`` seconds on a machine of its table; on others ``number * work`` operations of the vector engine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from steelyard.arithmetic import reckon
from steelyard.documents import build, read_document
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all, show
from steelyard.folders import catalogue_files
from steelyard.units import Quantity, parse_quantity
from steelyard.workload.fixed import FixedGraph
from steelyard.workload.model import Model
from steelyard.workload.op import Op

__all__ = ["PREFIX", "CountedOp", "OpList", "Rate", "find_op_list", "load_op_list", "op_lists"]

#: What a name of an op list begins with.
PREFIX = "ops:"
#: What an operand may be.
_ROLES = ("activation", "weight", "kv", "state", "table")
#: Ranks that the question sets.
_ASKED = ("b", "t")
#: Most ops of a list, and the largest size.
_MOST_OPS, _LARGEST, _MOST_BITS = 2000, 1e15, 4096


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast machines do an op of a kind."""

    __pydantic_config__ = {"extra": "forbid"}

    source: str
    work: Annotated[float, Quantity("1", "operations of the vector engine in one, for machines without a rate", ge=0)]
    per_s: Mapping[str, Annotated[float, Quantity("1/s", "ops per second and device, by machine", gt=0)]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class CountedOp:
    """One op: an einsum over named sizes, or a number of ops of a rate."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    einsum: Annotated[str, "inputs -> output, over the sizes of the list"] = ""
    map: Annotated[str, "operator at every point"] = "mul"
    reduce: Annotated[str, "operator over ranks that the output does not have"] = "add"
    roles: Annotated[tuple[str, ...], "activation, weight, kv, state or table for each operand"] = ()
    bits: Annotated[Mapping[str, float], "widths of operands in0, in1, ..., out that differ from their role's"] = field(
        default_factory=dict
    )
    iterative: Annotated[tuple[str, ...], "ranks that run one after another"] = ()
    fuse: Annotated[str, "ops of one label in a row are one kernel"] = ""
    rate: Annotated[str, "a table of rates; the op has no einsum then"] = ""
    number: Annotated[str, "how many ops of the rate: a number, or arithmetic of the sizes"] = ""
    count: Annotated[str, "copies in sequence: a number, or arithmetic of the sizes"] = "1"
    block: str = ""


@dataclass(frozen=True, slots=True)
class OpList:
    """A workload as counted ops."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    source: str
    op: tuple[CountedOp, ...]
    sizes: Annotated[Mapping[str, float], "extents by name; b and t are the question's"] = field(default_factory=dict)
    rates: Mapping[str, Rate] = field(default_factory=dict)
    weights: Annotated[str, "number format of weights and tables"] = "bf16"
    note: Annotated[str, "shown with the answer"] = ""

    def __post_init__(self) -> None:
        raise_all(list(self._problems()))

    def _problems(self) -> Iterator[Problem]:
        if not 1 <= len(self.op) <= _MOST_OPS:
            yield Problem("op", f"expected 1 to {_MOST_OPS:,} ops, got {len(self.op):,}")
        for name, value in self.sizes.items():
            if not re.fullmatch(r"[A-Za-z_]\w{0,30}", name) or name in _ASKED:
                yield Problem(f"sizes.{show(name)}", "expected a name that is not b or t")
            elif not (isinstance(value, int | float) and 0 < value <= _LARGEST):
                yield Problem(f"sizes.{name}", f"expected a number above 0 and at most 1e15, got {show(value)}")
        names = [op.name for op in self.op]
        for i, op in enumerate(self.op):
            place = f"op[{i}]"
            if names.index(op.name) != i:
                yield Problem(f"{place}.name", f"{show(op.name)} is there twice")
            for role in op.roles:
                if role not in _ROLES:
                    yield Problem(f"{place}.roles", UnknownName("role", role, _ROLES).message)
            if bool(op.einsum) == bool(op.rate):
                yield Problem(place, "expected an einsum, or a rate and a number")
            if op.rate and op.rate not in self.rates:
                yield Problem(f"{place}.rate", UnknownName("rate", op.rate, self.rates).message)
            if op.rate and not op.number:
                yield Problem(f"{place}.number", "expected how many")
            yield from _of_operands(op, place)

    def graph(self, given: Mapping[str, float]) -> FixedGraph:
        """The workload with some of its sizes set. Raises :class:`InputError`."""
        unknown = [n for n in given if n not in self.sizes]
        raise_all([Problem("model", UnknownName("size", n, sorted(self.sizes)).message) for n in unknown])
        sizes = {**self.sizes, **given}
        ops, problems = [], []
        for op in self.op:
            try:
                ops.append(self._op(op, sizes))
            except InputError as error:
                problems += [Problem(f"{self.name}.{op.name}", p.message) for p in error.problems]
        raise_all(problems)
        notes = (self.note,) if self.note else ()
        return FixedGraph(self.name, tuple(ops), model_type="ops", notes=notes, native_weights=self.weights)

    def _op(self, op: CountedOp, sizes: Mapping[str, float]) -> Op:
        count = self._reckoned(op.count, sizes, "count")
        if op.einsum:
            own = {**sizes, "b": 1, "t": 1}
            return Op(
                op.name,
                op.einsum,
                own,
                roles=op.roles,
                map=op.map,
                reduce=op.reduce,
                bits=op.bits,
                iterative=op.iterative,
                count=count,
                fuse=op.fuse,
                block=op.block,
            )
        per_batch = self._per_batch(op.number, sizes)
        rate = self.rates[op.rate]
        facts = {"rate": op.rate, "work": rate.work, "per_s": dict(rate.per_s), "source": rate.source}
        own = {"b": 1, "n": per_batch}
        return Op(op.name, "b n -> b n", own, map="none", count=count, block=op.block, facts=facts, bits=_FREE)

    def _per_batch(self, number: str, sizes: Mapping[str, float]) -> float:
        """Ops of a rate for each of a batch: what is counted grows with it, or does not."""
        one, two = (self._reckoned(number, {**sizes, "b": b, "t": b}, "number") for b in (1.0, 2.0))
        if not math.isclose(two, 2 * one, rel_tol=1e-9):
            raise InputError("expected a number that is proportional to b, such as 'b * n'", field="number")
        return one

    @staticmethod
    def _reckoned(text: str, sizes: Mapping[str, float], name: str) -> float:
        value = reckon(text, {k: float(v) for k, v in sizes.items()}.get, ", ".join(sizes) or "numbers")
        if not 0 < value <= _LARGEST:
            raise InputError(f"expected {name} above 0 and at most 1e15, got {value:g}", field=name)
        return value


def _of_operands(op: CountedOp, place: str) -> Iterator[Problem]:
    """Widths of operands and ranks that the einsum does not have, or that are none."""
    inputs = op.einsum.partition("->")[0]
    known = [*(f"in{i}" for i in range(inputs.count(",") + 1)), "out"]
    for name, bits in op.bits.items():
        if name not in known:
            yield Problem(f"{place}.bits", UnknownName("operand", name, known).message)
        elif not 0 <= bits <= _MOST_BITS:
            yield Problem(f"{place}.bits.{name}", f"expected 0 to {_MOST_BITS} bits, got {show(bits)}")
    ranks = sorted(set(re.findall(r"[A-Za-z_]\w*", inputs)))
    for rank in op.iterative:
        if rank not in ranks:
            yield Problem(f"{place}.iterative", UnknownName("rank", rank, ranks).message)


#: Counted ops move nothing that is priced: their rates hold it.
_FREE = {"in0": 0.0, "out": 0.0}


@cache
def op_lists() -> Mapping[str, OpList]:
    """Every op list of the catalogues by name.

    Raises:
        InputError: a file cannot be read, or a field is missing, unknown or wrong.
    """
    found: dict[str, OpList] = {}
    for path in catalogue_files("oplists"):
        one = build(OpList, read_document(path), path.name)
        found.setdefault(one.name, one)
    return found


def find_op_list(name: str) -> OpList:
    """The op list of this name. Raises :class:`UnknownName`."""
    for known, one in op_lists().items():
        if normalise(known) == normalise(name):
            return one
    raise UnknownName("op list", name, op_lists(), hint="`steelyard ls oplists` lists all")


def load_op_list(given: str | Path) -> Model:
    """The workload of ``ops:NAME[:size=value,...]`` or of a file.

    Raises:
        UnknownName: there is none of this name.
        InputError: the file or a size is wrong.
    """
    if isinstance(given, Path):
        one = build(OpList, read_document(given), given.name)
        return Model(one.name, one.graph({}), one.source)
    name, _, body = given.removeprefix(PREFIX).partition(":")
    one = find_op_list(name)
    sizes: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in body.split(","))):
        key, equals, value = (x.strip() for x in part.partition("="))
        if not equals:
            raise InputError(f"expected size=value, got {show(part)}; sizes: {', '.join(one.sizes)}", field="model")
        sizes[key] = float(parse_quantity(value, "1", "model"))
        if not 0 < sizes[key] <= _LARGEST:
            raise InputError(f"expected {show(key)} above 0 and at most 1e15, got {show(value)}", field="model")
    return Model(one.name, one.graph(sizes), one.source, asked=given if sizes else f"{PREFIX}{one.name}")


def numbers(op: Op) -> Any:
    """How many ops of its rate a counted op stands for."""
    return np.asarray(op.size("b"), dtype=np.float64) * np.asarray(op.size("n"), dtype=np.float64)
