"""Money: what a device costs per hour."""

from __future__ import annotations

from steelyard.machine.catalogue import price_of
from steelyard.machine.component import Machine
from steelyard.provenance import Ledger

__all__ = ["AMORTISATION_H", "hourly_price"]

#: Hours over which a bought device is written off: three years of continuous use, a common accounting life.
AMORTISATION_H = 3 * 8760.0


def hourly_price(machine: Machine, given: float | None, ledger: Ledger) -> tuple[float | None, str]:
    """Price per device and hour (USD) and where it comes from: given, the catalogue's, or a purchase written off.

    Args:
        machine: the device.
        given: the user's price, USD per device and hour; None = look it up.
        ledger: takes the source or the assumption.
    """
    if given is not None:
        return given, "given"
    found = price_of(machine.name)
    if found is not None:
        ledger.cite(f"price of {found.machine}", f"{found.source}, {found.provider_class}, {found.date}")
        return found.usd_per_hour, f"{found.provider_class}, {found.date}"
    if machine.capex_usd:
        price, years = f"{machine.capex_usd:,.0f} USD", f"{AMORTISATION_H / 8760:.0f} years"
        ledger.assume(f"no rental price known: {price} written off over {years}")
        return machine.capex_usd / AMORTISATION_H, f"{price} over {years}"
    return None, "no price known"
