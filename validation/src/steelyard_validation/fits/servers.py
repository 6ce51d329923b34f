"""Fit what TensorRT's kernels, and those of oneDNN on processors, take over their limits.

The rows are few and their networks fewer, so that factors are shared: one for the arithmetic of convolutions in each
family of machines, one for that of linear layers and attention, one for the traffic of products, one for that of what
lies between them, and those of depthwise convolutions and of rows gathered from tables. One machine of a family is
fitted, the others are left out; a Jetson's launches take longer, which is fitted too.

``python -m steelyard_validation.fits.servers TABLES`` prints the entries of ``catalogue/runtimes/tensorrt.toml`` and
``openvino.toml`` with the errors of machines left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.calibrate.networks import least
from steelyard.cost.energy import clock_beside
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_terms import net_site, terms
from steelyard.deployment.runtime import find_runtime, precision_named
from steelyard.machine.catalogue import find_machine
from steelyard.workload.nets import load_net
from steelyard.workload.tensor_graph import TensorGraph
from steelyard_validation.edge import edge_graph
from steelyard_validation.fits.networks import entry, said, spread_of
from steelyard_validation.readers import mlperf_vision, phones

__all__ = ["TASKS", "Task", "entries"]

_CONV, _LINEAR = ("conv1x1", "conv", "grouped"), ("linear", "matmul", "attention")
#: Terms that share a factor, by its name; those that are not named have the usual one, 1.
SHARED: Mapping[str, tuple[str, ...]] = {
    "conv": tuple(f"{c}.compute" for c in _CONV),
    "linear": tuple(f"{c}.compute" for c in _LINEAR),
    "products": tuple(f"{c}.traffic" for c in (*_CONV, *_LINEAR)),
    "between": tuple(f"{c}.traffic" for c in ("fused", "pointwise", "pool", "norm", "softmax", "reduce")),
    "depthwise": ("depthwise.compute",),
    "depthwise traffic": ("depthwise.traffic",),
    "gather": ("gather.traffic",),
    "kernels": ("kernels",),
    "pass": (),
}
#: Where nothing says otherwise, and how many rows that weighs.
USUAL: Mapping[str, float] = {
    "conv": 1.5,
    "linear": 1.4,
    "products": 0.8,
    "between": 0.8,
    "depthwise": 10.0,
    "depthwise traffic": 1.5,
    "gather": 1.0,
    "kernels": 2e-6,
    "pass": 5e-5,
}
PULL = 3.0
#: Rounds in which the batch of each system is chosen anew.
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Task:
    """A runtime: machines that are fitted, and families that have a factor of their own for convolutions."""

    runtime: str
    fitted: tuple[str, ...]
    slow_launches: tuple[str, ...] = ()
    """Families whose launches have a time of their own."""


#: Families whose convolutions share a factor with those of another.
KIN: Mapping[str, str] = {"ampere_graphics": "ampere", "maxwell": "ampere"}
TASKS = {
    "tensorrt": Task("tensorrt", ("h100_sxm", "l40s", "a100_sxm", "jetson_agx_orin"), ("ampere_graphics", "maxwell")),
    "openvino": Task("openvino", ("xeon_8592",)),
}


@dataclass(frozen=True, eq=False)
class _Asked:
    """A row: its terms for every batch ``[batches, factors]``, and the time of an item (or of the pass)."""

    network: str
    machine: str
    terms: Any
    batches: Any
    time_s: float
    chosen: bool
    """Whether the batch was the submitter's choice."""

    def picked(self, factors: Any) -> Any:
        """Terms of an item in the batch that serves most, or of the pass."""
        i = int(np.argmax(self.batches / (self.terms @ factors))) if self.chosen else 0
        return self.terms[i] / (self.batches[i] if self.chosen else 1.0)

    def predicted(self, factors: Any) -> float:
        """Time of an item, or of the pass."""
        times = self.terms @ factors
        return float((times / self.batches).min()) if self.chosen else float(times[0])


def _rows(tables: Path, task: Task) -> list[_Asked]:
    """Every row of a runtime, one for each network and machine of a table (the median of its systems)."""
    systems: dict[tuple[str, str, bool], list[float]] = {}
    facts: dict[tuple[str, str, bool], Any] = {}
    for row in mlperf_vision.questions(tables / "mlperf_inference" / "v4.1_results.csv"):
        if row.runtime != task.runtime or row.why or row.scenario in ("server", "multistream") or row.known.steps:
            continue
        key = (row.benchmark, row.machine, row.timed)
        each = row.measured if row.timed else row.count / row.measured
        systems.setdefault(key, []).append(each / row.known.items)
        facts[key] = row
    found: list[_Asked] = []
    for key, times in systems.items():
        row = facts[key]
        graph = load_net(row.known.model, size=row.known.size or None)
        batches = [1.0] if row.timed else [2.0**i for i in range(row.known.most + 1)]
        asked = _asked(task, row.benchmark, graph, row.machine, row.precision, batches, float(np.median(times)))
        found += [asked] if asked is not None else []
    if task.runtime == "tensorrt":
        for one in phones.questions(tables / "mobile_readme_tables" / "phone_jetson_latency.csv"):
            graph_of = edge_graph(one.net)
            if one.runtime != task.runtime or isinstance(graph_of, str):
                continue
            free = [2.0**i for i in range(4, 9)] if one.why else [one.batch]
            asked = _asked(task, one.network, graph_of, one.machine, one.precision, free, one.time_s)
            found += [asked] if asked is not None else []
    return found


def _asked(
    task: Task, network: str, graph: TensorGraph, machine: str, precision: str, batches: Sequence[float], time_s: float
) -> _Asked | None:
    device, arithmetic = find_machine(machine), precision_named(precision)
    kernels = lower_net(graph, {"batch": np.array(batches)}, find_runtime(task.runtime), arithmetic)
    found = terms(kernels, net_site(device, arithmetic))
    kin = [m for m in map(find_machine, task.fitted) if m.family == device.family and device.kind == "gpu"]
    clock = max((clock_beside(device, m) for m in kin), default=1.0)
    columns = {name: np.zeros(len(batches)) for name in _names(task)}
    columns["pass"] = np.ones(len(batches))
    for name, values in found.items():
        for shared, of in SHARED.items():
            if name in of:
                slower = clock if name.endswith(".compute") else 1.0
                columns[_own(shared, device.family, task)] += values.sum(axis=0) / slower
    rest = {n for of in SHARED.values() for n in of}
    columns["rest"] = sum(
        (v.sum(axis=0) for n, v in found.items() if n not in rest and not n.endswith(".steps")), np.zeros(len(batches))
    )
    matrix = np.stack([columns[n] for n in (*_names(task), "rest")], axis=1)
    return _Asked(network, machine, matrix, np.array(batches), time_s, len(batches) > 1)


def _families(task: Task) -> list[str]:
    return sorted({find_machine(m).family for m in task.fitted})


def _own(shared: str, family: str, task: Task) -> str:
    """The name of a factor on a family."""
    if shared == "conv":
        return f"conv@{KIN.get(family, family)}"
    return "kernels@slow" if shared == "kernels" and family in task.slow_launches else shared


def _names(task: Task) -> list[str]:
    own = sorted({f"conv@{KIN.get(f, f)}" for f in _families(task)}) + (["kernels@slow"] if task.slow_launches else [])
    return [*own, *(n for n in SHARED if n != "conv")]


def _fit(task: Task, rows: Sequence[_Asked]) -> Any:
    """One factor for each name and 1 for the rest."""
    names = _names(task)
    usual = np.array([USUAL[n.partition("@")[0]] for n in names])
    found = np.append(usual, 1.0)
    for _ in range(ROUNDS):
        picked = np.array([r.picked(found) for r in rows])
        times = np.array([r.time_s for r in rows])
        left = np.maximum(times - picked[:, -1], 0.1 * times)
        found = np.append(least(picked[:, :-1], left, usual, PULL), 1.0)
    return found


def entries(tables: Path, names: Sequence[str]) -> str:
    """The entries of the catalogue, with the errors of machines left out as comments."""
    lines: list[str] = []
    for task in (TASKS[n] for n in names):
        rows = _rows(tables, task)
        fitted = [r for r in rows if r.machine in task.fitted]
        factors = _fit(task, fitted)
        known = dict(zip(_names(task), (float(x) for x in factors), strict=False))
        alone = _alone(task, fitted)
        lines.append(f"# {task.runtime}, each network left out: {said(alone, _times(fitted))}")
        for machine in sorted({r.machine for r in rows}):
            of = [r for r in rows if r.machine == machine]
            mark = "" if machine in task.fitted else ", left out"
            lines.append(f"#   {machine}{mark}: {_said(of, factors)}")
        inside = spread_of(alone, _times(fitted))
        out = [r for r in rows if r.machine not in task.fitted]
        elsewhere = spread_of(_times_of(out, factors), _times(out))
        for family in _families(task):
            measured = [m for m in task.fitted if find_machine(m).family == family]
            times = {
                term: known[_own(shared, family, task)]
                for shared, of in SHARED.items()
                for term in of
                if shared != "kernels"
            }
            fields = [
                f'stacks = ["{find_machine(measured[0]).launch}"]',
                f'machines = ["{family}"]',
                f"measured = {measured}".replace("'", '"'),
                f"step_s = {known['pass']:.3g}",
                f'source = "fitted to {sum(r.machine in measured for r in fitted)} rows"',
            ]
            lines += entry(times, known[_own("kernels", family, task)], (inside, elsewhere), *fields)
    return "\n".join(lines)


def _alone(task: Task, rows: Sequence[_Asked]) -> Any:
    """Predictions of every row with its network left out."""
    made = np.full(len(rows), np.nan)
    for network in {r.network for r in rows}:
        factors = _fit(task, [r for r in rows if r.network != network])
        of = np.array([r.network == network for r in rows])
        made[of] = _times_of([r for r in rows if r.network == network], factors)
    return made


def _times_of(rows: Sequence[_Asked], factors: Any) -> Any:
    return np.array([r.predicted(factors) for r in rows])


def _times(rows: Sequence[_Asked]) -> Any:
    return np.array([r.time_s for r in rows])


def _said(rows: Sequence[_Asked], factors: Any) -> str:
    return said(_times_of(rows, factors), _times(rows))


if __name__ == "__main__":
    print(entries(Path(sys.argv[1]), sys.argv[2:] or list(TASKS)))
