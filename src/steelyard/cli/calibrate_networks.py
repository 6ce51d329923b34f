"""``steelyard calibrate --networks``: a device known by a few measured networks of a searched space."""

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
    """A device known by a few networks of a searched space."""

    networks: Annotated[
        str, option("CSV of measured networks: architecture, seconds (or latency_ms)", topic=NETWORKS)
    ] = ""
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
    from steelyard.workload.networks.search_space import SPACES, find_space

    if not asked.space:
        raise InputError(f"--space says whose networks they are: {', '.join(SPACES)}", field="space")
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
