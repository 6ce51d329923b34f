"""ONNX models: their bytes damaged, and models changed where protobuf still reads them."""

from __future__ import annotations

import io
import random
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.fuzz.judge import Wrong

__all__ = ["THERE", "edited", "edits", "model", "models"]

#: Whether the package that parses them is installed.
THERE = find_spec("onnx") is not None


def _made() -> list[Any]:
    from tests import onnx_nets as nets

    go = nets.value("go", kind=9)
    return [
        *(nets.small_net(), nets.attention(), nets.quantised(), nets.loop(5), nets.branches(inputs=[go])),
        *(nets.of_runtime(), nets.functions(3), nets.several()),
    ]


def models() -> list[bytes]:
    """Small models of every kind."""
    _ops()  # loaded here once, as each mutant has a process of its own
    return list(_bytes())


@cache
def _bytes() -> tuple[bytes, ...]:
    return tuple(m.SerializeToString() for m in _made())


def edits() -> list[bytes]:
    """Each byte string decides which model is changed and how; these change nothing."""
    models()
    return [f"as it is made, number {i}".encode() for i in range(8)]


def model(content: bytes, folder: Path) -> None:
    """Read a model and count it, in this process: the limits of its own are another test."""
    from steelyard.workload.ingest.kept_graph import packed, read_graph
    from steelyard.workload.ingest.onnx_model import graph_of_model
    from steelyard.workload.ingest.onnx_slim import slim

    graph = graph_of_model(slim(io.BytesIO(content), len(content)), "m", {"len": 5} if b"len" in content else {})
    sizes = dict.fromkeys(graph.symbols, 2)
    if not (graph.macs(sizes) >= 0 and float(graph.peak_bytes(sizes)) >= 0 and graph.weight_bytes() >= 0):
        raise Wrong(f"{graph.macs(sizes)} MACs, {graph.peak_bytes(sizes)} bytes")
    path = folder / "m.json.gz"
    path.write_bytes(packed(graph))
    if read_graph(path).nodes != graph.nodes:
        raise Wrong("its file gives another graph")


def edited(content: bytes, folder: Path) -> None:
    """A model in which ops, names, extents, types and attributes were changed: protobuf still reads it."""
    from onnx import ModelProto

    rng = random.Random(content)
    made = ModelProto.FromString(rng.choice(_bytes()))
    for _ in range(0 if content in edits() else rng.randint(1, 4)):
        _edit(rng, made)
    model(made.SerializeToString(), folder)


def _edit(rng: random.Random, made: Any) -> None:
    """One change to a model."""
    graphs = [made.graph]
    for graph in graphs:
        graphs += [a.g for n in graph.node for a in n.attribute if a.type == 5]
    graph = rng.choice([g for g in graphs if g.node] or graphs)
    nodes = [n for g in graphs for n in g.node]
    if not nodes:
        return
    node = rng.choice(nodes)
    names = [x for n in nodes for x in (*n.input, *n.output)] + [i.name for i in graph.input] + ["", "nowhere"]
    extents = [-1, 0, 1, 2, 3, 7, 64, 2**31, 2**40, 2**62]
    match rng.randrange(11):
        case 0:
            node.op_type = rng.choice(_ops())
            node.domain = rng.choice(["", "", "com.microsoft", "f"])
        case 1 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        case 2 if node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice(names)
        case 3 if node.attribute:
            a = rng.choice(node.attribute)
            if a.ints and rng.random() < 0.7:
                a.ints[rng.randrange(len(a.ints))] = rng.choice([-1, *extents])
            elif rng.random() < 0.5:
                a.i = rng.choice(extents)
            else:
                a.name = rng.choice(["axis", "perm", "group", "pads", "strides", "to", "axes", "num_heads", "body"])
        case 4 if node.attribute:
            node.attribute.remove(rng.choice(node.attribute))
        case 5:
            nodes_of = graph.node
            nodes_of.insert(rng.randrange(len(nodes_of) + 1), node)
        case 6 if len(graph.node) > 1:
            graph.node.remove(rng.choice(graph.node))
        case 7 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            if tensor.dims and rng.random() < 0.6:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(extents)
                tensor.data_location = rng.choice([0, 1])
            elif rng.random() < 0.5:
                tensor.data_type = rng.randrange(28)
            else:
                tensor.raw_data = bytes(rng.choice([0, 1, 255, 128]) for _ in range(len(tensor.raw_data)))
        case 8 if graph.input:
            kind = rng.choice(graph.input).type.tensor_type
            if kind.shape.dim and rng.random() < 0.6:
                d = rng.choice(kind.shape.dim)
                d.dim_param = rng.choice(["N", "len", "2*N", "N//0", "floor(len/3)", "1e999", "((" * 90, "9" * 200])
                if rng.random() < 0.5:
                    d.dim_value = rng.choice(extents)
            elif rng.random() < 0.5:
                kind.shape.dim.add().dim_value = rng.choice(extents)
            else:
                kind.elem_type = rng.randrange(28)
        case 9:
            if node.input and rng.random() < 0.5:
                del node.input[-1]
            else:
                node.input.append(rng.choice(names))
        case _:
            made.opset_import[0].version = rng.choice([1, 6, 11, 13, 18, 21, 23, 99, -1])


@cache
def _ops() -> list[str]:
    """Names of ops: those of ONNX, and those that are read by a rule of ours."""
    from onnx import defs

    from steelyard.workload.ingest import kept_graph, onnx_contrib, onnx_model, onnx_nodes

    assert kept_graph and onnx_model
    return sorted({s.name for s in defs.get_all_schemas()} | set(onnx_nodes._SPECIAL) | set(onnx_contrib._CONTRIB))
