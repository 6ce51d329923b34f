"""What converters lose of analogue sums: bits beside those of the largest sum, and the noise of their steps.

A column adds ``R`` products of ``v`` bits of an input with ``w`` bits of a cell; ``R`` are the rows of an array that
keeps weights, and the ``depth`` of an element::

    bits of a sum   ceil(log2(R (2^v - 1) (2^w - 1) + 1))       converters of so many lose nothing
    signal          R (E[x^2] E[y^2] - E[x]^2 E[y]^2)           digits of inputs and cells all equally likely
    noise           step^2 / 12, step = largest sum / (2^B - 1)
    effective bits  (10 log10(signal / noise) - 1.76) / 6.02

Sums over columns and turns are shifted and added with what each lost, so that signal and noise of a whole product are
in the same proportion. Steps are even over the whole range; noise of cells, wires and the converter itself is not seen.
Sources: A. Shafiee et al., ISAAC, ISCA 2016, section III (bits of a sum); B. Murmann, Mixed-signal computing for deep
neural network inference, IEEE TVLSI 29(1), 2021.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from steelyard.machine.component import Compute

__all__ = ["Read", "read_sums", "words_of"]


class Read(NamedTuple):
    """How a column is read."""

    products: float
    """Of a sum."""
    input_bits: float
    cell_bits: float
    sum_bits: float
    lost_bits: float
    snr_db: float
    """inf: nothing is lost."""
    effective_bits: float


def read_sums(engine: Compute, input_bits: float, weight_bits: float) -> Read:
    """How the converters of an analogue array read a column whose rows all work.

    Args:
        engine: the array, with ``converter_bits``.
        input_bits: of an input, of which a turn has ``serial_bits``.
        weight_bits: of a weight, of which a column has ``cell_bits``.
    """
    products = engine.depth * (engine.rows if engine.dataflow in ("", "weight_stationary") else 1.0)
    v, w = engine.serial_bits or input_bits, engine.cell_bits or weight_bits
    most = products * (2.0**v - 1.0) * (2.0**w - 1.0)
    bits = float(np.ceil(np.log2(most + 1.0)))
    lost = max(0.0, bits - engine.converter_bits)
    if not lost:
        return Read(products, v, w, bits, 0.0, np.inf, bits)
    (x, xx), (y, yy) = _moments(v), _moments(w)
    signal = products * (xx * yy - x**2 * y**2)
    noise = (most / (2.0**engine.converter_bits - 1.0)) ** 2 / 12.0
    snr = float(10.0 * np.log10(signal / noise))
    return Read(products, v, w, bits, lost, snr, (snr - 1.76) / 6.02)


def _moments(bits: float) -> tuple[float, float]:
    """Means of a digit of so many bits, and of its square."""
    most = 2.0**bits - 1.0
    return most / 2.0, most * (2.0 * most + 1.0) / 6.0


def words_of(read: Read, converter_bits: float) -> str:
    """What an answer says of it."""
    of = f"sums of {read.products:,.0f} products of {read.input_bits:g} x {read.cell_bits:g} bits"
    if not read.lost_bits:
        return f"converters of {converter_bits:g} bits read {of} without loss ({read.sum_bits:g} bits)"
    return (
        f"converters of {converter_bits:g} bits lose {read.lost_bits:g} of the {read.sum_bits:g} bits of {of}: "
        f"{read.snr_db:.0f} dB, {max(0.0, read.effective_bits):.1f} effective bits; noise of cells is not seen"
    )
