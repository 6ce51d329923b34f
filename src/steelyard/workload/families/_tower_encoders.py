"""Encoders of images and sound: a table of :mod:`steelyard.workload.families.towers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["ENCODERS", "Encoder"]


@dataclass(frozen=True, slots=True)
class Encoder:
    """Layers over patches or over sound, and the sizes of the class default."""

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
    biases: str = "qkv out mlp norm stem"
    """Weights that have a bias beside them; ``qv``: queries and values only."""
    gated: bool = False
    norms: int = 2
    qk_norm: str = ""
    positions: str = "grid"
    """Rows of a table: one per patch of an ``image``, ``KEY DEFAULT`` of a key, or a number; empty: none."""
    class_tokens: int = 0
    ends: str = ""
    """Vectors outside the layers."""
    layer_vectors: int = 0
    """Vectors per layer beside norms and biases (layer scale)."""
    head: str = ""
    """Key of a flag: whether it ends in attention over one learned query (SigLIP)."""
    inner_key: str = ""
    """Key of the feed-forward width, where it has another name."""
    more: str = ""
    """``KEY DEFAULT`` of the number of further layers of the same kind."""
    window: str = ""
    """Key of the window of most layers, in pixels or (``KEY patches``) in patches; then its usual side, and every how
    manyth layer has none."""
    stem: str = ""
    """Products before the layers, without biases; empty: one of a patch; one width alone: none."""
    sharded: bool = True


_NO_STEM = "qkv out mlp norm"
_SIGLIP = Encoder(768, 12, 12, 3072, 16, 224, ends="h h", head="vision_use_head")
_SIGLIP2 = replace(_SIGLIP, positions="num_patches 256")
_IDEFICS = replace(_SIGLIP, patch=32, head="")
_CLIP = Encoder(768, 12, 12, 3072, 32, 224, biases=_NO_STEM, class_tokens=1, ends="h h h h")
_PIXTRAL = Encoder(1024, 24, 16, 4096, 16, 1024, biases="", gated=True, positions="", ends="h")
_QWEN2 = Encoder(1280, 32, 16, 0, 14, temporal=2, biases=_NO_STEM, positions="")
_QWEN25 = replace(_QWEN2, hidden=3584, inner=3420, biases="qkv out mlp", gated=True, window="window_size")
_QWEN3 = Encoder(1152, 27, 16, 4304, 16, temporal=2, positions="num_position_embeddings 2304")
_GLM = Encoder(
    1536, 24, 12, 13696, 14, 336, temporal=2, biases="stem", gated=True, ends="h h", inner_key="out_hidden_size"
)
_GLM_OCR = Encoder(
    1024, 24, 16, 4096, 14, temporal=2, biases="qkv out mlp stem", gated=True, qk_norm="head", positions="", ends="h"
)
_INTERN = Encoder(1024, 24, 16, 4096, 14, 448, biases="out mlp norm stem", class_tokens=1, layer_vectors=2)
_GEMMA4 = Encoder(
    768,
    16,
    12,
    3072,
    16,
    biases="",
    gated=True,
    norms=4,
    qk_norm="head",
    positions="2*position_embedding_size 10240",
    sharded=False,
)
_AIM = Encoder(1024, 24, 8, 2816, 14, 224, biases="stem", gated=True, ends="h h")
_WHISPER = Encoder(
    1280,
    32,
    20,
    5120,
    positions="max_source_positions 1500",
    biases="qv out mlp norm",
    ends="h h h h",
    stem="2:3*num_mel_bins=128 h | 3*h h",
)
_SOUND_2D = replace(
    _WHISPER,
    positions="",
    biases=_NO_STEM,
    ends="h h 480 480 480",
    stem="9 480 | 4320 480 | 4320 480 | 7680 h",
)

_HUNYUAN = Encoder(1152, 27, 16, 4304, 16, positions="16385")

#: By the ``model_type`` of their part of a config, or by a name of ours where it has none.
ENCODERS: Mapping[str, Encoder] = {
    "aimv2": _AIM,
    "audioflamingo3_encoder": replace(_WHISPER, sharded=False),
    "clip_vision_model": _CLIP,
    "clip_large": replace(_CLIP, hidden=1024, depth=24, heads=16, inner=4096, patch=14, image=336),
    "clip_after_sam": replace(
        _CLIP, hidden=1024, depth=24, heads=16, inner=4096, patch=14, image=224, ends="h h", stem="h"
    ),
    "cosmos3_edge_vision": replace(_SIGLIP2, hidden=1152, depth=27, heads=16, inner=4304, head=""),
    "dots_vit": Encoder(1536, 42, 12, 4224, 14, biases="stem", gated=True, positions="", ends="h h"),
    "ernie4_5_vl_moe_vision": replace(_QWEN2, temporal=1, ends="h h"),
    "exaone4_5_vision": _QWEN25,
    "gemma4_audio": Encoder(  # conformer layers: the products of two feed-forward blocks and a convolution in one block
        1024,
        12,
        8,
        biases="",
        ratio=10.0,
        positions="",
        layer_vectors=12,
        ends="128 32",
        sharded=False,
        stem="128:9 128 | 32:1152 32 | 1024 h",
    ),
    "gemma4_unified_sound": Encoder(640, 0, 1, 1, norms=0, positions="", biases="", stem="h"),
    "gemma4_unified_vision": Encoder(  # no layers: patches of 48 pixels, a product and norms
        3840,
        0,
        1,
        1,
        norms=1,
        biases="norm stem",
        positions="2*mm_posemb_size 1120",
        ends="6912 6912 h h",
        stem="6912 h",
    ),
    "gemma4_vision": _GEMMA4,
    "glmasr_encoder": replace(_WHISPER, positions=""),
    "glm4v": _GLM,
    "glm_ocr": _GLM_OCR,
    "hunyuan_vl_vision": _HUNYUAN,
    "hy_v4_vl_vision": replace(_HUNYUAN, hidden=1536, depth=40, inner=6144),
    "idefics2_vision": _IDEFICS,
    "idefics3_vision": replace(_IDEFICS, hidden=1152, heads=16),
    "intern_vit_6b": _INTERN,
    "inkling2_vision": Encoder(
        1024, 23, 16, 4096, 20, biases=_NO_STEM, positions="1024", class_tokens=1, ends="h h h", layer_vectors=2
    ),
    "internvl_vision": _INTERN,
    "llama4_vision_model": Encoder(768, 34, 16, 5632, 14, 448, biases=_NO_STEM, class_tokens=1, ends="h h h h"),
    "minicpm_vision": replace(_SIGLIP, head=""),
    "minimax_m3_vl_vision": replace(_QWEN2, ends="h h"),
    "mllama_vision_model": Encoder(
        1280,
        32,
        16,
        5120,
        14,
        448,
        biases="mlp norm",
        class_tokens=1,
        ends="h h h h 36*h 36*h 36*p*h 19",
        more="num_global_layers 8",
    ),
    "moonvit": Encoder(1152, 27, 16, 4304, 14, positions="4096", ends="h h"),
    "muse_glimmer_vision": Encoder(
        1536,
        50,
        16,
        8960,
        14,
        temporal=2,
        biases=_NO_STEM,
        positions="max_position_embeddings 1024",
        ends="h h h h",
        window="pos_emb_height patches 32 4",
    ),
    "molmo2_vision": Encoder(1152, 25, 16, 4304, 14, 378, positions="num_position_embeddings 729"),
    "ocr2_queries": Encoder(896, 24, 14, 4864, 1, biases="qkv", gated=True, positions="", ends="h", stem="h"),
    "omni_2_5_audio": replace(_WHISPER, positions="", sharded=False),
    "omni_3_audio": _SOUND_2D,
    "paddleocr_vl_vision": Encoder(1152, 27, 16, 4304, 14, 384, ends="h h"),
    "phi4_audio": Encoder(  # conformer layers, as products of one block
        1024,
        24,
        16,
        biases="qkv out norm",
        ratio=6.5,
        inner_key="none",
        positions="",
        layer_vectors=24,
        ends="24*h 32000",
        stem="9 h | h h | h h | 10240 h",
        sharded=False,
    ),
    "phi4_vision": replace(_SIGLIP, hidden=1152, depth=27, heads=16, inner=4304, patch=14, image=448),
    "pixtral": _PIXTRAL,
    "qwen2_5_vl": _QWEN25,
    "qwen2_5_vl_vision": _QWEN25,
    "qwen2_vl": _QWEN2,
    "qwen2_vl_vision": _QWEN2,
    "qwen2_audio_encoder": replace(_WHISPER, sharded=False),
    "qwen3_vl": _QWEN3,
    "radio": Encoder(
        1280, 32, 16, 0, 16, biases=_NO_STEM, positions="16384", class_tokens=10, layer_vectors=2, ends="1536*h"
    ),
    "siglip_so400m": Encoder(1152, 27, 16, 4304, 14, 384, ends="h h", head="use_head"),
    "sam": Encoder(
        768,
        12,
        12,
        3072,
        16,
        1024,
        ends="256*h 1024 589824 1179648 92672",
        window="window_size patches",
        sharded=False,
    ),
    "siglip2_vision_model": _SIGLIP2,
    "siglip_vision_model": _SIGLIP,
    "step3p5_vision": Encoder(1536, 47, 16, 8960, 14, 728, biases=_NO_STEM, layer_vectors=2, ends="h h"),
    "video_llama_3_vision": replace(_SIGLIP, positions="", head=""),
    "voxtral_realtime": Encoder(
        1280,
        32,
        32,
        5120,
        biases="qv out down",
        gated=True,
        positions="",
        ends="h h h",
        stem="2:3*num_mel_bins=128 h | 3*h h",
    ),
    "whisper": _WHISPER,
}
