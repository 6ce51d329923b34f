"""Choosing the attention model of a kernel: prefill, decode, or latent (MLA)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from steelyard.cost.attention import (
    DecodeParameters,
    PrefillParameters,
    decode_attention_time_s,
    prefill_attention_time_s,
)
from steelyard.cost.attention_kernels import attention_facts, attention_kernel, mla_facts, mla_kernel
from steelyard.cost.devices import attention_device
from steelyard.cost.indexer import sparse_decode_s, sparse_prompt_s
from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import ATTENTION
from steelyard.cost.mla import MlaParameters, mla_decode_time_s
from steelyard.cost.models import KernelTime, PricingContext, cost_model
from steelyard.cost.parameters import UNMEASURED_SPREAD, Calibrated, calibrated
from steelyard.cost.pim import COMMAND_S
from steelyard.cost.place import roofline
from steelyard.cost.site import Site

__all__ = ["attention", "attention_parameters"]


def attention_parameters(site: Site, phase: Literal["decode", "prefill"]) -> Calibrated:
    """Parameters of attention on a site, for its kind of memory."""
    cls = DecodeParameters if phase == "decode" else PrefillParameters
    found = calibrated("attention", cls, site.machine.name, (site.family,), (phase,))
    return found.at_memory(site.machine.root.kind, "dram_frac")


@cost_model(ATTENTION)
def attention(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Time of one fused attention kernel.

    Decode when every scenario has one new token per sequence, or says how many ``queries`` read the cache together
    (verification of guessed tokens); prefill otherwise. The window follows from how many cached tokens the kernel
    reaches.
    """
    site, f = context.site, kernel.features
    device = attention_device(site)
    queries = f.get("queries", 1.0)
    decoding = "queries" in f or bool(np.all(np.asarray(f["new"]) <= 1))
    if site.near_memory and decoding:  # units in the banks stream the cache, and compute as they do
        near_s = COMMAND_S + np.maximum(*roofline(kernel, site))
        return KernelTime(near_s, UNMEASURED_SPREAD, "default")
    if f["latent"]:
        found = calibrated("attention", MlaParameters, site.machine.name, (site.family,), ("mla",))
        picked = f.get("picked", 0) if site.stack.engine_kernels else 0
        if picked and not decoding:
            pairs = np.asarray(f["batch"]) * np.maximum(f["pairs"], np.asarray(f["new"]) * picked)
            launch_s, peak = found.parameters.launch_s, site.peak16_ops_per_s
            prompt = sparse_prompt_s(pairs, f["heads"], f["head_dim"], f["value_dim"], peak, launch_s)
            return KernelTime(prompt, found.spread, found.source)
        reach = np.minimum(f["context"], f["reach"])  # an indexer or a window reads less than the context
        time: Any = mla_decode_time_s(
            f["batch"],
            np.maximum(reach, picked),
            np.asarray(f["heads"]) * queries,  # the kernel knows rows that share a latent, not whose they are
            latent_dim=f["value_dim"],
            rope_dim=np.asarray(f["head_dim"]) - np.asarray(f["value_dim"]),
            kv_bits=f["kv_bits"],
            device=device,
            parameters=found.parameters,
            facts=mla_facts(mla_kernel(site.family, f["kv_bits"])),
        )
        time = sparse_decode_s(time, found.parameters.launch_s) if picked else time
        return KernelTime(time, found.spread, found.source)
    own = context.engine.attention if site.stack.engine_kernels else ""
    expanded = float(f["head_dim"]) != float(f["value_dim"])  # latent attention with its keys and values expanded
    kernel_name = attention_kernel(site.family, f["kv_bits"], float(f["head_dim"]), expanded=expanded, own=own)
    facts = attention_facts(kernel_name)
    shape = (f["heads"], f["kv_heads"], f["head_dim"])
    if decoding:
        found = attention_parameters(site, "decode")
        time = decode_attention_time_s(
            f["batch"],
            f["context"],
            *shape,
            kv_bits=f["kv_bits"],
            window=f["window"],
            device=device,
            parameters=found.parameters,
            facts=facts,
            value_dim=f["value_dim"],
            queries=queries,
        )
    else:
        found = attention_parameters(site, "prefill")
        time = prefill_attention_time_s(
            f["batch"],
            f["new"],
            np.asarray(f["context"]) - np.asarray(f["new"]),
            *shape,
            kv_bits=f["kv_bits"],
            causal=f["causal"],
            window=f["window"],
            device=device,
            parameters=found.parameters,
            facts=facts,
            value_dim=f["value_dim"],
            cache_write=False,  # an op of its own
        )
    return KernelTime(time, found.spread, found.source)
