"""``steelyard calibrate --networks``: a device known by a few measured networks, of a searched space or of any kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import NETWORKS, option
from steelyard.errors import InputError
from steelyard.units import format_quantity as q

__all__ = ["Networks", "calibrate_networks"]


@Parameter(name="*")
@dataclass(frozen=True)
class Networks:
    """A device known by a few measured networks."""

    networks: Annotated[
        str,
        option("CSV of measured networks: network (of a space: architecture), latency_s or latency_ms", topic=NETWORKS),
    ] = ""
    runtime: Annotated[str, option("what ran them (default: the device's usual runtime)", topic=NETWORKS)] = ""
    precision: Annotated[str, option("arithmetic they ran in (default: the runtime's)", topic=NETWORKS)] = ""
    space: Annotated[str, option("nb201 or fbnet; alone: which ten networks to measure first", topic=NETWORKS)] = ""
    batch: Annotated[int, option("items of a pass that was measured (default: 1)", topic=NETWORKS)] = 1

    @property
    def said(self) -> bool:
        """Whether measured networks are meant."""
        return bool(self.networks or self.space)


def calibrate_networks(name: str, asked: Networks, out: str) -> tuple[dict[str, Any], Iterable[str]]:
    """The JSON document and the lines of the text."""
    from steelyard.calibrate.space_samples import device_of, left_out, suggested, write_device
    from steelyard.calibrate.toml_files import check_folder
    from steelyard.folders import folder_to_write
    from steelyard.workload.networks.search_space import find_space

    if not asked.space:
        return _any_networks(name, asked, out)
    if asked.runtime or asked.precision:
        raise InputError("networks of a space are of the device as it was measured", field="runtime")
    space = find_space(asked.space)
    if not asked.networks:
        first = suggested(space, None, 10)
        told = {"schema": "steelyard.calibrate_networks/1", "space": space.name, "measure_next": first}
        return told, ["architecture,seconds", *(f"{a}," for a in first)]
    if not name:
        raise InputError("--on DEVICE names the device that the networks were measured on", field="on")
    if not 1 <= asked.batch <= 10**9:
        raise InputError(f"expected at least 1, got {asked.batch}", field="batch")
    check_folder(folder_to_write(out))
    device = device_of(name, space, asked.networks, asked.batch)
    found, following = left_out(device), suggested(space, device)
    path = write_device(device, out)
    document = {
        "schema": "steelyard.calibrate_networks/1",
        "device": device.name,
        "space": space.name,
        "batch": device.batch,
        "networks": len(device.timed),
        "left_out": {"median_ape": found.median_ape, "rank": found.rank, "interval80": found.inside},
        "noise_frac": found.noise,
        "rows": [
            {"architecture": t.architecture, "measured_s": t.seconds, "predicted_s": p}
            for t, p in zip(device.timed, found.predicted_s, strict=True)
        ],
        "measure_next": following,
        "files": [str(path)],
    }
    worst = sorted(
        zip(device.timed, found.predicted_s, strict=True), key=lambda row: -abs(row[1] / row[0].seconds - 1)
    )[:3]
    prefix = f"STEELYARD_CATALOGUE={out} " if out else ""
    return document, [
        f"{device.name}: {len(device.timed)} networks of {space.title}, batch {device.batch}",
        f"  each predicted from the others: median error {found.median_ape:.1f} %, rank {found.rank:.3f}, "
        f"{100 * found.inside:.0f} % inside the 80 % interval",
        f"  a measurement scatters by about {100 * found.noise:.1f} %",
        "  furthest off: "
        + ", ".join(f"{t.architecture} {q(t.seconds, 's')} (predicted {q(p, 's')})" for t, p in worst[:1]),
        "  measure next, for what is known least:",
        *(f"    {a}" for a in following),
        f"wrote {path}",
        f"use it: {prefix}steelyard estimate '{space.name}:{space.example}' --on {device.name}",
    ]


def _any_networks(name: str, asked: Networks, out: str) -> tuple[dict[str, Any], Iterable[str]]:
    """A runtime's scales on a device from networks of any kind."""
    from steelyard.calibrate.own_reach import fit_own_reach, read_networks, write_reach
    from steelyard.calibrate.toml_files import check_folder
    from steelyard.deployment.runtime import check_runs, find_runtime, precision_named, usual_runtime
    from steelyard.folders import folder_to_write
    from steelyard.machine.catalogue import find_machine
    from steelyard.machine.cluster import cluster_of
    from steelyard.scenario.network import usual_precision

    if not name:
        raise InputError("--on MACHINE names the machine that the networks were measured on", field="on")
    if asked.batch != 1:
        raise InputError("of networks of any kind the batch is a column of the file", field="batch")
    machine = find_machine(name)
    runtime = find_runtime(asked.runtime) if asked.runtime else usual_runtime(machine)
    check_runs(runtime, machine)
    usual = usual_precision(cluster_of(machine), runtime.precision)
    precision = precision_named(asked.precision) if asked.precision else usual
    check_folder(folder_to_write(out))
    fit = fit_own_reach(read_networks(asked.networks), machine, runtime, precision)
    path = write_reach(fit, runtime, out)
    scale = dict(zip(("arithmetic", "traffic", "kernels"), fit.reach.scale[machine.name], strict=True))
    document = {
        "schema": "steelyard.calibrate_networks/1",
        "device": machine.name,
        "runtime": runtime.name,
        "precision": precision.name,
        "networks": len(fit.networks),
        "scale": scale,
        "before_mean_ape": fit.before,
        "left_out_mean_ape": fit.after,
        "spread": fit.reach.spread,
        "rows": [
            {"network": n, "measured_s": m, "predicted_s": p}
            for n, m, p in zip(fit.networks, fit.measured_s, fit.predicted_s, strict=True)
        ],
        "files": [str(path)],
    }
    worst = max(
        zip(fit.networks, fit.measured_s, fit.predicted_s, strict=True), key=lambda row: abs(row[2] / row[1] - 1.0)
    )
    prefix = f"STEELYARD_CATALOGUE={out} " if out else ""
    return document, [
        f"{machine.title}: {len(fit.networks)} networks under {runtime.title}, {precision.name}",
        f"  mean error {fit.before:.1f} % as shipped, {fit.after:.1f} % with each network predicted from the others",
        "  its own over the runtime's: " + ", ".join(f"{n} x{v:.2f}" for n, v in scale.items()),
        f"  furthest off: {worst[0]} {q(worst[1], 's')} (predicted {q(worst[2], 's')})",
        f"wrote {path}",
        f"use it: {prefix}steelyard estimate {fit.networks[0]} --on {machine.name} --runtime {runtime.name}"
        + ("" if precision == usual else f" --precision {precision.name}"),
    ]
