"""Sparse attention that an indexer steers (DeepSeek-V3.2): its queries, scores and pick, and attention over the picked.

    queries   = kernels x launch + passes over them          many small kernels: rotary, Hadamard, quantise, gate
    scores    = the product + SCORES_S
    pick      = PICK_S + max(keys of a row, pairs / units) x KEY_S     one block of threads picks for one row
    attention = decode: the latent kernel over all ``top_k`` places, filled or not, SPARSE times as long, its tokens
                are gathered one by one;  prompts: 2 new top_k heads (2 latent + rope) / (SPARSE_FRAC peak)

Sources: SGLang of late 2025 (`nsa_indexer.py`; kernels counted there, rotary unfused as the class of YaRN writes it),
SGLang's benchmark of its pick and scores on an H200 (13, 15 and 37 us at 4, 16 and 64 thousand keys; 8 us of scores),
FlashMLA's README (640 TFLOP/s of prompts, 410 of decodes on an H800, where dense decodes reach 660). Where there are no
such kernels each part is priced as the plain product or pass that it is.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import GEMM, VECTOR, Kind, Structure
from steelyard.cost.models import KernelTime, PricingContext, cost_model, model_for
from steelyard.cost.parameters import calibrated
from steelyard.cost.vector import VectorParameters

__all__ = ["PICK", "QUERIES", "SCORES", "pick", "queries", "scores", "sparse_decode_s", "sparse_prompt_s"]

SCORES_S: Final = 5e-6
"""Start, schedule and drain of the kernel of scores beyond a plain product."""
PICK_S: Final = 11e-6
"""A pick of few keys: passes of a histogram, one after the other."""
KEY_S: Final = 0.39e-9
"""For every further key of a row."""
KERNELS_PER_PASS: Final = 5.0
"""Small kernels around the queries for one pass over all of them: most touch the rotated half, the keys or the gate."""
SPARSE: Final = 1.5
"""A decode over picked tokens against one over as many in order: 1.6 by FlashMLA's README, 1.45 to 1.5 of rows of an
H800."""
SPARSE_FRAC: Final = 0.64
"""Of the 16-bit peak by prompts over picked tokens."""


def _is_queries(s: Structure) -> bool:
    return s.ops[0].map == "quantise" and "i" in s.ops[0].ranks


def _is_scores(s: Structure) -> bool:
    op = s.ops[0]
    return len(s.ops) == 1 and bool(s.contractions) and op.inputs[1].role == "kv" and "i" not in op.output.ranks


def _is_pick(s: Structure) -> bool:
    return s.ops[0].map == "top_k" and "l" in s.ops[0].ranks


def _picked(s: Structure, plan: Any) -> dict[str, Any]:
    op = s.ops[0]
    return {**VECTOR.features(s, plan), "keys": op.size("l"), "pairs": op.points()}


#: Queries of an indexer made ready: rotated, transformed, quantised, weighted.
QUERIES: Final = Kind("index_queries", _is_queries, VECTOR.features, engine="vector", weights_cold=False)
#: Scores of cached keys, added over the heads.
SCORES: Final = Kind("index_scores", _is_scores, GEMM.features, refines=("gemm",))
#: The keys with the largest scores.
PICK: Final = Kind("index_pick", _is_pick, _picked, engine="vector", weights_cold=False)


def _own(context: PricingContext) -> bool:
    """Whether the engine has kernels for it there; others run the plain operations."""
    return context.site.stack.engine_kernels


@cost_model(QUERIES)
def queries(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Small kernels over the queries, keys and weights of an indexer."""
    one = model_for(VECTOR.name, context.site.machine)(kernel, context)
    count = context.engine.index_kernels
    if not _own(context) or not count:
        return one
    site = context.site
    launch_s = calibrated("vector", VectorParameters, site.machine.name, (site.family,)).parameters.launch_s
    streaming = np.maximum(np.asarray(one.time_s) - launch_s, 0.0)
    return KernelTime(count * launch_s + np.maximum(count / KERNELS_PER_PASS, 1.0) * streaming, one.spread, one.source)


@cost_model(SCORES)
def scores(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Products of an indexer's queries with cached keys."""
    product = model_for(GEMM.name, context.site.machine)(kernel, context)
    return KernelTime(product.time_s + SCORES_S, product.spread, product.source) if _own(context) else product


@cost_model(PICK)
def pick(kernel: Kernel, context: PricingContext) -> KernelTime:
    """The ``top_k`` largest scores of every row."""
    moved = model_for(VECTOR.name, context.site.machine)(kernel, context)
    if not _own(context):
        return moved
    f = kernel.features
    keys = np.maximum(f["keys"], np.asarray(f["pairs"]) / context.site.units)
    return KernelTime(np.maximum(moved.time_s, PICK_S + KEY_S * keys), moved.spread, "SGLang's benchmark on one H200")


def sparse_decode_s(dense_s: Any, launch_s: float) -> Any:
    """Decode attention over picked tokens from that over as many in order, s."""
    return launch_s + SPARSE * np.maximum(np.asarray(dense_s) - launch_s, 0.0)


def sparse_prompt_s(pairs: Any, heads: Any, key_dim: Any, value_dim: Any, peak: float, launch_s: float) -> Any:
    """Attention of prompts whose queries read picked latents, s. ``pairs``: of all sequences; ``peak``: FLOP/s."""
    flops = 2.0 * np.asarray(pairs) * heads * (np.asarray(key_dim) + value_dim)
    return launch_s + flops / (SPARSE_FRAC * peak)
