"""``mlperf_inference``: the networks that are not served token by token, as whole systems answer them.

A row states network, scenario, device and how many; the rules of the benchmark state the rest: the input, and of Server
the time within which 99 of 100 answers must come. The batch is the submitter's choice, and so it is ours
(:func:`steelyard.estimation.network_load.busiest`). Arithmetic is the narrowest that submissions used: 8 bits, 16 of
Stable Diffusion XL (attention and what lies between its products) and of DLRM's stricter accuracy.

Of a volume of KiTS19 the mean number of windows is reckoned (see :data:`WINDOWS`); all else is of the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.estimation.network import estimates_of
from steelyard.estimation.network_load import busiest
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, machine_of, read_frame
from steelyard.scenario.network import read_net_scenario
from steelyard.scenario.words import Problems
from steelyard.workload.nets import load_net

__all__ = ["BENCHMARKS", "FITTED", "PAIRS", "WINDOWS", "Benchmark", "Row", "questions", "read"]

#: Pairs of a user and an item of a sample of DLRM: 89,137,319 rows of the first half of Criteo's last day, in 330,067
#: samples.
PAIRS = 270.06
#: Windows of 128 voxels a side, half overlapping, of a volume of KiTS19 at voxels of 1.6 x 1.2 x 1.2 mm: some 4 x 4 of
#: a field of 400 mm, and four of 430 mm along the body, with the spread of both (reckoned; a guess by a fifth).
WINDOWS = 65.0
#: Machines whose rows the factors of runtimes were fitted to.
FITTED = ("h100_sxm", "l40s", "xeon_8592")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A network and what the rules say of it."""

    model: str
    server_s: float
    """Limit of Server."""
    items: float = 1.0
    """Passes of one item per sample."""
    size: str = ""
    steps: int = 0
    most: int = 12
    """The largest batch is two to this power."""
    wide: tuple[str, ...] = ()
    """Its names in the table that compute in 16 bits."""


BENCHMARKS: Mapping[str, Benchmark] = {
    "resnet50": Benchmark("resnet50", 0.015),
    "retinanet": Benchmark("retinanet", 0.1, most=7),
    "3d-unet": Benchmark("unet_3d", inf, items=WINDOWS, most=4),
    # SQuAD 1.1 in at most 384 tokens has 178 in the mean; submissions do not compute the padding
    "bert": Benchmark("bert_large", 0.13, size="178", most=9),
    "dlrm-v2": Benchmark("dlrm_v2", 0.06, items=PAIRS, most=18, wide=("dlrm-v2-99.9",)),
    "stable-diffusion-xl": Benchmark("sdxl", 20.0, steps=20, most=5, wide=("stable-diffusion-xl",)),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A result: which network, how it was asked, where, and the rate or the time."""

    benchmark: str
    scenario: str
    machine: str
    count: int
    measured: float
    """Samples per second of the system, or seconds of one query where they come one after another."""
    framework: str = ""
    why: str = ""

    @property
    def known(self) -> Benchmark:
        """What the rules say."""
        return BENCHMARKS[re.sub(r"-99(\.9)?$", "", self.benchmark)]

    @property
    def timed(self) -> bool:
        """Whether queries come one after another."""
        return self.scenario in ("singlestream", "multistream")

    @property
    def precision(self) -> str:
        """Arithmetic of the submission."""
        device = machine_of(self.machine)
        formats = {f for c in device.compute for f in c.peak} if device else set[str]()
        if self.benchmark in self.known.wide and not (device and device.kind == "cpu"):
            return "fp16"
        return "fp8" if self.known.model == "bert_large" and "fp8" in formats else "int8"

    @property
    def runtime(self) -> str:
        """What ran it."""
        return "tensorrt" if "TensorRT" in self.framework else "openvino" if self.framework == "PyTorch" else ""


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Results of a round; rows of language models are left to another reader."""
    for path in ask.files(folder, "v4*_results.csv"):
        if ask.wants(f"{path.stem}_networks"):
            yield from guarded(ask, path, partial(_table, path, ask))


def questions(path: Path) -> list[Row]:
    """The closed division's rows of these networks."""
    frame = read_frame(path)
    named = frame["benchmark"].astype(str).str.replace(r"-99(\.9)?$", "", regex=True)
    frame = frame[named.isin(list(BENCHMARKS)) & (frame["division"].astype(str) == "closed")]
    return [_row(row) for row in frame.itertuples()]


def _row(row: Any) -> Row:
    scenario, framework = str(row.scenario).lower(), str(row.framework)
    benchmark, system = str(row.benchmark), str(row.system)
    count = row.accel_per_node * row.nodes if row.accel_per_node > 0 else 0
    sockets = re.search(r"(\d)S-", system)
    device = str(row.accelerator) if count else str(row.cpu)
    count = int(count) if count else int(sockets[1]) if sockets else 0
    if scenario == "singlestream" or scenario == "multistream":
        measured = float(row.mean_latency_ns) * 1e-9
    else:
        rates = (row.samples_per_s, row.completed_samples_per_s, row.scheduled_samples_per_s)
        measured = next((float(r) for r in rates if r > 0), np.nan)
    why = "not a valid run" if str(row.valid) == "False" else "how many devices is not stated" if not count else ""
    if "MaxQ" in system:
        why = "held to a power that is not stated"
    return Row(benchmark, scenario, _device(device), count, measured, framework, why)


def _device(said: str) -> str:
    return machine_name(re.sub(r"-CTS$| Superchip| Grace Hopper|Tesla ", "", said).strip())


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    rows = questions(path)
    rows = [rows[int(i)] for i in ask.pick(len(rows), f"{path.stem}_networks")]
    for timed in (False, True):
        of = [r for r in rows if r.timed == timed]
        found = [r.why or _answer(r.benchmark, r.scenario, r.machine, r.count, r.precision, r.runtime) for r in of]
        figures = np.array([(np.nan,) * 4 if isinstance(f, str) else f for f in found]).reshape(-1, 4)
        yield comparison(
            ask,
            f"{path.stem}_networks",
            metric="time_s" if timed else "samples_per_s",
            phase="query" if timed else "system",
            machine=[r.machine for r in of],
            family=[f"{r.benchmark} {r.scenario}" for r in of],
            measured=np.array([r.measured for r in of]),
            predicted=figures[:, 0],
            low=figures[:, 1],
            high=figures[:, 2],
            roofline=figures[:, 3],
            split=["fit" if r.machine in FITTED and r.scenario != "server" else "left-out" for r in of],
            why=[f if isinstance(f, str) else "" for f in found],
        )


@cache
def _answer(benchmark: str, scenario: str, machine: str, count: int, precision: str, runtime: str) -> Any:
    """Rate or time of a system, its interval and its limit; or why there is none."""
    row = Row(benchmark, scenario, machine, count, np.nan)
    known = row.known
    if machine_of(machine) is None:
        return f"unknown machine {machine!r}"
    if not runtime:
        return "no runtime of this framework"
    words: dict[str, Any] = {"on": f"{machine}:{1 if row.timed else count}", "runtime": runtime}
    words |= {"precision": precision, "model": known.model}
    if known.steps:
        words["steps"] = known.steps
    else:  # by its graph: served models of the same name come first
        words["model"] = load_net(known.model, size=known.size or None)
    try:
        asked = read_net_scenario(words, Problems())
        if row.timed:
            batch = 8.0 if scenario == "multistream" else 1.0
            one = next(estimates_of(asked.with_batches(np.array([batch]))))
            return tuple(known.items * x for x in (one.latency_s, *one.interval["latency_s"], one.limit_s))
        within = known.server_s if scenario == "server" else inf
        best = busiest(asked, [2.0**i for i in range(known.most + 1)], within)
    except InputError as error:
        return str(error)[:80]
    limit = best.estimate.scenario.batch * count / best.estimate.limit_s * best.load
    return tuple(x / known.items for x in (best.items_per_s, *best.interval, limit))
