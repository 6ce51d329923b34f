"""Fit what phones' and NPUs' runtimes take over their limits, by group of work, to tables of measured networks.

One factor per group of :mod:`steelyard.cost.net_groups`, for a runtime and a precision, shared by every machine of the
table; a machine has three scales (arithmetic, traffic, and what is paid per kernel, load and pass), pulled towards one,
because makers state peaks that nobody reaches or none at all. Relative errors are least in absolute value. The pull of
a runtime's factors is towards those of all runtimes on that make of machine together.

What is printed beside the entries: the error of each network with all its rows left out, and of a machine that is left
out but for ten networks, which give its three scales, as ``steelyard calibrate --networks`` does.

``python -m steelyard_validation.fits.npus TABLES [coreml|hexagon|hailo|rknn ...]`` prints the entries of
``catalogue/runtimes``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.calibrate.networks import GROUP_TERMS, OWN_PULL, Scales, least, own_scales
from steelyard.cost.net_groups import elsewhere, group_terms, share_of
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_terms import net_site
from steelyard.deployment.runtime import find_runtime, precision_named
from steelyard.machine.catalogue import find_machine
from steelyard_validation.edge import EdgeRow, edge_graph
from steelyard_validation.fits.networks import entry, said, spread_of
from steelyard_validation.readers import hailo, phones, qualcomm_vision, rockchip_vision

__all__ = ["TABLES", "Rows", "entries", "pooled", "read_rows"]

#: Factors where nothing says otherwise.
USUAL: Mapping[str, float] = {
    "dense.compute": 1.5,
    "linear.compute": 1.5,
    "grouped.compute": 2.0,
    "mixing.compute": 3.0,
    "depthwise.compute": 0.5,
    "vector.compute": 1.0,
    "weights.traffic": 1.0,
    "products.traffic": 0.5,
    "mixing.traffic": 2.0,
    "pointwise.traffic": 1.0,
    "norm.traffic": 2.0,
    "moves.traffic": 2.0,
    "kernels": 3e-6,
    "load.weights": 1.0,
    "load.kernels": 2e-5,
    "pass": 1e-4,
}
#: Networks whose stated size cannot be what ran (their time is that of a picture several times as large).
DOUBTFUL = ("unet", "fcn_resnet50")
#: Networks that a runtime and precision need to have factors of their own.
LEAST = 6
_HEXAGON = ("qnn", "tflite", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its file, its reader and which of its rows are fitted."""

    file: str
    read: Callable[[Path], list[EdgeRow]]
    runtimes: Sequence[str]
    block: float = 1.0
    """Channels of an image lie in memory in whole groups of so many."""
    pull: float = 3.0
    """Networks that the pull towards the usual factors weighs, by errors of networks left out."""


TABLES: Mapping[str, Table] = {
    "coreml": Table("mobile_readme_tables/phone_jetson_latency.csv", phones.questions, ("coreml",), pull=0.3),
    "hexagon": Table(
        "qualcomm_aihub/latency_snapdragon.csv", qualcomm_vision.questions, _HEXAGON, block=32.0, pull=20.0
    ),
    "hailo": Table("hailo_npu/hailo_model_zoo_fps.csv", hailo.questions, ("hailo",)),
    "rknn": Table("rockchip_npu/rknn_model_zoo_fps.csv", rockchip_vision.questions, ("rknn",)),
}


@dataclass(frozen=True, eq=False)
class Rows:
    """Terms ``[rows, terms]``, measured times in s, and what they are of."""

    terms: Any
    time_s: Any
    network: Any
    machine: Any
    way: Any
    """Runtime and precision."""

    def of(self, chosen: Any) -> Rows:
        return Rows(*(getattr(self, n)[chosen] for n in ("terms", "time_s", "network", "machine", "way")))


def read_rows(tables: Path, name: str) -> Rows:
    """The rows of a table with the terms of their kernels."""
    table, made, found = TABLES[name], {}, []
    for row in table.read(tables / table.file):
        graph = row.why or edge_graph(row.net)
        runtime = find_runtime(row.runtime)
        if row.runtime not in table.runtimes or isinstance(graph, str) or row.network in DOUBTFUL:
            continue
        if elsewhere(graph, runtime):
            continue
        precision, machine = precision_named(row.precision), find_machine(row.machine)
        key = (row.net, row.runtime, row.precision, row.batch)
        if key not in made:
            made[key] = lower_net(graph, {"batch": np.array([row.batch])}, runtime, precision, block=table.block)
        groups = group_terms(made[key], net_site(machine, precision), runtime)
        terms = [float(groups[n].sum()) if n in groups else 0.0 for n in GROUP_TERMS[:-1]]
        found.append(([*terms, 1.0], row.time_s, row.network, machine.name, f"{row.runtime} {row.precision}"))
    return Rows(*(np.array(column) for column in zip(*found, strict=True)))


def pooled(rows: Rows, usual: Any, pull: float) -> tuple[Any, Mapping[str, Scales]]:
    """Factors shared by all machines, and each machine's scales about them."""
    machines = sorted(set(rows.machine))
    share = np.array([share_of(n) for n in GROUP_TERMS])
    scales: dict[str, Any] = {m: np.ones(3) for m in machines}
    found = usual
    for _ in range(5):
        spread = np.array([scales[m] for m in rows.machine])[:, share]
        found = least(rows.terms * spread, rows.time_s, usual, pull)
        for m in machines:
            of = rows.machine == m
            scales[m] = own_scales(rows.terms[of] * found, rows.time_s[of], OWN_PULL)
        middle = np.exp(np.mean([np.log(np.maximum(s, 1e-3)) for s in scales.values()], axis=0))
        scales = {m: s / middle for m, s in scales.items()} if len(machines) > 1 else {machines[0]: np.ones(3)}
    return found, scales


def _predicted(rows: Rows, found: Any, scales: Mapping[str, Any]) -> Any:
    share = np.array([share_of(n) for n in GROUP_TERMS])
    return (rows.terms * np.array([scales.get(m, np.ones(3)) for m in rows.machine])[:, share]) @ found


def _common(rows: Rows, pull: float) -> Any:
    """Factors of all ways together: each machine and way has its own scales. Those of one way are the usual ones."""
    usual = np.array([USUAL[n] for n in GROUP_TERMS])
    if len(set(rows.way)) < 2:
        return usual
    together = Rows(rows.terms, rows.time_s, rows.network, np.char.add(rows.machine, rows.way), rows.way)
    return np.maximum(pooled(together, usual, pull)[0], 0.02 * usual)


def _left_out(rows: Rows, way: str, pull: float) -> Any:
    """Predictions of the rows of one way, each with every row of its network left out."""
    mine = rows.way == way
    made = np.full(len(rows.time_s), np.nan)
    for network in sorted(set(rows.network[mine])):
        out = rows.network == network
        rest = rows.of(~out)
        found, scales = pooled(rest.of(rest.way == way), _common(rest, pull), pull)
        made[out & mine] = _predicted(rows.of(out & mine), found, scales)
    return made[mine]


def _transferred(rows: Rows, usual: Any, pull: float, draws: int = 5) -> tuple[Any, Any]:
    """Predicted and measured times of machines left out but for ten networks, which give their scales."""
    rng, made, true = np.random.default_rng(0), [], []
    share = np.array([share_of(n) for n in GROUP_TERMS])
    for m in sorted(set(rows.machine)):
        of = rows.machine == m
        names = sorted(set(rows.network[of]))
        if len(names) < 13 or len(set(rows.machine)) < 2:
            continue
        found, _scales = pooled(rows.of(~of), usual, pull)
        mine = rows.of(of)
        for _ in range(draws):
            known = np.isin(mine.network, rng.choice(names, 10, replace=False))
            own = own_scales(mine.terms[known] * found, mine.time_s[known], OWN_PULL)
            made.append((mine.terms[~known] * own[share]) @ found)
            true.append(mine.time_s[~known])
    return (np.concatenate(made), np.concatenate(true)) if made else (np.zeros(0), np.zeros(0))


def entries(tables: Path, name: str) -> str:
    """The entries of a table's runtimes, with the errors of what was left out as comments."""
    rows, pull, lines = read_rows(tables, name), TABLES[name].pull, []
    common = _common(rows, pull)
    for way in sorted(set(rows.way)):
        mine = rows.of(rows.way == way)
        if len(set(mine.network)) < LEAST:
            lines.append(
                f"# {way}: only {len(set(mine.network))} networks, answered with the other precision's factors"
            )
            continue
        runtime, precision = way.split(" ")
        found, scales = pooled(mine, common, pull)
        alone = _left_out(rows, way, pull)
        moved, true = _transferred(mine, common, pull)
        spread = spread_of(alone, mine.time_s)
        lines.append(f"# {way}: each network left out: {said(alone, mine.time_s)}")
        for m in sorted(scales):
            of = mine.machine == m
            lines.append(f"#   {m}: {said(alone[of], mine.time_s[of])}")
        if len(true):
            lines.append(f"#   a machine left out but for ten networks: {said(moved, true)}")
        strange = np.concatenate([_alone(mine, m, common, pull) for m in scales]) if len(scales) > 1 else alone * 1.5
        order = np.concatenate([np.flatnonzero(mine.machine == m) for m in scales])
        told = spread_of(strange, mine.time_s[order])
        by = dict(zip(GROUP_TERMS, found, strict=True))
        times = {n: v for n, v in by.items() if n not in ("kernels", "pass")}
        fields = [
            f'stacks = ["npu"]  # {runtime}',
            f'machines = ["{find_machine(sorted(scales)[0]).family}"]',
            f'precisions = ["{precision}"]',
            f"measured = {sorted(map(str, scales))}".replace("'", '"'),
            *([f"block = {TABLES[name].block:g}"] if TABLES[name].block > 1 else []),
            f"step_s = {by['pass']:.3g}",
            f'source = "fitted to {len(mine.time_s):,} passes of {len(set(mine.network))} networks"',
        ]
        lines += entry(times, by["kernels"], (spread, told), *fields)
        if len(scales) > 1:
            lines.append("[runtime.reach.scale]")
            lines += [*(f"{m} = [{', '.join(f'{float(x):.3g}' for x in s)}]" for m, s in scales.items()), ""]
    return "\n".join(lines)


def _alone(rows: Rows, machine: str, usual: Any, pull: float) -> Any:
    """Predictions of a machine that played no part, from its data sheet."""
    of = rows.machine == machine
    found, _scales = pooled(rows.of(~of), usual, pull)
    return _predicted(rows.of(of), found, {})


if __name__ == "__main__":
    for one in sys.argv[2:] or TABLES:
        print(entries(Path(sys.argv[1]), one))
