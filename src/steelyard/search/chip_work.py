"""What chips of a search have to run: networks, and steps of models that are served, as layers of loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.array_chip import layers_of
from steelyard.cost.array_price import has_weights, is_mapped, sees_image
from steelyard.cost.net_lower import lower_net
from steelyard.cost.space_price import part_of
from steelyard.deployment.runtime import Precision, find_runtime
from steelyard.errors import InputError, Problem, UnknownName, show
from steelyard.scenario.network import asks_net
from steelyard.scenario.words import Problems
from steelyard.workload.catalogue import load_model
from steelyard.workload.nets import load_net
from steelyard.workload.networks.search_space import Space
from steelyard.workload.op import Op
from steelyard.workload.pipelines import is_pipeline
from steelyard.workload.step import Step
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["Work", "read_parts", "read_work"]

_STEPS = ("prefill", "decode")
_Loops = tuple[float, ...]
_Kernels = tuple[dict[_Loops, float], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Work:
    """Workloads that a chip runs one after the other."""

    names: tuple[str, ...]
    layers: NDArray[np.float64]
    """Unlike layers, ``[layers, 12]`` as :data:`steelyard.cost.array_mapping.LAYER`."""
    counts: NDArray[np.float64]
    """How often a pass of each workload runs each, ``[workloads, layers]``."""
    others: tuple[NDArray[np.float64], ...]
    """Of each workload its other kernels: bytes of activations, of weights, operations, how often, ``[kernels, 4]``."""
    operands: NDArray[np.bool_]
    """Whether each layer has weights, and sees what a network is given, ``[layers, 2]``."""

    @property
    def macs(self) -> NDArray[np.float64]:
        """Multiply-accumulates of each layer."""
        return np.asarray(self.layers[:, :8].prod(axis=1), dtype=np.float64)


def read_work(names: Sequence[str], precision: Precision, batch: int = 1, context: int = 512) -> Work:
    """Workloads by name.

    Args:
        names: networks, and models that are served with what they do, as ``llama-3.2-1b:decode``.
        precision: of networks' tensors.
        batch: items of a pass.
        context: tokens of a prompt, or in the cache of a decode.

    Raises:
        InputError: all names that are none, models with experts, and steps that there are not.
    """
    problems = Problems()
    found = [problems.read(_named, name.strip(), precision, batch, context) for name in names if name.strip()]
    if not found:
        problems.add([Problem("workloads", "expected networks or models, such as resnet50,bert-base")])
    problems.done()
    shown = [name.strip() for name in names if name.strip()]
    return _gathered(shown, [each for each in found if each is not None])


def _gathered(names: Sequence[str], found: Sequence[_Kernels]) -> Work:
    at: dict[_Loops, int] = {}
    for loops_of, _ in found:
        for loops in loops_of:
            at.setdefault(loops, len(at))
    counts = np.zeros((len(found), len(at)))
    for i, (loops_of, _) in enumerate(found):
        for loops, count in loops_of.items():
            counts[i, at[loops]] = count
    layers = np.array(list(at))
    return Work(tuple(names), layers[:, :-2], counts, tuple(others for _, others in found), layers[:, -2:] > 0.0)


def read_parts(space: Space, beside: Sequence[str], precision: Precision, batch: int = 1, context: int = 512) -> Work:
    """What networks of a space are made of, as workloads: every choice, then what all share, then others beside.

    A network is ``counts @ choices + shared`` (:meth:`steelyard.workload.networks.search_space.Space.counts`). As in
    :mod:`steelyard.cost.space_price` those networks are lowered that make every choice.

    Args:
        space: of networks.
        beside: further workloads, as of :func:`read_work`.
        precision: of tensors.
        batch: items of a pass.
        context: tokens of a prompt, or in the cache of a decode.

    Raises:
        InputError: a workload beside is wrong.
    """
    probes = space.probes()
    parts: list[dict[_Loops, float]] = [{} for _ in space.features]
    others: list[list[list[float]]] = [[] for _ in space.features]
    shared, more = dict[_Loops, float](), list[list[float]]()
    for code in probes:
        row = np.array([code])
        at = [int(part.groups[0].features(row)[0]) for part in space.parts]
        mine = {feature: (dict[_Loops, float](), list[list[float]]()) for feature in at}
        for module, found, kernels in _lowered(load_net(f"{space.prefix}:{space.spell(code)}"), precision, batch):
            i = part_of(space, module)
            share = 1.0 / (len(probes) if i < 0 else len(space.parts[i].groups))
            into, kept = (shared, more) if i < 0 else mine[at[i]]
            for loops, count in found.items():
                into[loops] = into.get(loops, 0.0) + share * count
            kept += [[*kernel[:3], share * kernel[3]] for kernel in kernels]
        for feature, (loops_of, kept) in mine.items():
            parts[feature], others[feature] = loops_of, kept
    whole = [(p, np.array(o).reshape(-1, 4)) for p, o in zip([*parts, shared], [*others, more], strict=True)]
    whole += [_named(name, precision, batch, context) for name in beside]
    return _gathered([*space.features, "shared", *beside], whole)


def _named(name: str, precision: Precision, batch: int, context: int) -> _Kernels:
    """One workload, whatever is wrong said of the list of them."""
    try:
        return _one(name, precision, batch, context)
    except InputError as error:
        raise InputError(error.problems[0].message, field="workloads") from None


def _one(name: str, precision: Precision, batch: int, context: int) -> _Kernels:
    if asks_net({"model": name}):
        if is_pipeline(name):
            raise InputError(f"{show(name)} is a pipeline: search for its networks one by one", field="workloads")
        return _network(name, precision, batch)
    model, _, step = name.partition(":")
    if step and step not in _STEPS:
        more = f"; so many of each in a mix: --passes {model}:{step}" if step.replace(".", "", 1).isdigit() else ""
        raise InputError(f"{UnknownName('step', step, _STEPS).message} ({show(name)}){more}", field="workloads")
    if step and asks_net({"model": model}):
        raise InputError(f"{show(model)} is a network, which has no step {step}", field="workloads")
    return _served(model, step, batch, context)


def _network(name: str, precision: Precision, batch: int) -> _Kernels:
    found: dict[_Loops, float] = {}
    others: list[list[float]] = []
    for _, loops_of, kernels in _lowered(load_net(name), precision, batch):
        others += kernels
        for loops, count in loops_of.items():
            found[loops] = found.get(loops, 0.0) + count
    return found, np.array(others).reshape(-1, 4)


def _lowered(
    graph: TensorGraph, precision: Precision, batch: int
) -> Iterator[tuple[str, dict[_Loops, float], list[list[float]]]]:
    """Of every kernel its module, and its loops or, where it is no product, what it moves and computes."""
    sizes: Mapping[str, Any] = {**graph.symbols, **({"batch": float(batch)} if "batch" in graph.symbols else {})}
    kernels = lower_net(graph, sizes, find_runtime("mapper"), precision)
    for i, (cls, node) in enumerate(zip(kernels.classes, kernels.nodes, strict=True)):
        if not is_mapped(cls, node):
            passing = kernels.read[i] + kernels.written[i]
            other = [float(np.max(x)) for x in (passing, kernels.weights[i], kernels.flops[i], 1.0)]
            yield kernels.names[i], {}, [other]
            continue
        found: dict[_Loops, float] = {}
        operands = float(has_weights(graph, node)), float(sees_image(graph, node))
        for columns, count in layers_of(graph, node, sizes):
            loops = (*(float(np.max(x)) for x in columns), *operands)
            found[loops] = found.get(loops, 0.0) + count
        yield kernels.names[i], found, []


def _served(name: str, step: str, batch: int, context: int) -> _Kernels:
    """The products of one step of a model that is served; what is no product is left out."""
    model = load_model(name).transformer
    step = step or ("decode" if model.causal else "prefill")
    if step not in _STEPS or (step == "decode" and not model.causal):
        raise InputError(str(UnknownName("step", step, _STEPS if model.causal else _STEPS[:1])), field="workloads")
    if model.experts:
        raise InputError(f"{name} has experts, whose layers are not mapped", field="workloads")
    asked = Step.prefill(batch, context) if step == "prefill" else Step.decode(batch, context)
    found: dict[_Loops, float] = {}
    for op in model.graph(asked).ops:
        if op.map != "mul" or not op.contracts or len(op.inputs) != 2:
            continue
        loops = _loops(op)
        found[loops] = found.get(loops, 0.0) + float(np.max(np.asarray(op.count, dtype=np.float64)))
    if not found:
        raise InputError(f"{name} has no products", field="workloads")
    return found, np.zeros((0, 4))


def _loops(op: Op) -> _Loops:
    m, n, k, groups = (float(np.max(x)) for x in op.gemm_shape())
    weighted = float(any(operand.role == "weight" for operand in op.inputs))
    return (1.0, n, k, m, 1.0, 1.0, 1.0, groups, 1.0, 1.0, 1.0, 1.0, weighted, 0.0)
