"""Training on devices of several kinds, as JSON and as text: who takes how much, who waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.report.paper import columns, styled

if TYPE_CHECKING:
    from steelyard.training.estimate import TrainEstimate

__all__ = ["parts", "to_dict"]


def to_dict(found: TrainEstimate) -> list[dict[str, Any]]:
    """The part ``kinds`` of ``steelyard.train/1``; empty where all devices are of one kind."""
    return [
        {
            "machine": k.cluster.machine.name,
            "devices": k.cluster.count,
            "plan": k.plan.to_dict(),
            "sequences": k.plan.gbs,
            "layers": k.layers,
            "busy_s": k.busy_s,
            "waits_s": max(0.0, found.step_s - k.busy_s),
            "energy_j": k.energy_j,
            "rent_usd_per_hour": k.rent_usd_per_hour,
            "capacity_bytes": k.capacity_bytes,
            "peak_memory_bytes": max(s.reserved_bytes for s in k.stages),
            "memory_bytes": [{"layers": s.layers, **s.parts, "reserved": s.reserved_bytes} for s in k.stages],
        }
        for k in found.kinds
    ]


def parts(found: TrainEstimate) -> list[Any]:
    """A table of the kinds; nothing where all devices are of one."""
    if not found.kinds:
        return []
    stages = found.across == "stages"
    heads = ["devices", "layout", "layers" if stages else "sequences", "busy", "memory", "W each", "USD/h"]
    rows = []
    for k in found.kinds:
        rent = k.rent_usd_per_hour
        rows.append(
            [
                str(k.cluster),
                f"{k.plan.shape}, zero {k.plan.zero}",
                f"{k.layers:g}" if stages else f"{k.plan.gbs:,}",
                f"{k.busy_s / found.step_s:.0%}",
                f"{k.fullest:.0%}",
                f"{k.energy_j / found.step_s / k.cluster.count:,.0f}",
                "-" if rent is None else f"{rent:,.2f}",
            ]
        )
    how = "stages of the same replicas" if stages else "replicas of each kind share a step"
    return ["", styled((how, "bold")), columns(heads, rows, numeric=heads[2:])]
