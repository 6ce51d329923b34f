"""Fit the vector-kernel parameters of each machine and write catalogue files with held-out scores.

Split: a random half of the rows (seed 0). Each source adds a constant of its own (host launch, timer): fitted next to
the machine's parameters, reported, and kept out of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from steelyard.calibrate.fit_collective import parameter_lines, score, write_lines
from steelyard.cost.devices import vector_device
from steelyard.cost.site import site_of
from steelyard.cost.vector import VectorDevice, VectorParameters, vector_time_s
from steelyard.deployment.formats import widest
from steelyard.machine.catalogue import find_machine
from steelyard.measurements import vector_ops

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]

MEASURED: Final = (
    "a100_pcie_40gb",
    "a100_pcie",
    "a100_sxm",
    "h100_sxm",
    "a40",
    "l4",
    "t4",
    "v100_pcie",
    "p100_pcie",
    "p4",
    "mi210",
    "mi100",
)


def device_of(machine: str) -> VectorDevice:
    """The catalogue's figures of a measured machine."""
    where = find_machine(machine)
    engine, compute = widest(where)
    return vector_device(site_of(where, engine.name, compute))


FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "ampere": ("a100_pcie_40gb", "a100_pcie", "a100_sxm"),
    "ampere_graphics": ("a40",),
    "hopper": ("h100_sxm", "a100_pcie"),
    "blackwell": ("h100_sxm", "a100_pcie"),
    "ada": ("l4",),
    "blackwell_graphics": ("l4", "a40"),
    "turing": ("t4",),
    "volta": ("v100_pcie",),
    "pascal": ("p100_pcie", "p4"),
    "cdna1": ("mi100",),
    "cdna2": ("mi210",),
    "cdna3": ("mi100", "mi210"),
    "cdna4": ("mi100", "mi210"),
    "generic": ("a100_pcie", "h100_sxm", "l4", "v100_pcie", "t4", "mi210"),
}
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "launch_s": (1e-6, 8e-6),
    "efficiency": (0.3, 0.93),
    "l2_efficiency": (0.3, 1.0),
    "hot_frac": (0.1, 1.2),
    "row_s": (1e-7, 2e-5),
    "unit_stream_bytes_per_s": (2e10, 3e11),
    "unaligned_efficiency": (0.5, 1.0),
    "arithmetic_efficiency": (0.1, 1.0),
}
OVERHEAD_BOUNDS: Final = (1e-7, 8e-5)
FIRST_OVERHEAD: Final = {"neusight": 1.5e-5, "vidur": 2e-7}
EAGER_OVERHEAD_S: Final = 3.0e-5
PRIOR_WEIGHT: Final = 0.03
"""Pull of each log parameter to the start, in units of log error per row."""
FIT_ROWS: Final = 1500


def predict(
    rows: pd.DataFrame, device: VectorDevice, parameters: VectorParameters, overhead_s: Mapping[str, float]
) -> FloatArray:
    """Predicted times, s, with the source's own constant."""
    out = np.empty(len(rows))
    for (kind, source), index in rows.groupby(["kind", "source"]).indices.items():
        part = rows.iloc[index]
        by_rows = str(kind).split("_")[0] in ("norm", "softmax")
        out[index] = overhead_s.get(str(source), 0.0) + vector_time_s(
            part["read_bytes"].to_numpy(float),
            part["write_bytes"].to_numpy(float),
            part["flops"].to_numpy(float),
            device=device,
            parameters=parameters,
            rows=part["rows"].to_numpy(float) if by_rows else None,
            kind=str(kind),
            cold=source == "neusight",
        )
    return out


def fit(rows: pd.DataFrame, device: VectorDevice) -> tuple[VectorParameters, dict[str, float]]:
    """Least squares on log error (soft L1) over the machine's parameters and each source's constant."""
    from scipy.optimize import least_squares

    start = VectorParameters()
    names = list(BOUNDS)
    sources = sorted(set(rows["source"]))
    limits = [BOUNDS[n] for n in names] + [OVERHEAD_BOUNDS] * len(sources)
    low, high = (np.log([pair[side] for pair in limits]) for side in (0, 1))
    values = [getattr(start, n) for n in names] + [FIRST_OVERHEAD.get(s, EAGER_OVERHEAD_S) for s in sources]
    first = np.clip(np.log(values), low + 1e-3, high - 1e-3)
    truth = np.log(rows["time_s"].to_numpy(float))
    pull = PRIOR_WEIGHT * 0.1 * np.sqrt(len(rows))

    def build(x: FloatArray) -> tuple[VectorParameters, dict[str, float]]:
        found = np.exp(x)
        parameters = replace(start, **{n: float(v) for n, v in zip(names, found, strict=False)})
        return parameters, {s: float(v) for s, v in zip(sources, found[len(names) :], strict=True)}

    def residual(x: FloatArray) -> FloatArray:
        parameters, overhead = build(x)
        return np.concatenate([np.log(predict(rows, device, parameters, overhead)) - truth, pull * (x - first)])

    found = least_squares(
        residual, first, bounds=(low, high), loss="soft_l1", f_scale=0.05, diff_step=1e-3, max_nfev=80
    )
    return build(found.x)


def mean_parameters(sets: Sequence[VectorParameters]) -> VectorParameters:
    """Geometric mean, parameter by parameter."""
    return VectorParameters(
        **{f.name: float(np.exp(np.mean([np.log(getattr(p, f.name)) for p in sets]))) for f in fields(VectorParameters)}
    )


def run(data: Path, catalogue: Path) -> None:
    """Fit, score and write every machine, then the families."""
    table = vector_ops.read_all(data)
    fitted: dict[str, VectorParameters] = {}
    overheads: dict[str, dict[str, float]] = {}
    for machine, device in ((m, device_of(m)) for m in MEASURED):
        rows = table[table["machine"] == machine].reset_index(drop=True)
        half = np.random.default_rng(0).random(len(rows)) < 0.5
        train = (
            rows[half]
            .groupby("source")
            .sample(frac=1.0, random_state=1)
            .groupby("source")
            .head(FIT_ROWS)
            .reset_index(drop=True)
        )
        fitted[machine], overheads[machine] = fit(train, device)
        test = rows[~half].reset_index(drop=True)
        answer = predict(test, device, fitted[machine], overheads[machine])
        residual = score(test["time_s"].to_numpy(float), answer)
        ape = np.abs(answer / test["time_s"].to_numpy(float) - 1.0) * 100.0
        split = {f"{s} {k}": f"{ape[i].mean():.1f}" for (s, k), i in test.groupby(["source", "kind"]).indices.items()}
        provenance = {
            "source": ", ".join(sorted(set(rows["source"]))),
            "kind": "fitted",
            "split": "random half of the rows",
        }
        provenance |= {f"overhead_s_{s}": f"{v:.3g}" for s, v in overheads[machine].items()}
        provenance |= {f"held_out_mean_ape_{name.replace(' ', '_')}": value for name, value in split.items()}
        write_lines(
            catalogue / machine / "vector.toml",
            [
                f"Vector kernels of {machine}: {len(train)} rows fitted, {len(test)} scored.",
                "Held out: mean {mean_ape:.1f} %, median {median_ape:.1f} %, p90 {p90_ape:.1f} %.".format(**residual),
                "overhead_s_*: constant of the source's timing, not part of the parameters.",
            ],
            parameter_lines(fitted[machine], residual, provenance),
        )
        shown = {f.name: float(f"{getattr(fitted[machine], f.name):.2g}") for f in fields(VectorParameters)}
        print(machine, len(test), f"{residual['mean_ape']:.1f}", split, shown, overheads[machine], flush=True)
    write_families(catalogue, table, fitted, overheads)


def write_families(
    catalogue: Path,
    table: pd.DataFrame,
    fitted: Mapping[str, VectorParameters],
    overheads: Mapping[str, Mapping[str, float]],
) -> None:
    """Family files; the residual is of machines outside the family (of its members, for a family of one kind)."""
    lines: list[str] = []
    for family, members in FAMILIES.items():
        truth, answer = [], []
        for machine, device in ((m, device_of(m)) for m in MEASURED):
            use = [fitted[m] for m in members if m != machine]
            if not use:
                continue
            rows = table[table["machine"] == machine]
            rows = rows.sample(min(800, len(rows)), random_state=2).reset_index(drop=True)
            truth.append(rows["time_s"].to_numpy(float))
            answer.append(predict(rows, device, mean_parameters(use), overheads[machine]))
            if family == "generic":
                ape = np.abs(answer[-1] / truth[-1] - 1.0) * 100.0
                print("left out", machine, f"{ape.mean():.1f} / {np.median(ape):.1f}")
        residual = score(np.concatenate(truth), np.concatenate(answer))
        parameters = mean_parameters([fitted[m] for m in members])
        lines += parameter_lines(
            parameters, residual, {"members": ", ".join(members), "kind": "borrowed"}, prefix=f"{family}."
        )
        print("family", family, {k: round(v, 3) for k, v in residual.items()})
    write_lines(
        catalogue / "_families" / "vector.toml",
        [
            "Vector kernels of machines never measured: geometric means of the fitted machines of a family.",
            "Residual: every machine predicted without itself from the family's members.",
        ],
        lines,
    )


def main() -> None:
    """Command line: data folder (holding truth/) and catalogue folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, default=Path(__file__).parents[1] / "catalogue" / "calibration")
    arguments = parser.parse_args()
    run(arguments.data, arguments.catalogue)


if __name__ == "__main__":
    main()
