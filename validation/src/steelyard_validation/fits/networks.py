"""Fit what PyTorch's kernels take over their limits, by class, to a thousand networks on each machine of the tables.

One factor per class and term, for a runtime and an order of images, shared by every machine of a stack: relative errors
are least in absolute value, with a pull towards what the physics says (:data:`USUAL`) as strong as :data:`PULL`
networks. Families of :func:`~steelyard_validation.networks.held_out` play no part; what is printed beside is their
error, the error of each family when the others are fitted, and that of a machine when only the other is.

``python -m steelyard_validation.fits.networks TABLES`` prints the entries of ``catalogue/runtimes/pytorch.toml``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.calibrate.networks import least
from steelyard.cost.net_backward import with_backward
from steelyard.cost.net_kernels import NetKernels
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_terms import net_site, terms
from steelyard.cost.site import Site
from steelyard.deployment.runtime import find_runtime, precision_named
from steelyard.machine.catalogue import find_machine
from steelyard.measurements.reader import machine_name, read_frame
from steelyard_validation.networks import FUSED_FROM, family_of, held_out, timm_graph
from steelyard_validation.readers.timm_tables import LARGEST, RUNTIMES

__all__ = ["PULL", "USUAL", "Rows", "entries", "entry", "factors", "read_rows", "said", "spread_of", "total"]

#: Factors where nothing says otherwise: limits are nearly reached; those of classes whose kernels are known to be slow.
USUAL: Mapping[str, float] = {
    "depthwise.compute": 10.0,
    "depthwise.traffic": 2.0,
    "depthwise_large.compute": 50.0,
    "depthwise_large.traffic": 2.0,
    "pool.compute": 4.0,
    "pool.traffic": 1.5,
    "resize.compute": 4.0,
    "resize.traffic": 1.5,
    "other.compute": 4.0,
    "other.traffic": 2.0,
    "gather.traffic": 3.0,
    "sort.traffic": 5.0,
    "matmul.compute": 2.0,
    "softmax.traffic": 1.5,
    "attention.compute": 1.3,
    "grouped.compute": 1.8,
    "recurrent.compute": 2.0,
    "recurrent.steps": 5e-6,
    "resize.steps": 1.9,
    "kernels": 3e-6,
    "weight_cast.traffic": 2.0,
    "norm.traffic": 1.2,
}
#: What a row states.
COLUMNS = ["hardware", "precision", "layout", "torch", "compile", "model", "step_time_ms", "batch_size", "img_size"]
#: Copies of weights are plain copies: where batches are large the rows say nothing of them, and at a batch of one they
#: would be most of a pass.
MOST: Mapping[str, float] = {"weight_cast.traffic": 2.0}
#: Networks that the pull towards the usual factors weighs.
PULL = 8.0
#: Host time of a kernel (a guess: what eager PyTorch and compiled code are seen to need per op at a batch of one).
HOST_S: Mapping[str, float] = {"eager": 2.5e-5, "dynamo": 1e-5}
#: Rounds of reweighting, and the share of a pass as which a term that takes less is pulled.
ROUNDS, PART = 12, 0.002

#: Tables by name: runtime, order of images, precision, files and the release of PyTorch of each.
TASKS: Mapping[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "eager nhwc": ("eager", "nhwc", (("infer_rtx3090", "240"), ("infer_rtx4090", "240"))),
    "eager nchw": ("eager", "nchw", (("infer_rtx3090", "240"), ("infer_rtx4090", "291"))),
    "dynamo nchw": ("dynamo", "nchw", (("infer_rtx4090", "291"),)),
    "dynamo nchw cpu": ("dynamo", "nchw", (("infer_cpu_fp32", "240"),)),
    "train eager nhwc": ("eager", "nhwc", (("train_rtx3090", "112"),)),
    "train eager nchw": ("eager", "nchw", (("train_rtx3090", "112"),)),
}


@dataclass(frozen=True, eq=False)
class Rows:
    """Networks of one task: terms ``[rows, terms]``, measured times in s, and what they are of."""

    names: tuple[str, ...]
    terms: Any
    time_s: Any
    family: Any
    machine: Any

    @classmethod
    def of(cls, found: Sequence[tuple[Mapping[str, float], float, str, str]]) -> Rows:
        """From terms by name, time, family and machine of each row."""
        names = tuple(sorted({n for values, *_ in found for n in values}))
        matrix = np.array([[values.get(n, 0.0) for n in names] for values, *_ in found])
        return cls(names, matrix, *(np.array(column) for column in list(zip(*found, strict=True))[1:]))


def total(kernels: NetKernels, site: Site) -> dict[str, float]:
    """The terms of all kernels of a pass, for one scenario."""
    return {name: float(values.sum()) for name, values in terms(kernels, site).items()}


def read_rows(tables: Path, task: str) -> Rows:
    """The rows of a task with the terms of their kernels."""
    compiled, layout, files = TASKS[task]
    found: list[tuple[Mapping[str, float], float, str, str]] = []
    for stem, torch in files:
        frame = read_frame(tables / "timm_benchmarks" / f"{stem}.csv", COLUMNS)
        chosen = (frame["compile"] == compiled) & (frame["layout"] == layout) & (frame["torch"].astype(str) == torch)
        for row in frame[chosen].itertuples():
            graph = timm_graph(str(row.model), int(row.img_size), int(row.torch) >= FUSED_FROM)
            if isinstance(graph, str) or float(graph.macs()) > LARGEST * 1e9:
                continue
            machine = machine_name(str(row.hardware).lower().replace("-", "_"))
            precision = precision_named(str(row.precision))
            runtime, batch = find_runtime(RUNTIMES[compiled]), np.array([float(row.batch_size)])
            kernels = lower_net(graph, {"batch": batch}, runtime, precision, layout)
            if task.startswith("train"):
                kernels = with_backward(kernels, graph.parameters)
            values = total(kernels, net_site(find_machine(machine), precision))
            found.append((values, float(row.step_time_ms) * 1e-3, family_of(str(row.model)), machine))
    return Rows.of(found)


def factors(rows: Rows, chosen: Any, usual_of: Mapping[str, float] = USUAL, pull: float = PULL) -> Any:
    """One factor per term, from the rows chosen, pulled to the usual ones."""
    usual = np.array([usual_of.get(n, 1.0 if n.endswith("compute") else 1.1) for n in rows.names])
    found = least(rows.terms[chosen], rows.time_s[chosen], usual, pull, PART, ROUNDS)
    return np.minimum(found, [MOST.get(n, np.inf) for n in rows.names])


def _without(rows: Rows, groups: Any, within: Any) -> Any:
    """Predictions of every row with its group left out."""
    made = np.full(len(rows.time_s), np.nan)
    for group in sorted(set(groups[within])):
        out = groups == group
        made[out & within] = (rows.terms @ factors(rows, within & ~out))[out & within]
    return made


def said(predicted: Any, measured: Any) -> str:
    """Errors and rank of predictions, in words."""
    from scipy.stats import spearmanr

    error = np.abs(predicted / measured - 1.0)
    rank = float(spearmanr(predicted, measured).statistic)
    median, mean, p90 = (100 * float(x) for x in (np.median(error), error.mean(), np.quantile(error, 0.9)))
    return f"median {median:.1f} %, mean {mean:.1f}, p90 {p90:.0f}, rank {rank:.3f}, n {len(error):,}"


def spread_of(predicted: Any, measured: Any) -> float:
    """The factor within which 80 % of times lie."""
    return float(np.exp(np.quantile(np.abs(np.log(predicted / measured)), 0.8)))


def entry(times: Mapping[str, float], kernel_s: float, spreads: tuple[float, float], *more: str) -> list[str]:
    """One entry of a runtime in the catalogue, as lines; ``more`` are its other fields."""
    written = ", ".join(f'"{n}" = {v:.3g}' for n, v in times.items())
    return [
        "[[runtime.reach]]",
        *more,
        f"times = {{ {written} }}",
        f"kernel_s = {kernel_s:.3g}",
        f"spread = {spreads[0]:.3g}",
        f"spread_elsewhere = {max(spreads):.3g}",
        "",
    ]


def entries(tables: Path, tasks: Sequence[str]) -> str:
    """The entries of the catalogue, with the errors of rows left out as comments."""
    lines: list[str] = []
    for task in tasks:
        rows = read_rows(tables, task)
        out = np.array([held_out(f) for f in rows.family])
        fitted, everything = factors(rows, ~out), np.ones(len(out), dtype=np.bool_)
        predicted = rows.terms @ fitted
        alone = _without(rows, rows.family, everything)
        spread = spread_of(alone, rows.time_s)
        elsewhere = spread * 1.25
        lines.append(f"# {task}: families held out: {said(predicted[out], rows.time_s[out])}")
        for machine in sorted({str(m) for m in rows.machine}):
            of = rows.machine == machine
            lines.append(f"#   each family left out, {machine}: {said(alone[of], rows.time_s[of])}")
        ratios = {f: alone[rows.family == f] / rows.time_s[rows.family == f] for f in set(rows.family)}
        bias = {f: float(np.median(r)) - 1.0 for f, r in ratios.items() if len(r) >= 3}
        far = sorted(bias.items(), key=lambda item: -abs(item[1]))[:12]
        lines.append("#   families furthest off when left out: " + ", ".join(f"{f} {100 * b:+.0f} %" for f, b in far))
        machines = sorted({str(m) for m in rows.machine})
        if len(machines) > 1:
            strange = _without(rows, rows.machine, everything)
            elsewhere = spread_of(strange, rows.time_s)
            for machine in machines:
                of = rows.machine == machine
                lines.append(f"#   from the other machine, {machine}: {said(strange[of], rows.time_s[of])}")
        stack = find_machine(machines[0]).launch
        times = dict(zip(rows.names, fitted, strict=True))
        host = HOST_S[TASKS[task][0]] if stack != "cpu" else 0.0
        fields = [
            f'stacks = ["{stack}"]',
            f'layout = "{TASKS[task][1]}"',
            *(["train = true"] if task.startswith("train") else []),
            f"measured = {machines}".replace("'", '"'),
            f"host_s = {host:.3g}",
            f'source = "fitted to {int((~out).sum()):,} passes of timm networks, a quarter of families left out"',
        ]
        lines += entry(times, times.pop("kernels", 0.0), (spread, elsewhere), *fields)
    return "\n".join(lines)


if __name__ == "__main__":
    print(entries(Path(sys.argv[1]), sys.argv[2:] or list(TASKS)))
