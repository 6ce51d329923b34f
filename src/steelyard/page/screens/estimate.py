"""Estimate: what a model costs on a machine, at once, with up to four questions side by side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from steelyard.deployment.plan import DEGREES
from steelyard.page.screen import Screen, Shown, Tell, fact
from steelyard.report.figures import figures_of
from steelyard.scenario.fields import ALONE, GROUPS, NETWORK, fields_of
from steelyard.units import format_quantity as q
from steelyard.units import parameters_text, power_text

__all__ = ["SCREEN"]

#: What bounds a time, in words.
_WHY = {
    "compute": "arithmetic",
    "memory": "reading memory",
    "network": "exchanges between devices",
    "overhead": "launches and the host",
    "host": "launches of the host",
}


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The estimate of one question: of a model, a network, or the architectures of a space."""
    import steelyard as sy
    from steelyard.scenario.scenario import read_model

    given = words
    if "model" in words and not _is_network(words["model"]):  # named in the answer as the command names it
        with suppress(sy.InputError):
            words = {**words, "model": read_model(words["model"], bool(words.get("generic")))}
    found = sy.estimate(**words)
    kind = type(found).__name__
    if kind == "SpaceEstimate":
        return _space(found)
    return _network(found) if kind == "NetEstimate" else _served(found, given)


def _served(e: Any, given: Mapping[str, Any]) -> Shown:
    from steelyard.report.estimate import flat, to_dict

    d = to_dict(e)
    causal = e.scenario.transformer.causal
    thing = "token" if causal else "answer"
    bounds = d["bound_shares"]
    view = {
        "title": d["model"],
        "place": e.scenario.cluster.title,
        "how": _how(d, e),
        "why": _reason(d, causal, bounds),
        "fits": d["fits"],
        "remedy": _remedy(d["remedy"]),
        "facts": _facts(d, causal, thing),
        "advise": f"/advise?{urlencode(_advised(given, e.scenario.batch), doseq=True)}" if causal else "",
        "notes": {"assumed": d["assumptions"], "guessed": d["guesses"], "sources": d["sources"]},
    }
    return Shown(d, [flat(e)], [f.to_dict() for f in figures_of(e)], view)


def _advised(given: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """What was asked as a question of ``advise``: the batch are users who wait for their answers."""
    same = {n: v for n, v in given.items() if n in fields_of("simulate")}
    return {**same, "concurrency": batch, "requests": max(100, 8 * batch)}


def _how(d: Mapping[str, Any], e: Any) -> str:
    plan = d["plan"]
    degrees = ", ".join(f"{n} {plan[n]}" for n in DEGREES if plan[n] > 1)
    formats = f"weights {plan['weights']}, activations {plan['activations']}, KV cache {plan['kv']}"
    many = f"{d['batch']:,} requests" if d["batch"] > 1 else "one request"
    answers = f" + {d['osl']:,}" if e.scenario.transformer.causal else ""
    lengths = f"{many} of {d['isl']:,}{answers} tokens"
    return "; ".join(filter(None, (e.scenario.engine.title, degrees, formats, lengths)))


def _largest(shares: Mapping[str, float]) -> tuple[str, float]:
    return max(shares.items(), key=lambda item: item[1], default=("overhead", 0.0))


def _reason(d: Mapping[str, Any], causal: bool, bounds: Mapping[str, Mapping[str, float]]) -> str:
    """The one line that says why."""
    first, share = _largest(bounds.get("prefill", {}))
    if not causal:
        return f"Bound by {_WHY[first]} ({share:.0%} of the time), {_times_limit(d, 'ttft_s')}."
    then, rest = _largest(bounds.get("decode", {}))
    steps = d["e2e_s"] - d["ttft_s"]
    part = steps / d["e2e_s"] if d["e2e_s"] else 0.0
    return (
        f"Answers take {part:.0%} of the time and are bound by {_WHY[then]} ({rest:.0%}), prompts by {_WHY[first]} "
        f"({share:.0%}); a token takes {_times_limit(d, 'tpot_s')}."
    )


def _times_limit(d: Mapping[str, Any], name: str) -> str:
    limit = d["limit"].get(name)
    return f"{d[name] / limit:.2f} times the physical limit" if limit and d[name] else "as long as shown"


def _facts(d: Mapping[str, Any], causal: bool, thing: str) -> list[dict[str, Any]]:
    """The figures of the strip."""
    spans, limits = d["interval"], d["limit"]

    def time(label: str, name: str) -> dict[str, Any]:
        least = f"limit {q(limits[name], 's')}" if limits.get(name) else ""
        return fact(name, label, d[name], "s", least, spans.get(name))

    head = [time("first token" if causal else "answer", "ttft_s")]
    if causal:
        head += [time("per token", "tpot_s"), time("end to end", "e2e_s")]
    devices, hourly = d["plan"]["devices"], d.get("usd_per_device_hour")
    each = [f"{d['tokens_per_s_per_device']:,.4g} per device"] if devices > 1 else []
    each += [f"{d['tokens_per_s_per_user']:,.4g} per user"] if causal else []
    watts = (d["energy_j"]["devices"] + d["energy_j"]["hosts"]) / d["e2e_s"] / devices if d["e2e_s"] else 0.0
    price = f"{hourly:,.2f} USD/h a device" if hourly is not None else "no price known"
    return [
        *head,
        fact("tokens_per_s", f"{thing}s per second", d["tokens_per_s"], "1", ", ".join(each)),
        fact("energy_j_per_token", f"energy per {thing}", d["energy_j_per_token"], "J", f"{watts:,.0f} W a device"),
        fact("usd_per_million_tokens", f"per million {thing}s", d["usd_per_million_tokens"], "USD", price),
    ]


def _remedy(remedy: Any) -> dict[str, Any] | None:
    """The nearest change that fits: in words, and as parameters of the query."""
    if not remedy:
        return {"change": "no change of the plan is known that fits", "arguments": {}}
    change = remedy if remedy.get("change") else remedy.get("in_host_memory", {})
    arguments = {str(k): str(v) for k, v in (change.get("arguments") or {}).items()}
    return {"change": change.get("change", ""), "arguments": arguments}


def _network(e: Any) -> Shown:
    from steelyard.estimation.network_remedy import network_remedy
    from steelyard.report import network as report

    d = report.to_dict(e)
    s = e.scenario
    spans = d["interval"]
    watts = d["energy_j_per_item"] * d["throughput_per_s"] / s.cluster.count
    least = f"limit {q(d['limit']['latency_s'], 's')}"
    price = spans.get("usd_per_million_items")
    facts = [
        fact("latency_s", "latency", d["latency_s"], "s", least, spans["latency_s"]),
        fact("throughput_per_s", "items per second", d["throughput_per_s"], "1", "", spans["throughput_per_s"]),
        fact("energy_j_per_item", "energy per item", d["energy_j_per_item"], "J", f"{power_text(watts)} a device"),
        fact("usd_per_million_items", "per million items", d["usd_per_million_items"], "USD", "", price),
        fact("macs", "work per item", d["macs"], "MAC", f"{parameters_text(d['parameters'])} parameters"),
    ]
    ratio = d["latency_s"] / d["limit"]["latency_s"] if d["limit"]["latency_s"] else 0.0
    remedy = None if d["fits"] else {"change": network_remedy(e), "arguments": {}}
    view = {
        "title": d["model"],
        "place": s.cluster.title,
        "how": f"{s.runtime.title}, {d['precision']}, {d['layout']}; batch {d['batch']:,}",
        "why": f"Bound by {_WHY.get(d['bound'], d['bound'])}; {ratio:.2f} times the physical limit.",
        "fits": d["fits"],
        "remedy": remedy,
        "facts": facts,
        "notes": {"assumed": d["assumptions"], "guessed": d["guesses"], "sources": d["sources"]},
    }
    return Shown(d, [report.flat(e)], [f.to_dict() for f in figures_of(e)], view)


def _space(e: Any) -> Shown:
    from steelyard.report import space as report
    from steelyard.report.plain import plain

    d, columns = report.to_dict(e), plain(report.csv_columns(e))
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    view = {"title": str(d.get("space", "architectures")), "table": rows[:200], "whole": len(rows)}
    return Shown(d, rows, [f.to_dict() for f in figures_of(e)], view)


_EVERY = frozenset(fields_of("estimate"))
_NET = frozenset(NETWORK)


@lru_cache(maxsize=512)
def _is_network(model: str) -> bool:
    """Whether a model is a network; the content of a dropped file is part of its name."""
    from steelyard.errors import SteelyardError
    from steelyard.scenario.network import asks_net

    try:
        return asks_net({"model": model})
    except (SteelyardError, OSError, ValueError):
        return False


def shown(given: Mapping[str, Any]) -> frozenset[str]:
    """The fields that fit the model: those of networks, or those of models that are served."""
    return _NET if _is_network(str(given.get("model", ""))) else _EVERY - frozenset(ALONE)


SCREEN = Screen(
    name="estimate",
    title="Estimate",
    says="What a model costs on a machine: memory, time, energy and money, with an interval and the reason.",
    ask=ask,
    verb="estimate",
    usual="model on engine runtime precision weights batch isl osl size tp",
    sliders=dict(zip(GROUPS["batch"], ((1, 512), (16, 131072), (1, 16384)), strict=True)),
    shown=shown,
    start={"model": "llama-3.1-8b", "on": "h100_sxm", "batch": "8"},
    columns=4,
)
