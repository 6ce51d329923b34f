"""A plan as JSON (``steelyard.plan/1``), as rows, and as a report for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from steelyard.deployment.plan_file import SCHEMA as DEPLOYMENT
from steelyard.deployment.plan_file import deployment_dict, machines_dict
from steelyard.report.paper import (
    Line,
    bullets,
    columns,
    figure,
    grid,
    kept,
    left_out,
    lines_table,
    render,
    span,
    spread,
)
from steelyard.report.paper import styled as _text
from steelyard.report.plain import plain
from steelyard.report.ways import parts as ways_parts
from steelyard.scenario.fields import SKEW
from steelyard.search.chance import ALL
from steelyard.search.describe import chance_text
from steelyard.search.doubts import NEVER_MEASURED, NOBODY_BUILDS
from steelyard.traffic.trace import LENGTHS
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.scenario.slo import Target
    from steelyard.search.answer import Answer, Candidate, Question

__all__ = [
    "METRICS",
    "SCHEMA",
    "candidate_dict",
    "certainty_lines",
    "flat_rows",
    "lines",
    "machines_text",
    "met",
    "parts",
    "question_lines",
    "replay_dict",
    "star",
    "text",
    "to_dict",
    "unmeasured",
    "verdict",
]

SCHEMA = "steelyard.plan/1"
#: Metrics an SLO may limit, with the words for them.
METRICS = (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "end to end"))
_STATISTICS = ("mean", "p50", "p95", "p99")
#: What a plan without an SLO is for: users, or a rate.
_NO_SLO = ("to serve all users at once", "to keep up with the rate")
#: Rows of a table on a terminal before the rest is only counted.
_SHOWN = 8


def candidate_dict(candidate: Candidate) -> dict[str, Any]:
    """One candidate as plain values, its deployment included."""
    found = {name: value for name, value in candidate.columns().items() if name not in ("deployment", "value")}
    found["interval"] = {k: list(v) for k, v in candidate.interval.items()}
    found["doubts"] = list(candidate.doubts)
    return {**found, "deployment": deployment_dict(candidate.deployment)}


def to_dict(answer: Answer) -> dict[str, Any]:
    """The answer in the stable JSON form ``steelyard.plan/1``."""
    from steelyard._version import __version__
    from steelyard.provenance import content_hash

    a = answer
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "model": a.question.model,
        "objective": a.question.objective,
        "asked": {
            "rate_per_s": a.question.rate_per_s,
            "concurrency": a.question.concurrency,
            **dict(zip(LENGTHS, (a.question.prompt_tokens, a.question.output_tokens), strict=True)),
            "sure": a.question.sure,
            "promises": [{"metric": t.metric, "statistic": t.label, "limit_s": t.limit_s} for t in a.question.targets],
            "machines": list(a.question.machines),
        },
        "candidates": a.candidates,
        "screened_per_s": a.screened_per_s,
        "simulated": a.simulated,
        "cpu_s": a.cpu_s,
        "stages_s": dict(a.stages_s),
        "winner": None if a.winner is None else candidate_dict(a.winner),
        "why": list(a.why),
        "breaks_first": a.breaks_first,
        "narrowing": a.narrowing,
        "front": [candidate_dict(c) for c in a.front],
        "cost_front": [candidate_dict(c) for c in a.cost_front],
        "runners_up": [candidate_dict(c) for c in a.runners_up],
        "certainty": {f"{k:g}": None if c is None else candidate_dict(c) for k, c in a.certainty.items()},
        "infeasible": None,
        "assumptions": a.ledger.assumptions,
        "sources": a.ledger.sources,
        "guesses": a.ledger.guesses,
        "replay": replay_dict(a),
        "provenance": {
            "version": __version__,
            "inputs": dict(a.inputs),
            "hash": content_hash({"version": __version__, "inputs": plain(dict(a.inputs))}),
        },
    }
    if a.ways is not None:
        document["ways"] = asdict(a.ways)
    if a.fleet is not None:
        from steelyard.report.fleet import to_dict as fleet_dict

        document["fleet"] = fleet_dict(a.fleet)
    if a.infeasible is not None:
        i = a.infeasible
        document["infeasible"] = {
            "reason": i.reason,
            "nearest": [
                {"change": c.text, "arguments": dict(c.arguments), "winner": candidate_dict(c.winner)}
                for c in i.nearest
            ],
            "closest": None if i.closest is None else candidate_dict(i.closest),
        }
    return plain(document)  # type: ignore[no-any-return]


def summary(answer: Answer) -> str:
    """One line for a Python prompt."""
    w = answer.winner
    words = "nothing fits" if w is None else f"{machines_text(w)}: {w.shape}, {w.engine}; {money(w)}"
    return f"<Answer for {answer.question.model}: {words}>"


def replay_dict(answer: Answer) -> dict[str, Any] | None:
    """What :func:`steelyard.deployment.plan_file.read_deployment` reads back: the winner, its traffic, what came out.

    None when there is no winner.
    """
    if answer.winner is None:
        return None
    w, question = answer.winner, answer.question
    return {
        "schema": DEPLOYMENT,
        "deployment": deployment_dict(w.deployment),
        "traffic": {k: v for k, v in plain(dict(question.traffic)).items() if v is not None},
        "promise": {t.metric.removesuffix("_s"): f"{t.label}:{t.limit_s!r}s" for t in question.targets},
        "simulation": {
            "rate_per_s": 0.0 if question.concurrency else question.rate_per_s,
            "requests": question.requests,
            "seed": question.seed,
            SKEW: question.skew,
        },
        "expected": {name: dict(found) for name, found in plain(w.percentiles).items()},
        "machines": machines_dict(w.deployment),
    }


def flat_rows(answer: Answer) -> list[dict[str, Any]]:
    """One row per candidate of the answer, best first, for CSV; ``kind`` says which list it is from."""
    groups: list[tuple[str, Sequence[Candidate]]] = [
        ("winner", () if answer.winner is None else (answer.winner,)),
        ("runner_up", answer.runners_up),
        ("front", answer.front),
        ("cost_front", answer.cost_front),
    ]
    if answer.infeasible is not None:
        groups.append(("nearest", [c.winner for c in answer.infeasible.nearest]))
    rows = []
    for kind, found in groups:
        for c in found:
            row: dict[str, Any] = {"kind": kind}
            for name, value in candidate_dict(c).items():
                if isinstance(value, Mapping) and name != "deployment":
                    for key, inner in value.items():
                        if isinstance(inner, list):
                            row |= {f"{name}.{key}.low": inner[0], f"{name}.{key}.high": inner[1]}
                        elif isinstance(inner, Mapping):
                            row |= {f"{key}.{k}": v for k, v in inner.items()}
                        else:
                            row[f"{name}.{key}"] = inner
                elif name != "deployment":
                    row[name] = "; ".join(value) if name == "doubts" else value
            rows.append(plain(row))
    return rows


def question_lines(question: Question) -> list[str]:
    """The question in words: the traffic, the SLOs, the limits."""
    k = question
    load = f"{figure(k.rate_per_s)} requests/s" if k.concurrency is None else f"{k.concurrency:,} users"
    shown = ", ".join(f"{s.shown.words} of {s.tokens:,}" for s in k.seen)
    beside = f" (with {shown})" if shown else ""
    found = [
        f"{load}, mean {k.prompt_tokens:,.0f} prompt{beside} + {k.output_tokens:,.0f} generated tokens",
        "SLO: " + (", ".join(slo_text(t) for t in k.targets) or "none, " + _NO_SLO[k.concurrency is None]),
    ]
    words = {
        "cost": "the cheapest rent",
        "energy": "the least power",
        "carbon": "the least carbon",
        "throughput": "the most requests",
        "latency": "the shortest latency",
    }
    limits = [f"wanted: {words[k.objective]}"]
    if k.max_gpus is not None:
        limits.append(f"at most {k.max_gpus} devices")
    if k.budget_usd_per_hour is not None:
        limits.append(f"at most {q(k.budget_usd_per_hour, 'USD')}/h")
    if k.max_w is not None:
        limits.append(f"at most {q(k.max_w, 'W')}")
    if k.rack_w is not None:
        limits.append(f"at most {q(k.rack_w, 'W')} a node")
    limits.append(f"to hold with {k.sure:.0%}")
    if k.headroom_frac:
        limits.append(f"{k.headroom_frac:.0%} headroom")
    if k.spares:
        limits.append(f"{k.spares} spare replica{'s' * (k.spares > 1)} per pool")
    return [*found, ", ".join(limits)]


def slo_text(target: Target) -> str:
    """``TTFT p99 within 1.00 s``."""
    return f"{target.metric.removesuffix('_s').upper()} {target.label} within {q(target.limit_s, 's')}"


def verdict(candidate: Candidate, target: Target) -> str:
    """The chance of an SLO; without one, whether the expected value misses it."""
    chance = candidate.chance.get(target.metric.removesuffix("_s"))
    if chance is None:
        return "expected" if met(candidate, target)[1] else "missed"
    return chance_text(chance)


def met(candidate: Candidate, target: Target) -> tuple[float, bool]:
    """The value of the statistic an SLO limits, and whether it is within the limit."""
    found = candidate.percentiles.get(target.metric, {})
    value = found.get(target.label)
    if value is None:
        value = float(getattr(candidate, target.metric))
    return float(value), float(value) <= target.limit_s


def machines_text(candidate: Candidate) -> str:
    """``8 x NVIDIA H100 SXM5 80GB``, the pools joined by ``+`` when they differ."""
    counts: dict[str, int] = {}
    for pool in candidate.deployment.pools:
        counts[pool.device.title] = counts.get(pool.device.title, 0) + pool.devices
    return " + ".join(f"{n} x {title}" for title, n in counts.items())


def limits(candidate: Candidate) -> str:
    """``max_num_seqs 128, max_num_batched_tokens 4,096``."""
    return ", ".join(f"{name} {value:,}" for name, value in candidate.limits.items())


def money(candidate: Candidate) -> str:
    """Rent per hour and per million tokens, in words."""
    if candidate.rent_usd_per_hour is None:
        return "no price known; give one with --price"
    per = candidate.usd_per_million_tokens
    words = f"{q(candidate.rent_usd_per_hour, 'USD')}/h"
    return words if per is None else f"{words}, {q(per, 'USD')} per million generated tokens"


def text(answer: Answer, width: int | None = None, *, files: str = "") -> str:
    """The whole answer as text.

    Args:
        answer: what to report.
        width: columns of the terminal; None = 80 columns without colour.
        files: the folder that was written, when one was.
    """
    return render(parts(answer, files, width), width)


def parts(answer: Answer, files: str = "", width: int | None = None) -> list[Any]:
    """The report as renderables, from the question to the effort."""
    found: list[Any] = [
        _text((answer.question.model, "bold")),
        *(_text(x) for x in question_lines(answer.question)),
        "",
    ]
    found += _infeasible(answer, width) if answer.winner is None else _winner(answer, answer.winner, width)
    if answer.ways is not None:
        found += ways_parts(answer.ways)
    if answer.fleet is not None:
        from steelyard.report.fleet import lines as fleet_lines

        found += [*bullets("mixed fleet, as predicted: an even chance at best", fleet_lines(answer.fleet)), ""]
    return [*found, *_tables(answer, width), *_notes(answer, files)]


def _winner(answer: Answer, w: Candidate, width: int | None) -> Iterator[Any]:
    made = grid("left", "left")
    star = "*" * unmeasured(w)
    made.add_row(_text(("winner", "bold green")), _text((machines_text(w) + star, "bold"), f": {w.shape}"))
    made.add_row("", formats(w))
    yield made
    yield lines_table(lines(w), at_least=len("winner"))
    yield ""
    yield _percentiles(answer, w, width)
    yield ""
    yield from bullets("why", answer.why)
    if answer.breaks_first:
        yield _text(("breaks first  ", "bold"), answer.breaks_first)
    if answer.narrowing:
        yield _text(("to be surer  ", "bold"), answer.narrowing)
    yield ""
    if certain := certainty_lines(answer):
        yield from bullets("what certainty costs", certain)
        yield ""


def formats(c: Candidate) -> str:
    """Engine, mode and number formats of a candidate."""
    return f"{c.engine}, {c.mode}; weights {c.formats.get('weights', '?')}, KV cache {c.formats.get('kv')}"


def lines(c: Candidate) -> list[Line]:
    """What a candidate is set to and gives, a line each: limits, money, power, rate, tokens."""
    carbon = "" if c.carbon_g_per_hour is None else f", {c.carbon_g_per_hour / 1e3:,.2f} kg CO2e per hour"
    ends = c.interval.get("max_rate_per_s")
    between = "" if ends is None else f" (80 %: {figure(ends[0])} to {figure(ends[1])})"
    users = "" if c.max_concurrency is None else f"{c.max_concurrency:,} users, "
    rate = f"holds {users}{figure(c.max_rate_per_s)} requests/s{between}, {c.headroom_frac:+.0%} of what was asked"
    tokens = f"{figure(c.tokens_per_s)}/s generated, {figure(c.tokens_per_s_per_device)}/s per device at the "
    return [
        Line("limits", limits(c)),
        Line("money", money(c)),
        Line("power", f"{q(c.watts, 'W')} with hosts{carbon}"),
        Line("rate", rate),
        Line("tokens", f"{tokens}largest rate, {figure(c.tokens_per_s_per_user)}/s per user"),
        *([Line("chance", chance_line(c))] if c.chance else []),
    ]


def chance_line(c: Candidate) -> str:
    """``holds all that is promised with 81 % (TTFT 85 %, TPOT 85 %, rate 98 %)``."""
    each = [f"{'rate' if k == 'rate' else k.upper()} {chance_text(v)}" for k, v in c.chance.items() if k != ALL]
    return f"holds all that is promised with {chance_text(c.chance[ALL])} ({', '.join(each)})"


def certainty_lines(answer: Answer) -> list[str]:
    """The cheapest for each chance, where they differ: ``50 %: 19.90 USD/h, 10 x AMD Instinct MI300X 192GB``."""
    found = answer.certainty
    said = [
        "nothing within the limits" if c is None else f"{money(c)}; {machines_text(c)}: {c.shape}"
        for c in found.values()
    ]
    return [f"{chance:.0%}: {words}" for chance, words in zip(found, said, strict=True)] if len(set(said)) > 1 else []


#: What the times of a candidate are called where it was not simulated.
EXPECTED = "expected"


def expected(
    answer: Answer, c: Candidate, statistics: Sequence[str]
) -> Iterator[tuple[str, list[str], str, list[tuple[Target, bool]]]]:
    """A row per metric: its name, a cell per statistic, its 80 % interval, its SLOs and whether they are met.

    Without a simulation the last cell holds the one expected value.
    """
    for name, label in METRICS:
        found = c.percentiles.get(name, {})
        cells = [q(found[s], "s") if s in found else "" for s in statistics]
        if not found:
            cells[-1] = q(float(getattr(c, name)), "s")
        ends = span(*c.interval[name]) if name in c.interval else ""
        mine = [(t, met(c, t)[1]) for t in answer.question.targets if t.metric == name]
        yield label if label.isupper() else "E2E", cells, ends, mine


def _percentiles(answer: Answer, c: Candidate, width: int | None) -> Any:
    shown = _STATISTICS if width is None or width >= _WIDE else _STATISTICS[-2:]
    table = grid("left", *("right",) * len(shown), "right", "left", gap=2)
    heads = shown if c.percentiles else (*[""] * (len(shown) - 1), EXPECTED)
    table.add_row("", *(_text((x, "bold")) for x in (*heads, " 80% interval", "SLO")))
    for label, cells, between, targets in expected(answer, c, shown):
        words = _text()
        words.no_wrap = width is None or width >= _WIDE
        for target, good in targets:
            words.append(f"{target.label} {q(target.limit_s, 's')} ")
            words.append(verdict(c, target), "bold green" if good else "bold red")
        if between and not targets:  # whose interval it is, an SLO says otherwise
            words.append("(of p99)", "dim")
        table.add_row(label, *cells, between, words)
    return table


def _infeasible(answer: Answer, width: int | None) -> Iterator[Any]:
    assert answer.infeasible is not None
    i = answer.infeasible
    yield _text(("nothing fits: ", "bold red"), i.reason)
    if i.closest is not None:
        yield _text(f"closest: {machines_text(i.closest)}, {i.closest.shape}, {i.closest.engine}")
        yield _percentiles(answer, i.closest, width)
    yield ""
    changes = [f"{c.text}: {machines_text(c.winner)}, {c.winner.shape}, {money(c.winner)}" for c in i.nearest]
    yield from bullets("the nearest changes that would", changes)
    if not changes:
        yield _text("no single change of the question was found that would")
    yield ""


def unmeasured(c: Candidate) -> bool:
    """Whether kernels of one of its machines were never measured: marked with a star."""
    return any(x.startswith(NEVER_MEASURED) for x in c.doubts)


def unbuilt(c: Candidate) -> bool:
    """Whether it is a fleet that nobody would build: its count is marked."""
    return any(x.startswith(NOBODY_BUILDS) for x in c.doubts)


#: What a candidate can show in a table: heading, and what makes a cell.
COLUMNS: dict[str, Callable[[Candidate], str]] = {
    "machine": lambda c: c.machine + "*" * unmeasured(c),
    "shape": lambda c: c.shape,
    "engine": lambda c: c.engine,
    "count": lambda c: str(c.devices) + "!" * unbuilt(c),
    "USD/h": lambda c: "-" if c.rent_usd_per_hour is None else f"{c.rent_usd_per_hour:,.2f}",
    "USD/M tok": lambda c: "-" if c.usd_per_million_tokens is None else f"{c.usd_per_million_tokens:,.3g}",
    "TTFT": lambda c: q(c.ttft_s, "s"),
    "TPOT": lambda c: q(c.tpot_s, "s"),
    "max/s": lambda c: figure(c.max_rate_per_s),
    "tok/s/user": lambda c: figure(c.tokens_per_s_per_user),
    "tok/s/device": lambda c: figure(c.tokens_per_s_per_device),
    "W": lambda c: f"{c.watts:,.0f}",
    "chance": lambda c: chance_text(c.chance[ALL]) if c.chance else "-",
}
_RENT = ("machine", "count", "shape", "engine", "USD/h", "TTFT", "TPOT", "max/s")
_RUNNERS = ("machine", "count", "shape", "engine", "USD/h", "TTFT", "TPOT", "chance")
#: What the star behind a machine says.
STAR = f"* {NEVER_MEASURED}: kernels borrowed from others' measurements, wider intervals (steelyard calibrate)"
#: What the mark behind a count says.
MARK = f"! {NOBODY_BUILDS}: so many cards of a kind that no server is sold with"
_SPEED = ("machine", "count", "shape", "engine", "tok/s/user", "tok/s/device", "USD/h")


#: Columns of a terminal that hold every statistic and a verdict.
_WIDE = 76
#: Columns that narrow terminals go without, first to go first.
_OPTIONAL = ("engine", "max/s", "TPOT", "tok/s/device", "chance")


def _tables(answer: Answer, width: int | None) -> Iterator[Any]:
    for words, found, names in (
        ("runners-up", answer.runners_up, _RUNNERS),
        ("front: speed for a user against tokens per device", answer.front, _SPEED),
        ("front: rent against time to first token", answer.cost_front, _RENT),
    ):
        if not found:
            continue
        yield _text((words, "bold"))
        shown = spread(found, _SHOWN)
        rows = [[COLUMNS[name](c) for name in names] for c in shown]
        there = kept(names, rows, width, _OPTIONAL, fold=["shape"])
        numeric = [n for n in names if n not in ("machine", "shape", "engine")]
        yield columns([names[i] for i in there], [[r[i] for i in there] for r in rows], numeric, fold=["shape"])
        yield from (_text(x) for x in left_out(names, there))
        if len(found) > len(shown):
            yield _text(f"{len(shown)} of {len(found):,}; --json has all")
        yield ""
    if said := star(answer):
        yield _text(said)
        yield ""


def star(answer: Answer) -> str:
    """What the star behind a machine and the mark behind a count say, where they stand."""
    w = answer.winner
    shown = (*([w] if w else []), *answer.runners_up, *answer.front, *answer.cost_front)
    said = [STAR] * any(unmeasured(c) for c in shown) + [MARK] * any(unbuilt(c) for c in shown)
    return "; ".join(said)


def _notes(answer: Answer, files: str) -> Iterator[Any]:
    if answer.ledger.assumptions:
        yield from bullets("assumed", answer.ledger.assumptions)
        yield ""
    yield _text(effort(answer))
    if files:
        yield _text(("files ", "bold"), f"in {files}: README.md says what each is and what to run")


def effort(answer: Answer) -> str:
    """What was looked at, and the CPU time it took."""
    return (
        f"{answer.candidates:,} candidates screened ({figure(answer.screened_per_s)}/s), {answer.simulated:,} "
        f"simulated, {q(answer.cpu_s, 's')} of CPU"
    )
