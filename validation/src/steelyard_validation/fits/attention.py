"""Fit attention parameters of measured machines and of families, scored on configurations left out of the fit.

Two kinds of numbers: hardware parameters (``DecodeParameters``, ``PrefillParameters``, ``MlaParameters``) of all
kernels of a machine, and the few numbers of each software kernel (:data:`FACT_FIELDS`) on all machines that run it. A
machine's own fit is pulled towards the fit over all machines, so twenty rows are enough to adapt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.task import Array, errors_of, fit_values
from steelyard.calibrate.tasks import FREE, attention_price
from steelyard.calibrate.toml_files import merged
from steelyard.cost.attention import AttentionDevice, DecodeParameters, PrefillParameters
from steelyard.cost.attention_kernels import attention_facts, mla_facts
from steelyard.cost.devices import attention_device
from steelyard.cost.mla import MlaParameters, mla_decode_limit_s, mla_decode_time_s
from steelyard.cost.parameters import calibration_table
from steelyard.cost.site import site_for
from steelyard.machine.catalogue import find_machine
from steelyard.measurements.kernel_tables import (
    ATTENTION_KERNELS,
    CONFIGURATIONS_FITTED,
    attention_rows,
    configuration_hash,
    repeated_once,
)
from steelyard_validation.fits import command, section, write
from steelyard_validation.mla_layer import CALL_S, layer_rest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COMMON_KERNELS", "FACT_FIELDS", "Fit", "Part", "fit", "latent_fitted", "parts", "read", "run", "start_of"]

Phase = Literal["decode", "prefill", "mla"]

MAX_ROWS = 1500
"""Rows of one (machine, kernel) a fit looks at; a random subset, which changes errors by less than 0.2 points."""
EVEN_ROWS = 300.0
"""Parts of more rows than this weigh alike."""
EAGER_CALLS = ("vllm_triton_mla",)
"""Kernels of the MLA tables timed eagerly, without the layer around them."""
CLEAR_OF_HOST = 0.2
"""Eager rows count where even the roofline takes this share of the host's time (their outliers rule out the measured
time)."""
EAGER_CLEAR = 1.5
"""Times the host's time above which an eager call is the device's."""
NOISE = 0.1
"""Log error above which a residual counts linearly."""
FACT_SIGMA, JOINT_SIGMA, MACHINE_SIGMA = 2.0, 0.2, 1.0
"""Log-space widths of the priors: numbers of a kernel; the fit over all machines, whose prior fixes directions the data
leave open; a machine's own fit about the fit over all."""
MEASURED = ("a100_sxm", "l40s", "h100_sxm", "h200_sxm", "b200_sxm")
EAGER: Final[Mapping[str, Mapping[str, float]]] = {"b60": {"decode": 66e-6, "prefill": 46e-6}}
"""Machines whose tables time calls from Python, with the host's time (s) of one: rows half as long again are the
device's."""
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "hopper": ("h100_sxm", "h200_sxm"),
    "blackwell": ("b200_sxm",),
    "ampere": ("a100_sxm",),
    "ada": ("l40s",),
    "ampere_graphics": ("l40s",),
    "blackwell_graphics": ("l40s",),
    "generic": MEASURED,
}
"""Machines whose rows make a family's parameters; graphics parts of other generations run the same kernels as Ada."""
COMMON_KERNELS: Final[Mapping[str, tuple[str, ...]]] = {
    "decode": ("fa2", "fa3", "flashinfer", "trtllm"),
    "prefill": ("fa2", "fa3", "flashinfer", "trtllm"),
    "mla": ("fa3_mla", "flash_mla", "trtllm_mla", "triton_mla", "triton_mla_0_14"),
}
SPECIAL_KERNELS: Final[Mapping[str, tuple[str, ...]]] = {
    "decode": ("triton", "fa4_large_head"),
    "prefill": ("triton", "fa4_large_head"),
    "mla": (),
}
HARDWARE: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "decode": FREE["decode"].bounds,
    "prefill": FREE["prefill"].bounds,
    "mla": {
        "item_s": (3e-7, 5e-5),
        "combine_s": (3e-7, 6e-5),
        "matrix_frac": (0.3, 1.0),
        "dram_frac": (0.5, 0.97),
        "l2_frac": (0.05, 1.0),
        "overlap_power": (1.2, 10.0),
        "wave_hardness": (0.02, 1.0),
    },
}
"""Hardware parameters that are fitted, per phase, with their bounds."""

_FP8 = {"fp8_token_clocks": (0.1, 300.0), "fp8_dim_exponent": (0.3, 2.5)}
_PREFILL_FP8 = {
    "prefill_fp8_token_clocks": (0.05, 300.0),
    "prefill_fp8_dim_exponent": (0.3, 2.5),
    "cache_write_fp8_ratio": (0.2, 4.0),
    "cache_write_fp8_loop_frac": (0.02, 1.5),
}
_RATIO = (0.15, 7.0)
#: Numbers of a software kernel that are fitted over all machines that ran it, with bounds.
FACT_FIELDS: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "decode": {
        "xe2": {
            **_FP8,
            "token_clocks": (0.5, 100.0),
            "alone_ratio": (1.01, 20.0),
            "launch_ratio": (0.5, 8.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
        "fa2": {"wide_group_frac": (0.01, 2.0), "combine_ratio": _RATIO, "row_ratio": _RATIO},
        "fa3": {
            **_FP8,
            "fp8_extra_s": (1e-8, 1e-5),
            "sequence_s": (1e-9, 2e-7),
            "window_item_s": (1e-8, 1e-5),
            "wide_group_frac": (0.01, 2.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
        "flashinfer": {
            **_FP8,
            "wide_group_frac": (0.01, 2.0),
            "items_per_slot": (1.0, 4.0),
            "launch_ratio": (0.5, 3.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
        "trtllm": {
            **_FP8,
            "fp8_extra_s": (1e-8, 1e-5),
            "wide_group_frac": (0.01, 2.0),
            "items_per_slot": (1.0, 4.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
        "triton": {
            "fp8_token_clocks": (0.1, 300.0),
            "items_per_slot": (0.05, 6.0),
            "launch_ratio": (0.5, 3.0),
            "combine_ratio": _RATIO,
        },
        "fa4_large_head": {
            "items_per_slot": (0.02, 4.0),
            "sequence_s": (1e-9, 1e-5),
            "launch_ratio": (0.5, 3.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
    },
    "prefill": {
        "xe2": {
            "prefill_fp8_token_clocks": (0.05, 3000.0),
            "prefill_fp8_dim_exponent": (0.3, 2.5),
            "prefill_exp_ratio": (0.05, 4.0),
            "prefill_matrix_ratio": (0.3, 1.05),
            "prefill_mask_ratio": (1.0, 2.0),
            "prefill_launch_ratio": (0.3, 8.0),
        },
        "fa2": {"prefill_window_item_s": (1e-8, 1e-5)},
        "fa3": {
            **_PREFILL_FP8,
            "prefill_fp8_extra_s": (1e-8, 1e-5),
            "prefill_exp_ratio": (0.05, 4.0),
            "prefill_matrix_ratio": (0.3, 1.02),
            "prefill_window_item_s": (1e-8, 1e-5),
        },
        "flashinfer": {
            **_PREFILL_FP8,
            "prefill_exp_ratio": (0.05, 4.0),
            "prefill_matrix_ratio": (0.3, 1.02),
            "prefill_window_item_s": (1e-8, 1e-5),
            "prefill_item_ratio": _RATIO,
            "prefill_launch_ratio": (0.3, 3.0),
        },
        "trtllm": {
            **_PREFILL_FP8,
            "prefill_exp_ratio": (0.05, 4.0),
            "prefill_matrix_ratio": (0.3, 1.02),
            "prefill_window_item_s": (1e-8, 1e-5),
            "prefill_item_ratio": _RATIO,
            "prefill_large_dim_ratio": (0.8, 4.0),
        },
        "triton": {
            "prefill_fp8_token_clocks": (0.05, 3000.0),
            "prefill_matrix_ratio": (0.01, 1.0),
            "prefill_item_ratio": _RATIO,
            "prefill_launch_ratio": (0.5, 3.0),
        },
        "fa4_large_head": {
            "prefill_matrix_ratio": (0.05, 1.0),
            "prefill_item_ratio": _RATIO,
            "prefill_launch_ratio": (0.5, 3.0),
        },
    },
    "mla": {
        "fa3_mla": {"token_s": (1e-10, 1e-7)},
        "flash_mla": {"matrix_ratio": (0.3, 1.3), "token_s": (1e-10, 1e-7)},
        "trtllm_mla": {"token_s": (1e-10, 1e-7), "narrow_again_frac": (0.01, 1.0)},
        "triton_mla": {"matrix_ratio": (0.03, 1.0), "token_s": (1e-10, 1e-7)},
        "triton_mla_0_14": {"matrix_ratio": (0.03, 1.0), "token_s": (1e-10, 1e-7)},
    },
}


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one kernel on one machine."""

    machine: str
    kernel: str
    rows: pd.DataFrame

    @property
    def device(self) -> AttentionDevice:
        """The catalogue's figures of the machine."""
        return attention_device(site_for(find_machine(self.machine)))

    @property
    def time_s(self) -> Array:
        """Measured seconds."""
        return np.asarray(self.rows["time_s"], dtype=np.float64)

    def side(self, fitted: bool) -> Part:
        """The half of the configurations that is fitted, or the other one."""
        return replace(self, rows=self.rows[self.rows["fitted"] == fitted])

    def drawn(self, rng: np.random.Generator) -> Part:
        """At most :data:`MAX_ROWS` of the rows."""
        if len(self.rows) <= MAX_ROWS:
            return self
        return replace(self, rows=self.rows.iloc[np.sort(rng.choice(len(self.rows), MAX_ROWS, replace=False))])

    def predict_s(self, phase: Phase, parameters: Any, facts: Any) -> Array:
        """Predicted seconds, the repeated benchmark's hot cache included; MLA rows are of whole layers (``base_s``)."""
        c = {str(name): self.rows[name].to_numpy() for name in self.rows.columns}
        if phase != "mla":
            return attention_price(phase, self.device, lambda _: facts)(parameters, c, self.kernel)
        about = {"device": self.device, "parameters": parameters, "facts": facts}
        time = mla_decode_time_s(c["batch"], c["context"], c["heads"], kv_bits=c["kv_bits"], kv_hot=True, **about)
        return np.asarray(time + c["base_s"])


@dataclass(frozen=True, slots=True)
class Fit:
    """Hardware parameters and kernel facts of one fit."""

    phase: Phase
    parameters: Any
    facts: Mapping[str, Any]

    def predict_s(self, part: Part) -> Array:
        """Predicted seconds of a part."""
        return part.predict_s(self.phase, self.parameters, self.facts[part.kernel])

    def score(self, parts: Sequence[Part]) -> dict[str, float]:
        """Errors over parts together."""
        return errors_of(
            np.concatenate([self.predict_s(p) for p in parts]), np.concatenate([p.time_s for p in parts])
        ).table()


def start_of(phase: Phase) -> Fit:
    """Default parameters and the facts of the catalogue."""
    names = (*COMMON_KERNELS[phase], *SPECIAL_KERNELS[phase])
    parameters = {"decode": DecodeParameters(), "prefill": PrefillParameters(), "mla": MlaParameters()}
    return Fit(phase, parameters[phase], {n: (mla_facts if phase == "mla" else attention_facts)(n) for n in names})


def read(folder: Path, machine: str, phase: Phase) -> pd.DataFrame:
    """Rows of one machine and phase, repeated calls by their median; ``folder`` holds ``aic_ops``."""
    if phase == "mla":
        return latent_layers(folder, machine)
    import pandas as pd

    table = {"decode": "generation_attention", "prefill": "context_attention"}[phase]
    files = sorted((folder / "aic_ops").glob(f"{machine}__{table}__*.parquet"))
    rows = pd.concat([attention_rows(path) for path in files], ignore_index=True)
    return repeated_once(rows[(rows["phase"] == phase) | (phase == "decode")])


def latent_fitted(heads: Any, cache: str) -> NDArray[np.bool_]:
    """Which rows of the MLA tables the fit sees: whole (heads, cache format) pairs, by the hash of a configuration."""
    import pandas as pd

    rows = pd.DataFrame({"heads": np.asarray(heads, dtype=np.float64)})
    rows = rows.assign(kv_heads=1.0, head_dim=0.0, window=0.0, kv_bits=8.0 if "8" in cache else 16.0)
    return np.asarray(configuration_hash(rows) < CONFIGURATIONS_FITTED)


def latent_layers(folder: Path, machine: str) -> pd.DataFrame:
    """MLA decode rows of one machine, ``base_s`` being the predicted time of everything around attention (`mla_layer`).

    Of whole layers those with 16-bit weights (others are for scoring), context = step; of calls, context = isl + step.
    Eager calls (A100) are kept only where they are clear of the host's time.
    """
    import pandas as pd

    raw = pd.read_parquet(folder / "aic_ops" / "mla_vllm.parquet")
    raw = raw[(raw["system"] == machine) & raw["table"].str.contains("generation")]
    module = raw["table"].str.contains("module")
    raw = raw[~module | (raw["gemm_type"].astype(str) == "bfloat16")]
    rows = pd.DataFrame(
        {
            "source": raw["kernel_source"].astype(str),
            "kernel": raw["kernel_source"].astype(str).map(ATTENTION_KERNELS),
            "kv_bits": np.where(raw["kv_cache_dtype"].astype(str) == "fp8", 8.0, 16.0),
            "heads": raw["num_heads"].astype(float),
            "batch": raw["batch_size"].astype(float),
            "context": (raw["step"] + (~module[raw.index]).astype(int)).astype(float),
            "time_s": raw["latency"].astype(float) * 1e-3,
        }
    )
    rows = repeated_once(rows).assign(base_s=0.0, kv_heads=1.0, head_dim=0.0, window=0.0)
    chip, clear = find_machine(machine), np.ones(len(rows), dtype=bool)
    for source, index in rows.groupby("source").indices.items():
        eager, part = source in EAGER_CALLS, rows.iloc[index]
        batch, heads = part["batch"].to_numpy(), part["heads"].to_numpy()
        about: dict[str, Any] = {"absorbed": True, "phase": "decode", "projections": not eager}
        base = layer_rest(chip, str(source), "bf16", batch, heads, **about).time_s
        rows.loc[index, "base_s"] = base
        if eager:
            device = attention_device(site_for(chip))
            limit = mla_decode_limit_s(
                batch, part["context"].to_numpy(), heads, kv_bits=part["kv_bits"].to_numpy(), device=device
            )
            clear[index] = limit + base > CLEAR_OF_HOST * CALL_S["decode"]
    return rows.assign(fitted=configuration_hash(rows) < CONFIGURATIONS_FITTED)[clear].reset_index(drop=True)


def parts(machine: str, rows: pd.DataFrame, kernels: Sequence[str]) -> list[Part]:
    """One part per kernel of ``kernels`` that the machine ran."""
    return [Part(machine, k, part) for k in kernels for part in [rows[rows["kernel"] == k]] if len(part)]


def fit(
    data: Sequence[Part],
    start: Fit,
    *,
    sigma: float,
    free_facts: Sequence[str] = (),
    hardware: Sequence[str] | None = None,
) -> Fit:
    """Hardware parameters (and the numbers of ``free_facts`` kernels) that fit measured rows; parts weigh alike.

    Args:
        data: parts of one or several machines.
        start: where to begin, and what unfitted numbers stay at.
        sigma: log-space width of the prior about ``start``.
        free_facts: kernels whose numbers are fitted too.
        hardware: names of hardware parameters to fit; default all of :data:`HARDWARE`.
    """
    phase, rng = start.phase, np.random.default_rng(0)
    sampled = [p.drawn(rng) for p in data]
    bounds = {f" {n}": HARDWARE[phase][n] for n in hardware or HARDWARE[phase]}
    for kernel in free_facts:
        bounds |= {f"{kernel} {n}": limits for n, limits in FACT_FIELDS[phase].get(kernel, {}).items()}
    keys = {key: key.split(" ") for key in bounds}
    origin = {
        key: float(getattr(start.facts[kernel] if kernel else start.parameters, name))
        for key, (kernel, name) in keys.items()
    }

    def build(values: Mapping[str, float]) -> Fit:
        def changed(kernel: str) -> dict[str, Any]:
            return {name: values[key] for key, (of, name) in keys.items() if of == kernel}

        facts = {**start.facts, **{k: replace(start.facts[k], **changed(k)) for k in free_facts}}
        return Fit(phase, replace(start.parameters, **changed("")), facts)

    def predict(values: Mapping[str, float]) -> Array:
        now = build(values)
        return np.concatenate([now.predict_s(p) for p in sampled])

    weights = np.concatenate([np.full(len(p.rows), 1.0 / max(len(p.rows) / EVEN_ROWS, 1.0)) for p in sampled])
    widths = {key: FACT_SIGMA if kernel else sigma for key, (kernel, _) in keys.items()}
    measured = np.concatenate([p.time_s for p in sampled])
    return build(fit_values(predict, origin, measured, bounds=bounds, sigma=widths, noise=NOISE, weights=weights))


def _eager(folder: Path, name: str, phase: Phase, joint: Fit, host_s: float) -> dict[str, Any]:
    """The section of a machine whose calls were timed from Python, from the rows that are its own."""
    rows = read(folder, name, phase)
    own = parts(find_machine(name).name, rows[rows["time_s"] > EAGER_CLEAR * host_s], ("xe2",))
    facts = {**joint.facts, "xe2": attention_facts("xe2")}
    found = fit([p.side(True) for p in own], replace(joint, facts=facts), sigma=MACHINE_SIGMA)
    about = {"source": f"aic_ops: {name} {phase}", "fitted_rows": sum(len(p.side(True).rows) for p in own)}
    return section(found.parameters, found.score([p.side(False) for p in own]), about)


COMMENTS: Final = (
    "kernel facts are in kernels/attention.toml.",
    "Source: NVIDIA aiconfigurator collector (aic_ops attention and mla tables, vLLM kernels in CUDA graphs).",
    "Split: half of the configurations (heads, KV heads, head_dim, window, KV format) fitted, the others scored.",
    "[*.residual]: errors in %, logs of measured / predicted, on the configurations left out; [*.<kernel>.residual]:",
    "the same per kernel. MLA is scored on whole layers.",
)


def run(folder: Path, catalogue: Path, phases: Sequence[Phase] = ("decode", "prefill", "mla")) -> None:
    """Fit every measured machine and family and write ``<machine>/attention.toml``; other phases' sections stay."""
    tables: dict[str, dict[str, Any]] = {}
    for phase in phases:
        names = (*COMMON_KERNELS[phase], *SPECIAL_KERNELS[phase])
        every = [p for machine in MEASURED for p in parts(machine, read(folder, machine, phase), names)]
        common = [p.side(True) for p in every if p.kernel in COMMON_KERNELS[phase]]
        # the share of a hot cache is a property of one cache: a fit over several machines leaves it at its default
        shared = [name for name in HARDWARE[phase] if name != "hot_frac"]
        joint = fit(common, start_of(phase), sigma=JOINT_SIGMA, hardware=shared)
        for name, members in (*((m, (m,)) for m in MEASURED), *FAMILIES.items()):
            mine = [p for p in common if p.machine in members]
            if not mine:
                continue
            own = joint if name == "generic" else fit(mine, joint, sigma=MACHINE_SIGMA)
            held = [p.side(False) for p in every if p.machine in members]
            rows = sum(len(p.rows) for p in mine)
            source = ", ".join(f"{m} {phase}" for m in members)
            made = section(own.parameters, own.score(held), {"source": f"aic_ops: {source}", "fitted_rows": rows})
            for kernel in dict.fromkeys(p.kernel for p in held if len(p.rows)):
                made[kernel] = {"residual": own.score([p for p in held if p.kernel == kernel])}
            if name in MEASURED:
                tables.setdefault(name, {})[phase] = made
            else:
                tables.setdefault("_families", {}).setdefault(name, {})[phase] = made
        for name, host_s in EAGER.items():
            if phase in host_s:
                tables.setdefault(find_machine(name).name, {})[phase] = _eager(
                    folder, name, phase, joint, host_s[phase]
                )
    for name, table in tables.items():
        title = (
            f"Attention parameters of {name if name in MEASURED else 'machine families, for machines never measured'};"
        )
        write(catalogue, name, "attention", merged(calibration_table(name, "attention"), table), [title, *COMMENTS])


if __name__ == "__main__":
    command(run)
