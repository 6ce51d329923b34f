"""A plan beside the price of the same model hosted by others: what its traffic costs there, and when it pays.

    cost of a request = (prompt tokens x price of prompts + answer tokens x price of answers) / 1e6
    break-even        = rent / cost of a request

The rent runs whether requests come or not, the other bill does not: the break-even is of the mean rate over all hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from steelyard.documents import build, read_document
from steelyard.errors import InputError, UnknownName
from steelyard.folders import catalogue_folders
from steelyard.search.answer import Answer
from steelyard.search.task import AMORTISATION_H
from steelyard.units import Quantity
from steelyard.workload.catalogue import find_model

__all__ = ["HostedPrice", "check_against", "hosted_prices", "reasons_against"]

#: Price of power where none is said, USD/kWh (guess: what large users pay in the United States).
USD_PER_KWH = 0.10


@dataclass(frozen=True, slots=True)
class HostedPrice:
    """The price of a model at a provider."""

    __pydantic_config__ = {"extra": "forbid"}

    provider: str
    prompt: Annotated[float, Quantity("1", "USD per million tokens of prompts", ge=0)]
    answer: Annotated[float, Quantity("1", "USD per million generated tokens", ge=0)]
    date: Annotated[str, "year and month of the price list"] = ""
    guess: Annotated[bool, "written from memory"] = True

    def request_usd(self, prompt_tokens: float, answer_tokens: float) -> float:
        """Of one request."""
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / 1e6


@dataclass(frozen=True, slots=True)
class _Hosted:
    __pydantic_config__ = {"extra": "forbid"}

    model: str
    prices: tuple[HostedPrice, ...]


@dataclass(frozen=True, slots=True)
class _HostedFile:
    __pydantic_config__ = {"extra": "forbid"}

    hosted: tuple[_Hosted, ...]


@cache
def hosted_prices() -> Mapping[str, tuple[HostedPrice, ...]]:
    """Prices by the catalogue's name of the model, those of the catalogue that is searched first at the front.

    Raises:
        InputError: a file cannot be read.
    """
    found: dict[str, tuple[HostedPrice, ...]] = {}
    for folder in catalogue_folders():
        for path in sorted((folder / "hosted").glob("*.toml")):
            for entry in build(_HostedFile, read_document(path), path.name).hosted:
                name = _name(entry.model)
                found[name] = (*found.get(name, ()), *entry.prices)
    return found


def _name(model: str) -> str:
    try:
        return find_model(model).id
    except UnknownName:
        return model


def check_against(text: str, model: str) -> HostedPrice | None:
    """The price meant: ``api`` the cheapest known for the model, a provider's name, or ``0.2/0.6`` of your own.

    Raises:
        InputError: none is known, or it cannot be read.
    """
    if not text.strip():
        return None
    words = text.strip().lower()
    if "/" in words:
        prompt, _, answer = words.partition("/")
        try:
            own = HostedPrice("as said", float(prompt), float(answer), "", guess=False)
        except ValueError:
            own = None
        if own is None or not (0 <= own.prompt < 1e6 and 0 <= own.answer < 1e6 and own.prompt + own.answer > 0):
            words = "expected USD per million tokens of prompts / of answers, such as 0.2/0.6"
            raise InputError(f"{words}, got {text!r:.80}", field="against")
        return own
    known = hosted_prices().get(_name(model), ())
    if not known:
        raise InputError(f"no hosted price of {model} is known; say one: --against 0.2/0.6", field="against")
    if words == "api":
        return min(known, key=lambda p: p.prompt + p.answer)
    for price in known:
        if price.provider == words:
            return price
    raise InputError(UnknownName("provider", text, ("api", *(p.provider for p in known))).message, field="against")


def reasons_against(answer: Answer, price: HostedPrice) -> Iterator[str]:
    """What a plan's traffic costs at a provider, and the mean load from which the plan's rent is less."""
    question, winner = answer.question, answer.winner
    if winner is None or winner.rent_usd_per_hour is None:
        return
    each = price.request_usd(question.prompt_tokens, question.output_tokens)
    rate = question.rate_per_s if question.concurrency is None else winner.max_rate_per_s
    there, rent = each * rate * 3600.0, winner.rent_usd_per_hour
    known = f"{price.provider}{f', {price.date}' if price.date else ''}{', from memory' if price.guess else ''}"
    even = rent / (each * 3600.0)
    cheaper = (
        f"the API is {there / rent:.0%} of the rent" if there < rent else f"the rent is {rent / there:.0%} of the API"
    )
    yield (
        f"against an API at {price.prompt:g} and {price.answer:g} USD per million prompt and generated tokens "
        f"({known}): {there:,.2f} USD/h for this traffic around the clock, {rent:,.2f} rented: {cheaper}"
    )
    if even > winner.max_rate_per_s:
        yield f"rented it pays from {even:,.3g} requests/s on average, more than this deployment holds: it never does"
    else:
        share = even / rate if rate > 0 else float("inf")
        yield (
            f"rented it pays from {even:,.3g} requests/s on average over all hours ({share:.0%} of what was asked): "
            "idle hours cost rent, not tokens"
        )
    yield from _bought(answer, rent)


def _bought(answer: Answer, rent: float) -> Iterator[str]:
    """What the devices cost bought, where their price is known."""
    question, winner = answer.question, answer.winner
    assert winner is not None
    names = winner.machine.split("+")
    machine = question.machine(names[0])
    if len(names) > 1 or not machine.capex_usd:
        return
    capital = machine.capex_usd * winner.devices / AMORTISATION_H
    power = winner.watts / 1000.0 * USD_PER_KWH
    yield (
        f"bought at {machine.capex_usd:,.0f} USD a device: "
        f"{capital + power:,.2f} USD/h over {AMORTISATION_H / 8760:g} years, {power:,.2f} of it power at "
        f"{USD_PER_KWH:.2f} USD/kWh (hosts, space and people not counted); renting is dearer from a use of "
        f"{min(capital / max(rent - power, 1e-9), 9.99):.0%}"
    )
