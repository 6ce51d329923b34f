"""What mixes the tokens of a model: the names under which hybrids stand apart from models of attention alone."""

from __future__ import annotations

from typing import Any

__all__ = ["ATTENTION", "block_of", "is_hybrid"]

#: Kinds of mixers by the name of their class, in the field's words.
MIXERS = {
    "DeltaNet": "gated delta net",
    "Mamba": "Mamba",
    "Mamba2": "Mamba-2",
    "ShortConvolution": "short convolution",
    "GatedRecurrence": "gated recurrence",
    "Rwkv": "RWKV",
    "LinearAttention": "linear attention",
}
#: Models of attention alone, by what is special of it.
ATTENTION = ("attention", "windowed attention", "latent attention")


def block_of(shapes: Any) -> str:
    """The mixer of a model's layers, or its kind of attention."""
    layers = getattr(shapes, "layers", ())
    names = {_named(x.mixer) for x in layers if x.mixer is not None}
    if names:
        return " and ".join(sorted(names))
    blocks = [x.attention for x in layers if x.attention is not None]
    if any(a.is_mla for a in blocks):
        return "latent attention"
    return "windowed attention" if any(a.window or a.chunk for a in blocks) else "attention"


def _named(mixer: Any) -> str:
    if getattr(mixer, "channel_decay", False):
        return "Kimi delta attention"
    name = type(mixer).__name__
    return MIXERS.get(name, name)


def is_hybrid(block: str) -> bool:
    """Whether a block keeps a state of fixed size, in some layers at least."""
    return block not in (*ATTENTION, "unknown")
