"""What chips of a search have to run: networks, and steps of models that are served, as layers of loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.array_chip import layers_of
from steelyard.cost.array_price import is_mapped
from steelyard.cost.net_lower import lower_net
from steelyard.deployment.runtime import Precision, find_runtime
from steelyard.errors import InputError, Problem, UnknownName, show
from steelyard.scenario.network import asks_net
from steelyard.scenario.words import Problems
from steelyard.workload.catalogue import load_model
from steelyard.workload.nets import load_net
from steelyard.workload.op import Op
from steelyard.workload.pipelines import is_pipeline
from steelyard.workload.step import Step

__all__ = ["Work", "read_work"]

_STEPS = ("prefill", "decode")
_Loops = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Work:
    """Workloads that a chip runs one after the other."""

    names: tuple[str, ...]
    layers: NDArray[np.float64]
    """Unlike layers, ``[layers, 12]`` as :data:`steelyard.cost.array_mapping.LAYER`."""
    counts: NDArray[np.float64]
    """How often a pass of each workload runs each, ``[workloads, layers]``."""
    others: tuple[NDArray[np.float64], ...]
    """Of each workload its other kernels: bytes of activations, of weights, operations, ``[kernels, 3]``."""

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
    at: dict[_Loops, int] = {}
    for each in found:
        assert each is not None
        for loops in each[0]:
            at.setdefault(loops, len(at))
    counts = np.zeros((len(found), len(at)))
    for i, each in enumerate(found):
        assert each is not None
        for loops, count in each[0].items():
            counts[i, at[loops]] = count
    shown = tuple(name.strip() for name in names if name.strip())
    return Work(shown, np.array(list(at)), counts, tuple(each[1] for each in found if each is not None))


def _named(
    name: str, precision: Precision, batch: int, context: int
) -> tuple[dict[_Loops, float], NDArray[np.float64]]:
    """One workload, whatever is wrong said of the list of them."""
    try:
        return _one(name, precision, batch, context)
    except InputError as error:
        raise InputError(error.problems[0].message, field="workloads") from None


def _one(name: str, precision: Precision, batch: int, context: int) -> tuple[dict[_Loops, float], NDArray[np.float64]]:
    if asks_net({"model": name}):
        if is_pipeline(name):
            raise InputError(f"{show(name)} is a pipeline: search for its networks one by one", field="workloads")
        return _network(name, precision, batch)
    model, _, step = name.partition(":")
    return _served(model, step, batch, context)


def _network(name: str, precision: Precision, batch: int) -> tuple[dict[_Loops, float], NDArray[np.float64]]:
    graph = load_net(name)
    sizes: Mapping[str, Any] = {**graph.symbols, **({"batch": float(batch)} if "batch" in graph.symbols else {})}
    kernels = lower_net(graph, sizes, find_runtime("mapper"), precision)
    found: dict[_Loops, float] = {}
    others = []
    for i, (cls, node) in enumerate(zip(kernels.classes, kernels.nodes, strict=True)):
        if not is_mapped(cls, node):
            passing = kernels.read[i] + kernels.written[i]
            others.append([float(np.max(x)) for x in (passing, kernels.weights[i], kernels.flops[i])])
            continue
        for columns, count in layers_of(graph, node, sizes):
            loops = tuple(float(np.max(x)) for x in columns)
            found[loops] = found.get(loops, 0.0) + count
    return found, np.array(others).reshape(-1, 3)


def _served(name: str, step: str, batch: int, context: int) -> tuple[dict[_Loops, float], NDArray[np.float64]]:
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
    return found, np.zeros((0, 3))


def _loops(op: Op) -> _Loops:
    m, n, k, groups = (float(np.max(x)) for x in op.gemm_shape())
    return (1.0, n, k, m, 1.0, 1.0, 1.0, groups, 1.0, 1.0, 1.0, 1.0)
