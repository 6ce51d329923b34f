"""Fit three figures of a machine family to whole-model rates: for devices nobody benchmarks op by op.

Tokens per second of single sequences are all that is published of phones, small boards and Macs. Such a rate says three
things about products, and those are fitted (to half of the rows, by model and machine; the rest scores the fit):

* ``dram_frac``: share of the peak bandwidth that reading weights sustains (generation);
* ``compute_frac``: share of the matrix peak (prompts);
* ``launch_cycles``: clocks from one product to the next (what small models lose).

Everything else in a step is priced with the parameters it has. The figures are written to
``calibration/_families/whole_model.toml`` and, for the product model to find, as sections of ``_families/gemm.toml``;
tile and latency effects, which such rates cannot show, are switched off there.
Run ``python -m steelyard_validation.fits.family DATA`` after ``fits.gemm``, which writes that file anew.
"""

from __future__ import annotations

import sys
import tomllib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.devices import gemm_device
from steelyard.cost.gemm import GemmParameters, gemm_time_s, library_facts
from steelyard.cost.place import roofline
from steelyard.cost.site import site_of
from steelyard.interval import Z80
from steelyard.workload.step import Step
from steelyard_validation.readers._whole import Placed

__all__ = ["FAMILIES", "FamilyFit", "Rate", "family_parameters", "fit", "main", "merge", "rate", "rates_of", "split_of"]

Floats = NDArray[np.float64]

#: Families fitted here, and their start: (dram_frac, compute_frac, launch_s).
FAMILIES: Mapping[str, tuple[float, float, float]] = {
    "apple_gpu": (0.9, 0.65, 30e-6),
    "hexagon": (0.65, 0.5, 10e-6),
    "rknpu": (0.85, 0.2, 30e-6),
    "rdna3": (0.8, 0.2, 10e-6),
}


@dataclass(frozen=True, eq=False)
class Rate:
    """One measured step: its products, the time of everything else, and the measured seconds."""

    family: str
    machine: str
    model: str
    phase: str
    device: Any
    facts: Any
    clock_hz: float
    shapes: Floats
    """(products, 6): m, n, k, groups, weight bits, activation bits."""
    counts: Floats
    limits_s: Floats
    rest_s: float
    measured_s: float


@dataclass(frozen=True, slots=True)
class FamilyFit:
    """What was fitted to a family, and how well: percent errors on the rows fitted to and on those left out."""

    family: str
    dram_frac: float
    compute_frac: float
    launch_s: float
    clock_hz: float
    rows: int
    left_out: int
    fit_median_ape: float
    left_median_ape: float
    left_log_std: float


def split_of(machines: Iterable[str], models: Iterable[str]) -> NDArray[np.str_]:
    """``fit`` or ``left-out`` for every row: half of the (machine, model) pairs, chosen by a hash of their names."""
    names = [f"{a}/{b}".encode() for a, b in zip(machines, models, strict=True)]
    return np.array(["fit" if zlib.crc32(n) % 2 == 0 else "left-out" for n in names], dtype=np.str_)


def rate(at: Placed, step: Step, decode: bool, measured_s: float, model: str) -> Rate:
    """Take a measured step apart."""
    machine = at.cluster.machine
    cost = at.replica.price(step, decode=decode).cost
    products = [k for k in cost.kernels if k.model == "gemm"]
    rows, counts, limits = [], [], []
    site = None
    for k in products:
        kernel = k.kernel
        f = kernel.features
        here = site_of(machine, k.engine, kernel.compute)
        site = here if site is None or kernel.block != "head" else site
        rows.append([float(np.asarray(f[x])) for x in ("m", "n", "k", "groups", "weight_bits", "act_bits")])
        counts.append(float(np.asarray(kernel.count)))
        limits.append(float(np.maximum(*roofline(kernel, here))))
    assert site is not None
    rest = float(np.squeeze(cost.time_s)) - float(sum(np.squeeze(k.time_s) for k in products))
    shapes = np.array(rows)
    facts = library_facts(machine.family, shapes[0, 4], shapes[0, 5])
    return Rate(
        machine.family,
        machine.name,
        model,
        "decode" if decode else "prefill",
        gemm_device(site),
        facts,
        site.clock_hz or 1.5e9,
        shapes,
        np.array(counts),
        np.array(limits),
        max(rest, 0.0),
        measured_s,
    )


def family_parameters(dram_frac: float, compute_frac: float, launch_s: float, clock_hz: float) -> GemmParameters:
    """The GEMM model with three figures set and tile effects off."""
    return GemmParameters(
        launch_cycles=launch_s * clock_hz,
        compute_frac=compute_frac,
        ops_per_joule=1e15,
        dram_frac=dram_frac,
        step_s=1e-12,
        wave_hardness=0.0,
        overlap_power=4.0,
        split_s=1e-6,
        operand_intensity=1e-3,
        store_intensity=1e-3,
        hot_frac=0.07,
        cache_frac=0.8,
    )


def _predicted(r: Rate, p: Floats) -> float:
    m, n, k, groups, weight_bits, act_bits = r.shapes.T
    time = gemm_time_s(
        m,
        n,
        k,
        weight_bits=weight_bits,
        act_bits=act_bits,
        out_bits=16.0,
        device=r.device,
        facts=r.facts,
        parameters=family_parameters(p[0], p[1], p[2], r.clock_hz),
        groups=groups,
    )
    return r.rest_s + float((np.maximum(time, r.limits_s) * r.counts).sum())


def fit(rates: Sequence[Rate]) -> FamilyFit:
    """Least mean absolute log error over the rows labelled ``fit``, kept near the start where rows say little."""
    from scipy.optimize import minimize

    family = rates[0].family
    start = np.array(FAMILIES[family])
    label = split_of([r.machine for r in rates], [r.model for r in rates])
    train = [r for r, s in zip(rates, label, strict=True) if s == "fit"]

    def errors(rows: Sequence[Rate], p: Floats) -> Floats:
        return np.asarray(np.log(np.array([_predicted(r, p) / r.measured_s for r in rows])), dtype=np.float64)

    def loss(z: Floats) -> float:
        p = start * np.exp(z)
        p[:2] = np.clip(p[:2], 0.02, 1.0)
        return float(np.abs(errors(train, p)).mean() + PRIOR * (z**2).sum())

    found = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxfev": 250, "xatol": 1e-3, "fatol": 1e-5})
    p = start * np.exp(found.x)
    p[:2] = np.clip(p[:2], 0.02, 1.0)
    fitted = errors(train, p)
    left = errors([r for r, s in zip(rates, label, strict=True) if s == "left-out"], p)
    clock = float(np.median([r.clock_hz for r in rates]))
    phases = {r.phase for r, s in zip(rates, label, strict=True) if s == "left-out"}
    spreads = [
        np.quantile(np.abs(left[[r.phase == x for r, s in zip(rates, label, strict=True) if s == "left-out"]]), 0.8)
        for x in phases
    ]  # outliers do not set it; one figure stands for both phases
    spread = float(np.mean(spreads) / Z80) if spreads else float("nan")
    return FamilyFit(
        family, float(p[0]), float(p[1]), float(p[2]), clock, len(train), left.size, _ape(fitted), _ape(left), spread
    )


#: Weight of the squared log distance from the start.
PRIOR = 0.003


def _ape(errors: Floats) -> float:
    return float(np.median(np.abs(np.expm1(errors))) * 100) if errors.size else float("nan")


def section(found: FamilyFit, source: str) -> str:
    """The family's section of ``_families/gemm.toml``."""
    p = family_parameters(found.dram_frac, found.compute_frac, found.launch_s, found.clock_hz)
    lines = [f"[{found.family}]", f"[{found.family}.parameters]"]
    lines += [f"{name} = {getattr(p, name):.4g}" for name in p.__slots__]
    lines += [
        f"[{found.family}.residual]",
        f"rows = {found.left_out}",
        f"median_ape = {found.left_median_ape:.3g}",
        f"log_std = {found.left_log_std:.3g}",
        f"[{found.family}.provenance]",
        'kind = "whole models"',
        f'source = "{source}"',
        f"rows_fitted = {found.rows}",
    ]
    return "\n".join(lines) + "\n"


def merge(target: Path, sections: Mapping[str, str]) -> None:
    """Put sections into a families file, in place of those of the same families; the rest stays as it is."""
    kept, skipping = [], False
    for line in target.read_text(encoding="utf-8").splitlines() if target.is_file() else []:
        if line.startswith("["):
            skipping = line.strip("[] ").split(".")[0].split("]")[0] in sections
        if not skipping:
            kept.append(line)
    text = "\n".join(kept).rstrip() + "\n\n" + "\n".join(sections[name] for name in sorted(sections))
    tomllib.loads(text)
    target.write_text(text, encoding="utf-8")


#: Where the rates of a family come from.
SOURCES: Mapping[str, str] = {
    "apple_gpu": "llama.cpp on Apple GPUs: LLaMA 7B (discussion 4167) and single-user decode rates",
    "hexagon": "Qualcomm AI Hub: language models on Snapdragon",
    "rknpu": "Rockchip rkllm benchmark",
    "rdna3": "llama.cpp on Strix Halo: dense models, HIP and Vulkan builds of 2025 and 2026",
}


def rates_of(data: Path) -> Iterator[Rate]:
    """Every measured rate of the families in a data folder."""
    from steelyard_validation.readers import llamacpp, qualcomm_llm, rockchip_llm

    apple, small = (
        data / "llamacpp_consumer" / "apple_silicon_4167.csv",
        data / "llamacpp_consumer" / "geerling_devices.csv",
    )
    tables = []
    if apple.is_file():
        tables.append(llamacpp.apple_questions(apple).rename(columns={"tok_s": "rate"}))
    if small.is_file():
        tables.append(llamacpp.system_questions(small).rename(columns={"decode_tok_s": "rate"}))
    for table in tables:
        for row in table.to_dict("records"):
            decode = row["phase"] == "decode"
            step = Step.decode(1, row["context"] + max(row["n"], 2) / 2) if decode else Step.prefill(1, row["n"])
            place = llamacpp.place(row["model"], row["machine"], row["format"], row["why"])
            yield from _known(place, step, decode, (1.0 if decode else row["n"]) / row["rate"], row["model"])
    path = data / "qualcomm_aihub" / "llm_on_snapdragon.csv"
    for row in qualcomm_llm.questions(path).to_dict("records") if path.is_file() else ():
        at, context = qualcomm_llm.place(row["model"], row["machine"], row["precision"]), row["context_length"]
        yield from _known(at, Step.decode(1, context), True, 1.0 / row["decode_tok_s"], row["model"])
        if row["ttft_min_ms"] < row["ttft_max_ms"]:
            chunk = Step(1, qualcomm_llm.CHUNK, context)
            yield from _known(at, chunk, False, row["ttft_min_ms"] * 1e-3, row["model"])
    yield from strix_rates(data / "strix_halo_llamacpp")
    path = data / "rockchip_npu" / "rknn_llm_benchmark.csv"
    for row in rockchip_llm.questions(path).to_dict("records") if path.is_file() else ():
        at = rockchip_llm.place(row["model"], row["machine"], row["dtype"])
        decode_step = Step.decode(1, row["prompt_len"] + row["new_tokens"] / 2)
        yield from _known(at, decode_step, True, 1.0 / row["decode_tok_s"], row["model"])
        yield from _known(at, Step.prefill(1, row["prompt_len"]), False, row["ttft_ms"] * 1e-3, row["model"])


def strix_rates(folder: Path) -> Iterator[Rate]:
    """Prompts of 512 and 2048 tokens and short generations of dense models, from the start of the context."""
    from steelyard_validation.readers import rigs

    for place, load, measured in rigs.llama_bench_rows(folder):
        prompt = load.phase == "prefill"
        if load.depth or load.n not in ((512, 2048) if prompt else (128,)):
            continue
        at, tokens = place.placed(), min(load.ubatch, load.n)
        if isinstance(at, str) or getattr(at.transformer, "experts", False):
            continue
        step = Step(1, tokens, (load.n + tokens) / 2) if prompt else Step.decode(1, load.n / 2)
        seconds = (tokens if prompt else 1.0) / measured
        yield from _known(at, step, not prompt, seconds, place.model + place.weights)


def _known(at: Placed | str, step: Step, decode: bool, measured_s: float, model: str) -> Iterator[Rate]:
    if not isinstance(at, str) and at.cluster.machine.family in FAMILIES:
        yield rate(at, step, decode, measured_s, model)


def main(data: Path, catalogue: Path) -> list[FamilyFit]:
    """Fit every family that has rates and write the catalogue's files."""
    rates = list(rates_of(data))
    fits = [fit([r for r in rates if r.family == name]) for name in sorted({r.family for r in rates})]
    sections = {f.family: section(f, SOURCES[f.family]) for f in fits}
    folder = catalogue / "calibration" / "_families"
    head = "# Product parameters of families known by whole-model rates only, three figures each (fit_family).\n\n"
    (folder / "whole_model.toml").write_text(head + "\n".join(sections[k] for k in sorted(sections)), encoding="utf-8")
    merge(folder / "gemm.toml", sections)
    return fits


if __name__ == "__main__":
    for found in main(Path(sys.argv[1]), Path(__file__).parents[3] / "src" / "steelyard" / "catalogue"):
        print(found)
