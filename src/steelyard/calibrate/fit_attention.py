"""Fit attention parameters and report their errors on configurations, and on machines, left out of the fit.

Two kinds of numbers are fitted in log space with a robust loss: hardware parameters (`DecodeParameters`,
`PrefillParameters`), shared by all
kernels of a machine, and the few numbers of each software kernel (`FACT_FIELDS`), shared by all machines that run it. A
machine's own fit is
pulled towards the fit over all machines, so twenty rows are enough to adapt.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.attention_fields import FACT_FIELDS, HARDWARE_FIELDS
from steelyard.cost.attention import (
    AttentionDevice,
    AttentionFacts,
    DecodeParameters,
    PrefillParameters,
    decode_attention_limit_s,
    decode_attention_time_s,
    prefill_attention_limit_s,
    prefill_attention_time_s,
)
from steelyard.cost.devices import attention_device
from steelyard.cost.mla import MlaFacts, MlaParameters, mla_decode_limit_s, mla_decode_time_s
from steelyard.cost.site import site_for
from steelyard.machine.catalogue import find_machine
from steelyard.measurements.aic_attention import AttentionRows, read_attention, read_mla_generation
from steelyard_validation.mla_layer import CALL_S, layer_rest

__all__ = [
    "FACT_FIELDS",
    "HARDWARE_FIELDS",
    "Fit",
    "Part",
    "Score",
    "fit",
    "latent_layers",
    "parts",
    "predict",
    "roofline",
    "score",
    "split",
]

Array = NDArray[np.float64]
Phase = Literal["decode", "prefill", "mla"]
Parameters = DecodeParameters | PrefillParameters | MlaParameters
Facts = AttentionFacts | MlaFacts

MAX_ROWS = 1500
"""Rows of one (machine, kernel) a fit looks at; a random subset, which changes errors by less than 0.2 points."""
EAGER_CALLS = ("vllm_triton_mla",)
"""Kernels of the MLA tables timed eagerly, without the layer around them."""
CLEAR_OF_HOST = 0.2
"""Eager rows count where even the roofline takes this share of the host's time (their outliers rule out the measured
time)."""
LOSS_SCALE = 0.1
"""Log error above which a residual counts linearly."""
FACT_WEIGHT = 0.05
"""Pull of kernel numbers towards their start, in residual units."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of one kernel on one machine."""

    machine: str
    kernel: str
    device: AttentionDevice
    rows: AttentionRows


@dataclass(frozen=True, slots=True)
class Fit:
    """Hardware parameters and kernel facts of one fit."""

    phase: Phase
    parameters: Parameters
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of predictions: absolute percentage errors and the spread of log(measured / predicted)."""

    rows: int
    mean_ape: float
    median_ape: float
    p90_ape: float
    bias: float
    log_bias: float
    log_std: float
    log_low10: float
    log_high90: float


def parts(machine: str, device: AttentionDevice, rows: AttentionRows, kernels: Sequence[str]) -> list[Part]:
    """One part per kernel of `kernels` that the machine ran."""
    return [Part(machine, k, device, rows.take(rows.kernel == k)) for k in kernels if np.any(rows.kernel == k)]


def latent_layers(data: Path, machine: str) -> AttentionRows:
    """MLA decode rows with `base_s` set to the predicted time of everything around attention (`mla_layer`).

    Eager calls (A100) are kept only where they are clear of the host's time.
    """
    rows, sources = read_mla_generation(data, machine)
    chip, base = find_machine(machine), np.zeros(len(rows))
    clear = np.ones(len(rows), dtype=bool)
    for source in np.unique(sources).tolist():
        mine = sources == source
        eager = source in EAGER_CALLS
        rest = layer_rest(
            chip,
            source,
            "bf16",
            rows.batch[mine],
            rows.heads[mine],
            absorbed=True,
            phase="decode",
            projections=not eager,
        )
        base[mine] = rest.time_s
        if eager:
            limit = mla_decode_limit_s(
                rows.batch, rows.context, rows.heads, kv_bits=rows.kv_bits, device=device_of(machine)
            )
            clear &= ~mine | (limit + base > CLEAR_OF_HOST * CALL_S["decode"])
    return replace(rows, base_s=base).take(clear)


def split(part: Part, side: Literal["fit", "held_out"], half: int = 500) -> Part:
    """The half of a part's configurations that is fitted, or the other one."""
    chosen = part.rows.configuration_hash() < half
    return replace(part, rows=part.rows.take(chosen if side == "fit" else ~chosen))


def predict(part: Part, parameters: Parameters, facts: Any) -> Array:
    """Predicted times (s) of a part's rows, the repeated benchmark's hot cache included.

    MLA rows are of whole layers: `base_s` is added (see `latent_layers`).
    """
    r = part.rows
    if isinstance(parameters, MlaParameters):
        attention = mla_decode_time_s(
            r.batch,
            r.context,
            r.heads,
            kv_bits=r.kv_bits,
            device=part.device,
            parameters=parameters,
            facts=facts,
            kv_hot=True,
        )
        return np.asarray(attention + r.base_s)
    if isinstance(parameters, DecodeParameters):
        return decode_attention_time_s(
            r.batch,
            r.context,
            r.heads,
            r.kv_heads,
            r.head_dim,
            kv_bits=r.kv_bits,
            window=r.window,
            device=part.device,
            parameters=parameters,
            facts=facts,
            kv_hot=True,
        )
    return prefill_attention_time_s(
        r.batch,
        r.new_tokens,
        r.context - r.new_tokens,
        r.heads,
        r.kv_heads,
        r.head_dim,
        kv_bits=r.kv_bits,
        window=r.window,
        device=part.device,
        parameters=parameters,
        facts=facts,
    )


def roofline(phase: Phase, part: Part) -> Array:
    """Datasheet roofline (s) of a part's rows: max(16-bit FLOPs / peak, compulsory bytes / bandwidth)."""
    r = part.rows
    shape = (r.heads, r.kv_heads, r.head_dim)
    if phase == "mla":
        return mla_decode_limit_s(r.batch, r.context, r.heads, kv_bits=r.kv_bits, device=part.device)
    if phase == "decode":
        return decode_attention_limit_s(
            r.batch, r.context, *shape, kv_bits=r.kv_bits, window=r.window, device=part.device, computes_fp8=False
        )
    return prefill_attention_limit_s(
        r.batch,
        r.new_tokens,
        r.context - r.new_tokens,
        *shape,
        kv_bits=r.kv_bits,
        window=r.window,
        device=part.device,
        computes_fp8=False,
    )


def score(predicted: Array, measured: Array) -> Score:
    """Errors of predictions against measurements."""
    error = predicted / measured - 1
    log = np.log(measured / predicted)
    return Score(
        rows=int(error.size),
        mean_ape=float(np.mean(np.abs(error))),
        median_ape=float(np.median(np.abs(error))),
        p90_ape=float(np.quantile(np.abs(error), 0.9)),
        bias=float(np.mean(error)),
        log_bias=float(np.mean(log)),
        log_std=float(np.std(log)),
        log_low10=float(np.quantile(log, 0.1)),
        log_high90=float(np.quantile(log, 0.9)),
    )


def fit(
    phase: Phase,
    data: Sequence[Part],
    start: Fit,
    *,
    free_facts: Sequence[str] = (),
    pull: float = 0.0,
    hardware: Sequence[str] | None = None,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
) -> Fit:
    """The fit of hardware parameters (and the numbers of `free_facts` kernels) to measured rows.

    Minimises sum of soft-L1(log predicted - log measured) + (pull x log change from `start`)^2; every part has the same
    weight.

    Args:
        phase: "decode" or "prefill".
        data: parts of one or several machines.
        start: where to begin, and what unfitted numbers stay at.
        free_facts: kernels whose numbers are fitted too.
        pull: strength that holds hardware parameters at `start`, in units of log error; 0.5 suits twenty rows.
        hardware: names of hardware parameters to fit; default all of HARDWARE_FIELDS.
        max_rows: rows per part; more are subsampled.
        seed: of the subsample.
    """
    from scipy.optimize import least_squares

    rng = np.random.default_rng(seed)
    sampled = [
        replace(p, rows=p.rows.take(np.sort(rng.choice(len(p.rows), max_rows, replace=False))))
        if len(p.rows) > max_rows
        else p
        for p in data
    ]
    weights = [1 / np.sqrt(max(len(p.rows) / 300, 1.0)) for p in sampled]
    logs = [np.log(p.rows.time_s) for p in sampled]
    bounds = HARDWARE_FIELDS[phase]
    keys: list[tuple[str, str]] = [("", name) for name in (bounds if hardware is None else hardware)]
    limits = [bounds[name] for _, name in keys]
    for kernel in free_facts:
        for name, limit in FACT_FIELDS[phase].get(kernel, {}).items():
            keys.append((kernel, name))
            limits.append(limit)
    low, high = (np.log([x[i] for x in limits]) for i in (0, 1))
    origin = np.array([getattr(start.facts[k] if k else start.parameters, name) for k, name in keys])
    x0 = np.clip(np.log(np.maximum(origin, 1e-12)), low + 1e-6, high - 1e-6)
    strength = np.array([FACT_WEIGHT if k else pull for k, _ in keys])

    def unpack(x: Array) -> Fit:
        values = np.exp(x).tolist()
        own = {name: v for (k, name), v in zip(keys, values, strict=True) if not k}
        facts = dict(start.facts)
        for kernel in free_facts:
            facts[kernel] = replace(
                facts[kernel], **{n: v for (k, n), v in zip(keys, values, strict=True) if k == kernel}
            )
        parameters: Any = replace(start.parameters, **own)
        return Fit(phase, parameters, facts)

    def residuals(x: Array) -> Array:
        now = unpack(x)
        errors = [
            w * (np.log(predict(p, now.parameters, now.facts[p.kernel])) - y)
            for p, y, w in zip(sampled, logs, weights, strict=True)
        ]
        return np.concatenate([*errors, strength * (x - x0)])

    found = least_squares(
        residuals,
        x0,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=LOSS_SCALE,
        diff_step=3e-3,
        x_scale=0.3,
        ftol=1e-6,
        xtol=1e-6,
        max_nfev=100,
    )
    return unpack(found.x)


#: The measured machines.
MEASURED = ("a100_sxm", "l40s", "h100_sxm", "h200_sxm", "b200_sxm")


def device_of(machine: str) -> AttentionDevice:
    """The catalogue's figures of a measured machine."""
    return attention_device(site_for(find_machine(machine)))


#: Machines whose rows make a family's parameters; graphics parts of other generations run the same kernels as Ada.
FAMILIES: dict[str, tuple[str, ...]] = {
    "hopper": ("h100_sxm", "h200_sxm"),
    "blackwell": ("b200_sxm",),
    "ampere": ("a100_sxm",),
    "ada": ("l40s",),
    "ampere_graphics": ("l40s",),
    "blackwell_graphics": ("l40s",),
    "generic": ("a100_sxm", "l40s", "h100_sxm", "h200_sxm", "b200_sxm"),
}
COMMON_KERNELS = {
    "decode": ("fa2", "fa3", "flashinfer", "trtllm"),
    "prefill": ("fa2", "fa3", "flashinfer", "trtllm"),
    "mla": ("fa3_mla", "flash_mla", "trtllm_mla", "triton_mla", "triton_mla_0_14"),
}
SPECIAL_KERNELS = {"decode": ("triton", "fa4_large_head"), "prefill": ("triton", "fa4_large_head"), "mla": ()}
JOINT_PULL = 0.5
"""Pull of the fit over all machines towards the defaults: fixes directions the data leave open."""
MACHINE_PULL = 0.1
"""Pull of a machine's own fit towards the fit over all machines."""


def start_of(phase: Phase) -> Fit:
    """Default parameters and the facts of the catalogue."""
    from steelyard.cost.attention_kernels import attention_facts, mla_facts

    names = (*COMMON_KERNELS[phase], *SPECIAL_KERNELS[phase])
    parameters: dict[str, Parameters] = {
        "decode": DecodeParameters(),
        "prefill": PrefillParameters(),
        "mla": MlaParameters(),
    }
    return Fit(phase, parameters[phase], {n: (mla_facts if phase == "mla" else attention_facts)(n) for n in names})


def shared_hardware(phase: Phase) -> list[str]:
    """Hardware parameters of a fit over several machines: `hot_frac` is a property of one cache and stays at its
    default."""
    return [name for name in HARDWARE_FIELDS[phase] if name != "hot_frac"]


def _section(title: str, found: Fit, held_out: Sequence[Part], rows: int, source: str) -> list[str]:
    lines = [f"[{title}.parameters]"]
    lines += [f"{name} = {value:.4g}" for name, value in asdict(found.parameters).items()]
    predicted = [predict(p, found.parameters, found.facts[p.kernel]) for p in held_out]
    groups = {"": list(range(len(held_out)))}
    for i, part in enumerate(held_out):
        if len(part.rows):
            groups.setdefault(f".{part.kernel}", []).append(i)
    for name, chosen in groups.items():
        times = np.concatenate([held_out[i].rows.time_s for i in chosen])
        own = score(np.concatenate([predicted[i] for i in chosen]), times)
        roof = score(np.concatenate([roofline(found.phase, held_out[i]) for i in chosen]), times)
        lines += [
            "",
            f"[{title}{name}.residual]",
            f"rows = {own.rows}",
            f"mean_ape = {100 * own.mean_ape:.3g}",
            f"median_ape = {100 * own.median_ape:.3g}",
            f"p90_ape = {100 * own.p90_ape:.3g}",
            f"log_bias = {own.log_bias:.4g}",
            f"log_std = {own.log_std:.4g}",
            f"log_low10 = {own.log_low10:.4g}",
            f"log_high90 = {own.log_high90:.4g}",
            f"roofline_mean_ape = {100 * roof.mean_ape:.3g}",
        ]
    return [*lines, "", f"[{title}.provenance]", f'source = "{source}"', f"fitted_rows = {rows}", ""]


HEADER = """\
# Attention parameters of {name}, fitted by steelyard.calibrate.fit_attention; kernel facts are in
# kernels/attention.toml.
# Source: NVIDIA aiconfigurator collector (aic_ops attention and mla tables, vLLM kernels in CUDA graphs; see
# provenance).
# Split: half of the configurations (heads, KV heads, head_dim, window, KV format) fitted, the others scored.
# [*.residual]: errors in %, logs of
# measured / predicted, on the configurations left out; [*.<kernel>.residual] the same per kernel. MLA is scored on
# whole layers.
"""


def _kept(path: Path, prefixes: Sequence[str], phases: Sequence[str]) -> list[str]:
    """Lines of an existing file's sections of other phases, comments dropped."""
    if not path.is_file():
        return []
    kept: list[str] = []
    keep = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            names = line.strip("[]").split(".")
            keep = not any(p in names[: 2 if names[0] in prefixes else 1] for p in phases)
        if keep and not line.startswith("#"):
            kept.append(line)
    return kept


def calibrate(data: Path, out: Path, phases: Sequence[Phase] = ("decode", "prefill", "mla")) -> None:
    """Fit every measured machine and family from the tables in `data` (`.../aic_ops`) and write
    `<machine>/attention.toml` under `out`; sections of phases not named stay."""
    text: dict[str, list[str]] = {}
    for phase in phases:
        every: list[Part] = []
        for machine in MEASURED:
            device = device_of(machine)
            rows = latent_layers(data, machine) if phase == "mla" else read_attention(data, machine, phase)
            every += parts(machine, device, rows, (*COMMON_KERNELS[phase], *SPECIAL_KERNELS[phase]))
        common = [split(p, "fit") for p in every if p.kernel in COMMON_KERNELS[phase]]
        held = [split(p, "held_out") for p in every]
        joint = fit(phase, common, start_of(phase), pull=JOINT_PULL, hardware=shared_hardware(phase))
        for name, members in (*((m, (m,)) for m in MEASURED), *FAMILIES.items()):
            mine = [p for p in common if p.machine in members]
            if not mine:
                continue
            own = joint if name == "generic" else fit(phase, mine, joint, pull=MACHINE_PULL)
            source = ", ".join(f"{m} {phase}" for m in members)
            section = _section(
                phase if name in MEASURED else f"{name}.{phase}",
                own,
                [p for p in held if p.machine in members],
                sum(len(p.rows) for p in mine),
                f"aic_ops: {source}",
            )
            text.setdefault(name if name in MEASURED else "_families", []).extend(section)
    for folder, lines in text.items():
        path = out / folder / "attention.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        title = folder if folder in MEASURED else "machine families, for machines never measured"
        lines = [*_kept(path, tuple(FAMILIES), phases), *lines]
        path.write_text(HEADER.format(name=title) + "\n" + "\n".join(lines), encoding="utf-8")


def main() -> None:
    """Command line: `python -m steelyard.calibrate.fit_attention DATA OUT [--phase PHASE ...]`."""
    arguments = argparse.ArgumentParser(description="Fit attention parameters from the aic_ops tables.")
    arguments.add_argument("data", type=Path, help="folder with the aic_ops parquet files")
    arguments.add_argument("out", type=Path, help="catalogue/calibration folder to write")
    every: tuple[Phase, ...] = ("decode", "prefill", "mla")
    arguments.add_argument("--phase", action="append", choices=every, help="fit only this phase (repeatable)")
    given = arguments.parse_args()
    calibrate(given.data, given.out, tuple(given.phase or every))


if __name__ == "__main__":
    main()
