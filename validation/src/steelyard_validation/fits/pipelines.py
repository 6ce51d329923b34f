"""Fit what eager PyTorch takes over the limits of an H100, to diffusion pipelines on one device (ML.ENERGY).

As :mod:`steelyard_validation.fits.networks`, with a pull to the factors fitted on other cards, but for products,
attention and moves: a Hopper card reaches two thirds of its peak in products under its power limit; kernels of
attention written for the generation before (FlashAttention 2) do so too, and raise their scores besides, at the rate
of the units that do (16 a clock and multiprocessor, 3.9e12 a second: 17 times less than the vector engine's peak;
FlashAttention-3's paper, which overlaps both); what moves tensors of hundreds of megabytes does not find them in the
cache, as on GeForce.

``python -m steelyard_validation.fits.pipelines TABLES``
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from steelyard.cost.net_price import price_net, reach_of
from steelyard.deployment.runtime import find_runtime
from steelyard.machine.catalogue import find_machine
from steelyard.measurements.reader import read_frame
from steelyard.scenario.network import read_net_scenario
from steelyard.scenario.words import Problems
from steelyard_validation.fits.networks import Rows, entry, factors, said, spread_of, total
from steelyard_validation.readers.diffusion import COLUMNS, words_of

__all__ = ["HOPPER", "fit", "read_pipelines"]

#: Over the limit on Hopper cards, see above.
HOPPER: Mapping[str, float] = {
    "linear.compute": 1.5,
    "conv.compute": 1.5,
    "conv1x1.compute": 1.5,
    "attention.compute": 1.5,
    "attention.steps": 17.0,
    "cast.traffic": 1.1,
    "copy.traffic": 1.2,
    "norm.traffic": 1.2,
}
#: Pipelines are few: the pull weighs as many rows.
PULL = 30.0
#: No kernel takes less than this of its limit: factors that were 0 beside others of their class.
LEAST = 0.3
#: Host time of a kernel, not fitted.
HOST_S = 2.5e-5


def read_pipelines(tables: Path) -> Rows:
    """The rows of one device with the terms of all phases."""
    frame = read_frame(tables / "ml_energy_v3" / "diffusion_energy_latency.csv", COLUMNS)
    found = []
    for row in frame.itertuples():
        words = words_of(row)
        if isinstance(words, str) or int(row.num_gpus) > 1:
            continue
        scenario = read_net_scenario(words, Problems())
        values: dict[str, float] = {}
        for phase in scenario.phases:
            sizes = {**phase.sizes, "batch": np.array([float(scenario.batch * phase.items)])}
            machine = scenario.cluster.machine
            priced = price_net(phase.graph, sizes, machine, scenario.runtime, scenario.precision, scenario.layout)
            for name, value in total(priced.kernels, priced.site).items():
                values[name] = values.get(name, 0.0) + phase.repeats * value
        after = sum(p.after_s for p in scenario.phases) * scenario.batch
        found.append((values, float(row.batch_latency_s) - after, str(row.model), "h100_sxm"))
    return Rows.of(found)


def fit(tables: Path) -> str:
    """The entry of the catalogue, with the error of each pipeline when the others are fitted."""
    rows = read_pipelines(tables)
    other = reach_of(find_runtime("eager"), find_machine("rtx_4090"), "nchw")
    held = {n: max(v, LEAST) if n.endswith(("traffic", "compute")) else max(v, 1e-7) for n, v in other.times.items()}
    usual = {**held, "kernels": other.kernel_s, **HOPPER}
    alone = np.full(len(rows.time_s), np.nan)
    for model in sorted(set(rows.family)):
        out = rows.family == model
        alone[out] = (rows.terms @ factors(rows, ~out, usual, PULL))[out]
    fitted = dict(zip(rows.names, factors(rows, np.ones(len(alone), dtype=np.bool_), usual, PULL), strict=True))
    spread = spread_of(alone, rows.time_s)
    times = {**other.times, **HOPPER, **fitted}
    kernel_s = times.pop("kernels")
    ratios = {str(m): round(float(np.median((alone / rows.time_s)[rows.family == m])), 2) for m in set(rows.family)}
    fields = [
        'stacks = ["cuda"]',
        'machines = ["hopper"]',
        "phased = true",
        'measured = ["h100_sxm"]',
        f"host_s = {HOST_S:.3g}",
        f'source = "fitted to {len(alone)} runs of diffusion pipelines (ML.ENERGY), others as on GeForce"',
    ]
    heads = [f"# pipelines on H100, each left out: {said(alone, rows.time_s)}", f"# {ratios}"]
    return "\n".join([*heads, *entry(times, kernel_s, (spread, spread * 1.25), *fields)])


if __name__ == "__main__":
    print(fit(Path(sys.argv[1])))
