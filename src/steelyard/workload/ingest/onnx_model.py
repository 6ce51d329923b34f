"""The bytes of an ONNX model as a graph of tensors: checked, functions inlined, walked at three batches, joined.

Everything here runs on data of strangers; :mod:`steelyard.workload.ingest.onnx` calls it in a process with limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from steelyard.errors import InputError, printable, show
from steelyard.workload.extent import Extent, extent
from steelyard.workload.ingest.onnx_patterns import put_together
from steelyard.workload.ingest.onnx_sizes import BATCHES, Sizes, open_sizes, size_of
from steelyard.workload.ingest.onnx_slim import MOST_NODES
from steelyard.workload.ingest.onnx_values import DTYPES, F32, FLOATS, GRAPH, TENSOR, Found, Recorder, Value, memory
from steelyard.workload.ingest.onnx_walk import Walk
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["graph_of_model"]

#: ``data_location`` of a tensor whose data lies in another file.
_EXTERNAL = 1
#: Types of indices: an input of them with two extents is a batch of sequences.
_IDS = ("i64", "i32")
#: Integers in which a runtime keeps activations.
_WHOLE = ("i8", "u8", "i16", "i4")
#: Groups of ops that runtimes do in integers.
_IN_INTEGERS = ("product", "pointwise", "pool", "move", "resize", "reduce", "gather")


class _Differs(Exception):
    """The graph is no polynomial of the batch."""


def graph_of_model(content: bytes, name: str, sets: Mapping[str, int]) -> TensorGraph:
    """The graph of a model.

    Args:
        content: what :func:`steelyard.workload.ingest.onnx_slim.slim` leaves of the file.
        name: what results call it.
        sets: sizes that the file leaves open, by name.

    Raises:
        InputError: it is no ONNX, breaks its rules, is beyond the limits, or leaves a size open.
    """
    model = _parsed(content)
    model, weights = _checked(model)
    shapes, types = _inputs(model, weights)
    walk, declared, source = Walk(model, types, weights), _declared(model.graph), _source(model)
    fixed = _fixed_batch(shapes, types)
    if fixed:
        opened = _opened(walk, shapes, fixed, sets, name)
        if opened is not None:
            return _with_source(opened, f"{source}, exported at batch {fixed}", walk.recorder.notes)
        if str(sets.get("batch", fixed)) != str(fixed):
            raise InputError(f"its batch is fixed at {fixed}, and it does not work with another", field="set.batch")
        sets = {k: v for k, v in sets.items() if k != "batch"}
    sizes = open_sizes(shapes, sets)
    if sizes.batch:
        try:
            graph = _joined([_walked(walk, sizes, declared, b) for b in BATCHES], {"batch": sizes.usual}, name)
            return _with_source(graph, source, walk.recorder.notes)
        except _Differs:
            if not any(n in sets for n in (*sizes.batch, "batch")):
                message = "it is no polynomial of the batch; give the one you mean, as --set batch=1"
                raise InputError(message, field="set.batch") from None
    graph = _joined([_walked(walk, sizes, declared, sizes.usual)], {}, name)
    return _with_source(graph, source, walk.recorder.notes)


def _fixed_batch(shapes: Mapping[str, Sequence[int | str]], types: Mapping[str, int]) -> int:
    """The batch at which a file was exported: the number that its inputs begin with; 0 where that is none."""
    several = {n: s[0] for n, s in shapes.items() if len(s) > 1}
    sure = any(len(s) > 2 or (len(s) == 2 and (s[0] == 1 or DTYPES.get(types[n]) in _IDS)) for n, s in shapes.items())
    fixed = next(iter(several.values()), 0)
    if not sure or len(set(several.values())) != 1 or not isinstance(fixed, int) or not 1 <= fixed <= 4096:
        return 0
    return 0 if any(d == "batch" for s in shapes.values() for d in s) else fixed


def _opened(
    walk: Walk, shapes: Mapping[str, Sequence[int | str]], fixed: int, sets: Mapping[str, int], name: str
) -> TensorGraph | None:
    """The graph of a file exported at a fixed batch, with that batch open; None where results do not grow with it."""
    free = {n: ["batch", *s[1:]] if len(s) > 1 else list(s) for n, s in shapes.items()}
    try:
        sizes = open_sizes(free, {"batch": fixed, **sets})
        recorders = []
        for batch in BATCHES:
            walk.rebatch = (fixed, batch)
            recorders.append(_walked(walk, sizes, {}, batch))
        graph = _joined(recorders, {"batch": sizes.usual}, name)
    except (InputError, _Differs):
        return None
    finally:
        walk.rebatch = None
    one, two = ({"batch": b} for b in (1, 2))
    linear = all(graph.elements(o, two) == 2 * graph.elements(o, one) for o in graph.outputs)
    return graph if linear and graph.outputs else None


def _walked(walk: Walk, sizes: Sizes, declared: Mapping[str, Sequence[int | str]], batch: int) -> Recorder:
    known = sizes.known(batch)
    said = {}
    for name, shape in declared.items():
        try:
            said[name] = [size_of(d, known, name) for d in shape]
        except (InputError, OverflowError):
            continue
    return walk.run(sizes.at(batch), said)


def _parsed(content: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise InputError("it is no ONNX model (its protobuf is damaged)") from None
    if not model.graph.node and not model.graph.output:
        raise InputError("it is no ONNX model (it has no graph)")
    return model


def _checked(model: Any) -> tuple[Any, dict[str, tuple[tuple[int, ...], int]]]:
    """The model with weights as inputs and functions inlined, after the checks of the ``onnx`` package."""
    import onnx
    from onnx import inliner

    weights: dict[str, tuple[tuple[int, ...], int]] = {}
    _lifted(model.graph, weights)
    given = {i.name for i in model.graph.input}
    for name, (dims, elem) in weights.items():
        if any(d < 0 for d in dims) or prod(dims) > 2**48:
            raise InputError(f"{show(name)}: expected extents from 0, at most 2^48 elements")
        if name not in given:
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, elem or F32, dims))
    for function in model.functions:
        if any(_elsewhere(a.t) for n in function.node for a in n.attribute if a.type == TENSOR):
            raise InputError("a function of it holds weights; inline its functions where it is written")
    _counted(model)
    for each in model.graph.output:  # the check wants a shape; many writers leave it out, and it is not needed
        if each.type.HasField("tensor_type") and not each.type.tensor_type.HasField("shape"):
            each.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        words = " ".join(str(error).replace("==> Context", "; in").split())
        raise InputError(f"it breaks the rules of ONNX: {words[:300]}") from None
    return model, weights


def _elsewhere(tensor: Any) -> bool:
    return bool(tensor.data_location == _EXTERNAL)


def _lifted(graph: Any, weights: dict[str, tuple[tuple[int, ...], int]]) -> None:
    """Take tensors whose data is left out of a graph and its inner graphs: they become inputs of the model."""
    kept = []
    for tensor in graph.initializer:
        if _elsewhere(tensor):
            weights[tensor.name] = (tuple(tensor.dims), tensor.data_type)
        else:
            kept.append(tensor)
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
    for tensor in graph.sparse_initializer:
        weights[tensor.values.name] = (tuple(tensor.dims), tensor.values.data_type)
    del graph.sparse_initializer[:]
    steps = []
    for node in graph.node:
        for a in node.attribute:
            if a.type == GRAPH:
                _lifted(a.g, weights)
        one = node.attribute[0] if node.op_type == "Constant" and len(node.attribute) == 1 else None
        if one is not None and one.type == TENSOR and _elsewhere(one.t) and node.output:
            weights[node.output[0]] = (tuple(one.t.dims), one.t.data_type)
            continue
        if any(a.type == TENSOR and _elsewhere(a.t) for a in node.attribute):
            raise InputError(f"{show(node.op_type, 40)} {show(node.name, 60)} has a weight as an attribute")
        steps.append(node)
    if len(steps) < len(graph.node):
        del graph.node[:]
        graph.node.extend(steps)


def _counted(model: Any) -> None:
    """Refuse functions that call one another into more nodes than are read, or for ever."""
    bodies = {(f.domain, f.name): f for f in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Any, around: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in bodies and key not in counts:
                if key in around or len(around) > 50:
                    raise InputError(f"its function {show(node.op_type, 60)} calls itself, or too many others")
                counts[key] = count(bodies[key].node, (*around, key))
            total += counts.get(key, 1) + sum(count(a.g.node, around) for a in node.attribute if a.type == GRAPH)
            if total > MOST_NODES:
                raise InputError(f"its functions unfold to more than {MOST_NODES:,} nodes")
        return total

    count(model.graph.node, ())


def _inputs(
    model: Any, weights: Mapping[str, tuple[tuple[int, ...], int]]
) -> tuple[dict[str, list[int | str]], dict[str, int]]:
    """Shapes and types of what the model is given; open extents without a name get one of their input's."""
    shapes: dict[str, list[int | str]] = {}
    types: dict[str, int] = {}
    stored = {t.name for t in model.graph.initializer} | set(weights)
    for each in model.graph.input:
        if each.name in stored:
            continue
        tensor = each.type.tensor_type
        if not each.type.HasField("tensor_type") or not tensor.HasField("shape"):
            raise InputError(f"the input {show(each.name, 60)} is no tensor with a shape")
        shape: list[int | str] = []
        for axis, d in enumerate(tensor.shape.dim):
            if d.HasField("dim_value"):
                if d.dim_value < 0:
                    raise InputError(f"the input {show(each.name, 60)} has an extent of {d.dim_value}")
                shape.append(int(d.dim_value))
            elif d.dim_param:
                shape.append(d.dim_param)
            else:
                shape.append(
                    "batch" if axis == 0 else f"{''.join(c if c.isalnum() else '_' for c in each.name)}_{axis}"
                )
        shapes[each.name], types[each.name] = shape, tensor.elem_type
    return shapes, types


def _declared(graph: Any) -> dict[str, list[int | str]]:
    """Shapes that the file says of values, for ops that nobody has a rule for."""
    found = {}
    for each in (*graph.value_info, *graph.output):
        tensor = each.type.tensor_type
        if each.type.HasField("tensor_type") and tensor.HasField("shape"):
            dims = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
            if dims and all(d != "" for d in dims):
                found[each.name] = dims
    return found


def _source(model: Any) -> str:
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    made = printable(f"{model.producer_name[:60]} {model.producer_version[:30]}")
    return f"ONNX of opset {version}" + (f" by {made[:60]}" if made else "")


def _with_source(graph: TensorGraph, source: str, notes: Mapping[str, int]) -> TensorGraph:
    words = [f"{words} ({n} times)" if n > 1 else words for words, n in notes.items()]
    said = "; ".join([source, *words[:5]])[:400]
    return replace(graph, source=said)


def _joined(walks: Sequence[Recorder], symbols: Mapping[str, int], name: str) -> TensorGraph:
    """One graph of walks at several batches. Raises :class:`_Differs` where they are not the same but for sizes."""
    made = []
    for recorder in walks:
        recorder.nodes = put_together(recorder.nodes, recorder.outputs)
        recorder.nodes = _in_integers(recorder)
        values = recorder.tensors()
        nodes = [(f.op, _numbers(f.inputs), _numbers(f.outputs), f.name, f.facts) for f in recorder.nodes if f.outputs]
        made.append((values, nodes, _numbers(recorder.outputs)))
    values, nodes, outputs = made[0]
    if any((n, o) != (nodes, outputs) or len(v) != len(values) for v, n, o in made[1:]):
        raise _Differs
    tensors = []
    for same in zip(*(v for v, _, _ in made), strict=True):
        if len({len(v.shape) for v in same}) > 1:
            raise _Differs
        shape = tuple(_between(extents) for extents in zip(*(v.shape for v in same), strict=True))
        one = same[0]
        of = memory(one.of).number if one.of is not None else -1
        made_up = one.role == "weight" and any(isinstance(d, Extent) for d in shape)  # nothing learned has a batch
        tensors.append(Tensor(shape, one.type, "constant" if made_up else one.role, of))
    return TensorGraph(name, tuple(Node(*n) for n in nodes), tuple(tensors), tuple(outputs), dict(symbols))


def _numbers(values: Sequence[Value]) -> tuple[int, ...]:
    return tuple(memory(v).number for v in values)


def _between(extents: Sequence[int]) -> int | Extent:
    """The polynomial of the batch, of degree two at most, through an extent at each of the batches."""
    if len(set(extents)) == 1:
        return extents[0]
    (a, x), (b, y), (c, z) = zip(BATCHES, extents, strict=True)
    one, two = (y - x) / (b - a), (z - y) / (c - b)
    square = (two - one) / (c - a)
    slope = one - square * (a + b)
    fixed = x - slope * a - square * a * a
    if any(n != int(n) for n in (square, slope, fixed)) or (square and (slope or fixed)) or square < 0 or slope < 0:
        raise _Differs
    return extent({("batch", "batch"): int(square), ("batch",): int(slope), (): int(fixed)})


def _in_integers(recorder: Recorder) -> list[Found]:
    """Nodes with what is quantised and dequantised around an op left out: runtimes do such ops in integers.

    An op that reads only dequantised values reads the integers; one whose result is only quantised writes them.
    """
    if not any(f.op == "quantise" for f in recorder.nodes):
        return recorder.nodes
    users: dict[int, list[Found]] = {}
    makers: dict[int, Found] = {}
    for f in recorder.nodes:
        for value in f.inputs:
            users.setdefault(id(memory(value)), []).append(f)
        for value in f.outputs:
            makers[id(value)] = f
    ends, gone = {id(v) for v in recorder.outputs}, set()
    for f in recorder.nodes:
        if f.op != "quantise" or not f.inputs or not f.outputs:
            continue
        x, y = f.inputs[0], f.outputs[0]
        if x.type in _WHOLE and y.type not in _WHOLE:  # back to floats: its users read the integers where they can
            left = False
            for user in users.get(id(y), ()):
                if _whole(user):
                    user.inputs = [x if memory(v) is y else v for v in user.inputs]
                else:
                    left = True
            if not left and id(y) not in ends:
                gone.add(id(f))
        elif y.type in _WHOLE and x.type not in _WHOLE and x.of is None:
            maker = makers.get(id(x))
            alone = all(u is f for u in users.get(id(x), ())) and id(x) not in ends
            if maker is not None and alone and _whole(maker) and len(maker.outputs) == 1:
                maker.outputs = [y]
                gone.add(id(f))
                _narrow(maker, y.type, makers, users)
    return [f for f in recorder.nodes if id(f) not in gone]


def _narrow(node: Found, dtype: str, makers: Mapping[int, Found], users: Mapping[int, list[Found]]) -> None:
    """What is passed to an op that writes integers by the op before it alone is in integers too: they run as one."""
    while node.was not in ("Conv", "MatMul", "Gemm"):
        floats = [
            v for v in node.inputs if v.type in FLOATS and not v.const and v.of is None and v.role == "activation"
        ]
        before = makers.get(id(floats[0])) if len(floats) == 1 else None
        if before is None or not _whole(before) or users.get(id(floats[0]), []) != [node]:
            return
        floats[0].dtype, node = dtype, before


def _whole(node: Found) -> bool:
    return node.op != "quantise" and Node(node.op, (), ()).kind.group in _IN_INTEGERS
