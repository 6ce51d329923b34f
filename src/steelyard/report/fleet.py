"""The answer for mixed fleets as sentences and as JSON."""

from __future__ import annotations

import math
from typing import Any

from steelyard.deployment.plan import DEGREES
from steelyard.scenario.fields import PRICE
from steelyard.search.describe import UNITS
from steelyard.search.fleet import Fleet, FleetAnswer

__all__ = ["lines", "to_dict"]

#: Routes named before the rest is only counted.
NAMED = 12


def lines(answer: FleetAnswer) -> list[str]:
    """The answer, one sentence a line: the fleet, what it holds, its routes, the fleets of one type beside it."""
    unit = UNITS[answer.question.objective]
    if answer.winner is None:
        said = ["no fleet meets the SLO"]
        if answer.infeasible is not None:
            said += [answer.infeasible.reason, *(f"nearest: {c.text}" for c in answer.infeasible.nearest)]
        return said
    said = [*answer.why, _slo_line(answer, answer.winner)]
    said += _routes(answer.winner)
    for name, fleet in answer.singles.items():
        said.append(f"{name} alone: " + (f"{fleet.shape}, {fleet.value:,.2f} {unit}" if fleet else "misses the SLO"))
    left = [n for n in answer.screened if n not in answer.singles]
    said += [
        f"{n} alone: not played, "
        + (
            "it cannot carry the traffic"
            if math.isinf(answer.screened[n])
            else f"{answer.screened[n]:,.2f} {unit} by the screen"
        )
        for n in left
    ]
    said.append(
        f"{answer.types} types ({answer.weighed:,} weighed), {answer.buckets} buckets in {answer.groups} groups; "
        f"{answer.programs} integer programs in {answer.program_s:.1f} s, gap {answer.gap_frac:.2%}; "
        f"{answer.played} fleets played in {answer.play_s:.1f} s"
    )
    return said


def _slo_line(answer: FleetAnswer, fleet: Fleet) -> str:
    values = [(t, fleet.slo_values[t.metric]) for t in answer.question.targets]
    held = ", ".join(
        f"{t.metric.removesuffix('_s').upper()} {t.label} {value:.3g} s (SLO {t.limit_s:.3g} s)" for t, value in values
    )
    return f"simulated: {held}" if held else "simulated without an SLO"


def _routes(fleet: Fleet) -> list[str]:
    """Neighbouring routes with the same pools as one line."""
    names = [f"{p.machine} tp{p.plan.tp}" for p in fleet.deployment.pools]
    if len(names) == 1:
        return []
    joined: list[tuple[int, int, float, str]] = []
    for route in sorted(fleet.routes, key=lambda r: r.prompts):
        where = " and ".join(
            f"{share:.0%} to {name}" if share < 0.995 else f"to {name}"
            for name, share in zip(names, route.pools, strict=True)
            if share > 0.005
        )
        low, high = route.prompts
        if joined and joined[-1][3] == where:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high), joined[-1][2] + route.share, where)
        else:
            joined.append((low, high, route.share, where))
    said = [f"prompts of {a:,} to {b:,} tokens ({share:.0%}): {where}" for a, b, share, where in joined[:NAMED]]
    return said + ([f"and {len(joined) - NAMED} more routes"] if len(joined) > NAMED else [])


def to_dict(answer: FleetAnswer) -> dict[str, Any]:
    """The answer ready for JSON, ``steelyard.fleet/1``."""
    return {
        "schema": "steelyard.fleet/1",
        "winner": None if answer.winner is None else _fleet(answer.winner),
        "singles": {n: None if f is None else _fleet(f) for n, f in answer.singles.items()},
        "screened": {n: None if math.isinf(v) else v for n, v in answer.screened.items()},
        "saving_frac": answer.saving_frac,
        "infeasible": None
        if answer.infeasible is None
        else {
            "reason": answer.infeasible.reason,
            "nearest": [{"text": c.text, "name": c.name, "value": c.value} for c in answer.infeasible.nearest],
        },
        "types": answer.types,
        "weighed": answer.weighed,
        "buckets": answer.buckets,
        "groups": answer.groups,
        "program": {
            "value": _finite(answer.program_value),
            "bound": _finite(answer.bound),
            "gap_frac": answer.gap_frac,
            "solved": answer.programs,
            "wall_s": answer.program_s,
        },
        "played": answer.played,
        "play_s": answer.play_s,
        "wall_s": answer.wall_s,
        "cpu_s": answer.cpu_s,
        "why": list(answer.why),
        "inputs": dict(answer.inputs),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _fleet(fleet: Fleet) -> dict[str, Any]:
    return {
        "shape": fleet.shape,
        "devices": fleet.devices,
        "value": fleet.value,
        PRICE: fleet.rent_usd_per_hour,
        "usd_per_million_tokens": fleet.usd_per_million_tokens,
        "watts": fleet.watts,
        "meets": fleet.meets,
        "promised": {k: _finite(v) for k, v in fleet.slo_values.items()},
        "percentiles": {m: {k: _finite(v) for k, v in row.items()} for m, row in fleet.percentiles.items()},
        "pools": [
            {
                "machine": p.machine,
                "replicas": p.replicas,
                "devices": p.devices,
                **{name: size for name, size in p.plan.degrees.items() if name in DEGREES[:2]},
                "engine": p.plan.engine,
                **dict(p.flags),
            }
            for p in fleet.deployment.pools
        ],
        "routing": fleet.routing,
        "routes": [
            {"prompts": list(r.prompts), "answers": list(r.outputs), "share": r.share, "pools": list(r.pools)}
            for r in fleet.routes
        ],
    }
