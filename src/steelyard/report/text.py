"""The report of one estimate, for a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steelyard.report.estimate import flops_of, shares_of
from steelyard.report.paper import TIMES, Line, bullets, figure, grid, indented, lines_table, render, span, spare_text
from steelyard.report.paper import styled as _text
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from steelyard.estimation.estimate import Estimate
    from steelyard.scenario.scenario import Scenario

__all__ = ["TIMES", "parts", "prompt_words", "rate_lines", "report", "time_rows", "title"]

#: Sources shown in full before the rest is only counted.
_SHOWN = 6


def report(estimate: Estimate, width: int | None = None) -> str:
    """The whole answer as text.

    Args:
        estimate: what to report.
        width: columns of the terminal; None = 80 columns without colour.
    """
    return render(parts(estimate), width)


def parts(estimate: Estimate) -> list[Any]:
    """The report as renderables, from the scenario to the sources."""
    supposed = [] if estimate.fits else [_text(("if it did fit", "bold"))]
    rates = lines_table(rate_lines(estimate))
    head = [*title(estimate), "", *_memory(estimate), "", *supposed]
    return [*head, _times(estimate), "", rates, "", *_notes(estimate)]


def title(e: Estimate) -> list[Text]:
    """Model and machine, engine and formats, and the batch."""
    s, p = e.scenario, e.scenario.plan
    called = f" ({s.cluster.meaning.partition(':')[0]})" if s.cluster.meaning else ""
    formats = f"weights {p.weights}, activations {p.activations}, KV cache {p.kv}"
    return [
        _text(
            (s.transformer.name, "bold"),
            " on ",
            (f"{s.cluster.title}{called}", "bold"),
        ),
        _text(f"{s.engine.title}{', ' + p.shape if p.shape else ''}; {formats}"),
        _text(f"batch {s.batch:,} of {prompt_words(s)} + {s.osl:,} generated tokens"),
    ]


def prompt_words(s: Scenario) -> str:
    """``1,024 prompt``, or ``1,024 text + 2 x 1,369 image``; the word tokens follows."""
    if not s.seen:
        return f"{s.isl:,} prompt"
    word = {"vision": "image", "audio": "audio"}
    number = [f"{x.shown.count:g} x " if x.shown.count != 1 else "" for x in s.seen]
    beside = [f"{n}{x.tokens:,} {word[x.shown.kind]}" for n, x in zip(number, s.seen, strict=True)]
    return " + ".join([f"{s.isl:,} text", *beside])


def _memory(e: Estimate) -> list[Any]:
    m = e.memory
    total, capacity = q(float(m.total), "B"), q(float(m.capacity), "B")
    if e.fits:
        head = _text(
            ("fits", "bold green"), f"  {total} of {capacity} usable per device, {spare_text(float(m.headroom))}"
        )
    elif float(m.headroom) >= 0:
        head = _text(("does not fit", "bold red"), f"  host memory; {total} of {capacity} usable per device")
    else:
        head = _text(
            ("does not fit", "bold red"),
            f"  {total} of {capacity} usable per device, {spare_text(float(m.headroom))}",
        )
    names = (("weights", m.weights), ("KV cache", m.kv_cache), ("activations", m.activations), ("buffers", m.other))
    parts = indented(_text(", ".join(f"{name} {q(float(x), 'B')}" for name, x in names)))
    lines: list[Any] = [head, parts, *_by_part(e)]
    s = e.scenario
    if m.host_capacity:
        held, there = q(float(m.host), "B"), q(m.host_capacity, "B")
        lines.append(indented(_text(f"host memory {held} of {there} usable")))
    lines.append(
        indented(
            _text(
                f"largest batch {e.largest_batch:,} at {s.prompt + s.osl:,} tokens; "
                f"largest context {e.largest_context:,} at batch {s.batch:,}"
            )
        )
    )
    if not e.fits:
        from steelyard.estimation.infeasibility import remedy

        lines.append(indented(_text(("nearest change that fits: ", "bold"), remedy(s))))
    return lines


def _by_part(e: Estimate) -> list[RenderableType]:
    """Weights by part, and what the engine's log will say."""
    from steelyard.estimation.start_up import log_lines, memory_parts

    weights = sorted(memory_parts(e)["weights"].items(), key=lambda item: -item[1])
    shown = [f"{part} {q(float(size), 'B')}" for part, size in weights if size >= 0.005 * float(e.memory.weights)]
    lines = ["weights: " + ", ".join(shown)] if len(shown) > 1 else []
    for line in log_lines(e):
        value = q(line.value, "B") if line.unit == "B" else f"{line.value:,.2f}x" if line.unit == "x" else ""
        value = value or f"{line.value:,.0f} {line.unit}".rstrip()
        ends = f" (80 %: {line.low:,.0f} to {line.high:,.0f})" if line.low is not None else ""
        lines.append(f"log: {line.name} {value}{ends}")
    return [indented(_text(line)) for line in lines]


def _bound(e: Estimate, phase: str) -> str:
    return _largest(shares_of(e, phase))


def _largest(shares: Mapping[str, float]) -> str:
    """The two largest shares of a time, in words."""
    largest = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join([f"{name} {share:.0%}" for name, share in largest if share >= 0.045][:2])


def _times(e: Estimate) -> Any:
    table = grid("left", "right", "right", "right", "left")
    table.add_row(*(_text((x, "bold")) for x in TIMES))
    for label, value, *rest in time_rows(e):
        table.add_row(label, value if label.startswith("  ") or not rest[0] else _text((value, "bold")), *rest)
    return table


def time_rows(e: Estimate) -> list[list[str]]:
    """The times of the answer, a row each: name, predicted, 80 % interval, limit, what bounds it."""
    found: list[list[str]] = []
    batch = e.scenario.batch
    first = "TTFT" if e.scenario.transformer.causal else "answer"
    rows: list[tuple[str, str, str]] = [(f"{first}, whole batch" if batch > 1 else first, "ttft_s", "prefill")]
    if e.scenario.transformer.causal:
        rows += [("TPOT", "tpot_s", "decode"), ("end to end", "e2e_s", "")]
    for label, name, phase in rows:
        low, high = e.interval[name]
        limit = q(e.limit[name], "s") if name in e.limit else ""
        bound = _bound(e, phase) if phase else ""
        found.append([label, q(getattr(e, name), "s"), span(low, high), limit, bound])
        if name == "ttft_s" and e.encode:
            what = ", ".join(dict.fromkeys(s.shown.field for s in e.scenario.seen))
            took, least = (q(e.encode[x], "s") for x in ("time_s", "limit_s"))
            found.append([f"  of it {what}", took, "", least, _largest(e.encode["shares"])])
            if e.encode["host_s"]:
                found.append(["  of it host", q(e.encode["host_s"], "s"), "", "", "decoding, resizing, copying"])
        if name == "ttft_s" and batch > 1:
            found.append([f"{first}, one request", q(e.ttft_single_s, "s"), "", "", ""])
    return found


def rate_lines(e: Estimate) -> list[Line]:
    """Throughput, energy, money and work."""
    thing = "token" if e.scenario.transformer.causal else "answer"
    each = f"{figure(e.tokens_per_s_per_device)} per device"
    each += f", {figure(e.tokens_per_s_per_user)} per user" if e.scenario.transformer.causal else ""
    watts = (e.energy_j + e.host_energy_j) / e.e2e_s / e.devices
    money = f"{e.price_note}; give one with --price"
    if e.usd_per_million_tokens is not None and e.usd_per_hour is not None:
        money = f"{q(e.usd_per_million_tokens, 'USD')} per million {thing}s at {e.usd_per_hour:,.2f} USD/h per device"
        money += f" ({e.price_note})"
    total, active = e.scenario.transformer.parameters(), e.scenario.transformer.active_parameters()
    sizes = f"{total / 1e9:,.4g} B parameters" + (f", {active / 1e9:,.4g} B active" if active != total else "")
    sizes += "".join(f" + {tower.parameters / 1e9:,.3g} B {tower.name}" for tower in e.scenario.transformer.towers)
    flops = flops_of(e)
    work = f"{sizes}; prefill {q(flops['prefill'], 'FLOP')}, decode step {q(flops['decode'], 'FLOP')}"
    return [
        Line("throughput", f"{figure(e.tokens_per_s)} {thing}s/s; {each}"),
        Line("energy", f"{q(e.energy_j_per_token, 'J')} per {thing}, hosts included ({watts:,.0f} W per device)"),
        Line("money", money),
        Line("work", work),
    ]


def _notes(e: Estimate) -> list[Any]:
    sources = _sources(e)
    rest, guesses = len(sources) - _SHOWN, len(e.ledger.guesses)
    closing = [f"{rest} more sources"] if rest > 0 else []
    closing += [f"{guesses} figures are guesses (never published)"] if guesses else []
    more = [f"{' and '.join(closing)}; --json lists all, `steelyard explain` shows every kernel"] if closing else []
    shown = [*map(_short, sources[:_SHOWN]), *more]
    return [*bullets("assumed", e.ledger.assumptions), *bullets("sources", shown)]


def _sources(e: Estimate) -> list[str]:
    """One line per source; cost models whose parameters came from the same place share one."""
    lines, models = [], dict[str, list[str]]()
    for what, source in e.ledger.sources.items():
        if what.endswith(" model"):
            models.setdefault(source, []).append(what.removesuffix(" model"))
        else:
            lines.append(f"{what}: {source}")
    kernels = "; ".join(f"{source} ({', '.join(names)})" for source, names in models.items())
    return [f"kernel times: {kernels}", *lines] if kernels else lines


def _short(text: str, most: int = 140) -> str:
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."
