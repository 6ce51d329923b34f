"""A site as each op model sees it: the one place where spec-sheet figures become the models' inputs."""

from __future__ import annotations

from steelyard.cost.attention_facts import EXPONENTIALS_PER_CLOCK, AttentionDevice
from steelyard.cost.gemm import GemmDevice
from steelyard.cost.moe import MoeDevice
from steelyard.cost.site import Site
from steelyard.cost.vector import VectorDevice

__all__ = ["DEFAULT_CLOCK_HZ", "attention_device", "gemm_device", "moe_device", "vector_device"]

#: Formats in which a product is fed as its own peak says.
WIDE = ("fp32", "fp64", "tf32")
#: Clock of an engine whose file states none, Hz (guess).
DEFAULT_CLOCK_HZ = 1.5e9


def gemm_device(site: Site) -> GemmDevice:
    """Dense products."""
    return GemmDevice(
        site.units,
        site.peak_ops_per_s,
        site.peak16_ops_per_s,
        site.dram_bytes_per_s,
        site.l2_bytes,
        site.l2_bytes_per_s,
        site.copy_engine,
        site.clock_hz or DEFAULT_CLOCK_HZ,
        site.machine.tdp_w,
        site.feed16_ops_per_s if site.compute not in WIDE else 0.0,
    )


def moe_device(site: Site) -> MoeDevice:
    """Grouped products of experts."""
    return MoeDevice(
        int(site.units),
        site.peak_ops_per_s,
        site.peak16_ops_per_s,
        site.dram_bytes_per_s,
        site.l2_bytes,
        site.l2_bytes_per_s,
        site.copy_engine,
        site.feed16_ops_per_s,
    )


#: Multiply-accumulates a clock of the cores of a dataflow chip that take a tile of attention together (a guess: what
#: half a multiprocessor of a GPU does).
REGION_MACS = 512.0


def attention_units(site: Site) -> float:
    """Units that take a tile of attention each: cores; of a dataflow chip with small ones, regions of them."""
    macs = site.peak16_ops_per_s / (2.0 * (site.clock_hz or DEFAULT_CLOCK_HZ))
    if site.machine.launch != "dataflow":
        return site.units
    return min(site.units, max(macs / REGION_MACS, 1.0))


def attention_device(site: Site) -> AttentionDevice:
    """Attention, prefill and decode."""
    return AttentionDevice(
        units=attention_units(site),
        peak_ops_per_s=site.peak16_ops_per_s,
        dram_bytes_per_s=site.dram_bytes_per_s,
        l2_bytes=site.l2_bytes,
        l2_bytes_per_s=site.l2_bytes_per_s,
        clock_hz=site.clock_hz or DEFAULT_CLOCK_HZ,
        copy_engine=site.copy_engine,
        peak8_ops_per_s=site.engine.peak.get("fp8", 0.0),
        exp_per_clock=site.engine.exp_per_clock or EXPONENTIALS_PER_CLOCK,
        feed16_ops_per_s=site.feed16_ops_per_s,
    )


def vector_device(site: Site) -> VectorDevice:
    """Norms, activations, copies."""
    return VectorDevice(
        site.dram_bytes_per_s, site.l2_bytes, site.l2_bytes_per_s, site.vector_ops_per_s, int(site.units)
    )
