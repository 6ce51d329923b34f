"""What both sides of training show: a layout weighed (``train``), and the best one found (``plan --train``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from steelyard.deployment.train_plan import TrainPlan
from steelyard.page.screen import fact
from steelyard.report import train as report
from steelyard.report.paper import spare_text
from steelyard.report.train_run import count
from steelyard.scenario.fields import fields_of
from steelyard.training.columns import chances
from steelyard.training.columns import layout_of as words_of_layout
from steelyard.units import figure
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.training.estimate import TrainEstimate

__all__ = ["LAYOUT", "again_text", "layout_of", "sides_of", "view_of"]

#: Fields that are the layout: a plan leaves them open when it comes from one.
LAYOUT = frozenset(f.name for f in fields(TrainPlan) if f.name in fields_of("train")) - {
    *("framework", "gbs", "offload", "optimizer", "precision", "rank", "ring", "seq", "sync_every", "task"),
}
#: Of them, those that are said only where they are of the verb and not as usual.
_SAID = LAYOUT - {"dp", "etp", "shard", "schedule", "recompute"}
_SIDES = (("My layout", "train", "train"), ("The best layout", "train_plan", "plan_training"))


def sides_of(current: str, given: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Title and address of both sides, with what is given as far as each takes it.

    A plan is asked with the layout left open, a layout on the first of the machines.

    Args:
        current: the screen that is shown.
        given: what is asked there.
    """
    found = []
    for title, screen, verb in _SIDES:
        words = {n: list(v) for n, v in given.items() if screen == current or n in fields_of(verb)}
        if screen != current and screen == "train_plan":
            words = {n: v for n, v in words.items() if n not in LAYOUT}
        elif screen != current and "on" in words:
            words["on"] = [words["on"][0].split(",")[0].strip()]
        found.append((title, f"/{screen}?{urlencode(words, doseq=True)}"))
    return found


def layout_of(plan: TrainPlan, verb: str) -> dict[str, Any]:
    """A layout as words of a verb; what is as usual is left out."""
    known = fields_of(verb)
    words = {n: getattr(plan, n) for n in known if n in _SAID}
    words = {n: v for n, v in words.items() if v != known[n].default}
    words |= {"recompute": plan.again}
    if "dp" in known:
        words |= {"dp": plan.dp, **({"schedule": plan.schedule} if plan.pp > 1 else {})}
    return words


def again_text(plan: TrainPlan) -> str:
    """What is computed again, in words."""
    return "nothing" if plan.again == "none" else plan.again.replace(",", ", ")


def view_of(found: TrainEstimate) -> dict[str, Any]:
    """What the template shows of a layout."""
    s, plan = found.scenario, found.scenario.plan
    counted = f"{plan.gbs:,} items"
    if plan.seq > 1:
        counted = f"{plan.gbs:,} sequence{'s' if plan.gbs > 1 else ''} of {plan.seq:,} tokens"
    many = "micro-batch" if plan.micro_batches == 1 else "micro-batches"
    fullest = found.stages[found.peak_stage]
    where = f" on stage {found.peak_stage}" if plan.pp > 1 else ""
    how = f"{plan.shape}; ZeRO {plan.zero}; computed again: {again_text(plan)}"
    each = f", {plan.micro_batches:,} {many} of {plan.mbs} on each of {plan.dp:,} replicas"
    if found.kinds:
        where = f" on {max(found.kinds, key=lambda k: k.fullest).cluster.machine.name}"
        how, each = words_of_layout(found), f", shared by {found.across} of each kind"
    return {
        "title": s.model.name,
        "place": s.cluster.title,
        "how": f"{plan.framework.called}, {plan.precision}, {plan.optimizer.title}; {how}",
        "step": f"{counted} a step{each}",
        "fits": found.fits,
        "memory": f"{q(fullest.reserved_bytes, 'B')} of {q(found.capacity_bytes, 'B')}{where}, "
        + spare_text(found.capacity_bytes - fullest.reserved_bytes),
        "remedy": "" if found.fits else report.remedy(found),
        "were_it": "" if found.fits else report.WERE_IT,
        "facts": _facts(found),
        "run": _run(found),
        "notes": {
            "assumed": found.ledger.assumptions,
            "guessed": found.ledger.guesses,
            "sources": found.ledger.sources,
        },
    }


def _facts(found: TrainEstimate) -> list[dict[str, Any]]:
    """The figures of the strip."""
    plan = found.scenario.plan
    item = "token" if plan.seq > 1 else "item"
    watts = found.energy_j / found.step_s / found.scenario.cluster.count
    hour = found.usd_per_device_hour
    price = "no price known" if hour is None else f"{hour:,.2f} USD/h a device"
    all_of_it = f"{figure(found.tokens_per_s)} of all devices"
    least = f"limit {q(found.limit_s, 's')}"
    rate = found.interval.get("tokens_per_s_per_device")
    per_million = None if found.usd_per_trillion_tokens is None else found.usd_per_trillion_tokens / 1e6
    name = "step" if found.rewarded is None else "update"
    facts = [
        fact("step_s", name, found.step_s, "s", least, found.interval["step_s"]),
        fact("tokens_per_s_per_device", f"{item}s/s a device", found.tokens_per_s_per_device, "1", all_of_it, rate),
        fact("mfu_frac", "MFU", round(100 * found.mfu_frac, 2), "%", f"HFU {found.hfu_frac:.1%}"),
        fact("model_tflops_per_device", "TFLOP/s a device", found.model_tflops_per_device, "1", "of the model"),
        fact("energy_j_per_token", f"energy per {item}", found.energy_j_per_token, "J", f"{watts:,.0f} W a device"),
    ]
    if found.fits:
        facts.append(fact("usd_per_million_tokens", f"per million {item}s", per_million, "USD", price))
    if (done := found.rewarded) is not None:
        parts = ", ".join(f"{part} {q(time, 's')}" for part, time in done.parts_s.items() if time > 0)
        facts.insert(0, fact("rl_step_s", "step with its answers", done.step_s, "s", parts, list(done.ends_s)))
    run = found.run
    if run is not None:
        least = f"{run.ideal_days:,.1f} without failures"
        facts.append(fact("days", "days of the run", run.days["p50"], "1", least, _ends(run.days)))
        if run.usd is not None:
            facts.append(
                fact("usd", "the run, USD", run.usd["p50"], "1", count(run.tokens) + f" {item}s", _ends(run.usd))
            )
    return facts


def _ends(values: Mapping[str, float]) -> list[float]:
    return [values["p10"], values["p90"]]


def _run(found: TrainEstimate) -> list[str]:
    """The chances of a run against its limits, in words."""
    kept = chances(found)
    words = {"chance_by": "end by the deadline", "chance_within_budget": "cost at most the budget"}
    return [f"{share:.0%} of runs {words[name]}" for name, share in kept.items() if share is not None]
