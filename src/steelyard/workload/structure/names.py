"""What the name of a tensor says: where it stands in a model, and what its module does there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Place", "beside", "guesses", "place_of", "role_of", "torch_name"]

#: Longest number read as the index of a layer or an expert.
_DIGITS = 6
#: Last words of a name that belong to the storage of a module's weights: scales, offsets, packed forms.
_WEIGHTS = frozenset(("weight", "qweight", "weight_packed", "kernel", "embedding"))
_BESIDE = re.compile(
    r"(scales?|s?qzeros?|g_idx|weight_scale(_inv|_2|2)?|scale_inv|(in|out)put_scale|weight_shape|weight_zero_point"
    r"|weight_g_idx|absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*|[kv]_scale|scb|weight_format|biases"
    r"|zeros|meta|input_global_scale|weight_global_scale|activation_scale|perm|invperm|rope\.freqs|inv_freq)",
    re.I,
)
_BESIDE_END = re.compile(r"_(scales?|scale_inv|weight_scale(_inv|_2)?|weight_scale|input_scale|zero_points?)$")
_TOWER = re.compile(
    r"(^|[._])(vision|visual|video|audio|image|img|vit|vq\w*|siglip|clip|mm_\w+|multi_?modal\w*|projector\w*|connector|aligner"
    r"|speech|sound|perceiver|resampler|talker|token2wav|code2wav|patch_embed\w*|merger|generation_\w+|embed_vision|embed_audio|vocoder)(?!_moe|_experts)"
)
#: Experts and feed-forward blocks that only tokens of pictures visit.
_FOR_PICTURES = re.compile(r"(^|[._])(vision|visual|image|audio)_(moe|experts?|mlp|ffn)")
_LAYERS = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.([0-9]{1,6})\.")
_AHEAD = re.compile(r"(^|[._])(mtp\w*|nextn\w*|eagle\w*|medusa\w*|draft\w*)([._]|$)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands."""

    kind: str
    """``layer``, ``outside`` (of the layers), ``tower`` (of pictures or sound) or ``ahead`` (guesses more tokens)."""
    stack: str = ""
    """What comes before the number of its layer: one sequence of layers each."""
    layer: int = -1
    expert: int = -1
    """Its expert, where they are stored one by one."""
    path: str = ""
    """Its module inside the layer, without the expert's number."""
    ending: str = ""
    """``weight``, ``bias`` or empty; ``scale``: it belongs to the weights of its module, none of its own."""


def place_of(name: str) -> Place:
    """Where a tensor stands, by its name alone."""
    words = name.split(".")
    at = next((i for i, word in enumerate(words) if i and word.isdecimal() and len(word) <= _DIGITS), 0)
    if not at:
        return _place(name)
    layer, expert = int(words[at]), -1
    words[at] = "0"
    for i in range(at + 2, len(words)):
        if words[i].isdecimal() and len(words[i]) <= _DIGITS and "expert" in words[i - 1]:
            expert, words[i] = int(words[i]), "0"
            break
    like = _place(".".join(words))
    return Place(like.kind, like.stack, layer, expert, like.path, like.ending)


@lru_cache(maxsize=4096)
def _place(name: str) -> Place:
    """The same for every layer and expert."""
    words = name.split(".")
    ending = ""
    last = words[-1]
    if len(words) > 1 and last in _WEIGHTS:
        words, ending = words[:-1], "weight"
    elif len(words) > 1 and last == "bias":
        words, ending = words[:-1], "bias"
    elif len(words) > 1 and _BESIDE.fullmatch(last):
        words, ending = words[:-1], "scale"
    elif len(words) > 2 and words[-2] == "quant_state":
        words, ending = words[:-2], "scale"
    elif _BESIDE_END.search(last) and not last.startswith(("per_expert", "router")):
        words, ending = [*words[:-1], _BESIDE_END.sub("", last)], "scale"
    elif last.endswith("_blocks"):
        words, ending = [*words[:-1], last.removesuffix("_blocks")], "weight"
    at = next((i for i, word in enumerate(words) if i and word.isdecimal() and len(word) <= _DIGITS), 0)
    if not at:
        path = ".".join(words)
        kind = "tower" if _TOWER.search(path) else "ahead" if _AHEAD.search(path) else "outside"
        return Place(kind, path=path, ending=ending)
    stack, rest, expert = ".".join(words[:at]), words[at + 1 :], -1
    for i, word in enumerate(rest[1:], 1):
        if word.isdecimal() and len(word) <= _DIGITS and "expert" in rest[i - 1]:
            expert, rest = int(word), rest[:i] + rest[i + 1 :]
            break
    kind = "tower" if _TOWER.search(stack) else "ahead" if _AHEAD.search(stack) else "layer"
    if kind == "layer" and _FOR_PICTURES.search(".".join(rest)):
        kind = "tower"
    return Place(kind, stack, int(words[at]), expert, ".".join(rest), ending)


def beside(name: str) -> bool:
    """Whether a name has words of towers at all: quicker than :func:`place_of`."""
    return _TOWER.search(name) is not None or _FOR_PICTURES.search(name) is not None


def guesses(name: str, depth: int = 0) -> bool:
    """Whether a tensor belongs to what guesses more tokens: by its words, or as a layer beyond ``depth`` (0: any)."""
    if depth and (found := _LAYERS.search(name)) is not None:
        return int(found[1]) >= depth
    return _AHEAD.search(name) is not None and place_of(name).kind == "ahead"


#: What a module does, by its path inside a layer, the first that is found. The groups ``expert``, ``shared``, ``mlp``
#: are feed-forward blocks; other modules mix tokens and are told apart by their first word.
_FEED: tuple[tuple[str, str, str], ...] = (
    (
        r"(e_score_correction_bias|correction_bias|router_bias|(^|\.)expert_bias|exp_probs_b|score_bias)$",
        "router",
        "bias",
    ),
    (r"shared_?experts?_?gate$|share_expert_gate$|shared_experts?\.(gate|router)$", "shared", "gate"),
    (r"latent_proj$|(^|\.)latent_(in|out|up|down)|(pre|post)_expert_proj$", "expert", "latent"),
    (r"per_expert_scale$|router\.scale$", "router", "scale"),
    (r"(^|[._])(shared?_?(experts?|mlp|ffn)|shexp)", "shared", ""),
    (r"(^|[._])experts?([._]|$)|_exps$|block_sparse_moe\.(in|out)put_linear$|switch_mlp", "expert", ""),
    (r"(^|\.)(router|routers)(\.|$)|(^|\.)gate\.(wg|classifier|linear|layer|weight|proj)$", "router", "router"),
    (r"(mlp|ffn|feed_forward|moe\w*|mixer|block)\.(gate|wg|gate_inp)$", "router", "router"),
    (r"^(mlps?|\w+_mlp|mlp_(block|layer|moe)|ffn|ff|feed_?forward|dense|moe\w*|channel_mix\w*)(\.|$)", "mlp", ""),
    (
        r"(^|\.)(fc1|fc2|fc_in|fc_out|c_fc|dense_h_to_4h|dense_4h_to_h|w1|w2|w3|up_proj|down_proj|gate_up_proj)$",
        "mlp",
        "",
    ),
    (r"^(linear_fc[12]|wi(_[01])?|ff_proj|ff_out|gate_proj)$", "mlp", ""),
)
_DOWN = re.compile(
    r"(^|[._])(down\w*|w2|fc2|c_proj|dense_4h_to_h|wo|fc_out|output_linear|ff_out|linear_fc2|linear_?2|lin2|out_proj|proj_down"
    r"|w_out|output)(_exps|_shexp|_weight|_proj)?(\.dense)?$",
    re.I,
)
_NORM = re.compile(r"norm|(^|[._])ln(_|\d|$)|_ln$|layernorm|rms", re.I)
#: What a module of a mixing block does, by the last word of its path.
_MIXES: Mapping[str, str] = {
    "q": r"(to_)?q(uery)?(_proj|_lin|_linear)?|wq|linear_q",
    "k": r"(to_)?k(ey)?(_proj|_lin|_linear)?|wk|linear_k",
    "v": r"(to_)?v(alue)?(_proj|_lin|_linear)?|wv|linear_v",
    "qkv": r"qkv(_proj)?|c_attn|query_key_value|w_?qkv|w_?pack|att_proj|in_proj_qkv|fused_qkv|linear_qkv",
    "kv": r"kv_proj|wkv|key_value|kv|c_kv",
    "o": r"o(_proj)?|out(_proj|_lin)?|wo|dense|c_proj|output(_proj)?|to_out|proj(_out)?|attn_out|linear_(out|proj)",
    "q_a": r"q_a(_proj)?|wq_a|q_down(_proj)?|q_compress",
    "q_b": r"q_b(_proj)?|wq_b|q_up(_proj)?",
    "kv_a": r"kv_a(_proj(_with_mqa)?|_mqa)?|wkv_a|kv_down(_proj)?",
    "kv_b": r"kv_b(_proj)?|wkv_b|kv_up(_proj)?",
    "k_b": r"k_b(_proj)?",
    "v_b": r"v_b(_proj)?",
    "q_a_norm": r"q_a_(layer)?norm|q_lora_norm|q_latent_norm",
    "kv_a_norm": r"kv_a_(layer)?norm|kv_(layer)?norm|kv_lora_norm|kv_latent_norm",
    "q_norm": r"q_(layer)?norm|query_(layer)?norm|q_ln|norm_q|q_rms",
    "k_norm": r"k_(layer)?norm|key_(layer)?norm|k_ln|norm_k|k_rms",
    "v_norm": r"v_(layer)?norm",
    "o_a": r"o_a(_proj)?|wo_a",
    "o_b": r"o_b(_proj)?|wo_b",
    "gate": r"g(_proj)?|gate(_proj)?|output_gate|attn_gate|out_gate|z_proj|wg|ogate_preact",
    "igate": r"igate_preact",
    "fgate": r"fgate_preact",
    "branch": r"linear_[xy]",
    "lru_gates": r"(input|recurrent)_gate_weight",
    "lru_bias": r"(input|recurrent)_gate_bias",
    "lru_decay": r"recurrent_param|a_param",
    "sinks": r"(attention_|attn_)?sinks?(_bias)?",
    "qkvz": r"in_proj_qkvz",
    "z": r"in_proj_z",
    "ba": r"in_proj_ba|ssm_ba",
    "b": r"in_proj_b|b_proj|beta(_proj)?",
    "a": r"in_proj_a|a_proj|alpha(_proj)?",
    "in": r"in(_proj)?",
    "conv": r"(q_|k_|v_|qkv_)?conv(_?1d|_layer)?(\.conv)?|conv_dw",
    "x": r"x_proj",
    "dt": r"dt(_proj)?",
    "A": r"A(_log)?|a_log",
    "D": r"D",
    "dt_bias": r"dt_bias",
    "norm": r"(o_|out_|gated_|multihead_)?norm|o_layernorm|group_norm",
    "f_a": r"f_a(_proj)?",
    "f_b": r"f_b(_proj)?|f_proj",
    "g_a": r"g_a(_proj)?",
    "g_b": r"g_b(_proj)?",
    "dt_norm": r"dt_(layer)?norm",
    "B_norm": r"b_(layer)?norm",
    "C_norm": r"c_(layer)?norm",
}
_INDEX: Mapping[str, str] = {
    "index_q": r"wq_b|wq|q_proj|q_b_proj|q|attn_q_b|linear_wq_b",
    "index_k": r"wk|k_proj|k|attn_k|linear_wk",
    "index_w": r"weights_proj|w_proj|proj|weights|linear_weights_proj",
    "index_norm": r"k_norm|norm|k_layernorm",
}
#: Roles that only the parts of a mixing block itself have.
_ALONE = ("q", "k", "v", "kv", "qkv", "o", "gate", "in")
#: A module that is all of the module around it.
_INNER = re.compile(r"^\w+\.(attention|attn|self_attn|self_attention|self|inner_attn|core|impl)\.\w+$")
#: What makes the entries of a compressed cache.
_ENTRIES: Mapping[str, str] = {
    "kv": r"kv_proj|wkv",
    "gate": r"gate_proj|wgate",
    "position": r"position_bias|ape",
    "norm": r"(kv_)?norm",
}
_FEEDS = tuple((re.compile(words, re.I), group, role) for words, group, role in _FEED)
_MIX = tuple((role, re.compile(words, 0 if role in "AD" else re.I)) for role, words in _MIXES.items())
_ENTRY = tuple((role, re.compile(words)) for role, words in _ENTRIES.items())
_IDX = tuple((role, re.compile(words)) for role, words in _INDEX.items())


@lru_cache(maxsize=4096)
def role_of(path: str) -> tuple[str, str]:
    """What a module inside a layer is: its block (``expert``, ``shared``, ``mlp``, ``router``, ``norm``, or the first
    word of its path) and its role there; ``""``: nothing known.
    """
    first, _, _ = path.partition(".")
    last = path.rpartition(".")[2]
    mixes = re.search(r"attn|attention|mamba|ssm|conv(?!_norm)|rec\b|recurrent|temporal", first) is not None
    if not mixes or "expert" in path:
        for words, group, role in _FEEDS:
            if words.search(path):
                if group == "mlp" and (_NORM.search(last) or (first == "mixer" and last == "gate_proj")):
                    return (group, "norm") if "." in path else ("norm", "")
                return group, role or ("down" if _DOWN.search(path) else "up")
    if "." not in path and _NORM.search(path):
        return "norm", ""
    if "compressor" in path:
        found = next((role for role, words in _ENTRY if words.fullmatch(last)), "")
        if found:
            return first, f"{'index' if 'index' in path else 'entry'}_{found}"
    if "index" in path:
        return first, next((role for role, words in _IDX if words.fullmatch(last)), "")
    found = next((role for role, words in _MIX if words.fullmatch(last)), "")
    if (
        path.count(".") > 1 and not _INNER.search(path) and found in ("q", "k", "v", "kv", "qkv", "o", "gate", "in")
    ):  # a part of a part
        found = ""
    if not found and _NORM.search(last):
        return "norm", ""
    return first, found


#: GGUF's names of what stands in a layer, as a module's path.
_GGUF: Mapping[str, str] = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_out": "self_attn.o_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.k_b_proj",
    "attn_v_b": "self_attn.v_b_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_gate": "self_attn.gate_proj",
    "attn_sinks": "self_attn.sinks",
    "attn_norm": "input_layernorm",
    "attn_norm_2": "input_layernorm_2",
    "ffn_norm": "post_attention_layernorm",
    "post_attention_norm": "attention_post_norm",
    "post_ffw_norm": "feedforward_post_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ffn_gate_inp": "mlp.router",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "exp_probs_b": "mlp.e_score_correction_bias",
    "ssm_in": "mamba.in_proj",
    "ssm_conv1d": "mamba.conv1d",
    "ssm_x": "mamba.x_proj",
    "ssm_dt": "mamba.dt_proj",
    "ssm_a": "mamba.A_log",
    "ssm_d": "mamba.D",
    "ssm_norm": "mamba.norm",
    "ssm_out": "mamba.out_proj",
    "ssm_ba": "mamba.in_proj_ba",
    "ssm_beta": "mamba.in_proj_b",
    "ssm_alpha": "mamba.in_proj_a",
    "shortconv": "conv",
    "indexer": "self_attn.indexer",
}
_GGUF_ENDS: Mapping[str, str] = {
    "output": "lm_head",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "position_embd": "embed_positions",
}


def torch_name(name: str) -> str:
    """The name of a GGUF tensor in the manner of PyTorch."""
    block, _, rest = name.partition(".")
    if block != "blk":
        ends = {
            "output": "lm_head",
            "token_embd": "embed_tokens",
            "output_norm": "norm",
            "position_embd": "embed_positions",
        }
        return f"{ends.get(block, block)}.{rest}"
    layer, _, rest = rest.partition(".")
    module, _, ending = rest.rpartition(".")
    module, ending = (module, ending) if module else (ending, "weight")
    if module.startswith("nextn"):
        return f"mtp.{layer}.{module}.{ending}"
    known = _GGUF.get(module)
    if known is None:
        outer, _, inner = module.partition(".") if "." in module else module.partition("_")
        known = f"{_GGUF[outer]}.{inner}" if outer in ("indexer", "shortconv") else module
    return f"layers.{layer}.{known}.{ending}"
