"""A torch module as a graph of tensors, traced without weights and without computing anything.

The module runs on torch's meta device, where tensors have shapes and no data, and every op that eager PyTorch would
launch is written down. Ops that a library does whole (attention, recurrences, linear layers) are one node and what
PyTorch takes them apart into is left out. Two traces at different batch sizes give each extent as ``a + b*batch``.

Nothing is loaded and no kernel runs; the module's own ``forward`` does, as when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.workload.extent import Extent, extent
from steelyard.workload.op_table import named_by
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["trace_given", "trace_module", "trace_open"]

#: Batch sizes of the two traces.
_BATCHES = (2, 3)
#: Most ops of a trace: a network that unrolls into more is a loop that should be one op.
_MOST_OPS = 200_000
#: Widest window of a pool, points: beyond it the numbers are no window.
_WIDEST = 4096

_DTYPES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float64": "f64",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
    "complex64": "c64",
    "complex128": "c128",
    "float8_e4m3fn": "f8",
    "float8_e5m2": "f8",
}


class _Recorder:
    """What one trace saw."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, tuple[int, ...], tuple[int, ...], str, dict[str, Any]]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.kept: list[tuple[str, str, int]] = []  # dtype, role, storage
        self.ids: dict[int, int] = {}
        self.alive: list[Any] = []
        self.storages: dict[int, int] = {}
        self.path: list[str] = []
        self.names: dict[int, str] = {}  # of modules
        self.muted = 0

    def add(self, tensor: Any, role: str) -> int:
        """A new value for a tensor, which may be one that was seen before."""
        number = len(self.shapes)
        storage = tensor.untyped_storage()._cdata
        owner = self.storages.setdefault(storage, number)
        self.shapes.append(tuple(int(d) for d in tensor.shape))
        self.kept.append(
            (_DTYPES.get(str(tensor.dtype).removeprefix("torch."), "f32"), role, -1 if owner == number else owner)
        )
        self.ids[id(tensor)] = number
        self.alive.append(tensor)
        return number

    def number(self, tensor: Any) -> int:
        """The value of a tensor; one never seen is a constant of the module."""
        found = self.ids.get(id(tensor))
        return found if found is not None else self.add(tensor, "constant")

    def record(self, op: str, read: Sequence[Any], made: Sequence[Any], facts: dict[str, Any]) -> None:
        """Write one op down."""
        if len(self.nodes) >= _MOST_OPS:
            raise InputError(
                f"expected at most {_MOST_OPS:,} ops: a loop of the network should be one op", field="model"
            )
        inputs = tuple(self.number(t) for t in read)
        outputs = tuple(self.add(t, "activation") for t in made)
        self.nodes.append((op, inputs, outputs, self.path[-1] if self.path else "", facts))


def _tensors(value: Any, tensor_type: type) -> Iterator[Any]:
    if isinstance(value, tensor_type):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part, tensor_type)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part, tensor_type)


def _convolution(arguments: Sequence[Any]) -> dict[str, Any]:
    weight, stride, padding, dilation, transposed, groups = (arguments[i] for i in (1, 3, 4, 5, 6, 8))
    rank = len(weight.shape) - 2
    return {
        "kernel": [int(k) for k in weight.shape[2:]],
        "stride": [int(x) for x in stride] * (rank if len(stride) == 1 else 1),
        "padding": [int(x) for x in padding] * (rank if len(padding) == 1 else 1),
        "dilation": [int(x) for x in dilation] * (rank if len(dilation) == 1 else 1),
        "groups": int(groups),
        **({"transposed": True} if transposed else {}),
    }


def _pool(arguments: Sequence[Any]) -> list[int]:
    """What a pool is told of its window; nothing where that is none by axis."""
    kernel = arguments[1] if len(arguments) > 1 else ()
    return [int(k) for k in kernel] if isinstance(kernel, list | tuple) else []


def _facts(op: str, arguments: Sequence[Any], made: Sequence[Any]) -> dict[str, Any]:
    """What shapes do not say of an op."""
    if op == "conv":
        return _convolution(arguments)
    if op in ("max_pool", "avg_pool"):
        kernel = _pool(arguments)
        x, out = arguments[0], made[0] if made else arguments[0]
        if all(k <= 0 or k > _WIDEST for k in kernel):
            return {}
        adaptive = kernel == [int(d) for d in out.shape[-len(kernel) :]]
        if adaptive and x.shape != out.shape:  # an adaptive pool names the extents of its output
            kernel = [-(-int(a) // max(int(b), 1)) for a, b in zip(x.shape[-2:], out.shape[-2:], strict=True)]
        return {"kernel": kernel}
    return {}


@contextmanager
def _recording(recorder: _Recorder, torch: Any) -> Iterator[None]:
    """Modes of torch under which every op is written down."""
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    functional = torch.nn.functional
    whole: dict[Any, Callable[..., tuple[str, list[Any], dict[str, Any]]]] = {
        functional.scaled_dot_product_attention: _attention,
        functional.linear: _linear,
        torch._VF.lstm: lambda *a, **k: _recurrent(4, a, torch),
        torch._VF.gru: lambda *a, **k: _recurrent(3, a, torch),
        torch._VF.rnn_tanh: lambda *a, **k: _recurrent(1, a, torch),
        torch._VF.rnn_relu: lambda *a, **k: _recurrent(1, a, torch),
    }

    def one(function: Any, make: Any, args: Any, kwargs: Any) -> Any:
        """Call a function whose ops are one node."""
        op, read, facts = make(*args, **kwargs)
        recorder.muted += 1
        try:
            made = _unrolled(args, facts, torch) if op == "recurrent" else function(*args, **kwargs)
        finally:
            recorder.muted -= 1
        recorder.record(op, read, list(_tensors(made, torch.Tensor)), facts)
        return made

    def inside(function: Any, make: Any) -> Any:
        """The function as other functions of torch call it, which no mode sees."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) if recorder.muted else one(function, make, args, kwargs)

        return call

    class Functions(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            make = whole.get(function)
            if make is None or recorder.muted:
                return function(*args, **kwargs)
            return one(function, make, args, kwargs)

    class Kernels(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            made = function(*args, **kwargs)
            if recorder.muted:
                return made
            name = function._schema.name.partition("::")[2]
            op = named_by("aten", name)
            read = list(_tensors(args, torch.Tensor)) + list(_tensors(kwargs, torch.Tensor))
            outs = list(_tensors(made, torch.Tensor))
            if op == "linear":  # addmm(bias, x, w)
                read = [read[1], read[2], read[0]]
            facts = (
                {"mode": name.removeprefix("_").removeprefix("upsample_")} if op == "resize" else _facts(op, args, outs)
            )
            if not outs and not op.startswith("unknown:"):
                return made
            recorder.record(op, read, outs, facts)
            return made

    def enter(module: Any, _: Any) -> None:
        recorder.path.append(recorder.names.get(id(module), recorder.path[-1] if recorder.path else ""))

    def leave(module: Any, _: Any, __: Any) -> None:
        recorder.path.pop()

    with ExitStack() as stack:
        hooks = torch.nn.modules.module
        for handle in (
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, always_call=True),
        ):
            stack.callback(handle.remove)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        for called in ("scaled_dot_product_attention", "linear"):
            original = getattr(functional, called)
            stack.callback(setattr, functional, called, original)
            setattr(functional, called, inside(original, whole[original]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(Kernels())
        stack.enter_context(Functions())
        yield


def _attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, *rest: Any, **words: Any
) -> tuple[str, list[Any], dict[str, Any]]:
    causal = bool(words.get("is_causal", rest[1] if len(rest) > 1 else False))
    read = [query, key, value, *([attn_mask] if attn_mask is not None else [])]
    return "attention", read, {"causal": True} if causal else {}


def _linear(x: Any, weight: Any, bias: Any = None) -> tuple[str, list[Any], dict[str, Any]]:
    return "linear", [x, weight, *([bias] if bias is not None else [])], {}


def _recurrent(gates: int, arguments: Sequence[Any], torch: Any) -> tuple[str, list[Any], dict[str, Any]]:
    """Of ``(input, state, weights, ...)``, or ``(data, batch sizes, state, weights, ...)`` of a packed sequence."""
    weights = next(a for a in arguments[1:] if isinstance(a, list | tuple) and len(a) > 1 and a[0].dim() == 2)
    hidden = int(weights[0].shape[0]) // gates
    numbers = [a for a in arguments if isinstance(a, int) and not isinstance(a, bool)]
    flags = [a for a in arguments if isinstance(a, bool)]
    layers = numbers[0] if numbers else 1
    two = len(flags) > 2 and flags[2]
    facts = {"layers": layers, "hidden": hidden, "gates": gates, "directions": 2 if two else 1}
    if not isinstance(arguments[1], torch.Tensor) and bool(arguments[-1]):
        facts["batch_first"] = 1
    return "recurrent", [arguments[0], *weights], facts


def _unrolled(arguments: Sequence[Any], facts: dict[str, Any], torch: Any) -> Any:
    """What a recurrence puts out, without running its steps one by one."""
    x, width = arguments[0], facts["hidden"] * facts["directions"]
    packed = isinstance(arguments[1], torch.Tensor) and not isinstance(arguments[2], bool | list | tuple)
    first = not packed and bool(arguments[-1])
    rows = arguments[1].shape[0] if packed else x.shape[0 if first else 1]
    state = [x.new_empty((facts["layers"] * facts["directions"], rows, facts["hidden"])) for _ in range(2)]
    return (x.new_empty((*x.shape[:-1], width)), *(state if facts["gates"] == 4 else state[:1]))


def _trace(build: Callable[[], Any], given: Any, torch: Any) -> tuple[_Recorder, list[int]]:
    """Run a fresh module once on the meta device, with positional inputs or, where they are a table, named ones."""
    recorder = _Recorder()
    module = build()
    for _, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) not in recorder.ids:
            recorder.add(parameter, "weight")
    for _, buffer in module.named_buffers():
        recorder.add(buffer, "buffer")
    recorder.names = {id(m): name for name, m in module.named_modules()}
    for tensor in _tensors(given, torch.Tensor):
        recorder.add(tensor, "input")
    with _recording(recorder, torch):
        made = module(**given) if isinstance(given, Mapping) else module(*given)
    outputs = [recorder.ids[id(t)] for t in _outputs(made, torch.Tensor) if id(t) in recorder.ids]
    return recorder, outputs


def _outputs(value: Any, tensor_type: type) -> Iterator[Any]:
    if hasattr(value, "to_tuple"):
        value = value.to_tuple()
    yield from _tensors(value, tensor_type)


def trace_module(
    build: Callable[[], Any], inputs: Callable[[int], tuple[Any, ...]], name: str, source: str = ""
) -> TensorGraph:
    """The graph of a torch module with an open batch.

    Args:
        build: makes the module on the meta device, in eval mode; called for every trace, as modules keep buffers.
        inputs: the tensors of a forward pass for a batch size, on the meta device.
        name: what results call it.
        source: where it is from.

    Raises:
        InputError: the two traces differ in more than sizes.
    """
    return trace_open(build, lambda sizes: inputs(sizes["batch"]), {"batch": _BATCHES}, name, source)


def trace_open(
    build: Callable[[], Any],
    inputs: Callable[[Mapping[str, int]], Any],
    symbols: Mapping[str, tuple[int, int]],
    name: str,
    source: str = "",
) -> TensorGraph:
    """The graph of a torch module with open sizes: one trace for each corner of two values a symbol.

    Every extent is then a polynomial, linear in each symbol: ``64*rows*columns``.

    Args:
        build: as for :func:`trace_module`.
        inputs: what the module is called with for given sizes: a tuple, or a table by argument.
        symbols: two values of each open size, the usual one first (of the batch, 1 is usual).
        name, source: as for :func:`trace_module`.

    Raises:
        InputError: traces differ in more than sizes, or an extent is no such polynomial.
    """
    import torch

    corners = [dict(zip(symbols, chosen, strict=True)) for chosen in product(*symbols.values())]
    traces = [_trace(build, inputs(sizes), torch) for sizes in corners]
    usual = {s: 1 if s == "batch" else values[0] for s, values in symbols.items()}
    return _joined([r for r, _ in traces], traces[0][1], symbols, TensorGraph(name, (), (), (), usual, source))


def trace_given(module: Any, inputs: tuple[Any, ...], name: str = "") -> TensorGraph:
    """The graph of a module that a program holds, its weights and inputs replaced by shapes.

    The first extent of the inputs, where all of them share it, is the batch.

    Raises:
        InputError: it runs other ops at another batch size, or needs values that shapes do not have.
    """
    import copy

    import torch

    given = list(_tensors(inputs, torch.Tensor))
    sizes = {t.shape[0] for t in given if t.dim()}
    shared = len(sizes) == 1 and all(t.dim() for t in given)

    def build() -> Any:
        return copy.deepcopy(module).to("meta").eval()

    def shapes(batch: int) -> tuple[Any, ...]:
        def of(x: Any) -> Any:
            if isinstance(x, torch.Tensor):
                shape = (batch, *x.shape[1:]) if shared else tuple(x.shape)
                return torch.empty(shape, dtype=x.dtype, device="meta")
            return x

        return tuple(of(x) for x in inputs)

    try:
        return trace_module(build, shapes, name or type(module).__name__, "a torch module")
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise InputError(
            f"{type(module).__name__} cannot be traced without values: {error}"[:300], field="model"
        ) from None


def _joined(
    traces: Sequence[_Recorder], outputs: Sequence[int], symbols: Mapping[str, tuple[int, int]], made: TensorGraph
) -> TensorGraph:
    """One graph of the traces at every corner of the sizes."""
    first = [(n[0], n[1], n[2]) for n in traces[0].nodes]
    if any([(n[0], n[1], n[2]) for n in t.nodes] != first for t in traces[1:]):
        raise InputError("the network runs other ops at other sizes", field="model")
    one = traces[0]
    tensors = []
    for i, (dtype, role, of) in enumerate(one.kept):
        extents = zip(*(t.shapes[i] for t in traces), strict=True)
        tensors.append(Tensor(tuple(_through(values, symbols) for values in extents), dtype, role, of))
    nodes = tuple(Node(op, i, o, path, facts) for op, i, o, path, facts in one.nodes)
    return replace(made, nodes=nodes, tensors=tuple(tensors), outputs=tuple(outputs))


def _through(values: tuple[int, ...], symbols: Mapping[str, tuple[int, int]]) -> int | Extent:
    """The polynomial, linear in each symbol, through the values at all corners (the last symbol fastest).

    Raises:
        InputError: a coefficient is not whole.
    """
    if len(set(values)) == 1:
        return values[0]
    terms: dict[tuple[str, ...], float] = {}
    grid = np.array(values, dtype=np.float64).reshape((2,) * len(symbols))
    for axis, (low, high) in enumerate(symbols.values()):
        steps = np.diff(grid, axis=axis) / (high - low)
        base = np.take(grid, [0], axis=axis) - steps * low
        grid = np.concatenate([base, steps], axis=axis)
    names = list(symbols)
    for index, value in np.ndenumerate(grid):
        if abs(value - round(value)) > 1e-6:
            raise InputError(f"an extent is no whole polynomial of {', '.join(names)}: {values}", field="model")
        terms[tuple(n for n, on in zip(names, index, strict=True) if on)] = round(value)
    return extent({m: int(c) for m, c in terms.items()})
