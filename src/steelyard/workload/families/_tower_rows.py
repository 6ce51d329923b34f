"""What joins towers to language models: a table of :mod:`steelyard.workload.families.towers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from steelyard.workload.tower import Native, Overlapping, Quarters, Rule, Sound, Square, Tiles

__all__ = ["MODELS", "Joint"]


@dataclass(frozen=True, slots=True)
class Joint:
    """One tower of a kind of model: which encoder, what joins it to the language model, how images are cut."""

    encoder: str
    """Row of :data:`ENCODERS` where the part names none that is known."""
    rule: Rule | None = None
    chain: str = "m t t"
    """Widths of the products one after another; ``|`` begins another chain, ``N:`` one of N rows per token."""
    bias: bool = True
    vectors: str = ""
    """Vectors of norms, biases, line breaks."""
    merge: int = 1
    """Patches on a side that become one token; the config's own key goes before."""
    deep: str = ""
    """``KEY DEFAULT``: list of layers whose outputs get a chain of their own, with a norm over its first width,
    and how many there are where it is not stated."""
    at: str = "vision_config"
    kind: str = "vision"
    own: bool = False
    """Its encoder is that row whatever the part calls itself."""
    needs: str = ""
    """Key without a number at which the part is another kind."""
    weights: int = 0
    """Parameters of a tower that is not described further, the same in every model of the kind."""


#: Pixels that the processors of each model allow.
_QWEN2_PIXELS = Native(14, 2, 3136, 12_845_056)
_QWEN3_PIXELS = Native(16, 2, 65_536, 16_777_216)
_GLM_PIXELS = Native(14, 2, 6_272, 4_816_896)
_MOON_PIXELS = Native(14, 2, max_pixels=16_384 * 196, max_edge=512 * 14, rounding="up")
_GEMMA4_PIXELS = Native(16, 3, max_pixels=280 * 9 * 256, rounding="down", fill=True)
_HUNYUAN_PIXELS = Native(16, 2, 262_144, 4_194_304, row_tokens=1)
_EDGE_PIXELS = Native(16, 2, 65_536, 16_777_216, whole=True)
_MUSE_PIXELS = Native(14, 2, max_pixels=4096 * 28 * 28, rounding="shape", more_tokens=2)
_PIXTRAL_PIXELS = Native(14, 2, max_edge=-1, rounding="up", row_tokens=1)
#: Tiles of LLaVA-NeXT; their tokens end each row with one more.
_NEXT = Tiles(0, 0, 0, 4, "waste", ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)), always=True, unpadded=True)
_SIX = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7))
#: DeepSeek-VL2: rows of 14 tokens end with one more, the overview's too.
_VL2 = Tiles(0, 0, 196, 9, "waste", always=True, row_tokens=14, more_tokens=15)
_PHI3 = Tiles(0, 0, 0, 4, "widest", always=True, row_tokens=12, more_tokens=13)
_UP_TO_12 = Tiles(0, 0, 0, 12)
_LLAMA4_TILES = Tiles(0, 0, 0, 16, "fits", tile_tokens=1, more_tokens=-1)
_MLLAMA_TILES = Tiles(0, 0, 0, 4, "fits", together=8)
_CUT = Tiles(0, 0, 0, 16, "cut", always=True, tile_tokens=2, row_tokens=1, more_tokens=1)
#: DeepSeek-OCR: pages of 1,024 pixels, and tiles of 640 whose rows of tokens end with one more, as vLLM cuts them.
_OCR = Tiles(640, 101, 100, 6, least=2, uncut=True, always=True, row_tokens=10, more_tokens=1, whole=(257, 272))
_OCR_SAM = replace(_OCR, positions=1600, whole=(4096, 272))
#: The second reads tiles of 768 pixels by as many queries as there are patches left.
_OCR2 = Tiles(768, 288, 144, 6, least=2, uncut=True, always=True, more_tokens=1, whole=(512, 256))
_OCR2_SAM = replace(_OCR2, positions=2304, whole=(4096, 256))
_SLICES = Tiles(448, 1024, 64, 9, "area")

_QWEN2_JOINT = Joint("qwen2_vl", _QWEN2_PIXELS, "m m hidden_size", vectors="h h", merge=2)
_QWEN25_JOINT = Joint("qwen2_5_vl", _QWEN2_PIXELS, "m m o", vectors="h", merge=2)
_QWEN3_JOINT = Joint("qwen3_vl", _QWEN3_PIXELS, "m m o", vectors="h h", merge=2, deep="deepstack_visual_indexes 3")
_QWEN35_JOINT = replace(_QWEN3_JOINT, deep="")
_MOON_JOINT = Joint("moonvit", _MOON_PIXELS, "m m t", vectors="h h", merge=2)
_INTERN_JOINT = Joint("internvl_vision", _UP_TO_12, "m t t", vectors="m m", merge=2)
_PIXTRAL_JOINT = Joint("pixtral", _PIXTRAL_PIXELS, "m h | h t t", bias=False, vectors="h", merge=2)
_ALIGNED = "m alignment_intermediate_size | alignment_intermediate_size/2 t"
_SMOL = Joint("idefics3_vision", _CUT, "m t", bias=False, merge=2)
_NEXT_JOINT = Joint("clip_vision_model", _NEXT, "h t t", vectors="t")
_GEMMA3_JOINT = Joint("siglip_vision_model", Square(0, 256), "h t", bias=False, vectors="h")
_MINICPM = Joint("minicpm_vision", _SLICES, "h h | h h | h h | h h | m 4*m h | m m t", vectors="h h m m m m", merge=2)
_RESAMPLED = Joint(
    "minicpm_vision",
    _SLICES,
    "h t | t 3*t | t t | t t",
    bias=False,
    vectors="query_num=64*t 3*t t t t t t t t",
    own=True,
)
_QWEN3_SOUND = Sound(13, 13, halvings=3)
_WHISPER_JOINT = Joint("whisper", Sound(50, 25), "h t", at="audio_config", kind="audio")


def _glm(merger: str, encoder: str = "glm_ocr") -> Joint:
    """GLM: a convolution that merges patches, then a gated block of its own ``merger`` width."""
    chain = f"m o | o o | o {merger} | o {merger} | {merger} o"
    return Joint(encoder, _GLM_PIXELS, chain, bias=False, vectors="o o o", merge=2)


_OCR_CLIP = Joint("clip_after_sam", _OCR, "2*h t", own=True)
_PHI4 = Joint(
    "siglip_vision_model",
    Tiles(0, 0, 256, 36, always=True, row_tokens=16, more_tokens=17),
    "h t t",
    vectors="h h",
)
_PHI4_AUDIO = Joint("phi4_audio", Sound(12.5, 12.5), "h t t | h t t", at="audio_config", kind="audio", own=True)

#: By the type of the whole model.
MODELS: Mapping[str, tuple[Joint, ...]] = {
    "aria": (
        Joint(
            "idefics3_vision",
            Square(0, 256),
            "h h | h h | h h | h 3*h | h h | h h | h t t",
            bias=False,
            vectors="3*h h h h h h h h h 256*h",
        ),
    ),
    **dict.fromkeys(
        ("audioflamingo3", "musicflamingo"),
        (replace(_WHISPER_JOINT, rule=Sound(50, 25, 30.0, 600.0, silent=True), chain="h t t"),),
    ),
    "aya_vision": (Joint("siglip_vision_model", _UP_TO_12, _ALIGNED, vectors="m m", merge=2),),
    "cohere2_vision": (Joint("siglip_vision_model", _UP_TO_12, _ALIGNED, merge=2),),
    "cosmos3_edge": (Joint("cosmos3_edge_vision", _EDGE_PIXELS, "m projector_hidden_size t", vectors="h h", merge=2),),
    "deepseek_ocr2": (
        Joint("sam", _OCR2_SAM, "h", vectors="4128768", at="vision_config.sam_config", own=True),
        Joint("ocr2_queries", _OCR2, "h t", vectors="t 400*h", at="vision_config.encoder_config", own=True),
    ),
    "deepseek_vl_v2": (
        Joint("siglip_so400m", _VL2, "m t t", vectors="t t", merge=2, own=True, needs="width"),
        Joint("sam", _OCR_SAM, "h", vectors="4718592", at="vision_config.width.sam_vit_b", own=True),
        replace(_OCR_CLIP, vectors="t t 588*h", at="vision_config.width.clip-l-14-224"),
    ),
    "deepseek_vl": (Joint("siglip_vision_model", Square(0, 0), "h t t"),),
    **dict.fromkeys(
        ("ernie4_5_vl_moe", "ernie4_5_moe_vl"),
        (
            Joint(
                "ernie4_5_vl_moe_vision",
                Native(14, 2, 3136, 4_842_768),
                "m m m | 2*m m m | m t",
                vectors="m m m m t",
                merge=2,
            ),
        ),
    ),
    "dots_ocr": (Joint("dots_vit", _QWEN2_PIXELS, "m m t", vectors="h h", merge=2, own=True),),
    "exaone4_5": (replace(_QWEN25_JOINT, encoder="exaone4_5_vision"),),
    **dict.fromkeys(("gemma3", "shieldgemma2"), (_GEMMA3_JOINT,)),
    "gemma4": (
        Joint("gemma4_vision", _GEMMA4_PIXELS, "h t", bias=False, merge=3),
        Joint(
            "gemma4_audio",
            Sound(25, 25, longest_s=30.0),
            "h output_proj_dims=1536 | output_proj_dims=1536 t",
            bias=False,
            vectors="output_proj_dims=1536",
            at="audio_config",
            kind="audio",
        ),
    ),
    "gemma3n": (
        Joint("", weights=298_587_456),
        Joint("", weights=684_694_048, at="audio_config", kind="audio"),
    ),
    "gemma4_unified": (
        Joint("gemma4_unified_vision", replace(_GEMMA4_PIXELS, patch=16), "h t", bias=False, merge=3),
        Joint("gemma4_unified_sound", Sound(25, 25), "h t", False, at="audio_config", kind="audio", own=True),
    ),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v", "glmga"), (_glm("intermediate_size=13696", "glm4v"),)),
    "glm5_next": (_glm("projection_intermediate_size=10240"),),
    "glm_ocr": (_glm("3*o"),),
    "glmasr": (replace(_WHISPER_JOINT, encoder="glmasr_encoder", rule=Sound(50, 12.5), chain="4*h 2*t t"),),
    **dict.fromkeys(("got_ocr2", "pp_chart2table"), (Joint("sam", Square(0, 256), "t t", vectors="4608*t", own=True),)),
    "hunyuan_vl": (
        Joint(
            "hunyuan_vl_vision",
            _HUNYUAN_PIXELS,
            "m 2*h 4*h t",
            vectors="4*h t t t h t",
            merge=2,
        ),
    ),
    "hy_v4_vl": (Joint("hy_v4_vl_vision", _HUNYUAN_PIXELS, "m o o", vectors="o h", merge=2),),
    "hyperclovax_vision_v2": (replace(_QWEN25_JOINT, chain="m m o | o t"),),
    "idefics2": (
        Joint(
            "idefics2_vision",
            Quarters(14, 64, 378, 980),
            "h text_config.intermediate_size=14336 | h text_config.intermediate_size=14336"
            " | text_config.intermediate_size=14336 t",
            bias=False,
            vectors="9216*t 2304*t 36*t*t 9*t 64*t t",
        ),
    ),
    "idefics3": (_SMOL,),
    **dict.fromkeys(
        ("inkling2", "inkling2_loop"),
        (
            Joint(
                "inkling2_vision", Native(20, 2, rounding="up"), "m projection_hidden_dim=4096 t", bias=False, merge=2
            ),
        ),
    ),
    **dict.fromkeys(("internvl", "internvl_chat", "qianfan_ocr"), (_INTERN_JOINT,)),
    "kimi_k25": (_MOON_JOINT,),
    "kimi_vl": (replace(_MOON_JOINT, rule=replace(_MOON_PIXELS, max_pixels=4096 * 196)),),
    "lfm2_vl": (
        Joint(
            "siglip2_vision_model",
            Native(16, 2, 65_536, 262_144, beyond=Tiles(512, 1024, 256, 10, least=2)),
            "m projector_hidden_size=2560 t",
            vectors="projector_use_layernorm?m projector_use_layernorm?m",
            merge=2,
        ),
    ),
    **dict.fromkeys(("lighton_ocr", "mistral3", "mistral_large4"), (_PIXTRAL_JOINT,)),
    "llama4": (
        Joint(
            "llama4_vision_model",
            _LLAMA4_TILES,
            "i projector_input_dim=4096 | projector_output_dim=4096 projector_output_dim=4096"
            " | vision_output_dim=7680 t",
            bias=False,
            merge=2,
        ),
    ),
    "llava": (Joint("clip_vision_model", Square(0, 0), "h t t"),),
    **dict.fromkeys(("llava_next", "llava_next_video"), (_NEXT_JOINT,)),
    "llava_onevision": (replace(_NEXT_JOINT, encoder="siglip_vision_model", rule=replace(_NEXT, grids=_SIX, kept=9)),),
    **dict.fromkeys(("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"), (_MINICPM,)),
    "minicpmv": (_RESAMPLED,),
    "mllama": (Joint("mllama_vision_model", _MLLAMA_TILES, "vision_output_dim=7680 t"),),
    "minimax_m3_vl": (
        Joint(
            "minimax_m3_vl_vision",
            _QWEN2_PIXELS,
            "4:h projector_hidden_size projector_hidden_size | 4*projector_hidden_size projector_hidden_size t",
            merge=2,
        ),
    ),
    "molmo2": (
        Joint(
            "molmo2_vision",
            Overlapping(378, 14, 2, 8, 8),
            "2*h h | 2*h h | 2*h h | h h | h adapter_config.intermediate_size=18944"
            " | h adapter_config.intermediate_size=18944 | adapter_config.intermediate_size=18944 t",
            bias=False,
            vectors="4*h",
            merge=2,
        ),
    ),
    "moss_transcribe_diarize": (replace(_WHISPER_JOINT, rule=Sound(50, 12.5, 30.0), chain="4*h t t", vectors="t t"),),
    **dict.fromkeys(
        ("muse_glimmer", "muse_spark"),
        (Joint("muse_glimmer_vision", _MUSE_PIXELS, "m 4096 4096 t", bias=False, merge=2),),
    ),
    **dict.fromkeys(
        ("nemotron_h_omni", "NemotronH_Nano_VL_V2"),
        (Joint("radio", replace(_UP_TO_12, edge=512, tokens=256), "m projector_hidden_size=4096 t", False, "m", 2),),
    ),
    "ovis2": (
        Joint("aimv2", _UP_TO_12, "m vocab_size=16384 t", bias=False, vectors="vocab_size=16384 vocab_size=16384"),
    ),
    "paddleocr_vl": (Joint("paddleocr_vl_vision", Native(14, 2, 147_384, 2_822_400), "m m t", vectors="h h", merge=2),),
    "paligemma": (Joint("siglip_vision_model", Square(0, 0), "h projection_dim"),),
    "phi3_v": (Joint("clip_large", _PHI3, "m t t", vectors="m m", merge=2, at="img_processor", own=True),),
    "phi4_multimodal": (_PHI4, _PHI4_AUDIO),
    "phi4mm": (
        replace(_PHI4, encoder="phi4_vision", at="embd_layer.image_embd_layer", own=True),
        replace(_PHI4_AUDIO, at="embd_layer.audio_embd_layer"),
    ),
    **dict.fromkeys(
        ("qwen2_5_omni", "qwen2_5_omni_thinker"),
        (
            _QWEN25_JOINT,
            replace(_WHISPER_JOINT, encoder="omni_2_5_audio", chain="h output_dim", vectors="2*output_dim"),
        ),
    ),
    "qwen2_5_vl": (_QWEN25_JOINT,),
    "qwen2_audio": (replace(_WHISPER_JOINT, rule=Sound(50, 25, 30.0, 30.0, silent=True)),),
    "qwen2_vl": (_QWEN2_JOINT,),
    "qwen3_asr": (replace(_WHISPER_JOINT, encoder="omni_3_audio", rule=_QWEN3_SOUND, chain="h h output_dim=3584"),),
    **dict.fromkeys(
        ("qwen3_omni_moe", "qwen3_omni_moe_thinker"),
        (
            _QWEN3_JOINT,
            replace(_WHISPER_JOINT, encoder="omni_3_audio", rule=_QWEN3_SOUND, chain="h h output_dim=3584"),
        ),
    ),
    **dict.fromkeys(("cosmos3_omni", "qwen3_vl", "qwen3_vl_moe"), (_QWEN3_JOINT,)),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen4_exp"), (_QWEN35_JOINT,)),
    "smolvlm": (_SMOL,),
    "step3p7": (
        Joint("step3p5_vision", Square(0, 169), "4:9*h 2*h | 18*h 4*h | 4*h t", bias=False, vectors="2*h 4*h"),
    ),
    "unlimited_ocr": (
        Joint("sam", replace(_OCR_SAM, most=32), "h", vectors="4718592", at="vision_config.sam_config", own=True),
        Joint(
            "clip_after_sam",
            replace(_OCR, most=32),
            "2*h t",
            vectors="t t",
            at="vision_config.encoder_config",
            own=True,
        ),
    ),
    "video_llava": (
        Joint("clip_vision_model", Square(0, 0), "h t t"),
        Joint("clip_vision_model", None, "h"),
    ),
    "video_llama_3": (Joint("video_llama_3_vision", Native(14, 1, 3_136, 1_003_520), "h t t"),),
    "vipllava": (Joint("clip_vision_model", Square(0, 0), "5*h t t", vectors="5*h 5*h"),),
    "voxtral": (replace(_WHISPER_JOINT, rule=Sound(50, 12.5, 30.0), chain="i t t", bias=False),),
    "voxtral_realtime": (
        Joint("voxtral_realtime", Sound(50, 12.5), "4*h t t", bias=False, at="audio_config", kind="audio"),
    ),
}
