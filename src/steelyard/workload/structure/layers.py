"""One layer of a model nobody described, from its pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steelyard.workload.shapes import Attention, Beside, FeedForward, Layer, Mixer
from steelyard.workload.structure.feed import read_feed_forward
from steelyard.workload.structure.found import UNKNOWN
from steelyard.workload.structure.keys import Keys
from steelyard.workload.structure.mixing import read_mixing
from steelyard.workload.structure.names import role_of
from steelyard.workload.structure.pieces import Piece
from steelyard.workload.structure.side import Side, read_side

__all__ = ["Found", "in_words", "read_layer"]

_FEEDS = ("expert", "shared", "mlp", "router", "norm")


@dataclass(frozen=True, slots=True)
class Found:
    """What a layer was read as."""

    layer: Layer
    parts: Mapping[str, str]
    """The part each piece was placed in, by its name."""
    blind: str = ""
    """The name of a piece that mixes tokens in a way that is not understood, so that what the layer caches is not
    known; empty: there is none."""
    side: Side = field(default_factory=Side)


def read_layer(pieces: Sequence[Piece], hidden: int, keys: Keys, kind: str, *, asked: bool) -> Found:
    """The layer that some pieces are, and the part each of them was placed in.

    Args:
        pieces: all of one layer.
        hidden: width between layers.
        keys: of the layer.
        kind: ``full``, ``window`` or ``linear``.
        asked: the reading was asked for, whatever is not understood.
    """
    roles = _roles(pieces)
    feed, explained = read_feed_forward(roles, hidden, keys)
    placed = {piece.name: part for part, found in explained.items() for piece in found}
    attention: Attention | None = None
    mixer: Mixer | None = None
    modules: dict[str, dict[str, list[Piece]]] = {}
    for (group, role), found in roles.items():
        if group not in _FEEDS and role:
            modules.setdefault(group, {})[role] = list(found)
    for module in modules.values():
        read = read_mixing(module, hidden, keys, kind, asked=asked)
        if read is None:
            continue
        block, part, used = read
        if isinstance(block, Attention) and attention is None:
            attention = block
        elif not isinstance(block, Attention) and mixer is None:
            mixer = block
        else:
            continue
        placed |= {piece.name: part for piece in used}
    side, beside = read_side([p for p in pieces if p.name not in placed], hidden)
    placed |= beside
    mixed = attention is not None or mixer is not None
    norms = [p for p in pieces if p.name not in placed and p.elements == hidden and role_of(p.path)[0] == "norm"]
    placed |= {p.name: "norms" for p in norms}
    weights, biases = sum(p.ending != "bias" for p in norms), sum(p.ending == "bias" for p in norms)
    left = [p for p in pieces if p.name not in placed]
    placed |= {p.name: UNKNOWN for p in left}
    blocks = sum(block is not None for block in (attention or mixer, feed))
    count = weights or min(2, blocks)
    layer = Layer(1, attention, feed, count, bool(biases), bool(weights), mixer, beside=_plain(left, hidden))
    return Found(layer, placed, _blind(left, mixed), side)


def _plain(pieces: Sequence[Piece], hidden: int, most: int = 32) -> tuple[Beside, ...]:
    """Pieces nobody described: every matrix multiplies every token once; what reads the hidden width can be split."""
    shapes: dict[tuple[int, int], int] = {}
    vectors = 0
    for piece in pieces:
        wide = [extent for extent in piece.shape if extent > 1]
        if len(wide) < 2 or min(wide) <= 8 or not piece.elements:
            vectors += piece.elements
            continue
        key = (piece.shape[-1], piece.each // piece.shape[-1])
        shapes[key] = shapes.get(key, 0) + piece.copies
    found = sorted(((i, n * o) for (i, o), n in shapes.items()), key=lambda x: -x[0] * x[1])
    parts = [
        Beside(f"plain{k}", inputs, outputs, heads=outputs if inputs == hidden else 0)
        for k, (inputs, outputs) in enumerate(found[:most])
    ]
    vectors += sum(inputs * outputs for inputs, outputs in found[most:])
    return (*parts, *([Beside("plain_vectors", 0, vectors)] if vectors else []))


#: Roles of what is cached or kept.
_CACHED = ("k", "v", "kv", "qkv", "kv_a", "A", "qkvz")


def _blind(left: Sequence[Piece], mixed: bool) -> str:
    for piece in left:
        group, role = role_of(piece.path)
        if group not in _FEEDS and (role in _CACHED or (role and not mixed and len(piece.shape) >= 2)):
            return piece.name
    return ""


def _roles(pieces: Sequence[Piece]) -> dict[tuple[str, str], list[Piece]]:
    """The pieces by block and role; matrices stacked in a feed-forward block are experts."""
    roles: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        group, role = role_of(piece.path)
        if group == "mlp" and len(piece.shape) == 3 and min(piece.shape) > 1:
            group = "expert"
        roles.setdefault((group, role), []).append(piece)
    if not roles.get(("expert", "up")) and ("router", "router") in roles:  # a gate that chooses nothing
        found = roles.pop(("router", "router"))
        roles.setdefault(("mlp", "up"), []).extend(found)
    return roles


def in_words(layer: Layer) -> dict[str, str]:
    """What each part of a layer is priced as, in words."""
    words: dict[str, str] = {}
    a, f = layer.attention, layer.feed_forward
    if a is not None and a.is_mla:
        words["latent attention"] = f"{a.heads} heads, rank {a.kv_rank} + {a.rope_dim} rotary{_sparse(a)}"
    elif a is not None:
        reach = f", window {a.window}" if a.window else ""
        words["attention"] = f"{a.heads} heads of {a.head_dim}, {a.kv_heads} of keys and values{reach}{_sparse(a)}"
    if layer.beside:
        words[UNKNOWN] = "a plain product of every matrix with every token"
    if layer.mixer is not None:
        state = sum(elements * bits / 8 for elements, bits in layer.state)
        words["mixer"] = f"{type(layer.mixer).__name__}, {state / 2**20:.2f} MiB of state a sequence and layer"
    if f is not None and f.is_moe:
        words["experts"] = f"{f.experts} of width {f.intermediate}, {f.top_k} per token"
        words["shared experts"] = f"width {f.shared_intermediate}"
    elif isinstance(f, FeedForward):
        words["MLP"] = f"{'gated, ' if f.gated else ''}width {f.intermediate}"
    return words


def _sparse(a: Attention) -> str:
    return f", {a.index_top_k} tokens picked by an indexer" if a.index_heads else ""
