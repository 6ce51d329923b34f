"""Graphs of tensors as files: JSON, packed with gzip where the name ends in ``.gz``.

``{"schema": "steelyard.graph/1", "name", "source", "symbols", "tensors": [[shape, dtype, role, of]], "outputs",
"nodes": [[op, inputs, outputs, module, facts]]}``; extents are numbers or text such as ``"49*batch"``. A tensor views
an earlier one. Data only: nothing in a file names code.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.documents import open_file
from steelyard.errors import InputError, show
from steelyard.workload.extent import parse, stated
from steelyard.workload.tensor_graph import WIDTHS, Node, Tensor, TensorGraph

__all__ = ["SCHEMA", "data_of", "graph_of", "packed", "read_graph"]

SCHEMA = "steelyard.graph/1"
_ROLES = ("input", "weight", "buffer", "constant", "activation")
#: Most bytes of a file, unpacked; most tensors and nodes.
_MOST_BYTES, _MOST = 64 << 20, 400_000


def data_of(graph: TensorGraph) -> dict[str, Any]:
    """The graph as plain data, which :func:`graph_of` reads."""
    return {
        "schema": SCHEMA,
        "name": graph.name,
        "source": graph.source,
        "symbols": dict(graph.symbols),
        "tensors": [[[stated(d) for d in t.shape], t.dtype, t.role, t.of] for t in graph.tensors],
        "outputs": list(graph.outputs),
        "nodes": [[n.op, list(n.inputs), list(n.outputs), n.name, dict(n.facts)] for n in graph.nodes],
    }


def packed(graph: TensorGraph) -> bytes:
    """The graph as JSON packed with gzip; equal graphs give equal bytes."""
    return gzip.compress(json.dumps(data_of(graph), separators=(",", ":")).encode(), 9, mtime=0)


def read_graph(path: Path) -> TensorGraph:
    """The graph of a file that :func:`packed` or a user wrote.

    Raises:
        InputError: it cannot be read, is beyond the limits, or says what a graph cannot be.
    """
    try:
        with open_file(path, _MOST_BYTES, "model") as file:
            packed_so = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            text = (gzip.GzipFile(fileobj=file) if packed_so else file).read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name}: cannot be read ({show(str(error))})", field="model") from None
    if len(text) > _MOST_BYTES:
        raise InputError(f"{path.name}: expected at most {_MOST_BYTES >> 20} MiB unpacked", field="model")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{path.name}: expected JSON", field="model") from None
    return graph_of(data, path.name)


def graph_of(data: Any, place: str) -> TensorGraph:
    """The graph that parsed JSON says. Raises :class:`InputError` with the place of the first fault."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(f"{place}: expected a graph with schema {SCHEMA!r}", field="model")
    try:
        symbols = {str(k): int(v) for k, v in _mapping(data.get("symbols", {}), "symbols").items()}
        rows, steps = _list(data["tensors"], "tensors"), _list(data["nodes"], "nodes")
        tensors = tuple(_tensor(row, i) for i, row in enumerate(rows))
        nodes = tuple(_node(row, i, len(tensors)) for i, row in enumerate(steps))
        outputs = _numbers(data.get("outputs", []), len(tensors), "outputs")
    except KeyError as error:
        raise InputError(f"{place}: {error.args[0]} is missing", field="model") from None
    except InputError as error:
        raise InputError(f"{place}: {error.problems[0].message}", field="model") from None
    except (TypeError, ValueError):
        raise InputError(
            f"{place}: expected tensors [shape, dtype, role, of] and nodes as lists", field="model"
        ) from None
    name, source = str(data.get("name", place))[:100], str(data.get("source", ""))[:500]
    return TensorGraph(name, nodes, tensors, outputs, symbols, source)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{name}: expected a table, got {show(value)}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise InputError(f"{name}: expected a list of at most {_MOST:,}")
    return value


def _tensor(row: Any, i: int) -> Tensor:
    shape, dtype, role, of = row
    if dtype not in WIDTHS or role not in _ROLES or not isinstance(of, int) or not -1 <= of < i:
        raise InputError(f"tensors[{i}]: expected a known dtype and role and an earlier tensor, got {show(row[1:])}")
    if not isinstance(shape, list) or len(shape) > 16:
        raise InputError(f"tensors[{i}]: expected at most 16 extents")
    extents = tuple(parse(d) for d in shape)
    if any(isinstance(d, int) and not 0 <= d < 2**48 for d in extents):
        raise InputError(f"tensors[{i}]: expected extents from 0 to 2^48, got {show(shape)}")
    return Tensor(extents, dtype, role, of)


def _node(row: Any, i: int, tensors: int) -> Node:
    op, inputs, outputs, name, facts = row
    if not isinstance(op, str) or not isinstance(name, str):
        raise InputError(f"nodes[{i}]: expected text for op and module, got {show(row[:1])}")
    place = f"nodes[{i}]"
    return Node(
        op[:100],
        _numbers(inputs, tensors, place),
        _numbers(outputs, tensors, place),
        name[:200],
        _mapping(facts, place),
    )


def _numbers(value: Any, tensors: int, place: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(x) is int and 0 <= x < tensors for x in value):
        raise InputError(f"{place}: expected numbers of tensors below {tensors:,}, got {show(value)}")
    return tuple(value)
