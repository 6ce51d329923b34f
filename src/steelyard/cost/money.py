"""Money: what a device costs per hour, rented or bought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steelyard.machine.catalogue import find_whole, price_of
from steelyard.machine.component import Machine
from steelyard.provenance import Ledger
from steelyard.units import HOURS_PER_YEAR, power_text

__all__ = ["HourlyPrice", "Purchase", "hourly_price", "mean_price"]


class Purchase(NamedTuple):
    """How a bought device is written off, and what its power costs."""

    years: float = 3.0
    """Of continuous use: a common accounting life."""
    usd_per_kwh: float = 0.10
    """Price of power (guess: what large users pay in the United States)."""

    def usd_per_hour(self, capex_usd: float, watts: float) -> float:
        """Of a device with its power: ``capex / hours + watts x price``."""
        return self.capital_usd_per_hour(capex_usd) + self.power_usd_per_hour(watts)

    def capital_usd_per_hour(self, capex_usd: float) -> float:
        """The share of a purchase that falls to an hour."""
        return capex_usd / (self.years * HOURS_PER_YEAR)

    def power_usd_per_hour(self, watts: float) -> float:
        """Of the electricity."""
        return watts / 1000.0 * self.usd_per_kwh

    def __str__(self) -> str:
        return f"{self.years:g} year{'s' * (self.years != 1)} and power at {self.usd_per_kwh:.2f} USD/kWh"


class HourlyPrice(NamedTuple):
    """What a device costs per hour."""

    usd_per_hour: float | None
    """USD per device and hour; None = no price known."""
    note: str
    """Where the price comes from."""

    def to_dict(self) -> dict[str, float | str | None]:
        """The price by its names in answers."""
        return {"usd_per_device_hour": self.usd_per_hour, "price": self.note}


def hourly_price(
    machine: Machine,
    given: float | None,
    ledger: Ledger,
    system: str = "",
    purchase: Purchase = Purchase(),  # noqa: B008 - frozen
) -> HourlyPrice:
    """The price of a device: given, the instance's it was asked for as, the catalogue's, or a purchase written off.

    A purchase counts the power of the device at the most it draws; hosts, space and people are not in it.

    Args:
        machine: the device.
        given: the user's price, USD per device and hour; None = look it up.
        ledger: takes the source or the assumption.
        system: the whole system it was asked for as, if any.
        purchase: how it is written off where no rental price is known.
    """
    if given is not None:
        return HourlyPrice(given, "given")
    if system and (whole := find_whole(system)).usd_per_hour:
        ledger.cite(f"price of {whole.name}", whole.source)
        return HourlyPrice(whole.usd_per_hour / whole.devices, f"{whole.usd_per_hour:g} USD/h for {whole.name}")
    found = price_of(machine.name)
    if found is not None:
        ledger.cite(f"price of {found.machine}", f"{found.source}, {found.provider_class}, {found.date}")
        return HourlyPrice(found.usd_per_hour, f"{found.provider_class}, {found.date}")
    if machine.capex_usd:
        over = f"{machine.capex_usd:,.0f} USD over {purchase}"
        watts = power_text(machine.most_w)
        ledger.assume(f"{machine.name}: no rental price known: {over}, at the {watts} it draws at most")
        return HourlyPrice(purchase.usd_per_hour(machine.capex_usd, machine.most_w), over)
    return HourlyPrice(None, "no price known")


def mean_price(prices: Sequence[HourlyPrice]) -> HourlyPrice:
    """The price per device of devices of several kinds; unknown when one of them is."""
    known = [p.usd_per_hour for p in prices if p.usd_per_hour is not None]
    notes = "; ".join(dict.fromkeys(p.note for p in prices))
    return HourlyPrice(sum(known) / len(known) if len(known) == len(prices) else None, notes)
