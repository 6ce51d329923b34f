"""Ops that exporters take apart, put together again: SiLU, GELU, hard swish and layer normalisation.

Older versions of ONNX have no op for them; every runtime recognises the parts and runs one kernel, and a graph that is
traced has one node. What is between the parts must be read by them alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from steelyard.workload.ingest.onnx_values import Found, Value

__all__ = ["put_together"]


class _Links:
    """Who makes and who reads each value."""

    def __init__(self, nodes: Sequence[Found], ends: Sequence[Value]) -> None:
        self.maker: dict[int, Found] = {id(v): n for n in nodes for v in n.outputs}
        self.readers: dict[int, list[Found]] = {}
        for node in nodes:
            for value in node.inputs:
                self.readers.setdefault(id(value), []).append(node)
        self.ends = {id(v) for v in ends}

    def made(self, value: Value, *names: str) -> Found | None:
        """The node of one of these names in ONNX that makes a value."""
        node = self.maker.get(id(value))
        return node if node is not None and node.was in names else None

    def only(self, node: Found | None, *names: str) -> Found | None:
        """The one node that reads what a node makes, if it has one of these names."""
        if node is None or len(node.outputs) != 1 or id(node.outputs[0]) in self.ends:
            return None
        readers = self.readers.get(id(node.outputs[0]), [])
        return readers[0] if len(readers) == 1 and readers[0].was in names else None


def _apart(node: Found | None) -> tuple[Value | None, Value | None]:
    """The operand of a node that is computed and the one that is the same in every run, where it has one of each."""
    if node is None or len(node.inputs) != 2:
        return None, None
    a, b = node.inputs
    return (a, b) if b.const and not a.const else (b, a) if a.const and not b.const else (None, None)


def put_together(nodes: list[Found], ends: Sequence[Value]) -> list[Found]:
    """Nodes with known parts replaced by the op they are, where the last part was.

    Args:
        nodes: in the order they run.
        ends: values that are read outside.
    """
    links = _Links(nodes, ends)
    found: dict[int, Found] = {}
    gone: set[int] = set()
    for node in nodes:
        for parts, whole in _matches(node, links):
            if not any(id(p) in gone or id(p) in found for p in parts):
                found[id(parts[-1])] = whole
                gone.update(id(p) for p in parts[:-1])
                whole.name = parts[-1].name
    return [found.get(id(n), n) for n in nodes if id(n) not in gone]


def _matches(node: Found, links: _Links) -> Iterator[tuple[list[Found], Found]]:
    """The parts, in order, and the whole, of what a node ends or is the heart of."""
    if node.was in _GATES:
        times = links.only(node, "Mul")
        if times is not None and any(v is node.inputs[0] for v in times.inputs):
            yield [node, times], Found(_GATES[node.was], node.inputs[:1], times.outputs)
    elif node.was == "Erf":
        yield from _gelu(node, links)
    elif node.was == "Div" and len(node.inputs) == 2:
        yield from _layer_norm(node, links)


_GATES: Mapping[str, str] = {"Sigmoid": "silu", "HardSigmoid": "hardswish"}


def _gelu(erf: Found, links: _Links) -> Iterator[tuple[list[Found], Found]]:
    """``x * (1 + erf(x / sqrt(2))) / 2`` in either order of the products."""
    scaled = links.made(erf.inputs[0], "Div", "Mul")
    x, _ = _apart(scaled)
    plus = links.only(erf, "Add")
    times = links.only(plus, "Mul")
    if x is None or scaled is None or links.only(scaled, "Erf") is None or plus is None or times is None:
        return
    other = next((v for v in times.inputs if v is not plus.outputs[0]), None)
    if other is x:
        half = links.only(times, "Mul", "Div")
        if half is not None and _apart(half)[1] is not None:
            yield [scaled, erf, plus, times, half], Found("gelu", [x], half.outputs)
        else:
            yield [scaled, erf, plus, times], Found("gelu", [x], times.outputs)
    elif other is not None:
        half = links.made(other, "Mul")
        if half is not None and _apart(half)[0] is x and links.only(half, "Mul") is times:
            yield [scaled, erf, plus, half, times], Found("gelu", [x], times.outputs)


def _layer_norm(ratio: Found, links: _Links) -> Iterator[tuple[list[Found], Found]]:
    """``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + e)``, then a product and a sum with weights."""
    centred, root = links.made(ratio.inputs[0], "Sub"), links.made(ratio.inputs[1], "Sqrt")
    if centred is None or root is None or len(centred.inputs) != 2:
        return
    x, mean = centred.inputs[0], links.made(centred.inputs[1], "ReduceMean")
    added = links.made(root.inputs[0], "Add")
    spread = _apart(added)[0]
    variance = links.made(spread, "ReduceMean") if spread is not None else None
    square = links.made(variance.inputs[0], "Pow", "Mul") if variance is not None else None
    if mean is None or mean.inputs[0] is not x or added is None or variance is None or square is None:
        return
    twin = links.made(square.inputs[0], "Sub")
    if twin is None or twin.inputs[0] is not x:
        return
    if any(links.only(n, *w) is None for n, *w in ((square, "ReduceMean"), (variance, "Add"), (added, "Sqrt"))):
        return
    parts = [mean, centred, *([twin] if twin is not centred else []), square, variance, added, root, ratio]
    inputs, last = [x], ratio
    for name in ("Mul", "Add"):
        more = links.only(last, name)
        learned = _apart(more)[1]
        if more is not None and learned is not None:
            inputs.append(learned)
            parts.append(more)
            last = more
    yield parts, Found("layer_norm", inputs, last.outputs)
