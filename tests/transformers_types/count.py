"""Counts the language models of transformers on the meta device, for a config of few layers of every type.

``python -m tests.transformers_types.count [TYPE ...]`` (where torch and transformers are installed) writes
``counted.json`` beside this file: of each type the keys of its config that our answer depends on and the parameters
that transformers builds from it, or why the type is refused; and the page of types from it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from steelyard.errors import SteelyardError
from steelyard.workload.families import read_config
from tests.transformers_types.years import YEARS, YOUNG

COUNTED = Path(__file__).with_name("counted.json")
PAGE = Path(__file__).parents[2] / "docs" / "methods" / "model_types.md"
MAPPINGS = ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "CAUSAL_LM")
#: Layers of the configs: enough for every pattern of windows, dense first layers and shared caches.
DEPTH = 8
#: Keys of types whose defaults build no model or lack what published configs state.
_QWEN4: Mapping[str, Any] = {
    "num_hidden_layers": DEPTH,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 16,
    "eos_token_id": 1,
    "ple_layer_ids": [2],
    "ngram_vocab_size_base": 100_000,
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "deepseek_ocr2": {"num_experts_per_tok": 6, "mlp_layer_types": ["dense"] + ["sparse"] * (DEPTH - 1)},
    "deepseek_v2": {"num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "dory": {"n_input_layers": 2, "n_recurrent_layers": 4, "n_output_layers": 2},
    "dots1": {
        "n_routed_experts": 16,
        "n_shared_experts": 2,
        "num_experts_per_tok": 4,
        "first_k_dense_replace": 1,
        "head_dim": 128,
    },
    "gemma3n": {"num_kv_shared_layers": 2},
    "gemma3n_text": {"num_kv_shared_layers": 2},
    "gemma4": {"num_kv_shared_layers": 2, "use_double_wide_mlp": True},
    "gemma4_text": {
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "num_experts": 16,
        "top_k_experts": 4,
        "moe_intermediate_size": 256,
        "hidden_size_per_layer_input": 0,
    },
    "glm4_moe": {"head_dim": 128},
    "glm4v_moe": {"head_dim": 128},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 8, "moe_topk": 2},
    "hunyuan_vl": {"head_dim": 128},
    "laguna": {"num_attention_heads_per_layer": [48, 64] * (DEPTH // 2), "layer_types": None},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "qwen4_exp_text": _QWEN4,
    "qwen3_omni_moe_thinker": {"head_dim": 128, "num_attention_heads": 32},
    "step3p7": {
        "layer_types": ["full_attention", "sliding_attention"] * (DEPTH // 2),
        "num_sliding_attention_heads": 96,
        "sliding_window": 512,
    },
}
#: The whole of configs that the class does not fill.
_FULL: Mapping[str, Any] = {
    "num_hidden_layers": DEPTH,
    "layer_types": ["full_attention"] * DEPTH,
    "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
}
WHOLE: Mapping[str, Mapping[str, Any]] = {
    "aya_vision": {
        "text_config": {"model_type": "cohere2", "num_hidden_layers": DEPTH},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "num_attention_heads": 16},
    },
    "chameleon": {"num_hidden_layers": DEPTH, "vocabulary_map": {"<image>": 8711}},
    "cohere_compass_text": _FULL,
    "dbrx": {"n_layers": DEPTH, "attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0}},
    "emu3": {
        "text_config": {"model_type": "emu3_text_model", "num_hidden_layers": DEPTH},
        "vocabulary_map": {"<image>": 1},
    },
    "granite4_vision": {
        "text_config": {"model_type": "granite", "num_hidden_layers": DEPTH},
        "deepstack_layer_map": [],
        "spatial_target_layers": [],
        "downsample_rate": "1/2",
    },
    "lfm2_moe": {
        "num_hidden_layers": DEPTH,
        "layer_types": ["conv", "full_attention"] * (DEPTH // 2),
        "num_dense_layers": 2,
    },
    "fun_asr_nano": {"text_config": {"model_type": "qwen3", "num_hidden_layers": DEPTH, "hidden_size": 1024}},
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "num_hidden_layers": 4,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        }
    },
    "gemma4_unified_assistant": {"text_config": {"model_type": "gemma4_unified_text", "num_hidden_layers": 4}},
    "gpt_neo": {"num_layers": DEPTH, "attention_types": [[["global", "local"], DEPTH // 2]]},
    "qwen3_omni_moe": {
        "thinker_config": {
            "text_config": {
                "model_type": "qwen3_omni_moe_text",
                "num_hidden_layers": DEPTH,
                "head_dim": 128,
                "num_attention_heads": 32,
            }
        }
    },
    "moshi": {"num_hidden_layers": DEPTH, "audio_encoder_config": {}},
    "qwen4_exp": {"text_config": {"model_type": "qwen4_exp_text", **_QWEN4}},
    "zamba2": {
        "num_hidden_layers": DEPTH,
        "layers_block_type": ["mamba", "hybrid"] * (DEPTH // 2),
        "num_mem_blocks": 2,
        "use_shared_attention_adapter": True,
    },
}
#: Types whose whole model is not the class of the mappings.
CLASSES: Mapping[str, str] = {
    "moshi": "MoshiForConditionalGeneration",
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
}
#: Parameters outside the language model, by a part of their name.
_TOWERS = re.compile(
    r"(^|\.)(vision(?!_moe|_experts)|visual|audio|video_tower|image_|img_|vit|multi_modal_proj|multimodal_proj|mm_proj"
    r"|connector|embed_vision|embed_audio|aligner|gen_|generation_|vqmodel|qformer|query_tokens|projector|talker"
    r"|token2wav|code2wav|mtp|perceiver|merger|pixel|sam_model|encoder_proj|language_projection|acoustic|semantic"
    r"|prediction_head|protein_encoder|embed_tokens_extend|density_router|codec_model|spatial_projectors|resampler|dit|embed_action|action_|high_res|view_separator|diffusion_head|word_timestamp\w*)"
    r"|lora_"
)
#: Types whose tower is the encoder that we read.
_READ_TOWERS = ("pp_formulanet",)
#: Types whose tower is called the encoder.
_SPEECH = ("granite_speech", "granite_speech_plus")
_INNER = ("text_config", "thinker_config", "vlm_config", "attn_config", "ffn_config")
#: What transformers allocates beyond the published weights: the gate and up weights of choices that are no expert.
EXCUSED = {"longcat_flash": "identity experts are allocated"}


def types() -> dict[str, Any]:
    """``model_type`` -> the class that holds its language model."""
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    found: dict[str, Any] = {}
    for mapping in MAPPINGS:
        names = getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES")
        classes = getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING")
        for name in names:
            if name not in found:
                try:
                    chosen = classes[CONFIG_MAPPING[name]]
                except (KeyError, ImportError, AttributeError):
                    continue
                found[name] = chosen[0] if isinstance(chosen, tuple) else chosen
                if name in CLASSES:
                    found[name] = getattr(transformers, CLASSES[name])
    return found


def small(model_type: str) -> Any:
    """A config of few layers: class defaults else."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    if model_type in WHOLE:
        return kind(**WHOLE[model_type])
    settings = {**SETTINGS.get(model_type, {})}
    default = kind()
    text = getattr(default, "text_config", None)
    owner = default if text is None else text
    if "num_hidden_layers" in owner.to_dict():
        settings["num_hidden_layers"] = DEPTH
    elif "num_layers" in owner.to_dict():
        settings["num_layers"] = DEPTH
    try:
        return kind(**settings) if text is None else kind(text_config=type(text)(**settings).to_dict())
    except ValueError:  # lists of the default config are of its own depth
        return default


def count(config: Any, model_class: Any) -> int:
    """Parameters of the language model that transformers builds from ``config``, tied weights once."""
    import torch

    with torch.device("meta"):
        model = model_class._from_config(config) if hasattr(model_class, "_from_config") else model_class(config)
    model.tie_weights()
    sizes = {name: p.shape for name, p in model.named_parameters()}
    sizes |= {name: b.shape for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")}
    tower = re.compile(_TOWERS.pattern + r"|^(model\.)?encoder\.") if config.model_type in _SPEECH else _TOWERS
    whole = config.model_type in _READ_TOWERS
    return sum(math.prod(shape) for name, shape in sizes.items() if whole or not tower.search(name))


def _ours(config: Mapping[str, Any]) -> int:
    return read_config(config).parameters()


def needed(
    config: Mapping[str, Any],
    answer: Callable[[Mapping[str, Any]], Any],
    inner: Callable[[str], bool] = _INNER.__contains__,
) -> dict[str, Any]:
    """The keys an answer depends on: every other can go without changing it; ``inner`` tables are taken key by key."""
    wanted, kept = answer(config), dict(config)
    for path in list(_paths(kept, inner)):
        without = json.loads(json.dumps(kept))
        *outer, last = path
        table = without
        for key in outer:
            table = table[key]
        del table[last]
        try:
            if answer(without) == wanted:
                kept = without
        except SteelyardError:
            continue
    return kept


def _paths(
    config: Mapping[str, Any], inner: Callable[[str], bool], outer: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value and inner(key):
            yield from _paths(value, inner, (*outer, key))
        else:
            yield (*outer, key)


def main(names: list[str]) -> None:
    """Count all types, or those named, and write the table."""
    table = json.loads(COUNTED.read_text()) if COUNTED.exists() else {"read": {}, "uncounted": {}, "refused": {}}
    for name, model_class in sorted(types().items()):
        if names and name not in names:
            continue
        for rows in table.values():
            rows.pop(name, None)
        try:
            config = small(name)
            stated = json.loads(json.dumps(config.to_dict(), default=str))
        except Exception as error:
            table["refused"][name] = f"transformers builds no default config: {error}"[:100].strip()
            continue
        try:
            ours = _ours(stated)
        except SteelyardError as error:
            unknown = "unknown model_type" in str(error)
            table["refused"][name] = "no family describes it" if unknown else str(error)[:300]
            print(name, "refused", table["refused"][name])
            continue
        try:
            theirs = count(config, model_class)
        except Exception as error:
            print(name, "not counted:", type(error).__name__, str(error)[:100])
            table["uncounted"][name] = ours
            continue
        off = ours / theirs - 1
        print(name, ours, theirs, f"{off:+.4%}" if abs(off) > 1e-6 else "")
        table["read"][name] = {
            "config": needed(stated, _ours),
            "parameters": ours if name in EXCUSED else theirs,
        }
    entries = {k: dict(sorted(v.items())) for k, v in table.items()}
    lines = [
        f'"{kind}": {{\n' + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in rows.items()) + "\n}"
        for kind, rows in entries.items()
    ]
    COUNTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    PAGE.write_text(page(entries))


def page(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of types, in Markdown."""
    reasons: dict[str, list[str]] = {}
    for name, reason in table["refused"].items():
        reasons.setdefault(reason.partition("is not read: ")[2] or reason, []).append(name)
    rows = [f"| {reason} | {', '.join(f'`{n}`' for n in names)} |" for reason, names in reasons.items()]
    read = ", ".join(f"`{name}`" for name in table["read"])
    young = {name for name, year in YEARS.items() if year >= YOUNG}
    left = young & set(table["refused"])
    uncounted = ", ".join(f"`{name}`" for name in table["uncounted"])
    return (
        "# Model types of transformers\n\n"
        "Written by `python -m tests.transformers_types.count` against transformers 5.24: every type of its causal,\n"
        "sequence-to-sequence, image-text and speech mappings. The parameters of the language model are those that\n"
        "transformers builds from the same config, within 0.1 %; towers are another matter.\n\n"
        f"Of {len(young)} types whose code was written in {YOUNG} or later, {len(young) - len(left)} are read "
        f"({1 - len(left) / len(young):.1%}); refused are\n{', '.join(f'`{n}`' for n in sorted(left))}.\n\n"
        f"## Read: {len(table['read'])}\n\n{read}\n\n"
        f"Read as well, though transformers builds no model from the default config: {uncounted}.\n\n"
        f"## Refused: {len(table['refused'])}\n\n| why | types |\n|---|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
