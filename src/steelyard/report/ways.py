"""What a plan's traffic costs by an API, rented, on demand and bought, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from steelyard.report.paper import bullet, columns, styled
from steelyard.units import figure
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.search.ways import Ways

__all__ = ["HEADS", "HOURS_PER_MONTH", "lines", "parts", "rows"]

#: Hours of a month, for its rent.
HOURS_PER_MONTH = 730
HEADS = ("way", "USD/h", "USD/month", "how")


def rows(ways: Ways) -> list[list[str]]:
    """A row per way, the cheapest first: name, USD per hour and month, how it is computed."""
    return [[w.name, f"{w.usd_per_hour:,.2f}", f"{w.usd_per_hour * HOURS_PER_MONTH:,.0f}", w.note] for w in ways.ways]


def parts(ways: Ways) -> list[Any]:
    """Table and sentences for a terminal."""
    return [
        styled(("own or API", "bold")),
        columns(HEADS, rows(ways), HEADS[1:3], HEADS[3:]),
        *(bullet(styled(text)) for text in lines(ways)),
        "",
    ]


def lines(ways: Ways) -> list[str]:
    """What follows from the ways, a sentence each."""
    return [*_rented(ways), *_idle(ways), *_on_demand(ways), *_bought(ways)]


def _rented(ways: Ways) -> Iterator[str]:
    even, known = ways.break_even_per_s, ways.by_name
    if even is None:
        return
    there, rent = known["api"].usd_per_hour, known["rented"].usd_per_hour
    share = (
        f"the API is {there / rent:.0%} of the rent" if there < rent else f"the rent is {rent / there:.0%} of the API"
    )
    if even > ways.most_per_s:
        yield f"{share}; rented it pays from {figure(even)} requests/s, more than this deployment holds: it never does"
    else:
        of = f" ({even / ways.rate_per_s:.0%} of what was asked)" if ways.rate_per_s > 0 else ""
        yield f"{share}; rented it pays from {figure(even)} requests/s on average over all hours{of}"


def _idle(ways: Ways) -> Iterator[str]:
    d = ways.demand
    if d is None:
        return
    text = (
        f"no request is in flight {d.idle_frac:.1%} of {q(d.period_s, 's')}, at most {q(d.longest_idle_s, 's')} on end"
    )
    if d.hours:
        text += f"; {d.hours_idle:,} of {d.hours:,} hours have no request"
        if d.hours_below is not None:
            text += f", in {d.hours_below:,} the API would be cheaper than the rent"
    yield text


def _on_demand(ways: Ways) -> Iterator[str]:
    o = ways.on_demand
    if o is None:
        return
    if o.up_frac >= 1:
        yield f"replicas that stop after {q(o.idle_s, 's')} without work never would: on demand saves nothing here"
        return
    yield (
        f"on demand replicas are paid {o.up_frac:.1%} of the time and start {figure(o.starts_per_day)} times a day; "
        f"{o.cold_frac:.2%} of the requests wait for a start, up to {q(o.start_s, 's')}"
    )


def _bought(ways: Ways) -> Iterator[str]:
    if ways.use_frac is not None and "rented" in ways.by_name:
        yield f"bought it pays from a use of {ways.use_frac:.0%} of all hours, against renting for those only"
    elif "bought" in ways.by_name and "rented" in ways.by_name:
        yield "bought it never pays: its power and its write-off are more than the rent"
