"""Prices of models hosted by others: USD per million tokens of prompts and of answers, dated.

cost of a request = (prompt tokens x price of prompts + answer tokens x price of answers) / 1e6
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from steelyard.documents import build, read_document
from steelyard.errors import InputError, UnknownName
from steelyard.folders import catalogue_files
from steelyard.units import Quantity
from steelyard.workload.catalogue import find_model

__all__ = ["HostedPrice", "check_against", "hosted_prices"]


@dataclass(frozen=True, slots=True)
class HostedPrice:
    """The price of a model at a provider."""

    __pydantic_config__ = {"extra": "forbid"}

    provider: str
    prompt: Annotated[float, Quantity("1", "USD per million tokens of prompts", ge=0)]
    answer: Annotated[float, Quantity("1", "USD per million generated tokens", ge=0)]
    date: Annotated[str, "year and month of the price list"] = ""
    guess: Annotated[bool, "written from memory"] = True

    @property
    def source(self) -> str:
        """``groq, 2025-06, from memory``."""
        return ", ".join([self.provider, *([self.date] if self.date else []), *(["from memory"] if self.guess else [])])

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
    for path in catalogue_files("hosted"):
        for entry in build(_HostedFile, read_document(path), path.name).hosted:
            name = _name(entry.model)
            found[name] = (*found.get(name, ()), *entry.prices)
    return found


def _name(model: str) -> str:
    try:
        return find_model(model).id
    except UnknownName:
        return model


def _newest(prices: Sequence[HostedPrice]) -> list[HostedPrice]:
    """Of each provider the newest price list, the first of equal dates."""
    found: dict[str, HostedPrice] = {}
    for price in prices:
        if price.provider not in found or price.date > found[price.provider].date:
            found[price.provider] = price
    return list(found.values())


def check_against(text: str, model: str) -> HostedPrice | None:
    """The price meant: ``api`` the cheapest of the newest known, a provider's name, or ``0.2/0.6`` of your own.

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
    known = _newest(hosted_prices().get(_name(model), ()))
    if not known:
        raise InputError(f"no hosted price of {model} is known; say one: --against 0.2/0.6", field="against")
    if words == "api":
        return min(known, key=lambda p: p.prompt + p.answer)
    for price in known:
        if price.provider == words:
            return price
    raise InputError(UnknownName("provider", text, ("api", *(p.provider for p in known))).message, field="against")
