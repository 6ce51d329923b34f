"""Candidates of a plan: as rows of a table, why each is not the winner, and as questions of other screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from steelyard.deployment.plan import DEGREES
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.report import plan as report
from steelyard.scenario.fields import fields_of
from steelyard.scenario.scenario import FORMATS
from steelyard.search.chance import ALL, holds
from steelyard.search.describe import chance_text
from steelyard.units import figure
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.deployment.deployment import Pool
    from steelyard.search.answer import Answer, Candidate

__all__ = ["HEADS", "opened", "rows_of", "why_not"]

#: Columns of the table: heading, and whether it is text.
HEADS = (
    ("candidate", True),
    ("devices", False),
    ("USD/h", False),
    ("TTFT", False),
    ("TPOT", False),
    ("requests/s", False),
    ("tokens/s a user", False),
    ("tokens/s a device", False),
    ("chance", False),
    ("why not", True),
)
_LETTERS = {"prefill": "P", "decode": "D", "encode": "E", "both": "M"}
#: Smallest difference of two values that is one.
_SAME = 0.005


def rows_of(answer: Answer, model: str) -> list[dict[str, Any]]:
    """Every candidate of an answer once, the winner first: cells with what they are sorted by, and where it opens."""
    w = answer.winner
    found: dict[str, Candidate] = {}
    near = answer.infeasible
    closest = [near.closest] if near is not None and near.closest is not None else []
    for c in (*([w] if w is not None else closest), *answer.runners_up, *answer.front, *answer.cost_front):
        found.setdefault(repr(c.deployment), c)
    rows = []
    for c in found.values():
        cells: list[tuple[str, Any]] = [
            (f"{c.machine}{'*' * report.unmeasured(c)}, {c.shape}", None),
            (f"{c.devices:,}{'!' * report.unbuilt(c)}", c.devices),
            _money(c.rent_usd_per_hour),
            (q(c.ttft_s, "s"), c.ttft_s),
            (q(c.tpot_s, "s"), c.tpot_s),
            (figure(c.max_rate_per_s), c.max_rate_per_s),
            (figure(c.tokens_per_s_per_user), c.tokens_per_s_per_user),
            (figure(c.tokens_per_s_per_device), c.tokens_per_s_per_device),
            (chance_text(c.chance[ALL]), c.chance[ALL]) if c.chance else ("–", ""),
            (why_not(answer, c), None),
        ]
        best = w is not None and c.deployment == w.deployment
        below = f"{c.engine}, {c.formats.get('weights')}, KV {c.formats.get('kv')}"
        below += f"; {report.limits(c)}" if c.mode == "aggregated" else ""
        rows.append({"cells": cells, "below": below, "winner": best, "open": opened(answer, c, model)})
    return rows


def _money(value: float | None) -> tuple[str, Any]:
    return ("–", "") if value is None else (f"{value:,.2f}", value)


def why_not(answer: Answer, c: Candidate) -> str:
    """Why a candidate is not the winner: what it misses, the chance it lacks, what it costs more, what is doubted."""
    w, k = answer.winner, answer.question
    if w is not None and c.deployment == w.deployment:
        return "the winner"
    said = []
    for target in k.targets:
        value, good = report.met(c, target)
        if not good:
            said.append(f"{report.slo_text(target)}: {q(value, 's')}")
    if c.chance and not holds(c.chance[ALL], k.sure):
        said.append(f"holds with {chance_text(c.chance[ALL])}, {k.sure:.0%} is asked")
    if c.headroom_frac < k.headroom_frac - 1e-9:
        said.append(f"holds {figure(c.max_rate_per_s)} requests/s")
    if w is not None and (more := _more(k.objective, c, w)):
        said.append(more)
    said += [x.partition(":")[0] for x in c.doubts]
    if not c.simulated:
        said.append("screened only")
    return "; ".join(said) or "as good; more complicated"


def _more(objective: str, c: Candidate, w: Candidate) -> str:
    """What it has more of than the winner, of what is wanted least."""
    pairs = {
        "cost": (c.rent_usd_per_hour, w.rent_usd_per_hour, "rent"),
        "energy": (c.watts, w.watts, "power"),
        "carbon": (c.carbon_g_per_hour, w.carbon_g_per_hour, "carbon"),
        "latency": (c.ttft_s, w.ttft_s, "TTFT"),
        "throughput": (w.max_rate_per_s, c.max_rate_per_s, "requests/s"),
    }
    own, best, what = pairs[objective]
    if own is None or best is None or min(own, best) <= 0 or abs(own / best - 1) < _SAME:
        return ""
    if objective == "throughput":
        return f"{1 - best / own:.0%} fewer {what}" if own > best else ""
    if own < best:
        return f"{1 - own / best:.0%} less {what}"
    return f"{own / best - 1:.0%} more {what}" if own < 3 * best else f"{own / best:.1f} times the {what}"


def opened(answer: Answer, c: Candidate, model: str) -> dict[str, str]:
    """The queries that open a candidate, by screen: a replica of it in ``estimate``, all of it in ``simulate``.

    None for machines of one's own, which the address does not name.
    """
    try:
        for pool in c.deployment.pools:
            find_machine(pool.machine)
    except InputError:
        return {}
    k, pools = answer.question, c.deployment.pools
    last = pools[-1]
    lengths = {"isl": max(1, round(k.prompt_tokens)), "osl": max(1, round(k.output_tokens))}
    static = {"model": model, **_place(last), "batch": max(1, round(c.batch_mean)), **lengths, **last.flags}
    traffic = {n: v for n, v in k.traffic.items() if v not in (None, "", ()) and n in fields_of("simulate")}
    if last.speculate:
        traffic["speculate"] = last.speculate
    promised = {t.metric.removesuffix("_s"): f"{t.label}:{t.limit_s:g}s" for t in k.targets}
    played: dict[str, Any] = {"model": model, **_fleet(pools), **traffic, **promised}
    if c.deployment.router != "round-robin":
        played["router"] = c.deployment.router
    if all(dict(p.flags) == dict(last.flags) for p in pools):
        played |= last.flags
    found = {"estimate": static, "simulate": played}
    return {name: urlencode({n: v for n, v in words.items() if v != ""}) for name, words in found.items()}


def _formats(pool: Pool) -> dict[str, str]:
    return {name: getattr(pool.plan, name) for name in FORMATS if getattr(pool.plan, name)}


def _degrees(pool: Pool) -> dict[str, int]:
    return {name: getattr(pool.plan, name) for name in DEGREES if getattr(pool.plan, name) > 1}


def _on(machine: str, devices: int) -> str:
    return machine if devices == 1 else f"{machine}:{devices}"


def _place(pool: Pool) -> Mapping[str, Any]:
    """One replica of a pool."""
    return {
        "on": _on(pool.machine, pool.plan.devices),
        "engine": pool.plan.engine,
        **_degrees(pool),
        **_formats(pool),
    }


def _fleet(pools: Sequence[Pool]) -> Mapping[str, Any]:
    """All pools."""
    last = pools[-1]
    if len(pools) == 1:
        return {**_place(last), **({"replicas": last.replicas} if last.replicas > 1 else {})}
    machines = {p.machine for p in pools}
    parts = []
    for p in pools:
        sizes = "".join(f"{n}{v}" for n, v in _degrees(p).items()) or "tp1"
        parts.append(f"{p.replicas}{_LETTERS[p.role]}:{sizes}" + (f"@{p.machine}" if len(machines) > 1 else ""))
    count = sum(p.devices for p in pools) if len(machines) == 1 else 1
    where = {"on": _on(last.machine, count), "disaggregate": ",".join(parts), "engine": last.plan.engine}
    return {**where, **_formats(last)}
