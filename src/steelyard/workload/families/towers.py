"""Towers of multimodal models, from the part of a config that describes them.

Two tables: :data:`ENCODERS` has the layers that read patches or sound by the ``model_type`` of the part, with what the
part leaves out (class defaults of transformers 5.24); :data:`MODELS` has by the ``model_type`` of the whole what joins
them to the language model and by which rule images are cut. Widths of products and vectors are written in letters:
``h`` the tower's width, ``m`` that of a merged square of patches, ``t`` the language model's, ``o`` what the part
calls its output. Sources: the config classes, modelling files and image processors of transformers 5.24, whose
parameters a test counts; the published processor settings of each model for limits on pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from steelyard.errors import InputError, Problem, show
from steelyard.workload.families._base import MAX_SIZE, Fields
from steelyard.workload.families._modules import Stored
from steelyard.workload.families._tower_encoders import ENCODERS, Encoder
from steelyard.workload.families._tower_rows import MODELS, Joint
from steelyard.workload.tower import Native, Overlapping, Quarters, Rule, Square, Tiles, Tower
from steelyard.workload.tower_ops import layer_parameters
from steelyard.workload.transformer import Attention, FeedForward, Layer, Transformer

__all__ = ["PARTS", "read_towers"]

#: Parts of a config that may be several numbers for one.
_SQUARE = ("patch_size", "image_size", "temporal_patch_size", "spatial_merge_size", "merge_kernel_size")
_HIDDEN = ("embed_dim", "d_model", "mm_embed_dim", "hidden_size", "width")
_DEPTH = ("depth", "num_hidden_layers", "encoder_layers", "num_blocks", "num_layers", "layers")
_HEADS = ("num_heads", "num_attention_heads", "encoder_attention_heads", "attention_heads", "heads")
_INNER = ("intermediate_size", "encoder_ffn_dim", "mlp_dim")
_MERGE = (
    "spatial_merge_size",
    "merge_kernel_size",
    "merge_size",
    "hidden_stride",
    "scale_factor",
    "pooling_kernel_size",
)
#: Largest sizes a config may state: pixels of a patch, patches on a side that are merged, pixels of an image; tiles.
_LARGEST_PATCH, _LARGEST_MERGE, _LARGEST_IMAGE, _MOST_TILES = 1024, 64, 65_536, 256
#: Keys under which configs describe a tower.
PARTS: Sequence[str] = ("vision_config", "visual", "audio_config", "encoder_config", "vision_tower", "mm_vision_tower")


def read_towers(config: Mapping[str, Any], text: int, stored: Stored) -> tuple[tuple[Tower, ...], tuple[str, ...]]:
    """The towers of a config, and remarks on those that are not counted.

    Args:
        config: the content of a ``config.json``.
        text: width of its language model.
        stored: how weights outside the language model are stored.

    Raises:
        InputError: sizes are missing or wrong, with their paths.
    """
    towers: list[Tower] = []
    unknown: list[str] = []
    for path, level in _levels(config):
        kind = level.get("model_type")
        rows = MODELS.get(kind, ()) if isinstance(kind, str) else ()
        for joint in rows:
            part = _part(level, joint.at)
            if isinstance(part, Mapping) and not isinstance(part.get(joint.needs), Mapping):
                where = f"{path}{joint.at}"
                tower = _tower(joint, level, part, text, where)
                towers.append(replace(tower, format=stored.name, bits=stored.bits))
        told = {joint.at.partition(".")[0] for joint in rows}
        unknown += [f"{path}{key}" for key in PARTS if level.get(key) and key not in told]
    if not unknown:
        return tuple(towers), ()
    kind = show(config.get("model_type", "the config"))
    return tuple(towers), (f"not counted, its layers are not described: {', '.join(unknown)} of {kind}",)


def _levels(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The config and what in it holds towers of its own, each with its path."""
    yield path, config
    for key in ("thinker_config", "vlm_config"):
        inner = config.get(key)
        if isinstance(inner, Mapping):
            yield from _levels({"model_type": config.get("model_type"), **inner}, f"{path}{key}.")


def _part(level: Mapping[str, Any], path: str) -> Any:
    """What stands at a path of keys."""
    found: Any = level
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _tower(joint: Joint, whole: Mapping[str, Any], part: Mapping[str, Any], text: int, where: str) -> Tower:
    f = Fields({k: _one(v) if k in _SQUARE else v for k, v in part.items()})
    kind = part.get("model_type")
    if joint.weights:
        return Tower(f"{joint.kind} tower", joint.kind, joint.weights, sharded=False)
    usual = ENCODERS[joint.encoder]
    row = ENCODERS.get(kind, usual) if isinstance(kind, str) and not joint.own else usual
    outer = Fields(whole)
    try:
        tower = _built(row, joint, outer, f, text)
    except InputError as error:
        moved = [Problem(f"{where}.{p.field}", p.message) for p in error.problems]
        raise InputError(moved[0].message, field=moved[0].field, problems=moved) from None
    outer.finish()
    return tower


def _one(value: Any) -> Any:
    """The first of equal numbers for height and width."""
    return value[0] if isinstance(value, list | tuple) and value else value


def _built(row: Encoder, joint: Joint, whole: Fields, f: Fields, text: int) -> Tower:
    hidden = f.size(*_HIDDEN, default=row.hidden)
    patch = f.size("patch_size", default=row.patch or 1, maximum=_LARGEST_PATCH)
    merge = f.size(*_MERGE, default=0, minimum=0, maximum=_LARGEST_MERGE) or _merge(whole, joint.merge)
    image = f.size("image_size", default=row.image or patch, maximum=_LARGEST_IMAGE)
    if image < patch:
        f.problem("image_size", f"expected at least one patch of {patch} pixels, got {image}")
        image = patch
    encoder = _encoder(row, f, hidden, patch)
    positions = (image // patch) ** 2 + row.class_tokens
    mlp = encoder.layers[0].feed_forward
    inner = mlp.intermediate if mlp is not None else 0
    letters = {
        "h": hidden,
        "m": hidden * merge**2,
        "t": text,
        "o": f.optional("out_hidden_size") or text,
        "i": inner,
        "p": positions,
    }

    def width(word: str) -> int:
        """A width: a letter, a number, a key of the part or of the whole; with ``N*``, ``/2`` or ``FLAG?``."""
        flag, asked, word = word.rpartition("?")
        if asked and not whole.flag(flag, True):
            return 0
        times, _, word = word.rpartition("*")
        word, half, _ = word.partition("/")
        key, _, usual = word.partition("=")
        if word.isdecimal():
            size = int(word)
        elif word in letters:
            size = letters[word]
        elif "." in key:  # of another part
            stated = _part(whole.config, key)
            size = stated if isinstance(stated, int) and 0 < stated <= MAX_SIZE else int(usual or text)
        else:
            size = f.size(key, default=whole.optional(key, default=int(usual or text)))
        return (width(times) if times else 1) * size // (2 if half else 1)

    def vectors(words: str) -> int:
        return sum(width(word) for word in words.split())

    def products(words: str) -> list[tuple[float, int, int]]:
        """``(rows, inner, outer)`` of chains of widths."""
        found = []
        for chain in words.split("|"):
            rows, _, rest = chain.rpartition(":")
            found += [(float(rows or 1), a, b) for a, b in pairwise(width(word) for word in rest.split())]
        return found

    key, _, usual = joint.deep.partition(" ")
    deep = f.config.get(key) if key else None
    more = min(len(deep), encoder.depth) if isinstance(deep, list | tuple) else int(usual or 0)
    joins = products(joint.chain) * (1 + more)
    if row.stem:
        stem = products(row.stem)
    else:
        channels = f.size("num_channels", "in_channels", "in_chans", default=3)
        frames = f.size("temporal_patch_size", "patch_temporal", default=row.temporal, maximum=_LARGEST_PATCH)
        stem = [(1.0, channels * frames * patch**2, hidden)]
    biased = whole.flag("projector_bias", whole.flag("multimodal_projector_bias", joint.bias))
    total = layer_parameters(encoder) + encoder.depth * row.layer_vectors * hidden
    total += sum(a * b for _, a, b in stem) + hidden * ("stem" in row.biases)
    total += (positions if row.positions == "grid" else _table(row.positions, f)) * hidden + row.class_tokens * hidden
    total += vectors(row.ends) + vectors(joint.vectors) + sum(a * b + b * biased for _, a, b in joins)
    total += 2 * more * letters["m"]
    if row.head and f.flag(row.head, True):
        total += _pooling(hidden, inner)
    rule = None if joint.rule is None else _fitted(joint.rule, whole, patch, image, merge, positions)
    f.finish()
    at_once = tuple((round(rows * a), b) for rows, a, b in stem)
    return Tower(f"{joint.kind} tower", joint.kind, total, encoder, rule, at_once, tuple(joins), sharded=row.sharded)


def _merge(whole: Fields, usual: int) -> int:
    """Patches on a side that the outer config says become one token."""
    ratio = whole.config.get("downsample_ratio")
    if isinstance(ratio, float) and 1 / _LARGEST_MERGE <= ratio <= 1:
        return round(1 / ratio)
    names = ("spatial_merge_size", "downsample_factor", "scale_factor")
    return whole.size(*names, default=0, minimum=0, maximum=_LARGEST_MERGE) or usual


def _table(words: str, f: Fields) -> int:
    """Rows of a table of positions: ``key default``, ``2*key default``, a number, or none."""
    if not words:
        return 0
    key, _, usual = words.partition(" ")
    if key.isdecimal():
        return int(key)
    times, _, name = key.rpartition("*")
    return int(times or 1) * f.size(name, default=int(usual))


def _encoder(row: Encoder, f: Fields, hidden: int, patch: int) -> Transformer:
    depth, heads = f.depth(*_DEPTH) if f.find(_DEPTH)[1] is not None else row.depth, f.size(*_HEADS, default=row.heads)
    depth += _table(row.more, f)
    biases = set(row.biases.split())
    for key in ("qkv_bias", "attention_bias"):
        if f.config.get(key) is not None:
            biases = biases | {"qkv"} if f.flag(key, False) else biases - {"qkv"}
    if f.config.get("norm_type") == "rms_norm":
        biases -= {"norm"}
    inner = f.size(row.inner_key or _INNER[0], *_INNER[1:], default=row.inner or int(row.ratio * hidden))
    ratio = f.config.get("mlp_ratio")
    if isinstance(ratio, int | float) and not isinstance(ratio, bool) and f.find(_INNER)[1] is None and 0 < ratio < 100:
        inner = int(hidden * ratio)
    if f.config.get("head_dim") is None:
        f.divides("hidden_size", hidden, "num_attention_heads", heads)
    full_norm = any(f.config.get(key) is True for key in ("qk_normalization", "use_qk_norm"))
    groups = f.size("num_key_value_heads", default=heads)
    f.divides("num_attention_heads", heads, "num_key_value_heads", groups)
    attention = Attention(
        heads,
        groups if heads % groups == 0 else heads,
        f.optional("head_dim") or max(1, hidden // heads),
        causal=False,
        q_bias=bool(biases & {"qkv", "qv"}),
        kv_bias=bool(biases & {"qkv", "qv"}),
        k_bias="qv" not in biases,
        out_bias="out" in biases,
        qk_norm="full" if full_norm else row.qk_norm,
    )
    mlp = FeedForward(
        inner,
        gated=row.gated,
        activation="gelu",
        up_bias="mlp" in biases,
        down_bias=bool(biases & {"mlp", "down"}),
    )
    layer = Layer(depth, attention, mlp, norms=row.norms, norm_bias="norm" in biases)
    if not depth:  # products and norms alone
        layer = Layer(1, None, None, norms=row.norms, norm_bias="norm" in biases)
    layers: tuple[Layer, ...] = (layer,)
    if row.window:
        key, *more = row.window.split()
        whole = f.find(("fullatt_block_indexes", "global_attn_indexes"))[1]
        usual, every = (int(more[1]), int(more[2])) if more[1:] else (14, 3 if more else 8)
        full = len(whole) if isinstance(whole, list | tuple) else depth // every
        kinds = f.config.get("layer_types")
        if isinstance(kinds, list):
            full = kinds.count("full_attention")
        side = f.size(key, default=usual) if more else f.size(key, default=112) // patch
        reach = replace(attention, chunk=max(1, side) ** 2)
        both = (replace(layer, count=min(full, depth)), replace(layer, count=max(0, depth - full), attention=reach))
        layers = tuple(x for x in both if x.count)
    return Transformer("tower", "tower", hidden, 1, layers, head=False, max_context=0)


def _pooling(hidden: int, inner: int) -> int:
    """Attention over one learned query at the end of SigLIP: the query, four products, a norm and a feed-forward."""
    return hidden + 4 * (hidden * hidden + hidden) + 2 * hidden + 2 * hidden * inner + inner + hidden


def _fitted(rule: Rule, whole: Fields, patch: int, image: int, merge: int, positions: int) -> Rule | None:
    """The rule with the sizes of this tower."""
    side = max(1, image // patch // merge)
    positions = max(1, positions)
    if isinstance(rule, Square):
        tokens = rule.tokens or side * side
        return Square(rule.positions or positions, whole.optional("mm_tokens_per_image", default=tokens))
    if isinstance(rule, Native):
        return replace(rule, patch=patch, merge=merge, max_edge=image if rule.max_edge < 0 else rule.max_edge)
    if isinstance(rule, Overlapping):
        return replace(rule, edge=image, patch=patch, merge=merge) if image > rule.margin * patch else None
    if isinstance(rule, Quarters):
        return replace(rule, patch=patch)
    if isinstance(rule, Tiles):
        grids = rule.grids
        points = whole.config.get("image_grid_pinpoints")
        if isinstance(points, list | tuple) and 0 < len(points) <= _MOST_TILES and all(_pair(x) for x in points):
            grids = tuple((max(1, int(x[0]) // image), max(1, int(x[1]) // image)) for x in points)
        keys = ("max_dynamic_patch", "max_num_tiles")
        most = whole.size(*keys, default=rule.most, minimum=0, maximum=_MOST_TILES) or rule.most
        if rule.positions or rule.edge:  # whatever the size that its table of positions was made for
            positions = rule.positions or max(1, rule.edge // patch) ** 2
        tokens = rule.tokens or side * side
        longest = rule.longest or 4 * image
        return replace(
            rule, edge=rule.edge or image, positions=positions, tokens=tokens, grids=grids, most=most, longest=longest
        )
    return rule


def _pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(x, int) and x > 0 for x in value)
