"""The tables of :mod:`steelyard.workload.families.towers`: encoders, and what joins them to language models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from steelyard.workload.tower import Native, Rule, Sound, Square, Tiles

__all__ = ["ENCODERS", "MODELS", "Encoder", "Joint"]

#: Weights that have a bias beside them.
_ALL = "qkv out mlp norm stem"


@dataclass(frozen=True, slots=True)
class Encoder:
    """Layers over patches (or over sound), and the sizes of the class default."""

    hidden: int
    depth: int
    heads: int
    inner: int = 0
    """Width of the feed-forward block; 0: ``ratio`` times ``hidden``."""
    patch: int = 0
    image: int = 0
    temporal: int = 1
    """Frames of a patch; an image is that many times the same."""
    ratio: float = 4.0
    biases: str = _ALL
    gated: bool = False
    norms: int = 2
    qk_norm: str = ""
    positions: str = "grid"
    """Rows of a table: one per patch of an ``image``, those of the key named, or a number; empty: none."""
    class_tokens: int = 0
    ends: str = ""
    """Vectors outside the layers, each of the width of its letter."""
    layer_vectors: int = 0
    """Vectors per layer beside norms and biases (layer scale)."""
    head: str = ""
    """Key of a flag: whether it ends in attention over one learned query (SigLIP)."""
    inner_key: str = ""
    """Key of the feed-forward width, where it has another name."""
    window: str = ""
    """Key of the window of most layers in pixels."""
    bins: int = 0
    """Of sound: bands of a spectrogram, which two convolutions read."""
    sharded: bool = True


@dataclass(frozen=True, slots=True)
class Joint:
    """One tower of a kind of model: which encoder, what joins it to the language model, how images are cut."""

    encoder: str
    """Row of :data:`ENCODERS` where the part names none that is known."""
    rule: Rule | None = None
    chain: str = "m t t"
    """Widths of the products one after another; ``|`` begins another chain."""
    bias: bool = True
    vectors: str = ""
    """Vectors of norms and line breaks, each of the width of its letter."""
    merge: int = 1
    """Patches on a side that become one token; the config's own key goes before."""
    deep: str = ""
    """Key of a list of layers whose outputs get a chain of their own, with a norm over its first width."""
    at: str = "vision_config"
    kind: str = "vision"


_SIGLIP = Encoder(768, 12, 12, 3072, 16, 224, ends="h h", head="vision_use_head")
_CLIP = Encoder(768, 12, 12, 3072, 32, 224, biases="qkv out mlp norm", class_tokens=1, ends="h h h h")
_PIXTRAL = Encoder(1024, 24, 16, 4096, 16, 1024, biases="", gated=True, positions="", ends="h")
_QWEN2 = Encoder(1280, 32, 16, 0, 14, temporal=2, biases="qkv out mlp norm", positions="")
_QWEN25 = Encoder(
    3584, 32, 16, 3420, 14, temporal=2, biases="qkv out mlp", gated=True, positions="", window="window_size"
)
_QWEN3 = Encoder(1152, 27, 16, 4304, 16, temporal=2, positions="num_position_embeddings 2304")
_GLM = Encoder(
    1536, 24, 12, 13696, 14, 336, temporal=2, biases="stem", gated=True, ends="h h", inner_key="out_hidden_size"
)
_INTERN = Encoder(1024, 24, 16, 4096, 14, 448, class_tokens=1, layer_vectors=2)
_MOON = Encoder(1152, 27, 16, 4304, 14, positions="4096", ends="h h")
_GEMMA4 = Encoder(
    768, 16, 12, 3072, 16, biases="", gated=True, norms=4, qk_norm="head", positions="position_embedding_size 20480"
)
_LLAMA4 = Encoder(768, 34, 16, 5632, 14, 448, biases="qkv out mlp norm", class_tokens=1, ends="h h h h")
_WHISPER = Encoder(1280, 32, 20, 5120, positions="max_source_positions 1500", ends="h h", bins=128)

ENCODERS: Mapping[str, Encoder] = {
    "siglip_vision_model": _SIGLIP,
    "siglip2_vision_model": replace(_SIGLIP, positions="num_patches 256"),
    "idefics2_vision": replace(_SIGLIP, head=""),
    "idefics3_vision": replace(_SIGLIP, image=224, patch=32, head=""),
    "smolvlm_vision": replace(_SIGLIP, image=224, patch=32, head=""),
    "clip_vision_model": _CLIP,
    "pixtral": _PIXTRAL,
    "qwen2_vl": _QWEN2,
    "qwen2_vl_vision": _QWEN2,
    "qwen2_5_vl": _QWEN25,
    "qwen2_5_vl_vision": _QWEN25,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_vision": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_vl_moe_vision": _QWEN3,
    "qwen3_5": _QWEN3,
    "qwen3_5_vision": _QWEN3,
    "qwen3_5_moe": _QWEN3,
    "qwen3_5_moe_vision": _QWEN3,
    "glm4v_vision": _GLM,
    "glm4v_moe_vision": _GLM,
    "glm4v": _GLM,
    "glm4v_moe": _GLM,
    "intern_vit_6b": replace(_INTERN, biases="qkv out mlp norm stem"),
    "internvl_vision": _INTERN,
    "kimi_k25_vision": _MOON,
    "moonvit": _MOON,
    "gemma4_vision": _GEMMA4,
    "llama4_vision_model": _LLAMA4,
    "qwen2_audio_encoder": _WHISPER,
    "voxtral_encoder": _WHISPER,
    "whisper": _WHISPER,
}

#: Pixels that the processors of each model allow.
_QWEN2_PIXELS = Native(14, 2, 3136, 12_845_056)
_QWEN3_PIXELS = Native(16, 2, 65_536, 16_777_216)
_GLM_PIXELS = Native(14, 2, 6_272, 4_816_896)
_MOON_PIXELS = Native(14, 2, max_pixels=16_384 * 196, max_edge=512 * 14, rounding="up")
_GEMMA4_PIXELS = Native(16, 3, max_pixels=280 * 9 * 256, rounding="down", fill=True)
_PIXTRAL_PIXELS = Native(14, 2, max_edge=-1, rounding="up", row_tokens=1)
#: Tiles of 336 or 384 pixels; their tokens end each row with one more.
_NEXT = Tiles(0, 0, 0, 4, "waste", ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)), always=True, unpadded=True)
_INTERN_TILES = Tiles(0, 0, 0, 12)
_LLAMA4_TILES = Tiles(0, 0, 0, 16, "fits", tile_tokens=1, more_tokens=-1)
_CUT = Tiles(0, 0, 0, 16, "cut", always=True, tile_tokens=2, row_tokens=1, more_tokens=1)

_MERGER = Joint("qwen2_vl", _QWEN2_PIXELS, "m m t", vectors="h h", merge=2)
_QWEN3_JOINT = Joint("qwen3_vl", _QWEN3_PIXELS, "m m t", vectors="h h", merge=2, deep="deepstack_visual_indexes")
_GLM_JOINT = Joint(
    "glm4v",
    _GLM_PIXELS,
    "m t | t t | t intermediate_size=13696 | t intermediate_size=13696 | intermediate_size=13696 t",
    bias=False,
    vectors="t t t",
    merge=2,
)
_MOON_JOINT = Joint("moonvit", _MOON_PIXELS, "m m t", vectors="h h", merge=2)
_INTERN_JOINT = Joint("internvl_vision", _INTERN_TILES, "m t t", vectors="m m", merge=2)
_ALIGNED = "m alignment_intermediate_size | alignment_intermediate_size/2 t"
_SMOL = Joint("idefics3_vision", _CUT, "m t", bias=False, merge=2)

#: By the type of the whole model.
MODELS: Mapping[str, tuple[Joint, ...]] = {
    "aya_vision": (Joint("siglip_vision_model", Tiles(0, 0, 0, 12), _ALIGNED, vectors="m m", merge=2),),
    "cohere2_vision": (Joint("siglip_vision_model", Tiles(0, 0, 0, 12), _ALIGNED, merge=2),),
    "gemma3": (Joint("siglip_vision_model", Square(0, 256), "h t", bias=False, vectors="h"),),
    "gemma4": (Joint("gemma4_vision", _GEMMA4_PIXELS, "h t", bias=False),),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v", "glmga"), (_GLM_JOINT,)),
    "idefics3": (_SMOL,),
    "internvl": (_INTERN_JOINT,),
    "internvl_chat": (_INTERN_JOINT,),
    "kimi_k25": (_MOON_JOINT,),
    "kimi_vl": (replace(_MOON_JOINT, rule=replace(_MOON_PIXELS, max_pixels=4096 * 196)),),
    "llama4": (
        Joint(
            "llama4_vision_model",
            _LLAMA4_TILES,
            "m projector_input_dim=4096 projector_output_dim=4096 t",
            bias=False,
            merge=2,
        ),
    ),
    "llava": (Joint("clip_vision_model", Square(0, 0), "h t t"),),
    "llava_next": (Joint("clip_vision_model", _NEXT, "h t t", vectors="t"),),
    "llava_next_video": (Joint("clip_vision_model", _NEXT, "h t t", vectors="t"),),
    "llava_onevision": (Joint("siglip_vision_model", _NEXT, "h t t", vectors="t"),),
    "mistral3": (Joint("pixtral", _PIXTRAL_PIXELS, "m h | h t t", bias=False, vectors="h", merge=2),),
    "paligemma": (Joint("siglip_vision_model", Square(0, 0), "h t"),),
    "qwen2_5_vl": (replace(_MERGER, encoder="qwen2_5_vl", vectors="h"),),
    "qwen2_audio": (Joint("qwen2_audio_encoder", Sound(50, 25), "h t", at="audio_config", kind="audio"),),
    "qwen2_vl": (_MERGER,),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), (_QWEN3_JOINT,)),
    "shieldgemma2": (Joint("siglip_vision_model", Square(0, 256), "h t", bias=False, vectors="h"),),
    "smolvlm": (replace(_SMOL, encoder="smolvlm_vision"),),
    "voxtral": (Joint("voxtral_encoder", Sound(50, 12.5, 30.0), "i t t", bias=False, at="audio_config", kind="audio"),),
}
