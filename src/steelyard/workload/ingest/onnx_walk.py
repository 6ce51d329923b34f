"""A walk through an ONNX graph at one batch: every value gets a shape, every node becomes ops of the table.

Shapes come from the C++ functions of the ``onnx`` package, node by node, with the values that are known; ops of ONNX
Runtime have rules of their own. Loops are unrolled, of a condition the dearer branch is taken where it is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from steelyard.errors import InputError, printable, show
from steelyard.workload.ingest.onnx_contrib import contrib_shapes, guessed
from steelyard.workload.ingest.onnx_fold import folded
from steelyard.workload.ingest.onnx_nodes import OURS, found
from steelyard.workload.ingest.onnx_parts import Part, Step, part, weight
from steelyard.workload.ingest.onnx_sizes import MOST_EXTENT
from steelyard.workload.ingest.onnx_slim import MOST_NODES
from steelyard.workload.ingest.onnx_values import BOOL, DTYPES, F32, FLOATS, I64, Found, Recorder, Value, memory
from steelyard.workload.tensor_counts import macs
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["Walk"]

#: Nodes of a loop without a known length that are walked to see whether its condition ends it.
_OPEN_LOOP = 2_000
#: Ops of which what is the same in every run is learned, wherever it is from.
_LEARNED = ("conv", "linear", "recurrent")
#: Ops whose operands have one shape, or broadcast to one.
_ALIKE = ("Add", "Sub", "Mul", "Div", "Where", "Min", "Max", "Pow", "PRelu", "And", "Or")
#: Ops that give something else each time.
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
#: What a weight of few bits passes through as it is.
_THROUGH = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout")
_FLOAT_ELEMS = tuple(number for number, name in DTYPES.items() if name in FLOATS)


class _Scope:
    """Values by name, with those of the graph around."""

    def __init__(self, outer: _Scope | None = None) -> None:
        self.names: dict[str, Value] = {}
        self.outer = outer

    def get(self, name: str) -> Value | None:
        """The value of a name; None for the empty one."""
        at: _Scope | None = self
        while at is not None:
            if name in at.names:
                return at.names[name]
            at = at.outer
        if name:
            raise InputError(f"{show(name)} is read and never made")
        return None


class Walk:
    """One pass over a model at sizes of its inputs."""

    def __init__(
        self, model: Any, inputs: Mapping[str, int], weights: Mapping[str, tuple[tuple[int, ...], int]]
    ) -> None:
        """Of a checked ``ModelProto``, types of its inputs, and shapes and types of weights without data."""
        from onnx import defs

        self.inputs, self.weights, self.version = inputs, weights, model.ir_version
        self.versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
        self.imports = list(model.opset_import)
        self.defs = defs
        self.kept: dict[Any, list[tuple[list[int | None], int] | None]] = {}
        self.part = part(model.graph)
        self.declared: dict[str, list[int]] = {}
        self.recorder = Recorder()
        self.done = 0
        #: The batch the file was exported at, and the one it is walked at in its place.
        self.rebatch: tuple[int, int] | None = None

    def run(self, shapes: Mapping[str, tuple[int, ...]], declared: Mapping[str, list[int]]) -> Recorder:
        """Walk once.

        Args:
            shapes: of the inputs.
            declared: shapes that the file says of other values, used where none can be inferred.
        """
        self.recorder, self.declared, self.done = Recorder(), dict(declared), 0
        scope = _Scope()
        for name, (dims, elem) in self.weights.items():
            scope.names[name] = weight(dims, elem, None)
        for name, elem in self.inputs.items():
            scope.names[name] = Value(shapes[name], elem, "input")
            self.recorder.inputs.append(scope.names[name])
        self._graph(self.part, scope)
        ends = [scope.get(name) for name in self.part.outputs]
        self.recorder.outputs = [v for v in ends if v is not None and not v.const and v.items is None]
        return self.recorder

    def _graph(self, graph: Part, scope: _Scope) -> None:
        for name, value in graph.weights.items():
            scope.names[name] = replace(value)
        for step in graph.steps:
            self._count()
            try:
                self._node(step, scope)
            except InputError as error:
                if error.problems[0].field:
                    raise
                place = f"{printable(step.op)[:40]} {show(step.name or next(iter(step.outputs), ''), 60)}"
                raise InputError(error.problems[0].message, field=place) from None

    def _count(self, more: int = 1) -> None:
        self.done += more
        if self.done > MOST_NODES:
            raise InputError(f"its loops unroll to more than {MOST_NODES:,} nodes", field="nodes")

    def _node(self, step: Step, scope: _Scope) -> None:
        domain, op, a, ins = step.domain, step.op, step.attributes, [scope.get(name) for name in step.inputs]
        if domain == "" and op in ("If", "Loop", "Scan"):
            run = {"If": self._if, "Loop": self._loop, "Scan": self._scan}[op]
            scope.names.update((n, v) for n, v in zip(step.outputs, run(ins, a, scope), strict=False) if n)
            return
        sequence = self._sequence(op, ins, a) if domain == "" else None
        if sequence is not None:
            scope.names.update((n, v) for n, v in zip(step.outputs, sequence, strict=False) if n)
            return
        if self.rebatch is not None and domain == "":
            ins = self._rebatched(op, a, ins, *self.rebatch)
        outs = self._outputs(step, ins)
        scope.names.update((n, v) for n, v in zip(step.outputs, outs, strict=True) if n)
        if self._known(domain, op, ins, outs, a):
            return
        for each in found(domain, op, ins, outs, a):
            each.name, each.was = step.name, op if domain == "" else ""
            if each.op in _LEARNED:
                for x in each.inputs[1:3]:
                    made = x.role == "constant" and x.type in FLOATS
                    if x.const and x.size > 1 and (made or (x.role == "buffer" and x.type == "i32")):
                        x.role = "weight"
            self.recorder.nodes.append(each)

    def _rebatched(
        self, op: str, a: Mapping[str, Any], ins: list[Value | None], was: int, now: int
    ) -> list[Value | None]:
        """Inputs of a node in which the batch that was exported is written out, with the other in its place."""
        first = ins[0] if ins else None
        target = ins[1] if len(ins) > 1 else None
        data = target.data if target is not None else None
        if op == "Reshape" and first is not None and target is not None and data is not None and data.size:
            sizes = [int(n) for n in data.reshape(-1)]
            total = prod(first.shape[i] if n == 0 and i < len(first.shape) else n for i, n in enumerate(sizes))
            same = [i for i, n in enumerate(sizes[: len(first.shape)]) if n == was and first.shape[i] == now]
            at = same[0] if same else 0
            inside = -1 in sizes and sizes[at] == was and bool(first.shape) and first.shape[0] % now == 0
            if inside or (-1 not in sizes and total != first.size and sizes[at] % was == 0):
                sizes[at] = sizes[at] // was * now
                return [first, replace(target, data=np.asarray(sizes, np.int64)), *ins[2:]]
        if (op == "Concat" and a.get("axis", 0) != 0) or (op in _ALIKE and was > 1):
            others = [x for x in ins if x is not None and not x.const and len(x.shape) > 1]
            if others and others[0].shape[0] == now:
                return [
                    replace(x, shape=(now, *x.shape[1:]), data=None, of=x, number=-1)
                    if x is not None and x.const and len(x.shape) == len(others[0].shape) and x.shape[0] == was
                    else x
                    for x in ins
                ]
        return ins

    def _known(
        self, domain: str, op: str, ins: Sequence[Value | None], outs: list[Value], a: Mapping[str, Any]
    ) -> bool:
        """Whether the outputs are the same in every run; they are then no work, and small ones have their values."""
        if op in ("Shape", "Size") and domain == "" and ins and ins[0] is not None:
            shape = ins[0].shape
            if op == "Shape":
                shape = shape[a.get("start", 0) : a.get("end", len(shape))]
            outs[0].data = np.asarray(shape if op == "Shape" else prod(shape), np.int64)
            outs[0].const, outs[0].role, outs[0].shape = True, "constant", outs[0].data.shape
            return True
        if any(x is not None and not x.const for x in ins) or op in _RANDOM or domain not in OURS:
            return False
        for out in outs:
            out.const, out.role = True, "constant"
        if op == "Constant":
            outs[0].data, outs[0].role = _constant(a), weight(outs[0].shape, outs[0].elem).role
            return True
        first = ins[0] if ins else None
        if outs and (not ins or (first is not None and first.data is not None)):
            data = folded(op, a, [None if x is None else x.data for x in ins], outs[0].size)
            if data is not None and all(x is None or x.data is not None for x in ins):
                outs[0].data, outs[0].shape = data, data.shape
        self._derived(op, [x for x in ins if x is not None], outs)
        return True

    def _derived(self, op: str, ins: Sequence[Value], outs: Sequence[Value]) -> None:
        """Mark what is made of weights alone: it is a view of the largest, and what is dequantised is it itself."""
        if not ins or not outs:
            return
        if op == "DequantizeLinear":
            first = ins[0]
            first.role = "weight" if first.size > 1 else first.role
            outs[0].role, outs[0].stored = first.role, first
            return
        roots = [x for x in ins if x.role == "weight"]
        if not roots:
            return
        largest = max(roots, key=lambda x: x.size)
        if outs[0].elem not in (*_FLOAT_ELEMS, largest.elem) and op != "QuantizeLinear":
            return
        for out in outs:
            out.role, out.of = "weight", largest
            out.dtype = memory(largest).type if op in _THROUGH else ""
        self.recorder.kept += [x for x in roots if x is not largest]

    def _outputs(self, step: Step, ins: Sequence[Value | None]) -> list[Value]:
        """Shapes and types of the outputs of a node."""
        types = tuple(None if x is None else (x.shape, x.elem) for x in ins)
        values = tuple(x.data.tobytes() if x is not None and x.data is not None else b"" for x in ins)
        whole = (step.key, types, values)
        if whole not in self.kept:
            self.kept[whole] = self._inferred(step, ins)
        made = []
        for name, told in zip(step.outputs, self.kept[whole], strict=True):
            said = self.declared.get(name)
            if told is None or None in told[0]:
                if said is not None and (told is None or len(told[0]) == len(said)):
                    told = (list(said), told[1] if told else self._elem(ins))
                elif not name:
                    told = ([], F32)
                else:
                    told = guessed(step.op, ins, step.attributes, told)
                    if name == step.outputs[0]:  # further ones, as the mask of a Dropout, are seldom read
                        self.recorder.note(f"the shape of {printable(step.op[:40])} is assumed")
            shape, elem = told
            if any(d is None or not 0 <= d <= MOST_EXTENT for d in shape):
                raise InputError(f"it makes an extent that is below 0 or above 2^40: {show(shape)}")
            made.append(Value(tuple(int(d) for d in shape if d is not None), elem))
        return made

    @staticmethod
    def _elem(ins: Sequence[Value | None]) -> int:
        return next((x.elem for x in ins if x is not None), F32)

    def _inferred(self, step: Step, ins: Sequence[Value | None]) -> list[tuple[list[int | None], int] | None]:
        """What the schema of an op says of its outputs; None for one it says nothing of."""
        import onnx

        domain, op, outs = step.domain, step.op, len(step.outputs)
        ours = contrib_shapes(domain, op, ins, step.attributes, outs)
        if ours is not None:
            return [*ours, *[None] * (outs - len(ours))][:outs]
        if op == "Split" and domain == "":  # onnx trusts these numbers, and ends the process where they are wrong
            told = ins[1].data if len(ins) > 1 and ins[1] is not None else None
            parts = step.attributes.get("num_outputs") or len(step.attributes.get("split") or ()) or outs
            if parts != outs or (told is not None and told.size != outs):
                raise InputError("a split into another number of parts than it has outputs")
        bare = onnx.NodeProto.FromString(step.key)
        if domain == "com.microsoft" and domain not in self.versions:
            return [None] * outs
        try:
            schema = self.defs.get_schema(op, self.versions.get(domain, 1), domain)
        except self.defs.SchemaError:
            return [None] * outs
        given = {f"i{i}": _type(x) for i, x in enumerate(ins) if x is not None}
        data = {
            f"i{i}": onnx.numpy_helper.from_array(np.asarray(x.data, order="C"), f"i{i}")
            for i, x in enumerate(ins)
            if x is not None and x.data is not None
        }
        try:
            made = onnx.shape_inference.infer_node_outputs(
                schema, bare, given, data, opset_imports=self.imports, ir_version=self.version
            )
        except (
            *(onnx.shape_inference.InferenceError, onnx.checker.ValidationError),
            *(RuntimeError, ValueError, KeyError, TypeError),
        ) as error:
            if self.recorder.notes:  # of a shape or type that was assumed, nothing can be held against the file
                return [None] * outs
            words = " ".join(str(error).split())
            raise InputError(f"its inputs do not fit: {words.rpartition('] ')[2][:200]}") from None
        found: list[tuple[list[int | None], int] | None] = []
        for i in range(outs):
            tensor = made[f"o{i}"].tensor_type if f"o{i}" in made else None
            if tensor is None or not tensor.HasField("shape"):
                found.append(None)
                continue
            dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
            found.append((dims, tensor.elem_type or self._elem(ins)))
        return found

    def _sequence(self, op: str, ins: Sequence[Value | None], a: Mapping[str, Any]) -> list[Value] | None:
        """Ops on sequences, where it is known which tensors they hold; None for other ops."""
        first = ins[0] if ins else None
        if op == "SequenceConstruct":
            return [Value(items=[x for x in ins if x is not None])]
        if op == "SequenceEmpty":
            return [Value(items=[])]
        if op == "SplitToSequence" and first is not None:
            return [Value(items=self._split(first, ins[1] if len(ins) > 1 else None, a))]
        if first is None or first.items is None:
            return None
        place = ins[-1].data if len(ins) > 1 and ins[-1] is not None else None
        if op == "SequenceAt" and place is not None and first.items:
            index = int(place.reshape(-1)[0])
            if not -len(first.items) <= index < len(first.items):
                raise InputError("a sequence has no such place")
            return [first.items[index]]
        if op == "SequenceInsert" and len(ins) > 1 and ins[1] is not None:
            return [Value(items=[*first.items, ins[1]])]
        if op == "SequenceLength":
            return [Value((), I64, "constant", True, np.asarray(len(first.items)))]
        if op == "ConcatFromSequence" and first.items:
            return [self._joined(first.items, int(a.get("axis", 0)), bool(a.get("new_axis", 0)))]
        raise InputError("it works on a sequence whose parts are not known")

    def _split(self, x: Value, sizes: Value | None, a: Mapping[str, Any]) -> list[Value]:
        axis = int(a.get("axis", 0))
        if not -len(x.shape) <= axis < len(x.shape):
            raise InputError("an axis is beyond the rank")
        whole = x.shape[axis]
        if sizes is None:
            parts = [1] * min(whole, MOST_NODES)
        elif sizes.data is None:
            raise InputError("a split into sizes that are not known")
        elif sizes.data.ndim == 0:
            each = max(int(sizes.data), 1)
            parts = [min(each, whole - i) for i in range(0, whole, each)][:MOST_NODES]
        else:
            parts = [int(n) for n in sizes.data]
        axis %= len(x.shape)
        flat = sizes is None and not a.get("keepdims", 1)
        made = [
            Value((*x.shape[:axis], *(() if flat else (n,)), *x.shape[axis + 1 :]), x.elem, const=x.const)
            for n in parts
        ]
        self._count(len(made))
        if not x.const:
            self.recorder.nodes.append(Found("concat", [x], made))
        return made

    def _joined(self, items: list[Value], axis: int, new: bool) -> Value:
        one = items[0].shape
        rank = len(one) + new
        if not rank or not -rank <= axis < rank or any(len(x.shape) != len(one) for x in items):
            raise InputError("parts of a sequence do not fit one another")
        axis %= rank
        shape = (
            (*one[:axis], len(items), *one[axis:])
            if new
            else (*one[:axis], sum(x.shape[axis] for x in items), *one[axis + 1 :])
        )
        out = Value(shape, items[0].elem, const=all(x.const for x in items))
        if not out.const:
            self.recorder.nodes.append(Found("concat", list(items), [out]))
        return out

    def _body(self, graph: Part, scope: _Scope, given: Sequence[Value]) -> list[Value]:
        """Run an inner graph; the values of its outputs."""
        inner = _Scope(scope)
        inner.names.update(zip(graph.inputs, given, strict=False))
        if len(graph.inputs) > len(given):
            raise InputError("an inner graph has more inputs than it is given")
        self._graph(graph, inner)
        return [v for name in graph.outputs if (v := inner.get(name)) is not None]

    def _if(self, ins: Sequence[Value | None], a: Mapping[str, Any], scope: _Scope) -> list[Value]:
        branches = [b for b in (a.get("then_branch"), a.get("else_branch")) if isinstance(b, Part)]
        condition = ins[0] if ins else None
        if condition is None or len(branches) < 2:
            raise InputError("a condition lacks a branch")
        if condition.data is not None:
            return self._body(branches[0 if bool(condition.data.reshape(-1)[:1].any()) else 1], scope, ())
        before, made = self.recorder.nodes, []
        for branch in branches:
            self.recorder.nodes = []
            outs = self._body(branch, scope, ())
            made.append((self._price(self.recorder.nodes), self.recorder.nodes, outs))
        _, nodes, outs = max(made, key=lambda m: m[0])
        self.recorder.nodes = before + nodes
        self.recorder.note("If: the dearer branch is taken")
        return outs

    def _price(self, nodes: Sequence[Found]) -> tuple[float, float]:
        """Multiply-accumulates and elements of ops."""
        work = size = 0.0
        for each in nodes:
            values = [*each.inputs, *each.outputs]
            tensors = tuple(Tensor(v.shape, v.type) for v in values)
            split = len(each.inputs)
            node = Node(each.op, tuple(range(split)), tuple(range(split, len(values))), "", each.facts)
            work += float(macs(TensorGraph("", (node,), tensors), node, {}))
            size += float(sum(v.size for v in values)) if node.kind.group != "view" else 0.0
        return work, size

    def _loop(self, ins: Sequence[Value | None], a: Mapping[str, Any], scope: _Scope) -> list[Value]:
        body = a.get("body")
        if not isinstance(body, Part) or len(ins) < 2:
            raise InputError("a loop lacks a body")
        count, going, carried = ins[0], ins[1], [x for x in ins[2:] if x is not None]
        data = count.data if count is not None else None
        limit = int(data.reshape(-1)[0]) if data is not None and data.size else -1
        limit = limit if limit < 2**31 else -1
        if limit * len(body.steps) > MOST_NODES:
            self._count(limit * len(body.steps))
        truth = going is None or going.data is None or bool(going.data.any())
        stacked: list[Sequence[Value]] = []
        once: tuple[int, list[Value]] = (0, [])
        while truth and (limit < 0 or len(stacked) < limit):
            step = Value((), I64, "constant", True, np.asarray(len(stacked), np.int64))
            on = Value((), BOOL, "constant", True, np.asarray(True))
            made = self._body(body, scope, [step, on, *carried])
            self._count()
            if len(made) < 1 + len(carried):
                raise InputError("a loop's body gives too few values")
            carried = made[1 : 1 + len(carried)]
            stacked.append(made[1 + len(carried) :])
            once = once if once[1] else (len(self.recorder.nodes), carried)
            truth = made[0].data is None or bool(made[0].data.any())
            if limit < 0 and truth and (made[0].data is None or len(stacked) * len(body.steps) > _OPEN_LOOP):
                self.recorder.note("Loop: of unknown length, counted once")
                del self.recorder.nodes[once[0] :], stacked[1:]
                carried = once[1]
                break
        return [*carried, *(self._joined(list(rows), 0, True) for rows in zip(*stacked, strict=True))]

    def _scan(self, ins: Sequence[Value | None], a: Mapping[str, Any], scope: _Scope) -> list[Value]:
        body, scanned = a.get("body"), int(a.get("num_scan_inputs", 0))
        given = [x for x in ins if x is not None]
        if not isinstance(body, Part) or not 1 <= scanned <= len(given):
            raise InputError("a scan lacks a body or inputs")
        carried, whole = given[:-scanned], given[-scanned:]
        axes = [int(x) for x in a.get("scan_input_axes") or [0] * scanned]
        if len(axes) != scanned or any(not -len(x.shape) <= i < len(x.shape) for x, i in zip(whole, axes, strict=True)):
            raise InputError("a scan's axis is beyond the rank")
        trips = whole[0].shape[axes[0]]
        stacked: list[list[Value]] = []
        for _ in range(trips):
            rows = []
            for x, axis in zip(whole, axes, strict=True):
                at = axis % len(x.shape)
                row = x.viewed((*x.shape[:at], *x.shape[at + 1 :]))
                row.const = x.const
                rows.append(row)
            made = self._body(body, scope, [*carried, *rows])
            if len(made) < len(carried):
                raise InputError("a scan's body gives too few values")
            carried = made[: len(carried)]
            stacked.append(made[len(carried) :])
            self._count()
        places = [int(x) for x in a.get("scan_output_axes") or ()]
        parts = list(zip(*stacked, strict=True))
        places += [0] * (len(parts) - len(places))
        return [*carried, *(self._joined(list(r), p, True) for r, p in zip(parts, places, strict=False))]


def _constant(a: Mapping[str, Any]) -> np.ndarray[Any, Any] | None:
    """The value of a ``Constant`` node."""
    if isinstance(a.get("value"), Value):
        data: np.ndarray[Any, Any] | None = a["value"].data
        return data
    for name, kind in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
        if name in a:
            return np.asarray(a[name], kind)
    return np.asarray(a["value_floats"], np.float32) if "value_floats" in a else None


def _type(value: Value) -> Any:
    """The type of a value as onnx says it."""
    from onnx import TypeProto

    made = TypeProto()
    made.tensor_type.elem_type = value.elem
    shape = made.tensor_type.shape
    shape.SetInParent()  # of a scalar too
    for extent in value.shape:
        shape.dim.add().dim_value = extent
    return made
