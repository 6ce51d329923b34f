"""Fit the collective parameters of each machine and write its catalogue file with the held-out score.

Rows: captured-graph or kernel times only (eager rows carry host jitter). Split: messages of 4^k KiB are fitted, the
sizes between are scored; then whole device counts are left out, then whole machines.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from steelyard.cost.collective import CollectiveParameters, Fabric, collective_time_s
from steelyard.measurements import comm

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]

FABRICS: Final[dict[str, Fabric]] = {
    "a100_sxm": Fabric("nvlink3", 300e9),
    "h100_sxm": Fabric("nvlink4", 450e9, multicast=True),
    "h200_sxm": Fabric("nvlink4", 450e9, multicast=True),
    "b200_sxm": Fabric("nvlink5", 900e9, multicast=True),
    "l40s": Fabric("pcie4", 32e9, switched=False, kind="pcie"),
    "v100_pcie": Fabric("pcie3", 16e9, switched=False, kind="pcie"),
}
FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "hopper": ("h100_sxm", "h200_sxm"),
    "blackwell": ("b200_sxm",),
    "ampere": ("a100_sxm",),
    "nvlink": ("a100_sxm", "h100_sxm", "b200_sxm"),
    "ada": ("l40s",),
    "pcie": ("l40s", "v100_pcie"),
    "generic": ("a100_sxm", "h100_sxm", "b200_sxm"),
}
SHARED: Final = {"local_step_frac": 0.6, "blend": 0.9, "ll128_step_ratio": 1.35, "ll_efficiency": 0.06}
"""Held for every NVLink machine: freeing them changes the held-out mean by 0.1 points or less."""
NCCL_NAMES: Final = (
    "launch_s",
    "step_s",
    "simple_step_ratio",
    "simple_fixed_s",
    "peer_fixed_s",
    "ll128_efficiency",
    "simple_efficiency",
    "nvls_launch_s",
    "nvls_efficiency",
)
PCIE_NAMES: Final = (
    "launch_s",
    "step_s",
    "simple_step_ratio",
    "simple_fixed_s",
    "peer_fixed_s",
    "ll_efficiency",
    "simple_efficiency",
    "blend",
    "contention",
    "local_step_frac",
)
CUSTOM_NAMES: Final = (
    "custom_launch_s",
    "custom_peer_s",
    "custom_efficiency",
    "two_shot_launch_s",
    "two_shot_peer_s",
    "multimem_launch_s",
    "multimem_efficiency",
)
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "simple_step_ratio": (1.0, 20.0),
    "ll_efficiency": (0.02, 0.5),
    "ll128_efficiency": (0.05, 0.94),
    "simple_efficiency": (0.05, 0.98),
    "blend": (0.4, 2.0),
    "nvls_efficiency": (0.1, 1.0),
    "contention": (1e-3, 2.5),
    "local_step_frac": (0.01, 1.5),
    "custom_efficiency": (0.1, 1.0),
    "multimem_efficiency": (0.1, 1.0),
}
TIME_BOUNDS: Final = (1e-8, 1e-3)
PRIOR_WEIGHT: Final = 0.02
"""Pull of each log parameter to its default, in units of log error (keeps unseen parameters where they were)."""
SMALLEST_BYTES: Final = 1024.0
LARGEST_BYTES: Final = 2.0**30
OTHER_HOST: Final = {"l40s": ("0.5.12",)}
"""Versions measured on another server (peers behind PCIe switches, ten times the bandwidth): not this fabric."""


def rows_of(table: pd.DataFrame, machine: str) -> pd.DataFrame:
    """The rows of one machine inside one node, captured, 1 KiB to 1 GiB."""
    keep = (table["machine"] == machine) & ~table["eager"] & (table["devices"] <= table["devices_per_node"])
    keep &= (table["message_bytes"] >= SMALLEST_BYTES) & (table["message_bytes"] <= LARGEST_BYTES)
    keep &= table["source"] == ("apex" if machine == "v100_pcie" else "aiconfigurator")
    keep &= ~table["version"].isin(OTHER_HOST.get(machine, ()))
    return table[keep].reset_index(drop=True)


def predict(rows: pd.DataFrame, fabric: Fabric, parameters: CollectiveParameters) -> FloatArray:
    """Predicted times of the rows, s."""
    out = np.empty(len(rows))
    for (operation, library), index in rows.groupby(["operation", "library"]).indices.items():
        part = rows.iloc[index]
        out[index] = collective_time_s(
            str(operation),
            part["message_bytes"].to_numpy(float),
            part["devices"].to_numpy(float),
            fabric=fabric,
            parameters=parameters,
            library=str(library),
        )
    return out


def fit_names(
    rows: pd.DataFrame, fabric: Fabric, start: CollectiveParameters, names: Sequence[str]
) -> CollectiveParameters:
    """Least squares on log error (soft L1), parameters in log space, with a weak pull to the start."""
    from scipy.optimize import least_squares

    low = np.log([BOUNDS.get(name, TIME_BOUNDS)[0] for name in names])
    high = np.log([BOUNDS.get(name, TIME_BOUNDS)[1] for name in names])
    first = np.clip(np.log([max(getattr(start, name), 1e-9) for name in names]), low + 1e-3, high - 1e-3)
    truth = np.log(rows["time_s"].to_numpy(float))
    pull = PRIOR_WEIGHT * np.sqrt(len(rows))

    def build(x: FloatArray) -> CollectiveParameters:
        return replace(start, **{name: float(np.exp(v)) for name, v in zip(names, x, strict=True)})

    def residual(x: FloatArray) -> FloatArray:
        error = np.log(predict(rows, fabric, build(x))) - truth
        return np.concatenate([error, pull * 0.1 * (x - first)])

    found = least_squares(residual, first, bounds=(low, high), loss="soft_l1", f_scale=0.1, diff_step=1e-3, max_nfev=60)
    return build(found.x)


def fit_machine(rows: pd.DataFrame, fabric: Fabric) -> CollectiveParameters:
    """NCCL first, then the peer-pointer kernels given NCCL."""
    nvlink = fabric.kind == "nvlink"
    start = CollectiveParameters()
    if nvlink:
        start = replace(start, **SHARED)
        names = [n for n in NCCL_NAMES if fabric.multicast or not n.startswith("nvls")]
    else:
        start = replace(
            start, contention=0.5, ll_efficiency=0.3, **{k: v for k, v in SHARED.items() if k != "ll_efficiency"}
        )
        names = list(PCIE_NAMES)
    nccl = rows["library"] == "nccl"
    fitted = fit_names(rows[nccl].reset_index(drop=True), fabric, start, names)
    custom = rows[~nccl & (rows["message_bytes"] <= 2.0**27)].reset_index(drop=True)
    if len(custom):
        names = [n for n in CUSTOM_NAMES if fabric.multicast or not n.startswith("multimem")]
        fitted = fit_names(custom, fabric, fitted, names)
    return fitted


def mean_parameters(sets: Sequence[CollectiveParameters]) -> CollectiveParameters:
    """Geometric mean, parameter by parameter."""
    values = {
        f.name: float(np.exp(np.mean([np.log(max(getattr(p, f.name), 1e-12)) for p in sets])))
        for f in fields(CollectiveParameters)
    }
    return CollectiveParameters(**values)


def score(truth_s: FloatArray, predicted_s: FloatArray) -> dict[str, float]:
    """Mean, median and p90 absolute error in %, bias and log spread with its 10th and 90th percentile."""
    ratio = np.log(predicted_s / truth_s)
    ape = np.abs(predicted_s / truth_s - 1.0) * 100.0
    return {
        "rows": float(len(ape)),
        "mean_ape": float(ape.mean()),
        "median_ape": float(np.median(ape)),
        "p90_ape": float(np.percentile(ape, 90)),
        "log_bias": float(ratio.mean()),
        "log_std": float(ratio.std()),
        "log_low10": float(np.percentile(-ratio, 10)),
        "log_high90": float(np.percentile(-ratio, 90)),
    }


def between(left_out: Mapping[str, float], own: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The residual of a family of one lineage: its spread lies between its members' own and that of other lineages."""
    mixed = dict(left_out)
    for name in ("log_std", "log_low10", "log_high90"):
        mixed[name] = 0.5 * (left_out[name] + float(np.mean([o[name] for o in own])))
    mixed["log_bias"] = 0.0
    return mixed


def parameter_lines(
    parameters: object, residual: Mapping[str, float], provenance: Mapping[str, str], prefix: str = ""
) -> list[str]:
    """TOML tables [parameters], [residual], [provenance], each under an optional dotted prefix.

    log_low10 and log_high90 are percentiles of log(measured / predicted): the interval is predicted * exp(them).
    """
    lines = [f"\n[{prefix}parameters]"]
    lines += [f"{f.name} = {float(getattr(parameters, f.name)):.4g}" for f in fields(parameters)]  # type: ignore[arg-type]
    lines.append(f"\n[{prefix}residual]")
    lines += [f"{name} = {value:.4g}" for name, value in residual.items()]
    lines.append(f"\n[{prefix}provenance]")
    lines += [f'{name} = "{value}"' for name, value in provenance.items()]
    return lines


def write_lines(path: Path, comments: Sequence[str], lines: Sequence[str]) -> None:
    """A catalogue file: comments, then tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*(f"# {c}" for c in comments), *lines]) + "\n", encoding="utf-8")


def even_size(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """The fitted half: messages whose log2 is even."""
    return np.asarray(np.round(np.log2(rows["message_bytes"].to_numpy(float))).astype(int) % 2 == 0)


def run(data: Path, catalogue: Path, report: bool = True) -> dict[str, CollectiveParameters]:
    """Fit, score and write every machine and family."""
    table = comm.read_all(data)
    fitted: dict[str, CollectiveParameters] = {}
    residuals: dict[str, dict[str, float]] = {}
    for machine, fabric in FABRICS.items():
        rows = rows_of(table, machine)
        half = even_size(rows)
        fitted[machine] = fit_machine(rows[half].reset_index(drop=True), fabric)
        rest = rows[~half].reset_index(drop=True)
        residuals[machine] = score(rest["time_s"].to_numpy(float), predict(rest, fabric, fitted[machine]))
        source = "apex_comm" if machine == "v100_pcie" else "aic_ops/comm_all_systems"
        write_lines(
            catalogue / machine / "collective.toml",
            [
                f"Collectives of {machine} over {fabric.name}, fitted on {source}: {int(half.sum())} rows.",
                "Split: log2(message bytes) even fitted, odd scored; 2, 4 and 8 devices; 1 KiB to 1 GiB; captured.",
                "Held out: mean {mean_ape:.1f} %, median {median_ape:.1f} %, p90 {p90_ape:.1f} %.".format(
                    **residuals[machine]
                ),
            ],
            parameter_lines(
                fitted[machine], residuals[machine], {"source": source, "fabric": fabric.name, "kind": "fitted"}
            ),
        )
        if report:
            print(machine, {k: round(v, 3) for k, v in residuals[machine].items()})
    lines: list[str] = []
    sets = {family: mean_parameters([fitted[m] for m in members]) for family, members in FAMILIES.items()}
    for family in ("pcie", "ada"):
        sets[family] = replace(sets[family], contention=PCIE_CONTENTION)
    sets["infinity_fabric"] = replace(
        fitted["a100_sxm"], launch_s=1.0e-5, step_s=1.5e-6, simple_efficiency=0.7, nvls_efficiency=0.65
    )
    for family, parameters in sets.items():
        members = FAMILIES.get(family, ())
        residual = left_out_score(table, fitted, members, parameters, nvlink=family not in ("pcie", "ada"))
        if family in ("hopper", "blackwell", "ampere"):
            residual = between(residual, [residuals[m] for m in members])
        named = ", ".join(members) or "none: a guess from a100_sxm; RCCL reaches about 310 of 448 GB/s on eight MI300X"
        lines += parameter_lines(parameters, residual, {"members": named, "kind": "borrowed"}, prefix=f"{family}.")
        if report:
            print("family", family, {k: round(v, 3) for k, v in residual.items()})
    write_lines(
        catalogue / "_families" / "collective.toml",
        [
            "Collectives of machines never measured: geometric means of the fitted machines of a family.",
            "Source: aic_ops/comm_all_systems, apex_comm. Residual: every measured machine of the same link kind,",
            "predicted without itself. contention of pcie is a guess between one server with and one without switches.",
        ],
        lines,
    )
    return fitted


PCIE_CONTENTION: Final = 0.3
"""Guess: one PCIe server measured 2 (two sockets, no switch), two measured 0."""


def left_out_score(
    table: pd.DataFrame,
    fitted: Mapping[str, CollectiveParameters],
    members: Sequence[str],
    parameters: CollectiveParameters,
    nvlink: bool,
) -> dict[str, float]:
    """Score of predicting each machine of the link kind from machines of other fabrics."""
    parts = []
    for machine, fabric in FABRICS.items():
        if (fabric.kind == "nvlink") != nvlink:
            continue
        others = [fitted[m] for m in members if FABRICS[m] != fabric]
        if not others:
            others = [p for m, p in fitted.items() if FABRICS[m].kind == fabric.kind and FABRICS[m] != fabric]
        rows = rows_of(table, machine)
        left_out = replace(mean_parameters(others), contention=parameters.contention)
        parts.append((rows["time_s"].to_numpy(float), predict(rows, fabric, left_out)))
    return score(np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts]))


def main() -> None:
    """Command line: data folder (holding truth/) and catalogue folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, default=Path(__file__).parents[1] / "catalogue" / "calibration")
    arguments = parser.parse_args()
    run(arguments.data, arguments.catalogue)


if __name__ == "__main__":
    main()
