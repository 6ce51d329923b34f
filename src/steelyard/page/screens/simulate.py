"""Simulate: traffic through a serving engine, step by step; a moment of the run under a slider; two runs overlaid."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.page.screen import Screen, Shown, Tell, fact
from steelyard.report.figures import figures_of
from steelyard.units import format_quantity as q

__all__ = ["SCREEN"]

#: Moments of a run that the slider stops at.
_MOMENTS = 200
#: Requests of a run whose every step can be downloaded, and whose goodput at other rates is shown.
_DOWNLOADED, _SWEPT = 5000, 2000
#: Rates that are tried beside the asked one, as shares of it.
_RATES = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
#: The series of a moment, and what they are.
_SERIES = {
    "running": ("running", "requests"),
    "waiting": ("waiting", "requests"),
    "kv_frac": ("KV cache", "%"),
    "prefill_tokens_per_s": ("prompt tokens", "per s"),
    "decode_tokens_per_s": ("output tokens", "per s"),
}
#: What kept requests waiting longest, in words.
_WAITED = {
    "arrivals": "Hardly a request waited.",
    "scheduling": "Requests wait for the scheduler.",
    "kv": "Requests wait for KV cache.",
    "max_num_seqs": "Requests wait for a seat (max_num_seqs).",
    "compute": "Requests wait for compute.",
}


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """One run, with its intervals, the goodput at other rates, and its trace."""
    from steelyard.report import simulation as report
    from steelyard.report.perfetto import perfetto_lines
    from steelyard.scenario.words import Problems
    from steelyard.simulation.api import read_simulation, run_scenario
    from steelyard.simulation.limits import ends_of

    tell("reading traffic", None)
    scenario = read_simulation(words, Problems())
    assert scenario.trace is not None
    requests = len(scenario.trace)
    tell(f"simulating {requests:,} requests", 0.0)
    watch = _Watch(requests, tell)
    try:
        found = run_scenario(scenario, watch)
    finally:
        watch.over.set()
    tell("two more runs for the intervals", 0.9)
    ends = ends_of(found)
    document = report.to_dict(found, scenario.slo, ends)
    figures = [f.to_dict() for f in figures_of(found)]
    if scenario.slo and words.get("rate") and requests <= _SWEPT:
        figures += _goodput(words, document, tell)
    files = {"perfetto.json": "".join(perfetto_lines(found))} if requests <= _DOWNLOADED else {}
    return Shown(document, [report.flat(found, scenario.slo, ends)], figures, _view(found, document), files)


class _Watch:
    """Tells how many requests are done while a run goes on."""

    def __init__(self, requests: int, tell: Tell) -> None:
        self.requests, self.tell, self.over = requests, tell, threading.Event()

    def __call__(self, counters: Any) -> None:
        threading.Thread(target=self._look, args=(counters,), daemon=True).start()

    def _look(self, counters: Any) -> None:
        from steelyard.simulation.kernel.state import TOTALS

        column = TOTALS.index("completed")
        while not self.over.wait(0.2):
            done = int(counters[:, column].sum())
            self.tell(f"{done:,} of {self.requests:,} requests", 0.9 * done / max(self.requests, 1))


def _goodput(words: Mapping[str, Any], document: Mapping[str, Any], tell: Tell) -> list[dict[str, Any]]:
    """The figure of goodput against the rate that is sent."""
    import steelyard as sy
    from steelyard.report.figures.simulation import rate_figure
    from steelyard.traffic.arrivals import parse_rate

    asked = parse_rate(words["rate"])
    if not np.isfinite(asked):
        return []
    known = {1.0: float(document["throughput"]["goodput_requests_per_s"])}
    for i, share in enumerate(_RATES):
        tell(f"goodput at {share * asked:,.3g} requests/s", 0.9 + 0.1 * i / len(_RATES))
        run = sy.simulate(**{**words, "rate": share * asked})
        known[share] = float(run.summary()["throughput"]["goodput_requests_per_s"])
    shares = sorted(known)
    return [rate_figure([s * asked for s in shares], [known[s] for s in shares]).to_dict()]


def _view(found: Any, d: Mapping[str, Any]) -> dict[str, Any]:
    pools = d["pools"]
    place = " and ".join(_place(p) for p in pools)
    completed = f"{d['completed']:,} of {d['requests']:,} requests in {q(d['makespan_s'], 's')}"
    moments = found.series(_MOMENTS)
    series = {name: np.nan_to_num(moments[name]).round(6).tolist() for name in ("at_s", *_SERIES)}
    series["kv_frac"] = [100 * v for v in series["kv_frac"]]
    return {
        "title": found.scenario.transformer.name,
        "place": place,
        "how": completed,
        "why": _WAITED.get(d["bottleneck"], f"Requests wait for {d['bottleneck']}."),
        "facts": _facts(d),
        "verdicts": d["verdicts"],
        "moments": series,
        "labels": {name: list(said) for name, said in _SERIES.items()},
        "percentiles": [
            {"name": label, "unit": "s", "values": [d[name].get(s) for s in ("mean", "p50", "p90", "p95", "p99")]}
            for name, label in (
                ("ttft_s", "time to first token"),
                ("tpot_s", "time per output token"),
                ("itl_s", "between tokens"),
                ("e2e_s", "end to end"),
                ("queue_s", "queue"),
            )
        ],
        "notes": {"assumed": d.get("assumptions", []), "guessed": {}, "sources": {}},
    }


def _place(pool: Mapping[str, Any]) -> str:
    from steelyard.machine.catalogue import find_machine

    machine, does = find_machine(pool["machine"]).title, "" if pool["role"] == "both" else f" for {pool['role']}"
    many = f"{pool['devices']:,} x " if pool["devices"] > 1 else ""
    replicas = f", {pool['replicas']:,} replicas" if pool["replicas"] > 1 else ""
    return f"{many}{machine}{replicas}{does}"


def _facts(d: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of the strip, with intervals where two more runs were made."""
    spans, through = d["intervals"] or {}, d["throughput"]

    def time(label: str, name: str) -> dict[str, Any]:
        ends = spans.get(name, {}).get("p50")
        below = f"p90 {q(d[name]['p90'], 's')}, p99 {q(d[name]['p99'], 's')}" if d[name].get("p99") else ""
        return fact(name, label, d[name].get("p50"), "s", below, ends)

    good = through.get("goodput_frac")
    below = f"{good:.1%} of requests" if good is not None else ""
    tokens = f"{through['output_tokens_per_s_per_device']:,.4g} per device"
    return [
        time("first token, median", "ttft_s"),
        time("per token, median", "tpot_s"),
        time("end to end, median", "e2e_s"),
        fact("output_tokens_per_s", "output tokens per second", through["output_tokens_per_s"], "1", tokens),
        fact("goodput_requests_per_s", "goodput, requests/s", through["goodput_requests_per_s"], "1", below),
        fact("energy_j_per_output_token", "energy per output token", d["energy_j_per_output_token"], "J"),
        fact("usd_per_million_output_tokens", "per million output tokens", d["usd_per_million_output_tokens"], "USD"),
    ]


def together(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Lines of the runs in the same pictures: those of the first, then of the others, dashed."""
    found = []
    for figure in shown[0].figures:
        others = [next((f for f in s.figures if f["name"] == figure["name"]), None) for s in shown[1:]]
        if figure["option"].get("series") and all(others) and _lines(figure):
            found.append(_overlaid(figure, [o for o in others if o]))
    return found


def _lines(figure: Mapping[str, Any]) -> bool:
    return all(s.get("type") == "line" for s in figure["option"]["series"])


def _overlaid(first: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    series = [dict(s, name=f"1 {s.get('name', '')}".strip()) for s in first["option"]["series"]]
    rows = [["1", *row] for row in first["rows"]]
    for number, other in enumerate(others, 2):
        for s in other["option"]["series"]:
            line = {**s.get("lineStyle", {}), "type": "dashed"}
            series.append(dict(s, name=f"{number} {s.get('name', '')}".strip(), lineStyle=line))
        rows += [[str(number), *row] for row in other["rows"]]
    option = {**first["option"], "series": series}
    said = "; ".join(f"{i}: {f['says']}" for i, f in enumerate((first, *others), 1))
    return {
        **first,
        "name": f"both-{first['name']}",
        "says": said,
        "option": option,
        "heads": ["run", *first["heads"]],
        "rows": rows,
    }


#: What is asked first.
_START = {
    "model": "llama-3.1-8b",
    "on": "h100_sxm",
    "rate": "8/s",
    "isl": "lognormal:1000",
    "osl": "200",
    "requests": "500",
    "ttft": "p99:500ms",
    "tpot": "p95:25ms",
}

SCREEN = Screen(
    name="simulate",
    title="Simulate",
    says="Traffic through a serving engine, step by step: what its users see, and what it costs.",
    ask=ask,
    verb="simulate",
    usual="model on engine trace rate concurrency isl osl requests ttft tpot tp replicas",
    start=_START,
    columns=2,
    together=together,
    long=True,
    examples=(
        (
            "Eight requests a second on one H100",
            _START,
        ),
        (
            "A 70B model on eight of them at its limit",
            {
                "model": "llama-3.1-70b",
                "on": "h100_sxm:8",
                "tp": "8",
                "rate": "12/s",
                "isl": "lognormal:2000",
                "osl": "lognormal:300",
                "requests": "500",
            },
        ),
        (
            "Prompts and answers on GPUs of their own",
            {
                "model": "llama-3.1-8b",
                "on": "h100_sxm:2",
                "disaggregate": "1P:tp1,1D:tp1",
                "rate": "8/s",
                "isl": "2000",
                "osl": "200",
                "requests": "500",
            },
        ),
    ),
    brings=(
        ("spread", "what users see: time to first token, per token and end to end, by percentile"),
        ("lines", "batches, KV cache and queue over time, and a slider through every moment"),
        ("front", "goodput against the rate: where the deployment breaks"),
        ("files", "a trace of every step and request for Perfetto"),
    ),
)
