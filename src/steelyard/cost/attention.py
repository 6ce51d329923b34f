"""Attention cost models, one place to import from: decode, prefill, and what they need. Latent attention (MLA) is in
`mla.py`."""

from __future__ import annotations

from steelyard.cost.attention_decode import DecodeParameters, decode_attention_limit_s, decode_attention_time_s
from steelyard.cost.attention_facts import AttentionDevice, AttentionFacts
from steelyard.cost.attention_prefill import (
    PrefillParameters,
    cache_write_time_s,
    prefill_attention_limit_s,
    prefill_attention_time_s,
)

__all__ = [
    "AttentionDevice",
    "AttentionFacts",
    "DecodeParameters",
    "PrefillParameters",
    "cache_write_time_s",
    "decode_attention_limit_s",
    "decode_attention_time_s",
    "prefill_attention_limit_s",
    "prefill_attention_time_s",
]
