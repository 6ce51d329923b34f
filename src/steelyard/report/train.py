"""A training estimate: as JSON (``steelyard.train/1``), a flat row, and a report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from steelyard.report import train_kinds, train_rewarded, train_run
from steelyard.report.paper import (
    Line,
    bullets,
    columns,
    figure,
    fitting,
    grid,
    lines_table,
    render,
    shares_table,
    span,
    styled,
)
from steelyard.report.plain import plain
from steelyard.training.columns import chances, columns_of, layout_of
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.search.why_not import WhyNot
    from steelyard.training.estimate import TrainEstimate

__all__ = [
    "SCHEMA",
    "WERE_IT",
    "files",
    "flat",
    "parts",
    "rate_lines",
    "remedy",
    "report",
    "shortfall",
    "summary",
    "title",
    "to_dict",
]

SCHEMA = "steelyard.train/1"
#: What stands before the times of a layout that does not fit.
WERE_IT = "were it to fit:"


def to_dict(found: TrainEstimate) -> dict[str, Any]:
    """The answer in the form ``steelyard.train/1``: SI units, nothing that is not finite."""
    from steelyard.training.estimate import provenance_of

    s = found.scenario
    machine, plan = s.cluster.machine, s.plan
    low, high = found.interval["step_s"]
    framework = plan.framework
    document = {
        "schema": SCHEMA,
        "model": s.model.name,
        "machine": {
            "name": machine.name,
            "title": machine.title,
            "count": s.cluster.count,
            "per_node": int(s.cluster.per_node),
            "nodes": int(s.cluster.node_count),
        },
        "plan": plan.to_dict(),
        "layout": layout_of(found),
        "fits": found.fits,
        "why_not": _named(found),
        "would_fit": [
            {
                "change": one.words,
                "peak_memory_bytes": one.found.stages[one.found.peak_stage].reserved_bytes,
                "step_s": one.found.step_s,
                "tokens_per_s_per_device": one.found.tokens_per_s_per_device,
            }
            for one in found.would_fit
        ],
        "step_s": {"value": found.step_s, "low": low, "high": high},
        "tokens_per_step": found.tokens_per_step,
        "tokens_per_s": found.tokens_per_s,
        "tokens_per_s_per_device": found.tokens_per_s_per_device,
        "model_tflops_per_device": found.model_tflops_per_device,
        "mfu_frac": found.mfu_frac,
        "hfu_frac": found.hfu_frac,
        "breakdown_s": dict(found.breakdown_s),
        "memory_bytes": [
            {
                "stage": i,
                "layers": stage.layers,
                **stage.parts,
                "allocated": stage.allocated_bytes,
                "reserved": stage.reserved_bytes,
                "host": stage.host_bytes,
                "capacity": found.capacity_bytes,
                "headroom": found.capacity_bytes - stage.reserved_bytes,
            }
            for i, stage in enumerate(found.stages)
        ],
        "peak_stage": found.peak_stage,
        "peak_memory_bytes": found.stages[found.peak_stage].reserved_bytes,
        "techniques": [str(t) for t in s.words.get("techniques") or ()],
        "energy_j_per_token": found.energy_j_per_token,
        "usd_per_device_hour": found.usd_per_device_hour,
        "usd_per_trillion_tokens": found.usd_per_trillion_tokens,
        "run": None if found.run is None else found.run.to_dict() | chances(found),
        "rl": train_rewarded.to_dict(found),
        "across": found.across,
        "kinds": train_kinds.to_dict(found),
        "framework": {
            "name": framework.name,
            "version": framework.version,
            "facts": {
                n: getattr(framework, n)
                for n in ("attention", "elementwise_passes", "tp_exposed", "ep_exposed", "dp_exposed", "dispatcher")
            }
            | {"graph": framework.graph, "host_s": framework.host_s, "host_moe_s": framework.host_moe_s},
        },
        "limit": {"step_s": found.limit_s},
        "interval": {name: list(ends) for name, ends in found.interval.items()},
        "assumptions": found.ledger.assumptions,
        "sources": found.ledger.sources,
        "guesses": found.ledger.guesses,
        "provenance": provenance_of(s),
    }
    return plain(document)  # type: ignore[no-any-return]


def files(found: TrainEstimate) -> dict[str, str]:
    """The files of a layout: what launches it, and the answer."""
    from steelyard.launch.training import training_files

    said = {"train.json": "the whole answer (schema steelyard.train/1)"}
    return {**training_files(found, said), "train.json": json.dumps(to_dict(found), indent=2) + "\n"}


def flat(found: TrainEstimate) -> dict[str, Any]:
    """The answer as one row of text and numbers."""
    s, plan = found.scenario, found.scenario.plan
    return plain(  # type: ignore[no-any-return]
        {
            "model": s.model.name,
            "machine": s.cluster.machine.name,
            "count": s.cluster.count,
            "framework": plan.framework.name,
            **{n: v for n, v in plan.to_dict().items() if n not in ("recompute", "devices")},
            "recompute": plan.again,
            **columns_of(found),
            **train_rewarded.flat(found),
        }
    )


def summary(found: TrainEstimate) -> str:
    """One line for a Python prompt."""
    s = found.scenario
    fits = "" if found.fits else f"does not fit, {WERE_IT} "
    return (
        f"<TrainEstimate of {s.model.name} on {s.cluster}, {s.plan.shape}: {fits}{q(found.step_s, 's')} a step, "
        f"{figure(found.tokens_per_s_per_device)} tokens/s a device>"
    )


def report(found: TrainEstimate, width: int | None = None) -> str:
    """The whole answer as text."""
    return render(parts(found), width)


def parts(found: TrainEstimate) -> list[Any]:
    """The report as renderables."""
    from steelyard.training.step import BREAKDOWN

    plan = found.scenario.plan
    fullest = found.stages[found.peak_stage]
    where = f" on stage {found.peak_stage}" if plan.pp > 1 else ""
    if found.kinds:
        where = f" on {max(found.kinds, key=lambda k: k.fullest).cluster.machine.name}"
    verdict = fitting(found.fits, fullest.reserved_bytes, found.capacity_bytes, where)
    if not found.fits and fullest.reserved_bytes <= found.capacity_bytes:
        verdict = styled(("does not fit", "bold red"), f"  {shortfall(found)}")
    low, high = found.interval["step_s"]
    table = grid("left", "right", "right", "right")
    table.add_row(*(styled((x, "bold")) for x in ("", "predicted", "80% interval", "limit")))
    table.add_row(
        "step" if found.rewarded is None else "update",
        styled((q(found.step_s, "s"), "bold")),
        span(low, high),
        q(found.limit_s, "s"),
    )
    return [
        *title(found),
        "",
        verdict,
        *_would_fit(found),
        *_why_not(found),
        *train_kinds.parts(found),
        *([] if found.fits else ["", styled((WERE_IT, "bold"))]),
        *train_rewarded.parts(found),
        "",
        table,
        "",
        lines_table(rate_lines(found)),
        *train_run.parts(found),
        "",
        styled((f"where the time of {'a step' if found.rewarded is None else 'an update'} goes", "bold")),
        shares_table(found.breakdown_s, BREAKDOWN, found.step_s, "share"),
        "",
        *_memory(found),
        "",
        *bullets("assumed", found.ledger.assumptions),
        *bullets("sources", [f"{what}: {source}" for what, source in list(found.ledger.sources.items())[:6]]),
    ]


def title(found: TrainEstimate) -> list[Any]:
    """Model and machine, framework and layout, and the batch."""
    s, plan = found.scenario, found.scenario.plan
    counted = f"{plan.gbs:,} items"
    if plan.seq > 1:
        counted = f"{plan.gbs:,} sequence{'s' if plan.gbs > 1 else ''} of {plan.seq:,} tokens"
    if plan.packing is not None:
        counted += f" ({plan.packing.text} packed, {plan.packing.mean:,.0f} on average)"
    away = "; head and loss fused" if plan.loss == "fused" else ""
    away += f"; in the host's memory: {', '.join(plan.offload)}" if plan.offload else ""
    many = "micro-batch" if plan.micro_batches == 1 else "micro-batches"
    if found.kinds:
        return [
            styled((s.model.name, "bold"), " trained on ", (s.cluster.title, "bold")),
            styled(f"{plan.framework.called}, {plan.precision}, {plan.optimizer.title}"),
            styled(f"{counted} a step"),
        ]
    return [
        styled((s.model.name, "bold"), " trained on ", (s.cluster.title, "bold")),
        styled(f"{plan.framework.called}, {plan.precision}, {plan.optimizer.title}; {plan.spread}"),
        styled(
            f"{counted} a step, {plan.micro_batches:,} {many} of {plan.mbs}"
            f" on each of {plan.dp:,} replicas; computed again: {plan.again}{away}"
        ),
    ]


def rate_lines(found: TrainEstimate) -> list[Line]:
    """Tokens, use of the peak, energy and money; what does not fit costs none."""
    item = "token" if found.scenario.plan.seq > 1 else "item"
    money = "no price known; give one with --price"
    if found.usd_per_trillion_tokens is not None:
        money = f"{found.usd_per_trillion_tokens:,.0f} USD per trillion tokens ({found.price_note})"
        if item == "item":
            money = f"{figure(found.usd_per_trillion_tokens / 1e6)} USD per million items ({found.price_note})"
    watts = found.energy_j / found.step_s / found.scenario.cluster.count
    use = f"MFU {found.mfu_frac:.1%}, HFU {found.hfu_frac:.1%}"
    return [
        Line(
            f"{item}s",
            f"{figure(found.tokens_per_s)} per s, {figure(found.tokens_per_s_per_device)} per s and device",
        ),
        Line("use", f"{found.model_tflops_per_device:,.0f} TFLOP/s a device, {use}"),
        Line("energy", f"{q(found.energy_j_per_token, 'J')} per {item} ({watts:,.0f} W per device)"),
        *([Line("money", money)] if found.fits else []),
    ]


def _memory(found: TrainEstimate) -> list[Any]:
    """Memory by part: of the fullest stage, and of the first and the last where there are several."""
    chosen = sorted({0, found.peak_stage, len(found.stages) - 1})
    head = ["memory", *(f"stage {i}" if len(found.stages) > 1 else "a device" for i in chosen)]
    names = list(found.stages[0].parts)
    rows = [[name, *(q(found.stages[i].parts[name], "B") for i in chosen)] for name in names]
    rows.append(["allocated", *(q(found.stages[i].allocated_bytes, "B") for i in chosen)])
    rows.append(["with the allocator and driver", *(q(found.stages[i].reserved_bytes, "B") for i in chosen)])
    return [columns(head, rows, numeric=head[1:])]


def _why_not(found: TrainEstimate) -> list[Any]:
    """Why a layout that was named is not the one that was chosen."""
    named = beside(found)
    if named is None:
        return []
    return ["", styled((f"why not {named.layout}", "bold"), f"  {named.reason}")]


def beside(found: TrainEstimate) -> WhyNot | None:
    """The layout that was named in the question, weighed beside; None where none was."""
    from steelyard.scenario.training import layout_named
    from steelyard.search.why_not import why_not_layout

    named = layout_named(found.scenario.words.get("why_not") or "")
    return why_not_layout(found, named) if named else None


def _named(found: TrainEstimate) -> dict[str, Any] | None:
    one = beside(found)
    if one is None:
        return None
    other = one.found
    step = None if other is None else other.step_s if other.rewarded is None else other.rewarded.step_s
    held = None if other is None else other.stages[other.peak_stage].reserved_bytes
    return {"layout": one.layout, "reason": one.reason, "step_s": step, "peak_memory_bytes": held}


def _would_fit(found: TrainEstimate) -> list[Any]:
    """Changes that fit, with their memory and time."""
    if not found.would_fit:
        return []
    head = ["what would fit", "memory", "step", "tokens/s a device"]
    rows = [
        [
            one.words,
            q(one.found.stages[one.found.peak_stage].reserved_bytes, "B"),
            q(one.found.step_s, "s"),
            figure(one.found.tokens_per_s_per_device),
        ]
        for one in found.would_fit
    ]
    return ["", columns(head, rows, numeric=head[1:], fold=[head[0]])]


def shortfall(found: TrainEstimate) -> str:
    """How much memory is short, in words."""
    most = found.stages[found.peak_stage].reserved_bytes
    away, there = max(stage.host_bytes for stage in found.stages), found.host_capacity_bytes
    if most <= found.capacity_bytes:
        return f"{q(away, 'B')} of {q(there, 'B')} of the host's memory for each device, {q(away - there, 'B')} short"
    return f"{q(most, 'B')} of {q(found.capacity_bytes, 'B')}, {q(most - found.capacity_bytes, 'B')} short"


def remedy(found: TrainEstimate) -> str:
    """The nearest change that fits, in words: less kept, smaller micro-batches, more sharding."""
    return found.would_fit[0].words if found.would_fit else "none found; more devices, or one with more memory"
