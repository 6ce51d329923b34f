"""Money: what a device costs per hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steelyard.machine.catalogue import find_whole, price_of
from steelyard.machine.component import Machine
from steelyard.provenance import Ledger

__all__ = ["AMORTISATION_H", "HourlyPrice", "hourly_price", "mean_price"]

#: Hours over which a bought device is written off: three years of continuous use, a common accounting life.
AMORTISATION_H = 3 * 8760.0


class HourlyPrice(NamedTuple):
    """What a device costs per hour."""

    usd_per_hour: float | None
    """USD per device and hour; None = no price known."""
    note: str
    """Where the price comes from."""

    def to_dict(self) -> dict[str, float | str | None]:
        """The price by its names in answers."""
        return {"usd_per_device_hour": self.usd_per_hour, "price": self.note}


def hourly_price(machine: Machine, given: float | None, ledger: Ledger, system: str = "") -> HourlyPrice:
    """The price of a device: given, the instance's it was asked for as, the catalogue's, or a purchase written off.

    Args:
        machine: the device.
        given: the user's price, USD per device and hour; None = look it up.
        ledger: takes the source or the assumption.
        system: the whole system it was asked for as, if any.
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
        price, years = f"{machine.capex_usd:,.0f} USD", f"{AMORTISATION_H / 8760:.0f} years"
        ledger.assume(f"no rental price known: {price} written off over {years}")
        return HourlyPrice(machine.capex_usd / AMORTISATION_H, f"{price} over {years}")
    return HourlyPrice(None, "no price known")


def mean_price(prices: Sequence[HourlyPrice]) -> HourlyPrice:
    """The price per device of devices of several kinds; unknown when one of them is."""
    known = [p.usd_per_hour for p in prices if p.usd_per_hour is not None]
    notes = "; ".join(dict.fromkeys(p.note for p in prices))
    return HourlyPrice(sum(known) / len(known) if len(known) == len(prices) else None, notes)
